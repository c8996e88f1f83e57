package chunk

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drivefs/drivefs/drive"
)

// Every way a download can break is followed by a request for the missing
// byte; the reader sees a pause only and no byte comes twice.
func TestResume(t *testing.T) {
	throttled := &drive.Error{Op: "content.download", Kind: drive.ErrThrottled, Status: 429}
	for name, f := range map[string]fault{
		"short":       {short: true, after: 100_000},
		"short at 0":  {short: true},
		"reset":       {reset: true, after: 300_001},
		"reset at 0":  {reset: true},
		"stall":       {stall: true, after: 70_000},
		"stall at 0":  {stall: true},
		"5xx":         {err: &drive.Error{Op: "content.download", Kind: drive.ErrUnavailable, Status: 503}},
		"429":         {err: throttled},
		"416":         {err: &drive.Error{Op: "content.download", Kind: drive.ErrRange, Status: 416}},
		"404 of new":  {err: drive.ErrNotFound},
		"not the API": {err: drive.ErrProtocol},
		"unknown":     {err: errReset},
	} {
		for _, tags := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/tags=%v", name, tags), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					s := &service{latency: 50 * time.Millisecond, rate: 50 << 20, tags: tags}
					s.fault = func(n int, from, to int64) *fault {
						if n%3 == 0 {
							return &f
						}
						return nil
					}
					c := open(t, Options{Memory: 64 << 20, Source: s})
					v := film("film", 20<<20+999)
					play(t, c, v, 128<<10)
					check(t, c)
					got := s.downloaded() // and a byte for each probe
					if over := got - v.Size; tags && over > 16 || over < 0 || over > int64(len(s.asked()))*granuleSize {
						t.Errorf("downloaded %d of %d", got, v.Size)
					}
				})
			})
		}
	}
}

// A fault that stays ends the read within its time, with what is known of it.
func TestFailure(t *testing.T) {
	for name, x := range map[string]struct {
		fault fault
		want  error
		after time.Duration
	}{
		"stall":       {fault{stall: true}, drive.ErrUnavailable, 15 * time.Second},
		"5xx":         {fault{err: drive.ErrUnavailable}, drive.ErrUnavailable, 15 * time.Second},
		"429":         {fault{err: drive.ErrThrottled}, drive.ErrUnavailable, 15 * time.Second},
		"reset":       {fault{reset: true}, drive.ErrUnavailable, 15 * time.Second},
		"416":         {fault{err: drive.ErrRange}, drive.ErrUnavailable, 15 * time.Second},
		"auth":        {fault{err: drive.ErrAuth}, drive.ErrAuth, 0},
		"forbidden":   {fault{err: drive.ErrForbidden}, drive.ErrForbidden, 0},
		"404":         {fault{err: drive.ErrNotFound}, drive.ErrNotFound, time.Second},
		"changed":     {fault{err: drive.ErrChanged}, drive.ErrChanged, 0},
		"stalls late": {fault{stall: true, after: 100}, drive.ErrUnavailable, 15 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				begun := time.Now()
				s := &service{latency: 50 * time.Millisecond, rate: 50 << 20, tags: true}
				s.fault = func(int, int64, int64) *fault { return &x.fault }
				c := open(t, Options{Source: s})
				r := c.Reader(film("film", 1<<30))
				defer r.Close()
				err := readAt(t.Context(), r, 0, 128<<10)
				if !errors.Is(err, x.want) {
					t.Errorf("got %v, want %v", err, x.want)
				}
				if d := time.Since(begun); d > x.after+time.Second {
					t.Errorf("took %v", d)
				}
				// It heals.
				s.mu.Lock()
				s.fault = nil
				s.mu.Unlock()
				if !errors.Is(x.want, drive.ErrChanged) {
					mustRead(t, r, 0, 128<<10)
				}
				check(t, c)
			})
		})
	}
}

// A read waits as long as bytes go on arriving, within reason, and asks for
// nothing twice then.
func TestSlow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &service{latency: 50 * time.Millisecond, rate: 6 << 10, tags: true}
		c := open(t, Options{Source: s})
		v := film("film", 512<<10)
		r := c.Reader(v)
		defer r.Close()
		begun := time.Now()
		if err := readAt(t.Context(), r, 0, 512<<10); !errors.Is(err, drive.ErrUnavailable) {
			t.Errorf("got %v, want %v", err, drive.ErrUnavailable)
		}
		if d := time.Since(begun); d < 50*time.Second || d > 61*time.Second {
			t.Errorf("took %v, want a minute", d)
		}
		for off := int64(0); off < v.Size; off += 128 << 10 {
			mustRead(t, r, off, 128<<10)
		}
		if got := s.downloaded(); got != v.Size {
			t.Errorf("downloaded %d of %d", got, v.Size)
		}
	})
}

// A read that is interrupted returns at once; the fetch goes on for others.
func TestInterrupt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &service{latency: 5 * time.Second, tags: true}
		c := open(t, Options{Source: s})
		r := c.Reader(film("film", 1<<30))
		defer r.Close()
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := readAt(t.Context(), r, 0, 4096); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		if err := readAt(ctx, r, 0, 4096); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != time.Second {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
		wg.Wait()
		if n := len(s.asked()); n != 1 {
			t.Errorf("%d requests", n)
		}
	})
}

