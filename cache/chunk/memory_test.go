package chunk

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// 200 files open, 50 being read at once: the pool keeps its bound, everybody
// gets on, and nothing comes twice that was not given up.
func TestMemoryBound(t *testing.T) {
	for _, mem := range []int64{8 << 20, 64 << 20} {
		t.Run(fmt.Sprint(mem>>20), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := &service{latency: 20 * time.Millisecond, rate: 50 << 20, tags: true}
				c := open(t, Options{Memory: mem, Source: s, ReadTimeout: time.Hour})
				var rs []*Reader
				for i := range 200 {
					r := c.Reader(film(fmt.Sprint(i), 8<<20))
					defer r.Close()
					rs = append(rs, r)
				}
				for _, r := range rs {
					mustRead(t, r, 0, 4096)
				}
				before := s.downloaded()
				var wg sync.WaitGroup
				for i := range 50 {
					wg.Go(func() {
						for off := int64(0); off < 8<<20; off += 128 << 10 {
							if err := readAt(t.Context(), rs[i*4], off, 128<<10); err != nil {
								t.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				check(t, c)
				if m := c.Stats().MemoryBytes; m > mem {
					t.Errorf("%d bytes in buffers, at most %d allowed", m, mem)
				}
				ratio := float64(s.downloaded()-before) / (50 * 8 << 20)
				t.Logf("downloaded %.2f of what was read", ratio)
				if mem >= 64<<20 && ratio > 1.05 {
					t.Errorf("downloaded %.2f", ratio)
				}
			})
		})
	}
}

// More reads at once than buffers: all are served, none waits for ever.
func TestMemoryShort(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &service{latency: 20 * time.Millisecond, tags: true}
		c := open(t, Options{Memory: minMemory, Source: s, ReadTimeout: time.Hour})
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				r := c.Reader(film(fmt.Sprint(i%40), 64<<20))
				defer r.Close()
				rnd := rand.New(rand.NewPCG(uint64(i), 1))
				for j := range 10 {
					ctx, cancel := t.Context(), context.CancelFunc(func() {})
					if j%4 == 3 {
						ctx, cancel = context.WithTimeout(ctx, time.Duration(rnd.IntN(60))*time.Millisecond)
					}
					err := readAt(ctx, r, rnd.Int64N(63<<20), maxView)
					if err != nil && ctx.Err() == nil {
						t.Error(err)
					}
					cancel()
				}
			})
		}
		wg.Wait()
		check(t, c)
	})
}

// Views that are kept for long keep their bytes and nobody else from reading.
func TestViewsKept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &service{tags: true}
		c := open(t, Options{Memory: 16 << 20, Source: s})
		v := film("film", 1<<30)
		r := c.Reader(v)
		var kept []View
		for i := range 6 {
			b, err := r.ReadAt(t.Context(), int64(i)*100<<20, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			kept = append(kept, b)
		}
		r.Close()
		c.Drop("film")
		play(t, c, film("other", 100<<20), 1<<20)
		for i, b := range kept {
			p := make([]byte, 1<<20)
			fill(p, "film", 1, int64(i)*100<<20)
			for _, sl := range b.Slices() {
				if string(sl) != string(p[:len(sl)]) {
					t.Fatalf("View %d has other bytes now", i)
				}
				p = p[len(sl):]
			}
			b.Release()
		}
		check(t, c)
	})
}

// Played again from memory: nothing is downloaded, nothing is allocated.
func TestWarm(t *testing.T) {
	s := &service{tags: true}
	c := open(t, Options{Memory: 64 << 20, Source: s})
	v := film("film", 16<<20)
	play(t, c, v, 128<<10)
	c.settlePolicy()
	c.ristretto.Wait()
	before := s.downloaded()
	r := c.Reader(v)
	defer r.Close()
	for off := int64(0); off < v.Size; off += 128 << 10 {
		mustRead(t, r, off, 128<<10)
	}
	if n := s.downloaded() - before; n > 0 {
		t.Errorf("downloaded %d bytes again", n)
	}
	off := int64(0)
	if n := testing.AllocsPerRun(1000, func() {
		b, err := r.ReadAt(context.Background(), 8<<20+off%(1<<20), 128<<10)
		if err != nil {
			t.Fatal(err)
		}
		b.Release()
		off += 4096
	}); n > 0 && !raceEnabled {
		t.Errorf("%.1f allocations a warm read", n)
	}
}

// Everything at once: random reads of many, seeks, closes, drops, little
// memory, a disk tier, faults.
func TestRandomReads(t *testing.T) {
	t.Run("tags", func(t *testing.T) { randomReads(t, true) })
	t.Run("no tags", func(t *testing.T) { randomReads(t, false) })
}

