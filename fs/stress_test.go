package fs_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cache"
	"github.com/drivefs/drivefs/drive/drivetest"
	"github.com/drivefs/drivefs/integration"
)

// TestCachesAgree lets programs here and somebody elsewhere work in the same
// folders, by any spelling, and then holds what the kernel shows, out of
// caches that live for an hour, against what the Store says.
func TestCachesAgree(t *testing.T) {
	for _, exactly := range []bool{false, true} {
		t.Run(fmt.Sprintf("exact=%v", exactly), func(t *testing.T) {
			w := integration.NewWorld(t, integration.Config{
				Store: func(o *cache.Options) {
					o.NamesExact = exactly
					// Nothing goes up while it is being changed: an upload
					// cut off is looked for half a minute.
					o.UploadDelay = 10 * time.Second
				},
				Fill: func(other *drivetest.Client) {
					for _, d := range []string{"a", "b", "a/c", "shared"} {
						for i := range 5 {
							if _, err := other.PutPath(fmt.Sprintf("%s/g%d", d, i), []byte(d)); err != nil {
								t.Error(err)
							}
						}
					}
					// One folder at two places.
					s, _ := other.Lookup("shared")
					b, _ := other.Lookup("b")
					if _, err := other.AddParent(s.ID, b.ID); err != nil {
						t.Error(err)
					}
				},
			})
			for round := range 6 {
				agitate(t, w, uint64(round))
				calm(w)
				sameTree(t, w)
				if t.Failed() {
					return
				}
			}
		})
	}
}

// calm returns when neither side has anything left to tell the other.
func calm(w *integration.World) {
	w.Until("both sides are quiet", func() bool {
		w.Flush()
		w.Poll()
		return w.Store.Status().Pending == 0
	})
	w.Poll()
}

var agitated = []string{"a", "b", "a/c", "shared", "b/shared"}

func agitate(t *testing.T, w *integration.World, seed uint64) {
	var wg sync.WaitGroup
	for i := range uint64(3) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, i))
			for range 60 {
				disturb(t, w, r)
			}
		})
	}
	wg.Go(func() {
		r := rand.New(rand.NewPCG(seed, 99))
		for i := range 25 {
			disturbElsewhere(t, w, r)
			if i%5 == 4 {
				w.Poll()
			}
		}
	})
	wg.Wait()
}

// pick is a path with one of the names of a side. Each side changes files of
// its own names only: what conflicts come to is tested where they are settled.
func pick(r *rand.Rand, side string) string {
	name := fmt.Sprintf("%s/%s%d", agitated[r.IntN(len(agitated))], side, r.IntN(8))
	if r.IntN(4) == 0 {
		dir, base := path.Split(name)
		return dir + strings.ToUpper(base)
	}
	return name
}

// disturb does one thing that a program might do. Most of it may fail, since
// others are at it too; only a few errors are wrong.
func disturb(t *testing.T, w *integration.World, r *rand.Rand) {
	p, q := w.Path(pick(r, "f")), w.Path(pick(r, "f"))
	theirs := w.Path(pick(r, "g"))
	var err error
	switch r.IntN(10) {
	case 0, 1:
		err = os.WriteFile(p, fmt.Appendf(nil, "local %d", r.IntN(1000)), 0o644)
	case 2:
		err = os.Remove(p)
	case 3:
		err = os.Rename(p, q)
	case 4:
		_, err = os.ReadFile(theirs)
	case 5:
		_, err = os.ReadDir(path.Dir(p))
	case 6:
		err = os.Truncate(p, int64(r.IntN(20)))
	case 7:
		err = os.Mkdir(p+"dir", 0o755)
	case 8:
		err = os.Remove(p + "dir")
	default:
		_, err = os.Lstat(theirs)
	}
	for _, wrong := range []error{unix.EIO, unix.EINTR, unix.ENOSYS, unix.ENOTCONN, unix.EACCES, unix.EPERM} {
		if errors.Is(err, wrong) {
			t.Error(err)
		}
	}
}

func disturbElsewhere(t *testing.T, w *integration.World, r *rand.Rand) {
	p, q := pick(r, "g"), pick(r, "g")
	n, err := w.Else.Lookup(p)
	if err != nil {
		w.Else.PutPath(p, []byte("from elsewhere"))
		return
	}
	switch r.IntN(4) {
	case 0:
		w.Else.Trash(n.ID)
	case 1:
		w.Else.Rename(n.ID, path.Base(q))
	case 2:
		if to, err := w.Else.Lookup(path.Dir(q)); err == nil {
			w.Else.Move(n.ID, n.Parents[0], to.ID)
		}
	default:
		if n.Kind == drivetest.KindFile {
			w.Else.Overwrite(n.ID, strings.NewReader(strings.Repeat("r", r.IntN(30))))
		}
	}
}

// sameTree walks the mount and the Store beside each other.
func sameTree(t *testing.T, w *integration.World) {
	t.Helper()
	var walk func(dir string, ino uint64)
	walk = func(dir string, ino uint64) {
		in, err := w.Store.OpenDir(t.Context(), ino)
		if err != nil {
			t.Errorf("%s: %v", dir, err)
			return
		}
		es, err := in.Read(t.Context(), 2, 10_000)
		if err != nil {
			t.Errorf("%s: %v", dir, err)
			return
		}
		var want []string
		for _, e := range es {
			want = append(want, e.Name)
			p := path.Join(dir, e.Name)
			var st unix.Stat_t
			if err := unix.Lstat(w.Path(p), &st); err != nil {
				t.Errorf("%s: the Store has it, the mount says %v", p, err)
				continue
			}
			if e.Folder != (st.Mode&unix.S_IFMT == unix.S_IFDIR) {
				t.Errorf("%s: mode %o, folder %v", p, st.Mode, e.Folder)
			}
			if e.Folder {
				walk(p, e.Ino)
				continue
			}
			if st.Ino != e.Ino || st.Size != e.Size || uint32(st.Nlink) != e.Nlink {
				t.Errorf("%s: the mount shows inode %d, %d bytes, %d links; the Store %d, %d, %d",
					p, st.Ino, st.Size, st.Nlink, e.Ino, e.Size, e.Nlink)
			}
			if b, err := os.ReadFile(w.Path(p)); err != nil || int64(len(b)) != e.Size {
				t.Errorf("%s: read %d bytes of %d, %v", p, len(b), e.Size, err)
			}
		}
		slices.Sort(want)
		if got := names(t, w.Path(dir)); !slices.Equal(got, want) {
			t.Errorf("%s: the mount lists %q, the Store %q", dir, got, want)
		}
		for _, n := range want {
			// In a spelling that is not cached, too.
			up := strings.ToUpper(n)
			_, err := os.Lstat(w.Path(dir, up))
			if _, exact, serr := w.Store.Lookup(t.Context(), ino, up); (err == nil) != (serr == nil) {
				t.Errorf("%s/%s (exact %v): the mount says %v, the Store %v", dir, up, exact, err, serr)
			}
		}
	}
	walk("", w.Store.Root())
}
