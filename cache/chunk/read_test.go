package chunk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drivefs/drivefs/drive"
)

// mostConnections is what --downloads says when it says nothing.
const mostConnections = 16

func TestSequentialOnce(t *testing.T) {
	for _, mem := range []int64{16 << 20, 512 << 20} {
		for _, step := range []int{4 << 10, 128 << 10, 1 << 20} {
			for _, tags := range []bool{true, false} {
				t.Run(fmt.Sprintf("memory=%dM/step=%dK/tags=%v", mem>>20, step>>10, tags), func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						s := &service{latency: 50 * time.Millisecond, rate: 50 << 20, tags: tags}
						c := open(t, Options{Memory: mem, Source: s})
						for i := range 2 {
							v := film(fmt.Sprint("film", i), 40<<20+12345)
							before := s.downloaded()
							play(t, c, v, step)
							check(t, c)
							if got := s.downloaded() - before; got != v.Size {
								t.Errorf("film %d: downloaded %d of %d", i, got, v.Size)
							}
						}
						if s.most > mostConnections {
							t.Errorf("%d connections at once", s.most)
						}
					})
				})
			}
		}
	}
}

// The kernel's reads overtake each other: that is still one stream, and
// nothing comes twice.
func TestSequentialReordered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &service{latency: 50 * time.Millisecond, rate: 50 << 20, tags: true}
		c := open(t, Options{Memory: 64 << 20, Source: s})
		v := film("film", 64<<20)
		r := c.Reader(v)
		defer r.Close()
		const step = 128 << 10
		var wg sync.WaitGroup
		next := make(chan int64)
		for range 4 {
			wg.Go(func() {
				for off := range next {
					if err := readAt(t.Context(), r, off, step); err != nil {
						t.Error(err)
					}
				}
			})
		}
		for off := int64(0); off < v.Size; off += 2 * step {
			next <- off + step
			next <- off
		}
		close(next)
		wg.Wait()
		if got := s.downloaded(); got != v.Size {
			t.Errorf("downloaded %d of %d", got, v.Size)
		}
	})
}

// As root the kernel reads 1 MiB at a time and has eight under way, which come
// in any order: that is one stream too.
func TestSequentialOvertaking(t *testing.T) {
	const step, under = 1 << 20, 8
	rnd := rand.New(rand.NewPCG(7, 8))
	for i := range int64(4) {
		bubble(t, func(t *testing.T) {
			s := &service{latency: 50 * time.Millisecond, rate: 50 << 20, tags: true}
			c := open(t, Options{Memory: 128 << 20, Source: s})
			v := film("film", 96<<20)
			r := c.Reader(v)
			defer r.Close()
			order := []int64{0, 1, 2, 4, 3, 5, 6, 7, 9, 8}
			late := make(map[int64]int64)
			for n := int64(len(order)); n < v.Size/step; n++ {
				order = append(order, n)
				late[n] = n + rnd.Int64N(i+1) // passed by at most i others
			}
			slices.SortStableFunc(order[10:], func(a, b int64) int { return cmp.Compare(late[a], late[b]) })
			var wg sync.WaitGroup
			slots := make(chan struct{}, under)
			for _, n := range order {
				slots <- struct{}{}
				wg.Go(func() {
					defer func() { <-slots }()
					if err := readAt(t.Context(), r, n*step, step); err != nil {
						t.Error(err)
					}
				})
				// Until it has reached the cache: what follows has overtaken it
				// only where the order says so.
				synctest.Wait()
			}
			wg.Wait()
			if n := len(r.streams); n != 1 {
				t.Errorf("taken for %d streams", n)
			}
			if got := s.downloaded(); got != v.Size {
				t.Errorf("downloaded %d of %d in %d requests", got, v.Size, len(s.asked()))
			}
			check(t, c)
		})
	}
}