func randomReads(t *testing.T, tags bool) {
	bubble(t, func(t *testing.T) {
		s := &service{latency: 5 * time.Millisecond, rate: 50 << 20, tags: tags}
		s.fault = func(n int, from, to int64) *fault {
			switch n % 17 {
			case 3:
				return &fault{short: true, after: 1 + from%(to-from)}
			case 8:
				return &fault{reset: true, after: from % 4096}
			case 12:
				return &fault{stall: true, after: from % 100_000}
			}
			return nil
		}
		c := open(t, Options{Memory: 24 << 20, Source: s, Dir: t.TempDir(), Disk: 32 << 20})
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(i), 7))
				var r *Reader
				for range 60 {
					v := film(fmt.Sprint(rnd.IntN(4)), 20<<20)
					if r == nil || rnd.IntN(10) == 0 {
						if r != nil {
							r.Close()
						}
						r = c.Reader(v)
					}
					if rnd.IntN(40) == 0 {
						c.Drop(v.ID)
					}
					off, n := rnd.Int64N(v.Size), 1+rnd.IntN(300<<10)
					for range 1 + rnd.IntN(4) {
						ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+rnd.IntN(20000))*time.Millisecond)
						if err := readAt(ctx, r, off, n); err != nil && ctx.Err() == nil {
							t.Error(err)
						}
						cancel()
						off += int64(n)
					}
				}
				r.Close()
			})
		}
		wg.Wait()
		check(t, c)
	})
}

func TestReadIntoAdoptCached(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &service{latency: 10 * time.Millisecond, tags: true}
		c := open(t, Options{Source: s, Dir: t.TempDir(), Disk: 1 << 30})
		v := film("film", 30<<20+5)
		p := make([]byte, 10<<20)
		n, err := c.ReadInto(t.Context(), v, p, 22<<20)
		if err != nil || n != 8<<20+5 {
			t.Fatalf("ReadInto gave %d, %v", n, err)
		}
		want := make([]byte, n)
		fill(want, v.ID, 1, 22<<20)
		if string(want) != string(p[:n]) {
			t.Error("ReadInto gave wrong bytes")
		}
		if n := s.downloaded(); n != 8<<20+5 {
			t.Errorf("ReadInto downloaded %d", n)
		}
		if n := c.Cached(v); n != 8<<20+5 {
			t.Errorf("%d bytes cached", n)
		}
		for _, size := range []int64{1, 100_000, 30<<20 + 5} {
			up := Version{ID: fmt.Sprint("up", size), Content: 3, Size: size, Name: "up.bin"}
			c.Adopt(up, content3{up})
			if n := c.Cached(up); n != size {
				t.Errorf("adopted %d, cached %d", size, n)
			}
			before := s.downloaded()
			play(t, c, up, 128<<10)
			if n := s.downloaded() - before; n != 0 {
				t.Errorf("downloaded %d of what was uploaded", n)
			}
			c.Drop(up.ID)
			c.settlePolicy()
			c.ristretto.Wait()
			if n := c.Cached(up); n != 0 {
				t.Errorf("%d bytes cached of what was dropped", n)
			}
			play(t, c, up, 128<<10)
			if n := s.downloaded() - before; n != size {
				t.Errorf("downloaded %d of %d after Drop", n, size)
			}
		}
		check(t, c)
	})
}

// content3 is a draft: the bytes of a version as a file.
type content3 struct{ v Version }

func (d content3) ReadAt(p []byte, off int64) (int, error) {
	fill(p, d.v.ID, d.v.Content, off)
	return len(p), nil
}

func TestStats(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &service{latency: 10 * time.Millisecond, rate: 50 << 20, tags: true}
		c := open(t, Options{Source: s})
		v := film("film", 64<<20)
		r := c.Reader(v)
		defer r.Close()
		for off := int64(0); off < 16<<20; off += 128 << 10 {
			mustRead(t, r, off, 128<<10)
			time.Sleep(20 * time.Millisecond)
		}
		st := c.Stats()
		if st.Served != 16<<20 || st.Downloaded < 16<<20 || st.Hits+st.Misses != 128 || st.Misses == 0 || st.MemoryBytes < 16<<20 {
			t.Errorf("%+v", st)
		}
		if len(st.Streams) != 1 {
			t.Fatalf("%+v", st)
		}
		if x := st.Streams[0]; x.Name != v.Name || x.Off != 16<<20 || x.Window < 16<<20 || x.Rate < 5<<20 || x.Rate > 8<<20 {
			t.Errorf("%+v", x)
		}
		time.Sleep(time.Minute)
		if n := len(c.Stats().Streams); n != 0 {
			t.Errorf("%d streams after a minute without a read", n)
		}
	})
}

// What the kernel counts, with 200 files open, 50 being read and more than ten
// times the memory read: the promise is the bound and 64 MiB.
func TestResident(t *testing.T) {
	if raceEnabled {
		t.Skip("under the race detector the buffers are heap")
	}
	const mem = 64 << 20
	c := open(t, Options{Memory: mem, Source: &service{tags: true}, Dir: t.TempDir(), Disk: 1 << 30})
	before := rssAnon(t)
	var rs []*Reader
	for i := range 200 {
		r := c.Reader(film(fmt.Sprint(i), 16<<20))
		defer r.Close()
		mustRead(t, r, 8<<20, 4096)
		rs = append(rs, r)
	}
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			for off := int64(0); off < 16<<20; off += 128 << 10 {
				b, err := rs[i*4].ReadAt(t.Context(), off, 128<<10)
				if err != nil {
					t.Error(err)
					return
				}
				b.Release()
			}
		})
	}
	wg.Wait()
	check(t, c)
	if grown := rssAnon(t) - before; grown > mem+32<<20 {
		t.Errorf("grew by %d MiB with %d MiB allowed", grown>>20, mem>>20)
	} else {
		t.Logf("grew by %d MiB", grown>>20)
	}
}

func rssAnon(t *testing.T) int64 {
	t.Helper()
	p, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(p)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatal("no RssAnon")
	return 0
}
