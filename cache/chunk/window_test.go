package chunk

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestWindow(t *testing.T) {
	const k, m = 1 << 10, 1 << 20
	seq := func(from, to, step int64) (reads [][2]int64) {
		for off := from; off < to; off += step {
			reads = append(reads, [2]int64{off, min(step, to-off)})
		}
		return reads
	}
	for _, x := range []struct {
		name  string
		file  string
		reads [][2]int64 // offset, bytes
		ahead int64
	}{
		{"one small read", "a", [][2]int64{{0, 4 * k}}, 4 * k},
		{"one large read", "a", [][2]int64{{0, m}}, m / 2},
		{"few small reads", "a", seq(0, 256*k, 4*k), 256 * k},
		{"half of it up to 2 MiB", "a", seq(0, m, 128*k), m / 2},
		{"short of 2 MiB", "a", seq(0, 2*m-128*k, 128*k), m - 64*k},
		{"as much beyond", "a", seq(0, 2*m, 128*k), 2 * m},
		{"far", "a", seq(5*m, 105*m, m), 100 * m},
		{"a picture: as much", "a.jpg", seq(0, 640*k, 128*k), 640 * k},
		{"overtaking reads are one after the other", "a", [][2]int64{{0, m}, {2 * m, m}, {m, m}, {4 * m, m}, {3 * m, m}}, 5 * m},
		{"what was overtaken and is not read counts against it", "a", [][2]int64{{0, 2 * m}, {3 * m, m}}, 2 * m},
		{"looks here and there earn nothing", "a", [][2]int64{{0, 64 * k}, {m, 64 * k}, {2 * m, 64 * k}, {3 * m, 64 * k}}, 0},
		{"the same again earns nothing", "a", [][2]int64{{0, m}, {0, m}, {0, m}}, m / 2},
		{"backwards", "a", [][2]int64{{m, 64 * k}, {m - 64*k, 64 * k}, {m - 128*k, 64 * k}}, 64 * k},
	} {
		w := window{next: x.reads[0][0]}
		for _, r := range x.reads {
			if _, ok := w.near(r[0]); !ok {
				t.Fatalf("%s: a read at %d is far away", x.name, r[0])
			}
			w.read(r[0], r[0]+r[1])
		}
		if got := w.ahead(x.file); got != x.ahead {
			t.Errorf("%s: %d KiB ahead, want %d", x.name, got/k, x.ahead/k)
		}
	}
	w := window{next: 10 * m}
	for off, want := range map[int64]bool{6*m - 1: false, 6 * m: true, 14 * m: true, 14*m + 1: false} {
		if _, ok := w.near(off); ok != want {
			t.Errorf("near %d: %v", off, ok)
		}
	}
}

// Whoever stops anywhere has cost at most twice what was read, and a place at
// most 512 KiB.
func TestEarned(t *testing.T) {
	for _, step := range []int64{4 << 10, 128 << 10, 1 << 20} {
		for _, name := range []string{"a.mkv", "a.iso", "a.jpg"} {
			for _, read := range []int64{4 << 10, 512 << 10, 1 << 20, 2 << 20, 3 << 20, 16 << 20} {
				t.Run(fmt.Sprintf("%s/%dK/%dK", name, step>>10, read>>10), func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						s := &service{latency: 50 * time.Millisecond, rate: 50e6, tags: true}
						c := open(t, Options{Source: s})
						r := c.Reader(Version{ID: "a", Content: 1, Size: 1 << 30, Name: name})
						const from = 100<<20 + 4096
						step := min(step, read)
						for off := int64(0); off < read; off += step {
							mustRead(t, r, from+off, int(step))
						}
						time.Sleep(time.Second)
						r.Close()
						synctest.Wait()
						var asked int64
						for _, q := range s.asked() {
							asked += q.to - q.from
						}
						most := max(512<<10, 2*read+256<<10)
						if read <= 1<<20 && name != "a.jpg" {
							most = max(512<<10, read*3/2+512<<10)
						}
						if asked > most {
							t.Errorf("asked for %d KiB, want at most %d", asked>>10, most>>10)
						}
						if s.open != 0 {
							t.Error("what nobody wants goes on")
						}
					})
				})
			}
		}
	}
}

// 31 readers in little memory, two of them of one file: every byte comes once,
// over no more connections than there are to be.
func TestManyReaders(t *testing.T) {
	for downloads, speeds := range map[int][]int64{4: {0}, 16: {0, 4e6}} {
		for _, speed := range speeds { // bytes a second of each reader
			t.Run(fmt.Sprintf("%d/%d", downloads, speed), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					s := &service{latency: 50 * time.Millisecond, rate: 50e6, tags: true}
					c := open(t, Options{Source: s, Memory: 48 << 20, Downloads: downloads, ReadTimeout: time.Minute})
					const size, readers = 16 << 20, 31
					var wg sync.WaitGroup
					for i := range readers {
						wg.Go(func() {
							rnd := rand.New(rand.NewPCG(uint64(i), 9))
							r := c.Reader(film(fmt.Sprint("film", max(i, 1)), size))
							defer r.Close()
							for off := int64(0); off < size; off += 128 << 10 {
								if err := readAt(t.Context(), r, off, 128<<10); err != nil {
									t.Error(err)
									return
								}
								if speed > 0 {
									time.Sleep(time.Duration(rnd.Int64N(2 * (128 << 10) * int64(time.Second) / speed)))
								}
							}
						})
					}
					wg.Wait()
					var asked int64
					for _, q := range s.asked() {
						asked += q.to - q.from
					}
					want := float64((readers - 1) * size)
					t.Logf("asked for %.3f, got %.3f, %d connections", float64(asked)/want, float64(s.downloaded())/want, s.most)
					if float64(asked) > 1.01*want {
						t.Errorf("asked for %.3f of what was read", float64(asked)/want)
					}
					if s.most > downloads {
						t.Errorf("%d connections, at most %d allowed", s.most, downloads)
					}
					check(t, c)
				})
			})
		}
	}
}
