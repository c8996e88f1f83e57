package writeback

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/drive/drivetest"
)

func TestNewFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.write("a.txt", "hello")
		w.write("empty", "")
		w.flush()
		w.wantTree(map[string]string{"a.txt": "hello", "empty": ""})
		w.wantCalls(map[string]int{"content.upload": 2})
		w.wantTrash()
		if got := w.uploaded[w.ino("a.txt")]; got != "hello" {
			t.Errorf("Uploaded saw %q", got)
		}
	})
}

func TestOverwrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.write("a.txt", "one")
		w.flush()
		before, _ := w.other.Lookup("a.txt")
		w.srv.ResetRequests()
		w.write("a.txt", "two, longer")
		w.flush()
		w.wantTree(map[string]string{"a.txt": "two, longer"})
		w.wantCalls(map[string]int{"content.overwrite": 1, "nodes.get": 1})
		if after, _ := w.other.Lookup("a.txt"); after.ID != before.ID {
			t.Errorf("the node was replaced")
		}
		w.srv.ResetRequests()
		w.write("a.txt", "two, longer") // the same bytes again: a look is enough
		w.flush()
		w.wantCalls(map[string]int{"nodes.get": 1})
	})
}

func TestRenameAndMove(t *testing.T) {
	for _, tt := range []struct {
		name, to string
		calls    map[string]int
	}{
		{"rename", "dir/b", map[string]int{"nodes.update": 1}},
		{"move", "other/a", map[string]int{"nodes.move": 1}},
		{"both", "other/b", map[string]int{"nodes.update": 1, "nodes.move": 1}},
		{"case only", "dir/A", map[string]int{"nodes.update": 1}},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			w := newWorld(t, drivetest.Options{}, fast).run()
			w.mkdir("dir")
			w.mkdir("other")
			w.write("dir/a", "x")
			w.flush()
			w.srv.ResetRequests()
			ino, rev := must[uint64, uint64](t)(w.tryRename("dir/a", tt.to))
			if err := w.s.Wait(w.ctx(), ino, rev); err != nil {
				t.Fatal(err)
			}
			w.wantTree(map[string]string{"dir": "/", "other": "/", tt.to: "x"})
			w.wantCalls(tt.calls)
		})
	}
}

// Both halves of rename + move meet a name that is in the way in between.
func TestMoveWithConflictInBetween(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files map[string]string
		calls map[string]int
	}{
		{"new name taken in the old folder", map[string]string{"one/b": "1"}, map[string]int{"nodes.update": 1, "nodes.move": 1}},
		{"old name taken in the new folder", map[string]string{"two/a": "2"}, map[string]int{"nodes.update": 1, "nodes.move": 1}},
		{"both", map[string]string{"one/b": "1", "two/a": "2"}, map[string]int{"nodes.update": 2, "nodes.move": 1}},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			w := newWorld(t, drivetest.Options{}, fast).run()
			w.mkdir("one")
			w.mkdir("two")
			want := map[string]string{"one": "/", "two": "/", "two/b": "x"}
			for p, s := range tt.files {
				w.write(p, s)
				want[p] = s
			}
			w.write("one/a", "x")
			w.flush()
			w.srv.ResetRequests()
			w.rename("one/a", "two/b")
			w.flush()
			w.wantTree(want)
			w.wantCalls(tt.calls)
		})
	}
	bubble(t, "unseen", func(t *testing.T) { // the mirror does not know them
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.mkdir("one")
		w.mkdir("two")
		w.write("one/a", "x")
		w.flush()
		for _, p := range []string{"one/b", "two/a"} {
			if _, err := w.other.PutPath(p, []byte("foreign")); err != nil {
				t.Fatal(err)
			}
		}
		w.rename("one/a", "two/b")
		w.flush()
		w.wantTree(map[string]string{"one": "/", "two": "/", "one/b": "foreign", "two/a": "foreign", "two/b": "x"})
	})
}

