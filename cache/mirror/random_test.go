package mirror

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drivefs/drivefs/drive"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "seed of the random test, 0 = of the clock")
	stepsFlag = flag.Int("steps", 1500, "steps of the random test")
)

// world is a drive with a history: every state each node ever had.
type world struct {
	r     *rand.Rand
	now   map[string]*drive.Node
	ids   []string
	past  []drive.Node
	clock int64
}

var names = []string{
	"a", "A", "b", "B", "straße", "STRASSE", "STRAßE", "İ", "i", "ı", "I", "é", "e\u0301", "😀", "a/b", "a／b",
	".", "．", "..", "x\x00y", "name.txt", "NAME.txt", "name (n0000001).txt", "name.tar.gz", " lead", "trail. ",
	strings.Repeat("ä", 140) + ".jpeg", strings.Repeat("Ä", 140) + ".jpeg", strings.Repeat("q", 256),
	strings.Repeat("Ⱥ", 100), strings.Repeat("ⱥ", 100),
}

func (w *world) pick() *drive.Node {
	if len(w.ids) == 0 {
		return nil
	}
	return w.now[w.ids[w.r.IntN(len(w.ids))]]
}

func (w *world) folderID() string {
	if w.r.IntN(3) > 0 {
		if n := w.pick(); n != nil && n.Kind == drive.Folder {
			return n.ID
		}
	}
	if w.r.IntN(10) == 0 {
		return fmt.Sprintf("unknown%d", w.r.IntN(3))
	}
	return rootID
}

// step changes one node and records its new state.
func (w *world) step() drive.Node {
	n := w.pick()
	if n == nil || w.r.IntN(4) == 0 && len(w.ids) < 60 {
		id := fmt.Sprintf("n%07d%014d", len(w.ids)/3, len(w.ids)) // ids share their first characters
		created := day0.Add(time.Duration(w.r.IntN(5)) * time.Second)
		n = &drive.Node{ID: id, Kind: drive.File, Status: drive.Available, Created: created, CreatedBy: "somebody"}
		switch w.r.IntN(8) {
		case 0, 1, 2:
			n.Kind = drive.Folder
		case 3:
			n.Status = drive.Pending
		case 4:
			if w.r.IntN(4) == 0 {
				n.Kind = drive.Asset
			}
		}
		n.Name = names[w.r.IntN(len(names))]
		n.Parents = []string{w.folderID()}
		if n.Kind == drive.File && n.Status != drive.Pending {
			n.Content = &drive.ContentProperties{Version: 1, Size: int64(w.r.IntN(1000)), MD5: fmt.Sprintf("%032x", w.r.Uint64()), ContentType: "text/plain"}
		}
		w.now[id] = n
		w.ids = append(w.ids, id)
	} else {
		c := *n
		n = &c
		w.now[n.ID] = n
		switch w.r.IntN(10) {
		case 0, 1:
			n.Name = names[w.r.IntN(len(names))]
		case 2:
			n.Parents = []string{w.folderID()}
		case 3:
			n.Parents = []string{w.folderID(), w.folderID()}
		case 4:
			n.Status = drive.Trashed
		case 5, 6:
			n.Status = drive.Available
		case 7:
			if n.Kind == drive.File {
				p := drive.ContentProperties{Version: 1}
				if n.Content != nil {
					p = *n.Content
					p.Version++
				}
				p.Size, p.MD5 = int64(w.r.IntN(1000)), fmt.Sprintf("%032x", w.r.Uint64())
				n.Content = &p
			}
		case 8:
			switch w.r.IntN(4) {
			case 0:
				n.Name = ""
			case 1:
				n.Parents = nil
			case 2:
				n.Status = drive.Pending
			}
		case 9:
			if w.r.IntN(8) == 0 {
				n.Status = drive.Purged
			} else {
				n.Parents = append(slices.Clone(n.Parents), w.folderID())
			}
		}
	}
	if n.Status != drive.Purged {
		n.Version++
	}
	w.clock++
	n.Modified = day0.Add(time.Duration(w.clock) * time.Second)
	w.past = append(w.past, *n)
	return *n
}

