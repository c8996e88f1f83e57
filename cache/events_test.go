package cache

import "testing"

// TestFolderMadeAgainIsTold: who lost a folder under a new file is told where
// the file is now.
func TestFolderMadeAgainIsTold(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.UploadDelay = 1 << 40 })
	w.put("/d/old", "base")
	w.poll()
	w.write("/d/new", "mine")
	if _, err := w.other.Trash(w.id("/d")); err != nil {
		t.Fatal(err)
	}
	w.flush()
	w.want(w.drive("/d/new"), "mine")
	var paths []string
	for _, e := range w.s.Status().Events {
		paths = append(paths, e.Path)
	}
	if len(paths) != 1 || paths[0] != "/d/new" {
		t.Errorf("told of %q", paths)
	}
}
