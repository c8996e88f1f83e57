package chunk

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Wrong bytes of the right length, answered once, are seen by nobody; answered
// always, they are given out after a second look and not asked for again.
func TestWrongBytes(t *testing.T) {
	for _, tags := range []bool{true, false} {
		for _, size := range []int64{1000, 300_000, filmLook} {
			for wrong := range 3 { // answers that are wrong: 2 are all
				t.Run(fmt.Sprintf("tags=%v/%d/%d", tags, size, wrong), func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						s := &service{latency: 20 * time.Millisecond, tags: tags}
						s.garble = func(n int) bool { return wrong == 2 || n < wrong }
						var mu sync.Mutex
						var told []bool
						c := open(t, Options{Source: s, Dir: t.TempDir(), Disk: 1 << 20, Wrong: func(_ Version, again bool) {
							mu.Lock()
							defer mu.Unlock()
							told = append(told, again)
						}})
						v := Version{ID: "a", Content: 1, Size: size, MD5: md5Of("a", size)}
						for range 3 {
							r := c.Reader(v)
							err := readAt(t.Context(), r, 0, int(size))
							if (err != nil) != (wrong == 2) {
								t.Errorf("read: %v", err)
							}
							r.Close()
							synctest.Wait()
						}
						if n := len(s.asked()); n != min(wrong+1, 2) {
							t.Errorf("%d requests", n)
						}
						mu.Lock()
						defer mu.Unlock()
						if len(told) != wrong || wrong > 0 && told[0] || wrong == 2 && !told[1] {
							t.Errorf("told %v", told)
						}
						check(t, c)
					})
				})
			}
		}
	}
}
