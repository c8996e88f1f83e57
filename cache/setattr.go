package cache

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cache/journal"
)

// Setattr changes size, mode or modification time of the version gen of ino.
// h is the handle the caller has, nil for a call by path; a new size set by
// path is committed at once, one set through a handle with the handle's next
// Flush. Times and mode bits are kept on the node as properties, one call for
// all that changed in a moment.
func (s *Store) Setattr(ctx context.Context, ino, gen uint64, h *Handle, a SetAttr) (Attr, error) {
	if s.readOnly() {
		return Attr{}, ErrReadOnly
	}
	if a.Size != nil {
		if err := s.resize(ctx, ino, gen, h, *a.Size); err != nil {
			return Attr{}, err
		}
	}
	if a.Mode != nil || a.Mtime != nil {
		if err := s.setMeta(ino, gen, a); err != nil {
			return Attr{}, err
		}
	}
	return s.Attr(ctx, ino, gen)
}

func (s *Store) resize(ctx context.Context, ino, gen uint64, h *Handle, size int64) error {
	if size < 0 {
		return ErrInvalid
	}
	if h != nil {
		if !h.writable {
			return ErrBadHandle
		}
		return h.f.truncate(size)
	}
	h, err := s.Open(ctx, ino, gen, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer h.Release()
	if err := h.f.truncate(size); err != nil {
		return err
	}
	return h.Flush()
}

func (s *Store) setMeta(ino, gen uint64, a SetAttr) error {
	if f := s.open.get(ino, gen); f != nil {
		if a.Mtime != nil {
			f.mtime.Store(a.Mtime.UnixNano())
		}
		if a.Mode != nil {
			f.mode.Store(ModeSet | *a.Mode&0o777)
		}
		if f.gone.Load() {
			return nil
		}
	}
	s.view.Lock()
	defer s.view.Unlock()
	e, err := s.wishLocked(ino)
	if err != nil {
		if errors.Is(err, ErrNotExist) && s.open.get(ino, gen) != nil {
			return nil
		}
		return err
	}
	if e.Removed {
		return ErrNotExist
	}
	before := attrProp(e.Mtime, e.Mode)
	if a.Mtime != nil {
		e.Mtime = *a.Mtime
		s.dirTimes.forget(ino)
	}
	if a.Mode != nil {
		e.Mode = ModeSet | *a.Mode&0o777
	}
	if e.Rev != 0 || attrProp(e.Mtime, e.Mode) != before || !s.hasAttrProp(ino, before) {
		e.Props = withAttrProp(e.Props, e.Mtime, e.Mode)
		if e.Rev == 0 || e.NodeID != "" && e.Draft == nil {
			s.settleLater(e)
		}
		return s.putLocked(e)
	}
	return nil
}

// hasAttrProp tells whether the drive has these attributes already, so that
// setting them again costs nothing.
func (s *Store) hasAttrProp(ino uint64, value string) bool {
	r, ok, err := s.mirror.Get(ino)
	return err == nil && ok && r.Props[propAttr] == value
}

// SyncDir is fsync(2) of a folder: what happened in it so far survives a
// power failure.
func (s *Store) SyncDir(ctx context.Context, dir uint64) error {
	return s.journal.Sync(context.WithoutCancel(ctx))
}

// setProp wishes for an own property of ino; "" takes it away.
func (s *Store) setProp(ino uint64, key, value string) error {
	s.view.Lock()
	defer s.view.Unlock()
	e, err := s.wishLocked(ino)
	if err != nil {
		return err
	}
	if e.Removed {
		return ErrNotExist
	}
	if value != "" {
		if n := s.propCountLocked(e, key); n >= maxProps {
			return fmt.Errorf("%w: the drive takes %d properties a node", ErrAttrSpace, maxProps)
		}
	}
	e.Props = maps.Clone(e.Props)
	if e.Props == nil {
		e.Props = map[string]string{}
	}
	e.Props[key] = value
	if e.Rev == 0 || e.NodeID != "" && e.Draft == nil {
		s.settleLater(e)
	}
	return s.putLocked(e)
}

// maxProps is the service's limit per owner and node (API §5.8).
const maxProps = 10

// propCountLocked counts the own properties e's node will have beside key,
// with the place that propAttr needs.
func (s *Store) propCountLocked(e *journal.Entry, key string) int {
	keys := map[string]bool{propAttr: true}
	for k := range s.propsLocked(e.Ino, e) {
		keys[k] = true
	}
	delete(keys, key)
	return len(keys)
}

// propsLocked are the own properties of ino as wished for; e may be nil.
func (s *Store) propsLocked(ino uint64, e *journal.Entry) map[string]string {
	props := map[string]string{}
	if r, ok, err := s.mirror.Get(ino); err == nil && ok {
		maps.Copy(props, r.Props)
	}
	if e != nil {
		for k, v := range e.Props {
			if v == "" {
				delete(props, k)
			} else {
				props[k] = v
			}
		}
	}
	return props
}
