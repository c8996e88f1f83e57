package mirror

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/drivefs/drivefs/drive"
)

// work is one node of a batch with its number.
type work struct {
	n     *drive.Node
	ino   Ino
	home  Ino // parent to be stored under, for the order only
	isNew bool
}

// apply writes nodes in an order in which the file likes to be written.
func (w *wtx) apply(nodes []drive.Node) error {
	list := make([]work, 0, len(nodes))
	at := make(map[Ino]int, len(nodes))
	for i := range nodes {
		n := &nodes[i]
		ino, isNew, ok, err := w.admit(n)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if j, dup := at[ino]; dup {
			if wins(n, list[j].n) {
				list[j].n = n
			}
			continue
		}
		at[ino] = len(list)
		list = append(list, work{n: n, ino: ino, isNew: isNew})
	}
	for i := range list {
		if p := list[i].n.Parents; len(p) > 0 && list[i].ino != RootIno {
			var err error
			if w.full == nil {
				list[i].home, _ = w.lookup(p[0])
			} else if list[i].home, err = w.parent(p[0]); err != nil {
				return err // of many nodes each has to be put behind the one before
			}
		}
	}
	slices.SortFunc(list, func(a, b work) int { return cmp.Or(cmp.Compare(a.home, b.home), cmp.Compare(a.ino, b.ino)) })
	for i := range list {
		if err := w.upsert(list[i].n, list[i].ino, list[i].isNew); err != nil {
			return err
		}
	}
	return nil
}

// wins reports whether n, told later, is news against o.
func wins(n, o *drive.Node) bool {
	if (n.Status == drive.Purged) != (o.Status == drive.Purged) {
		return n.Status == drive.Purged
	}
	return cmp.Or(cmp.Compare(n.Version, o.Version), cmp.Compare(stateAs(n), stateAs(o))) >= 0
}

// admit finds or gives the number of a node. ok=false: it is nothing we keep.
func (w *wtx) admit(n *drive.Node) (ino Ino, isNew, ok bool, err error) {
	if n.ID == "" {
		return 0, false, false, nil
	}
	if why := unstorable(n); why != "" {
		w.skip = append(w.skip, skipped{n.ID, why})
		return 0, false, false, nil
	}
	if n.IsRoot {
		rootID := string(w.meta.Get([]byte(keyRoot)))
		if rootID == "" {
			return RootIno, false, true, w.setRoot(n.ID)
		}
		return RootIno, false, rootID == n.ID, nil // another root is nothing to us
	}
	if n.Kind != drive.File && n.Kind != drive.Folder && n.Status != drive.Purged {
		// Assets and kinds to come: not kept, unless it was something else
		// before, or is known as a parent.
		ino, known := w.lookup(n.ID)
		return ino, false, known && ino != RootIno, nil
	}
	ino, isNew, err = w.assign(n.ID)
	return ino, isNew, ino != RootIno, err
}

// Bounds of what is kept: the service's own are below them (API §5.8), and bbolt
// refuses a key of 32 KiB.
const (
	idMax   = 256
	textMax = 4 << 10
)

// unstorable says why a node cannot be kept, "" = it can.
func unstorable(n *drive.Node) string {
	switch {
	case len(n.ID) > idMax || slices.ContainsFunc(n.Parents, func(id string) bool { return len(id) > idMax }):
		return "its id is too long"
	case len(n.Name) > textMax:
		return "its name is too long"
	case len(n.ETag)+len(n.CreatedBy) > textMax:
		return "its text is too long"
	case n.Version < 0 || n.Version == purgedVersion:
		return "its version is impossible"
	case n.Content == nil:
		return ""
	case n.Content.Size < 0 || n.Content.Version < 0:
		return "its size is impossible"
	case len(n.Content.MD5)+len(n.Content.ContentType) > textMax:
		return "its text is too long"
	}
	return ""
}

// skipped is a node that was left out.
type skipped struct{ id, why string }

// skipMax is how many of them are told apart.
const skipMax = 1000

