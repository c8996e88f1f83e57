package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// scanDrafts looks through the draft files and returns those that nothing
// needs, having put aside what may still be of worth.
func (r *recovery) scanDrafts() ([]rubbish, error) {
	j := r.j
	d, err := os.Open(j.path(draftsDir))
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	names, err := d.Readdirnames(-1)
	if err = errors.Join(err, d.Close()); err != nil {
		return nil, fmt.Errorf("journal: list drafts: %w", err)
	}
	if r.legacy {
		r.nameLegacyFiles(draftsIn(names))
	}
	var orphans []rubbish
	for _, name := range names {
		ino, n, ok := parseDraftName(name)
		if !ok {
			r.asideDraft(name, "", "it is not a draft of this journal")
			continue
		}
		j.gen = max(j.gen, n)
		e := j.index.items[ino]
		switch {
		case slices.Contains(filesOf(e, j.syncedLocked(e)), n):
		case r.wanted(ino):
			r.asideOrphan(ino, n)
		default:
			orphans = append(orphans, rubbish{ino: ino, file: n})
		}
	}
	for _, e := range j.index.items {
		if contentGen(e) != 0 {
			j.gen = max(j.gen, e.Draft.Gen, e.Draft.File)
		}
		if e.Sent != nil {
			j.gen = max(j.gen, e.Sent.Gen)
		}
	}
	return orphans, nil
}

// wanted reports whether a draft without recorded content may hold what
// somebody misses: a new file that was never closed, or one whose entry was
// lost to damage.
func (r *recovery) wanted(ino uint64) bool {
	e := r.j.index.items[ino]
	if e == nil || e.Draft == nil {
		return r.doubtAll || r.doubt[ino] || (e != nil && e.Open)
	}
	return false
}

func (r *recovery) asideOrphan(ino, n uint64) {
	name := draftName(ino, n)
	fi, err := os.Stat(r.j.path(draftsDir, name))
	if err == nil && fi.Size() == 0 {
		_ = r.j.fs.Remove(r.j.path(draftsDir, name)) // empty: nothing to keep
		return
	}
	e := r.j.index.items[ino]
	switch {
	case e != nil && e.Open:
		r.asideDraft(name, e.Place.Shown, "it was never closed")
	default:
		shown := make([]byte, 1024)
		k, err := unix.Getxattr(r.j.path(draftsDir, name), nameAttr, shown)
		if err != nil {
			k = 0
		}
		r.asideDraft(name, string(shown[:k]), "its entry is lost")
	}
}

// asideDraft moves a draft file out of the way, under a name a user can make
// something of.
func (r *recovery) asideDraft(name, shown, why string) {
	as := name
	if shown != "" {
		as += " " + shown
	}
	to, err := r.aside(as, r.j.path(draftsDir, name))
	if err != nil {
		r.problem("draft %s of %q cannot be set aside (%s): %v", name, shown, why, err)
		return
	}
	of := "an unknown file"
	if shown != "" {
		of = strconv.Quote(shown)
	}
	r.problem("local content of %s is set aside as %s: %s", of, to, why)
}

// checkDrafts drops the content wishes that cannot be fulfilled, and the new
// files of which nothing was recorded.
func (r *recovery) checkDrafts() {
	j := r.j
	for _, ino := range j.index.inos.all() {
		e := j.index.items[ino]
		switch {
		case e.Open && e.Draft == nil:
			r.replace(ino, nil) // scanDrafts has put its draft aside
		case e.Draft != nil:
			if why := r.damaged(e.Ino, e.Draft); why != "" {
				r.salvage(e, why)
			}
		}
	}
}

const notSynced = "it was closed without fsync shortly before the machine stopped, and may not be whole"

