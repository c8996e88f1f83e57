package fs_test

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/drive/drivetest"
	"github.com/drivefs/drivefs/integration"
)

// TestSeventeenthFolder: names are news in sixteen folders in which lookups
// hang, so that telling any of them would wait; the seventeenth is told at once.
func TestSeventeenthFolder(t *testing.T) {
	const hanging = 16
	w := integration.NewWorld(t, integration.Config{Fresh: true, Fill: func(other *drivetest.Client) {
		for i := range hanging + 1 {
			for _, name := range []string{"f", "new"} {
				if _, err := other.PutPath(fmt.Sprintf("d%d/%s", i, name), []byte("x")); err != nil {
					t.Error(err)
				}
			}
		}
	}})
	last := fmt.Sprintf("d%d/f", hanging)
	warm(t, w.Path(fmt.Sprintf("d%d", hanging)))
	id := w.Node(last).ID
	_, err := w.Else.Trash(id)
	check(w, err)
	gone, err := w.Client.Get(w.Context(), id)
	check(w, err)
	// What the drive would answer is asked for before its lookups hang: they
	// take all connections.
	var news []drive.Node
	hung := map[string]bool{}
	for i := range hanging {
		hung[w.Node(fmt.Sprintf("d%d", i)).ID] = true
		n, err := w.Client.Get(w.Context(), w.Node(fmt.Sprintf("d%d/new", i)).ID)
		check(w, err)
		news = append(news, n)
	}
	release := make(chan struct{})
	w.Drive.Hook(func(op drivetest.Op) *drivetest.Fault {
		if op.Name == "nodes.children" && hung[op.NodeID] {
			<-release
		}
		return nil
	})
	var callers sync.WaitGroup
	for i := range hanging {
		callers.Go(func() {
			if _, err := os.Lstat(w.Path(fmt.Sprintf("d%d/none", i))); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a name that is not there: %v", err)
			}
		})
	}
	waitsFor(w, "nodes.children")
	<-time.After(300 * time.Millisecond) // the drive is not asked for all of them at once
	for _, n := range news {
		check(w, w.Store.Feed().Answered(n))
	}
	check(w, w.Store.Feed().Answered(gone))
	began := time.Now()
	w.Until("the seventeenth folder is told", func() bool {
		_, err := os.Lstat(w.Path(last))
		return errors.Is(err, syscall.ENOENT)
	})
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the seventeenth folder was told after %v", took)
	}
	close(release)
	callers.Wait()
	w.Poll()
	for i := range hanging {
		w.Want(fmt.Sprintf("d%d/new", i), "x")
	}
}
