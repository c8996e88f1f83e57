package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/mounts"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/running"
)

func newRename(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rename PATH NEWNAME",
		Short: "Rename in place, also to another case of the same name",
		Long: "Rename a file or folder of a mount in one call. mv does the same, except between two\n" +
			"spellings of one name, which the kernel takes for the same file and answers by itself.",
		Example: "  drivefs rename ~/Drive/readme.TXT README.txt",
		Args:    takes(2, "PATH", "NEWNAME"),
	}
	return accountCommand(p, cmd, 0, func(ctx context.Context, c *config.Config, args []string) error {
		if err := runRename(ctx, c, args[0], args[1]); err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		return nil
	})
}

func runRename(ctx context.Context, c *config.Config, path, newName string) error {
	if newName == "" || strings.ContainsAny(newName, "/\x00") {
		return fail(exitUsage, "%q is no file name: mv moves to other folders", newName)
	}
	// The last element is taken as it stands: it is the name to change.
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	dir, err := mounts.Resolve(filepath.Dir(path))
	if err != nil {
		return err
	}
	path = filepath.Join(dir, filepath.Base(path))
	m, ok, err := mounts.Of(dir)
	if err != nil {
		return err
	}
	if !ok || path == m.Mountpoint {
		return fail(exitNotMounted, "it does not lie in a mounted drive")
	}
	client, err := running.Ask(c, m)
	if err != nil {
		return err
	}
	rel := strings.TrimPrefix(path, strings.TrimSuffix(m.Mountpoint, "/"))
	return client.Call(ctx, control.VerbRename, control.RenameRequest{Path: rel, NewName: newName}, nil, nil)
}
