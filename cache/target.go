package cache

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/mirror"
	"github.com/drivefs/drivefs/cache/settle"
	"github.com/drivefs/drivefs/drive"
)

// The changes poller's side of the Store (changes.Target).

// Checkpoint is where the feed goes on; "" = from the start.
func (s *Store) Checkpoint() string {
	cp, _ := s.mirror.Checkpoint()
	return cp
}

// Refreshed is when the drive last told all there is, zero = never yet.
func (s *Store) Refreshed() time.Time { return s.mirror.Refreshed() }

// OnActivity sets who is told that something changed here, or was met that the
// feed has not told: it is worth asking soon. fn must not block.
func (s *Store) OnActivity(fn func()) { s.activity.Store(&fn) }

// Apply takes one chunk of the feed: nodes and checkpoint in one transaction,
// then the effects.
func (s *Store) Apply(ctx context.Context, b drive.Batch) error {
	changes, err := s.mirror.Apply(b)
	if err != nil {
		return err
	}
	s.told(changes)
	return nil
}

// FeedEnd notes that the feed reached its end line: what the drive had then
// is all here.
func (s *Store) FeedEnd(ctx context.Context) error {
	first := !s.mirror.Complete()
	err := s.mirror.FeedEnd(time.Now())
	if first && err == nil {
		s.listing.wake()
	}
	return err
}

// BeginRefresh begins to take everything anew (reset:true); inode numbers, open
// files and wishes are untouched by it.
func (s *Store) BeginRefresh(ctx context.Context) error { return s.mirror.BeginRefresh() }

// ApplyRefresh takes one chunk of the full answer.
func (s *Store) ApplyRefresh(ctx context.Context, b drive.Batch) error {
	return s.mirror.ApplyRefresh(b)
}

// EndRefresh shows what was told anew, and tells the kernel the difference.
func (s *Store) EndRefresh(ctx context.Context) error { return s.mirror.EndRefresh(s.told) }

// AbortRefresh drops what was told anew.
func (s *Store) AbortRefresh() error { return s.mirror.AbortRefresh() }

// changed is told of changes that came by an answer or a listing.
func (s *Store) changed(cs []mirror.Change) {
	if len(cs) == 0 {
		return
	}
	s.told(cs)
	// While the first feed streams in, everything is news.
	if fn := s.activity.Load(); fn != nil && s.mirror.Complete() {
		(*fn)()
	}
}

// told turns what became different in the mirror into effects: what a
// wish or an open draft covers stays as it is for those who look.
func (s *Store) told(cs []mirror.Change) {
	if len(cs) == 0 {
		return
	}
	es := make([]Effect, 0, len(cs))
	s.view.Lock()
	for i := range cs {
		c := &cs[i]
		if c.Folder && len(s.lastPlace) > 0 {
			_, has := s.lastPlace[c.Ino]
			switch {
			case len(c.New) > 0 && has && !s.journal.Peek(c.Ino, func(*journal.Entry) {}):
				s.lastPlace[c.Ino] = Dentry(c.New[0])
			case len(c.New) == 0 && len(c.Old) > 0:
				s.lastPlace[c.Ino] = Dentry(c.Old[0])
			}
		}
		if !c.Own {
			for _, d := range c.New {
				s.propsAsked.forget(d.Dir)
			}
		}
		f := s.open.pinned(c.Ino)
		if f != nil && len(c.New) == 0 && len(c.Old) > 0 {
			s.keepPlaceLocked(f, c)
		}
		var covered bool
		s.journal.Peek(c.Ino, func(e *journal.Entry) { covered = true })
		if covered {
			es = append(es, s.followLocked(c, f != nil)...)
			// The entry says where it is. Names that only the mirror had or
			// has now are told all the same: another inode may come into view.
			continue
		}
		if f != nil && c.Content && s.letGoLocked(c.Ino) != nil {
			f = nil
		}
		e := Effect{
			Ino: c.Ino, Folder: c.Folder, Attr: c.Attr,
			Old: dentries(c.Old), New: dentries(c.New),
			Content: c.Content && f == nil,
		}
		es = append(es, e)
	}
	s.view.Unlock()
	s.emit(es)
}

// keepPlaceLocked remembers where an edited file was when the drive lost it.
func (s *Store) keepPlaceLocked(f *file, c *mirror.Change) {
	p := *f.place.Load()
	p.Parents = nil
	for _, d := range c.Old {
		p.Parents = append(p.Parents, d.Dir)
	}
	p.Shown = c.Old[0].Name
	p.Name = mirror.DriveName(p.Shown)
	p.Parents = slices.Compact(p.Parents)
	f.place.Store(&p)
}

func dentries(ds []mirror.Dentry) []Dentry {
	if len(ds) == 0 {
		return nil
	}
	out := make([]Dentry, len(ds))
	for i, d := range ds {
		out[i] = Dentry(d)
	}
	return out
}

// followLocked lets a wish follow what somebody else did to what it does not
// touch: to the content, when it has none; to the name and the folders, when
// it wishes for no others.
func (s *Store) followLocked(c *mirror.Change, pinned bool) []Effect {
	if c.Own {
		return nil
	}
	before, seen, err := s.inodeLocked(c.Ino)
	r, known, rerr := s.mirror.Get(c.Ino)
	if err != nil || rerr != nil || !seen || !known || before.id != r.ID {
		return nil
	}
	now, err := s.baseOf(&r)
	if err != nil {
		return nil
	}
	content := c.Content && !pinned && !before.draft
	err = s.journal.Update(c.Ino, func(e *journal.Entry) bool {
		did := false
		// While a call of ours that moves the node is on its way, this may be
		// its echo, and the wish another one by now.
		stands := !e.Base.Doubted()
		if content {
			e.Base.Content, e.Base.Size, e.Base.MD5, e.Base.Version = r.Content, r.Size, r.MD5, r.Version
			did = true
		}
		if stands && e.Base.Name == e.Place.Name && e.Base.Name != r.Name && !strings.HasPrefix(r.Name, settle.TempPrefix) {
			e.Base.Name, e.Place.Name, e.Place.Shown = r.Name, r.Name, r.Shown
			did = true
		}
		if stands && slices.Equal(e.Place.Parents, oldParents(c)) && !slices.Equal(e.Place.Parents, r.Parents) {
			e.Base.Parents, e.Place.Parents = now.Parents, slices.Clone(r.Parents)
			did = true
		}
		return did
	})
	if err != nil {
		s.log.Warn("noting a change under a wish", "inode", c.Ino, "err", err)
		return nil
	}
	if content {
		s.gens[c.Ino] = newerGen(s.gens[c.Ino], &r)
	}
	after, still, _ := s.inodeLocked(c.Ino)
	return viewDiff(&before, true, &after, still)
}

// oldParents are the folders in which the mirror showed a node before c.
func oldParents(c *mirror.Change) (dirs []uint64) {
	for _, d := range c.Old {
		dirs = append(dirs, d.Dir)
	}
	return dirs
}