// Few connections do as well as many, only slower.
func TestFewConnections(t *testing.T) {
	for _, n := range []int{1, 2, 3} {
		bubble(t, func(t *testing.T) {
			s := &service{latency: 50 * time.Millisecond, rate: 50 << 20, tags: true}
			c := open(t, Options{Memory: 64 << 20, Source: s, Downloads: n})
			var wg sync.WaitGroup
			for i := range 3 {
				wg.Go(func() {
					r := c.Reader(film(fmt.Sprint("film", i), 20<<20))
					defer r.Close()
					for off := int64(0); off < 20<<20; off += 128 << 10 {
						if err := readAt(t.Context(), r, off, 128<<10); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			if s.most > n {
				t.Errorf("%d connections of %d", s.most, n)
			}
			if r := float64(s.downloaded()) / (60 << 20); r > 1.05 {
				t.Errorf("downloaded %.3f", r)
			}
			check(t, c)
		})
	}
}

// A film of 1 GiB over 50 ms and 50 MB/s a connection, against 16 connections
// that ask for 4 MiB after 4 MiB, and against 16 that each ask once for their
// sixteenth, which is as fast as such a line can be.
func TestFillsTheLine(t *testing.T) {
	for _, x := range []struct {
		step         int64
		under        int // reads at once, as the kernel sends them
		memory       int64
		pieces, best float64 // of the two, at least
	}{
		{1 << 20, 1, 512 << 20, 0.9, 0.6},
		{1 << 20, 4, 512 << 20, 0.9, 0.6},
		{128 << 10, 1, 512 << 20, 0.8, 0.5},
		{1 << 20, 4, 128 << 20, 0.7, 0},
	} {
		bubble(t, func(t *testing.T) {
			s := &service{latency: 50 * time.Millisecond, rate: 50e6, tags: true}
			c := open(t, Options{Memory: x.memory, Source: s})
			v := film("film", 1<<30)
			r := c.Reader(v)
			defer r.Close()
			begun := time.Now()
			var wg sync.WaitGroup
			slots := make(chan struct{}, x.under)
			for off := int64(0); off < v.Size; off += x.step {
				slots <- struct{}{}
				wg.Go(func() {
					defer func() { <-slots }()
					b, err := r.ReadAt(t.Context(), off, int(x.step))
					if err != nil {
						t.Error(err)
					}
					b.Release()
				})
				synctest.Wait() // so that it does not come later than the kernel would send it
			}
			wg.Wait()
			took := time.Since(begun).Seconds()
			pieces := float64(v.Size) / 16 / chunkSize * (0.05 + chunkSize/50e6)
			best := 0.05 + float64(v.Size)/16/50e6
			t.Logf("%d KiB × %d, %d MiB: %.0f MB/s, × %.2f of 16 connections with ranges of 4 MiB, × %.2f of one range each, %d requests",
				x.step>>10, x.under, x.memory>>20, float64(v.Size)/took/1e6, pieces/took, best/took, len(s.asked()))
			if pieces/took < x.pieces || best/took < x.best {
				t.Errorf("want × %.2f and × %.2f", x.pieces, x.best)
			}
			if got := s.downloaded(); got != v.Size {
				t.Errorf("downloaded %d of %d", got, v.Size)
			}
			if s.most > mostConnections {
				t.Errorf("%d connections", s.most)
			}
			check(t, c)
		})
	}
}

// One round trip to the first bytes, also after a seek, also while a stream
// fills the line; without ETags one more.
func TestFirstByte(t *testing.T) {
	for _, tags := range []bool{true, false} {
		bubble(t, func(t *testing.T) {
			const rtt = 50 * time.Millisecond
			s := &service{latency: rtt, rate: 50 << 20, tags: tags}
			c := open(t, Options{Source: s})
			other := c.Reader(film("other", 100<<30))
			ctx, stop := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() {
				for off := int64(0); ; off += 128 << 10 {
					w, err := other.ReadAt(ctx, off, 128<<10)
					if err != nil {
						return
					}
					w.Release()
				}
			})
			r := c.Reader(film("film", 4<<30))
			rnd := rand.New(rand.NewPCG(3, 4))
			for i := range 15 {
				off := rnd.Int64N(4<<30) &^ 4095
				if i == 0 {
					off = 0
				}
				begun := time.Now()
				mustRead(t, r, off, 64<<10)
				trip := rtt
				if !tags {
					trip *= 2 // whose bytes they are is asked
				}
				if d := time.Since(begun); d > trip*115/100 {
					t.Errorf("tags %v: seek %d to %d took %v", tags, i, off, d)
				}
				time.Sleep(20 * time.Millisecond)
			}
			stop()
			wg.Wait()
			r.Close()
			other.Close()
			check(t, c)
		})
	}
}

// A look at a few places, near each other or not, fetches little: nothing is
// read ahead before something was read one after the other.
func TestLooksFetchLittle(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &service{latency: 50 * time.Millisecond, tags: true}
		c := open(t, Options{Source: s})
		r := c.Reader(film("film", 4<<30))
		defer r.Close()
		offs := []int64{0, 3 << 20, 5 << 20, 8 << 20, 2 << 30, 2<<30 + 1<<20, 1 << 30}
		for _, off := range offs {
			mustRead(t, r, off, 64<<10)
			synctest.Wait()
		}
		time.Sleep(time.Second)
		if got := s.downloaded(); got > int64(len(offs))<<20 {
			t.Errorf("downloaded %d KiB for %d reads of 64", got>>10, len(offs))
		}
		check(t, c)
	})
}

func TestSeekCancels(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &service{latency: 50 * time.Millisecond, rate: 1 << 20, tags: true}
		c := open(t, Options{Source: s})
		r := c.Reader(film("film", 4<<30))
		defer r.Close()
		for off := int64(0); off < 8<<20; off += 128 << 10 {
			mustRead(t, r, off, 128<<10)
		}
		s.mu.Lock()
		busy := s.open
		s.mu.Unlock()
		if busy < 3 {
			t.Fatalf("only %d connections before the seek", busy)
		}
		mustRead(t, r, 2<<30, 64<<10)
		synctest.Wait()
		s.mu.Lock()
		busy = s.open
		s.mu.Unlock()
		if busy > 1 {
			t.Errorf("%d connections after the seek", busy)
		}
		check(t, c)
	})
}