// While the service is away or refuses, read-ahead does not hammer it.
func TestOutageIsQuiet(t *testing.T) {
	for _, refusal := range []error{drive.ErrUnavailable, drive.ErrThrottled, drive.ErrForbidden, drive.ErrAuth, drive.ErrNotFound} {
		bubble(t, func(t *testing.T) {
			s := &service{latency: 10 * time.Millisecond, rate: 50 << 20, tags: true}
			c := open(t, Options{Source: s})
			r := c.Reader(film("film", 1<<30))
			defer r.Close()
			for off := int64(0); off < 32<<20; off += 128 << 10 {
				mustRead(t, r, off, 128<<10)
			}
			var away atomic.Bool
			s.mu.Lock()
			s.fault = func(int, int64, int64) *fault {
				if away.Load() {
					return &fault{err: refusal}
				}
				return nil
			}
			s.mu.Unlock()
			away.Store(true)
			before := len(s.asked())
			begun := time.Now()
			for off := int64(32 << 20); ; off += 128 << 10 {
				if err := readAt(t.Context(), r, off, 128<<10); err != nil {
					break
				}
				time.Sleep(20 * time.Millisecond)
			}
			if n, d := len(s.asked())-before, time.Since(begun); n > 20+int(2*d.Seconds()) {
				t.Errorf("%v: %d requests in %v", refusal, n, d)
			}
			away.Store(false)
			time.Sleep(time.Minute)
			mustRead(t, r, 512<<20, 128<<10)
		})
	}
}

// A version that was named with the wrong size once.
func TestWrongSize(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &service{tags: true}
		c := open(t, Options{Source: s, Dir: t.TempDir(), Disk: 1 << 30})
		v := film("film", 3<<20)
		play(t, c, v, 1<<20)
		old := c.Reader(v)
		v.Size = 9 << 20
		play(t, c, v, 1<<20)
		old.Close()
		check(t, c)
	})
}

// Overwriting while readers read: each read is of one version, and a file
// read from its beginning is of one version as a whole or fails.
func TestNeverMixed(t *testing.T) {
	for _, tags := range []bool{true, false} {
		for at := range 12 {
			t.Run(fmt.Sprintf("tags=%v/%d", tags, at), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					s := &service{latency: 50 * time.Millisecond, rate: 5 << 20, tags: tags}
					c := open(t, Options{Memory: 32 << 20, Source: s, Dir: t.TempDir(), Disk: 1 << 30})
					v := film("film", 12<<20)
					v.Content = 7
					time.AfterFunc(time.Duration(at)*40*time.Millisecond, func() { s.overwrite("film", 8) })
					r := c.Reader(v)
					defer r.Close()
					was := int64(0)
					var failed error
					for off := int64(0); off < v.Size; off += 128 << 10 {
						b, err := r.ReadAt(t.Context(), off, 128<<10)
						if err != nil {
							failed = err
							break
						}
						p := make([]byte, 0, 128<<10)
						for _, sl := range b.Slices() {
							p = append(p, sl...)
						}
						b.Release()
						got := versionOf(t, p, "film", off, 7, 8)
						if was != 0 && got != was {
							t.Fatalf("read at %d is of version %d, those before of %d", off, got, was)
						}
						was = got
					}
					if failed != nil && !errors.Is(failed, drive.ErrChanged) {
						t.Errorf("failed with %v", failed)
					}
					if failed == nil && was == 8 && !tags {
						t.Error("a whole file of the wrong version went unnoticed")
					}
					// The new version reads whole, whatever happened.
					n := v
					n.Content = 8
					synctest.Wait()
					time.Sleep(time.Second)
					play(t, c, n, 1<<20)
					check(t, c)
				})
			})
		}
	}
}

// Random readers of a node that is overwritten again and again: no read is of
// two versions, and with ETags no handle is.
func TestNeverMixedRandom(t *testing.T) {
	for _, tags := range []bool{true, false} {
		bubble(t, func(t *testing.T) {
			s := &service{latency: 20 * time.Millisecond, rate: 5 << 20, tags: tags}
			c := open(t, Options{Memory: 16 << 20, Source: s, Dir: t.TempDir(), Disk: 1 << 30})
			var newest atomic.Int64
			newest.Store(1)
			s.overwrite("film", 1)
			stop := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				for n := int64(2); n < 5; n++ {
					time.Sleep(700 * time.Millisecond)
					s.overwrite("film", n)
					time.Sleep(150 * time.Millisecond) // until the feed tells
					newest.Store(n)
				}
				close(stop)
			})
			for i := range 4 {
				wg.Go(func() {
					rnd := rand.New(rand.NewPCG(uint64(i), 9))
					for {
						v := Version{ID: "film", Content: newest.Load(), Size: 12 << 20, Name: "film.bin"}
						r := c.Reader(v)
						was := int64(0)
						for range 12 {
							off, n := rnd.Int64N(v.Size-1), 1+rnd.IntN(80<<10)
							b, err := r.ReadAt(t.Context(), off, n)
							if err != nil {
								if !errors.Is(err, drive.ErrChanged) {
									t.Error(err)
								}
								break
							}
							p := make([]byte, 0, b.Len())
							for _, sl := range b.Slices() {
								p = append(p, sl...)
							}
							b.Release()
							if len(p) < 64 {
								continue // could be of any
							}
							got := versionOf(t, p, "film", off, 1, 2, 3, 4)
							if tags && was != 0 && got != was {
								t.Errorf("a handle got version %d after %d", got, was)
							}
							was = got
						}
						r.Close()
						select {
						case <-stop:
							return
						case <-time.After(10 * time.Millisecond):
						}
					}
				})
			}
			wg.Wait()
			check(t, c)
		})
	}
}

