package cache

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/mirror"
	"github.com/drivefs/drivefs/cache/settle"
	"github.com/drivefs/drivefs/drive"
)

// host is the Store as the settler sees it: who is who, and what to do with
// what the drive answered.
type host struct{ s *Store }

var _ settle.Host = host{}

// Update edits an entry under the lock that every local change holds from
// reading an entry until it is put back, so that neither wipes out the other.
func (h host) Update(ino uint64, fn func(*journal.Entry) bool) error {
	es, err := h.s.update(ino, fn)
	h.s.emit(es)
	return err
}

func (s *Store) update(ino uint64, fn func(*journal.Entry) bool) ([]Effect, error) {
	s.view.Lock()
	defer s.view.Unlock()
	if err := s.journal.Update(ino, fn); err != nil {
		return nil, err
	}
	sent := s.echoes.of[ino]
	f := s.open.pinned(ino)
	s.journal.Peek(ino, func(e *journal.Entry) {
		s.noteSentLocked(e)
		if f != nil && e.Draft != nil && e.Base != nil {
			// What the drive has of our bytes is what the next ones begin from.
			f.base = *e.Base
		}
	})
	return s.unechoedLocked(ino, sent), nil
}

func (h host) FolderID(ino uint64) (string, settle.FolderState, error) {
	s := h.s
	s.view.RLock()
	defer s.view.RUnlock()
	if e, ok := s.journal.Clone(ino); ok {
		switch {
		case e.Removed:
			return "", settle.Gone, nil
		case e.NodeID == "":
			return "", settle.Waiting, nil
		}
		return e.NodeID, settle.Known, nil
	}
	r, ok, err := s.mirror.Get(ino)
	if err != nil {
		return "", settle.Gone, err
	}
	if !ok {
		if id := s.folderToCome(ino); id != "" {
			return id, settle.Known, nil
		}
		return "", settle.Gone, nil
	}
	return r.ID, settle.Known, nil
}

func (h host) Hidden(ino uint64) (bool, error) {
	s := h.s
	s.view.RLock()
	defer s.view.RUnlock()
	root := s.mirror.Root().Ino
	if ino == root || !s.mirror.Complete() {
		return false, nil
	}
	if s.journal.Has(ino) {
		return false, nil
	}
	if _, ok, err := s.mirror.Get(ino); err != nil || !ok || s.mirror.Reachable(ino) {
		return false, err
	}
	up, err := s.reachesLocked(ino, root)
	return err == nil && !up, err
}

func (h host) Holder(parentID, name string) (uint64, string, error) {
	dir, err := h.s.mirror.InoOf(parentID)
	if err != nil || dir == 0 {
		return 0, "", err
	}
	r, ok, err := h.s.mirror.ByName(dir, name)
	if err != nil || !ok {
		return 0, "", err
	}
	return r.Ino, r.ID, nil
}

func (h host) Place(nodeID string) (name string, parents []string, ok bool, err error) {
	r, ok, err := h.s.mirror.ByID(nodeID)
	if err != nil || !ok {
		return "", nil, false, err
	}
	for _, p := range r.Parents {
		dir, known, err := h.s.mirror.Get(p)
		if err != nil || !known {
			return "", nil, false, err
		}
		parents = append(parents, dir.ID)
	}
	return r.Name, parents, true, nil
}

func (h host) Tag(ino uint64, b *journal.Base) string {
	h.s.view.RLock()
	defer h.s.view.RUnlock()
	if v, ok := h.s.staleTags[ino]; ok && b.Version <= v {
		return ""
	}
	return b.ETag
}

func (h host) InoOf(nodeID string) (uint64, error) { return h.s.mirror.InoOf(nodeID) }

func (h host) Answered(ino uint64, n drive.Node) error {
	before, known := h.s.mirror.Ino(n.ID)
	changes, err := h.s.mirror.Answer(n, true, ino)
	if err != nil {
		return err
	}
	h.s.learnOwner()
	h.s.changed(changes)
	if known && before != ino && n.Kind == drive.Folder {
		// A folder that somebody else made first is ours now, with what is in it.
		var es []Effect
		err = h.s.mirror.List(ino, 0, int(^uint(0)>>1), func(r *mirror.Record) bool {
			es = append(es, Effect{Ino: r.Ino, Folder: r.Folder, New: []Dentry{{ino, r.Shown}}})
			return true
		})
		h.s.emit(es)
	}
	return err
}

