package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/mountd"
)

func newMount(p *program) *cobra.Command {
	var options []string
	cmd := &cobra.Command{
		Use:   "mount [flags] MOUNTPOINT",
		Short: "Mount the drive; stays in the foreground unless --background",
		Long: "Mount the drive of a profile. In the foreground, Ctrl-C waits for pending uploads and unmounts; a\n" +
			"second one leaves them for the next mount. What is deleted is moved to the drive's trash.\n\n" +
			"Every flag is also a key of the profile's table in the configuration file, and a variable: --cache-disk\n" +
			"is cache-disk = \"20GiB\" and DRIVEFS_CACHE_DISK. A flag wins over a variable, a variable over the file.",
		Example: "  drivefs mount --background --cache-disk 20GiB ~/Drive",
		Args:    takes(1, "MOUNTPOINT"),
	}
	flags := config.Register(cmd.Flags(), config.Which|config.Account|config.Mount|config.Logging)
	cmd.Flags().StringArrayVarP(&options, "options", "o", nil, "the same as `opt,opt=value`, as in fstab; mount(8)'s own words are accepted")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		err := flags.Options(options)
		var c *config.Config
		if err == nil {
			c, err = flags.Load(p.env)
		}
		if err == nil {
			err = runMount(cmd.Context(), p, c, args[0])
		}
		if err != nil {
			return fmt.Errorf("mount: %w", err)
		}
		return nil
	}
	return cmd
}

func runMount(ctx context.Context, p *program, c *config.Config, mountpoint string) error {
	if c.Background {
		if ready := mountd.ReadyPipe(); ready != nil {
			return mountd.RunBackground(ctx, mountd.Options{Config: c, Mountpoint: mountpoint, Stderr: p.stderr}, ready)
		}
		return mountd.Start(ctx, c)
	}
	return mountd.Run(ctx, mountd.Options{Config: c, Mountpoint: mountpoint, Stderr: p.stderr, Ready: func(mountpoint string) {
		fmt.Fprintf(p.stdout, "mounted %s on %s\n", c.Profile, mountpoint)
	}})
}

// mountHelperArgs makes a command line of ours from mount(8)'s call of its
// helper: mount.drivefs SOURCE MOUNTPOINT [-sfnv] [-N NS] [-o OPTIONS] [-t TYPE].
func mountHelperArgs(args []string) ([]string, error) {
	var places, options []string
	for rest := args[1:]; len(rest) > 0; rest = rest[1:] {
		switch arg := rest[0]; {
		case arg == "-o" && len(rest) > 1:
			options = append(options, "-o", rest[1])
			rest = rest[1:]
		case (arg == "-t" || arg == "-N") && len(rest) > 1:
			rest = rest[1:]
		case arg == "-n" || arg == "-v" || arg == "-s":
			// without mtab, verbosely, tolerating options: nothing to do
		case len(arg) > 1 && arg[0] == '-':
			return nil, fail(exitUsage, "mount.drivefs: unknown flag %s", arg)
		default:
			places = append(places, arg)
		}
	}
	if len(places) != 2 {
		return nil, fail(exitUsage, "mount.drivefs: expected SOURCE MOUNTPOINT -o OPTIONS, where SOURCE is a profile")
	}
	out := append([]string{args[0], "mount", "--background", "--profile", places[0]}, options...)
	return append(out, "--", places[1]), nil
}
