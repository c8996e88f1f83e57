package chunk

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// watch reads v from its beginning to its end without looking at the bytes.
func watch(b *testing.B, c *Cache, v Version, step int) {
	b.Helper()
	r := c.Reader(v)
	defer r.Close()
	for off := int64(0); off < v.Size; off += int64(step) {
		w, err := r.ReadAt(context.Background(), off, step)
		if err != nil {
			b.Fatal(err)
		}
		w.Release()
	}
}

// BenchmarkMemory is playing again what is in memory: what a READ costs
// besides the kernel.
func BenchmarkMemory(b *testing.B) {
	for _, step := range []int{4 << 10, 128 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dK", step>>10), func(b *testing.B) {
			c := open(b, Options{Source: &service{tags: true}})
			v := film("film", 256<<20)
			watch(b, c, v, 1<<20)
			c.settlePolicy()
			c.ristretto.Wait()
			r := c.Reader(v)
			defer r.Close()
			b.SetBytes(int64(step))
			b.ReportAllocs()
			off := int64(0)
			for b.Loop() {
				w, err := r.ReadAt(context.Background(), off, step)
				if err != nil {
					b.Fatal(err)
				}
				w.Release()
				if off += int64(step); off >= v.Size {
					off = 0
				}
			}
		})
	}
}

// BenchmarkDisk is playing what is on disk and not in memory.
func BenchmarkDisk(b *testing.B) {
	s := &service{tags: true}
	dir := b.TempDir()
	v := film("film", 512<<20)
	c := open(b, Options{Source: s, Dir: dir, Disk: 4 << 30})
	r := c.Reader(v)
	for off := int64(0); off < v.Size; off += 1 << 20 {
		w, err := r.ReadAt(context.Background(), off, 1<<20)
		if err != nil {
			b.Fatal(err)
		}
		w.Release()
		for c.busy() {
			time.Sleep(time.Millisecond)
		}
	}
	r.Close()
	shut(b, c)
	had := s.downloaded()
	b.SetBytes(v.Size)
	for b.Loop() {
		b.StopTimer()
		c := open(b, Options{Source: s, Dir: dir, Disk: 4 << 30})
		b.StartTimer()
		watch(b, c, v, 128<<10)
		b.StopTimer()
		shut(b, c)
		b.StartTimer()
	}
	b.ReportMetric(float64(s.downloaded()-had), "downloaded")
}

func (c *Cache) busy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.saving > c.pool.max/16
}

// BenchmarkNetwork is a cold film over 50 ms and 50 MB/s a connection, and
// over nothing at all, with and without the disk tier.
func BenchmarkNetwork(b *testing.B) {
	for _, x := range []struct {
		name string
		wait time.Duration
		rate int64
		size int64
		disk int64
	}{
		{"50ms-50MBs", 50 * time.Millisecond, 50e6, 1 << 30, 0},
		{"50ms-50MBs-disk", 50 * time.Millisecond, 50e6, 1 << 30, 4 << 30},
		{"unlimited", 0, 0, 1 << 30, 0},
		{"unlimited-disk", 0, 0, 1 << 30, 4 << 30},
	} {
		b.Run(x.name, func(b *testing.B) {
			var down, size, kept int64
			for b.Loop() {
				s := &service{latency: x.wait, rate: x.rate, tags: true}
				c := open(b, Options{Source: s, Dir: b.TempDir(), Disk: x.disk})
				v := film("film", x.size)
				watch(b, c, v, 128<<10)
				down += s.downloaded()
				kept = c.Stats().DiskBytes
				size += v.Size
				b.StopTimer()
				shut(b, c)
				b.StartTimer()
			}
			b.SetBytes(x.size)
			b.ReportMetric(float64(down)/float64(size), "downloaded/size")
			b.ReportMetric(float64(kept)/float64(x.size), "kept/size")
		})
	}
}

// BenchmarkFirstByte is the first 64 KiB after an open and after a seek, in
// round trips of 50 ms.
func BenchmarkFirstByte(b *testing.B) {
	const rtt = 50 * time.Millisecond
	s := &service{latency: rtt, rate: 50e6, tags: true}
	c := open(b, Options{Source: s})
	var opens, seeks []float64
	for i := 0; b.Loop(); i++ {
		r := c.Reader(film(fmt.Sprint(i), 4<<30))
		for j := range 5 {
			off := int64(0)
			if j > 0 {
				off = rand.Int64N(4<<30-1) &^ 4095
			}
			begun := time.Now()
			w, err := r.ReadAt(context.Background(), off, 64<<10)
			if err != nil {
				b.Fatal(err)
			}
			w.Release()
			d := time.Since(begun).Seconds() / rtt.Seconds()
			if j == 0 {
				opens = append(opens, d)
			} else {
				seeks = append(seeks, d)
			}
		}
		r.Close()
	}
	slices.Sort(opens)
	slices.Sort(seeks)
	b.ReportMetric(opens[len(opens)/2], "rtt/open")
	b.ReportMetric(seeks[len(seeks)/2], "rtt/seek")
	b.ReportMetric(seeks[len(seeks)*99/100], "rtt/seek-p99")
}

// BenchmarkDiskTier is reading what the disk tier alone has: 4 KiB here and
// there, and 1 MiB after 1 MiB.
func BenchmarkDiskTier(b *testing.B) {
	o := Options{Source: &service{tags: true, rate: 50e6}, Dir: b.TempDir(), Disk: 1 << 30, Memory: 4 << 30}
	v := film("film", 256<<20)
	c := open(b, o)
	play(b, c, v, 1<<20)
	shut(b, c)
	o.Memory = 64 << 20
	for _, x := range []struct {
		name string
		n    int64
	}{{"random 4 KiB", 4 << 10}, {"sequential 1 MiB", 1 << 20}} {
		b.Run(x.name, func(b *testing.B) {
			c := open(b, o)
			r := c.Reader(v)
			defer r.Close()
			rnd := rand.New(rand.NewPCG(1, 2))
			b.SetBytes(x.n)
			b.ReportAllocs()
			at := int64(0)
			for b.Loop() {
				if x.n < 64<<10 {
					at = rnd.Int64N(v.Size/x.n) * x.n
				}
				w, err := r.ReadAt(b.Context(), at, int(x.n))
				if err != nil {
					b.Fatal(err)
				}
				w.Release()
				at = (at + x.n) % v.Size
			}
			if n := c.Stats().Downloaded; n > 0 {
				b.Errorf("downloaded %d", n)
			}
		})
	}
}