func (h host) Foreign(n drive.Node) error {
	changes, err := h.s.mirror.Answer(n, false, 0)
	if err != nil {
		return err
	}
	h.s.changed(changes)
	return nil
}

func (h host) Gone(nodeID string, version int64) error {
	changes, err := h.s.mirror.Gone(nodeID, version)
	if err != nil {
		return err
	}
	h.s.changed(changes)
	return nil
}

// Done lets a wish end. The mirror holds what fulfilled it already, so for a
// reader nothing moves; where the mirror knows something else by now (the
// feed told of a later change meanwhile) that comes into view, with effects.
func (h host) Done(ino, rev uint64) (bool, error) {
	s := h.s
	if e, has := s.journal.Clone(ino); has && e.Rev == rev && e.Props != nil && e.NodeID != "" && !e.Removed {
		// A synced write, and not under view: the entry still covers it.
		if err := s.keepProps(e); err != nil {
			return false, err
		}
	}
	if err := s.keepGen(ino, rev); err != nil {
		return false, err
	}
	s.view.Lock()
	_, has := s.journal.Clone(ino)
	if !has {
		s.view.Unlock()
		return true, nil
	}
	before, seen, err := s.inodeLocked(ino)
	if err != nil {
		s.view.Unlock()
		return false, err
	}
	ok, err := s.journal.Done(ino, rev)
	if err != nil || !ok {
		s.view.Unlock()
		return ok, err
	}
	pinned := s.gens[ino]
	delete(s.gens, ino)
	s.forgetSentLocked(ino)
	gone := s.letGoLocked(ino)
	after, still, err := s.inodeLocked(ino)
	es := viewDiff(&before, seen, &after, still)
	if len(es) == 0 {
		es = gone
	}
	if still && after.gen != pinned && s.open.pinned(ino) == nil && len(es) == 0 {
		ds := after.dentries()
		es = []Effect{{Ino: ino, Old: ds, New: ds, Content: true, Attr: true}}
	}
	s.view.Unlock()
	if still && after.folder && after.id != "" && s.journal.HasChildren(ino) {
		s.noteFolder(ino, after.id)
	}
	s.emit(es)
	return true, err
}

// keepProps notes in the mirror the properties that a wish has brought to the
// drive: no answer of the service carries them. Those that came with a new
// node are there already.
func (s *Store) keepProps(e *journal.Entry) error {
	r, ok, err := s.mirror.ByID(e.NodeID)
	if err != nil || !ok {
		return err
	}
	if knows(&r, e) {
		return nil // without a synced write
	}
	props, version := brought(&r, e)
	s.view.Lock()
	if len(s.staleTags) >= maxLastPlaces {
		clear(s.staleTags)
	}
	s.staleTags[r.Ino] = r.Version
	s.view.Unlock()
	_, err = s.mirror.SetProps(e.NodeID, version, props)
	return err
}

// keepGen makes the mirror show the file of a wish that ends under the Gen it
// was shown with, although its node may have had another: the bytes are the
// same, and who has them open goes on seeing what is written. Other bytes must
// not come under a Gen that was used already.
func (s *Store) keepGen(ino, rev uint64) error {
	s.view.RLock()
	e, has := s.journal.Clone(ino)
	gen, shown := s.gens[ino]
	s.view.RUnlock()
	if !has || !shown || e.Rev != rev || e.Folder || e.Removed || e.NodeID == "" || e.Base == nil {
		return nil
	}
	r, ok, err := s.mirror.ByID(e.NodeID)
	if err != nil || !ok || r.Gen == gen {
		return err
	}
	if !sameContent(e.Base, &r) {
		if r.Gen > gen {
			return nil
		}
		gen++
	}
	return s.mirror.SetGen(e.NodeID, r.Content, gen)
}

// sameContent tells whether a node has the bytes of b.
func sameContent(b *journal.Base, r *mirror.Record) bool {
	if b.MD5 != "" && r.MD5 != "" {
		return b.MD5 == r.MD5 && b.Size == r.Size
	}
	return b.Content == r.Content && b.Size == r.Size
}

// newerGen is the Gen of what replaced that which was shown under gen.
func newerGen(gen uint64, r *mirror.Record) uint64 { return max(gen+1, r.Gen) }