func TestSwapAndChain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		for _, n := range []string{"a", "b", "c"} {
			w.write(n, n)
		}
		w.flush()

		// swap
		w.rename("a", "t")
		w.rename("b", "a")
		w.rename("t", "b")
		w.flush()
		w.wantTree(map[string]string{"a": "b", "b": "a", "c": "c"})

		// swap at once
		w.s.Pause(true)
		w.srv.ResetRequests()
		w.rename("a", "t")
		w.rename("b", "a")
		w.rename("t", "b")
		w.unpause()
		w.flush()
		w.wantTree(map[string]string{"a": "a", "b": "b", "c": "c"})
		w.wantCalls(map[string]int{"nodes.update": 3})

		// chain
		w.s.Pause(true)
		w.rename("c", "d")
		w.rename("b", "c")
		w.rename("a", "b")
		w.unpause()
		w.flush()
		w.wantTree(map[string]string{"b": "a", "c": "b", "d": "c"})

		// ring of folders
		w.mkdir("x")
		w.mkdir("x/y")
		w.flush()
		w.s.Pause(true) // x/y becomes x, and the old x is inside it as y
		w.rename("x/y", "t")
		w.rename("x", "t/y")
		w.rename("t", "x")
		w.unpause()
		w.flush()
		w.wantTree(map[string]string{"b": "a", "c": "b", "d": "c", "x": "/", "x/y": "/"})
		w.wantTrash()
	})
}

func TestReplace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.write("old", "old")
		w.write("new", "new")
		w.flush()
		w.srv.ResetRequests()
		w.rename("new", "old")
		w.flush()
		w.wantTree(map[string]string{"old": "new"})
		w.wantTrash("old")
		w.wantCalls(map[string]int{"nodes.get": 1, "trash.put": 1, "nodes.update": 1})
	})
}

func TestFolderIntoItsSuccessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.mkdir("d")
		w.write("d/f", "f")
		w.flush()
		w.s.Pause(true)
		w.rename("d", "d.old")
		w.mkdir("d")
		w.rename("d.old", "d/x")
		w.unpause()
		w.flush()
		w.wantTree(map[string]string{"d": "/", "d/x": "/", "d/x/f": "f"})
		w.s.Pause(true) // rm -r d, but what was inside takes its name
		w.rename("d/x", "t")
		w.remove("d")
		w.rename("t", "d")
		w.unpause()
		w.flush()
		w.wantTree(map[string]string{"d": "/", "d/f": "f"})
		w.wantTrash("d")
	})
}

func TestMkdirP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.mkdir("1")
		w.mkdir("1/2")
		w.mkdir("1/2/3")
		w.mkdir("1/2/3/4")
		w.mkdir("1/2/3/4/5")
		w.write("1/2/3/4/5/f", "x")
		w.flush()
		w.wantTree(map[string]string{"1": "/", "1/2": "/", "1/2/3": "/", "1/2/3/4": "/", "1/2/3/4/5": "/", "1/2/3/4/5/f": "x"})
		w.wantCalls(map[string]int{"nodes.create": 5, "content.upload": 1})
	})
}

// A folder that was made elsewhere at the same time is told to a caller who
// waits for his own; where none waits any more, the two are one.
func TestMkdirExisting(t *testing.T) {
	bubble(t, "awaited", func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		if _, err := w.other.Mkdir("", "LOCK"); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		err := w.told(func() (ino, rev uint64, err error) { return w.tryMkdir("LOCK") })
		if took := time.Since(began); !errors.Is(err, drive.ErrNameExists) || took > time.Second {
			t.Errorf("told %v after %v", err, took)
		}
		w.flush()
		w.wantTree(map[string]string{"LOCK": "/"})
	})
	bubble(t, "later", func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		there, err := w.other.Mkdir("", "Dir")
		if err != nil {
			t.Fatal(err)
		}
		ino, _ := must[uint64, uint64](t)(w.tryMkdir("dir"))
		w.write("dir/f", "x")
		w.flush()
		w.wantTree(map[string]string{"Dir": "/", "Dir/f": "x"}) // mkdir's spelling was a guess at a name that exists
		if got, _ := w.t.InoOf(there.ID); got != ino {
			t.Errorf("not adopted")
		}
	})
}

func TestMkdirOverFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		if _, err := w.other.PutPath("x", []byte("file")); err != nil {
			t.Fatal(err)
		}
		err := w.told(func() (ino, rev uint64, err error) { return w.tryMkdir("x") })
		if !errors.Is(err, drive.ErrNameExists) {
			t.Fatalf("somebody waits: %v", err)
		}
		w.wantTree(map[string]string{"x": "file"})
		if _, err := w.other.PutPath("y", []byte("file")); err != nil {
			t.Fatal(err)
		}
		w.mkdir("y")
		w.flush()
		w.wantTree(map[string]string{"x": "file", "y": "file", "y (conflict HOST)": "/"})
	})
}

