package mirror

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/drivefs/drivefs/drive"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const rootID = "RootRootRootRootRootRo"

var day0 = time.Date(2015, 6, 1, 9, 10, 11, 120e6, time.UTC)

// open opens a fresh mirror with a root, checked at the end of the test.
func open(t testing.TB, o Options) *Mirror {
	t.Helper()
	if o.Path == "" {
		o.Path = filepath.Join(t.TempDir(), "mirror.db")
	}
	o.NoSync = true
	m, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, err := range m.Check(context.Background()) {
			t.Error(err)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	if m.Root().ID == "" {
		if _, err := m.SetRoot(root()); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func root() drive.Node {
	return drive.Node{ID: rootID, Kind: drive.Folder, Status: drive.Available, Version: 1, IsRoot: true, Created: day0}
}

// dir and leaf make nodes; parents default to the root.
func dir(id, name string, version int64, parents ...string) drive.Node {
	if len(parents) == 0 {
		parents = []string{rootID}
	}
	return drive.Node{
		ID: id, Name: name, Kind: drive.Folder, Status: drive.Available, Version: version,
		Parents: parents, Created: day0, Modified: day0.Add(time.Duration(version) * time.Second),
	}
}

func leaf(id, name string, version int64, parents ...string) drive.Node {
	n := dir(id, name, version, parents...)
	n.Kind = drive.File
	n.ETag = "e" + id
	n.Content = &drive.ContentProperties{Version: 1, Size: 5, MD5: "5d41402abc4b2a76b9719d911017c592", ContentType: "text/plain"}
	return n
}