// brought is what the properties of r are when all that e wishes are on the
// drive, and the version from which they are.
func brought(r *mirror.Record, e *journal.Entry) (props map[string]string, version int64) {
	props = map[string]string{}
	for k, v := range r.Props {
		props[k] = v
	}
	for k, v := range e.Props {
		if v == "" {
			delete(props, k)
		} else {
			props[k] = v
		}
	}
	// The mirror may not have heard of those that were set before.
	version = max(r.Version, r.PropsVersion)
	counted := false // while it was streamed
	if e.Base != nil && e.Base.Version > version {
		version, counted = e.Base.Version, true
	}
	if !counted || r.Version > 1 {
		// Each property that was set on its own made the version grow (API
		// §11). Rather too high than too low: what was listed before they were
		// set is not to take them away again.
		version += int64(len(e.Props))
	}
	return props, version
}

// knows reports whether r has the properties that e wishes, as of the version
// from which they are.
func knows(r *mirror.Record, e *journal.Entry) bool {
	props, version := brought(r, e)
	if r.Props == nil || !maps.Equal(props, r.Props) {
		return false
	}
	came := r.Version <= 1 && r.PropsVersion == r.Version && (e.Base == nil || e.Base.Version <= r.Version)
	return came || version <= r.PropsVersion // those of a new node came with it
}

// viewDiff is what the kernel must forget when the view of one inode went
// from a to b without a call of its own.
func viewDiff(a *inode, hadA bool, b *inode, hasB bool) []Effect {
	var old, now []Dentry
	if hadA {
		old = a.dentries()
	}
	if hasB {
		now = b.dentries()
	}
	if !hadA && !hasB {
		return nil
	}
	e := Effect{Old: old, New: now}
	switch {
	case hasB:
		e.Ino, e.Folder = b.ino, b.folder
	default:
		e.Ino, e.Folder = a.ino, a.folder
	}
	if hadA && hasB {
		e.Content = a.gen != b.gen
		e.Attr = a.size != b.size || !a.mtime.Equal(b.mtime) || a.mode != b.mode
		if slices.Equal(old, now) && !e.Content && !e.Attr {
			return nil
		}
	}
	return []Effect{e}
}

func (h host) Conflict(ino uint64, why string) error {
	s := h.s
	s.view.Lock()
	before, seen, err := s.inodeLocked(ino)
	e, ok := s.journal.Clone(ino)
	if err != nil || !ok || e.Removed {
		s.view.Unlock()
		return err
	}
	was := e.Place.Shown
	name, err := s.conflictNameLocked(e)
	if err != nil {
		s.view.Unlock()
		return err
	}
	var freed []Effect
	if e.Draft != nil && e.NodeID != "" {
		// The node goes on without us: it gets an inode of its own, and ours
		// stays with the local bytes and whoever has them open.
		id := e.NodeID
		if err := s.unbind(id); err != nil {
			s.view.Unlock()
			return err
		}
		e.NodeID, e.Base = "", nil
		if r, ok, rerr := s.mirror.ByID(id); rerr == nil && ok {
			n := fromRecord(&r)
			freed = []Effect{{Ino: r.Ino, New: n.dentries()}}
			if p := s.mirror.Root(); len(e.Place.Parents) == 0 {
				e.Place.Parents = []uint64{p.Ino}
			}
		}
		s.gens[ino] = before.gen
	}
	e.Place.Name, e.Place.Shown = name, mirror.Shown(name, "", false)
	if e.NodeID == "" {
		e.LocalID, e.Sent = uuid.NewString(), nil
		e.Place.Parents = e.Place.Parents[:1]
	}
	e.Due, e.Failed, e.Attempts, e.RetryAt = time.Now(), "", 0, time.Time{}
	if err := s.putLocked(e); err != nil {
		s.view.Unlock()
		return err
	}
	if f := s.open.pinned(ino); f != nil {
		p := e.Place
		f.place.Store(&p)
	}
	after, still, err := s.inodeLocked(ino)
	es := viewDiff(&before, seen, &after, still)
	p := s.pathLocked(ino)
	s.view.Unlock()
	s.events.add("conflict", p, fmt.Sprintf("%s: both are kept; the local one is %q", why, name))
	s.log.Warn("conflict: both versions are kept", "name", was, "local", name, "why", why)
	s.emit(append(es, freed...))
	return err
}

