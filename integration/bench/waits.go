package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cache"
	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/fs"
)

const (
	slowFsync = 2 * time.Second
	slowCall  = 3 * time.Second
)

// slowMount is what roleSlow mounts: the program's own parts, on a disk whose
// every fsync takes longer.
type slowMount struct {
	Endpoint, Token, State, Mountpoint string
}

func mountSlow(arg string) (err error) {
	var m slowMount
	if err := json.Unmarshal([]byte(arg), &m); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	signal.Ignore(syscall.SIGINT)
	client, err := drive.New(drive.Options{Endpoint: m.Endpoint, Tokens: drive.StaticTokenSource(m.Token)})
	if err != nil {
		return err
	}
	defer client.Close()
	var slow atomic.Bool
	store, err := cache.Open(ctx, cache.Options{
		StateDir: m.State, CacheDir: filepath.Join(m.State, "cache"), Remote: client, UploadDelay: 3 * time.Second,
		BeforeSync: func() {
			if slow.Load() {
				<-time.After(slowFsync)
			}
		},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	for b, err := range client.Changes(ctx, drive.ChangesRequest{}) {
		if err == nil {
			err = store.Feed().Apply(ctx, b)
		}
		if err != nil {
			return err
		}
	}
	if err := store.Feed().FeedEnd(ctx); err != nil {
		return err
	}
	run, end := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- store.Run(run) }()
	defer func() { end(); <-ran }()
	s, err := fs.Mount(ctx, fs.MountOptions{Store: store, Mountpoint: m.Mountpoint, Umask: 0o077})
	if err != nil {
		return err
	}
	slow.Store(true)
	fmt.Println("mounted")
	select {
	case <-ctx.Done():
		if err := s.Lazy(); err != nil {
			return err
		}
		<-s.Done()
	case <-s.Done():
	}
	slow.Store(false)
	return nil
}

// slowDisk mounts d on a slow disk.
func (b *bench) slowDisk(d *theDrive) (*subject, error) {
	m := slowMount{Endpoint: d.Endpoint, Token: d.Token.AccessToken, State: b.dir("state"), Mountpoint: b.dir("mnt")}
	for _, dir := range []string{m.State, m.Mountpoint} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	arg, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	p, _, err := b.start(nil, b.self, roleSlow, string(arg))
	if err != nil {
		return nil, err
	}
	p.mnt = m.Mountpoint
	return &subject{b: b, d: d, proc: p, mnt: m.Mountpoint}, nil
}

// runWaits tells the longest wait of a lookup while documents are saved and
// files replaced beside it: what a person notices of a slow disk or service.
func runWaits(ctx context.Context, b *bench, t *table) error {
	t.note("each fsync takes %v, or each call of the service %v; what waits for one of them shows it:", slowFsync, slowCall)
	for _, slow := range []string{"disk", "service", ""} {
		c := serveConfig{}
		if slow == "service" {
			c.Latency = slowCall
		}
		d, err := b.startDrive(c)
		if err != nil {
			return err
		}
		if err := d.fill(ctx, "", 2, 20, 1<<10); err != nil {
			return err
		}
		var s *subject
		if slow == "disk" {
			s, err = b.slowDisk(d)
		} else if s, err = b.mount(d); err == nil {
			err = s.complete(ctx)
		}
		if err != nil {
			return err
		}
		for _, w := range []struct {
			name string
			work func(dir string, round int) error
		}{{"editors' saves", saveAsEditors}, {"git checkout", replaceAsGit}} {
			most, n, err := longestLookup(ctx, s, pick(b, 8*time.Second, 60*time.Second), w.work)
			if err != nil {
				return err
			}
			what := "longest lookup beside " + w.name
			if slow != "" {
				what += ", slow " + slow
			}
			t.row(row{what, seconds, sec(most), none, none, fmt.Sprintf("%d lookups", n), []target{{"", "≤", 0.1}}})
		}
		s.drop()
		d.proc.end()
	}
	return nil
}

// longestLookup looks names up that are not there, in the folder that work
// changes, for so long.
func longestLookup(ctx context.Context, s *subject, long time.Duration, work func(string, int) error) (most time.Duration, n int, err error) {
	dir := s.path("work" + fmt.Sprint(time.Now().UnixNano()))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return 0, 0, err
	}
	var wg sync.WaitGroup
	over := make(chan struct{})
	wg.Go(func() {
		for round := 0; err == nil; round++ {
			select {
			case <-over:
				return
			case <-time.After(5 * time.Millisecond):
				err = work(dir, round)
			}
		}
	})
	var st unix.Stat_t
	for end := time.Now().Add(long); time.Now().Before(end) && ctx.Err() == nil; n++ {
		began := time.Now()
		_ = unix.Lstat(fmt.Sprintf("%s/none%d", dir, n), &st)
		most = max(most, time.Since(began))
		<-time.After(2 * time.Millisecond)
	}
	close(over)
	wg.Wait()
	return most, n, errors.Join(err, ctx.Err())
}

// saveAsEditors saves by a rename over the document.
func saveAsEditors(dir string, round int) error {
	tmp := fmt.Sprintf("%s/.doc.%d", dir, round)
	if err := os.WriteFile(tmp, fmt.Appendf(nil, "round %d", round), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, dir+"/doc")
}

// replaceAsGit removes each file and makes it anew.
func replaceAsGit(dir string, round int) error {
	for i := range 20 {
		name := fmt.Sprintf("%s/f%d", dir, i)
		if err := os.Remove(name); err != nil && round > 0 {
			return err
		}
		if err := os.WriteFile(name, fmt.Appendf(nil, "commit %d", round), 0o600); err != nil {
			return err
		}
	}
	return nil
}
