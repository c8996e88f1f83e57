package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	draftsDir = "drafts"
	asideDir  = "aside"
)

// draftName is INO-FILE, decimal: the entry's inode number, and the number of
// the file, which no other file or small content ever has.
func draftName(ino, file uint64) string {
	return strconv.FormatUint(ino, 10) + "-" + strconv.FormatUint(file, 10)
}

func parseDraftName(name string) (ino, file uint64, ok bool) {
	i, b, found := strings.Cut(name, "-")
	ino, err1 := strconv.ParseUint(i, 10, 64)
	file, err2 := strconv.ParseUint(b, 10, 64)
	return ino, file, found && err1 == nil && err2 == nil && draftName(ino, file) == name
}

func (j *Journal) draftPath(ino, file uint64) string {
	return j.path(draftsDir, draftName(ino, file))
}

// nextGen gives out a generation, a new one if need be. unwritten: there are
// changes of the inode's entry that the log does not have.
func (j *Journal) nextGen(ino uint64, need bool) (gen uint64, unwritten bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if need {
		j.gen++
	}
	return j.gen, j.unwritten[ino] != nil
}

// lend gives a small content of d a number, which is d's until the next one.
func (j *Journal) lend(d *Draft) uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	before := d.lent
	j.gen++
	d.lent = j.gen
	if !d.orphan {
		j.releaseLocked(d.ino, before)
	}
	return d.lent
}

// createFile makes an empty draft file with a number of its own.
func (j *Journal) createFile(ino uint64) (f file, n uint64, err error) {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil, 0, ErrClosed
	}
	j.gen++
	n = j.gen
	done := make(chan struct{})
	j.creating[n] = done
	j.mu.Unlock()
	f, err = j.fs.OpenFile(j.draftPath(ino, n), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	j.mu.Lock()
	delete(j.creating, n)
	close(done)
	j.mu.Unlock()
	if err != nil {
		return nil, 0, fmt.Errorf("journal: new draft: %w", err)
	}
	return f, n, nil
}

// nameFiles notes on the draft files of records that were written whose they
// are, best effort: a log that is lost does not take the names with it.
func (j *Journal) nameFiles(group []*record) {
	for _, r := range group {
		for _, c := range r.changes {
			if e := c.Entry; contentGen(e) != 0 && e.Draft.Size > smallMax && e.Place.Shown != "" &&
				(contentGen(c.before) == 0 || c.before.Draft.File != e.Draft.File || c.before.Place.Shown != e.Place.Shown) {
				_ = unix.Setxattr(j.draftPath(e.Ino, e.Draft.File), nameAttr, []byte(e.Place.Shown), 0)
			}
		}
	}
}

// nameAttr is the extended attribute with the name of a draft's file.
const nameAttr = "user.drivefs.name"

// syncNames puts the name of the draft file n on the disk, unless it is there.
// One sync covers all files made before it.
func (j *Journal) syncNames(n uint64) error {
	j.mu.Lock()
	done, made := j.namesSynced, j.gen
	for n := range j.creating {
		made = min(made, n-1) // its name may come too late for this sync
	}
	j.mu.Unlock()
	if n <= done {
		return nil
	}
	if err := j.fs.SyncDir(j.path(draftsDir)); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.namesSynced = max(j.namesSynced, made)
	return nil
}

// filesOf lists the files, or small contents, that an entry keeps with synced,
// the newest content of its inode that is on the disk.
func filesOf(e *Entry, synced *DraftState) (files []uint64) {
	if contentGen(e) != 0 {
		files = append(files, e.Draft.File)
	}
	if synced != nil {
		files = append(files, synced.File)
	}
	if e != nil && e.unanswered() {
		files = append(files, e.Sent.File)
	}
	return files
}

// releaseLocked sorts out the files of an inode that neither its entry nor an
// open draft needs any more. They go when the disk has what made them
// superfluous: after a power failure it is the log that looks for them.
func (j *Journal) releaseLocked(ino uint64, files ...uint64) {
	if u := j.unwritten[ino]; u != nil {
		u.released = append(u.released, files...) // the entry may be taken back
		return
	}
	if j.closed {
		return // the directory may be another process's by now
	}
	for i, f := range files {
		if f == 0 || slices.Contains(files[:i], f) || j.neededLocked(ino, f) {
			continue
		}
		j.rubbish = append(j.rubbish, rubbish{ino, f, j.appended})
		wake(j.kick)
	}
}