// conflictNameLocked is a free name beside the entry's place.
func (s *Store) conflictNameLocked(e *journal.Entry) (string, error) {
	name := e.Place.Name
	ext := path.Ext(name)
	if e.Folder || ext == name {
		ext = ""
	}
	stem := strings.TrimSuffix(name, ext)
	note := fmt.Sprintf(" (conflict %s %s)", s.o.Hostname, time.Now().Format("2006-01-02 15.04.05"))
	for i := 1; ; i++ {
		tail := note + ext
		if i > 1 {
			tail = strings.TrimSuffix(note, ")") + fmt.Sprintf(" %d)", i) + ext
		}
		cut := stem
		for len(cut)+len(tail) > 255 && cut != "" {
			r := []rune(cut)
			cut = string(r[:len(r)-1])
		}
		try := cut + tail
		free := true
		for _, p := range e.Place.Parents {
			_, _, taken, err := s.lookupLocked(p, try)
			if err != nil {
				return "", err
			}
			free = free && !taken
		}
		if free {
			return try, nil
		}
	}
}

func (h host) Lost(ino uint64, why string) error {
	s := h.s
	s.view.Lock()
	defer s.view.Unlock()
	e, ok := s.journal.Clone(ino)
	if !ok || e.NodeID == "" {
		return nil
	}
	if err := s.unbind(e.NodeID); err != nil {
		return err
	}
	e.NodeID, e.Base, e.Sent = "", nil, nil
	e.LocalID = uuid.NewString()
	e.Place.Parents = e.Place.Parents[:min(1, len(e.Place.Parents))]
	p := s.pathLocked(ino)
	if p == "" {
		p = e.Place.Shown
	}
	s.events.add("edit", p, why)
	s.log.Warn("the node of a local edit is gone from the drive; it comes back as a new one", "name", e.Place.Shown, "why", why)
	return s.putLocked(e)
}

func (h host) Notice(ino uint64, what string) {
	p := h.s.PathOf(ino)
	h.s.events.add("notice", p, what)
	h.s.log.Warn(what, "path", p)
}

func (h host) Undo(ino, rev uint64, why error) (bool, error) {
	s := h.s
	s.view.Lock()
	e, ok := s.journal.Clone(ino)
	if !ok || e.Rev != rev {
		s.view.Unlock()
		return false, nil
	}
	before, seen, err := s.inodeLocked(ino)
	if err != nil {
		s.view.Unlock()
		return false, err
	}
	p := s.pathLocked(ino)
	if p == "" {
		p = e.Place.Shown
	}
	if e.Draft != nil || e.NodeID != "" && len(e.Props) > 0 && s.wantsPlaceLocked(e) || s.maskedLocked(e) {
		err = s.undoPlaceLocked(e)
	} else {
		_, err = s.journal.Done(ino, rev)
		delete(s.gens, ino)
		s.forgetSentLocked(ino)
	}
	after, still, aerr := s.inodeLocked(ino)
	es := viewDiff(&before, seen, &after, still)
	s.view.Unlock()
	s.events.add("undone", p, why.Error())
	s.log.Warn("the drive refused a change; it is undone here", "path", p, "why", why)
	s.emit(es)
	return err == nil, errors.Join(err, aerr)
}

// wantsPlaceLocked tells whether e wishes for another place than its node has.
func (s *Store) wantsPlaceLocked(e *journal.Entry) bool {
	r, ok, err := s.mirror.Get(e.Ino)
	return err == nil && ok && (e.Removed || e.Place.Name != r.Name || !slices.Equal(e.Place.Parents, r.Parents))
}

// maskedLocked tells whether e removes a node that has a temporary name: back
// in view it must get the one it had here.
func (s *Store) maskedLocked(e *journal.Entry) bool {
	r, ok, err := s.mirror.ByID(e.NodeID)
	return err == nil && ok && e.Removed && len(e.Place.Parents) > 0 && strings.HasPrefix(r.Name, settle.TempPrefix)
}

