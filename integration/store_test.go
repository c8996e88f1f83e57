package integration

import (
	"bytes"
	"cmp"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drivefs/drivefs/cache"
	"github.com/drivefs/drivefs/cache/mirror"
	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/drive/drivetest"
)

// bare is a drive and a Store with no mount between it and the test, for
// tests that take very many steps. It can crash: what the state directory
// holds at that moment is all that is left.
type bare struct {
	testing.TB
	srv     *drivetest.Server
	other   *drivetest.Client
	o       cache.Options
	base    string
	lives   int
	s       *cache.Store
	client  *drive.Client
	halt    func() // ends Run
	effects atomic.Int64
}

func newBare(t testing.TB, do drivetest.Options, set func(*cache.Options)) *bare {
	t.Helper()
	b := &bare{TB: t, srv: drivetest.New(t, do), base: t.TempDir()}
	b.other = b.srv.Else()
	b.o = cache.Options{
		StateDir: filepath.Join(b.base, "state"), CacheDir: filepath.Join(b.base, "cache"),
		Memory: 16 << 20, Disk: 64 << 20, Hostname: "here",
		UploadDelay: 3 * time.Millisecond, CommitAfter: 20 * time.Millisecond,
		UploadWait: 2 * time.Second, Backoff: 3 * time.Millisecond,
	}
	if testing.Verbose() {
		l := &testLog{t: t}
		t.Cleanup(l.end)
		b.o.Logger = slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	if set != nil {
		set(&b.o)
	}
	b.up()
	t.Cleanup(b.down)
	return b
}

func (b *bare) up() {
	b.Helper()
	c, err := drive.New(drive.Options{
		Endpoint: b.srv.Endpoint(), Tokens: drive.StaticTokenSource(b.srv.Token().AccessToken), Tries: 2,
	})
	if err != nil {
		b.Fatal(err)
	}
	b.client, b.o.Remote = c, c
	if b.s, err = cache.Open(context.Background(), b.o); err != nil {
		b.Fatal("opening the Store: ", err)
	}
	b.s.OnEffects(func(es []cache.Effect) { b.effects.Add(int64(len(es))) })
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	s := b.s
	go func() { ran <- s.Run(ctx) }()
	b.halt = sync.OnceFunc(func() {
		cancel()
		if err := <-ran; err != nil && !errors.Is(err, context.Canceled) {
			b.Error("the Store's work ended with: ", err)
		}
	})
	for _, e := range b.s.Status().Events {
		if e.Kind == "mirror" || e.Kind == "journal" && !strings.Contains(e.Text, "never closed") {
			b.Errorf("after opening: %s: %s", e.Kind, e.Text)
		}
	}
}

func (b *bare) down() {
	b.Helper()
	if b.s == nil {
		return
	}
	b.halt()
	for _, err := range b.s.CheckLocal() {
		b.Error("the Store broke its invariants: ", err)
	}
	if err := b.s.Close(); err != nil {
		b.Error("closing the Store: ", err)
	}
	b.client.Close()
	b.s = nil
}

// crash goes on in a new Store from what the disk holds now, as after
// kill -9. Requests that the drive has begun may still take effect.
func (b *bare) crash() {
	b.Helper()
	b.srv.Hook(func(drivetest.Op) *drivetest.Fault { return &drivetest.Fault{Do: drivetest.DoReset, At: -1} })
	b.lives++
	left := filepath.Join(b.base, fmt.Sprintf("state%d", b.lives))
	copyStill(b, b.o.StateDir, left)
	b.halt()
	_ = b.s.Close() // of a Store that is dead already
	b.client.Close()
	b.srv.Hook(nil)
	_ = os.RemoveAll(b.o.StateDir)
	b.o.StateDir = left
	b.up()
}

// copyStill copies a directory as it is at one moment: again and again until
// nothing changed while it was copied.
func copyStill(t testing.TB, from, to string) {
	t.Helper()
	stamp := func() map[string]string {
		m := map[string]string{}
		_ = filepath.Walk(from, func(p string, fi os.FileInfo, err error) error {
			if err == nil {
				m[p] = fmt.Sprint(fi.Size(), fi.ModTime().UnixNano())
			}
			return nil
		})
		return m
	}
	for range 1000 {
		before := stamp()
		_ = os.RemoveAll(to)
		err := os.CopyFS(to, os.DirFS(from))
		if err == nil && maps.Equal(before, stamp()) {
			return
		}
	}
	t.Fatal("the state directory never was still")
}

// poll hears the feed to its end; a cut one is asked again.
func (b *bare) poll() {
	b.Helper()
	for try := 0; ; try++ {
		err := b.hear()
		if err == nil {
			return
		}
		if try == 20 {
			b.Fatal("the feed: ", err)
		}
	}
}

func (b *bare) hear() error {
	ctx := context.Background()
	from := b.s.Feed().Checkpoint()
	anew := from == ""
	if anew {
		var err error
		if from, err = b.s.Feed().BeginRefresh(ctx); err != nil {
			return err
		}
	}
	for batch, err := range b.client.Changes(ctx, drive.ChangesRequest{Checkpoint: from, IncludePurged: true}) {
		if err == nil && batch.Reset && !anew {
			anew = true
			_, err = b.s.Feed().BeginRefresh(ctx)
		}
		switch {
		case err != nil:
		case anew:
			err = b.s.Feed().ApplyRefresh(ctx, batch)
		default:
			err = b.s.Feed().Apply(ctx, batch)
		}
		if err != nil {
			if anew {
				err = errors.Join(err, b.s.Feed().AbortRefresh())
			}
			return err
		}
	}
	if anew {
		if err := b.s.Feed().EndRefresh(ctx); err != nil {
			return err
		}
	}
	return b.s.Feed().FeedEnd(ctx)
}

// settle waits until drive and Store have nothing more to tell each other.
func (b *bare) settle() {
	b.Helper()
	b.srv.Settle()
	for range 20 {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		failed, err := b.s.Queue().Flush(ctx)
		cancel()
		if err != nil || len(failed) > 0 {
			b.Fatalf("flush: %v, %+v", err, failed)
		}
		b.poll()
		if b.s.Status().Pending == 0 {
			return
		}
	}
	b.Fatalf("never settled: %+v", b.s.Status())
}

// lookup resolves a path of the Store.
func (b *bare) lookup(p string) (cache.Entry, error) {
	return b.s.Resolve(context.Background(), p)
}

// readAll reads an open file.
func readAll(h *cache.Handle) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var out bytes.Buffer
	for {
		v, err := h.Read(ctx, int64(out.Len()), 128<<10)
		if err != nil {
			return nil, err
		}
		n := v.Len()
		for _, s := range v.Slices() {
			out.Write(s)
		}
		v.Release()
		if n == 0 {
			return out.Bytes(), nil
		}
	}
}

