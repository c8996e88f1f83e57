package journal

import (
	"errors"
	"fmt"
	"io"
	"sync"
)

// Snapshot reads one generation of a draft for sending, from its beginning or
// from wherever Seek puts it. It is used by one goroutine at a time.
//
// It reads the draft's own file, so it lives only as long as nobody changes
// bytes that it has not read. Appending disturbs nothing. Changing bytes that
// were read does not either, until they are asked for again.
type Snapshot struct {
	d    *Draft
	gen  uint64
	size int64

	// Guarded by d.mu: the owner moves pos holding it for reading, writers
	// look at everything holding it for writing.
	pos     int64
	whole   verified
	changed Extent // hull of what changed behind pos
	over    bool
	closed  bool

	once sync.Once
	done chan struct{}
}

var (
	_ io.ReadSeekCloser = (*Snapshot)(nil)
	_ io.ReaderAt       = (*Snapshot)(nil)
)

// Snapshot opens generation gen. It answers ErrSuperseded when that is not
// the last committed one or its bytes were changed since, ErrIncomplete when
// parts of it are not local.
//
// ErrDamaged, also of Read: the file is not what was closed.
func (d *Draft) Snapshot(gen uint64) (*Snapshot, error) {
	if err := d.verify(gen); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if gen == 0 || gen != d.genLocked() || d.touched {
		return nil, fmt.Errorf("%w: inode %d, generation %d", ErrSuperseded, d.ino, gen)
	}
	if d.base.Limit > 0 {
		return nil, fmt.Errorf("%w: inode %d", ErrIncomplete, d.ino)
	}
	s := &Snapshot{d: d, gen: gen, size: d.committed.Size, done: make(chan struct{})}
	if sums := d.committed.c.sums.Load(); sums != nil && d.mem == nil {
		s.whole.sums = *sums
	}
	d.watchLocked(s)
	return s, nil
}

// Size is the number of bytes in the generation.
func (s *Snapshot) Size() int64 { return s.size }

// Gen is the generation.
func (s *Snapshot) Gen() uint64 { return s.gen }

// Superseded is closed when the rest of the generation cannot be read any
// more.
func (s *Snapshot) Superseded() <-chan struct{} { return s.done }

// touch is told that [off, end) was changed. d.mu is held for writing.
func (s *Snapshot) touch(off, end int64) {
	end = min(end, s.size)
	if off >= end {
		return
	}
	if end > s.pos {
		s.supersede()
		return
	}
	if s.changed.Off == s.changed.End {
		s.changed = Extent{off, end}
		return
	}
	s.changed = Extent{min(s.changed.Off, off), max(s.changed.End, end)}
}

func (s *Snapshot) wake() {} // it has all its bytes

func (s *Snapshot) supersede() {
	s.over = true
	s.once.Do(func() { close(s.done) })
}

// Read reads on. It answers ErrSuperseded once bytes ahead have changed.
func (s *Snapshot) Read(p []byte) (int, error) {
	s.d.mu.RLock()
	defer s.d.mu.RUnlock()
	if s.closed {
		return 0, fmt.Errorf("journal: read of a closed snapshot: %w", ErrClosed)
	}
	n := min(int64(len(p)), s.size-s.pos)
	if s.pos < s.changed.End && s.pos+max(n, 0) > s.changed.Off {
		s.supersede()
	}
	if s.over {
		return 0, fmt.Errorf("%w: inode %d, generation %d", ErrSuperseded, s.d.ino, s.gen)
	}
	if n <= 0 {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	var m int
	var err error
	if s.whole.sums != nil && !s.changedIn(s.pos/granule) {
		m, err = s.whole.read(s.d.f, p[:n], s.pos, s.size)
		n = int64(m)
	} else {
		m, err = s.d.f.ReadAt(p[:n], s.pos)
	}
	s.pos += int64(m)
	switch {
	case errors.Is(err, ErrDamaged):
		return 0, err
	case int64(m) == n && (err == nil || m > 0):
		return m, nil
	case err == io.EOF:
		return m, fmt.Errorf("%w: inode %d ends at %d of %d: %w", ErrDamaged, s.d.ino, s.pos, s.size, io.ErrUnexpectedEOF)
	default:
		return m, fmt.Errorf("journal: read draft: %w", err)
	}
}

// changedIn reports whether bytes of granule n were changed: only those behind
// pos were, so that the rest may be read.
func (s *Snapshot) changedIn(n int64) bool {
	return s.changed.Off < s.changed.End && s.changed.Off < (n+1)*granule && s.changed.End > n*granule
}

// ReadAt reads at off without moving Read's place. As long as nothing was read
// with Read, any change of the generation's bytes makes it fail with
// ErrSuperseded, so what it returned until then is all of one generation.
func (s *Snapshot) ReadAt(p []byte, off int64) (int, error) {
	s.d.mu.RLock()
	defer s.d.mu.RUnlock()
	rest := s.size - off
	switch {
	case s.closed:
		return 0, fmt.Errorf("journal: read of a closed snapshot: %w", ErrClosed)
	case off < 0:
		return 0, fmt.Errorf("%w: read at %d", ErrInvalid, off)
	case s.over || (off < s.changed.End && off+int64(len(p)) > s.changed.Off):
		return 0, fmt.Errorf("%w: inode %d, generation %d", ErrSuperseded, s.d.ino, s.gen)
	case rest <= 0:
		return 0, io.EOF
	case int64(len(p)) <= rest:
		return s.d.f.ReadAt(p, off)
	}
	n, err := s.d.f.ReadAt(p[:rest], off)
	if err == nil {
		err = io.EOF
	}
	return n, err
}

// Seek sets where Read goes on. Bytes ahead of it count as not read.
func (s *Snapshot) Seek(offset int64, whence int) (int64, error) {
	s.d.mu.RLock()
	defer s.d.mu.RUnlock()
	switch whence {
	case io.SeekCurrent:
		offset += s.pos
	case io.SeekEnd:
		offset += s.size
	}
	if offset < 0 || whence < io.SeekStart || whence > io.SeekEnd {
		return 0, fmt.Errorf("%w: seek", ErrInvalid)
	}
	s.pos = offset
	return offset, nil
}

// Close ends the snapshot. Closing it again does nothing.
func (s *Snapshot) Close() error {
	d := s.d
	d.mu.Lock()
	if s.closed {
		d.mu.Unlock()
		return nil
	}
	s.closed = true
	d.unwatchLocked(s)
	d.mu.Unlock()
	return d.Close()
}
