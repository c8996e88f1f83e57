package integration

import (
	"strings"
	"testing"

	"github.com/drivefs/drivefs/integration/otherdrive"
)

// TestFolderTrashedUnderEdits: what was written below a folder that somebody
// else moved to the trash comes back as new nodes in new folders, whether what
// is in a trashed folder knows that it is in the trash (API §8.1) or not.
func TestFolderTrashedUnderEdits(t *testing.T) {
	for name, opt := range map[string]otherdrive.Options{"shallow": {}, "deep": {Deep: true}} {
		t.Run(name, func(t *testing.T) {
			m := newOtherMount(t, opt)
			m.start("--upload-delay", "1h")
			m.here(`mkdir -p top/mid/low; echo one > top/mid/doc; echo two > top/mid/low/doc; echo three > top/mid/left`)
			m.must("flush", m.dir)
			m.here(`echo more >> top/mid/doc; echo more >> top/mid/low/doc; echo new > top/mid/low/new; mkdir top/mid/low/dir || true; echo deep > top/mid/low/dir/new`)
			if err := m.srv.Trash("top/mid"); err != nil {
				t.Fatal(err)
			}
			m.must("refresh", m.dir)
			m.must("flush", m.dir)
			want := map[string]string{
				"top/mid/doc": "one\nmore\n", "top/mid/low/doc": "two\nmore\n", "top/mid/low/new": "new\n", "top/mid/low/dir/new": "deep\n",
			}
			check := func(when string) {
				t.Helper()
				files := 0
				for p, e := range m.srv.Tree() {
					if e.Kind != "FILE" {
						continue
					}
					files++
					b, err := e.Data()
					if err != nil || string(b) != want[p] {
						t.Errorf("%s: the drive has %s with %q, want %q (%v)", when, p, b, want[p], err)
					}
				}
				if files != len(want) {
					t.Errorf("%s: the drive has %d files, want %d", when, files, len(want))
				}
			}
			check("after the flush")
			m.must("refresh", m.dir)
			m.here(`grep -q more top/mid/doc; grep -q more top/mid/low/doc; test -f top/mid/low/new -a ! -e top/mid/left`)
			if out := m.must("status", m.dir); !strings.Contains(out, "doc: its folder was removed on the drive") && !strings.Contains(out, "doc: it was removed on the drive") && !strings.Contains(out, "doc: its folder went from the drive") {
				t.Errorf("status does not tell of it: %s", out)
			}
			m.unmount()
			check("at the end")
		})
	}
}
