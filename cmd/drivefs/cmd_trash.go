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
	"slices"
	"strconv"
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
		Use:     "list [PATTERN]",
		Short:   "What is in the drive's trash",
		Long:    "List what is in the drive's trash, or what of it " + whatMatches + ".",
		Example: "  drivefs trash list\n  drivefs trash list '*.txt'",
		Args:    takes(0, "PATTERN"),
	}
	list.Flags().BoolVar(&asJSON, "json", false, "one JSON array, for scripts")
	var as string
	restore := &cobra.Command{
		Use:   "restore PATH|ID|PATTERN",
		Short: "Put something back from the trash; a folder with all that is in it",
		Long: "Put back from the drive's trash what has this id, or was at this path; or everything that\n" +
			whatMatches + ".\n\n" +
			"Where several things of one path are in the trash, you are asked which one is meant; without a terminal\n" +
			"the error names them with their ids. Nothing is ever replaced: where the name has been taken meanwhile,\n" +
			"the thing stays in the trash unless --as gives it another name.",
		Example: "  drivefs trash restore /Documents/letter.txt\n  drivefs trash restore '/Photos/*.jpg'\n  drivefs trash restore --as 'letter (old).txt' /Documents/letter.txt",
		Args:    takes(1, "PATH|ID|PATTERN"),
	}
	restore.Flags().StringVar(&as, "as", "", "the `NAME` to put it back under, in the folder where it was")
	cmd.AddCommand(
		accountCommand(p, list, 0, func(ctx context.Context, c *config.Config, args []string) error {
			return runTrashList(ctx, p, c, asJSON, first(args))
		}),
		accountCommand(p, restore, 0, func(ctx context.Context, c *config.Config, args []string) error {
			return runTrashRestore(ctx, p, c, args[0], as)
		}))
	return cmd
}

const whatMatches = "matches a pattern: of its name ('*.txt') or, with slashes, of its path ('/Photos/2024-*/*')"

