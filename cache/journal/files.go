package journal

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
)

const (
	draftsDir = "drafts"
	asideDir  = "aside"
)

// draftName is INO-BIRTH, decimal: the entry's inode number, and a generation
// number that no content in an older file of the same inode reaches.
func draftName(ino, birth uint64) string {
	return strconv.FormatUint(ino, 10) + "-" + strconv.FormatUint(birth, 10)
}

func parseDraftName(name string) (ino, birth uint64, ok bool) {
	i, b, found := strings.Cut(name, "-")
	ino, err1 := strconv.ParseUint(i, 10, 64)
	birth, err2 := strconv.ParseUint(b, 10, 64)
	return ino, birth, found && err1 == nil && err2 == nil && draftName(ino, birth) == name
}

func (j *Journal) draftPath(ino, birth uint64) string {
	return j.path(draftsDir, draftName(ino, birth))
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

// making is a draft file that is being made with mu given up. Its inode has
// no other draft meanwhile, so nothing of it is younger than birth.
type making struct {
	birth uint64
	done  chan struct{} // closed when it is in the tables, or not made
}

// createLocked makes an empty draft file that is younger than all content of
// its inode, and gives mu up meanwhile. Nobody else may be making one for ino.
func (j *Journal) createLocked(ino uint64) (file, uint64, error) {
	j.gen++
	m := &making{birth: j.gen, done: make(chan struct{})}
	j.making[ino] = m
	j.mu.Unlock()
	f, err := j.create(ino, m.birth)
	j.mu.Lock()
	delete(j.making, ino)
	close(m.done)
	if err != nil {
		return nil, 0, err
	}
	j.files[ino] = append(j.files[ino], m.birth)
	return f, m.birth, nil
}

// create makes the empty draft file of that birth.
func (j *Journal) create(ino, birth uint64) (file, error) {
	f, err := j.fs.OpenFile(j.draftPath(ino, birth), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("journal: new draft: %w", err)
	}
	return f, nil
}

// syncNames puts the name of the draft file of that birth on the disk, unless
// it is there. One sync covers all files made before it.
func (j *Journal) syncNames(birth uint64) error {
	j.mu.Lock()
	done, made := j.namesSynced, j.gen
	for _, m := range j.making {
		made = min(made, m.birth-1) // its name may come too late for this sync
	}
	j.mu.Unlock()
	if birth <= done {
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

// birthLocked is the file that holds generation gen.
func (j *Journal) birthLocked(ino, gen uint64) (birth uint64, ok bool) {
	return birthOf(j.files[ino], gen)
}

func birthOf(births []uint64, gen uint64) (birth uint64, ok bool) {
	for _, b := range births {
		if b <= gen {
			birth, ok = b, true
		}
	}
	return birth, ok
}

// forgetLocked takes a file out of the table.
func (j *Journal) forgetLocked(ino, birth uint64) {
	rest := slices.DeleteFunc(j.files[ino], func(b uint64) bool { return b == birth })
	if len(rest) == 0 {
		delete(j.files, ino)
	} else {
		j.files[ino] = rest
	}
}

// Part parts an open draft that no entry wishes for from its inode: handles
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
		_ = d.f.Close() // nobody wants what is in it
	}
}

// tidyLocked closes the draft of an inode that has no handle any more, and
// sorts out the files that neither the entry nor an open draft needs. They are
// unlinked when the database says the same: after a power failure it is the
// database's entry that looks for its file. Nothing is done as long as the
// entry may be taken back.
func (j *Journal) tidyLocked(ino uint64) {
	if j.unwritten[ino] != nil {
		return
	}
	e, d := j.index.items[ino], j.drafts[ino]
	if d != nil && d.refs == 0 && !d.neededBy(e) {
		delete(j.drafts, ino)
		_ = d.f.Close() // what is wanted of it is in the file
		d = nil
	}
	births := j.files[ino]
	if len(births) == 0 || j.closed {
		return // when closed, the directory may be another process's by now
	}
	var kept []uint64
	for _, b := range births {
		if (d != nil && d.birth == b) || holds(births, b, e) || holdsSent(births, b, e) || (e != nil && holdsState(births, b, j.proven[ino])) {
			kept = append(kept, b)
			continue
		}
		j.rubbish = append(j.rubbish, rubbish{ino, b, j.ver})
	}
	if len(kept) == len(births) {
		return
	}
	if len(kept) == 0 {
		delete(j.files, ino)
	} else {
		j.files[ino] = kept
	}
	if j.foldedVer == j.ver {
		j.unlink(j.takeRubbishLocked())
	}
}

// holds reports whether the file of birth b has e's content.
func holds(births []uint64, b uint64, e *Entry) bool {
	return e != nil && holdsState(births, b, e.Draft)
}

// holdsSent reports whether the file of birth b has the content of e that was
// sent, as long as it is not known what the drive made of it: also when newer
// content has taken its place, or the inode was removed.
func holdsSent(births []uint64, b uint64, e *Entry) bool {
	if e == nil || !e.unanswered() {
		return false
	}
	of, ok := birthOf(births, e.Sent.Gen)
	return ok && of == b
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
	path := ""
	if e != nil && e.Sent != nil && !j.closed {
		if birth, ok := j.birthLocked(ino, e.Sent.Gen); ok {
			path = j.draftPath(ino, birth)
		}
	}
	j.mu.RUnlock()
	if path == "" {
		return nil, nil
	}
	f, err := j.fs.OpenFile(path, os.O_RDONLY, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, nil // it was superfluous a moment ago
	case err != nil:
		return nil, fmt.Errorf("journal: open draft: %w", err)
	}
	return &Sending{io.NewSectionReader(f, 0, e.Sent.Size), f}, nil
}

// Sending is content that was sent. It must be closed.
type Sending struct {
	*io.SectionReader
	f file
}

// Close closes the file.
func (s *Sending) Close() error { return s.f.Close() }

func holdsState(births []uint64, b uint64, st *DraftState) bool {
	if st == nil {
		return false
	}
	of, ok := birthOf(births, st.Gen)
	return ok && of == b
}

// takeRubbishLocked takes the files that may be unlinked now.
func (j *Journal) takeRubbishLocked() []rubbish {
	n := 0
	for n < len(j.rubbish) && j.rubbish[n].after <= j.foldedVer {
		n++
	}
	out := j.rubbish[:n:n]
	j.rubbish = j.rubbish[n:]
	if len(j.rubbish) == 0 {
		j.rubbish = nil
	}
	return out
}

func (j *Journal) unlink(rs []rubbish) {
	for _, r := range rs {
		err := j.fs.Remove(j.draftPath(r.ino, r.birth))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			j.log.Warn("journal: cannot remove a draft that is not needed", slog.Uint64("ino", r.ino), slog.Any("err", err))
		}
	}
}
