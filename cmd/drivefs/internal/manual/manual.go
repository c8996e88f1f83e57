// Package manual answers one question: what do the manual pages say? They are made
// of the verbs' own words, when drivefs is built; only the order of flags is
// wanted by the program itself.
package manual

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/version"
)

// Write writes the pages of root's verbs below dir/man, and the completions of
// three shells into dir. The same verbs make the same files.
func Write(root *cobra.Command, dir string) error {
	pages := map[string][]byte{"man5/drivefs.toml.5": settingsPage(), "man8/mount.drivefs.8": helperPage()}
	verbPages(root, pages)
	for name, page := range pages {
		path := filepath.Join(dir, "man", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, page, 0o644); err != nil {
			return err
		}
	}
	for name, write := range map[string]func(string) error{
		"drivefs.bash": func(f string) error { return root.GenBashCompletionFileV2(f, true) },
		"_drivefs":     root.GenZshCompletionFile,
		"drivefs.fish": func(f string) error { return root.GenFishCompletionFile(f, true) },
	} {
		if err := write(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// A page is a manual page in roff, man(7).
type page struct{ bytes.Buffer }

func newPage(name, section, about string) *page {
	p := &page{}
	v, _, _ := version.Build()
	fmt.Fprintf(p, ".TH \"%s\" \"%s\" \"\" \"drivefs %s\" \"drivefs\"\n", strings.ToUpper(name), section, v)
	p.head("NAME")
	p.text(name + " - " + about)
	return p
}

func (p *page) head(title string) { fmt.Fprintf(p, ".SH %s\n", title) }

// roff takes text as it stands.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`).Replace(s)
	return regexp.MustCompile(`(?m)^\.`).ReplaceAllString(s, `\&.`)
}

func (p *page) text(s string) { p.WriteString(roff(s) + "\n") }

func (p *page) paragraphs(s string) {
	for i, part := range strings.Split(strings.TrimSpace(s), "\n\n") {
		if i > 0 {
			p.WriteString(".PP\n")
		}
		p.text(part)
	}
}

func (p *page) item(tag, s string) { fmt.Fprintf(p, ".TP\n%s\n%s\n", tag, roff(s)) }

func (p *page) verbatim(s string) {
	fmt.Fprintf(p, ".EX\n%s\n.EE\n", roff(strings.TrimRight(s, "\n")))
}

func verbPages(c *cobra.Command, pages map[string][]byte) {
	if c.Hidden {
		return
	}
	name := strings.ReplaceAll(c.CommandPath(), " ", "-")
	p := newPage(name, "1", c.Short)
	p.head("SYNOPSIS")
	p.text(c.UseLine())
	p.head("DESCRIPTION")
	p.paragraphs(firstOf(c.Long, c.Short))
	if c.HasAvailableSubCommands() {
		p.head("VERBS")
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() {
				p.item(`\fB`+roff(sub.Name())+`\fR`, sub.Short)
			}
		}
	}
	if c.HasAvailableLocalFlags() {
		p.head("OPTIONS")
		for _, s := range Sections(c.LocalFlags()) {
			if s.Title != "" {
				fmt.Fprintf(p, ".SS %s\n", s.Title)
			}
			s.Flags.VisitAll(func(f *pflag.Flag) { p.item(flagTag(f), flagText(f)) })
		}
	}
	p.head("EXAMPLES")
	p.verbatim(c.Example)
	p.common()
	p.head("SEE ALSO")
	see := []string{`\fBdrivefs\fR(1)`, `\fBdrivefs.toml\fR(5)`, `\fBmount.drivefs\fR(8)`}
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			see = append(see, `\fB`+roff(name+"-"+sub.Name())+`\fR(1)`)
		}
	}
	p.WriteString(strings.Join(see, ", ") + "\n")
	pages["man1/"+name+".1"] = p.Bytes()
	for _, sub := range c.Commands() {
		verbPages(sub, pages)
	}
}

func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

