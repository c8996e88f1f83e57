package journal

import (
	"bytes"
	"testing"
)

// TestOverlay: local bytes lie over the base's, whatever was local when the base
// was read; what neither has is said, and nothing is read beyond the end.
func TestOverlay(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir(), fs: osFS{}})
	d, err := j.OpenDraft(7, &DraftState{Size: 30, Limit: 30, BaseID: "n", BaseGen: 1, BaseLen: 30})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	write := func(s string, off int64) {
		t.Helper()
		if _, err := d.WriteAt([]byte(s), off); err != nil {
			t.Fatal(err)
		}
	}
	write("LOCAL", 10)
	missing := d.Missing(0, 40)
	p := bytes.Repeat([]byte("b"), 40)
	write("LATER", 2) // while the base is read
	n, ok, err := d.Overlay(p, 0, missing)
	if want := "bbLATERbbbLOCALbbbbbbbbbbbbbbb"; err != nil || !ok || string(p[:n]) != want {
		t.Errorf("%q, %v, %v, want %q", p[:n], ok, err, want)
	}
	if _, ok, err := d.Overlay(p, 0, missing[:1]); ok || err != nil {
		t.Errorf("a part that nobody has: %v, %v", ok, err)
	}
	if err := d.Truncate(12); err != nil {
		t.Fatal(err)
	}
	if n, ok, err := d.Overlay(p, 4, missing); err != nil || !ok || string(p[:n]) != "TERbbbLO" && n != 8 {
		t.Errorf("after a cut: %d, %v, %v", n, ok, err)
	}
	if n, ok, err := d.Overlay(p, 12, nil); n != 0 || !ok || err != nil {
		t.Errorf("behind the end: %d, %v, %v", n, ok, err)
	}
	if err := d.Truncate(20); err != nil {
		t.Fatal(err)
	}
	p = bytes.Repeat([]byte("b"), 40)
	if n, ok, err := d.Overlay(p, 10, missing); err != nil || !ok || !bytes.Equal(p[:n], append([]byte("LO"), make([]byte, 8)...)) {
		t.Errorf("what was added: %q, %v, %v", p[:n], ok, err)
	}
}