// thing is what a path holds, here or on the drive.
type thing struct {
	folder bool
	size   int64
	md5    string
}

func (h thing) String() string {
	if h.folder {
		return "a folder"
	}
	return fmt.Sprintf("%d bytes %.8s", h.size, h.md5)
}

func fileOf(content []byte) thing {
	sum := md5.Sum(content)
	return thing{size: int64(len(content)), md5: hex.EncodeToString(sum[:])}
}

// children lists a folder of the Store.
func (b *bare) children(ino uint64) []cache.Entry {
	b.Helper()
	d, err := b.s.OpenDir(context.Background(), ino)
	if err != nil {
		b.Fatalf("opendir of %d: %v", ino, err)
	}
	var all []cache.Entry
	var after uint64
	for {
		es, err := d.Read(context.Background(), after, 7)
		if err != nil {
			b.Fatalf("readdir of %d: %v", ino, err)
		}
		for _, e := range es {
			if e.Ino <= after {
				b.Fatalf("readdir of %d: cookie %d after %d", ino, e.Ino, after)
			}
			after = e.Ino
		}
		all = append(all, es...)
		if len(es) < 7 {
			return all
		}
	}
}

// shown is the tree as the Store shows it, contents read.
func (b *bare) shown() map[string]thing {
	b.Helper()
	out := map[string]thing{}
	var walk func(ino uint64, at string)
	walk = func(ino uint64, at string) {
		for _, e := range b.children(ino) {
			p := at + e.Name
			if _, twice := out[p]; twice {
				b.Errorf("%s is listed twice", p)
			}
			if e.Folder {
				out[p] = thing{folder: true}
				walk(e.Ino, p+"/")
				continue
			}
			h, err := b.s.Open(context.Background(), e.Ino, e.Gen, 0)
			if errors.Is(err, cache.ErrStale) {
				// A version came between; the kernel looks again, too.
				if e, err = b.lookup("/" + p); err == nil {
					h, err = b.s.Open(context.Background(), e.Ino, e.Gen, 0)
				}
			}
			if err != nil {
				b.Fatalf("open %s: %v", p, err)
			}
			content, err := readAll(h)
			h.Release()
			if err != nil {
				b.Fatalf("read %s: %v", p, err)
			}
			out[p] = fileOf(content)
			if e.Size != out[p].size {
				b.Errorf("%s is listed with %d bytes and has %d", p, e.Size, out[p].size)
			}
		}
	}
	walk(b.s.Root(), "")
	return out
}

