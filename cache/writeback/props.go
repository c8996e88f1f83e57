package writeback

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/drive"
)

// propsToSend are the properties that can go along with a POST; nil while
// the owner name is not known (API §11).
func (t *task) propsToSend(e *journal.Entry) map[string]string {
	if t.s.r.Owner() == "" || len(e.Props) == 0 || t.bare || t.s.bare.Load() || t.s.noProps.Load() {
		return nil
	}
	m := map[string]string{}
	for k, v := range e.Props {
		if v != "" {
			m[k] = v
		}
	}
	return m
}

// withoutProps reports whether a creation that was refused is to be tried
// without the properties, which may be what the service did not like (API §11).
func (t *task) withoutProps(props map[string]string, err error) bool {
	if props == nil || !errors.Is(err, drive.ErrForbidden) && !errors.Is(err, drive.ErrInvalid) {
		return false
	}
	t.bare = true
	return true
}

// created notes what a creation tells of properties, and adds those that went
// along to its answer, which does not repeat them: so both are kept at
// once. The first file and the first folder are looked at, since the service
// may take properties without a word and keep none; from then on they are set
// on their own.
func (t *task) created(n *drive.Node, props map[string]string) {
	if t.bare {
		t.s.bare.Store(true)
	}
	t.findOwner(*n)
	owner := t.s.r.Owner()
	if props == nil || owner == "" {
		return
	}
	keeps := &t.s.fileKeeps
	if n.Kind == drive.Folder {
		keeps = &t.s.folderKeeps
	}
	if n.Properties == nil && !keeps.Load() {
		if fresh, err := t.getProps(n.ID); err == nil {
			n.Properties = fresh.Properties
		}
	}
	switch {
	case n.Properties == nil:
		n.Properties = map[string]map[string]string{owner: maps.Clone(props)}
	case !holdsProps(n.Properties[owner], props):
		t.s.bare.Store(true)
		t.s.log.Warn("the drive does not keep the properties that come with a new node", "node", n.ID)
		return
	default:
		keeps.Store(true)
	}
	t.props = props
}

// holdsProps reports whether all of want is in have.
func holdsProps(have, want map[string]string) bool {
	for k, v := range want {
		if have[k] != v {
			return false
		}
	}
	return true
}

func (t *task) getProps(id string) (drive.Node, error) {
	ctx, cancel := t.call("look")
	defer cancel()
	return t.s.r.GetWithProperties(ctx, id)
}

// findOwner asks for the owner name when the answer to a creation does not
// tell it, once.
func (t *task) findOwner(n drive.Node) {
	if t.s.r.Owner() != "" || n.CreatedBy != "" || t.s.asked.Swap(true) {
		return
	}
	if fresh, err := t.get(n.ID); err == nil && fresh.CreatedBy != "" {
		t.s.r.SetOwner(fresh.CreatedBy)
		return
	}
	t.s.notice(t.ino, "the drive does not tell under which name this program makes files: times, modes and extended attributes stay on this machine")
}

// setProps brings the own properties of the node to what e wants, one call
// a key. After a crash they are set again, which changes nothing.
func (t *task) setProps(e *journal.Entry) report {
	if t.s.noProps.Load() {
		return report{}
	}
	called := map[string]string{}
	for _, k := range slices.Sorted(maps.Keys(e.Props)) {
		v := e.Props[k]
		if have, ok := t.props[k]; ok && have == v || !ok && v == "" && t.node == "" && t.props != nil {
			continue
		}
		if t.s.r.Owner() == "" {
			// Nobody has told our owner name yet (API §11): the first node we
			// create will. When none is about to be, the values stay on this
			// machine.
			if t.s.creating() {
				return report{kind: later, at: time.Now().Add(min(t.s.o.Look, 200*time.Millisecond))}
			}
			continue
		}
		err := t.setProp(e.NodeID, k, v)
		switch {
		case err == nil:
		case errors.Is(err, drive.ErrNotFound):
			return t.rebase(e, err)
		case errors.Is(err, drive.ErrInvalid), errors.Is(err, drive.ErrForbidden):
			// The node is what matters; the value stays on this machine.
			t.s.log.Warn("the drive does not take a property", "ino", t.ino, "key", k, "err", err)
			continue
		default:
			return t.fail(err)
		}
		if t.props == nil {
			t.props = map[string]string{}
		}
		t.props[k] = v
		if v != "" {
			called[k] = v
		}
		if t.live == nil {
			continue
		}
		// The tree takes the properties of a new node to have come with it.
		err = t.update(func(e *journal.Entry) bool {
			if e.Base == nil {
				return false
			}
			e.Base.Version++
			return true
		})
		if err != nil {
			return t.fail(err)
		}
	}
	t.proveProps(e.NodeID, called)
	return report{}
}

// setProp makes the call; v "" takes the key away.
func (t *task) setProp(id, k, v string) error {
	if v == "" {
		ctx, cancel := t.call("delete-property")
		defer cancel()
		return t.s.r.DeleteProperty(ctx, id, k)
	}
	ctx, cancel := t.call("set-property")
	defer cancel()
	return t.s.r.SetProperty(ctx, id, k, v)
}

// proveProps looks whether properties are there that were set on their own
// because new nodes do not keep theirs. When not, none is sent any more.
func (t *task) proveProps(id string, want map[string]string) {
	if len(want) == 0 || !t.s.bare.Load() || t.s.setKeeps.Load() {
		return
	}
	n, err := t.getProps(id)
	switch {
	case err != nil:
	case holdsProps(n.Properties[t.s.r.Owner()], want):
		t.s.setKeeps.Store(true)
	case !t.s.noProps.Swap(true):
		t.s.notice(t.ino, "the drive does not keep properties: times, modes and extended attributes stay on this machine")
	}
}

// creating reports whether some entry is about to make a node, as of a moment
// ago: many ask at once, and each time all entries are looked at.
func (s *WriteBack) creating() bool {
	now := time.Now()
	s.mu.Lock()
	makes, fresh := s.makes, now.Sub(s.madeAt) < s.o.Look
	s.mu.Unlock()
	if fresh {
		return makes
	}
	makes = false
	for _, ino := range s.j.Inos() {
		if e, ok := s.j.Get(ino); ok && e.NodeID == "" && !e.Removed && !e.Open && e.Failed == "" {
			makes = true
			break
		}
	}
	s.mu.Lock()
	s.makes, s.madeAt = makes, now
	s.mu.Unlock()
	return makes
}
