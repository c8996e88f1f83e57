package writeback

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drivefs/drivefs/cache/tree"
	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/drive/drivetest"
)

// overwrites puts other content into a file, as somebody else.
func (w *world) overwrites(p, content string) drivetest.Node {
	w.Helper()
	n, err := w.other.Lookup(p)
	if err == nil {
		n, err = w.other.Overwrite(n.ID, strings.NewReader(content))
	}
	if err != nil {
		w.Fatal(err)
	}
	return n
}

// unanswered writes a file whose upload gets no true answer, and returns when
// nothing is under way.
func (w *world) unanswered(p, content string, f drivetest.Fault) {
	w.Helper()
	op := "content.overwrite"
	if _, err := w.other.Lookup(p); err != nil {
		op = "content.upload"
	}
	before := w.srv.Requests()[op]
	w.srv.Hook(once(op, func() *drivetest.Fault { return &f }))
	w.write(p, content)
	w.until("it was sent", func() bool { return w.srv.Requests()[op] > before })
	synctest.Wait()
}

// What an upload without an answer has made is somebody else's file by now: it
// was taken elsewhere and overwritten.
func TestMadeAndTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.unanswered("a", "ours", drivetest.Fault{Status: 504, Effect: drivetest.EffectDone})
		n := w.overwrites("a", "theirs")
		if _, err := w.other.Rename(n.ID, "elsewhere"); err != nil {
			t.Fatal(err)
		}
		w.flush()
		w.wantTree(map[string]string{"a": "ours", "elsewhere": "theirs"})
	})
}

// Removing a file while it is not known what became of what was sent to it
// takes what was sent to the trash, and nothing else.
func TestRemoveUnanswered(t *testing.T) {
	const long = "a long content of ours"
	for _, tt := range []struct {
		name   string
		old    string // "" = a new file
		fault  drivetest.Fault
		theirs string
		want   map[string]string
		trash  []string
	}{
		{name: "new", fault: drivetest.Fault{Status: 504, Effect: drivetest.EffectDone}, trash: []string{"a"}},
		{name: "new, cut short", fault: drivetest.Fault{Status: 504, Effect: drivetest.EffectTruncated, After: 20 * time.Millisecond}, trash: []string{"a"}},
		{name: "new, then overwritten by others", fault: drivetest.Fault{Status: 504, Effect: drivetest.EffectDone}, theirs: "theirs",
			want: map[string]string{"a": "theirs"}},
		{name: "overwritten", old: "old", fault: drivetest.Fault{Status: 504, Effect: drivetest.EffectDone}, trash: []string{"a"}},
		{name: "overwritten, cut short", old: "old", fault: drivetest.Fault{Status: 504, Effect: drivetest.EffectTruncated, After: 20 * time.Millisecond}, trash: []string{"a"}},
		// The removal is undone, and brings back what it removed, beside theirs.
		{name: "overwritten by others only", old: "old", fault: drivetest.Fault{Status: 504}, theirs: "theirs",
			want: map[string]string{"a": "theirs", "a (conflict HOST)": long}},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			w := newWorld(t, drivetest.Options{}, fast).run()
			if tt.old != "" {
				w.write("a", tt.old)
				w.flush()
			}
			w.unanswered("a", long, tt.fault)
			if tt.theirs != "" {
				w.overwrites("a", tt.theirs)
			}
			w.remove("a")
			w.flush()
			w.wantTree(tt.want)
			w.wantTrash(tt.trash...)
		})
	}
}

// A change from elsewhere that went to the trash with its file comes back
// also when the name was taken meanwhile.
func TestRemoveChangedNameTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.write("a.txt", "ours")
		w.flush()
		var id string
		change := once("trash.put", func() *drivetest.Fault { id = w.overwrites("a.txt", "theirs").ID; return nil })
		take := once("trash.restore", func() *drivetest.Fault {
			if _, err := w.other.PutPath("a.txt", []byte("new")); err != nil {
				t.Error(err)
			}
			return nil
		})
		w.srv.Hook(func(op drivetest.Op) *drivetest.Fault { change(op); return take(op) })
		w.remove("a.txt")
		w.flush()
		w.wantTree(map[string]string{"a.txt": "new", "a (" + id[:8] + ").txt": "theirs"})
		w.wantTrash()
	})
}

// What somebody trashes while it has a temporary name does not keep that.
func TestTrashedUnderTemporaryName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.write("a", "a")
		w.write("b", "b")
		w.flush()
		w.s.Pause(true)
		w.rename("a", "t")
		w.rename("b", "a")
		w.rename("t", "b")
		trashed := 0
		w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
			for _, n := range w.other.Tree() {
				if strings.HasPrefix(n.Name, tree.TempPrefix) && n.Status == drivetest.StatusAvailable {
					if _, err := w.other.Trash(n.ID); err != nil {
						t.Error(err)
					}
					trashed++
				}
			}
			return nil
		})
		w.unpause()
		w.flush()
		if trashed != 1 {
			t.Fatalf("%d trashed", trashed)
		}
		for _, n := range w.other.TrashList() {
			if strings.HasPrefix(n.Name, tree.TempPrefix) {
				t.Errorf("%s is in the trash", n.Name)
			}
		}
	})
}

// Two machines of one user bear one name. What one is about to send, and what
// it fails to, never touches what the other has made meanwhile, though it be
// the beginning of it (a log), or of the same name.
func TestTwoMachines(t *testing.T) {
	const theirs, mine = "a line of theirs\n", "a line of theirs\nand one of ours\n"
	// put makes a file as another machine would: through the API, with our name.
	put := func(w *world, name, content string) {
		w.Helper()
		n := drive.NewNode{Name: name, ParentID: w.other.Root(), LocalID: "of another machine"}
		made, err := w.client.Upload(w.ctx(), n, drive.Body{Reader: strings.NewReader(content), Size: int64(len(content))})
		if err != nil {
			w.Fatal(err)
		}
		if made.CreatedBy != w.client.Owner() {
			w.Fatalf("made by %q", made.CreatedBy)
		}
	}
	bubble(t, "before", func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.write("first", "x") // tells who we are
		w.flush()
		put(w, "log", theirs)
		w.write("log", mine)
		w.flush()
		w.wantTree(map[string]string{"first": "x", "log": theirs, "log (conflict HOST)": mine})
		w.wantTrash()
	})
	bubble(t, "removed here", func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.write("first", "x")
		w.flush()
		w.unanswered("log", mine+mine, drivetest.Fault{Status: 504})
		put(w, "log", "theirs is shorter")
		w.remove("log")
		w.flush()
		w.wantTree(map[string]string{"first": "x", "log": "theirs is shorter"})
		w.wantTrash()
	})
	bubble(t, "localId", func(t *testing.T) {
		o := fast
		o.Device = "machine"
		w := newWorld(t, drivetest.Options{}, o).run()
		var ids []string
		w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
			for _, ino := range w.j.Inos() {
				if e, ok := w.j.Clone(ino); ok && e.Sent != nil && (op.Name == "nodes.create" || op.Name == "content.upload") {
					ids = append(ids, e.LocalID)
				}
			}
			return nil
		})
		w.mkdir("d")
		w.write("d/f", "x")
		w.flush()
		w.srv.Hook(nil)
		if len(ids) != 2 || !strings.HasPrefix(ids[0], "machine.") || !strings.HasPrefix(ids[1], "machine.") {
			t.Errorf("sent %q", ids)
		}
	})
}
