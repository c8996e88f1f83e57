package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/drive"
)

// trashed is one thing in the drive's trash, as `trash list --json` prints it.
type trashed struct {
	ID      string    `json:"id"`
	Path    string    `json:"path"` // where it was
	Folder  bool      `json:"folder"`
	Size    int64     `json:"size"`
	Trashed time.Time `json:"trashed"` // last change of the node, which is its trashing
}

func newTrash(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "trash list|restore",
		Short:   "What is in the drive's trash; put it back",
		Example: "  drivefs trash list",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fail(exitUsage, "trash: no verb %q: list and restore are known", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return fail(exitUsage, "trash needs list or restore: see drivefs trash --help")
		},
	}
	var asJSON bool
	list := &cobra.Command{
		Use:     "list",
		Short:   "What is in the drive's trash",
		Example: "  drivefs trash list",
		Args:    takes(0),
	}
	list.Flags().BoolVar(&asJSON, "json", false, "one JSON array, for scripts")
	restore := &cobra.Command{
		Use:     "restore PATH|ID",
		Short:   "Put something back from the trash; a folder with all that is in it",
		Example: "  drivefs trash restore /Documents/letter.txt",
		Args:    takes(1, "PATH|ID"),
	}
	cmd.AddCommand(
		accountCommand(p, list, 0, func(ctx context.Context, c *config.Config, _ []string) error {
			return runTrashList(ctx, p, c, asJSON)
		}),
		accountCommand(p, restore, 0, func(ctx context.Context, c *config.Config, args []string) error {
			return runTrashRestore(ctx, p, c, args[0])
		}))
	return cmd
}

func runTrashList(ctx context.Context, p *program, c *config.Config, asJSON bool) error {
	list, err := answer(ctx, p, c, verbTrash, struct{}{}, askTrash)
	if err != nil {
		return err
	}
	if asJSON {
		return json.NewEncoder(p.stdout).Encode(list)
	}
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	for _, t := range list {
		what := size(t.Size)
		if t.Folder {
			what = "folder"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", t.Trashed.Local().Format(time.DateTime), what, t.ID, t.Path)
	}
	return w.Flush()
}

func runTrashRestore(ctx context.Context, p *program, c *config.Config, what string) error {
	t, err := answer(ctx, p, c, verbRestore, control.RestoreRequest{What: what},
		func(ctx context.Context, client *drive.Client, r control.RestoreRequest) (trashed, error) {
			t, _, err := restore(ctx, client, r.What)
			return t, err
		})
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	_, err = fmt.Fprintf(p.stdout, "restored %s\n", t.Path)
	return err
}

// askTrash lists the trash, what was trashed last first. Folders come without
// what is in them: that went with them, and comes back with them.
func askTrash(ctx context.Context, client *drive.Client, _ struct{}) ([]trashed, error) {
	all := map[string]drive.Node{}
	for n, err := range client.ListTrash(ctx) {
		if err != nil {
			return nil, err
		}
		if n.Kind == drive.File || n.Kind == drive.Folder {
			all[n.ID] = n
		}
	}
	where := paths{client: client, known: map[string]string{}}
	list := []trashed{}
	for _, n := range all {
		if !slices.ContainsFunc(n.Parents, func(id string) bool { _, in := all[id]; return in }) {
			list = append(list, describe(ctx, &where, n))
		}
	}
	slices.SortFunc(list, func(a, b trashed) int {
		if d := b.Trashed.Compare(a.Trashed); d != 0 {
			return d
		}
		return strings.Compare(a.Path, b.Path)
	})
	return list, nil
}

func describe(ctx context.Context, where *paths, n drive.Node) trashed {
	t := trashed{ID: n.ID, Path: where.of(ctx, n), Folder: n.Kind == drive.Folder, Trashed: n.Modified}
	if n.Content != nil {
		t.Size = n.Content.Size
	}
	return t
}

// restore puts back what a path or an id names.
func restore(ctx context.Context, client *drive.Client, what string) (trashed, drive.Node, error) {
	list, err := askTrash(ctx, client, struct{}{})
	if err != nil {
		return trashed{}, drive.Node{}, err
	}
	t, err := choose(list, what)
	if err != nil {
		return t, drive.Node{}, err
	}
	n, err := client.Restore(ctx, t.ID)
	if errors.Is(err, drive.ErrNameExists) || errors.Is(err, drive.ErrConflict) {
		err = fail(exitFailed, "%s is taken by something else now: rename that first: %w", t.Path, err)
	}
	return t, n, err
}

// choose finds an id, then a path, then a path in another case; a path may
// come without its first slash.
func choose(list []trashed, what string) (trashed, error) {
	path := "/" + strings.Trim(what, "/")
	for _, same := range []func(trashed) bool{
		func(t trashed) bool { return t.ID == what },
		func(t trashed) bool { return t.Path == path },
		func(t trashed) bool { return drive.Fold(t.Path) == drive.Fold(path) },
	} {
		var found []trashed
		for _, t := range list {
			if same(t) {
				found = append(found, t)
			}
		}
		switch len(found) {
		case 0:
			continue
		case 1:
			return found[0], nil
		}
		ids := make([]string, len(found))
		for i, t := range found {
			ids[i] = fmt.Sprintf("%s (trashed %s)", t.ID, t.Trashed.Local().Format(time.DateTime))
		}
		return trashed{}, fail(exitFailed, "several things of that path are in the trash: name one by its id: %s", strings.Join(ids, ", "))
	}
	return trashed{}, fail(exitFailed, "no such thing in the trash: see drivefs trash list; what lay in a trashed folder comes back with that folder")
}
