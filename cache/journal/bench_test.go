package journal

import (
	"fmt"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"strconv"
	"testing"
	"time"

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

// BenchmarkPendingMemory is what 100,000 files that wait to be sent take in
// memory after a restart, nothing having looked at them.
func BenchmarkPendingMemory(b *testing.B) {
	const n = 100_000
	dir := b.TempDir()
	o := Options{Dir: dir, bootID: "one", fs: lazyFS{}}
	j := open(b, o)
	for i := range uint64(n) {
		e := file1(10+i, fmt.Sprintf("IMG_%06d.jpg", i))
		e.Place.Parents = []uint64{2 + i/1000}
		e.Folders = []FolderID{{2 + i/1000, fmt.Sprintf("%022d", i/1000)}}
		e.Mtime, e.Created, e.Mode, e.Due = time.Unix(1e9, int64(i)), time.Unix(1e9, int64(i)), 0o644, time.Now()
		e.LocalID, e.Props = fmt.Sprintf("%08x-0000-0000-0000-%012x", i, i), map[string]string{"attr": "m=1700000000.123456789 p=0644"}
		d := must(j.OpenDraft(e.Ino, nil))
		must(d.WriteAt([]byte("x"), 0))
		st := d.Commit()
		e.Draft = &st
		if _, err := j.Append([]Change{{Ino: e.Ino, Entry: e}}, nil); err != nil {
			b.Fatal(err)
		}
		d.Close()
		if i%1000 == 0 {
			j.flush()
		}
	}
	shut(b, j)
	for b.Loop() {
		debug.FreeOSMemory()
		before := anonymous(b)
		start := time.Now()
		j, err := Open(o)
		if err != nil {
			b.Fatal(err)
		}
		took := time.Since(start)
		peak := anonymous(b) - before
		runtime.GC()
		debug.FreeOSMemory()
		b.ReportMetric(float64(peak)/n, "B/file-peak")
		b.ReportMetric(float64(anonymous(b)-before)/n, "B/file")
		b.ReportMetric(took.Seconds(), "s/open")
		if j.Len() != n {
			b.Fatalf("%d entries", j.Len())
		}
		if err := j.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// anonymous is the anonymous memory of the process that is resident, bytes.
func anonymous(b *testing.B) int64 {
	text := string(must(os.ReadFile("/proc/self/status")))
	m := regexp.MustCompile(`RssAnon:\s+(\d+)`).FindStringSubmatch(text)
	return must(strconv.ParseInt(m[1], 10, 64)) << 10
}
