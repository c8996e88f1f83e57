package cache

import (
	"crypto/md5"
	"encoding/hex"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cache/chunk"
	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/drive"
)

// Killed after the mirror heard of the upload, before the journal did.
func TestKillAfterAnswered(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour; o.Backoff = 10 * time.Millisecond })
	w.write("/f", "body")
	e, _ := w.s.Resolve(t.Context(), "/f")
	sum := md5.Sum([]byte("body"))
	var id string
	root := w.s.mirror.Root().ID
	err := w.s.tree.Learn(e.Ino, func(j *journal.Entry) bool {
		id = j.LocalID
		j.Sent = &journal.Sent{Gen: j.Draft.Gen, Size: 4, MD5: hex.EncodeToString(sum[:]), Whole: true, At: time.Now(), Deadline: time.Now().Add(time.Second), ParentID: root, Name: "f"}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	n, err := w.o.Remote.Upload(t.Context(), drive.NewNode{Name: "f", ParentID: root, LocalID: id}, drive.Body{Reader: reader("body"), Size: 4})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.s.mirror.Answer(n, true, e.Ino); err != nil {
		t.Fatal(err)
	}
	w.reopen()
	w.want(w.ls("/"), "f")
	w.flush()
	w.poll()
	w.want(w.ls("/"), "f")
	a, _ := w.s.Resolve(t.Context(), "/f")
	if a.Ino != e.Ino {
		t.Error("another inode", a.Ino, e.Ino)
	}
	w.want(w.drive("/f"), "body")
	if len(w.paths()) != 2 {
		t.Error(w.paths())
	}
}

// Killed between the moment a saved document took over its node in the journal
// and the moment the mirror heard of it.
func TestKillAfterInherit(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour; o.Backoff = 10 * time.Millisecond })
	n := w.put("/doc", "one")
	w.poll()
	w.write("/.doc.AbCdEf", "two")
	w.rename("/.doc.AbCdEf", "/doc")
	e, err := w.s.Resolve(t.Context(), "/doc")
	if err != nil {
		t.Fatal(err)
	}
	j, _ := w.s.journal.Get(e.Ino)
	if did, err := w.s.tree.Inherit(e.Ino, j.Rev); !did || err != nil {
		t.Fatal(did, err)
	}
	w.stop() // as it is
	w.open()
	w.want(w.ls("/"), "doc")
	w.want(w.read("/doc"), "two")
	if now, err := w.s.Resolve(t.Context(), "/doc"); err != nil || now.Ino != e.Ino {
		t.Errorf("inode %d after %d: %v", now.Ino, e.Ino, err)
	}
	w.flush()
	w.want(w.drive("/doc"), "two")
	if got := w.id("/doc"); got != n.ID {
		t.Error("the document is another node")
	}
	if tr := w.other.TrashList(); len(tr) > 0 {
		t.Errorf("in the trash: %v", tr)
	}
}

// A removed file's node comes back (restored on the web) before the wish
// that was fulfilled left the journal.
func TestRestoredUnderWish(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
	n := w.put("/f", "one")
	w.poll()
	w.unlink("/f")
	if _, err := w.other.Trash(n.ID); err != nil {
		t.Fatal(err)
	}
	w.poll()
	w.flush()
	if _, err := w.other.Restore(n.ID); err != nil {
		t.Fatal(err)
	}
	w.poll()
	w.want(w.ls("/"), "f")
	w.want(w.read("/f"), "one")
}

// Nothing stays behind.
func TestLeaks(t *testing.T) {
	w := newWorld(t)
	for range 20 {
		w.write("/f", "x")
		w.write("/.f.AbCdEf", "y")
		w.rename("/.f.AbCdEf", "/f")
		w.read("/f")
		w.rename("/f", "/g")
		w.write("/f", "z")
		w.unlink("/g")
		w.unlink("/f")
	}
	w.flush()
	for _, err := range w.s.tree.Leaks() {
		t.Error(err)
	}
}

// After a crash a draft may hold what a program wrote into it in place since
// it was sent: those bytes are not the version that the drive has.
func TestAdoptAfterKill(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
	w.write("/f", "AAAA")
	e, _ := w.s.Resolve(t.Context(), "/f")
	sum := md5.Sum([]byte("AAAA"))
	n := w.put("/theirs", "AAAA") // stands for the upload
	err := w.s.tree.Learn(e.Ino, func(j *journal.Entry) bool {
		j.Sent = &journal.Sent{Gen: j.Draft.Gen, Size: 4, MD5: hex.EncodeToString(sum[:]), Whole: true, At: time.Now(), Deadline: time.Now().Add(time.Hour), ParentID: w.s.mirror.Root().ID, Name: "f"}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	h := w.create("/f", unix.O_RDWR)
	w.writeTo(h, "BB", 1)
	w.reopen() // nothing was flushed or released
	answer, err := w.o.Remote.Get(t.Context(), n.ID)
	if err != nil {
		t.Fatal(err)
	}
	d, err := w.s.journal.OpenDraft(e.Ino, nil)
	if err != nil {
		t.Fatal(err)
	}
	adopt(w.s.chunks, w.o.Disk, w.s.journal, e.Ino, answer, d)
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	v := chunk.Version{ID: n.ID, Content: n.Content.Version, Size: 4, MD5: n.Content.MD5, Name: "f"}
	p := make([]byte, 4)
	if _, err := w.s.chunks.ReadInto(t.Context(), v, p, 0); err != nil {
		t.Fatal(err)
	}
	w.want(string(p), "AAAA")
}
