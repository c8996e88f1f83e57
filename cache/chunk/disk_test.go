package chunk

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// files lists the chunk files under dir.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			all = append(all, p)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return all
}

// snapshot copies dir as kill -9 would leave it.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// written waits until the disk writer has nothing to do.
func written(c *Cache) {
	for {
		synctest.Wait()
		c.mu.Lock()
		n := len(c.saves) + c.saving
		c.mu.Unlock()
		if n == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// A library scan reads heads, tails and something between; after a restart,
// and after a kill, the same scan downloads nothing, also when it takes longer.
func TestScanAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &service{latency: 20 * time.Millisecond, tags: true}
		o := Options{Source: s, Dir: t.TempDir(), Disk: 4 << 30, Memory: 64 << 20}
		scan := func(c *Cache, pause time.Duration) {
			for i := range 50 {
				v := film(fmt.Sprint("film", i), 1<<30+int64(i)*1013)
				r := c.Reader(v)
				mustRead(t, r, 0, 128<<10)
				mustRead(t, r, 128<<10, 128<<10)
				time.Sleep(pause)
				for off := v.Size - 300_000; off < v.Size; off += 128 << 10 {
					mustRead(t, r, off, 128<<10)
				}
				mustRead(t, r, 500<<20, 64<<10)
				mustRead(t, r, 500<<20+64<<10, 64<<10)
				time.Sleep(pause)
				r.Close()
				song := Version{ID: fmt.Sprint("song", i), Content: 1, Size: 300_000, Name: "x.mp3"}
				play(t, c, song, 64<<10)
			}
		}
		c := open(t, o)
		scan(c, 0)
		written(c)
		o.Dir = snapshot(t, o.Dir)
		shut(t, c)
		before := len(s.asked())
		c = open(t, o)
		scan(c, time.Second)
		if n := len(s.asked()) - before; n != 0 {
			t.Errorf("the second scan asked for something %d times", n)
		}
		check(t, c)
		if n := s.questions(); n != 0 {
			t.Errorf("%d questions", n)
		}
	})
}

// Tiny files on disk do not fill the memory with their blocks.
func TestTinyFiles(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &service{latency: 20 * time.Millisecond, tags: true}
		c := open(t, Options{Source: s, Dir: t.TempDir(), Disk: 1 << 30, Memory: 64 << 20})
		for range 2 {
			for i := range 100 {
				play(t, c, Version{ID: fmt.Sprint("thumb", i), Content: 1, Size: 20_000, Name: "x.png"}, 128<<10)
				written(c)
			}
			if n := c.Stats().MemoryBytes; n > 10*blockSize {
				t.Errorf("%d KiB of memory for tiny files", n>>10)
			}
		}
		if n := len(s.asked()); n != 100 {
			t.Errorf("%d requests", n)
		}
		check(t, c)
	})
}

// Without ETags what is on disk was confirmed, and goes with what comes later.
func TestDiskWithoutTags(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &service{latency: 20 * time.Millisecond}
		o := Options{Source: s, Dir: t.TempDir(), Disk: 4 << 30, Memory: 64 << 20}
		v := film("film", 40<<20)
		c := open(t, o)
		r := c.Reader(v)
		for off := int64(0); off < 10<<20; off += 1 << 20 {
			mustRead(t, r, off, 1<<20)
		}
		r.Close()
		time.Sleep(time.Second)
		written(c)
		shut(t, c)
		had := s.downloaded()
		s.tags = true
		c = open(t, o)
		play(t, c, v, 1<<20)
		// What was cut off when the first reader closed may come again.
		if n := s.downloaded() - had; n > v.Size-10<<20+chunkSize {
			t.Errorf("downloaded %d", n)
		}
		check(t, c)
	})
}

