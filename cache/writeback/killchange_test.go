package writeback

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// changeAll are the ways in which a file may get its next content.
var changeAll = map[string]func(w *world, p string, was string) (now string){
	"overwrite": func(w *world, p, was string) string { w.write(p, "newest"); return "newest" },
	"append":    func(w *world, p, was string) string { w.append(p, " and more"); return was + " and more" },
	"longer":    func(w *world, p, was string) string { w.write(p, was+was); return was + was },
	"rename over": func(w *world, p, was string) string {
		w.write("tmp", "newest")
		w.rename("tmp", p)
		return "newest"
	},
	"backup": func(w *world, p, was string) string {
		w.rename(p, p+"~")
		w.write(p, "newest")
		w.remove(p + "~")
		return "newest"
	},
	"unlink": func(w *world, p, was string) string { w.remove(p); w.write(p, "newest"); return "newest" },
	"moved":  func(w *world, p, was string) string { w.rename(p, "elsewhere"); w.write(p, "newest"); return "newest" },
}

// The process dies while content is on its way, which arrives, at once or late,
// and the file is changed before that is settled: with one writer there is one
// file, and it has the newest content.
func TestKilledThenChanged(t *testing.T) {
	for size, body := range bodies {
		for name, change := range changeAll {
			for _, overwritten := range []bool{false, true} {
				for _, after := range []time.Duration{0, 60 * time.Millisecond, 400 * time.Millisecond} { // MinWait is 200 ms
					for i, so := range services {
						if i > 0 && (i != 1 && i != 5 || after != 60*time.Millisecond) || size == "large" && (i > 0 || after > 0) {
							continue
						}
						bubble(t, fmt.Sprintf("%s,%s,overwritten=%v,%v,service %d", name, size, overwritten, after, i), func(t *testing.T) {
							w := newWorld(t, so, fast).run()
							op := "content.upload"
							if overwritten {
								w.write("a", "old")
								w.flush()
								op = "content.overwrite"
							}
							a := w.arm(1<<30, true)
							w.srv.Hook(once(op, func() *drivetest.Fault {
								a.kill(op)
								f := &drivetest.Fault{Do: drivetest.DoReset, Effect: drivetest.EffectDone}
								if after > 0 {
									f.Effect, f.After = drivetest.EffectLate, after
								}
								return f
							}))
							w.write("a", body)
							<-a.dead
							w.stop()
							w.stop = func() {}
							want := ""
							a.rise(func() { want = change(w, "a", body) })
							w.flush()
							time.Sleep(time.Second)
							tree := map[string]string{"a": want}
							if name == "moved" {
								tree["elsewhere"] = body
							}
							w.wantTree(tree)
							for _, n := range w.notes("") {
								if strings.HasPrefix(n, "conflict") {
									t.Errorf("reported: %q", n)
								}
							}
							if t.Failed() {
								w.logRequests()
							}
						})
					}
				}
			}
		}
	}
}