func TestRenameOntoUnseen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.mkdir("d")
		w.write("a", "a")
		w.flush()
		if _, err := w.other.PutPath("d/b", []byte("theirs")); err != nil {
			t.Fatal(err)
		}
		err := w.told(func() (ino, rev uint64, err error) { return w.tryRename("a", "d/b") })
		if !errors.Is(err, drive.ErrNameExists) {
			t.Fatalf("somebody waits: %v", err)
		}
		w.wantTree(map[string]string{"d": "/", "a": "a", "d/b": "theirs"}) // nothing half done
		if _, err := w.other.PutPath("d/c", []byte("theirs")); err != nil {
			t.Fatal(err)
		}
		w.rename("a", "d/c")
		w.flush()
		w.wantTree(map[string]string{"d": "/", "d/b": "theirs", "d/c": "theirs", "d/c (conflict HOST)": "a"})
	})
}

func TestCreateAndDelete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := fast
		o.UploadDelay = time.Hour
		w := newWorld(t, drivetest.Options{}, o).run()
		w.write("tmp", "x")
		w.rename("tmp", "tmp2")
		ino, rev := must[uint64, uint64](t)(w.tryRemove("tmp2"))
		w.s.Kick(ino)
		if err := w.s.Wait(w.ctx(), ino, rev); err != nil {
			t.Fatal(err)
		}
		w.flush()
		w.wantTree(map[string]string{})
		w.wantCalls(map[string]int{})
		w.wantTrash()
	})
}

func TestSettlingTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := fast
		o.UploadDelay = time.Hour
		w := newWorld(t, drivetest.Options{}, o).run()
		ino, rev := must[uint64, uint64](t)(w.tryWrite("a", []byte("x"), nil))
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		if err := w.s.Wait(ctx, ino, rev); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("not due yet, but %v", err)
		}
		w.wantCalls(map[string]int{})
		w.s.Kick(ino)
		if err := w.s.Wait(w.ctx(), ino, rev); err != nil {
			t.Fatal(err)
		}
		w.wantTree(map[string]string{"a": "x"})
	})
}

func TestSeveralParents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.mkdir("d")
		w.mkdir("e")
		w.write("d/f", "x")
		w.flush()
		w.srv.ResetRequests()
		w.link("d/f", "d", "e")
		w.flush()
		w.wantTree(map[string]string{"d": "/", "e": "/", "d/f": "x", "e/f": "x"})
		w.wantCalls(map[string]int{"nodes.addparent": 1, "nodes.get": 1})
		w.srv.ResetRequests()
		w.link("d/f", "e")
		w.flush()
		w.wantTree(map[string]string{"d": "/", "e": "/", "e/f": "x"})
		w.wantCalls(map[string]int{"nodes.removeparent": 1, "nodes.get": 1})
		w.wantTrash()

		// A file with another parent is not covered by its removed folder.
		w.link("e/f", "e", "d")
		w.flush()
		w.s.Pause(true)
		w.link("e/f", "d")
		w.remove("e")
		w.unpause()
		w.flush()
		w.wantTree(map[string]string{"d": "/", "d/f": "x"})
		w.wantTrash("e")
	})
}

// A file with several parents that is removed from all of them is trashed
// once, and before the folder it was in.
func TestRemoveWithSeveralParents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.mkdir("d")
		w.mkdir("e")
		w.write("d/f", "x")
		w.flush()
		w.link("d/f", "d", "e")
		w.flush()
		w.s.Pause(true)
		w.remove("d/f")
		w.remove("e/f")
		w.remove("d")
		w.unpause()
		w.flush()
		w.wantTree(map[string]string{"e": "/"})
		w.wantTrash("d", "f")
	})
}

func TestFlushWithDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.srv.SetFaults(drivetest.Faults{OverQuota: true, Rules: []drivetest.Rule{{Op: "nodes.create", Fault: drivetest.Fault{Status: 503}}}})
		w.write("a", "x")
		waitFor(t, func() bool { return w.s.Stats().Failed == 1 })
		w.mkdir("d")
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		type result struct {
			failed []Failure
			err    error
		}
		got := make(chan result, 1)
		go func() {
			failed, err := w.s.Flush(ctx)
			got <- result{failed, err}
		}()
		waitFor(t, func() bool { return w.srv.Requests()["content.upload"] > 1 && w.srv.Requests()["nodes.create"] > 3 })
		select {
		case r := <-got:
			t.Fatalf("the service may come back, but flush ended: %v", r)
		default:
		}
		cancel()
		r := <-got
		if !errors.Is(r.err, context.Canceled) || len(r.failed) != 1 || !errors.Is(r.failed[0].Err, drive.ErrQuota) {
			t.Errorf("flush: %v, %v", r.failed, r.err)
		}
	})
}

