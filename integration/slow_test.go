package integration

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cache"
	"github.com/drivefs/drivefs/drive/drivetest"
)

const (
	slowFsync = 2 * time.Second // each fsync of mirror and journal takes so much longer
	slowCall  = 3 * time.Second // each call of the service does
	// mostWait is 100 ms and what a busy machine adds to it; what waits for one
	// of the above waits longer, sooner or later.
	mostWait = 700 * time.Millisecond
	slowTime = 7 * time.Second // how long a case goes on at least
)

// waits keeps the longest time that each kind of call took.
type waits struct {
	mu   sync.Mutex
	most map[string]time.Duration
}

func (w *waits) time(kind string, call func() error) error {
	began := time.Now()
	err := call()
	took := time.Since(began)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.most[kind] = max(w.most[kind], took)
	return err
}

// TestNothingWaitsForSlowThings: on a disk whose every fsync takes 2 s, and with a
// service whose every call takes 3 s, no lookup, stat, readdir or close waits for
// that, whatever else goes on.
func TestNothingWaitsForSlowThings(t *testing.T) {
	for _, slow := range []string{"disk", "service"} {
		for _, c := range []struct {
			name string
			many int // files on the drive that the feed tells of meanwhile
			work func(s *slowWorld, round int) error
		}{
			{"editors", 0, (*slowWorld).save},
			{"git checkout", 0, (*slowWorld).checkout},
			{"first sync", 30_000, nil},
		} {
			t.Run(slow+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				slowCase(t, slow, c.many, c.work)
			})
		}
	}
}

type slowWorld struct {
	*World
	waits waits
}

func slowCase(t *testing.T, slow string, many int, work func(*slowWorld, int) error) {
	var on atomic.Bool
	w := NewWorld(t, Config{
		Fresh: many > 0,
		Fill: func(other *drivetest.Client) {
			for _, p := range []string{"d/doc", "d/other", "repo/a/x", "repo/b/x"} {
				if _, err := other.PutPath(p, []byte(strings.Repeat(p, 100))); err != nil {
					t.Error(err)
				}
			}
		},
		Store: func(o *cache.Options) {
			o.BeforeSync = func() {
				if slow == "disk" && on.Load() {
					<-time.After(slowFsync)
				}
			}
		},
	})
	if many > 0 {
		w.must(w.Drive.Bulk(many, 1000))
	}
	w.Drive.Hook(func(drivetest.Op) *drivetest.Fault {
		if slow == "service" && on.Load() {
			<-time.After(slowCall)
		}
		return nil
	})
	s := &slowWorld{World: w, waits: waits{most: map[string]time.Duration{}}}
	s.look(0) // the first answer of a folder may wait
	on.Store(true)
	end := time.Now().Add(slowTime)
	var all sync.WaitGroup
	for i := range 2 {
		all.Go(func() {
			for round := 1; time.Now().Before(end); round++ {
				s.look(round*2 + i)
				<-time.After(5 * time.Millisecond)
			}
		})
	}
	all.Go(func() {
		if work == nil {
			s.Poll() // the whole feed
			return
		}
		for round := 0; time.Now().Before(end); round++ {
			if err := work(s, round); err != nil {
				s.Errorf("round %d: %v", round, err)
				return
			}
			<-time.After(20 * time.Millisecond)
		}
	})
	all.Wait()
	on.Store(false)
	for kind, most := range s.waits.most {
		t.Logf("%-8s %v at most", kind, most.Round(time.Millisecond))
		if most > mostWait {
			t.Errorf("a %s waited %v", kind, most.Round(time.Millisecond))
		}
	}
}

// look does what a person with a file manager does.
func (s *slowWorld) look(round int) {
	for _, dir := range []string{"d", "repo/a"} {
		err := s.waits.time("lookup", func() error {
			var st unix.Stat_t
			return unix.Lstat(s.Path(dir, fmt.Sprintf("none%d", round)), &st)
		})
		if !errors.Is(err, unix.ENOENT) {
			s.Errorf("an absent name: %v", err)
		}
		_ = s.waits.time("stat", func() error { // its name may be between two files
			_, err := os.Stat(s.Path(dir))
			return err
		})
		err = s.waits.time("readdir", func() error {
			_, err := os.ReadDir(s.Path(dir))
			return err
		})
		if err != nil {
			s.Errorf("reading %s: %v", dir, err)
		}
	}
}

// write writes a file, whose close is timed.
func (s *slowWorld) write(name, content string) error {
	f, err := os.Create(s.Path(name))
	if err != nil {
		return err
	}
	if _, err := f.WriteString(content); err != nil {
		return err
	}
	return s.waits.time("close", f.Close)
}

// save saves documents as editors do: a new one renamed over the old one, a
// backup and a new one, and one written in place.
func (s *slowWorld) save(round int) error {
	content := fmt.Sprintf("round %d", round)
	switch round % 3 {
	case 0:
		if err := s.write("d/doc.new", content); err != nil {
			return err
		}
		return os.Rename(s.Path("d/doc.new"), s.Path("d/doc"))
	case 1:
		if err := os.Rename(s.Path("d/doc"), s.Path("d/doc~")); err != nil {
			return err
		}
		if err := s.write("d/doc", content); err != nil {
			return err
		}
		return os.Remove(s.Path("d/doc~"))
	}
	return s.write("d/other", content)
}

// checkout replaces files as git does: each is removed and made anew.
func (s *slowWorld) checkout(round int) error {
	for i := range 10 {
		for _, dir := range []string{"repo/a", "repo/b"} {
			name := fmt.Sprintf("%s/f%d", dir, i)
			if err := os.Remove(s.Path(name)); err != nil && round > 0 {
				return err
			}
			if err := s.write(name, fmt.Sprintf("commit %d", round)); err != nil {
				return err
			}
		}
	}
	return nil
}