// Tail then head, as players read films with the index at the end: the head's
// stream goes on where it was, the whole costs little.
func TestTailThenHead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &service{latency: 50 * time.Millisecond, rate: 50 << 20, tags: true}
		c := open(t, Options{Source: s})
		v := film("film", 1<<30)
		r := c.Reader(v)
		defer r.Close()
		begun := time.Now()
		mustRead(t, r, 0, 128<<10)
		mustRead(t, r, v.Size-700<<10, 128<<10)
		for off := v.Size - 700<<10; off < v.Size; off += 128 << 10 {
			mustRead(t, r, off, 128<<10)
		}
		mustRead(t, r, 128<<10, 128<<10)
		if n := s.downloaded(); n > 2<<20 {
			t.Errorf("downloaded %d bytes", n)
		}
		if d := time.Since(begun); d > 4*50*time.Millisecond {
			t.Errorf("took %v", d)
		}
	})
}

// Sound and picture of a badly interleaved film, a few MiB apart on one
// handle: both are sequential.
func TestInterleaved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const rtt = 50 * time.Millisecond
		s := &service{latency: rtt, rate: 50 << 20, tags: true}
		c := open(t, Options{Source: s})
		v := film("film", 100<<20)
		r := c.Reader(v)
		defer r.Close()
		const step = 64 << 10
		begun := time.Now()
		n := 0
		for off := int64(5 << 20); off < 60<<20; off += step {
			mustRead(t, r, off, step)
			mustRead(t, r, off-5<<20, step)
			n += 2
		}
		if d := time.Since(begun); d > 40*rtt {
			t.Errorf("%d reads took %.0f round trips", n, d.Seconds()/rtt.Seconds())
		}
		if got := s.downloaded(); got > v.Size {
			t.Errorf("downloaded %d of %d", got, v.Size)
		}
	})
}

// Two players on one handle, and two readers with a handle each: every byte
// once, within 5 %.
func TestTwoPlayers(t *testing.T) {
	for _, handles := range []int{1, 2} {
		t.Run(fmt.Sprint(handles), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := &service{latency: 50 * time.Millisecond, rate: 50 << 20, tags: true}
				c := open(t, Options{Source: s})
				v := film("film", 200<<20)
				var rs []*Reader
				for range handles {
					rs = append(rs, c.Reader(v))
				}
				var wg sync.WaitGroup
				for i := range 2 {
					wg.Go(func() {
						r := rs[i%handles]
						from := int64(i) * 100 << 20
						for off := from; off < v.Size; off += 128 << 10 {
							if err := readAt(t.Context(), r, off, 128<<10); err != nil {
								t.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				if got := float64(s.downloaded()) / float64(v.Size); got > 1.05 {
					t.Errorf("downloaded %.3f of the file", got)
				}
				for _, r := range rs {
					r.Close()
				}
				check(t, c)
			})
		})
	}
}

// Many readers of the same bytes make one request; one who leaves leaves the
// others theirs; when all have left, it is cancelled.
func TestSharing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &service{latency: 50 * time.Millisecond, rate: 1 << 20, tags: true}
		c := open(t, Options{Source: s})
		v := film("film", 100<<20)
		var wg sync.WaitGroup
		ctx, leave := context.WithCancel(t.Context())
		for i := range 20 {
			r := c.Reader(v)
			wg.Go(func() {
				defer r.Close()
				mine := t.Context()
				if i < 10 {
					mine = ctx
				}
				begun := time.Now()
				err := readAt(mine, r, 0, 128<<10)
				switch {
				case i < 10 && (!errors.Is(err, context.Canceled) || time.Since(begun) != 60*time.Millisecond):
					t.Errorf("a reader that left got %v after %v", err, time.Since(begun))
				case i >= 10 && err != nil:
					t.Error(err)
				}
			})
		}
		time.Sleep(60 * time.Millisecond)
		leave()
		wg.Wait()
		if n := len(s.asked()); n != 1 {
			t.Errorf("%d requests: %v", n, s.asked())
		}
		r := c.Reader(v)
		ctx, leave = context.WithTimeout(t.Context(), 60*time.Millisecond)
		if err := readAt(ctx, r, 50<<20, 128<<10); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		leave()
		r.Close()
		synctest.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.open != 0 {
			t.Error("a download that nobody wants goes on")
		}
	})
}