// neededLocked reports whether the inode's entry or open draft needs a file, or
// small content.
func (j *Journal) neededLocked(ino, file uint64) bool {
	if d := j.drafts[ino]; d != nil && (d.file == file || d.lent == file) {
		return true
	}
	e := j.index.items[ino]
	return slices.Contains(filesOf(e, j.syncedLocked(e)), file)
}

// Part parts an open draft that no entry wants from its inode: handles
// go on, and a later OpenDraft begins anew. It does nothing while a change of
// the entry is not Written.
func (j *Journal) Part(ino uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if e := j.index.items[ino]; (e != nil && e.Draft != nil) || j.unwritten[ino] != nil {
		return
	}
	j.orphanLocked(ino)
	j.tidyLocked(ino)
}

// orphanLocked parts an open draft from its inode, which was removed: handles
// go on, and a later OpenDraft does not find it.
func (j *Journal) orphanLocked(ino uint64) {
	d := j.drafts[ino]
	if d == nil {
		return
	}
	d.orphan = true
	delete(j.drafts, ino)
	if d.refs == 0 {
		j.shutLocked(d.f)
	}
	j.releaseLocked(ino, d.file, d.lent)
}

// tidyLocked closes the draft of an inode that has no handle any more, unless
// the entry may be taken back.
func (j *Journal) tidyLocked(ino uint64) {
	d := j.drafts[ino]
	if d == nil || d.refs > 0 || j.unwritten[ino] != nil || d.neededBy(j.index.items[ino]) {
		return
	}
	delete(j.drafts, ino)
	d.endLocked()
	if d.committed == nil && d.file != 0 && !j.closed && !j.neededLocked(ino, d.file) {
		j.rubbish = slices.Insert(j.rubbish, 0, rubbish{ino, d.file, 0}) // the log never named it
		return
	}
	j.releaseLocked(ino, d.file, d.lent)
}

// unanswered reports whether content went out whole, and is not known to be on
// the drive.
func (e *Entry) unanswered() bool {
	return e.Sent != nil && e.Sent.Whole && e.Sent.Gen != 0 &&
		(e.Base == nil || e.Base.MD5 != e.Sent.MD5 || e.Base.Size != e.Sent.Size)
}

// OpenSent opens the content of the inode that was sent last, also when newer
// content has taken its place since. It is as it was then but for what was
// overwritten in place. Nil without an error: there is none any more.
func (j *Journal) OpenSent(ino uint64) (*Sending, error) {
	j.mu.RLock()
	e := j.index.items[ino]
	if e == nil || e.Sent == nil || e.Sent.File == 0 || j.closed {
		j.mu.RUnlock()
		return nil, nil
	}
	j.mu.RUnlock()
	f, err := j.openSmall(e.Sent.File, nil)
	if f == nil && err == nil {
		f, err = j.fs.OpenFile(j.draftPath(ino, e.Sent.File), os.O_RDONLY, 0)
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, nil // it was superfluous a moment ago
	case err != nil:
		return nil, fmt.Errorf("journal: open draft: %w", err)
	}
	return &Sending{io.NewSectionReader(f, 0, e.Sent.Size), f}, nil
}

// openSmall returns a copy of a small content, nil when it is not one. c has it
// when it is not stored yet.
func (j *Journal) openSmall(id uint64, c *blob) (file, error) {
	var failed smallAt
	var err error
	for {
		j.mu.RLock()
		if c != nil && c.data != nil {
			b := slices.Clone(c.data)
			j.mu.RUnlock()
			return &memFile{b}, nil
		}
		at, ok := j.small.at[id]
		seg := j.small.segs[at.seg]
		j.mu.RUnlock()
		switch {
		case !ok:
			return nil, nil
		case seg == nil:
			return nil, fmt.Errorf("%w: content %d: its segment is missing", ErrDamaged, id)
		case err != nil && at == failed:
			return nil, err
		}
		var b []byte
		if b, err = readSmall(seg.f, id, at); err == nil {
			return &memFile{b}, nil
		}
		failed = at // it may have been moved meanwhile
	}
}

// Sending is content that was sent. It must be closed.
type Sending struct {
	*io.SectionReader
	f file
}

// Close closes the file.
func (s *Sending) Close() error { return s.f.Close() }
