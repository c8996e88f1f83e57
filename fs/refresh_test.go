package fs_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cache"
	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/drive/drivetest"
	"github.com/drivefs/drivefs/integration"
)

// TestNothingStale: somebody else renames, moves, removes, restores and makes
// anew, folders most of all, under names that were there before, while here
// everything is looked at, by any spelling, and folders and files are held
// open. After each poll nothing may be left in the kernel's caches that the
// drive does not have. DRIVEFS_SEED repeats a run, DRIVEFS_SOAK makes it long.
func TestNothingStale(t *testing.T) {
	seed, rounds := uint64(1), 25
	if os.Getenv("DRIVEFS_SOAK") != "" {
		seed, rounds = rand.Uint64(), 2000
	}
	if s, err := strconv.ParseUint(os.Getenv("DRIVEFS_SEED"), 10, 64); err == nil {
		seed = s
	}
	for _, exactly := range []bool{false, true} {
		t.Run(fmt.Sprintf("exact=%v", exactly), func(t *testing.T) {
			t.Logf("DRIVEFS_SEED=%d", seed)
			w := integration.NewWorld(t, integration.Config{Store: func(o *cache.Options) { o.NamesExact = exactly }})
			s := &staleness{T: t, w: w, r: rand.New(rand.NewPCG(seed, 0)), exactly: exactly, known: map[string]bool{}}
			defer s.letGo()
			for round := range rounds {
				for range 1 + s.r.IntN(8) {
					s.change()
				}
				if s.r.IntN(3) == 0 {
					s.changeHere()
				}
				w.Poll()
				s.compare()
				if t.Failed() {
					t.Logf("in round %d", round)
					return
				}
				s.look()
			}
		})
	}
}

// holding is a folder of the drive that is held open here.
type holding struct {
	id string
	fd int
}

type staleness struct {
	*testing.T
	w       *integration.World
	r       *rand.Rand
	exactly bool
	known   map[string]bool // paths that ever were
	held    []holding
}

func (s *staleness) name() string {
	n := []string{"a", "b", "Foo", "bar", "Ärger"}[s.r.IntN(5)]
	return s.spelt(n)
}

// spelt is n in some spelling, mostly its own.
func (s *staleness) spelt(n string) string {
	if s.r.IntN(4) > 0 {
		return n
	}
	return strings.Map(func(r rune) rune {
		if s.r.IntN(2) == 0 {
			return unicode.ToUpper(r)
		}
		return unicode.ToLower(r)
	}, n)
}

// node is some node of the drive and its path; ok is false when there is none.
func (s *staleness) node(folders bool) (p string, n drivetest.Node, ok bool) {
	tree := s.w.Else.Tree()
	all := slices.Sorted(maps.Keys(tree))
	for range 20 {
		p = all[s.r.IntN(len(all))]
		if n = tree[p]; p != "" && (!folders || n.Kind == drivetest.KindFolder) {
			return p, n, true
		}
	}
	return "", drivetest.Node{}, false
}

// folder is the id of some folder, at most three deep.
func (s *staleness) folder() (p, id string) {
	if p, n, ok := s.node(true); ok && strings.Count(p, "/") < 3 && s.r.IntN(4) > 0 {
		return p, n.ID
	}
	return "", s.w.Else.Root()
}

// change does one thing elsewhere. What the drive refuses is refused.
func (s *staleness) change() {
	el := s.w.Else
	p, n, ok := s.node(s.r.IntN(3) > 0)
	if !ok || s.r.IntN(4) == 0 {
		_, in := s.folder()
		if s.r.IntN(3) == 0 {
			_, _ = el.Put(in, s.name(), strings.NewReader(strings.Repeat("x", s.r.IntN(9))))
		} else {
			_, _ = el.Mkdir(in, s.name())
		}
		return
	}
	switch s.r.IntN(9) {
	case 0, 1, 2:
		_, _ = el.Rename(n.ID, s.name())
	case 3, 4:
		if to, id := s.folder(); to != p && !strings.HasPrefix(to, p+"/") {
			_, _ = el.Move(n.ID, n.Parents[0], id)
		}
	case 5:
		_, _ = el.Trash(n.ID)
		// And perhaps another one of that name at once.
		if s.r.IntN(2) == 0 {
			_, _ = el.Put(n.Parents[0], s.spelt(n.Name), strings.NewReader("again"))
		} else if s.r.IntN(2) == 0 {
			_, _ = el.Mkdir(n.Parents[0], s.spelt(n.Name))
		}
	case 6:
		if in := el.TrashList(); len(in) > 0 {
			_, _ = el.Restore(in[s.r.IntN(len(in))].ID)
		}
	case 7:
		// Two change places.
		if q, m, ok := s.node(false); ok && !strings.HasPrefix(p+"/", q+"/") && !strings.HasPrefix(q+"/", p+"/") {
			if _, err := el.Rename(n.ID, "on its way"); err == nil {
				if m.Parents[0] != n.Parents[0] {
					_, _ = el.Move(n.ID, n.Parents[0], m.Parents[0])
					_, _ = el.Move(m.ID, m.Parents[0], n.Parents[0])
				}
				_, _ = el.Rename(m.ID, n.Name)
				_, _ = el.Rename(n.ID, m.Name)
			}
		}
	default:
		if n.Kind == drivetest.KindFile {
			_, _ = el.Overwrite(n.ID, strings.NewReader(strings.Repeat("y", s.r.IntN(9))))
		}
	}
}

