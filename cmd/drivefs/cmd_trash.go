package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/exit"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/show"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/trash"
	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/drive/redact"
)

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
		Use:     "list [PATTERN]",
		Short:   "What is in the drive's trash",
		Long:    "List what is in the drive's trash, or what of it " + whatMatches + ".",
		Example: "  drivefs trash list\n  drivefs trash list '*.txt'",
		Args:    takes(0, "PATTERN"),
	}
	list.Flags().BoolVar(&asJSON, "json", false, "one JSON array, for scripts")
	var as string
	restore := &cobra.Command{
		Use:   "restore PATH|ID|PATTERN…",
		Short: "Put something back from the trash; a folder with all that is in it",
		Long: "Put back from the drive's trash what has this id, or was at this path; or everything that\n" +
			whatMatches + ".\n\n" +
			"Where several things of one path are in the trash, you are asked which one is meant; without a terminal\n" +
			"the error names them with their ids. Nothing is ever replaced: where the name has been taken meanwhile,\n" +
			"the thing stays in the trash unless --as gives it another name.",
		Example: "  drivefs trash restore /Documents/letter.txt\n  drivefs trash restore '/Photos/*.jpg'\n  drivefs trash restore --as 'letter (old).txt' /Documents/letter.txt",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return takes(1, "PATH|ID|PATTERN")(c, args)
			}
			return nil
		},
	}
	restore.Flags().StringVar(&as, "as", "", "the `NAME` to put it back under, in the folder where it was")
	cmd.AddCommand(
		accountCommand(p, list, 0, func(ctx context.Context, c *config.Config, args []string) error {
			return runTrashList(ctx, p, c, asJSON, first(args))
		}),
		accountCommand(p, restore, 0, func(ctx context.Context, c *config.Config, args []string) error {
			if as != "" && len(args) > 1 {
				return fail(exitUsage, "--as: one thing only can have that name")
			}
			var failed error
			for _, what := range args {
				failed = errors.Join(failed, runTrashRestore(ctx, p, c, what, as))
			}
			return failed
		}))
	return cmd
}

const whatMatches = "matches a pattern: of its name ('*.txt') or, with slashes, of its path ('/Photos/2024-*/*')"

func runTrashList(ctx context.Context, p *program, c *config.Config, asJSON bool, pattern string) error {
	list, err := answer(ctx, p, c, control.VerbTrash, none{}, trash.List)
	if err == nil && pattern != "" {
		list, _, err = trash.Choose(list, pattern)
	}
	if err != nil {
		return err
	}
	if asJSON {
		return json.NewEncoder(p.stdout).Encode(list)
	}
	return writeTrash(p.stdout, list, false)
}

// writeTrash writes one line a thing, numbered from 1 where one is to be chosen.
func writeTrash(out io.Writer, list []trash.Item, numbered bool) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for i, t := range list {
		if numbered {
			fmt.Fprintf(w, "%d\t", i+1)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", t.Trashed.Local().Format(time.DateTime), what(t), t.ID, redact.Printable(t.Path))
	}
	return w.Flush()
}

func what(t trash.Item) string {
	if t.Folder {
		return "folder"
	}
	return show.Size(t.Size)
}

func runTrashRestore(ctx context.Context, p *program, c *config.Config, what, as string) error {
	if c.ReadOnly {
		return fail(exitFailed, "%s: profile %q is read-only: it never changes the drive", what, c.Profile)
	}
	if strings.Contains(as, "/") {
		return fail(exitUsage, "--as %s: expected a name; it goes back into the folder where it was", as)
	}
	list, found, byPattern, err := findTrashed(ctx, p, c, what)
	switch {
	case err != nil:
		return err
	case len(found) == 0 && byPattern:
		return fail(exitFailed, "nothing in the trash matches %s: see drivefs trash list", what)
	case len(found) == 0:
		return fail(exitFailed, "%s: no such thing in the trash%s: see drivefs trash list; what lay in a trashed folder comes back with that folder", what, namesakes(list, what))
	case as != "" && byPattern && len(found) > 1:
		return fail(exitUsage, "--as: %s matches %s: name one", what, show.Count(len(found), "thing"))
	}
	if found, err = p.onePerPath(ctx, found); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	var failed []error
	for _, t := range found {
		err := p.restoreOne(ctx, c, t, as)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			failed = append(failed, err)
		}
	}
	if len(found) > 1 && len(failed) > 0 {
		return fail(exit.Code(failed[0]), "%d of %s stay in the trash: %w", len(failed), show.Count(len(found), "thing"), errors.Join(failed...))
	}
	return errors.Join(failed...)
}

// Lists of the service lag behind for some seconds (API document §13.1): what
// was trashed a moment ago may not be in them yet.
const (
	listTries = 3
	listPause = 2 * time.Second
)

