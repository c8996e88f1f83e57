package cache

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/drive/drivetest"
)

type edit struct {
	name string
	old  string // what the file holds; "" = it is new
	do   func(t *testing.T, h *Handle)
	want string
}

// edits are what a program does to a file that it keeps open.
var edits = []edit{
	{"new", "", putAt("some text", 0), "some text"},
	{"new, empty", "", func(*testing.T, *Handle) {}, ""},
	{"new, long", "", putAt(strings.Repeat("long ", 20_000), 0), strings.Repeat("long ", 20_000)},
	{"write", "0123456789", putAt("abc", 2), "01abc56789"},
	{"append", "0123456789", putAt("abc", 10), "0123456789abc"},
	{"append to a long one", strings.Repeat("long ", 20_000), putAt("abc", 100_000), strings.Repeat("long ", 20_000) + "abc"},
	{"cut", "0123456789", cutTo(4), "0123"},
	{"cut to nothing", "0123456789", cutTo(0), ""},
	{"cut, then write", "0123456789", func(t *testing.T, h *Handle) { cutTo(0)(t, h); putAt("abc", 0)(t, h) }, "abc"},
	{"cut to more", "0123456789", cutTo(12), "0123456789\x00\x00"},
}

func putAt(text string, off int64) func(t *testing.T, h *Handle) {
	return func(t *testing.T, h *Handle) {
		if _, err := h.Write(t.Context(), []byte(text), off); err != nil {
			t.Fatal(err)
		}
	}
}

func cutTo(size int64) func(t *testing.T, h *Handle) {
	return func(t *testing.T, h *Handle) {
		if err := h.truncate(size); err != nil {
			t.Fatal(err)
		}
	}
}

// each calls fn in a bubble for each edit of /f, which was made and not closed.
func each(t *testing.T, edits []edit, fn func(w *world, h *Handle, old, want string)) {
	for _, c := range edits {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newBubbleWorld(t, func(srv *drivetest.Server) {
					if c.old != "" {
						if _, err := srv.Else().PutPath("/f", []byte(c.old)); err != nil {
							t.Fatal(err)
						}
					}
				}, false)
				h := w.create("/f", unix.O_RDWR|unix.O_CREAT)
				c.do(t, h)
				fn(w, h, c.old, c.want)
			})
		})
	}
}

// crash is a kill -9 and the next mount.
func (w *world) crash() {
	w.Helper()
	w.stop()
	w.open()
}

// onDrive checks what the drive has as p; "" = nothing.
func (w *world) onDrive(p, want string) {
	w.Helper()
	b, err := w.other.ReadFile(p)
	if want == "" && err == nil {
		w.Errorf("the drive has %s: %.40q", p, b)
	}
	if want != "" && string(b) != want {
		w.Errorf("the drive's %s is %.40q, %v, want %.40q", p, b, err, want)
	}
}

// unclosed are the files that status names as not closed.
func (w *world) unclosed() (paths []string) {
	for _, x := range w.s.Queue().Waiting(0) {
		if x.Open {
			paths = append(paths, x.Path)
		}
	}
	return paths
}

// TestUnclosedBeforeTheInterval: as ever, what a program had not closed is not
// the file's content after a crash.
func TestUnclosedBeforeTheInterval(t *testing.T) {
	each(t, edits, func(w *world, h *Handle, old, want string) {
		time.Sleep(29 * time.Second)
		w.crash()
		if old == "" {
			if _, err := w.s.Resolve(w.Context(), "/f"); !errors.Is(err, ErrNotExist) {
				w.Errorf("a file that was never closed: %v", err)
			}
		} else {
			w.want(w.read("/f"), old)
		}
		w.flush()
		w.onDrive("/f", old)
	})
}

