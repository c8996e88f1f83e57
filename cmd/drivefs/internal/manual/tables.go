package manual

import (
	"slices"

	"github.com/spf13/pflag"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/exit"
)

// exitTexts say what the exit codes mean.
var exitTexts = []struct {
	code int
	text string
}{
	{exit.Done, "Done."},
	{exit.Failed, "Failed."},
	{exit.Usage, "Bad usage or configuration, or a mountpoint or state directory that will not do."},
	{exit.Login, "A login is needed."},
	{exit.NotMounted, "Not mounted."},
	{exit.Unreachable, "The drive cannot be reached."},
	{exit.Pending, "Uploads are pending; they are kept and go on at the next mount."},
}

// fileTexts say what is where.
var fileTexts = [][2]string{
	{"~/.config/drivefs/config.toml", "Configuration, drivefs.toml(5)."},
	{"~/.config/drivefs/PROFILE.token.json", "The account's token; secret."},
	{"~/.local/state/drivefs/PROFILE/", "What is known of the drive, what it does not have yet, and the log of mounts in the background."},
	{"~/.cache/drivefs/PROFILE/", "Contents of files read lately; may be deleted at any time."},
	{"$XDG_RUNTIME_DIR/drivefs/", "Control sockets of mounts."},
	{"/etc/drivefs, /var/lib/drivefs, /var/cache/drivefs, /run/drivefs", "The same for mounts of the machine: without a home, and by mount(8) as root."},
}

// Section is flags that belong together.
type Section struct {
	Title string
	Flags *pflag.FlagSet
}

// Sections parts flags by what they are about, those of a verb alone first.
func Sections(all *pflag.FlagSet) (parts []Section) {
	all.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		title := ""
		if s := config.Find(f.Name); s != nil && f.Annotations[config.Annotation] != nil {
			title = s.Section()
		}
		i := slices.IndexFunc(parts, func(p Section) bool { return p.Title == title })
		if i < 0 {
			i = len(parts)
			flags := pflag.NewFlagSet("", pflag.ContinueOnError)
			flags.SortFlags = false
			parts = append(parts, Section{title, flags})
		}
		parts[i].Flags.AddFlag(f)
	})
	slices.SortStableFunc(parts, func(a, b Section) int { return config.SectionOrder(a.Title) - config.SectionOrder(b.Title) })
	return parts
}