// damaged tells what is wrong with a content, "" for nothing. After a reboot,
// a file that was not synced may have holes that no look at it tells from
// zeros that the user wrote; it must not replace a good one.
func (r *recovery) damaged(ino uint64, st *DraftState) string {
	j := r.j
	if at, ok := j.small.at[st.File]; ok {
		seg := j.small.segs[at.seg]
		if seg == nil || int64(at.off)+int64(at.size) > seg.size {
			return "its bytes are missing"
		}
		if r.rebooted && !st.c.synced {
			if _, err := readSmall(seg.f, st.File, at); err != nil {
				return notSynced
			}
		}
		return ""
	}
	path := j.draftPath(ino, st.File)
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist) && st.Size == 0 && r.remake(path) == nil:
		return ""
	case errors.Is(err, os.ErrNotExist) && r.rebooted && !st.c.synced:
		return notSynced
	case errors.Is(err, os.ErrNotExist):
		return "its file is missing"
	case err != nil:
		return err.Error()
	case !fi.Mode().IsRegular():
		return "it is not a regular file"
	case fi.Size() < st.Size:
		return fmt.Sprintf("%d of its %d bytes are there", fi.Size(), st.Size)
	case r.rebooted && st.c.synced:
		st.Sums = 0 // what was overwritten in place since may be on the disk, and the note of it not
	case r.rebooted && st.Size > 0 && !r.proved(path, st):
		return notSynced
	}
	return ""
}