func TestDiskDamage(t *testing.T) {
	damage := map[string]func(t *testing.T, path string){
		"flipped": func(t *testing.T, path string) { flip(t, path, headerSize+100_000) },
		"header":  func(t *testing.T, path string) { flip(t, path, 70) },
		"torn": func(t *testing.T, path string) {
			if err := os.Truncate(path, headerSize+1000); err != nil {
				t.Fatal(err)
			}
		},
		"empty": func(t *testing.T, path string) {
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
		},
		"gone": func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
		"another's": func(t *testing.T, path string) {
			p, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			h := header{mask: 1}
			page, _ := h.encode(film("someone", 4096), 0)
			if err := os.WriteFile(path, append(page, p[headerSize:]...), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	}
	damage["half"] = func(t *testing.T, path string) {
		info, err := os.Stat(path)
		if err == nil {
			err = os.Truncate(path, info.Size()/2)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	damage["a directory"] = func(t *testing.T, path string) {
		if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
			t.Fatal(err)
		}
	}
	for name, f := range damage {
		for i, running := range []bool{false, true} {
			for j, tags := range []bool{false, true} {
				for k, which := range []string{"one", "all"} {
					if os.Getenv("DRIVEFS_SOAK") == "" && (i+j+k)%2 == 1 { // every pair is met by the other half
						continue
					}
					t.Run(fmt.Sprintf("%s/running=%v/tags=%v/%s", name, running, tags, which), func(t *testing.T) {
						bubble(t, func(t *testing.T) {
							s := &service{latency: 20 * time.Millisecond, tags: tags}
							o := Options{Source: s, Dir: t.TempDir(), Disk: 4 << 30, Memory: minMemory}
							v := film("film", 12<<20)
							v.MD5 = md5Of("film", v.Size)
							c := open(t, o)
							play(t, c, v, 1<<20)
							// What was read beside the disk tier comes from there.
							play(t, c, film("other", 12<<20), 1<<20)
							written(c)
							if !running {
								shut(t, c)
							}
							k := diskKeyOf(v, 0)
							var all []string
							for _, path := range files(t, o.Dir) {
								if strings.Contains(path, fmt.Sprintf("%016x", k.node)) {
									all = append(all, path)
								}
							}
							if len(all) != 3 {
								t.Fatalf("files: %v", all)
							}
							before := s.downloaded()
							if !running {
								c = open(t, o)
							}
							most := int64(chunkSize)
							if which == "all" {
								most = v.Size
							} else {
								all = all[1:2]
							}
							for _, path := range all {
								f(t, path)
							}
							play(t, c, v, 1<<20)
							n := s.downloaded() - before
							if n > most || n == 0 && !running {
								t.Errorf("downloaded %d", n)
							}
							check(t, c)
							written(c)
							shut(t, c)
							before = s.downloaded()
							c = open(t, o)
							play(t, c, v, 1<<20)
							if n := s.downloaded() - before; n > most {
								t.Errorf("the second time: downloaded %d", n)
							}
							written(c)
							shut(t, c)
							before = s.downloaded()
							c = open(t, o)
							play(t, c, v, 1<<20)
							if n := s.downloaded() - before; n != 0 {
								t.Errorf("not mended: downloaded %d", n)
							}
						})
					})
				}
			}
		}
	}
}

func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 4
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// What a reader goes through once on disk does not fill the memory; what it
// comes back to does.
func TestDiskPasses(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &service{latency: 20 * time.Millisecond, rate: 10e6, tags: true} // no flood
		o := Options{Source: s, Dir: t.TempDir(), Disk: 1 << 30, Memory: 128 << 20}
		v := film("film", 48<<20+5)
		c := open(t, o)
		play(t, c, v, 1<<20)
		written(c)
		shut(t, c)
		c = open(t, o)
		synctest.Wait()
		had := s.downloaded()
		for _, want := range []struct{ least, most int64 }{{0, 24 << 20}, {v.Size, 64 << 20}, {v.Size, 64 << 20}} {
			r := c.Reader(v)
			var most int64
			for off := int64(0); off < v.Size; off += 1 << 20 {
				mustRead(t, r, off, 1<<20)
				most = max(most, c.Stats().MemoryBytes)
			}
			r.Close()
			synctest.Wait()
			if got := c.Stats().MemoryBytes; got < want.least || most > want.most {
				t.Errorf("%d bytes in memory, %d at most, want %d and %d", got, most, want.least, want.most)
			}
		}
		if n := s.downloaded() - had; n > 0 {
			t.Errorf("downloaded %d bytes again", n)
		}
		check(t, c)
	})
}

// The directory goes while the cache runs: reads go on, and it comes back.
func TestDiskDeleted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &service{latency: 20 * time.Millisecond, rate: 10e6, tags: true} // no flood
		o := Options{Source: s, Dir: filepath.Join(t.TempDir(), "cache"), Disk: 4 << 30, Memory: 16 << 20}
		c := open(t, o)
		v := film("film", 40<<20)
		play(t, c, v, 1<<20)
		written(c)
		if err := os.RemoveAll(o.Dir); err != nil {
			t.Fatal(err)
		}
		play(t, c, v, 1<<20)
		written(c)
		// What was in memory then is not written a second time.
		if n := len(files(t, o.Dir)); n < 6 {
			t.Errorf("%d files", n)
		}
		before := s.downloaded()
		c.mu.Lock()
		mem := c.pool.max * blockSize
		c.mu.Unlock()
		play(t, c, v, 1<<20)
		if n := s.downloaded() - before; n > int64(mem) {
			t.Errorf("downloaded %d bytes", n)
		}
		check(t, c)
	})
}

