package cache

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A part of a file that is not cached here is changed, and the file is replaced
// elsewhere before that is sent: what was only appended goes behind the new
// version, in a copy; a cut gives way; anything else is kept apart. Zeros that
// were never written reach neither the drive nor a reader.
func TestBaseReplaced(t *testing.T) {
	const old, theirs = "0123456789\n", "0123456789\na line of theirs\n"
	for _, tt := range []struct {
		name  string
		edit  func(w *world)
		purge bool
		copy  string // the conflict copy, "" = none
		aside string // the bytes set aside, "" = none
	}{
		{name: "appended", edit: func(w *world) { w.writeAt("/log", "ours\n", int64(len(old)), unix.O_WRONLY) }, copy: theirs + "ours\n"},
		{name: "appended with a hole", edit: func(w *world) { w.writeAt("/log", "ours\n", int64(len(old))+3, unix.O_WRONLY) }, copy: theirs + "\x00\x00\x00ours\n"},
		{name: "rewritten", edit: func(w *world) { w.writeAt("/log", "XY", 4, unix.O_WRONLY) }, aside: "XY"},
		{name: "rewritten and appended", edit: func(w *world) {
			w.writeAt("/log", "XY", 4, unix.O_WRONLY)
			w.writeAt("/log", "ours\n", int64(len(old)), unix.O_WRONLY)
		}, aside: "ours\n"},
		{name: "cut", edit: func(w *world) { w.truncate("/log", 5) }},
		{name: "cut and appended", edit: func(w *world) { w.truncate("/log", 5); w.writeAt("/log", "ours\n", 5, unix.O_WRONLY) }, aside: "ours\n"},
		{name: "appended, purged", edit: func(w *world) { w.writeAt("/log", "ours\n", int64(len(old)), unix.O_WRONLY) }, purge: true, aside: "ours\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel() // it waits most of its time
			w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
			w.put("/log", old)
			w.poll()
			tt.edit(w)
			id := w.id("/log")
			var err error
			if tt.purge {
				if _, err = w.other.Trash(id); err == nil {
					err = w.other.Purge(id)
				}
			} else {
				_, err = w.other.Overwrite(id, strings.NewReader(theirs))
			}
			if err != nil {
				t.Fatal(err)
			}
			stop := make(chan struct{})
			polled := make(chan struct{})
			go func() { // what is not found is asked for again after a poll
				defer close(polled)
				for {
					select {
					case <-stop:
						return
					case <-time.After(50 * time.Millisecond):
						w.s.writeBack.Polled()
					}
				}
			}()
			w.flush()
			w.poll()
			w.flush()
			close(stop)
			<-polled
			var names []string
			for _, n := range w.other.Children(w.other.Root()) {
				b, err := w.other.ReadFile(n.Name)
				if err != nil {
					t.Fatal(err)
				}
				want := theirs
				if n.Name != "log" {
					want = tt.copy
				}
				if string(b) != want {
					t.Errorf("%s holds %q, want %q", n.Name, b, want)
				}
				if got := w.read("/" + n.Name); got != want {
					t.Errorf("%s is shown as %q, want %q", n.Name, got, want)
				}
				names = append(names, n.Name)
			}
			want := 1
			if tt.copy != "" {
				want++
			}
			if tt.purge {
				want--
			}
			if len(names) != want || want == 2 && !slices.ContainsFunc(names, regexp.MustCompile(`^log \(conflict .*\)$`).MatchString) {
				t.Errorf("on the drive: %q", names)
			}
			asides, _ := filepath.Glob(filepath.Join(w.o.StateDir, "aside", "*log"))
			said := slices.ContainsFunc(w.s.Status().Events, func(e Event) bool { return e.Kind == "quarantine" })
			if (len(asides) == 1) != (tt.aside != "") || said != (tt.aside != "") {
				t.Fatalf("set aside: %q, said %v", asides, said)
			}
			if tt.aside != "" {
				b, err := os.ReadFile(asides[0])
				if err != nil || !strings.Contains(string(b), tt.aside) {
					t.Errorf("set aside: %q, %v", b, err)
				}
				if text, err := os.ReadFile(asides[0] + ".ranges"); err != nil || !strings.Contains(string(text), "written here") {
					t.Errorf("ranges: %q, %v", text, err)
				}
			}
		})
	}
}

func (w *world) truncate(p string, size int64) { w.setattr(p, SetAttr{Size: &size}) }
