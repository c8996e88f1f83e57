package journal

import (
	"fmt"
	"io"
	"sync"
)

// Follower reads a draft from its beginning while it is still being written,
// for an upload that starts before the file is closed. Read waits for bytes
// that are not there yet; Finish tells where they end.
//
// A change of bytes that were read supersedes it, one ahead of them does not
// until Finish has fixed the content. Read and Seek are for one goroutine at a
// time; the other methods for any.
type Follower struct {
	d     *Draft
	grown chan struct{} // one slot: look again

	// Guarded by d.mu as the fields of a Snapshot are.
	pos    int64
	sent   int64 // everything below was read once
	end    int64 // -1 = not known yet
	over   bool
	closed bool

	once sync.Once
	done chan struct{}
}

var _ io.ReadSeekCloser = (*Follower)(nil)

// Follow begins to follow the draft. It answers ErrIncomplete when parts of
// the content are not local.
func (d *Draft) Follow() (*Follower, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.base.Limit > 0 {
		return nil, fmt.Errorf("%w: inode %d", ErrIncomplete, d.ino)
	}
	f := &Follower{d: d, end: -1, grown: make(chan struct{}, 1), done: make(chan struct{})}
	d.watchLocked(f)
	return f, nil
}

// Finish says that generation gen is what was being written: Read ends at its
// size, which is returned. It answers ErrSuperseded when bytes that were read
// are not that generation's, or it is not the last committed one.
func (f *Follower) Finish(gen uint64) (int64, error) {
	d := f.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if f.over || gen == 0 || gen != d.genLocked() || d.touched || d.committed.Size < f.sent {
		f.supersede()
		return 0, fmt.Errorf("%w: inode %d, generation %d", ErrSuperseded, d.ino, gen)
	}
	f.end = d.committed.Size
	f.wake()
	return f.end, nil
}

// Superseded is closed when what was read is not the draft's content any
// more.
func (f *Follower) Superseded() <-chan struct{} { return f.done }

// Sent is how far it was read: the bytes below were given out.
func (f *Follower) Sent() int64 {
	f.d.mu.Lock() // Read changes it under the read lock
	defer f.d.mu.Unlock()
	return f.sent
}

func (f *Follower) touch(off, end int64) {
	if off < end && off < max(f.sent, f.end) {
		f.supersede()
	}
}

func (f *Follower) wake() { wake(f.grown) }

func (f *Follower) supersede() {
	f.over = true
	f.once.Do(func() { close(f.done) })
}

// Read reads on, waiting for at least one byte. It answers io.EOF at the end
// that Finish told, ErrSuperseded, or ErrClosed once Close was called.
func (f *Follower) Read(p []byte) (int, error) {
	for {
		n, wait, err := f.read(p)
		if !wait {
			return n, err
		}
		select {
		case <-f.grown:
		case <-f.done:
		}
	}
}

// read reads what is there; wait says that there may be more later.
func (f *Follower) read(p []byte) (n int, wait bool, err error) {
	d := f.d
	d.mu.RLock()
	defer d.mu.RUnlock()
	limit := d.size
	if f.end >= 0 {
		limit = f.end
	}
	switch {
	case f.closed:
		return 0, false, fmt.Errorf("journal: read of a closed follower: %w", ErrClosed)
	case f.over:
		return 0, false, fmt.Errorf("%w: inode %d", ErrSuperseded, d.ino)
	case len(p) == 0:
		return 0, false, nil
	case f.pos >= limit:
		return 0, f.end < 0, io.EOF
	}
	n, err = d.f.ReadAt(p[:min(int64(len(p)), limit-f.pos)], f.pos)
	f.pos += int64(n)
	f.sent = max(f.sent, f.pos)
	switch {
	case n > 0:
		return n, false, nil
	case err == io.EOF:
		err = fmt.Errorf("%w: inode %d ends at %d of %d: %w", ErrDamaged, d.ino, f.pos, limit, io.ErrUnexpectedEOF)
	default:
		err = fmt.Errorf("journal: read draft: %w", err)
	}
	return 0, false, err
}

// Seek goes back for a repetition, or forth again to where it was. Whence may
// be io.SeekStart or io.SeekCurrent; the end is not known.
func (f *Follower) Seek(offset int64, whence int) (int64, error) {
	f.d.mu.RLock()
	defer f.d.mu.RUnlock()
	if whence == io.SeekCurrent {
		offset += f.pos
	}
	if (whence != io.SeekStart && whence != io.SeekCurrent) || offset < 0 || offset > f.sent {
		return 0, fmt.Errorf("%w: seek", ErrInvalid)
	}
	f.pos = offset
	return offset, nil
}

// Close ends it, also for a Read that is waiting. Closing it again does
// nothing.
func (f *Follower) Close() error {
	d := f.d
	d.mu.Lock()
	if f.closed {
		d.mu.Unlock()
		return nil
	}
	f.closed = true
	f.wake()
	d.unwatchLocked(f)
	d.mu.Unlock()
	return d.Close()
}