// changeHere does one thing here, and waits until the drive has it. The drive
// may refuse what somebody else has changed meanwhile.
func (s *staleness) changeHere() {
	s.w.Poll()
	p, n, ok := s.node(false)
	if !ok {
		return
	}
	to, _ := s.folder()
	to = path.Join(to, s.name())
	var err error
	switch s.r.IntN(4) {
	case 0:
		// As mv does: the kernel cannot give a folder that is held open its
		// new place while it holds the lock of a rename, and says ESTALE.
		_, _ = os.Lstat(s.w.Path(p))
		_, _ = os.Lstat(s.w.Path(to))
		err = os.Rename(s.w.Path(p), s.w.Path(to))
	case 1:
		err = os.Mkdir(s.w.Path(to), 0o755)
	case 2:
		err = os.WriteFile(s.w.Path(to), []byte("here"), 0o644)
	default:
		if n.Kind == drivetest.KindFile {
			err = os.Remove(s.w.Path(p))
		}
	}
	for _, wrong := range []error{unix.EIO, unix.ESTALE, unix.EINTR, unix.EPERM} {
		if errors.Is(err, wrong) {
			s.Errorf("%s, %s: %v", p, to, err)
		}
	}
	s.w.Flush()
}

// look lets the kernel cache all kinds of things, some of them half.
func (s *staleness) look() {
	for _, p := range slices.Sorted(maps.Keys(s.known)) {
		switch s.r.IntN(6) {
		case 0:
			_, _ = os.Lstat(s.w.Path(p))
		case 1:
			_, _ = os.ReadFile(s.w.Path(p))
		case 2:
			_, _ = os.ReadDir(s.w.Path(p))
		case 3:
			steps := strings.Split(p, "/")
			for i := range steps {
				steps[i] = s.spelt(steps[i])
			}
			_, _ = os.Lstat(s.w.Path(steps...))
		}
	}
	if p, n, ok := s.node(true); ok {
		if fd, err := unix.Open(s.w.Path(p), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
			s.held = append(s.held, holding{n.ID, fd})
			getdents(s.T, fd, 64)
		}
	}
	for len(s.held) > 8 {
		i := s.r.IntN(len(s.held))
		s.check(unix.Close(s.held[i].fd))
		s.held = slices.Delete(s.held, i, i+1)
	}
}

func (s *staleness) check(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *staleness) letGo() {
	for _, h := range s.held {
		_ = unix.Close(h.fd)
	}
}