// undoPlaceLocked takes the wish for another place, or for removal, out of an
// entry that carries content, and leaves the content. Where the name was given
// to another meanwhile, it stays with that.
func (s *Store) undoPlaceLocked(e *journal.Entry) error {
	masked := s.maskedLocked(e)
	e.Removed = false
	if r, ok, err := s.mirror.ByID(e.NodeID); err != nil {
		return err
	} else if ok && !masked {
		e.Place = journal.Place{Parents: slices.Clone(r.Parents), Name: r.Name, Shown: r.Shown}
	}
	if masked && e.Base != nil {
		e.Base.Doubt()
	}
	for _, p := range e.Place.Parents {
		if other, taken := s.journal.Child(p, mirror.Fold(e.Place.Shown)); taken && other.Ino != e.Ino {
			name, err := s.conflictNameLocked(e)
			if err != nil {
				return err
			}
			e.Place.Name, e.Place.Shown = name, mirror.Shown(name, "", false)
			break
		}
	}
	return s.putLocked(e)
}

// remadeFolders remembers which folder was made again for which, so that all
// that belonged into one meets in one.
type remadeFolders struct {
	mu sync.Mutex
	m  map[uint64]uint64 // folder that is gone → its successor
}

func (h host) ParentGone(ino uint64) error {
	s := h.s
	s.remade.mu.Lock()
	defer s.remade.mu.Unlock()
	var es []Effect
	defer func() { s.emit(es) }()
	s.view.Lock()
	defer s.view.Unlock()
	e, ok := s.journal.Clone(ino)
	if !ok || e.Removed {
		return nil
	}
	before, seen, err := s.inodeLocked(ino)
	if err != nil {
		return err
	}
	defer func() {
		for _, p := range e.Place.Parents {
			if n, ok, err := s.inodeLocked(p); err == nil && ok && len(n.parents) > 0 {
				es = append(es, Effect{Ino: p, Folder: true, New: n.dentries()})
			}
		}
		after, still, _ := s.inodeLocked(ino)
		es = append(es, viewDiff(&before, seen, &after, still)...)
	}()
	for i, p := range e.Place.Parents {
		heir, err := s.remakeLocked(p, 0)
		if err != nil {
			return err
		}
		e.Place.Parents[i] = heir
	}
	slices.Sort(e.Place.Parents)
	e.Place.Parents = slices.Compact(e.Place.Parents)
	e.Due, e.RetryAt = time.Now(), time.Now().Add(time.Second)
	if err := s.putLocked(e); err != nil {
		return err
	}
	s.events.add("edit", s.pathLocked(ino), "its folder went from the drive; the folder is made again")
	return nil
}

// remakeLocked gives a folder that can take children: dir itself while it is
// in the tree, else a new one of the same name below what is left of its
// path. remade.mu and view are held.
func (s *Store) remakeLocked(dir uint64, depth int) (uint64, error) {
	root := s.mirror.Root().Ino
	if dir == root || depth > 256 {
		return root, nil
	}
	if s.remade.m == nil {
		s.remade.m = map[uint64]uint64{}
	}
	if heir, ok := s.remade.m[dir]; ok {
		if _, alive, err := s.inodeLocked(heir); err == nil && alive {
			return heir, nil
		}
	}
	n, ok, err := s.inodeLocked(dir)
	if err != nil {
		return 0, err
	}
	if ok {
		if up, err := s.reachesLocked(dir, root); err == nil && up && (n.fresh || s.mirror.Reachable(dir)) {
			return dir, nil
		}
	}
	name, parent := "recovered", root
	if ok && len(n.parents) > 0 {
		name = n.name
		if parent, err = s.remakeLocked(n.parents[0], depth+1); err != nil {
			return 0, err
		}
	} else if was, has := s.lastPlace[dir]; has {
		name = was.Name
		if parent, err = s.remakeLocked(was.Dir, depth+1); err != nil {
			return 0, err
		}
	}
	shown := mirror.Shown(name, "", false)
	if have, _, taken, err := s.lookupLocked(parent, shown); err != nil {
		return 0, err
	} else if taken && have.folder {
		s.remade.m[dir] = have.ino
		return have.ino, nil
	} else if taken {
		shown += " (folder)"
		name += " (folder)"
	}
	ino, err := s.mirror.NewIno()
	if err != nil {
		return 0, err
	}
	now := time.Now()
	e := &journal.Entry{
		Ino: ino, Folder: true,
		Intent:   journal.Intent{Mtime: now, Created: now, Place: journal.Place{Parents: []uint64{parent}, Name: name, Shown: shown}, Since: now, Due: now},
		Progress: journal.Progress{LocalID: uuid.NewString()},
	}
	if err := s.putLocked(e); err != nil {
		return 0, err
	}
	s.remade.m[dir] = ino
	return ino, nil
}