func flagTag(f *pflag.Flag) string {
	tag := `\fB` + roff("--"+f.Name) + `\fR`
	if f.Shorthand != "" {
		tag = `\fB` + roff("-"+f.Shorthand) + `\fR, ` + tag
	}
	meta, _ := pflag.UnquoteUsage(f)
	if s := config.Find(f.Name); s != nil {
		meta = s.Meta
	}
	if meta != "" && f.Value.Type() != "bool" {
		tag += ` \fI` + roff(meta) + `\fR`
	}
	return tag
}

func flagText(f *pflag.Flag) string {
	_, text := pflag.UnquoteUsage(f)
	if s := config.Find(f.Name); s != nil && s.Default != "" && s.Meta != "" && f.DefValue != "" {
		text += " (default " + f.DefValue + ")"
	}
	return text
}

// common is what every page says.
func (p *page) common() {
	p.head("EXIT STATUS")
	for _, e := range exitTexts {
		p.item(fmt.Sprint(e.code), e.text)
	}
	p.head("FILES")
	for _, f := range fileTexts {
		p.item(`\fI`+roff(f[0])+`\fR`, f[1])
	}
	p.head("ENVIRONMENT")
	p.item(`\fBDRIVEFS_\fR\fINAME\fR`, "What the flag --name says, in capitals and with _ for -: DRIVEFS_CACHE_DISK is --cache-disk. A flag wins over it, and it over the configuration.")
	p.item(`\fBXDG_CONFIG_HOME, XDG_STATE_HOME, XDG_CACHE_HOME, XDG_RUNTIME_DIR\fR`, "Other places for the files above.")
	p.item(`\fBNO_COLOR\fR`, "No colours, if it is not empty.")
}

func settingsPage() []byte {
	p := newPage("drivefs.toml", "5", "the configuration of drivefs")
	p.head("SYNOPSIS")
	p.text("~/.config/drivefs/config.toml, or /etc/drivefs/config.toml for mounts of the machine")
	p.head("DESCRIPTION")
	p.paragraphs("One table a profile, with the names of the flags as keys; [default] is the profile that counts when none is named. " +
		"Unknown keys and values that cannot be are errors that name their line.")
	p.head("EXAMPLE")
	p.verbatim("[default]\nclient-id     = \"amzn1.application-oa2-client.…\"\nclient-secret = \"…\"\ncache-disk    = \"50GiB\"\n\n[work]\nread-only = true")
	p.head("KEYS")
	for _, s := range config.Settings {
		if s.Name == "profile" || s.Group&config.Serve != 0 {
			continue
		}
		meta, text := s.Meta, s.Usage
		if meta == "" {
			meta = "true|false"
		}
		if d := s.ShownDefault(); d != "" {
			text += " (default " + d + ")"
		}
		p.item(`\fB`+roff(s.Name)+`\fR = \fI`+roff(meta)+`\fR`, text)
	}
	p.head("SEE ALSO")
	p.WriteString("\\fBdrivefs\\fR(1), \\fBdrivefs\\-mount\\fR(1), \\fBdrivefs\\-config\\fR(1)\n")
	return p.Bytes()
}

func helperPage() []byte {
	p := newPage("mount.drivefs", "8", "mount Amazon Drive by mount(8) and fstab(5)")
	p.head("SYNOPSIS")
	p.text("mount.drivefs PROFILE MOUNTPOINT [-o OPTION[,OPTION=VALUE]...]")
	p.head("DESCRIPTION")
	p.paragraphs("Called by mount(8) for the type drivefs. It is drivefs mount --background --profile PROFILE; options are its flags, with _ for - too, " +
		"and mount(8)'s own words.\n\nAs root it goes by /etc/drivefs, /var/lib/drivefs and /var/cache/drivefs, at boot and by sudo alike.")
	p.head("EXAMPLES")
	p.text("A line of /etc/fstab:")
	p.verbatim("default  /home/me/Drive  drivefs  _netdev,nofail,x-systemd.automount,allow_other,uid=1000,gid=1000  0 0")
	p.common()
	p.head("SEE ALSO")
	p.WriteString("\\fBdrivefs\\-mount\\fR(1), \\fBdrivefs.toml\\fR(5), \\fBfstab\\fR(5), \\fBmount\\fR(8)\n")
	return p.Bytes()
}
