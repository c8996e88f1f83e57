package journal

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkOpen100k starts with 100,000 new files that are not on the drive
// yet, all in one directory, each with its draft.
func BenchmarkOpen100k(b *testing.B) {
	const n = 100_000
	dir := b.TempDir()
	o := Options{Dir: dir, bootID: "one", fs: lazyFS{}}
	j := open(b, o)
	for i := range uint64(n) {
		e := file1(10+i, fmt.Sprintf("IMG_%06d.jpg", i))
		e.LocalID, e.Props = fmt.Sprintf("%032x", i), map[string]string{"mtime": "1700000000.123456789"}
		content(b, j, e, "x")
	}
	shut(b, j)
	var cpu float64
	for b.Loop() {
		before := cpuSeconds(b)
		j, err := Open(o)
		cpu += cpuSeconds(b) - before
		if err != nil {
			b.Fatal(err)
		}
		if j.Len() != n {
			b.Fatalf("%d entries", j.Len())
		}
		b.StopTimer()
		if err := j.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s/open")
	b.ReportMetric(cpu/float64(b.N), "cpu-s/open")
}

// cpuSeconds is what the process has used so far; on a busy machine it says
// more than the clock.
func cpuSeconds(b *testing.B) float64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// BenchmarkClose is what closing a small new file costs: draft, Commit, Put.
func BenchmarkClose(b *testing.B) {
	j := open(b, Options{Dir: b.TempDir(), fs: osFS{}})
	buf := make([]byte, 10<<10)
	ino := uint64(10)
	for b.Loop() {
		ino++
		d, err := j.OpenDraft(ino, nil)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := d.WriteAt(buf, 0); err != nil {
			b.Fatal(err)
		}
		st := d.Commit()
		e := file1(ino, fmt.Sprint(ino))
		e.Draft = &st
		if err := j.Put(e); err != nil {
			b.Fatal(err)
		}
		if err := d.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "files/s")
}

// BenchmarkPut is one wish, beside 100,000 others in the same directory.
func BenchmarkPut(b *testing.B) {
	j := open(b, Options{Dir: b.TempDir(), fs: osFS{}})
	for i := range uint64(100_000) {
		put(b, j, file1(10+i, fmt.Sprint(i)))
	}
	i := uint64(0)
	for b.Loop() {
		i += 7919
		ino := 10 + i%100_000
		if err := j.Put(file1(ino, fmt.Sprint("renamed ", ino))); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWriteAt is sequential writing, 128 KiB at a time.
func BenchmarkWriteAt(b *testing.B) {
	j := open(b, Options{Dir: b.TempDir(), fs: osFS{}})
	d := must(j.OpenDraft(10, nil))
	defer d.Close()
	buf := make([]byte, 128<<10)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	off := int64(0)
	for b.Loop() {
		must(d.WriteAt(buf, off))
		if off += int64(len(buf)); off == 1<<30 {
			off = 0
		}
	}
}

// BenchmarkEmptyDirectory100k fills a directory with 100,000 wishes and takes
// them out again, oldest first.
func BenchmarkEmptyDirectory100k(b *testing.B) {
	for b.Loop() {
		x := newIndex()
		for i := range uint64(100_000) {
			x.set(10+i, file1(10+i, fmt.Sprint(i)))
		}
		for i := range uint64(100_000) {
			x.set(10+i, nil)
		}
	}
}