// TestRandom tells a mirror a random history: late, twice, in any order, by
// feed and listing, over restarts, cuts and rebuilds, and compares it with the
// model after each step.
func TestRandom(t *testing.T) {
	seed := *seedFlag
	switch {
	case seed != 0:
	case os.Getenv("DRIVEFS_SOAK") != "":
		seed = uint64(time.Now().UnixNano())
	default:
		seed = 20261120 // CI is to find out about the change it runs for
	}
	t.Logf("-seed=%d", seed)
	// Several small worlds show more than one that has grown old.
	const world = 300
	for i := range (*stepsFlag + world - 1) / world {
		if !t.Run(fmt.Sprint(i), func(t *testing.T) { randomWorld(t, seed+uint64(i), min(world, *stepsFlag)) }) {
			t.Fatalf("-seed=%d", seed+uint64(i))
		}
	}
}

func randomWorld(t *testing.T, seed uint64, steps int) {
	r := rand.New(rand.NewPCG(seed, 1))
	w := &world{r: r, now: map[string]*drive.Node{}}
	path := filepath.Join(t.TempDir(), "mirror.db")
	m, err := Open(Options{Path: path, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}()
	want := newModel()
	if r.IntN(2) == 0 {
		if _, err := m.SetRoot(root()); err != nil {
			t.Fatal(err)
		}
	}
	var late []drive.Node
	contents := map[[2]uint64]string{} // inode and generation → what was read under it
	for step := range steps {
		var nodes []drive.Node
		for range 1 + r.IntN(4) {
			n := w.step()
			if r.IntN(5) == 0 {
				late = append(late, n)
			} else {
				nodes = append(nodes, n)
			}
		}
		for len(late) > 0 && r.IntN(3) == 0 {
			i := r.IntN(len(late))
			nodes = append(nodes, late[i])
			late = slices.Delete(late, i, i+1)
		}
		for r.IntN(3) == 0 {
			nodes = append(nodes, w.past[r.IntN(len(w.past))])
		}
		if r.IntN(10) == 0 || step == steps-1 {
			nodes = append(nodes, root())
		}
		r.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
		rooted := m.Root().ID != ""
		before, gensBefore, err := dentryView(m)
		if err != nil {
			t.Fatal(err)
		}
		listed, complete := map[Ino]bool{}, m.Complete()
		for d := range before {
			listed[d.Dir] = m.Listed(d.Dir)
		}
		var changes []Change
		kind := "feed"
		switch r.IntN(12) {
		case 0:
			if changes, err = listingStep(m, want, w, nodes); err != nil {
				t.Fatal(err)
			}
			kind = "listing"
		case 1:
			kind = "refresh"
			if changes, err = refreshStep(m, want, w, r); err != nil {
				t.Fatalf("step %d: %v", step, err)
			}
			late = nil
		case 2, 3:
			kind = "answer"
			if changes, err = answerStep(m, want, w, r); err != nil {
				t.Fatalf("step %d: %v", step, err)
			}
		default:
			if changes, err = m.Apply(drive.Batch{Checkpoint: fmt.Sprint(step), Nodes: nodes}); err != nil {
				t.Fatalf("step %d: %v", step, err)
			}
			for _, n := range nodes {
				if !n.IsRoot {
					want.tell(n)
				}
			}
			if again, err := m.Apply(drive.Batch{Nodes: nodes}); err != nil || len(again) > 0 {
				t.Fatalf("step %d: told again: %v %v", step, again, err)
			}
		}
		after, gensAfter, err := dentryView(m)
		if err != nil {
			t.Fatal(err)
		}
		if kind == "refresh" && !complete {
			// Nobody can have missed what comes into a folder that was not listed.
			maps.DeleteFunc(after, func(d Dentry, _ Ino) bool { return before[d] == 0 && !listed[d.Dir] })
		}
		if err := unexplained(before, after, gensBefore, gensAfter, changes); rooted && err != nil {
			t.Fatalf("step %d, %s: %v\n%s", step, kind, err, dump(m))
		}
		if kind == "answer" {
			clear(contents) // it may have been a write of ours
		}
		if err := sameContents(m, contents); err != nil {
			t.Fatalf("step %d, %s: %v\n%s", step, kind, err, dump(m))
		}
		if m.Root().ID != "" {
			got, err := tree(m)
			if err != nil {
				t.Fatalf("step %d, %s: %v\n%s", step, kind, err, dump(m))
			}
			if diff := cmp.Diff(want.tree(), got); diff != "" {
				t.Fatalf("step %d, %s: -want +got\n%s\n%s", step, kind, diff, dump(m))
			}
		}
		if errs := m.Check(t.Context()); len(errs) > 0 {
			t.Fatalf("step %d, %s: %v\n%s", step, kind, errors.Join(errs...), dump(m))
		}
		switch r.IntN(40) {
		case 0:
			if err := m.FeedEnd(time.Now()); err != nil {
				t.Fatal(err)
			}
		case 1:
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
			if m, err = Open(Options{Path: path, NoSync: true}); err != nil {
				t.Fatal(err)
			}
			want.recent = map[string]bool{} // kept in memory only
		}
	}
}

// sameContents: an inode has other content only in another generation.
func sameContents(m *Mirror, contents map[[2]uint64]string) error {
	_, gens, err := dentryView(m)
	if err != nil {
		return err
	}
	for ino, gen := range gens {
		rec, ok, err := m.Get(ino)
		if err != nil {
			return err
		}
		if !ok || rec.Folder || rec.MD5 == "" {
			continue
		}
		now := fmt.Sprintf("version %d, %d bytes, %s", rec.Content, rec.Size, rec.MD5)
		if was, ok := contents[[2]uint64{ino, gen}]; ok && was != now {
			return fmt.Errorf("inode %d, generation %d was %s and is %s", ino, gen, was, now)
		}
		contents[[2]uint64{ino, gen}] = now
	}
	return nil
}

func dump(m *Mirror) string {
	var b strings.Builder
	if err := m.Dump(&b); err != nil {
		return err.Error()
	}
	return b.String()
}

// listingStep tells the nodes of one folder by a listing.
func listingStep(m *Mirror, want *model, w *world, nodes []drive.Node) ([]Change, error) {
	dirID := w.folderID()
	if !want.isDir(dirID) || m.Root().ID == "" {
		return nil, nil
	}
	ino, ok := m.Ino(dirID)
	if !ok {
		return nil, fmt.Errorf("%s is not known", dirID)
	}
	nodes = slices.DeleteFunc(nodes, func(n drive.Node) bool { return n.IsRoot || n.Status == drive.Purged })
	// In one piece or several; one may take the folder itself away.
	var changes []Change
	for last := false; !last; {
		n := 0
		if len(nodes) > 0 {
			n = 1 + w.r.IntN(len(nodes))
		}
		last = n == len(nodes)
		piece, err := m.Listing(ino, nodes[:n], last)
		if errors.Is(err, ErrUnknown) && !want.isDir(dirID) {
			return changes, nil
		}
		if err != nil {
			return nil, err
		}
		for _, n := range nodes[:n] {
			if slices.Contains(n.Parents, dirID) {
				want.tell(n)
			}
		}
		changes, nodes = append(changes, piece...), nodes[n:]
	}
	if !want.isDir(dirID) {
		return changes, nil
	}
	if !m.Listed(ino) {
		return nil, fmt.Errorf("%s was listed", dirID)
	}
	return changes, nil
}

// answerStep tells what a call of ours was answered.
func answerStep(m *Mirror, want *model, w *world, r *rand.Rand) ([]Change, error) {
	switch r.IntN(4) {
	case 0: // 404, or found in the trash
		n := w.pick()
		if n == nil {
			return nil, nil
		}
		changes, err := m.Gone(n.ID, 0)
		if x, ok := want.best[n.ID]; ok {
			x.rank = max(x.rank, 2)
			want.best[n.ID] = x
			want.recent[n.ID] = true
		}
		return changes, err
	case 1: // an editor's save
		n := w.pick()
		if n == nil {
			return nil, nil
		}
		if _, known := m.Ino(n.ID); !known {
			return nil, nil
		}
		ino, err := m.NewIno()
		if err != nil {
			return nil, err
		}
		changes, err := m.Rebind(n.ID, ino)
		if got, ok := m.Ino(n.ID); err == nil && (!ok || got != ino) {
			return nil, fmt.Errorf("%s is inode %d after it was bound to %d", n.ID, got, ino)
		}
		want.recent[n.ID] = true
		return changes, err
	default:
		n := w.step()
		if n.Kind == drive.Asset || n.Status == drive.Purged || r.IntN(20) == 0 {
			n = *w.now[w.ids[0]] // an old friend
		}
		if n.Kind == drive.Asset || n.Status == drive.Purged {
			return nil, nil
		}
		var bind Ino
		if r.IntN(2) == 0 {
			var err error
			if bind, err = m.NewIno(); err != nil {
				return nil, err
			}
		}
		changes, err := m.Answer(n, r.IntN(2) == 0, bind)
		if got, ok := m.Ino(n.ID); err == nil && bind != 0 && (!ok || got != bind) {
			return nil, fmt.Errorf("%s is inode %d after it was bound to %d", n.ID, got, bind)
		}
		want.answer(n)
		return changes, err
	}
}

// refreshStep tells everything anew, as after reset:true.
func refreshStep(m *Mirror, want *model, w *world, r *rand.Rand) ([]Change, error) {
	inos := map[string]Ino{}
	for _, id := range w.ids {
		if ino, ok := m.Ino(id); ok {
			inos[id] = ino
		}
	}
	if _, err := m.BeginRefresh(); err != nil {
		return nil, err
	}
	if _, err := m.BeginRefresh(); !errors.Is(err, ErrRefreshing) {
		return nil, fmt.Errorf("a second refresh: %v", err)
	}
	fresh := newModel()
	beside := maps.Clone(want.recent)
	var changes []Change
	for i, at := range r.Perm(len(w.ids)) {
		n := *w.now[w.ids[at]]
		if n.Status == drive.Purged || r.IntN(20) == 0 {
			continue // forgotten by the service
		}
		if err := m.ApplyRefresh(drive.Batch{Checkpoint: fmt.Sprint("r", i), Nodes: []drive.Node{n}}); err != nil {
			return nil, err
		}
		if x, ok := want.best[n.ID]; ok && len(n.Parents) == 0 && modelRank(&n) > 1 {
			n.Parents = x.n.Parents // what is in the trash is kept whole
		}
		fresh.tell(n)
		if r.IntN(8) == 0 { // on disk, as of a large account
			if err := m.full.spool.flush(fmt.Sprint("r", i)); err != nil {
				return nil, err
			}
		}
		if r.IntN(4) == 0 {
			// The live one hears the feed meanwhile.
			news := w.step()
			c, err := m.Apply(drive.Batch{Nodes: []drive.Node{news}})
			if err != nil {
				return nil, err
			}
			changes = append(changes, c...)
			want.tell(news)
			beside[news.ID] = true
		}
	}
	if r.IntN(4) == 0 {
		return changes, m.AbortRefresh()
	}
	// What answers told a while ago and the full feed does not know.
	for id := range beside {
		x, ok := want.best[id]
		if !ok {
			continue
		}
		if y, ok := fresh.best[id]; !ok || x.rank == 3 || y.n.Version < x.n.Version || y.n.Version == x.n.Version && y.rank < x.rank {
			fresh.best[id] = x
		}
	}
	fresh.recent = want.recent
	// What is not in the full feed is hidden, until somebody tells of it again.
	for id, x := range want.best {
		if _, ok := fresh.best[id]; !ok {
			if x.rank == 1 {
				x.rank = 0
			}
			fresh.best[id] = x
		}
	}
	*want = *fresh
	if err := m.EndRefresh(func(c []Change) { changes = append(changes, c...) }); err != nil {
		return nil, err
	}
	for id, ino := range inos {
		if now, ok := m.Ino(id); ok && now != ino {
			return nil, fmt.Errorf("%s was inode %d and is %d", id, ino, now)
		}
	}
	if !m.Complete() {
		return nil, errors.New("a full feed makes it complete")
	}
	return changes, nil
}