func TestDiskBound(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &service{latency: 20 * time.Millisecond, tags: true}
		o := Options{Source: s, Dir: t.TempDir(), Disk: 40 << 20, Memory: 64 << 20}
		c := open(t, o)
		for i := range 4 {
			play(t, c, film(fmt.Sprint("film", i), 20<<20), 1<<20)
			written(c)
			if n := c.Stats().DiskBytes; n > o.Disk {
				t.Errorf("%d bytes on disk", n)
			}
		}
		var real int64
		var names []string
		for _, f := range files(t, o.Dir) {
			var st syscall.Stat_t
			if err := syscall.Stat(f, &st); err != nil {
				t.Fatal(err)
			}
			real += st.Blocks * 512
			names = append(names, filepath.Base(f))
		}
		if real > o.Disk+1<<20 {
			t.Errorf("%d bytes really on disk", real)
		}
		// Four films of five chunks: the heads and tails of all are there,
		// with what is youngest of the rest.
		edges := 0
		for _, n := range names {
			if strings.HasSuffix(n, edgeSuffix) {
				edges++
			}
		}
		if edges < 7 {
			t.Errorf("only %d heads and tails of 8: %v", edges, names)
		}
		// The order is kept over a restart.
		shut(t, c)
		o.Disk = 20 << 20
		c = open(t, o)
		synctest.Wait()
		if n := c.Stats().DiskBytes; n > o.Disk || n < o.Disk/2 {
			t.Errorf("%d bytes on disk after a restart with less", n)
		}
	})
}

// logs counts lines.
type logs struct{ bytes.Buffer }

func (l *logs) count(what string) int { return strings.Count(l.String(), what) }

// A disk that is full or cannot be written turns the tier off with one line,
// and on again with one.
func TestDiskOff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var l logs
		s := &service{latency: 20 * time.Millisecond, tags: true}
		dir := filepath.Join(t.TempDir(), "cache")
		if err := os.WriteFile(dir, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		o := Options{Source: s, Dir: dir, Disk: 1 << 30, Memory: 16 << 20, Logger: slog.New(slog.NewTextHandler(&l, nil))}
		c := open(t, o)
		for i := range 3 {
			play(t, c, film(fmt.Sprint("film", i), 20<<20), 1<<20)
			written(c)
			time.Sleep(time.Minute)
		}
		if l.count("disk cache off") != 1 || l.count("on again") != 0 {
			t.Errorf("log: %s", l.String())
		}
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		play(t, c, film("film", 20<<20), 1<<20)
		written(c)
		if l.count("disk cache off") != 1 || l.count("on again") != 1 {
			t.Errorf("log: %s", l.String())
		}
		// Full: the reserve is kept, what there is of ours goes first.
		full := int64(1)
		c.disk.writing.Lock()
		c.disk.checked = time.Time{}
		c.disk.statfs = func(string) (int64, int64, error) { return 1 << 30, full << 40, nil }
		c.disk.writing.Unlock()
		play(t, c, film("another", 20<<20), 1<<20)
		written(c)
		if n := c.Stats().DiskBytes; n != 0 {
			t.Errorf("%d bytes on a full disk", n)
		}
		if l.count("disk cache off") != 2 {
			t.Errorf("log: %s", l.String())
		}
		check(t, c)
	})
}

