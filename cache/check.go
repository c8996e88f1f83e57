package cache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/mirror"
	"github.com/drivefs/drivefs/drive"
)

// CheckLocal holds the Store against itself: the mirror's indexes, the
// journal's, and that the two name the same things. It needs no network,
// and holds no lock for long.
func (s *Store) CheckLocal() []error { return s.checkLocal(s.background.ctx) }

func (s *Store) checkLocal(ctx context.Context) []error {
	return append(append(s.mirror.Check(ctx), s.journal.Check()...), s.tree.Check()...)
}

// Check holds the Store against itself and its mirror against the drive,
// folder by folder, and tells every difference through say. With repair it
// takes the drive's word where they differ, and touches nothing else; what is
// still to be uploaded is no difference. The count is of differences found.
func (s *Store) Check(ctx context.Context, repair bool, say func(string)) (int, error) {
	ctx = drive.WithPriority(ctx, drive.Background)
	c := s.checker(repair, say)
	for _, err := range s.checkLocal(ctx) {
		c.found++
		say(err.Error())
	}
	root := s.mirror.Root()
	queue := []uint64{root.Ino}
	seen := map[uint64]bool{}
	c.below = func(dir uint64) { queue = append(queue, dir) }
	for len(queue) > 0 {
		dir := queue[0]
		queue = queue[1:]
		if seen[dir] {
			continue
		}
		seen[dir] = true
		if err := c.folder(ctx, dir); err != nil {
			return c.found, err
		}
	}
	return c.found, nil
}

// checker compares folders of the mirror with the drive. It is for one goroutine.
type checker struct {
	mirror  *mirror.Mirror
	journal *journal.Journal
	remote  *drive.Client
	intake  *intake
	paths   *paths
	repair  bool             // take the drive's word
	say     func(string)     // told of each difference
	below   func(dir uint64) // called for the folders in one that was compared
	found   int              // differences

	recs []mirror.Record // of the folder that is compared
	here map[string]int  // id → index in recs; what the drive told of is not there any more
}

func (s *Store) checker(repair bool, say func(string)) *checker {
	return &checker{
		mirror: s.mirror, journal: s.journal, remote: s.remote, intake: s.intake, paths: &s.paths,
		repair: repair, say: say, below: func(uint64) {},
	}
}

// keptRecs bounds what is kept from one folder to the next.
const keptRecs = 10_000

// read fills recs and here.
func (c *checker) read(dir uint64) error {
	if len(c.recs) > keptRecs || c.here == nil {
		c.recs, c.here = nil, map[string]int{}
	}
	clear(c.recs)
	clear(c.here)
	c.recs = c.recs[:0]
	return c.mirror.List(dir, 0, math.MaxInt, func(rec *mirror.Record) bool {
		c.here[rec.ID] = len(c.recs)
		c.recs = append(c.recs, *rec)
		return true
	})
}

func (c *checker) differs(dir uint64, name, what string) {
	c.found++
	c.say(fmt.Sprintf("%s: %s", c.paths.in(dir, name), what))
}

// folder compares one. A listing lags (API §13.1), so what seems to differ is
// asked for by id.
func (c *checker) folder(ctx context.Context, dir uint64) error {
	r, ok, err := c.mirror.Get(dir)
	if err != nil || !ok || !r.Folder {
		return err
	}
	if err := c.read(dir); err != nil {
		return err
	}
	for n, err := range c.remote.Children(ctx, r.ID, false) {
		if errors.Is(err, drive.ErrNotFound) {
			return c.folderGone(ctx, &r)
		}
		if err != nil {
			return fmt.Errorf("listing %s: %w", c.paths.of(dir), err)
		}
		if !n.Live() {
			continue
		}
		var rec mirror.Record
		i, known := c.here[n.ID]
		if known {
			rec = c.recs[i]
			delete(c.here, n.ID)
		}
		if c.pending(n.ID) {
			continue
		}
		if c.difference(&rec, known, &n, &r) != "" {
			if err := c.asked(ctx, dir, &r, n.ID, n.Name); err != nil {
				return err
			}
		}
		if n.Kind == drive.Folder {
			if ino, ok := c.mirror.Ino(n.ID); ok {
				c.below(ino)
			}
		}
	}
	// One listing does not prove that a node is gone.
	for id, i := range c.here {
		if c.pending(id) {
			continue
		}
		if err := c.asked(ctx, dir, &r, id, c.recs[i].Shown); err != nil {
			return err
		}
	}
	return nil
}

