package journal

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// recFS is the real filesystem; it notes every operation in order, and can
// run out of room.
type recFS struct {
	osFS
	root string

	mu   sync.Mutex
	ops  []fsOp
	room int64 // bytes that may still be written; negative = no limit

	roomAfterRemove bool // removing a file ends the limit
}

type opKind int

const (
	kCreate opKind = iota
	kWrite
	kTruncate
	kSync
	kRemove
	kRename
	kSyncDir
	kMark // the workload got this far
)

var kindNames = [...]string{"create", "write", "truncate", "sync", "remove", "rename", "syncdir", "mark"}

type fsOp struct {
	kind opKind
	name string // relative to the root
	to   string
	off  int64
	data []byte
	mark func(*expect)
}

func newRecFS(root string) *recFS { return &recFS{root: root, room: -1} }

func (r *recFS) note(op fsOp) {
	op.name = strings.TrimPrefix(strings.TrimPrefix(op.name, r.root), "/")
	op.to = strings.TrimPrefix(strings.TrimPrefix(op.to, r.root), "/")
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, op)
}

func (r *recFS) setRoom(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.room = n
}

func (r *recFS) OpenFile(name string, flag int, perm os.FileMode) (file, error) {
	_, err := os.Lstat(name)
	f, oerr := r.osFS.OpenFile(name, flag, perm)
	if oerr != nil {
		return nil, oerr
	}
	if err != nil {
		r.note(fsOp{kind: kCreate, name: name})
	}
	return &recFile{f.(osFile), r, name}, nil
}

func (r *recFS) Remove(name string) error {
	err := r.osFS.Remove(name)
	if err == nil && r.roomAfterRemove {
		r.setRoom(-1)
	}
	if err == nil {
		r.note(fsOp{kind: kRemove, name: name})
	}
	return err
}

func (r *recFS) Rename(from, to string) error {
	err := r.osFS.Rename(from, to)
	if err == nil {
		r.note(fsOp{kind: kRename, name: from, to: to})
	}
	return err
}

func (r *recFS) SyncDir(name string) error {
	r.note(fsOp{kind: kSyncDir, name: name})
	return nil
}

type recFile struct {
	osFile
	r    *recFS
	path string
}

func (f *recFile) WriteAt(p []byte, off int64) (int, error) {
	f.r.mu.Lock()
	short := f.r.room >= 0 && int64(len(p)) > f.r.room
	if short {
		p = p[:f.r.room]
	}
	if f.r.room >= 0 {
		f.r.room -= int64(len(p))
	}
	f.r.mu.Unlock()
	n, err := f.osFile.WriteAt(p, off)
	if n > 0 {
		f.r.note(fsOp{kind: kWrite, name: f.path, off: off, data: slices.Clone(p[:n])})
	}
	if err == nil && short {
		err = &os.PathError{Op: "write", Path: f.path, Err: unix.ENOSPC}
	}
	return n, err
}

func (f *recFile) Truncate(size int64) error {
	err := f.osFile.Truncate(size)
	if err == nil {
		f.r.note(fsOp{kind: kTruncate, name: f.path, off: size})
	}
	return err
}

func (f *recFile) Datasync() error {
	f.r.note(fsOp{kind: kSync, name: f.path})
	return nil
}

// simInode is a file as memory and as the disk have it.
type simInode struct {
	cur, disk []byte
	pending   []fsOp // writes and truncations since the last sync
}

func (f *simInode) apply(b []byte, op fsOp) []byte {
	end := op.off
	if op.kind == kWrite {
		end += int64(len(op.data))
	}
	switch {
	case op.kind == kTruncate && end < int64(len(b)):
		b = b[:end:end]
	case end > int64(len(b)):
		b = append(b[:len(b):len(b)], make([]byte, end-int64(len(b)))...)
	}
	if op.kind == kWrite {
		b = slices.Clone(b)
		copy(b[op.off:], op.data)
	}
	return b
}

// simDisk is what a disk may hold after a prefix of operations.
type simDisk struct {
	cur, disk map[string]*simInode
}

func simulate(ops []fsOp) *simDisk {
	s := &simDisk{cur: map[string]*simInode{}, disk: map[string]*simInode{}}
	for _, op := range ops {
		switch op.kind {
		case kCreate:
			s.cur[op.name] = &simInode{}
		case kWrite, kTruncate:
			f := s.cur[op.name]
			if f == nil { // unlinked while open
				continue
			}
			f.cur = f.apply(f.cur, op)
			f.pending = append(f.pending, op)
		case kSync:
			if f := s.cur[op.name]; f != nil {
				f.disk, f.pending = f.cur, nil
			}
		case kRemove:
			delete(s.cur, op.name)
		case kRename:
			s.cur[op.to] = s.cur[op.name]
			delete(s.cur, op.name)
		case kSyncDir:
			for name, f := range s.cur {
				if filepath.Dir(name) == dirOf(op.name) {
					s.disk[name] = f
				}
			}
			for name := range s.disk {
				if filepath.Dir(name) == dirOf(op.name) && s.cur[name] == nil {
					delete(s.disk, name)
				}
			}
		}
	}
	return s
}

func dirOf(name string) string {
	if name == "" {
		return "."
	}
	return name
}

// killed writes what kill -9 leaves: everything.
func (s *simDisk) killed(t testing.TB, dir string) {
	s.write(t, dir, s.cur, func(f *simInode) []byte { return f.cur })
}

// powerless writes what a power failure leaves at least: what was synced.
func (s *simDisk) powerless(t testing.TB, dir string) {
	s.write(t, dir, s.disk, func(f *simInode) []byte { return f.disk })
}

// torn writes what a power failure may leave: of what was not synced, any
// names and any writes in any order.
func (s *simDisk) torn(t testing.TB, dir string, rng *rand.Rand) {
	names := map[string]*simInode{}
	for name, f := range s.disk {
		if s.cur[name] == f || rng.IntN(2) == 0 {
			names[name] = f
		}
	}
	for name, f := range s.cur {
		if s.disk[name] == nil && rng.IntN(2) == 0 {
			names[name] = f
		}
	}
	s.write(t, dir, names, func(f *simInode) []byte {
		b := f.disk
		for _, op := range f.pending {
			if rng.IntN(2) == 0 {
				b = f.apply(b, op)
			}
		}
		return b
	})
}

func (s *simDisk) write(t testing.TB, dir string, files map[string]*simInode, content func(*simInode) []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, draftsDir), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, f := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, content(f), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// lazyFS leaves the syncing to the kernel; tests that kill only need no more.
type lazyFS struct{ osFS }

func (lazyFS) SyncDir(string) error { return nil }

func (l lazyFS) OpenFile(name string, flag int, perm os.FileMode) (file, error) {
	f, err := l.osFS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return lazyFile{f}, nil
}

type lazyFile struct{ file }

func (lazyFile) Datasync() error { return nil }

// isLog reports whether name is a segment of the log.
func isLog(name string) bool {
	_, base, ok := parseSegment(filepath.Base(name))
	return ok && !base
}
