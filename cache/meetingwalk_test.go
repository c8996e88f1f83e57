package cache

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// walk is two writers in one folder: this mount, which hears and sends when a
// step says so, and somebody on the drive.
type walk struct {
	*world
	rng   *rand.Rand
	dir   string // of the mount, without a slash at its end
	id    string // of dir's node
	next  int
	need  map[string]bool // contents that nobody who saw them has replaced
	steps []string
}

func (k *walk) content() string {
	k.next++
	c := fmt.Sprintf("%d: %s", k.next, strings.Repeat("x", k.rng.IntN(20)))
	k.need[c] = true
	return c
}

func (k *walk) name() string { return []string{"f", "g"}[k.rng.IntN(2)] }

// seen drops the content of a name here: whoever acts on it sees it.
func (k *walk) seen(name string) bool {
	if !k.shows(name) {
		return false
	}
	h := k.openAt(k.dir+"/"+name, unix.O_RDONLY)
	defer h.Release()
	if c, err := k.readHandle(h); err == nil {
		delete(k.need, c)
	} else if !errors.Is(err, ErrStale) { // overwritten there, and not told yet
		k.Fatal("read", name, err)
	}
	return true
}

func (k *walk) shows(name string) bool {
	return slices.ContainsFunc(k.entries(k.dir), func(e Entry) bool { return e.Name == name })
}

func (k *walk) node(name string) (drivetest.Node, bool) {
	for _, n := range k.other.Children(k.id) {
		if n.Name == name && n.Status == drivetest.StatusAvailable {
			return n, true
		}
	}
	return drivetest.Node{}, false
}

func (k *walk) bytes(id string) string {
	k.Helper()
	r, err := k.other.Open(id)
	if err != nil {
		k.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		k.Fatal(err)
	}
	return string(b)
}

func (k *walk) step() {
	k.Helper()
	n, m := k.name(), k.name()
	p := k.dir + "/" + n
	say := func(what ...any) { k.steps = append(k.steps, strings.TrimSpace(fmt.Sprintln(what...))) }
	switch k.rng.IntN(12) {
	case 0, 1:
		k.seen(n)
		c := k.content()
		say("write", n, c)
		k.write(p, c)
	case 2, 3:
		c := k.content()
		say("save", n, c)
		tmp := k.dir + "/.tmp"
		k.write(tmp, c)
		k.seen(n)
		k.rename(tmp, p)
	case 4:
		if k.seen(n) {
			say("unlink", n)
			k.unlink(p)
		}
	case 5:
		if n != m && k.shows(n) {
			say("rename", n, m)
			k.seen(m)
			if err := k.tryRename(p, k.dir+"/"+m); err != nil && !errors.Is(err, ErrNotExist) && !errors.Is(err, ErrExist) {
				k.Fatal("rename", n, m, err) // the drive may refuse at once: gone, or m is not what was seen
			}
		}
	case 6:
		if d, ok := k.node(n); ok {
			say("trashed there:", n)
			delete(k.need, k.bytes(d.ID))
			k.there(k.other.Trash(d.ID))
		}
	case 7:
		if d, ok := k.node(n); ok && n != m {
			if _, taken := k.node(m); !taken {
				say("renamed there:", n, m)
				k.there(k.other.Rename(d.ID, m))
			}
		}
	case 8:
		if d, ok := k.node(n); ok {
			delete(k.need, k.bytes(d.ID))
			c := k.content()
			say("overwritten there:", n, c)
			k.there(k.other.Overwrite(d.ID, strings.NewReader(c)))
		}
	case 9:
		if _, ok := k.node(n); !ok {
			c := k.content()
			say("made there:", n, c)
			k.there(k.other.Put(k.id, n, strings.NewReader(c)))
		}
	case 10:
		say("told")
		k.poll()
	case 11:
		say("sent")
		k.flush()
	}
}

func (k *walk) there(_ drivetest.Node, err error) {
	k.Helper()
	if err != nil {
		k.Fatal(err)
	}
}

// files are the names and contents of dir on the drive.
func (k *walk) files() map[string]string {
	k.Helper()
	all := map[string]string{}
	for _, n := range k.other.Children(k.id) {
		if n.Status == drivetest.StatusAvailable {
			all[n.Name] = k.bytes(n.ID)
		}
	}
	return all
}

// check: the mount shows what the drive has, and every content that is needed
// is on it, be it in the trash.
func (k *walk) check() {
	k.Helper()
	k.poll()
	k.flush()
	k.poll()
	there, here := k.files(), map[string]string{}
	for _, e := range k.entries(k.dir) {
		here[e.Name] = k.read(k.dir + "/" + e.Name)
	}
	if !maps.Equal(here, there) {
		k.Errorf("the mount shows %q\nthe drive has  %q", here, there)
	}
	have := map[string]bool{}
	for _, c := range there {
		have[c] = true
	}
	for _, n := range k.other.TrashList() {
		if n.Content != nil && slices.Contains(n.Parents, k.id) {
			have[k.bytes(n.ID)] = true
		}
	}
	for c := range k.need {
		if !have[c] {
			k.Errorf("nobody who saw %q replaced it, and it is nowhere; the drive has %q", c, slices.Collect(maps.Keys(have)))
		}
	}
}

// TestMeetingWalk: two names of a folder are written, saved, removed and
// renamed here while others trash, rename, overwrite and make them there, and
// the feed tells of it and the uploads go at any point between. Whatever was
// closed or made and not replaced by somebody who saw it is somewhere.
// DRIVEFS_SEED runs one walk alone; a thousand are run by make soak.
func TestMeetingWalk(t *testing.T) {
	first, walks := uint64(1), uint64(60)
	if os.Getenv("DRIVEFS_SOAK") != "" {
		walks = 1000
	}
	if s := os.Getenv("DRIVEFS_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		first, walks = n, 1
	}
	w := newWorld(t, func(o *Options) { o.UploadDelay = time.Hour })
	var k *walk
	defer func() {
		if t.Failed() {
			t.Logf("in %s:\n%s", k.dir, strings.Join(k.steps, "\n"))
		}
	}()
	for seed := first; seed < first+walks && !t.Failed(); seed++ {
		dir := fmt.Sprintf("/%d", seed)
		d, err := w.other.MkdirAll(dir)
		if err != nil {
			t.Fatal(err)
		}
		w.poll()
		k = &walk{world: w, rng: rand.New(rand.NewPCG(seed, 0)), dir: dir, id: d.ID, need: map[string]bool{}}
		for range 4 + k.rng.IntN(16) {
			k.step()
		}
		k.check()
	}
}