func versionOf(t *testing.T, p []byte, id string, off int64, versions ...int64) int64 {
	t.Helper()
	q := make([]byte, len(p))
	for _, n := range versions {
		fill(q, id, n, off)
		if string(p) == string(q) {
			return n
		}
	}
	t.Errorf("the read at %d is of no version: mixed", off)
	return 0
}

func TestWrongTotal(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &service{tags: true, total: 77}
		c := open(t, Options{Source: s})
		r := c.Reader(film("film", 1<<30))
		defer r.Close()
		s.confirm = drive.ErrChanged
		if err := readAt(t.Context(), r, 0, 4096); !errors.Is(err, drive.ErrChanged) {
			t.Errorf("got %v", err)
		}
	})
}

// A version found changed by mistake: who opens it again starts over.
func TestChangedByMistake(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &service{tags: true, total: 77}
		c := open(t, Options{Source: s})
		v := film("film", 1<<30)
		r := c.Reader(v)
		defer r.Close()
		if err := readAt(t.Context(), r, 0, 4096); !errors.Is(err, drive.ErrChanged) {
			t.Fatalf("got %v", err)
		}
		s.mu.Lock()
		s.total = 0
		s.mu.Unlock()
		if err := readAt(t.Context(), r, 0, 4096); !errors.Is(err, drive.ErrChanged) {
			t.Errorf("the old reader got %v", err)
		}
		again := c.Reader(v)
		defer again.Close()
		mustRead(t, again, 0, 4096)
		if n := s.questions(); n != 1 {
			t.Errorf("%d questions", n)
		}
		s.mu.Lock()
		s.confirm = drive.ErrChanged
		s.total = 77
		s.mu.Unlock()
		if err := readAt(t.Context(), again, 1<<29, 4096); !errors.Is(err, drive.ErrChanged) {
			t.Errorf("got %v", err)
		}
		third := c.Reader(v)
		defer third.Close()
		for range 3 {
			if err := readAt(t.Context(), third, 1<<29, 4096); !errors.Is(err, drive.ErrChanged) {
				t.Errorf("got %v", err)
			}
		}
		if n := s.questions(); n != 2 {
			t.Errorf("%d questions, the answer was final", n)
		}
		mustRead(t, third, 0, 4096) // what was there is still read
	})
}

// Without an ETag: confirmed by one question for many streams, by none when
// the MD5 of the whole is right; and not kept before.
func TestConfirm(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &service{latency: 50 * time.Millisecond, rate: 50 << 20}
		c := open(t, Options{Source: s})
		v := film("film", 256<<20)
		play(t, c, v, 128<<10)
		if n := len(s.asked()); s.questions() > n*2/3 || s.questions() == 0 {
			t.Errorf("%d questions for %d requests", s.questions(), n)
		}
		time.Sleep(time.Second)
		s.mu.Lock()
		s.confirms = 0
		s.mu.Unlock()
		small := Version{ID: "s", Content: 1, Size: 100_000, MD5: md5Of("s", 100_000)}
		play(t, c, small, 4096)
		time.Sleep(time.Second)
		if n := s.questions(); n != 0 {
			t.Errorf("%d questions for a file with the right MD5", n)
		}
		wrong := Version{ID: "w", Content: 1, Size: 100_000, MD5: md5Of("s", 100_000)}
		play(t, c, wrong, 4096)
		synctest.Wait()
		if s.questions() == 0 {
			t.Error("a wrong MD5 was not looked into")
		}
		s.mu.Lock()
		s.confirm = drive.ErrUnavailable
		s.mu.Unlock()
		r := c.Reader(film("other", 256<<20))
		for _, off := range []int64{0, 128 << 20} {
			if err := readAt(t.Context(), r, off, 4096); !errors.Is(err, drive.ErrUnavailable) {
				t.Errorf("bytes nobody vouched for at %d: got %v", off, err)
			}
		}
		if n := c.Cached(film("other", 256<<20)); n != 0 {
			t.Errorf("%d bytes kept that nobody confirmed", n)
		}
		s.mu.Lock()
		s.confirm = nil
		s.mu.Unlock()
		time.Sleep(10 * time.Second)
		if n := c.Cached(film("other", 256<<20)); n == 0 {
			t.Error("nothing kept although it was confirmed")
		}
		r.Close()
		check(t, c)
	})
}
