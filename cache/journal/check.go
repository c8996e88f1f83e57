package journal

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/drivefs/drivefs/drive"
)

// Check looks for broken invariants: the index says what the entries say, the
// files of all content are there and long enough. It returns what it finds,
// nil when all is well. It changes nothing and may run beside everything else:
// it looks at some entries at a time, and at files without a lock.
func (j *Journal) Check() []error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("journal: "+format, args...)) }
	var sum indexSum
	j.mu.RLock()
	began := j.appended
	j.mu.RUnlock()
	for after, more := uint64(0), true; more; {
		var contents []*Entry
		j.mu.RLock()
		n := 0
		j.index.inos.after(after, func(ino uint64) bool {
			after = ino
			n++
			e := j.index.items[ino]
			if e == nil {
				bad("inode %d is listed and has no entry", ino)
				return n < checkSome
			}
			for _, err := range j.checkEntryLocked(e) {
				bad("inode %d: %w", ino, err)
			}
			sum.add(e)
			if contentGen(e) != 0 {
				contents = append(contents, e)
			}
			return n < checkSome
		})
		j.mu.RUnlock()
		for _, e := range contents {
			if err := j.checkContent(e); err != nil {
				bad("inode %d: %w", e.Ino, err)
			}
		}
		more = n == checkSome
	}
	j.mu.RLock()
	defer j.mu.RUnlock()
	if j.appended != began {
		return errs // the sums are of different moments
	}
	if is := j.index.sum(); is != sum {
		bad("the index has %+v, the entries %+v", is, sum)
	}
	for id := range j.index.nodes.more {
		bad("node %s has several inodes", id)
	}
	for ino, u := range j.unwritten {
		if u.records <= 0 {
			bad("inode %d: %d unwritten records", ino, u.records)
		}
	}
	return errs
}

// checkSome is how many entries are looked at under one lock.
const checkSome = 256

// indexSum is how much there is of what the index keeps.
type indexSum struct {
	entries, nodes int
	bytes          int64
}

func (s *indexSum) add(e *Entry) {
	s.entries++
	s.bytes += pendingBytes(e)
	if e.NodeID != "" {
		s.nodes++
	}
}

func (x *index) sum() indexSum {
	s := indexSum{entries: len(x.items), nodes: len(x.nodes.one), bytes: x.bytes}
	for _, others := range x.nodes.more {
		s.nodes += len(others)
	}
	return s
}

func (j *Journal) checkEntryLocked(e *Entry) []error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if j.index.items[e.Ino] != e {
		bad("it has another's entry")
	}
	if (e.NodeID == "") != (e.Base == nil) {
		bad("node %q, but base is nil: %t", e.NodeID, e.Base == nil)
	}
	if e.NodeID != "" && !j.index.nodes.has(e.NodeID, e.Ino) {
		bad("not found by its node %s", e.NodeID)
	}
	if e.Removed && e.Vacated.Dir != 0 && !j.index.vacated.has(e.Vacated, e.Ino) {
		bad("not found by the place that it vacated")
	}
	if len(e.Place.Parents) == 0 && !e.Removed && (e.Base == nil || len(e.Base.Parents) > 0) {
		bad("live, without a parent")
	}
	for i, p := range e.Place.Parents {
		if slices.Contains(e.Place.Parents[:i], p) {
			bad("parent %d twice", p)
		}
		if e.Removed {
			continue
		}
		name := drive.Fold(e.Place.Shown)
		if d := j.index.dirs[p]; d == nil || !d.names.has(name, e.Ino) {
			bad("not shown in %d", p)
		} else if len(d.names.more[name]) > 0 {
			bad("directory %d shows %q more than once", p, name)
		}
	}
	if e.Ino > j.maxIno {
		bad("beyond the largest inode number %d", j.maxIno)
	}
	switch {
	case e.Draft == nil:
	case e.Folder:
		bad("a folder with content")
	case !e.Draft.sane():
		bad("impossible draft state")
	case max(e.Draft.Gen, e.Draft.File) > j.gen:
		bad("generation %d, file %d: never given out", e.Draft.Gen, e.Draft.File)
	}
	return errs
}

// checkContent looks whether the content of an entry is where it should be.
func (j *Journal) checkContent(e *Entry) error {
	fi, err := os.Stat(j.draftPath(e.Ino, e.Draft.File))
	if err == nil && fi.Size() >= e.Draft.Size {
		return nil
	}
	j.mu.RLock()
	defer j.mu.RUnlock()
	switch d := j.drafts[e.Ino]; {
	case j.index.items[e.Ino] != e:
		return nil // changed meanwhile
	case d != nil && d.file == e.Draft.File && d.dirty.Load():
		return nil // being changed: the file may be anything
	case e.Draft.c != nil && e.Draft.c.data != nil || j.small.has(e.Draft.File):
		return nil
	case errors.Is(err, os.ErrNotExist):
		return errors.New("its content is missing")
	case err != nil:
		return err
	}
	return fmt.Errorf("the draft has %d bytes of %d", fi.Size(), e.Draft.Size)
}