// say counts and tells what was left out of committed writes.
func (m *Mirror) say(list []skipped) {
	for _, s := range list {
		m.left.mu.Lock()
		if m.left.ids == nil || len(m.left.ids) == skipMax {
			m.left.ids = map[string]bool{}
		}
		id := cutRunes(s.id, idMax)
		known := m.left.ids[id]
		m.left.ids[id] = true
		if !known {
			m.left.n++
		}
		m.left.mu.Unlock()
		if known {
			continue
		}
		m.log.Warn("a node of the drive cannot be shown", "id", id, "why", s.why)
		if m.o.Skipped != nil {
			m.o.Skipped(id, s.why)
		}
	}
}

// setRoot gives the root its number, also when children came before it.
func (w *wtx) setRoot(id string) error {
	if err := w.meta.Put([]byte(keyRoot), []byte(id)); err != nil {
		return err
	}
	if old, known := w.lookup(id); known {
		return w.reinode(id, old, RootIno)
	}
	w.bind(id, RootIno)
	return nil
}

// isNews decides by version, then by state, whether n may change what is known.
func (w *wtx) isNews(n *drive.Node, cur *entry, src source) bool {
	if n.Status == drive.Purged {
		return cur.state != statePurged
	}
	if src == sourceRepair {
		return true
	}
	if n.Version != cur.Version && n.Version != 0 {
		return n.Version > cur.Version
	}
	st := stateAs(n)
	if st != cur.state {
		// By id the service is always right. Else death wins over life, since
		// listings show the dead for a while, and life over not yet born.
		return src == sourceAnswer && cur.state != statePurged || st > cur.state
	}
	return st == stateLive
}

// purgedVersion: no news brings back what was purged.
const purgedVersion = 1<<63 - 1

// upsert applies one node told by the service.
func (w *wtx) upsert(n *drive.Node, ino Ino, isNew bool) error {
	var cur entry
	src := w.src
	if w.full != nil {
		src = w.full.sourceFor(ino)
	}
	if !isNew {
		if _, err := w.load(ino, &cur); err != nil {
			return err
		}
	}
	live, known := cur.state == stateLive, cur.state.known()
	if ino == RootIno && live && n.Version < cur.Version && src != sourceRepair || ino != RootIno && known && !w.isNews(n, &cur, src) {
		return nil
	}
	st := stateAs(n)
	if ino == RootIno {
		st = stateLive
	}
	if st != stateLive && !known && n.Kind != drive.File && n.Kind != drive.Folder && n.Status != drive.Purged {
		return nil // an asset known as somebody's parent; stays a placeholder
	}
	next, err := w.build(n, ino, &cur, known)
	if err != nil {
		return err
	}
	if next.state = st; st != stateLive {
		return w.hide(next, &cur)
	}
	return w.place(next, &cur, isNew)
}

// build makes the entry that n describes. cur is what is known already. The
// entry is valid until the next is built, unless clone is called.
func (w *wtx) build(n *drive.Node, ino Ino, cur *entry, known bool) (*entry, error) {
	e := &w.built
	*e = entry{raw: e.raw[:0]}
	e.Ino = ino
	e.ID = n.ID
	e.Folder = n.Kind == drive.Folder
	e.Name = n.Name
	e.Version = n.Version
	e.ETag = n.ETag
	e.Created = n.Created.Truncate(time.Millisecond)
	e.Modified = n.Modified.Truncate(time.Millisecond)
	e.CreatedBy = n.CreatedBy
	e.Seen = w.now
	if n.Version == 0 && known {
		e.Version = cur.Version
	}
	if n.Status == drive.Purged {
		// Only id and status may be relied on (API §9.3), and nothing else is
		// worth to be kept: it never comes back.
		p := e
		p.Ino, p.ID, p.Version, p.Folder, p.Seen = ino, n.ID, purgedVersion, known && cur.Folder, w.now
		return p, nil
	}
	if known && n.Name == "" && stateAs(n) > stateLive {
		e.Name, e.Folder, e.Created = cur.Name, cur.Folder, cur.Created
	}
	w.buildContent(e, n, cur, known)
	// A listing that was on its way while we set a property tells of before.
	if late := known && cur.Props != nil && e.Version < cur.PropsVersion; n.Properties != nil && w.owner != "" && !late {
		e.Props, e.PropsVersion = map[string]string{}, e.Version
		maps.Copy(e.Props, n.Properties[w.owner])
	}
	if ino == RootIno {
		return e, nil
	}
	for _, id := range n.Parents {
		p, err := w.parent(id)
		if err != nil {
			return nil, err
		}
		if p != ino && !slices.Contains(e.raw, p) {
			e.raw = append(e.raw, p)
		}
	}
	if len(n.Parents) == 0 && known && (w.full == nil && w.src != sourceFeed && w.src != sourceListing || stateAs(n) > stateLive) {
		// Some answers leave them out; only the feed tells that there are none.
		e.raw = append(e.raw, cur.raw...)
	}
	return e, nil
}

