package chunk

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestYield: the tier gives what it is asked for, not everything, and by itself
// what others' files took of the reserve.
func TestYield(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		c := open(t, Options{Memory: 16 << 20, Dir: dir, Disk: 1 << 30, Source: &service{latency: 20 * time.Millisecond, tags: true}})
		if c.Yield(1) {
			t.Error("an empty tier freed something")
		}
		play(t, c, film("film", 20<<20), 1<<20)
		written(c)
		before := c.Stats().DiskBytes
		if !c.Yield(1 << 20) {
			t.Error("nothing was freed")
		}
		after := c.Stats().DiskBytes
		if after > before-1<<20 || after == 0 {
			t.Errorf("%d bytes, were %d", after, before)
		}
		if n := int64(len(files(t, dir))); n == 0 {
			t.Error("no file is left")
		}
		c.disk.writing.Lock()
		c.disk.statfs = func(string) (int64, int64, error) { return 1 << 30, 1 << 40, nil }
		c.disk.writing.Unlock()
		time.Sleep(2 * roomTick)
		synctest.Wait()
		if n := c.Stats().DiskBytes; n != 0 || len(files(t, dir)) != 0 {
			t.Errorf("%d bytes on a disk that others filled", n)
		}
		check(t, c)
	})
}
