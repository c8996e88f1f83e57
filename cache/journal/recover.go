package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// scanDrafts makes the table of draft files and returns those that nothing
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
	for _, name := range names {
		ino, birth, ok := parseDraftName(name)
		if !ok {
			r.asideDraft(name, "", "it is not a draft of this journal")
			continue
		}
		j.files[ino] = append(j.files[ino], birth)
	}
	var orphans []rubbish
	for ino, births := range j.files {
		slices.Sort(births)
		e, synced := j.index.items[ino], j.proven[ino]
		var kept []uint64
		for _, b := range births {
			switch {
			case holds(births, b, e), holdsSent(births, b, e), holdsState(births, b, synced):
				kept = append(kept, b)
			case r.wanted(ino):
				r.asideOrphan(ino, b)
			default:
				orphans = append(orphans, rubbish{ino: ino, birth: b})
			}
		}
		if len(kept) == 0 {
			delete(j.files, ino)
		} else {
			j.files[ino] = kept
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

func (r *recovery) asideOrphan(ino, birth uint64) {
	name := draftName(ino, birth)
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
		r.asideDraft(name, r.names[ino], "its entry is lost")
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
// files that were never closed.
func (r *recovery) checkDrafts() {
	j := r.j
	for _, ino := range j.index.inos.all() {
		e := j.index.items[ino]
		switch {
		case e.Open:
			// scanDrafts has put an unrecorded draft aside.
			if e.Draft != nil {
				r.asideContent(e, "it was never closed")
			}
			r.replace(ino, nil)
		case e.Draft != nil:
			if why := r.damaged(e.Ino, e.Draft); why != "" {
				r.salvage(e, why)
			}
		}
	}
}

const notSynced = "it was closed without fsync shortly before the machine stopped, and may not be whole"

// damaged tells what is wrong with the file of a content, "" for nothing.
// After a reboot, content that was not synced may have holes that no look at
// the file tells from zeros somebody wrote; it must not replace a good file.
func (r *recovery) damaged(ino uint64, st *DraftState) string {
	j := r.j
	birth, ok := j.birthLocked(ino, st.Gen)
	if !ok {
		if st.Size == 0 && r.remake(ino, st) == nil {
			return ""
		}
		if r.rebooted && j.proven[ino] == nil {
			return notSynced
		}
		return "its file is missing"
	}
	path := j.draftPath(ino, birth)
	fi, err := os.Lstat(path)
	switch {
	case err != nil:
		return err.Error()
	case !fi.Mode().IsRegular():
		return "it is not a regular file"
	case fi.Size() < st.Size:
		return fmt.Sprintf("%d of its %d bytes are there", fi.Size(), st.Size)
	case !r.rebooted || st.Size == 0:
		return ""
	}
	if p := j.proven[ino]; p == nil || p.Gen != st.Gen {
		return notSynced
	}
	return ""
}

// remake gives empty content its file again.
func (r *recovery) remake(ino uint64, st *DraftState) error {
	f, err := r.j.fs.OpenFile(r.j.draftPath(ino, st.Gen), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	r.j.files[ino] = append(r.j.files[ino], st.Gen)
	slices.Sort(r.j.files[ino])
	return f.Close()
}

// salvage deals with an entry whose content is damaged: content of the same
// inode that was synced takes its place, else the wish for content is
// dropped.
func (r *recovery) salvage(e *Entry, why string) {
	j := r.j
	p := j.proven[e.Ino]
	if p == nil || p.Gen == e.Draft.Gen || r.damaged(e.Ino, p) != "" {
		r.asideContent(e, why)
		r.dropContent(e)
		return
	}
	now, ok := j.birthLocked(e.Ino, e.Draft.Gen)
	if before, _ := j.birthLocked(e.Ino, p.Gen); ok && before != now {
		r.asideContent(e, why)
	}
	r.problem("%q (inode %d) is back at the content of its last fsync: %s", e.Place.Shown, e.Ino, why)
	c := e.Clone()
	st := *p
	st.Local = slices.Clone(p.Local)
	c.Draft = &st
	c.Rev++
	r.replace(e.Ino, c)
	j.proven[e.Ino] = c.Draft
}

// asideContent puts the file of e's content aside.
func (r *recovery) asideContent(e *Entry, why string) {
	j := r.j
	birth, ok := j.birthLocked(e.Ino, e.Draft.Gen)
	if !ok {
		r.problem("local content of %q (inode %d) is lost: %s", e.Place.Shown, e.Ino, why)
		return
	}
	if e.Draft.Limit > 0 {
		why += "; parts that were not local are zeros"
	}
	r.asideDraft(draftName(e.Ino, birth), e.Place.Shown, why)
	j.forgetLocked(e.Ino, birth)
}

// dropContent takes the content wish from e; without content a new file is
// nothing.
func (r *recovery) dropContent(e *Entry) {
	if e.NodeID == "" {
		r.replace(e.Ino, nil)
		return
	}
	c := e.Clone()
	c.Draft, c.Sent = nil, nil
	c.Rev++
	r.replace(e.Ino, c)
}

func (r *recovery) replace(ino uint64, e *Entry) {
	j := r.j
	if old := j.index.items[ino]; old != nil {
		j.doneRev = max(j.doneRev, old.Rev)
	}
	j.index.set(ino, e)
	delete(j.proven, ino)
	j.dirty[ino] = struct{}{}
}

// lastGen is the largest generation in use anywhere.
func (r *recovery) lastGen(orphans []rubbish) uint64 {
	var gen uint64
	for _, e := range r.j.index.items {
		if e.Draft != nil {
			gen = max(gen, e.Draft.Gen)
		}
		if e.Sent != nil {
			gen = max(gen, e.Sent.Gen)
		}
	}
	for _, births := range r.j.files {
		gen = max(gen, slices.Max(births))
	}
	for _, o := range orphans {
		gen = max(gen, o.birth)
	}
	return gen
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

// asidePath is a free path: the time, then name, then a number if need be.
func (r *recovery) asidePath(name string) (string, error) {
	dir := r.j.path(asideDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	base := time.Now().Format("2006-01-02 15.04.05 ") + strings.ReplaceAll(name, "/", "_")
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