// buildContent gives e the content that n describes, or what is known of it, with
// its Gen; and the properties that are known.
func (w *wtx) buildContent(e *entry, n *drive.Node, cur *entry, known bool) {
	if !e.Folder {
		if p := n.Content; p != nil {
			e.Content, e.Size, e.MD5, e.ContentType = p.Version, p.Size, strings.ToLower(p.MD5), p.ContentType
		} else if known && !cur.Folder {
			e.Content, e.Size, e.MD5, e.ContentType = cur.Content, cur.Size, cur.MD5, cur.ContentType
		}
	}
	if !known {
		e.Gen = w.m.firstGen
		return
	}
	e.Gen = cur.Gen
	e.Props, e.PropsVersion = cur.Props, cur.PropsVersion
	if contentDiffers(cur, e) && !w.own && (w.m.o.OwnContent == nil || !w.m.o.OwnContent(n.ID, e.Size, e.MD5)) {
		e.Gen++
	}
}

// contentDiffers reports whether the bytes of a known file are others now.
func contentDiffers(a, b *entry) bool {
	if a.Folder || b.Folder || a.Content == 0 && a.MD5 == "" {
		return false
	}
	if a.MD5 != "" && b.MD5 != "" && a.MD5 == b.MD5 && a.Size == b.Size {
		return a.Content != b.Content
	}
	return a.Content != b.Content || a.Size != b.Size || a.MD5 != "" && b.MD5 != "" && a.MD5 != b.MD5
}

// place writes a live node to where it belongs now. cur is what it was.
func (w *wtx) place(e, cur *entry, isNew bool) error {
	live := cur.state == stateLive
	keepName := false
	if live {
		keepName = e.Name == cur.Name || !isCut(e.Name) && !isCut(cur.Name) && Fold(e.Name) == Fold(cur.Name)
		if keepName && slices.Equal(e.raw, cur.raw) {
			return w.rewrite(e, cur)
		}
		w.touchLive(cur)
	} else {
		w.nodes++
		if !w.unseen(e, cur) {
			if t := w.touch(e.Ino); isNew {
				t.made = e.clone()
			}
		}
	}
	if len(e.raw) > 1 || live && len(cur.raw) > 1 {
		if err := w.noteMulti(e, true); err != nil {
			return err
		}
	}
	if live {
		for _, dir := range cur.raw {
			stays := slices.Contains(e.raw, dir)
			if !stays || !keepName {
				if err := w.unclaim(cur, dir); err != nil {
					return err
				}
			}
			if !stays || dir == cur.home() && dir != e.home() {
				if err := w.node.Delete(key2(nil, dir, e.Ino)); err != nil {
					return err
				}
			}
		}
		if len(cur.raw) == 0 && e.home() != 0 {
			if err := w.node.Delete(key2(nil, 0, e.Ino)); err != nil {
				return err
			}
		}
	}
	for i, dir := range e.raw {
		if !live || !keepName || !slices.Contains(cur.raw, dir) {
			w.claim(e, dir)
		}
		if i > 0 {
			link := w.keep(appendLink(nil, e.home()))
			if err := w.node.Put(key2(nil, dir, e.Ino), link); err != nil {
				return err
			}
		}
	}
	w.setLive(e)
	return w.put(e)
}

// unseen reports whether nobody can know that e was not there: during the first
// sync who looks at a folder has it listed.
func (w *wtx) unseen(e, cur *entry) bool {
	if w.full == nil || w.complete || cur.state.known() {
		return false
	}
	for _, dir := range e.raw {
		if flags, _, ok := liveAt(w.of(dir)); ok && flags&flagIsListed != 0 {
			return false
		}
	}
	return true
}