// proved reports whether the sums of a content that was not synced prove it
// whole: then the disk has it.
func (r *recovery) proved(path string, st *DraftState) bool {
	if st.Sums == 0 || touchedSince(path, st.Gen) {
		return false
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	sums, err := readSums(f, st.Size)
	if err != nil || digest(sums) != st.Sums {
		return false
	}
	st.c.sums.Store(&sums)
	st.c.synced = true
	return true
}

// remake gives empty content its file again.
func (r *recovery) remake(path string) error {
	f, err := r.j.fs.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// salvage deals with an entry whose content is damaged: content of the same
// inode that was synced takes its place, else the intent for content is
// dropped.
func (r *recovery) salvage(e *Entry, why string) {
	j := r.j
	p := j.older[e.Ino]
	if p == nil || e.Draft.c.synced || r.damaged(e.Ino, p) != "" {
		r.asideContent(e, why)
		r.dropContent(e)
		return
	}
	if p.File != e.Draft.File {
		r.asideContent(e, why)
	}
	r.problem("%q (inode %d) is back at the content of its last fsync: %s", e.Place.Shown, e.Ino, why)
	c := e.Clone()
	c.Draft = p
	c.Rev++
	r.replace(e.Ino, c)
}

// asideContent puts the file of e's content aside.
func (r *recovery) asideContent(e *Entry, why string) {
	j := r.j
	if e.Draft.Limit > 0 {
		why += "; parts that were not local are zeros"
	}
	name := draftName(e.Ino, e.Draft.File)
	if at, ok := j.small.at[e.Draft.File]; ok {
		seg := j.small.segs[at.seg]
		b := make([]byte, at.size)
		n := 0
		if seg != nil {
			n, _ = seg.f.ReadAt(b, int64(at.off)) // what can be read is worth more than why the rest cannot
		}
		if n > smallHeader {
			w, size := parseSmall(b)
			if size == 0 {
				w.data = b[smallHeader:n] // with the name in front
			}
			r.asideSmall(e.Ino, e.Draft.File, e.Place.Shown, w.data, why)
			return
		}
	} else if _, err := os.Lstat(j.path(draftsDir, name)); err == nil {
		r.asideDraft(name, e.Place.Shown, why)
		return
	}
	r.problem("local content of %q (inode %d) is lost: %s", e.Place.Shown, e.Ino, why)
}

// asideSmall puts a small content aside.
func (r *recovery) asideSmall(ino, id uint64, shown string, data []byte, why string) {
	name := draftName(ino, id)
	if shown != "" {
		name += " " + shown
	}
	to, err := r.asideBytes(name, data)
	if err != nil {
		r.problem("local content of %q cannot be set aside (%s): %v", shown, why, err)
		return
	}
	r.problem("local content of %q is set aside as %s: %s", shown, to, why)
}

// saveContents puts the small contents aside whose entries are lost: those
// that the log never spoke of, unless they were superfluous when its base was
// written.
func (r *recovery) saveContents() {
	for _, name := range r.logFiles {
		if !strings.HasSuffix(name, smallSuffix) {
			continue
		}
		b, err := os.ReadFile(filepath.Join(r.j.wal.dir, name))
		if err != nil {
			r.problem("%s cannot be read: %v", name, err)
			continue
		}
		scanSmall(b, func(_ int, w smallWrite, _ int) {
			if w.id > r.baseGen && !r.seen[w.id] && len(w.data) > 0 {
				r.asideSmall(w.ino, w.id, w.name, w.data, "its entry is lost")
				r.seen[w.id] = true
			}
		})
	}
}

// dropContent takes the content intent from e; without content a new file is
// nothing.
func (r *recovery) dropContent(e *Entry) {
	if e.NodeID == "" {
		r.replace(e.Ino, nil)
		return
	}
	c := e.Clone()
	c.Draft, c.Sent, c.Open = nil, nil, false
	c.Rev++
	r.replace(e.Ino, c)
}

// replace changes an entry in memory, and notes that the log has to be told.
func (r *recovery) replace(ino uint64, e *Entry) {
	j := r.j
	old := j.index.items[ino]
	j.doneRev = max(j.doneRev, old.Rev)
	a := applied{Change: Change{Ino: ino, Entry: e, Progress: true}, before: old, beforeSynced: j.syncedLocked(old)}
	if contentGen(e) != 0 && e.Draft.c.synced {
		a.synced = e.Draft
	}
	j.setLocked(ino, e, a.synced)
	r.changes = append(r.changes, a)
}

// aside moves a file into the aside directory and returns its new path. Both
// directories are synced: the entry that led to it may be dropped next.
func (r *recovery) aside(name, from string) (string, error) {
	to, err := r.asidePath(name)
	if err != nil {
		return "", err
	}
	if err := r.j.fs.Rename(from, to); err != nil {
		return "", err
	}
	return to, errors.Join(r.j.fs.SyncDir(filepath.Dir(to)), r.j.fs.SyncDir(filepath.Dir(from)))
}

// asideBytes stores bytes in the aside directory.
func (r *recovery) asideBytes(name string, b []byte) (string, error) {
	to, err := r.asidePath(name)
	if err != nil {
		return "", err
	}
	f, err := r.j.fs.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	_, err = f.WriteAt(b, 0)
	return to, errors.Join(err, f.Datasync(), f.Close(), r.j.fs.SyncDir(filepath.Dir(to)))
}

// pruneAside removes all but the newest copies of what was damaged of the log
// or the database. Contents are never removed.
func (r *recovery) pruneAside() {
	files, err := os.ReadDir(r.j.path(asideDir)) // by name, so by time
	if err != nil {
		return
	}
	newest := ""
	for _, f := range slices.Backward(files) {
		at, name, _ := strings.Cut(f.Name(), " journal.")
		switch {
		case name == "" || len(at) != len(asideTime)-1:
		case newest == "" || newest == at:
			newest = at
		default:
			_ = r.j.fs.Remove(r.j.path(asideDir, f.Name())) // tried again by the next Open
		}
	}
}

// asideTime goes before the names of what is set aside.
const asideTime = "2006-01-02 15.04.05 "

// asideCopy stores a copy of a file in the aside directory.
func (r *recovery) asideCopy(name, from string) (string, error) {
	to, err := r.asidePath(name)
	if err != nil {
		return "", err
	}
	in, err := os.Open(from)
	if err != nil {
		return "", err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(out, in)
	return to, errors.Join(err, out.Sync(), out.Close(), r.j.fs.SyncDir(filepath.Dir(to)))
}

// asidePath is a free path: the time, then name, then a number if need be.
func (r *recovery) asidePath(name string) (string, error) {
	dir := r.j.path(asideDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	base := time.Now().Format(asideTime) + strings.ReplaceAll(name, "/", "_")
	ext := filepath.Ext(base)
	if len(ext) > 16 {
		ext = ""
	}
	stem := strings.TrimSuffix(base, ext)
	for len(stem) > 200 {
		_, n := utf8.DecodeLastRuneInString(stem)
		stem = stem[:len(stem)-n]
	}
	for i := 1; ; i++ {
		p := filepath.Join(dir, stem+ext)
		if i > 1 {
			p = filepath.Join(dir, fmt.Sprintf("%s (%d)%s", stem, i, ext))
		}
		if _, err := os.Lstat(p); errors.Is(err, os.ErrNotExist) {
			return p, nil
		} else if err != nil {
			return "", err
		}
	}
}