// Pictures are few round trips each, small ones one.
func TestPictures(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &service{latency: 50 * time.Millisecond, tags: true}
		c := open(t, Options{Source: s})
		for _, x := range []struct {
			size  int64
			trips float64
		}{{3 << 20, 4}, {500 << 10, 1}} {
			begun := time.Now()
			const photos = 100
			for i := range photos {
				v := Version{ID: fmt.Sprint(x.size, i), Content: 1, Size: x.size + int64(i), Name: "a.JPG"}
				play(t, c, v, 128<<10)
			}
			if d := time.Since(begun).Seconds() / 0.05 / photos; d > x.trips+0.1 {
				t.Errorf("%d bytes took %.2f round trips each", x.size, d)
			}
		}
	})
}

// A read that needs what a slow fetch will bring late gets it by itself.
func TestSkipAhead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &service{latency: 50 * time.Millisecond, rate: 1 << 20, tags: true}
		c := open(t, Options{Source: s})
		v := Version{ID: "a", Content: 1, Size: 4 << 20, Name: "a.jpg"}
		r := c.Reader(v)
		defer r.Close()
		mustRead(t, r, 0, 4<<10)
		begun := time.Now()
		mustRead(t, r, 3<<20, 4<<10)
		if d := time.Since(begun); d > 200*time.Millisecond {
			t.Errorf("took %v", d)
		}
		for off := int64(0); off < v.Size; off += 128 << 10 {
			mustRead(t, r, off, 128<<10)
		}
		if got := s.downloaded(); got != v.Size {
			t.Errorf("downloaded %d of %d", got, v.Size)
		}
	})
}

func TestEdges(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &service{tags: true}
		c := open(t, Options{Source: s})
		v := film("film", 5<<20+17)
		r := c.Reader(v)
		for _, x := range []struct {
			off int64
			n   int
		}{
			{v.Size - 1, 1}, {v.Size - 1, 100}, {v.Size, 10}, {v.Size + 5, 10}, {-1, 10}, {0, 0}, {0, -3},
			{4<<20 - 1, 2}, {0, 5 << 20}, {1, 64 << 20}, {256<<10 - 1, 2},
		} {
			b, err := r.ReadAt(t.Context(), x.off, x.n)
			if err != nil {
				t.Fatal(err)
			}
			want := int(max(0, min(int64(max(x.n, 0)), v.Size-x.off)))
			if x.off < 0 {
				want = 0
			}
			if b.Len() != want {
				t.Errorf("read of %d at %d gave %d", x.n, x.off, b.Len())
			}
			b.Release()
			if want > 0 {
				mustRead(t, r, x.off, x.n)
			}
		}
		empty := c.Reader(Version{ID: "e", Content: 1})
		if b, err := empty.ReadAt(t.Context(), 0, 10); err != nil || b.Len() != 0 || b.Slices() != nil {
			t.Errorf("an empty file gave %d bytes and %v", b.Len(), err)
		}
		empty.Close()
		b, err := r.ReadAt(t.Context(), 0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		r.Close() // does nothing
		if _, err := r.ReadAt(t.Context(), 0, 1000); !errors.Is(err, errClosed) {
			t.Errorf("read after Close: %v", err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		p := make([]byte, 1000)
		fill(p, v.ID, 1, 0)
		if string(b.Slices()[0]) != string(p) {
			t.Error("a View did not outlive its Reader and the cache")
		}
		b.Release()
		if _, err := c.ReadInto(t.Context(), v, p, 0); !errors.Is(err, errClosed) {
			t.Errorf("ReadInto after Close: %v", err)
		}
	})
}

// Package drive tells nobody the priority of a context, but equal contexts
// are deeply equal.
func TestPriorities(t *testing.T) {
	ctx := t.Context()
	caller := drive.WithPriority(ctx, drive.Uploading)
	for _, x := range []struct {
		f    fetch
		want context.Context
	}{
		{fetch{}, drive.WithPriority(ctx, drive.ReadAhead)},
		{fetch{waiters: []*waiter{{}}}, drive.WithPriority(ctx, drive.Foreground)},
		{fetch{values: caller}, under{drive.WithPriority(ctx, drive.Background), caller}},
	} {
		if got := requestContext(ctx, &x.f); !reflect.DeepEqual(got, x.want) {
			t.Errorf("got %v, want %v", got, x.want)
		}
	}
	type key struct{}
	u := under{context.WithValue(ctx, key{}, 1), context.WithValue(ctx, key{}, 2)}
	if u.Value(key{}) != 2 {
		t.Error("the caller's value does not win")
	}
	u.over = ctx
	if u.Value(key{}) != 1 {
		t.Error("the default is not seen")
	}
}