// folderGone: the drive does not know a folder that the mirror shows.
func (c *checker) folderGone(ctx context.Context, r *mirror.Record) error {
	if r.Ino == c.mirror.Root().Ino || len(r.Parents) == 0 {
		return nil
	}
	up, ok, err := c.mirror.Get(r.Parents[0])
	if err != nil || !ok {
		return err
	}
	return c.asked(ctx, up.Ino, &up, r.ID, r.Shown)
}

// asked compares one node with what the drive says of it by id; dir is where
// mirror or listing have it.
func (c *checker) asked(ctx context.Context, dir uint64, r *mirror.Record, id, name string) error {
	var n drive.Node
	var rec mirror.Record
	var known, gone bool
	for tries := 0; ; tries++ {
		before, was, err := c.mirror.ByID(id)
		if err != nil {
			return err
		}
		n, err = c.remote.Get(ctx, id)
		if gone = errors.Is(err, drive.ErrNotFound); err != nil && !gone {
			return err
		}
		if rec, known, err = c.mirror.ByID(id); err != nil {
			return err
		}
		if known == was && rec.Version == before.Version {
			break
		}
		// The feed, or a call of ours, told of it while the drive was asked:
		// the answer may be older.
		if tries == 2 {
			return nil // busy, and so well looked after
		}
	}
	shown := known && slices.Contains(rec.Parents, dir)
	switch {
	case gone && shown:
		c.differs(dir, name, "is in the mirror and not on the drive")
		if c.repair {
			return c.intake.gone(id, 0)
		}
	case gone, c.pending(id):
	case !n.Live() || !slices.Contains(n.Parents, r.ID):
		if shown {
			c.differs(dir, name, "is in the mirror and not there on the drive")
			return c.believe(n, &rec, known)
		}
	default:
		if what := c.difference(&rec, known, &n, r); what != "" {
			c.differs(dir, n.Name, what)
			return c.believe(n, &rec, known)
		}
	}
	return nil
}

// believe takes the drive's word against what the mirror has, if it is known.
func (c *checker) believe(n drive.Node, rec *mirror.Record, known bool) error {
	if !c.repair {
		return nil
	}
	against := int64(mirror.NotLive)
	if known {
		against = rec.Version
	}
	cs, err := c.mirror.Believe(n, against)
	if err != nil {
		return err
	}
	c.intake.answered(cs)
	return nil
}

// difference says how the mirror's record of a live node is wrong, "" when it
// is not. What the drive left out is no difference. in is the folder in which
// it was found.
func (c *checker) difference(rec *mirror.Record, known bool, n *drive.Node, in *mirror.Record) string {
	switch {
	case !known:
		return "is on the drive and not in the mirror"
	case n.Version != 0 && rec.Version > n.Version:
		return fmt.Sprintf("is of version %d in the mirror and %d on the drive", rec.Version, n.Version)
	case rec.Folder != (n.Kind == drive.Folder):
		return "is a file on one side and a folder on the other"
	case rec.Name != n.Name:
		return fmt.Sprintf("is called %q in the mirror", rec.Name)
	case n.Content != nil && (rec.Size != n.Content.Size || rec.MD5 != strings.ToLower(n.Content.MD5) || rec.Content != n.Content.Version):
		return "has other content in the mirror"
	case !c.sameParents(rec, n.Parents, in):
		return "is in other folders in the mirror"
	case rec.Version == n.Version && (otherTime(rec.Created, n.Created) || otherTime(rec.Modified, n.Modified)):
		return "has other times in the mirror"
	}
	return ""
}

// sameParents compares folders, but for those that the mirror does not show.
func (c *checker) sameParents(rec *mirror.Record, ids []string, in *mirror.Record) bool {
	if len(ids) == 0 || len(ids) == 1 && ids[0] == in.ID && slices.Equal(rec.Parents, []uint64{in.Ino}) {
		return true
	}
	found := 0
	for _, id := range ids {
		p, ok, err := c.mirror.ByID(id)
		switch {
		case err != nil || !ok || !p.Folder:
		case slices.Contains(rec.Parents, p.Ino):
			found++
		case !rec.Folder || len(ids) == 1:
			return false // a folder is not shown inside itself
		}
	}
	return found == len(rec.Parents)
}

func otherTime(have, told time.Time) bool {
	return !told.IsZero() && !have.Equal(told.Truncate(time.Millisecond))
}

// pending tells whether the node has an entry: then mirror and drive may differ.
func (c *checker) pending(id string) bool {
	_, ok := c.journal.ByNode(id)
	return ok
}
