// Package trash answers one question: what is in the drive's trash, and how does
// it come back? It speaks to the drive only; it knows no mount.
package trash

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/control"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/exit"
	"github.com/drivefs/drivefs/drive"
)

// Item is one thing in the drive's trash, as `trash list --json` prints it.
type Item struct {
	ID      string    `json:"id"`
	Path    string    `json:"path"` // where it was
	Folder  bool      `json:"folder"`
	Size    int64     `json:"size"`
	Trashed time.Time `json:"trashed"` // last change of the node, which is its trashing
}

// List lists the trash, what was Item last first. Folders come without
// what is in them: that went with them, and comes back with them.
func List(ctx context.Context, client *drive.Client, _ struct{}) ([]Item, error) {
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
	list := []Item{}
	for _, n := range all {
		if !slices.ContainsFunc(n.Parents, func(id string) bool { _, in := all[id]; return in }) {
			list = append(list, describe(ctx, &where, n))
		}
	}
	slices.SortFunc(list, func(a, b Item) int {
		if d := b.Trashed.Compare(a.Trashed); d != 0 {
			return d
		}
		return strings.Compare(a.Path, b.Path)
	})
	return list, nil
}

func describe(ctx context.Context, where *paths, n drive.Node) Item {
	t := Item{ID: n.ID, Path: where.of(ctx, n), Folder: n.Kind == drive.Folder, Trashed: n.Modified}
	if n.Content != nil {
		t.Size = n.Content.Size
	}
	return t
}

// Taken is the kind of a fault of Restore: the name has been taken, and another
// will do.
const Taken = "name-taken"

// Restore puts one thing back, under another name if r says so, and gives its
// path. Nothing is replaced: a service may allow two of one name, so it is
// looked whether the name is free.
func Restore(ctx context.Context, client *drive.Client, r control.RestoreRequest) (where string, n drive.Node, err error) {
	n, err = client.Get(ctx, r.ID)
	if errors.Is(err, drive.ErrNotFound) {
		return "", n, exit.Fail(exit.Failed, "no such thing in the trash: see drivefs trash list")
	}
	if err != nil {
		return "", n, err
	}
	if n.Status != drive.Trashed {
		return "", n, exit.Fail(exit.Failed, "it is not in the trash any more")
	}
	name := cmp.Or(r.As, n.Name)
	taken := func(err error) error {
		if errors.Is(err, drive.ErrNameExists) || errors.Is(err, drive.ErrConflict) {
			return &control.Fault{Exit: exit.Failed, Kind: Taken, Message: fmt.Sprintf("the name %s is taken: %v", name, err)}
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

// Choose finds an id, then a path, then a path in another case, then what
// matches a pattern; a path may come without its first slash.
func Choose(list []Item, what string) (found []Item, byPattern bool, err error) {
	slashed := "/" + strings.Trim(what, "/")
	for _, same := range []func(Item) bool{
		func(t Item) bool { return t.ID == what },
		func(t Item) bool { return t.Path == slashed },
		func(t Item) bool { return drive.Fold(t.Path) == drive.Fold(slashed) },
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
		return []Item{}, false, nil
	}
	pattern, of := drive.Fold(what), func(t Item) string { return path.Base(t.Path) }
	if strings.Contains(what, "/") {
		pattern, of = drive.Fold(slashed), func(t Item) string { return t.Path }
	}
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, true, exit.Fail(exit.Usage, "%s: %w: expected *, ? or [abc]", what, err)
	}
	found = []Item{}
	for _, t := range list {
		if ok, _ := path.Match(pattern, drive.Fold(of(t))); ok { // the pattern is good
			found = append(found, t)
		}
	}
	return found, true, nil
}

// paths finds where nodes are, asking once for each folder.
type paths struct {
	client *drive.Client
	known  map[string]string // folder id → path, "" for the root
}

// of is the path of a node in the drive. Folders that cannot be asked for are
// shown by their id.
func (p *paths) of(ctx context.Context, n drive.Node) string {
	if n.IsRoot {
		return "/"
	}
	if len(n.Parents) == 0 {
		return n.Name
	}
	return p.folder(ctx, n.Parents[0], 0) + "/" + n.Name
}

// deepest bounds what a damaged tree can make of us.
const deepest = 200

func (p *paths) folder(ctx context.Context, id string, depth int) string {
	if path, ok := p.known[id]; ok {
		return path
	}
	path := "[" + id + "]"
	if n, err := p.client.Get(ctx, id); err == nil && depth < deepest {
		switch {
		case n.IsRoot:
			path = ""
		case len(n.Parents) > 0:
			path = p.folder(ctx, n.Parents[0], depth+1) + "/" + n.Name
		}
	}
	p.known[id] = path
	return path
}