// put writes a record to its home.
func (w *wtx) put(e *entry) error {
	if e.Ino == RootIno {
		w.root = e.clone()
	}
	w.enc = appendRecord(w.enc[:0], e)
	var kb [16]byte
	return w.node.Put(key2(kb[:0], e.home(), e.Ino), w.keep(w.enc))
}

// rewrite replaces the record of a node that stays where it is, unless nothing
// but the day of Seen differs: then it is no change, and on the same day not
// even a write.
func (w *wtx) rewrite(e, cur *entry) error {
	w.enc = appendRecord(w.enc[:0], e)
	var kb [16]byte
	k := key2(kb[:0], e.home(), e.Ino)
	old := w.node.Get(k)
	if bytes.Equal(old, w.enc) {
		return nil
	}
	if len(old) < seenLen || !bytes.Equal(old[:len(old)-seenLen], w.enc[:len(w.enc)-seenLen]) {
		w.touchLive(cur)
	}
	if e.Folder != cur.Folder {
		w.setLive(e)
		if err := w.noteMulti(e, true); err != nil {
			return err
		}
	}
	return w.node.Put(k, w.keep(w.enc))
}

// hide takes a node out of all its folders and keeps it as a tombstone.
func (w *wtx) hide(e, cur *entry) error {
	if cur.state == stateLive {
		w.touchLive(cur)
		if err := w.unplace(cur); err != nil {
			return err
		}
		w.nodes--
	}
	w.set(e.Ino, appendHidden(nil, e, w.now))
	return nil
}

// unplace removes all that makes a live node visible but its state.
func (w *wtx) unplace(cur *entry) error {
	if len(cur.raw) > 1 {
		if err := w.noteMulti(cur, false); err != nil {
			return err
		}
	}
	for _, dir := range cur.raw {
		if err := w.unclaim(cur, dir); err != nil {
			return err
		}
		if err := w.node.Delete(key2(nil, dir, cur.Ino)); err != nil {
			return err
		}
	}
	if len(cur.raw) == 0 {
		return w.node.Delete(key2(nil, 0, cur.Ino))
	}
	return nil
}

// reinode gives everything known as from, children included, the number to.
func (w *wtx) reinode(id string, from, to Ino) error {
	if from == to {
		return nil
	}
	if err := w.vacate(to, id); err != nil {
		return err
	}
	var cur entry
	if _, err := w.load(from, &cur); err != nil {
		return err
	}
	flags, _, live := liveAt(w.of(from))
	if live {
		w.touchLive(&cur)
		if err := w.unplace(&cur); err != nil {
			return err
		}
	}
	hidden := w.of(from)
	w.set(from, nil)
	w.bind(id, to)
	if at, ok := w.m.recent[from]; ok {
		w.m.recent[to] = at
	}
	if f := w.m.full; f != nil {
		for _, set := range []*bits{&f.told, &f.beside} {
			if set.has(from) {
				set.add(to)
			}
		}
	}
	if !cur.state.known() || cur.Folder {
		if err := w.moveChildren(from, to); err != nil {
			return err
		}
	}
	next := cur
	next.Ino = to
	next.raw = slices.Clone(cur.raw)
	switch {
	case live:
		if to == RootIno {
			next.raw = nil
		}
		w.nodes--
		if err := w.place(&next, &entry{}, false); err != nil || flags&flagIsListed == 0 {
			return err
		}
		w.setListed(to)
	case cur.state.hidden():
		w.set(to, appendHidden(nil, &next, hiddenSince(hidden)))
	default:
		w.set(to, appendPlaceholder(nil, id))
	}
	return nil
}

// vacate makes sure that no other node has the number ino: a hidden one gets
// another, a live one is a mistake of the caller.
func (w *wtx) vacate(ino Ino, id string) error {
	var e entry
	st, err := w.load(ino, &e)
	switch {
	case err != nil || st == stateUnknown || e.ID == id:
		return err
	case st == stateLive:
		return fmt.Errorf("inode %d belongs to the live node %s, not to %s: %w", ino, e.ID, id, ErrBound)
	}
	other, err := w.newIno()
	if err != nil {
		return err
	}
	return w.reinode(e.ID, ino, other)
}