// Flush means what is there, not what was never closed, and not nothing.
func TestFlushNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast).run()
		w.flush()
		defer w.begin("open").drop()
		w.flush()
		w.wantCalls(map[string]int{})
	})
}

// A Wait that comes after the refusal hears of it all the same.
func TestWaitAfterRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, drivetest.Options{}, fast)
		w.s = New(w.t, w.m, w.j, w.client, w.functions(fast))
		ino, rev := must[uint64, uint64](t)(w.tryMkdir("d"))
		if err := w.s.refuse(ino, rev, drive.ErrForbidden); err != nil {
			t.Fatal(err)
		}
		if err := w.s.Wait(w.ctx(), ino, rev); !errors.Is(err, drive.ErrForbidden) {
			t.Errorf("got %v", err)
		}
		if err := w.s.Wait(w.ctx(), ino, rev+1); err != nil {
			t.Errorf("another intent was not refused: %v", err)
		}
		if err := w.s.Wait(w.ctx(), ino+1, 1); err != nil {
			t.Errorf("what left the journal is fulfilled: %v", err)
		}
	})
}

// Who waits hears of a refusal, or has given up before the intent is taken back:
// never is one told that it will be fulfilled, and then undone.
func TestRefusalIsHeard(t *testing.T) {
	for name, tt := range map[string]struct {
		early, late bool // the caller's time is over before the promise, after it
		stale       bool // another intent has taken its place meanwhile
		want        error
	}{
		"in time":             {want: drive.ErrForbidden},
		"late":                {late: true, want: drive.ErrForbidden},
		"given up":            {early: true, want: context.Canceled},
		"late and superseded": {late: true, stale: true, want: context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, drivetest.Options{}, fast)
				w.s = New(w.t, w.m, w.j, w.client, w.functions(fast))
				ino, rev := must[uint64, uint64](t)(w.tryMkdir("d"))
				ctx, cancel := context.WithCancel(w.ctx())
				defer cancel()
				heard := make(chan error, 1)
				go func() { heard <- w.s.Wait(ctx, ino, rev) }()
				synctest.Wait()
				if tt.early {
					cancel()
					synctest.Wait()
				}
				if got := w.s.promise(ino, rev); got == tt.early {
					t.Fatalf("promised: %v", got)
				}
				if !tt.early {
					if tt.late {
						cancel()
						synctest.Wait()
					}
					refused := rev
					if tt.stale {
						refused++
					}
					if err := w.s.refuse(ino, refused, drive.ErrForbidden); err != nil {
						t.Fatal(err)
					}
				}
				if err := <-heard; !errors.Is(err, tt.want) {
					t.Errorf("heard %v, want %v", err, tt.want)
				}
			})
		})
	}
}

func TestLimits(t *testing.T) {
	m := newLimits(Options{Uploads: 16, Calls: 2})
	if m.uploads != 8 {
		t.Fatalf("begins with %d", m.uploads)
	}
	m.uploads = 4
	m.running[laneLarge] = 3
	if m.free(laneLarge, false) {
		t.Error("the last quarter is for small files")
	}
	if !m.free(laneSmall, false) {
		t.Error("a small file waits")
	}
	m.running = [lanes]int{laneCalls: 2}
	if m.free(laneCalls, false) {
		t.Error("more calls than allowed")
	}
	began := time.Now()
	m.running[laneSmall] = 4
	m.ended(laneSmall, began, true, false, began.Add(time.Second))
	m.ended(laneSmall, began, true, false, began.Add(time.Second))
	if m.uploads != 2 {
		t.Errorf("%d after one round of throttling, want 2", m.uploads)
	}
	m.ended(laneSmall, began.Add(2*time.Second), true, false, began.Add(3*time.Second))
	m.ended(laneSmall, began.Add(4*time.Second), true, false, began.Add(5*time.Second))
	if m.uploads != 1 {
		t.Errorf("%d, want 1", m.uploads)
	}
	m.running[laneLarge] = 1
	if !m.free(laneSmall, false) {
		t.Error("a small file waits for the one large file")
	}
	for range 40 {
		m.running[laneSmall]++
		m.ended(laneSmall, began, false, true, began)
	}
	if m.uploads != 16 {
		t.Errorf("%d after many successes, want 16", m.uploads)
	}
}
