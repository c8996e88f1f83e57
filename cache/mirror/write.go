package mirror

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/drivefs/drivefs/drive"
)

// Errors of writing.
var (
	// ErrBound: the inode number asked for belongs to another live node.
	ErrBound = errors.New("the inode number belongs to another node")
	// ErrUnknown: the mirror knows no such node.
	ErrUnknown = errors.New("the mirror does not know the node")
	// ErrRoot: the root has another id than before: it is another account.
	ErrRoot = errors.New("the mirror is of another account")
)

// SetRoot tells the root as the service answered it. ErrRoot when the mirror
// belongs to another root; then it must be set aside.
func (m *Mirror) SetRoot(n drive.Node) ([]Change, error) {
	n.IsRoot = true
	return m.write(sourceAnswer, false, func(w *wtx) error {
		if id := string(w.meta.Get([]byte(keyRoot))); id != "" && id != n.ID {
			return fmt.Errorf("%s, not %s: %w", n.ID, id, ErrRoot)
		}
		return w.apply([]drive.Node{n})
	})
}

// Apply applies one chunk of the feed, nodes and checkpoint in one
// transaction; a Checkpoint "" leaves the old one. A large one is durable with
// the next small write, or FeedEnd. A chunk should have 2,000 nodes at most:
// after larger transactions bbolt makes readers wait while it sorts what they
// freed. Reset is not looked at: who
// sees it begins a rebuild, or goes on where nothing is known yet. A node told
// twice, or told late, changes nothing.
func (m *Mirror) Apply(b drive.Batch) ([]Change, error) {
	now := time.Now()
	m.wmu.Lock()
	defer m.wmu.Unlock()
	old, _ := m.Checkpoint()
	if len(b.Nodes) == 0 && (b.Checkpoint == "" || b.Checkpoint == old) {
		m.state.mu.Lock()
		m.state.confirmed = now
		m.state.mu.Unlock()
		return nil, nil
	}
	f := m.cur.Load()
	f.lazy = len(b.Nodes) >= lazyFrom
	changes, err := m.writeLocked(sourceFeed, false, func(w *wtx) error {
		return w.applyBatch(b, now)
	})
	f.lazy = false
	if err != nil {
		return nil, err
	}
	m.state.mu.Lock()
	defer m.state.mu.Unlock()
	m.state.confirmed = now
	if b.Checkpoint != "" {
		m.state.checkpoint = b.Checkpoint
	}
	return changes, nil
}

func (w *wtx) applyBatch(b drive.Batch, now time.Time) error {
	if err := w.apply(b.Nodes); err != nil {
		return err
	}
	if w.m.rebuild != nil && w.from == nil {
		// The rebuild may hear of several versions at once and count them as
		// one; what is shown meanwhile has to be known at the exchange.
		for i := range b.Nodes {
			w.remember(b.Nodes[i].ID)
		}
	}
	if err := w.meta.Put([]byte(keyConfirmed), be(uint64(now.UnixMilli()))); err != nil {
		return err
	}
	if b.Checkpoint == "" {
		return nil
	}
	return w.meta.Put([]byte(keyCheckpoint), []byte(b.Checkpoint))
}

// Answer applies a node that the service answered to a call for it. own: the
// content is ours, so that Gen stays. bind, unless 0, is the inode number that
// this node of ours has had since before it had an id; if the feed was faster
// and the id got another number, that one is given up.
func (m *Mirror) Answer(n drive.Node, own bool, bind Ino) ([]Change, error) {
	return m.writeSmall(sourceAnswer, own, func(w *wtx) error {
		w.remember(n.ID)
		if bind == 0 || n.IsRoot {
			return w.apply([]drive.Node{n})
		}
		_, _, known := w.lookup(n.ID)
		if err := w.rebind(n.ID, bind); err != nil {
			return err
		}
		if err := w.apply([]drive.Node{n}); err != nil {
			return err
		}
		if n.Kind == drive.Folder && !known && w.bulk {
			// A folder made by us a moment ago: nothing unseen is in it.
			return w.listed.Put(be(bind), []byte{1})
		}
		return nil
	})
}

// NotLive is no version of any node.
const NotLive = -1

// Believe applies a node that the service answered to a call for it, although
// the version here may be higher: what is here was found to be wrong. against is
// the version that was found, NotLive when the node is not live here; when that
// has changed since, nothing is done.
func (m *Mirror) Believe(n drive.Node, against int64) ([]Change, error) {
	return m.writeSmall(sourceRepair, false, func(w *wtx) error {
		if ino, here, _ := w.lookup(n.ID); here {
			var cur entry
			live, _, err := w.load(ino, &cur)
			if err != nil || live != (against != NotLive) || live && cur.Version != against {
				return err
			}
		} else if against != NotLive {
			return nil
		}
		w.remember(n.ID)
		return w.apply([]drive.Node{n})
	})
}

// Rebind gives the node id the inode number to, which must be free: an editor
// replaced the node by a new file, and the node lives on under the file's
// number. Unknown ids are bound in advance.
func (m *Mirror) Rebind(id string, to Ino) ([]Change, error) {
	return m.writeSmall(sourceAnswer, true, func(w *wtx) error {
		w.remember(id)
		return w.rebind(id, to)
	})
}

