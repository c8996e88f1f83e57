package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/account"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/exit"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/running"
	"github.com/drivefs/drivefs/drive"
)

// What verbs say most often.
const (
	exitFailed      = exit.Failed
	exitUsage       = exit.Usage
	exitLogin       = exit.Login
	exitNotMounted  = exit.NotMounted
	exitPending     = exit.Pending
	exitUnreachable = exit.Unreachable
)

var (
	fail    = exit.Fail
	message = exit.Message
)

type none = struct{}

// verb gives cmd the settings of the groups, and run what the user asked for.
// Its errors name the verb.
func verb(p *program, cmd *cobra.Command, groups config.Group, run func(ctx context.Context, c *config.Config, args []string) error) *cobra.Command {
	flags := config.Register(cmd.Flags(), groups)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := flags.Load(p.env)
		if err == nil {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			err = run(ctx, c, args)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", strings.TrimPrefix(cmd.CommandPath(), "drivefs "), err)
		}
		return nil
	}
	return cmd
}

// accountCommand is a verb that takes the account's flags.
func accountCommand(p *program, cmd *cobra.Command, groups config.Group, run func(ctx context.Context, c *config.Config, args []string) error) *cobra.Command {
	return verb(p, cmd, config.Which|config.Account|groups, run)
}

// mountVerb is a verb that is told to one running mount.
func mountVerb(p *program, cmd *cobra.Command, groups config.Group, run func(ctx context.Context, c *config.Config, m *control.Client, name string) error) *cobra.Command {
	cmd.Args = takes(0, "MOUNTPOINT")
	return verb(p, cmd, config.Which|groups, func(ctx context.Context, c *config.Config, args []string) error {
		m, name, err := running.Find(c, first(args))
		if err != nil {
			return err
		}
		if err := run(ctx, c, m, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// answer gets a verb's answer through the profile's mount where there is one,
// else from the drive itself.
func answer[In, Out any](ctx context.Context, p *program, c *config.Config, verb string, in In, ask func(context.Context, *drive.Client, In) (Out, error)) (out Out, err error) {
	if m := running.Of(c); m != nil {
		err = m.Call(ctx, verb, in, &out, nil)
		if !errors.Is(err, control.ErrNoMount) { // else it has just ended
			return out, err
		}
	}
	a, err := account.Open(c, account.Log(p.stderr, c), nil)
	if err != nil {
		return out, err
	}
	defer a.Close()
	ctx, cancel := context.WithTimeout(ctx, account.Direct)
	defer cancel()
	out, err = ask(ctx, a.Client, in)
	return out, account.RemoteError(c, err)
}

// jsonFlag adds --json, which every verb that prints facts has.
func jsonFlag(cmd *cobra.Command, on *bool) {
	cmd.Flags().BoolVar(on, "json", false, "print JSON, for scripts")
}
