package cache

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestFolderNotToldYet: with the mirror lost, what is pending goes to its
// folder also before the drive has told of that again.
func TestFolderNotToldYet(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
	w.mkdir("/dir")
	w.mkdir("/dir/below")
	w.flush()
	w.write("/dir/new", "text")
	w.write("/dir/below/new", "text below")
	w.close()
	if err := os.Remove(filepath.Join(w.o.StateDir, "mirror.db")); err != nil {
		t.Fatal(err)
	}
	w.deaf = true
	w.open()
	w.flush()
	w.want(w.drive("dir/new"), "text")
	w.want(w.drive("dir/below/new"), "text below")
	if tree := w.other.Tree(); len(tree) != 5 {
		t.Errorf("the drive has %v", tree)
	}
	w.poll()
	w.want(w.read("/dir/new"), "text")
}