// compare holds the mount against the drive: what is there, and everything
// that ever was.
func (s *staleness) compare() {
	tree := s.w.Else.Tree()
	folded, inside, at := map[string]bool{}, map[string][]string{}, map[string]string{}
	for p, n := range tree {
		folded[drive.Fold(p)] = true
		at[n.ID] = p
		if n.Kind == drivetest.KindFolder {
			inside[p] = append(inside[p], []string{}...)
		}
		if p != "" {
			s.known[p] = true
			dir := strings.TrimSuffix(path.Dir("/" + p)[1:], "/")
			inside[dir] = append(inside[dir], n.Name)
		}
	}
	for p := range s.known {
		var st unix.Stat_t
		err := unix.Lstat(s.w.Path(p), &st)
		n, there := tree[p]
		if !s.exactly {
			there = folded[drive.Fold(p)]
		}
		switch {
		case !there && err == nil:
			s.Errorf("%s is gone and still shown", p)
		case there && err != nil:
			s.Errorf("%s: %v", p, err)
		case there && n.ID != "" && (n.Kind == drivetest.KindFolder) != (st.Mode&unix.S_IFMT == unix.S_IFDIR):
			s.Errorf("%s has mode %o and is a %s", p, st.Mode, n.Kind)
		case there && n.Content != nil && st.Size != n.Content.Size:
			s.Errorf("%s shows %d bytes and has %d", p, st.Size, n.Content.Size)
		}
		if there && n.Content != nil {
			want, _ := s.w.Else.ReadFile(p)
			if got, err := os.ReadFile(s.w.Path(p)); err != nil || string(got) != string(want) {
				s.Errorf("%s reads %q, %v, want %q", p, got, err, want)
			}
		}
	}
	for dir, want := range inside {
		slices.Sort(want)
		if got := names(s.T, s.w.Path(dir)); !slices.Equal(got, want) {
			s.Errorf("%q lists %q, want %q", dir, got, want)
		}
	}
	// A folder that is held open is the folder of the drive, wherever it is.
	for _, h := range s.held {
		fd := h.fd
		p, there := at[h.id]
		var st, byPath unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			s.Errorf("%s is held and says %v", p, err)
		}
		if !there {
			continue
		}
		if err := unix.Lstat(s.w.Path(p), &byPath); err != nil || st.Ino != byPath.Ino {
			s.Errorf("%s is inode %d, the one that is held %d, %v", p, byPath.Ino, st.Ino, err)
			continue
		}
		for _, name := range inside[p] {
			if err := unix.Fstatat(fd, name, &byPath, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				s.Errorf("%s in the folder %s that is held: %v", name, p, err)
			}
		}
		for _, name := range []string{"a", "b", "Foo", "bar", "Ärger"} {
			err := unix.Fstatat(fd, name, &byPath, unix.AT_SYMLINK_NOFOLLOW)
			if there := slices.ContainsFunc(inside[p], func(o string) bool {
				return o == name || !s.exactly && drive.Fold(o) == drive.Fold(name)
			}); there != (err == nil) {
				s.Errorf("%s in the folder %s that is held: there %v, %v", name, p, there, err)
			}
		}
		if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
			s.Errorf("rewinding %s: %v", p, err)
		}
		var got []string
		for es := getdents(s.T, fd, 4096); len(es) > 0; es = getdents(s.T, fd, 4096) {
			for _, e := range es {
				if e.name != "." && e.name != ".." {
					got = append(got, e.name)
				}
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, inside[p]) {
			s.Errorf("%s that is held lists %q, want %q", p, got, inside[p])
		}
	}
}

// TestComesBack: what changed in a folder while it was in the trash, or the
// one above it, shows when it is restored, also where something in it is held
// open all the time.
func TestComesBack(t *testing.T) {
	for _, above := range []bool{false, true} {
		w := integration.NewWorld(t, integration.Config{Fill: func(other *drivetest.Client) {
			for _, p := range []string{"top/dir/sub/deep", "top/dir/f", "top/dir/keep"} {
				if _, err := other.PutPath(p, []byte(p)); err != nil {
					t.Error(err)
				}
			}
		}})
		top, dir, sub, f := w.Node("top").ID, w.Node("top/dir").ID, w.Node("top/dir/sub").ID, w.Node("top/dir/f").ID
		for _, d := range []string{"top/dir/sub", "top/dir", "top"} {
			warm(t, w.Path(d))
		}
		for _, p := range []string{"top/dir", "top/dir/sub", "top/dir/f"} {
			held, err := os.Open(w.Path(p))
			check(w, err)
			defer held.Close()
		}
		gone := dir
		if above {
			gone = top
		}
		_, err := w.Else.Trash(gone)
		check(w, err)
		w.Poll()
		_, err = w.Else.Rename(sub, "renamed")
		check(w, err)
		_, err = w.Else.Rename(f, "g")
		check(w, err)
		w.Poll()
		_, err = w.Else.Restore(gone)
		check(w, err)
		w.Poll()
		for _, p := range []string{"top/dir/sub", "top/dir/f"} {
			_, err := os.Lstat(w.Path(p))
			wantErr(t, p, err, unix.ENOENT)
		}
		w.Want("top/dir/renamed/deep", "top/dir/sub/deep")
		wantNames(t, w.Path("top/dir"), "g", "keep", "renamed")
	}
}
