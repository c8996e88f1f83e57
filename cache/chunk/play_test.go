package chunk

import (
	"fmt"
	"testing"
	"time"
)

// watchAt plays v from off on for d, at speed bytes a second, as a player
// without a buffer of its own does, and returns how long it waited for the
// first bytes, and afterwards altogether.
func watchAt(t *testing.T, r *Reader, off, speed int64, d time.Duration) (first, stalled time.Duration) {
	const step = 128 << 10
	begun := time.Now()
	mustRead(t, r, off, step)
	due := time.Now()
	first = due.Sub(begun)
	for n := int64(1); n*step < int64(d.Seconds()*float64(speed)); n++ {
		due = due.Add(time.Duration(step * int64(time.Second) / speed))
		time.Sleep(time.Until(due))
		before := time.Now()
		mustRead(t, r, off+n*step, step)
		wait := time.Since(before)
		stalled += wait
		due = due.Add(wait)
	}
	return first, stalled
}

// On a line that is slow, but faster than the film, the film does not stop:
// what comes later must not take the bytes from what is needed now.
func TestSlowLinePlays(t *testing.T) {
	for _, line := range []float64{0.5, 2, 12.5, 40} { // MB/s
		for _, share := range []float64{0.5, 0.8} {
			t.Run(fmt.Sprintf("%gMBs/%g", line, share), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					s := &service{latency: 30 * time.Millisecond, line: int64(line * 1e6), tags: true}
					c := open(t, Options{Source: s})
					r := c.Reader(film("film", 4<<30))
					defer r.Close()
					for _, from := range []int64{0, 2 << 30} {
						// What a read brings, three times (a download may be in
						// the way for a moment), and some round trips.
						few := 3*time.Duration(look/line*1e3) + 250*time.Millisecond
						first, stalled := watchAt(t, r, from, int64(line*share*1e6), min(20, time.Duration(40/line))*time.Second)
						t.Logf("from %d GiB: %v until it began, %v stalled", from>>30, first, stalled)
						if first > few || stalled > few {
							t.Errorf("want at most %v each", few)
						}
					}
				})
			})
		}
	}
}

// What looks into a film waits once for each place.
func TestFilmLooks(t *testing.T) {
	const rtt = 50 * time.Millisecond
	size := int64(2<<30 + 12345)
	for _, tags := range []bool{true, false} {
		for _, x := range []struct {
			name  string
			trips float64
			reads [][2]int64 // as the kernel sends them: offset, bytes
		}{
			{"index at the end", 3, [][2]int64{{0, 128 << 10}, {size - 100_000, 16 << 10}, {128 << 10, 256 << 10}, {384 << 10, 512 << 10}}},
			{"index at the beginning", 2, [][2]int64{{0, 128 << 10}, {128 << 10, 256 << 10}, {384 << 10, 512 << 10}}},
			{"a jump", 1, [][2]int64{{1 << 30, 36 << 10}, {1<<30 + 36<<10, 128 << 10}, {1<<30 + 164<<10, 256 << 10}}},
		} {
			t.Run(fmt.Sprintf("%s/tags=%v", x.name, tags), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					s := &service{latency: rtt, rate: 50 << 20, tags: tags}
					c := open(t, Options{Source: s})
					r := c.Reader(film("film", size))
					begun := time.Now()
					for _, read := range x.reads {
						mustRead(t, r, read[0], int(read[1]))
					}
					took := time.Since(begun).Seconds() / rtt.Seconds()
					r.Close()
					if !tags {
						x.trips *= 2 // whose bytes they are is asked
					}
					if took > x.trips+0.6 {
						t.Errorf("%.2f round trips, want %v", took, x.trips)
					}
					if got := s.downloaded(); got > 2<<20 {
						t.Errorf("downloaded %d KiB", got>>10)
					}
					check(t, c)
				})
			})
		}
	}
}