func TestHeader(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	v := Version{ID: "3x_-Ab0cDe1fGh2iJk3lMn", Content: 9, Size: 99 << 20}
	h := header{id: v.ID, size: v.Size, mask: rnd.Uint64(), tag: "\"etag\""}
	for i := range h.crc {
		h.crc[i] = rnd.Uint32()
	}
	page, ok := h.encode(v, 7)
	if !ok || len(page) != headerSize {
		t.Fatal("not encoded")
	}
	var got header
	if !got.decode(page, v, 7) || got != h {
		t.Error("decoded to something else")
	}
	other := v
	other.Size++
	if got.decode(page, v, 8) || got.decode(page, other, 7) || got.decode(page[1:], v, 7) {
		t.Error("another's page was taken")
	}
	for range 200 {
		q := bytes.Clone(page)
		q[rnd.IntN(len(q))] ^= 1 << rnd.IntN(8)
		if got.decode(q, v, 7) {
			t.Error("a damaged page was taken")
		}
	}
	v.ID = strings.Repeat("x", headerSize)
	if _, ok := h.encode(v, 0); ok {
		t.Error("an id that does not fit was encoded")
	}
}

func FuzzHeader(f *testing.F) {
	v := film("film", 1<<30)
	h := header{mask: 7, tag: "t"}
	page, _ := h.encode(v, 3)
	f.Add(page)
	f.Fuzz(func(t *testing.T, p []byte) {
		var h header
		if h.decode(p, v, 3) {
			q, ok := h.encode(v, 3)
			if !ok || len(q) != headerSize {
				t.Error("what was decoded cannot be encoded")
			}
		}
	})
}

func TestNames(t *testing.T) {
	d := openDisk("/cache", 1, 1, slog.New(slog.DiscardHandler))
	for _, k := range []diskKey{{0xff00000000000001, 1, 0}, {1, 123456789, 99}} {
		for edge := range 2 {
			p := d.path(k, edge)
			got, e, ok := parseName(filepath.Base(p))
			if !ok || got != k || e != edge {
				t.Errorf("%s: %v %d %v", p, got, e, ok)
			}
		}
	}
	for _, n := range []string{"", "x", "lost+found", "0000000000000001.1", "zzzz000000000001.1.1", "0000000000000001.x.1", "0000000000000001.1.1.1"} {
		if _, _, ok := parseName(n); ok {
			t.Errorf("%q is no name of ours", n)
		}
	}
}

// While a download is faster than the disk could follow only heads and tails
// are written; the rest is afterwards, as far as it is still in memory.
// What comes over a line faster than the disk's usual is kept as well; while
// more comes than the processor has time for, heads and tails of media alone.
func TestFlood(t *testing.T) {
	for _, rate := range []int64{50e6, 200e6} { // a connection
		bubble(t, func(t *testing.T) {
			s := &service{latency: 50 * time.Millisecond, rate: rate, tags: true}
			c := open(t, Options{Source: s, Memory: 512 << 20, Dir: t.TempDir(), Disk: 1 << 30})
			v := film("film", 420<<20)
			r := c.Reader(v)
			defer r.Close()
			const step = 1 << 20
			flooded := false
			for off := int64(0); off < v.Size; off += step {
				mustRead(t, r, off, step)
				synctest.Wait()
				c.mu.Lock()
				if now := time.Now(); now.Before(c.arriving.ends) {
					flooded = true
					for _, w := range c.saves {
						if w.ch.isEdge() {
							t.Errorf("chunk %d waits", w.ch.index)
						}
					}
				}
				if c.saving > c.pool.max/4 {
					t.Errorf("%d of %d blocks wait for the disk", c.saving, c.pool.max)
				}
				c.mu.Unlock()
			}
			if flooded != (rate > 100e6) {
				t.Errorf("%d MB/s a connection: flooded %v", rate/1e6, flooded)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			if got := c.Stats().DiskBytes; got < v.Size {
				t.Errorf("%d of %d on disk afterwards", got, v.Size)
			}
			shut(t, c)
		})
	}
}
