package settle

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
	if t.s.r.Owner() == "" || len(e.Props) == 0 || t.bare || t.s.bare.Load() {
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

// created notes what a creation tells of properties.
func (t *task) created(props map[string]string) {
	t.props = props
	if t.bare {
		t.s.bare.Store(true)
	}
}

// carrying is the answer to a creation with the properties that went along,
// which no answer repeats; so the host can keep both at once.
func (t *task) carrying(n drive.Node, props map[string]string) drive.Node {
	if owner := t.s.r.Owner(); n.Properties == nil && props != nil && owner != "" {
		n.Properties = map[string]map[string]string{owner: maps.Clone(props)}
	}
	return n
}

// setProps brings the own properties of the node to what e wishes, one call
// a key. After a crash they are set again, which changes nothing.
func (t *task) setProps(e *journal.Entry) report {
	for _, k := range slices.Sorted(maps.Keys(e.Props)) {
		v := e.Props[k]
		if have, ok := t.props[k]; ok && have == v || !ok && v == "" && t.node == "" && t.props != nil {
			continue
		}
		if t.s.r.Owner() == "" {
			// Nobody has told our owner name yet (API §11): the first node we
			// create will. When none is about to be, the host keeps the values
			// on this machine.
			if t.s.creating() {
				return report{kind: later, at: time.Now().Add(min(t.s.o.Look, 200*time.Millisecond))}
			}
			continue
		}
		var err error
		if v == "" {
			ctx, cancel := t.call("delete-property")
			err = t.s.r.DeleteProperty(ctx, e.NodeID, k)
			cancel()
		} else {
			ctx, cancel := t.call("set-property")
			err = t.s.r.SetProperty(ctx, e.NodeID, k, v)
			cancel()
		}
		switch {
		case err == nil:
		case errors.Is(err, drive.ErrNotFound):
			return t.rebase(e, err)
		case errors.Is(err, drive.ErrInvalid), errors.Is(err, drive.ErrForbidden):
			// The node is what matters; the host keeps the value on this machine.
			t.s.log.Warn("the drive does not take a property", "ino", t.ino, "key", k, "err", err)
			continue
		default:
			return t.fail(err)
		}
		if t.props == nil {
			t.props = map[string]string{}
		}
		t.props[k] = v
		if t.live == nil {
			continue
		}
		// The host takes the properties of a new node to have come with it.
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
	return report{}
}

// creating reports whether some entry is about to make a node.
func (s *Settler) creating() bool {
	for _, ino := range s.j.Inos() {
		making := false
		s.j.Peek(ino, func(e *journal.Entry) {
			making = e.NodeID == "" && !e.Removed && !e.Open && e.Failed == ""
		})
		if making {
			return true
		}
	}
	return false
}