// TestUnclosed: what a program wrote to a file that it keeps open is the file's
// content after a crash, if it is older than 30 s. It is not sent by itself, and
// Waiting names it.
func TestUnclosed(t *testing.T) {
	for name, end := range map[string]func(w *world, old, want string){
		"nothing": func(w *world, old, want string) {
			time.Sleep(time.Hour)
			w.onDrive("/f", old)
		},
		"an ordinary end": func(w *world, old, want string) {
			w.flush() // the drain of an unmount
			w.reopen()
			w.want(w.read("/f"), want)
			w.onDrive("/f", old)
		},
		"a reader": func(w *world, old, want string) {
			w.read("/f")
			h := w.create("/f", unix.O_RDONLY)
			if err := h.Fsync(w.Context()); err != nil {
				w.Fatal(err)
			}
			h.Release()
			w.flush()
			w.onDrive("/f", old)
		},
		"SendUnclosed": func(w *world, old, want string) {
			w.sendUnclosed()
			w.flush()
			w.want(w.drive("/f"), want)
		},
		"a close": func(w *world, old, want string) {
			w.create("/f", unix.O_WRONLY).Release()
			w.flush()
			w.want(w.drive("/f"), want)
		},
		"append and close": func(w *world, old, want string) {
			w.writeAt("/f", "!", int64(len(want)), unix.O_WRONLY)
			w.flush()
			w.want(w.drive("/f"), want+"!")
		},
		"fsync": func(w *world, old, want string) {
			h := w.create("/f", unix.O_WRONLY)
			defer h.Release()
			if err := h.Fsync(w.Context()); err != nil {
				w.Fatal(err)
			}
			w.flush()
			w.want(w.drive("/f"), want)
		},
		"written on, another crash": func(w *world, old, want string) {
			h := w.create("/f", unix.O_WRONLY)
			putAt("!", int64(len(want)))(w.T, h)
			time.Sleep(31 * time.Second)
			w.crash()
			w.want(w.read("/f"), want+"!")
			w.onDrive("/f", old)
			w.sendUnclosed()
			w.flush()
			w.want(w.drive("/f"), want+"!")
		},
		"a rename": func(w *world, old, want string) {
			w.rename("/f", "/g")
			w.flush()
			w.onDrive("/f", "")
			w.onDrive("/g", old)
			w.want(w.read("/g"), want)
			w.want(strings.Join(w.unclosed(), " "), "/g")
			w.sendUnclosed()
			w.flush()
			w.want(w.drive("/g"), want)
		},
		"a removal": func(w *world, old, want string) {
			w.unlink("/f")
			w.flush()
			w.want(w.ls("/"), "")
			w.onDrive("/f", "")
		},
		"another's file": func(w *world, old, want string) {
			w.put("/f", "another's, and longer than that")
			w.poll()
			w.flush()
			w.want(w.drive("/f"), "another's, and longer than that")
			w.sendUnclosed()
			w.flush()
			w.poll()
			w.want(w.drive("/f"), "another's, and longer than that")
			copies := slices.DeleteFunc(w.paths(), func(p string) bool { return !strings.Contains(p, "(conflict here") })
			if len(copies) != 1 {
				w.Fatalf("conflict copies: %q of %q", copies, w.paths())
			}
			w.want(w.drive(copies[0]), want)
		},
	} {
		t.Run(name, func(t *testing.T) {
			some := []edit{edits[0], edits[3], edits[5], edits[7]}
			if name == "nothing" || name == "a close" {
				some = edits
			}
			each(t, some, func(w *world, h *Handle, old, want string) {
				time.Sleep(31 * time.Second)
				synctest.Wait()
				w.onDrive("/f", old)
				w.want(strings.Join(w.unclosed(), " "), "/f")
				w.crash()
				w.want(w.read("/f"), want)
				w.want(strings.Join(w.unclosed(), " "), "/f")
				end(w, old, want)
			})
		})
	}
}

func (w *world) sendUnclosed() {
	w.Helper()
	if err := w.s.Queue().SendUnclosed(); err != nil {
		w.Fatal(err)
	}
}

// TestUnclosedWhileOpen: a file that a program has open is sent by its close
// alone, however long that takes and whatever is asked for meanwhile.
func TestUnclosedWhileOpen(t *testing.T) {
	each(t, edits, func(w *world, h *Handle, old, want string) {
		time.Sleep(10 * time.Minute)
		w.sendUnclosed()
		w.flush()
		w.onDrive("/f", old)
		w.read("/f") // a reader's close is not the writer's
		w.rename("/f", "/g")
		w.flush()
		w.onDrive("/g", old)
		if err := h.Flush(); err != nil {
			w.Fatal(err)
		}
		h.Release()
		w.flush()
		w.want(w.drive("/g"), want)
		w.want(w.read("/g"), want)
		w.want(strings.Join(w.unclosed(), " "), "")
	})
}

// TestUnclosedOverClosed: closed content that waits for its upload gives way to
// what is written behind it; a flush that waits for it does not wait for the
// writer.
func TestUnclosedOverClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newBubbleWorld(t, func(srv *drivetest.Server) {}, false)
		w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
			if op.Name != "content.upload" {
				return nil
			}
			return &drivetest.Fault{Do: drivetest.DoStatus, Status: 503}
		})
		w.write("/f", "closed")
		h := w.create("/f", unix.O_WRONLY)
		putAt(" and more", 6)(t, h)
		flushed := make(chan error)
		go func() {
			_, err := w.s.Queue().Flush(t.Context())
			flushed <- err
		}()
		if err := <-flushed; err != nil {
			t.Fatal(err)
		}
		w.srv.Hook(nil)
		h.Release()
		w.flush()
		w.want(w.drive("/f"), "closed and more")
	})
}

// TestUnclosedWrittenOn: of what is written behind the last record, bytes that
// were recorded before may be there, as on any disk, and nothing else is.
func TestUnclosedWrittenOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newBubbleWorld(t, func(srv *drivetest.Server) {}, false)
		long := strings.Repeat("long ", 20_000)
		h := w.create("/f", unix.O_RDWR|unix.O_CREAT)
		putAt(long, 0)(t, h)
		time.Sleep(31 * time.Second)
		putAt("LONG", 50_000)(t, h)
		putAt("more", int64(len(long)))(t, h)
		w.crash()
		w.sendUnclosed()
		w.flush()
		want := long[:50_000] + "LONG" + long[50_004:]
		if got := w.drive("/f"); got != want && got != long {
			t.Errorf("%d bytes, %q", len(got), got[49_990:50_010])
		}
		w.want(w.read("/f"), w.drive("/f"))
	})
}