func (w *wtx) rebind(id string, to Ino) error {
	if to == RootIno {
		return fmt.Errorf("the root: %w", ErrBound)
	}
	ino, here, _ := w.lookup(id)
	switch {
	case here && ino == RootIno:
		return fmt.Errorf("%s is the root: %w", id, ErrBound)
	case here:
		return w.reinode(id, ino, to)
	}
	if err := w.vacate(to, id); err != nil {
		return err
	}
	if w.bulk {
		w.fresh[id] = to
	}
	// As in reinode: the number may be below what a killed load looks through.
	if err := w.id.Put([]byte(id), w.keep(binary.AppendUvarint(nil, to))); err != nil {
		return err
	}
	// Until somebody tells about it; upsert removes it.
	return w.ghost.Put(be(to), []byte(id))
}

// remember keeps an id that an answer told about: a full feed begun before may
// not know it yet.
func (w *wtx) remember(id string) {
	m := w.m
	m.recent[id] = w.now
	if m.rebuild != nil || w.now.Sub(m.cleared) < recentFor/4 {
		return
	}
	m.cleared = w.now
	maps.DeleteFunc(m.recent, func(_ string, at time.Time) bool { return w.now.Sub(at) > recentFor })
}

// Listing applies children of dir as a listing told them, all at once or piece
// by piece (ListingPiece); nodes that name other parents only are skipped (API
// §13.1). last: with these all were told, and dir counts as Listed. What is
// known here and was not told stays: one listing is no proof that it is gone.
// ErrUnknown when dir is no live folder.
func (m *Mirror) Listing(dir Ino, nodes []drive.Node, last bool) ([]Change, error) {
	m.wmu.Lock()
	defer m.wmu.Unlock()
	f := m.cur.Load()
	// As with news: a sync for each piece of a long listing costs more than
	// the piece, and what is lost with the machine is told again.
	f.lazy = len(nodes) >= lazyFrom
	defer func() { f.lazy = false }()
	return m.writeLocked(sourceListing, false, func(w *wtx) error {
		var e entry
		live, _, err := w.load(dir, &e)
		if err != nil {
			return err
		}
		if !live || !e.Folder {
			return fmt.Errorf("listing inode %d: %w", dir, ErrUnknown)
		}
		list := make([]drive.Node, 0, len(nodes))
		for i := range nodes {
			if slices.Contains(nodes[i].Parents, e.ID) {
				list = append(list, nodes[i])
			}
		}
		if err := w.apply(list); err != nil {
			return err
		}
		for i := 0; i < len(list) && !w.bulk; i++ {
			w.remember(list[i].ID)
		}
		if !last || !w.bulk {
			return nil
		}
		return w.listed.Put(be(dir), []byte{1})
	})
}

// ListingPiece is how many nodes of a long listing, or of news, are best
// applied at a time: who reads waits for no longer than that takes.
const ListingPiece = 1000

// Gone hides a node that a call for it answered as not existing or as trashed.
// version is the one that is gone, 0 = unknown. News about an older or equal
// version from feed or listing do not bring it back.
func (m *Mirror) Gone(id string, version int64) ([]Change, error) {
	return m.writeSmall(sourceAnswer, false, func(w *wtx) error {
		ino, here, _ := w.lookup(id)
		if !here || ino == RootIno {
			return nil
		}
		var cur entry
		live, hidden, err := w.load(ino, &cur)
		if err != nil || !live && !hidden || live && version != 0 && version < cur.Version {
			return err
		}
		w.remember(id)
		gone := cur
		gone.rank = rankGone
		gone.Version = max(cur.Version, version)
		return w.hide(&gone, &cur, live)
	})
}

// SetProps tells our own properties of a node as known for its version; nil
// forgets them. What is known for a newer version stays.
func (m *Mirror) SetProps(id string, version int64, props map[string]string) ([]Change, error) {
	return m.writeSmall(sourceAnswer, true, func(w *wtx) error {
		ino, here, _ := w.lookup(id)
		if !here {
			return nil
		}
		var cur entry
		live, _, err := w.load(ino, &cur)
		if err != nil || !live || cur.Props != nil && props != nil && version < cur.PropsVersion {
			return err
		}
		w.remember(id)
		next := cur
		next.Props, next.PropsVersion = maps.Clone(props), version
		if props == nil {
			next.PropsVersion = 0
		}
		return w.rewrite(&next, &cur)
	})
}

// SetGen corrects the Gen of a node whose content version is still content: the
// inode number was shown with another one. Nothing changes for who looks.
func (m *Mirror) SetGen(id string, content int64, gen uint64) error {
	_, err := m.writeSmall(sourceAnswer, true, func(w *wtx) error {
		ino, here, _ := w.lookup(id)
		if !here {
			return nil
		}
		var cur entry
		live, _, err := w.load(ino, &cur)
		if err != nil || !live || cur.Content != content || cur.Gen == gen {
			return err
		}
		w.remember(id)
		next := cur
		next.Gen = gen
		return w.rewrite(&next, &cur)
	})
	return err
}