// held is a node with the path it must be shown at.
type held struct {
	thing
	id string
}

// holds is the tree that the drive has, under the names that the mount must
// show: of several nodes with one name the oldest keeps it.
func holds(other *drivetest.Client) map[string]held {
	out := map[string]held{}
	var walk func(id, at string)
	walk = func(id, at string) {
		taken := map[string]bool{}
		kids := other.Children(id)
		slices.SortStableFunc(kids, func(a, b drivetest.Node) int {
			return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID))
		})
		for _, n := range kids {
			if n.Name == "" || n.Kind != "FOLDER" && n.Content == nil {
				continue
			}
			name := mirror.Shown(n.Name, n.ID, taken[drive.Fold(n.Name)])
			taken[drive.Fold(n.Name)] = true
			h := held{id: n.ID, thing: thing{folder: n.Kind == "FOLDER"}}
			if !h.folder {
				h.size, h.md5 = n.Content.Size, n.Content.MD5
			}
			out[at+name] = h
			if h.folder {
				walk(n.ID, at+name+"/")
			}
		}
	}
	walk(other.Root(), "")
	return out
}

// same reports how two trees differ, at most ten lines.
func same[A, B fmt.Stringer](t testing.TB, what string, got map[string]A, want map[string]B) bool {
	t.Helper()
	var bad []string
	for p, w := range want {
		if g, ok := got[p]; !ok {
			bad = append(bad, fmt.Sprintf("%s is missing (%v)", p, w))
		} else if g.String() != w.String() {
			bad = append(bad, fmt.Sprintf("%s is %v, want %v", p, g, w))
		}
	}
	for p, g := range got {
		if _, ok := want[p]; !ok {
			bad = append(bad, fmt.Sprintf("%s should not be (%v)", p, g))
		}
	}
	slices.Sort(bad)
	for i, line := range bad {
		if i == 10 {
			t.Errorf("%s: and %d more", what, len(bad)-i)
			break
		}
		t.Errorf("%s: %s", what, line)
	}
	return len(bad) == 0
}

// noTraces fails on names that only drivefs itself may use for a moment.
func noTraces(t testing.TB, other *drivetest.Client) {
	t.Helper()
	for p := range other.Tree() {
		if strings.Contains(p, ".drivefs-") {
			t.Errorf("a temporary name was left on the drive: %s", p)
		}
	}
	for _, n := range other.TrashList() {
		if strings.HasPrefix(n.Name, ".drivefs-") {
			t.Errorf("a temporary name is in the trash: %s", n.Name)
		}
	}
}

// contentOf reads a node's bytes from the drive.
func contentOf(t testing.TB, other *drivetest.Client, id string) []byte {
	t.Helper()
	r, err := other.Open(id)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	content, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