// findTrashed gives what is in the trash, and what of it is meant. A node that
// was named by its id needs no list.
func findTrashed(ctx context.Context, p *program, c *config.Config, what string) (list, found []trash.Item, byPattern bool, err error) {
	for try := 1; ; try++ {
		list, err = answer(ctx, p, c, control.VerbTrash, none{}, trash.List)
		if err != nil {
			return nil, nil, false, fmt.Errorf("%s: %w", what, err)
		}
		found, byPattern, err = trash.Choose(list, what)
		if err != nil || len(found) > 0 {
			return list, found, byPattern, err
		}
		if nodeID.MatchString(what) {
			return list, []trash.Item{{ID: what, Path: what}}, false, nil
		}
		if try == listTries {
			return list, nil, byPattern, nil
		}
		select {
		case <-time.After(listPause):
		case <-ctx.Done():
			return nil, nil, false, ctx.Err()
		}
	}
}

// nodeID is what ids of nodes look like. API document §5.1.
var nodeID = regexp.MustCompile(`^[-_0-9A-Za-z]{22}$`)

// namesakes tells what of the name of what is in the trash, "" for nothing.
func namesakes(list []trash.Item, what string) string {
	var at []string
	for _, t := range list {
		if drive.Fold(path.Base(t.Path)) == drive.Fold(path.Base(what)) {
			at = append(at, t.Path)
		}
	}
	if len(at) == 0 {
		return ""
	}
	return ", but " + strings.Join(at[:min(len(at), 5)], ", ")
}

// restoreOne puts t back. Where its name is taken, a person may give another.
func (p *program) restoreOne(ctx context.Context, c *config.Config, t trash.Item, as string) error {
	for {
		where, err := answer(ctx, p, c, control.VerbRestore, control.RestoreRequest{ID: t.ID, As: as},
			func(ctx context.Context, client *drive.Client, r control.RestoreRequest) (string, error) {
				where, _, err := trash.Restore(ctx, client, r)
				return where, err
			})
		switch {
		case err == nil:
			_, err = fmt.Fprintf(p.stdout, "restored %s\n", redact.Printable(where))
			return err
		case !taken(err):
			return fmt.Errorf("%s: %w", t.Path, err)
		}
		refused := fail(exitFailed, "%s: the name %s has been taken meanwhile, so it stays in the trash: put it back under another name with --as NAME, or rename the other one first",
			t.Path, cmp.Or(as, path.Base(t.Path)))
		if !p.interactive() {
			return refused
		}
		as, err = p.ask(ctx, fmt.Sprintf("%s: the name %s has been taken meanwhile. Another name for it (empty = leave it in the trash): ", redact.Printable(t.Path), redact.Printable(cmp.Or(as, path.Base(t.Path)))))
		if err != nil {
			return err
		}
		switch {
		case as == "":
			return fail(exitFailed, "%s stays in the trash", t.Path)
		case strings.Contains(as, "/"):
			return fail(exitUsage, "%s: expected a name; it goes back into the folder where it was", as)
		}
	}
}

// taken reports whether another name would do.
func taken(err error) bool {
	var f *control.Fault
	return errors.As(err, &f) && f.Kind == trash.Taken
}

// onePerPath lets a person choose between things of the same path.
func (p *program) onePerPath(ctx context.Context, found []trash.Item) (one []trash.Item, err error) {
	same := map[string][]trash.Item{}
	for _, t := range found {
		same[drive.Fold(t.Path)] = append(same[drive.Fold(t.Path)], t)
	}
	for _, t := range found {
		group := same[drive.Fold(t.Path)]
		switch {
		case group == nil: // chosen from already
			continue
		case len(group) > 1 && !p.interactive():
			ids := make([]string, len(group))
			for i, t := range group {
				ids[i] = fmt.Sprintf("%s (%s, trashed %s)", t.ID, what(t), t.Trashed.Local().Format(time.DateTime))
			}
			return nil, fail(exitFailed, "several things of that path are in the trash: name one by its id: %s", strings.Join(ids, ", "))
		case len(group) > 1:
			if t, err = p.chooseOne(ctx, group); err != nil {
				return nil, err
			}
		}
		same[drive.Fold(t.Path)] = nil
		one = append(one, t)
	}
	return one, nil
}

func (p *program) chooseOne(ctx context.Context, group []trash.Item) (trash.Item, error) {
	fmt.Fprintf(p.stderr, "%s is in the trash %d times:\n", redact.Printable(group[0].Path), len(group))
	if err := writeTrash(p.stderr, group, true); err != nil {
		return trash.Item{}, err
	}
	for {
		text, err := p.ask(ctx, fmt.Sprintf("Which one? (1-%d, empty = none): ", len(group)))
		switch n, nerr := strconv.Atoi(text); {
		case err != nil:
			return trash.Item{}, err
		case text == "":
			return trash.Item{}, fail(exitFailed, "nothing was chosen")
		case nerr == nil && n >= 1 && n <= len(group):
			return group[n-1], nil
		}
	}
}

// dashedID is an id of a node that looks like a flag. No flag is so long.
var dashedID = regexp.MustCompile(`^-[-_0-9A-Za-z]{21}$`)

// idsLast moves such ids behind all flags, where they are none.
func idsLast(args []string) []string {
	var flags, ids []string
	for i, arg := range args {
		switch {
		case arg == "--":
			return append(append(append(flags, "--"), ids...), args[i+1:]...)
		case dashedID.MatchString(arg):
			ids = append(ids, arg)
		default:
			flags = append(flags, arg)
		}
	}
	if len(ids) == 0 {
		return args
	}
	return append(append(flags, "--"), ids...)
}
