package mirror

import (
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
// transaction, which is durable when it returns; a Checkpoint "" leaves the old
// one. A chunk should have 2,000 nodes at most: after larger transactions bbolt
// makes readers wait while it sorts what they freed. Reset is not looked at: who
// sees it begins a refresh. A node told twice, or told late, changes nothing.
func (m *Mirror) Apply(b drive.Batch) ([]Change, error) {
	now := time.Now()
	m.wmu.Lock()
	defer m.wmu.Unlock()
	if old, _ := m.Checkpoint(); len(b.Nodes) == 0 && (b.Checkpoint == "" || b.Checkpoint == old) {
		m.confirm(now, "")
		return nil, nil
	}
	changes, err := m.writeLocked(sourceFeed, false, func(w *wtx) error {
		err := w.apply(b.Nodes)
		for i := range b.Nodes {
			w.beside(b.Nodes[i].ID)
		}
		return errors.Join(err, w.putCheckpoint(b.Checkpoint))
	})
	if err == nil {
		m.confirm(now, b.Checkpoint)
	}
	return changes, err
}

func (w *wtx) putCheckpoint(cp string) error {
	if err := w.meta.Put([]byte(keyConfirmed), be(uint64(w.now.UnixMilli()))); err != nil || cp == "" {
		return err
	}
	return w.meta.Put([]byte(keyCheckpoint), []byte(cp))
}

// confirm notes in memory what is committed.
func (m *Mirror) confirm(at time.Time, cp string) {
	m.state.mu.Lock()
	defer m.state.mu.Unlock()
	m.state.confirmed = at
	if cp != "" {
		m.state.checkpoint = cp
	}
}

// Answer applies a node that the service answered to a call for it. own: the
// content is ours, so that Gen stays. bind, unless 0, is the inode number that
// this node of ours has had since before it had an id; if the feed was faster
// and the id got another number, that one is given up.
func (m *Mirror) Answer(n drive.Node, own bool, bind Ino) ([]Change, error) {
	return m.writeSmall(sourceAnswer, own, func(w *wtx) error {
		defer w.remember(n.ID)
		if bind == 0 || n.IsRoot {
			return w.apply([]drive.Node{n})
		}
		_, known := w.lookup(n.ID)
		if err := w.rebind(n.ID, bind); err != nil {
			return err
		}
		if err := w.apply([]drive.Node{n}); err != nil {
			return err
		}
		if n.Kind == drive.Folder && !known {
			// Made by us a moment ago: nothing unseen is in it.
			w.setListed(bind)
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
		var cur entry
		ino, _ := w.lookup(n.ID)
		live, err := w.view.entry(ino, &cur)
		if err != nil || live != (against != NotLive) || live && cur.Version != against {
			return err
		}
		defer w.remember(n.ID)
		return w.apply([]drive.Node{n})
	})
}

// Rebind gives the node id the inode number to, which must be free: an editor
// replaced the node by a new file, and the node lives on under the file's
// number. Unknown ids are bound in advance.
func (m *Mirror) Rebind(id string, to Ino) ([]Change, error) {
	return m.writeSmall(sourceAnswer, true, func(w *wtx) error {
		defer w.remember(id)
		return w.rebind(id, to)
	})
}

func (w *wtx) rebind(id string, to Ino) error {
	ino, known := w.lookup(id)
	switch {
	case to == RootIno, known && ino == RootIno:
		return fmt.Errorf("%s: the root: %w", id, ErrBound)
	case known:
		return w.reinode(id, ino, to)
	}
	if err := w.vacate(to, id); err != nil {
		return err
	}
	w.bind(id, to)
	w.set(to, appendPlaceholder(nil, id)) // until somebody tells about it
	return nil
}

// remember keeps what an answer told: a full answer begun before may not know it
// yet.
func (w *wtx) remember(id string) {
	m := w.m
	ino, known := w.lookup(id)
	if !known {
		return
	}
	w.beside(id)
	m.recent[ino] = w.now
	if len(m.recent) < recentMax && w.now.Sub(m.cleared) < recentFor/4 {
		return
	}
	m.cleared = w.now
	maps.DeleteFunc(m.recent, func(_ Ino, at time.Time) bool { return w.now.Sub(at) > recentFor })
	if len(m.recent) >= recentMax {
		clear(m.recent)
	}
}

// beside notes that a node was told beside the full answer that is being taken.
func (w *wtx) beside(id string) {
	if ino, known := w.lookup(id); known && w.m.full != nil {
		w.m.full.beside.add(ino)
	}
}

// Listing applies children of dir as a listing told them, all at once or piece
// by piece (ListingPiece); nodes that name other parents only are skipped (API
// §13.1). last: with these all were told, and dir counts as Listed. What is
// known here and was not told stays: one listing is no proof that it is gone.
// ErrUnknown when dir is no live folder.
func (m *Mirror) Listing(dir Ino, nodes []drive.Node, last bool) ([]Change, error) {
	return m.write(sourceListing, false, func(w *wtx) error {
		var e entry
		live, err := w.view.entry(dir, &e)
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
		for i := range list {
			w.beside(list[i].ID)
		}
		if last && !m.Complete() {
			w.setListed(dir)
		}
		return nil
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
		ino, known := w.lookup(id)
		if !known || ino == RootIno {
			return nil
		}
		var cur entry
		st, err := w.load(ino, &cur)
		if err != nil || !st.known() || st == stateLive && version != 0 && version < cur.Version {
			return err
		}
		if w.remember(id); st == statePurged {
			return nil
		}
		gone := cur
		gone.state = max(stateGone, st)
		gone.Version = max(cur.Version, version)
		return w.hide(&gone, &cur)
	})
}

// change changes a live node that stays what and where it is.
func (w *wtx) change(id string, fn func(next *entry) bool) error {
	var cur entry
	ino, _ := w.lookup(id)
	if live, err := w.view.entry(ino, &cur); err != nil || !live {
		return err
	}
	next := cur
	if !fn(&next) {
		return nil
	}
	w.remember(id)
	return w.rewrite(&next, &cur)
}

// SetProps tells our own properties of a node as known for its version; nil
// forgets them. What is known for a newer version stays.
func (m *Mirror) SetProps(id string, version int64, props map[string]string) ([]Change, error) {
	return m.writeSmall(sourceAnswer, true, func(w *wtx) error {
		return w.change(id, func(e *entry) bool {
			if e.Props != nil && props != nil && version < e.PropsVersion {
				return false
			}
			e.Props, e.PropsVersion = maps.Clone(props), version
			if props == nil {
				e.PropsVersion = 0
			}
			return true
		})
	})
}

// SetGen corrects the Gen of a node whose content version is still content: the
// inode number was shown with another one. Nothing changes for who looks.
func (m *Mirror) SetGen(id string, content int64, gen uint64) error {
	_, err := m.writeSmall(sourceAnswer, true, func(w *wtx) error {
		return w.change(id, func(e *entry) bool {
			same := e.Content == content && e.Gen != gen
			e.Gen = gen
			return same
		})
	})
	return err
}
