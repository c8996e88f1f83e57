package cache

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// TestSiblings: who reads the small files of a folder one after the other does
// not wait for each, and who does not has nothing fetched.
func TestSiblings(t *testing.T) {
	const files, trip = 200, 20 * time.Millisecond
	for _, x := range []struct {
		name  string
		order func(i int) int // which is read as the i-th, -1 = no more
		n     int
		most  int // downloads
		least int // of them at once
	}{
		{"all in order", func(i int) int { return i }, files, files, 8},
		{"two", func(i int) int { return i }, 2, 2, 1},
		{"backwards", func(i int) int { return files - 1 - i }, 20, 20, 1},
		{"every tenth", func(i int) int { return 10 * i }, 20, 20, 1},
		{"ten of them", func(i int) int { return i }, 10, 24, 2},
	} {
		t.Run(x.name, func(t *testing.T) {
			w := newWorld(t)
			for i := range files {
				w.put(fmt.Sprintf("d/f%03d", i), strings.Repeat(fmt.Sprint("text ", i), 500))
			}
			w.poll()
			var mu sync.Mutex
			downloads, now, most := 0, 0, 0
			w.srv.Hook(func(op drivetest.Op) *drivetest.Fault {
				if op.Name == "content.download" {
					mu.Lock()
					downloads++
					now++
					most = max(most, now)
					mu.Unlock()
					time.Sleep(trip)
					mu.Lock()
					now--
					mu.Unlock()
				}
				return nil
			})
			e, err := w.s.Resolve(t.Context(), "/d")
			if err != nil {
				t.Fatal(err)
			}
			d, err := w.s.OpenDir(t.Context(), e.Ino)
			if err != nil {
				t.Fatal(err)
			}
			es, err := d.Read(t.Context(), 0, files+1)
			if err != nil || len(es) != files {
				t.Fatal(len(es), err)
			}
			for i := range x.n {
				name := es[x.order(i)].Name
				var n int
				if _, err := fmt.Sscanf(name, "f%d", &n); err != nil {
					t.Fatal(err)
				}
				w.want(w.read("/d/"+name), strings.Repeat(fmt.Sprint("text ", n), 500))
			}
			time.Sleep(5 * trip)
			mu.Lock()
			defer mu.Unlock()
			if downloads > x.most {
				t.Errorf("%d downloads for %d files, want at most %d", downloads, x.n, x.most)
			}
			if most < x.least || x.least == 1 && most > 1 {
				t.Errorf("%d downloads at once, want %d", most, x.least)
			}
		})
	}
}