// moveChildren moves the entries of one folder to another number.
func (w *wtx) moveChildren(from, to Ino) error {
	// What is waiting to be claimed goes along.
	for i := range w.claims {
		if binary.BigEndian.Uint64(w.claims[i].key) == from {
			w.claims[i].key = bytes.Clone(w.claims[i].key)
			binary.BigEndian.PutUint64(w.claims[i].key, to)
		}
	}
	for _, b := range []*bolt.Bucket{w.name, w.level.Bucket} {
		for _, x := range withPrefix(b, be(from)) {
			if err := errors.Join(b.Delete(x.k), b.Put(append(be(to), x.k[8:]...), x.v)); err != nil {
				return err
			}
		}
	}
	for _, x := range withPrefix(w.node.Bucket, be(from)) {
		child := binary.BigEndian.Uint64(x.k[8:])
		if err := errors.Join(w.node.Delete(x.k), w.node.Put(key2(nil, to, child), x.v)); err != nil {
			return err
		}
		if t := w.seen[child]; t != nil {
			t.made = nil
		}
		home, link := decodeLink(x.v)
		if !link {
			home = to
		}
		var e entry
		if err := decodeRecord(w.node.Get(key2(nil, home, child)), home, child, &e); err != nil {
			return err
		}
		if link {
			e.raw[slices.Index(e.raw, from)] = to
			if err := w.put(&e); err != nil {
				return err
			}
			continue
		}
		w.setLive(&e)
		for _, p := range e.raw[1:] { // links tell where the record is
			if err := w.node.Put(key2(nil, p, child), appendLink(nil, to)); err != nil {
				return err
			}
		}
	}
	return w.moveHidden(from, to)
}

type pair struct{ k, v []byte }

// withPrefix is a copy of a part of a bucket.
func withPrefix(b *bolt.Bucket, prefix []byte) (list []pair) {
	c := b.Cursor()
	for k, v := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
		list = append(list, pair{bytes.Clone(k), bytes.Clone(v)})
	}
	return list
}

// moveHidden: what is hidden names its folders too. It is looked for among all
// inodes, since a folder gets another number next to never.
func (w *wtx) moveHidden(from, to Ino) error {
	move := func(ino Ino, v []byte) error {
		if !stateOf(v).hidden() {
			return nil
		}
		var e entry
		if err := decodeHidden(v, ino, &e); err != nil {
			return err
		}
		if i := slices.Index(e.raw, from); i >= 0 {
			e.raw[i] = to
			w.set(ino, appendHidden(nil, &e, hiddenSince(v)))
		}
		return nil
	}
	for ino, v := range maps.Clone(w.over) {
		if err := move(ino, v); err != nil {
			return err
		}
	}
	c := w.inode.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		ino := binary.BigEndian.Uint64(k)
		if _, over := w.over[ino]; over {
			continue
		}
		if err := move(ino, v); err != nil {
			return err
		}
	}
	return nil
}

// prune forgets tombstones older than before, looking at pruneMax inodes from
// the number from on, and returns where to go on, 0 = at the end. What is in the
// trash stays until it is purged, and so do folders whose children wait for them
// to come back.
func (w *wtx) prune(from Ino, before time.Time) (Ino, error) {
	c := w.inode.Cursor()
	n := 0
	for k, v := c.Seek(be(from)); k != nil; k, v = c.Next() {
		ino := binary.BigEndian.Uint64(k)
		if n++; n > pruneMax {
			return ino, nil
		}
		if st := stateOf(v); !st.hidden() || st == stateTrash || !hiddenSince(v).Before(before) || w.hasChildren(ino) {
			continue
		}
		var e entry
		if err := decodeHidden(v, ino, &e); err != nil {
			return 0, err
		}
		w.set(ino, nil)
		w.bind(e.ID, 0)
	}
	return 0, nil
}

func (w *wtx) hasChildren(ino Ino) bool {
	prefix := be(ino)
	k, _ := w.node.Cursor().Seek(prefix)
	return k != nil && bytes.HasPrefix(k, prefix)
}