func runTrashList(ctx context.Context, p *program, c *config.Config, asJSON bool, pattern string) error {
	list, err := answer(ctx, p, c, verbTrash, none{}, askTrash)
	if err == nil && pattern != "" {
		list, _, err = choose(list, pattern)
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
func writeTrash(out io.Writer, list []trashed, numbered bool) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for i, t := range list {
		if numbered {
			fmt.Fprintf(w, "%d\t", i+1)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", t.Trashed.Local().Format(time.DateTime), t.what(), t.ID, t.Path)
	}
	return w.Flush()
}

func (t trashed) what() string {
	if t.Folder {
		return "folder"
	}
	return size(t.Size)
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
		return fail(exitUsage, "--as: %s matches %s: name one", what, count(len(found), "thing"))
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
		return fail(exitCode(failed[0]), "%d of %s stay in the trash: %w", len(failed), count(len(found), "thing"), errors.Join(failed...))
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
func findTrashed(ctx context.Context, p *program, c *config.Config, what string) (list, found []trashed, byPattern bool, err error) {
	for try := 1; ; try++ {
		list, err = answer(ctx, p, c, verbTrash, none{}, askTrash)
		if err != nil {
			return nil, nil, false, fmt.Errorf("%s: %w", what, err)
		}
		found, byPattern, err = choose(list, what)
		if err != nil || len(found) > 0 {
			return list, found, byPattern, err
		}
		if nodeID.MatchString(what) {
			return list, []trashed{{ID: what, Path: what}}, false, nil
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
func namesakes(list []trashed, what string) string {
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
func (p *program) restoreOne(ctx context.Context, c *config.Config, t trashed, as string) error {
	for {
		where, err := answer(ctx, p, c, verbRestore, control.RestoreRequest{ID: t.ID, As: as},
			func(ctx context.Context, client *drive.Client, r control.RestoreRequest) (string, error) {
				where, _, err := restore(ctx, client, r)
				return where, err
			})
		switch {
		case err == nil:
			_, err = fmt.Fprintf(p.stdout, "restored %s\n", where)
			return err
		case exitCode(err) != exitTaken:
			return fmt.Errorf("%s: %w", t.Path, err)
		}
		taken := fail(exitFailed, "%s: the name %s has been taken meanwhile, so it stays in the trash: put it back under another name with --as NAME, or rename the other one first",
			t.Path, cmp.Or(as, path.Base(t.Path)))
		if !p.interactive() {
			return taken
		}
		as, err = p.ask(ctx, fmt.Sprintf("%s: the name %s has been taken meanwhile. Another name for it (empty = leave it in the trash): ", t.Path, cmp.Or(as, path.Base(t.Path))))
		if err != nil {
			return err
		}
		if as == "" {
			return fail(exitFailed, "%s stays in the trash", t.Path)
		}
	}
}

// onePerPath lets a person choose between things of the same path.
func (p *program) onePerPath(ctx context.Context, found []trashed) (one []trashed, err error) {
	same := map[string][]trashed{}
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
				ids[i] = fmt.Sprintf("%s (%s, trashed %s)", t.ID, t.what(), t.Trashed.Local().Format(time.DateTime))
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

func (p *program) chooseOne(ctx context.Context, group []trashed) (trashed, error) {
	fmt.Fprintf(p.stderr, "%s is in the trash %d times:\n", group[0].Path, len(group))
	if err := writeTrash(p.stderr, group, true); err != nil {
		return trashed{}, err
	}
	for {
		text, err := p.ask(ctx, fmt.Sprintf("Which one? (1-%d, empty = none): ", len(group)))
		switch n, nerr := strconv.Atoi(text); {
		case err != nil:
			return trashed{}, err
		case text == "":
			return trashed{}, fail(exitFailed, "nothing was chosen")
		case nerr == nil && n >= 1 && n <= len(group):
			return group[n-1], nil
		}
	}
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

// exitTaken never leaves the program: the name is taken, and another will do.
const exitTaken = -1

// restore puts one thing back, under another name if r says so, and gives its
// path. Nothing is replaced: a service may allow two of one name, so it is
// looked whether the name is free.
func restore(ctx context.Context, client *drive.Client, r control.RestoreRequest) (where string, n drive.Node, err error) {
	n, err = client.Get(ctx, r.ID)
	if errors.Is(err, drive.ErrNotFound) {
		return "", n, fail(exitFailed, "no such thing in the trash: see drivefs trash list")
	}
	if err != nil {
		return "", n, err
	}
	if n.Status != drive.Trashed {
		return "", n, fail(exitFailed, "it is not in the trash any more")
	}
	name := cmp.Or(r.As, n.Name)
	taken := func(err error) error {
		if errors.Is(err, drive.ErrNameExists) || errors.Is(err, drive.ErrConflict) {
			return fail(exitTaken, "the name %s is taken: %w", name, err)
		}
		return err
	}
	for _, parent := range n.Parents {
		found, err := client.Find(ctx, parent, name)
		if err != nil {
			return "", n, err
		}
		if slices.ContainsFunc(found, func(o drive.Node) bool { return o.ID != n.ID && o.Live() }) {
			return "", n, taken(drive.ErrNameExists)
		}
	}
	if name != n.Name {
		if n, err = client.Rename(ctx, n.ID, name, ""); err != nil {
			return "", n, taken(err)
		}
	}
	if n, err = client.Restore(ctx, r.ID); err != nil {
		return "", n, taken(err)
	}
	whole := paths{client: client, known: map[string]string{}}
	return whole.of(ctx, n), n, nil
}

// choose finds an id, then a path, then a path in another case, then what
// matches a pattern; a path may come without its first slash.
func choose(list []trashed, what string) (found []trashed, byPattern bool, err error) {
	slashed := "/" + strings.Trim(what, "/")
	for _, same := range []func(trashed) bool{
		func(t trashed) bool { return t.ID == what },
		func(t trashed) bool { return t.Path == slashed },
		func(t trashed) bool { return drive.Fold(t.Path) == drive.Fold(slashed) },
	} {
		for _, t := range list {
			if same(t) {
				found = append(found, t)
			}
		}
		if len(found) > 0 {
			return found, false, nil
		}
	}
	if !strings.ContainsAny(what, `*?[`) {
		return []trashed{}, false, nil
	}
	pattern, of := drive.Fold(what), func(t trashed) string { return path.Base(t.Path) }
	if strings.Contains(what, "/") {
		pattern, of = drive.Fold(slashed), func(t trashed) string { return t.Path }
	}
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, true, fail(exitUsage, "%s: %w: expected *, ? or [abc]", what, err)
	}
	found = []trashed{}
	for _, t := range list {
		if ok, _ := path.Match(pattern, drive.Fold(of(t))); ok { // the pattern is good
			found = append(found, t)
		}
	}
	return found, true, nil
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
