package mirror

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

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
			home, _, _ := w.lookup(p[0])
			list[i].home = home
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
	return cmp.Or(cmp.Compare(n.Version, o.Version), cmp.Compare(rankOf(n), rankOf(o))) >= 0
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
		ino, here, _ := w.lookup(n.ID)
		return ino, false, here && ino != RootIno, nil
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
	old, here, _ := w.lookup(id)
	if here {
		return w.reinode(id, old, RootIno)
	}
	return w.bind(id, RootIno)
}

// isNews decides by version, then by state, whether n may change what is known.
func (w *wtx) isNews(n *drive.Node, cur *entry) bool {
	if n.Status == drive.Purged {
		return cur.rank != rankPurged
	}
	if w.src == sourceRepair {
		return true
	}
	if n.Version != cur.Version && n.Version != 0 {
		return n.Version > cur.Version
	}
	r := rankOf(n)
	if r != cur.rank {
		// By id the service is always right. Else death wins over life, since
		// listings show the dead for a while, and life over not yet born.
		return w.src == sourceAnswer && cur.rank != rankPurged || r > cur.rank
	}
	return r == rankLive
}

// purgedVersion: no news brings back what was purged.
const purgedVersion = 1<<63 - 1

// upsert applies one node told by the service.
func (w *wtx) upsert(n *drive.Node, ino Ino, isNew bool) error {
	w.wrote++
	var cur entry
	var live, hidden bool
	if !isNew {
		var err error
		if live, hidden, err = w.load(ino, &cur); err != nil {
			return err
		}
		if (live || hidden) && ino != RootIno && !w.isNews(n, &cur) {
			return nil
		}
		if ino == RootIno && live && n.Version < cur.Version && w.src != sourceRepair {
			return nil
		}
	}
	known := live || hidden
	if !known && w.from != nil {
		// In a rebuild the past is in the live file.
		var err error
		if known, err = w.from.entry(ino, &cur); err != nil {
			return err
		}
	}
	r := rankOf(n)
	if ino == RootIno {
		r = rankLive
	}
	if r != rankLive && !live && !hidden && n.Kind != drive.File && n.Kind != drive.Folder && n.Status != drive.Purged {
		return nil // an asset known as somebody's parent; stays a ghost
	}
	next, err := w.build(n, ino, &cur, known, live || hidden)
	if err != nil {
		return err
	}
	if !live && !hidden && !isNew {
		if err := w.ghost.Delete(be(ino)); err != nil {
			return err
		}
	}
	if r != rankLive {
		next.rank = r
		return w.hide(next, &cur, live)
	}
	if hidden {
		if err := w.tomb.Delete(be(ino)); err != nil {
			return err
		}
	}
	return w.place(next, &cur, live, isNew)
}

// build makes the entry that n describes. cur is what is known already, here
// or, in a rebuild, in the live file.
func (w *wtx) build(n *drive.Node, ino Ino, cur *entry, known, here bool) (*entry, error) {
	e := &entry{rank: rankLive}
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
		p := &entry{rank: rankPurged}
		p.Ino, p.ID, p.Version, p.Folder, p.Seen = ino, n.ID, purgedVersion, known && cur.Folder, w.now
		return p, nil
	}
	if known && n.Name == "" && rankOf(n) > rankLive {
		e.Name, e.Folder, e.Created = cur.Name, cur.Folder, cur.Created
	}
	if !e.Folder {
		if p := n.Content; p != nil {
			e.Content, e.Size, e.MD5, e.ContentType = p.Version, p.Size, strings.ToLower(p.MD5), p.ContentType
		} else if known && !cur.Folder {
			e.Content, e.Size, e.MD5, e.ContentType = cur.Content, cur.Size, cur.MD5, cur.ContentType
		}
	}
	if known {
		e.Gen = cur.Gen
		e.Props, e.PropsVersion = cur.Props, cur.PropsVersion
		if contentDiffers(cur, e) && !w.own && (w.m.o.OwnContent == nil || !w.m.o.OwnContent(n.ID, e.Size, e.MD5)) {
			e.Gen++
		}
	}
	// A listing that was on its way while we set a property tells of before.
	if late := known && cur.Props != nil && e.Version < cur.PropsVersion; n.Properties != nil && w.owner != "" && !late {
		e.Props = map[string]string{}
		for k, v := range n.Properties[w.owner] {
			e.Props[k] = v
		}
		e.PropsVersion = e.Version
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
	if len(n.Parents) == 0 && here && (w.src != sourceFeed && w.src != sourceListing || rankOf(n) > rankLive) {
		// Some answers leave them out; only the feed tells that there are none.
		e.raw = slices.Clone(cur.raw)
	}
	return e, nil
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

// place writes a live node to where it belongs now.
func (w *wtx) place(e, cur *entry, live, isNew bool) error {
	keepName := false
	if live {
		keepName = e.Name == cur.Name || !isCut(e.Name) && !isCut(cur.Name) && Fold(e.Name) == Fold(cur.Name)
		if keepName && slices.Equal(e.raw, cur.raw) {
			e.level = cur.level
			return w.rewrite(e, cur)
		}
		w.touchLive(cur)
	} else {
		t := w.touch(e.Ino)
		if isNew {
			t.made = e
		}
		w.nodes++
	}
	delete(w.dirs, e.Ino)
	if e.Ino == RootIno {
		w.root = true
	}
	if len(e.raw) > 1 || live && len(cur.raw) > 1 {
		if err := w.noteMulti(e, true); err != nil {
			return err
		}
	}
	levels := make([]uint8, len(e.raw))
	if live {
		for _, dir := range cur.raw {
			i := slices.Index(e.raw, dir)
			level := levelIn(w.node, cur, dir)
			if i >= 0 && keepName {
				levels[i] = level
				continue
			}
			w.unclaim(cur, dir, level)
		}
		for _, dir := range cur.raw {
			if !slices.Contains(e.raw, dir) || dir == cur.home() && dir != e.home() {
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
			w.claim(e, dir, 0)
		}
		if i > 0 {
			link := w.keep(appendLink(nil, levels[i], e.home()))
			if err := w.node.Put(key2(nil, dir, e.Ino), link); err != nil {
				return err
			}
		}
	}
	if len(levels) > 0 {
		e.level = levels[0]
	}
	if !live || cur.home() != e.home() {
		var kb [8]byte
		if err := w.home.Put(binary.BigEndian.AppendUint64(kb[:0], e.Ino), w.keep(be(e.home()))); err != nil {
			return err
		}
	}
	return w.put(e)
}

// put writes a record to its home.
func (w *wtx) put(e *entry) error {
	w.enc = appendRecord(w.enc[:0], e, &w.f.table)
	var kb [16]byte
	return w.node.Put(key2(kb[:0], e.home(), e.Ino), w.keep(w.enc))
}

// rewrite replaces the record of a node that stays where it is, unless nothing
// but the day of Seen differs: then it is no change, and on the same day not
// even a write.
func (w *wtx) rewrite(e, cur *entry) error {
	w.enc = appendRecord(w.enc[:0], e, &w.f.table)
	var kb [16]byte
	k := key2(kb[:0], e.home(), e.Ino)
	old := w.node.Get(k)
	if bytes.Equal(old, w.enc) {
		return nil
	}
	if len(old) < seenLen || !bytes.Equal(old[:len(old)-seenLen], w.enc[:len(w.enc)-seenLen]) {
		w.touchLive(cur)
		delete(w.dirs, e.Ino)
		w.root = w.root || e.Ino == RootIno
	}
	return w.node.Put(k, w.keep(w.enc))
}

// hide takes a node out of all its folders and keeps it as a tombstone.
func (w *wtx) hide(e, cur *entry, live bool) error {
	if live {
		w.touchLive(cur)
		if err := w.unplace(cur); err != nil {
			return err
		}
		w.nodes--
	}
	e.level = 0
	return w.tomb.Put(be(e.Ino), appendTomb(nil, e, w.now, &w.f.table))
}

// unplace removes all that makes a live node visible.
func (w *wtx) unplace(cur *entry) error {
	delete(w.dirs, cur.Ino)
	if len(cur.raw) > 1 {
		if err := w.noteMulti(cur, false); err != nil {
			return err
		}
	}
	for _, dir := range cur.raw {
		w.unclaim(cur, dir, levelIn(w.node, cur, dir))
	}
	for _, dir := range cur.raw {
		if err := w.node.Delete(key2(nil, dir, cur.Ino)); err != nil {
			return err
		}
	}
	if len(cur.raw) == 0 {
		if err := w.node.Delete(key2(nil, 0, cur.Ino)); err != nil {
			return err
		}
	}
	return w.home.Delete(be(cur.Ino))
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
	live, hidden, err := w.load(from, &cur)
	if err != nil {
		return err
	}
	if live {
		w.touchLive(&cur)
		if err := w.unplace(&cur); err != nil {
			return err
		}
	}
	if err := w.ghost.Delete(be(from)); err != nil {
		return err
	}
	if err := w.tomb.Delete(be(from)); err != nil {
		return err
	}
	delete(w.dirs, from)
	delete(w.dirs, to)
	if w.bulk {
		w.fresh[id] = to
	}
	// Into the bucket in any case: a killed first load finds only numbers
	// above a mark again, and this one may be old.
	if err := w.id.Put([]byte(id), w.keep(binary.AppendUvarint(nil, to))); err != nil {
		return err
	}
	if !(live || hidden) || cur.Folder {
		if err := w.moveChildren(from, to); err != nil {
			return err
		}
	}
	if v := w.listed.Get(be(from)); v != nil {
		if err := w.listed.Put(be(to), []byte{1}); err != nil {
			return err
		}
		if err := w.listed.Delete(be(from)); err != nil {
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
		return w.place(&next, &entry{}, false, false)
	case hidden:
		return w.tomb.Put(be(to), appendTomb(nil, &next, w.now, &w.f.table))
	}
	return w.ghost.Put(be(to), []byte(id))
}

// vacate makes sure that no other node has the number ino: a hidden one gets
// another, a live one is a mistake of the caller.
func (w *wtx) vacate(ino Ino, id string) error {
	var e entry
	live, hidden, err := w.load(ino, &e)
	switch {
	case err != nil:
		return err
	case live && e.ID != id:
		return fmt.Errorf("inode %d belongs to the live node %s, not to %s: %w", ino, e.ID, id, ErrBound)
	case hidden && e.ID != id:
		other, err := w.newIno()
		if err != nil {
			return err
		}
		return w.reinode(e.ID, ino, other)
	case !live && !hidden:
		if g := w.ghost.Get(be(ino)); g != nil && string(g) != id {
			other, err := w.newIno()
			if err != nil {
				return err
			}
			return w.reinode(string(g), ino, other)
		}
	}
	return nil
}

// moveChildren moves the entries of one folder to another number.
func (w *wtx) moveChildren(from, to Ino) error {
	type kv struct{ k, v []byte }
	collect := func(c interface {
		Seek([]byte) ([]byte, []byte)
		Next() ([]byte, []byte)
	}) (list []kv) {
		prefix := be(from)
		for k, v := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
			list = append(list, kv{bytes.Clone(k), bytes.Clone(v)})
		}
		return list
	}
	// What is waiting to be claimed goes along.
	for i := range w.claims {
		if binary.BigEndian.Uint64(w.claims[i].key) == from {
			w.claims[i].key = bytes.Clone(w.claims[i].key)
			binary.BigEndian.PutUint64(w.claims[i].key, to)
		}
	}
	for _, x := range collect(w.name.Cursor()) {
		if err := w.name.Delete(x.k); err != nil {
			return err
		}
		k := append(be(to), x.k[8:]...)
		if err := w.name.Put(k, x.v); err != nil {
			return err
		}
	}
	for _, x := range collect(w.node.Cursor()) {
		child := binary.BigEndian.Uint64(x.k[8:])
		if err := w.node.Delete(x.k); err != nil {
			return err
		}
		if err := w.node.Put(key2(nil, to, child), x.v); err != nil {
			return err
		}
		if t := w.seen[child]; t != nil {
			t.made = nil
		}
		if x.v[0] == tagRecord {
			if err := w.home.Put(be(child), be(to)); err != nil {
				return err
			}
			var e entry
			if err := decodeRecord(x.v, to, child, w.f.table.strs, &e); err != nil {
				return err
			}
			for _, p := range e.raw[1:] { // links tell where the record is
				if err := w.node.Put(key2(nil, p, child), appendLink(nil, levelIn(w.node, &e, p), to)); err != nil {
					return err
				}
			}
			continue
		}
		_, home, _ := decodeLink(x.v)
		var e entry
		if err := decodeRecord(w.node.Get(key2(nil, home, child)), home, child, w.f.table.strs, &e); err != nil {
			return err
		}
		for i, p := range e.raw {
			if p == from {
				e.raw[i] = to
			}
		}
		if err := w.put(&e); err != nil {
			return err
		}
	}
	// Tombstones name their folders too; they are few beside this.
	return w.moveTombs(from, to)
}

func (w *wtx) moveTombs(from, to Ino) error {
	var changed []entry
	var at []time.Time
	c := w.tomb.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		var e entry
		hidden, err := decodeTomb(v, binary.BigEndian.Uint64(k), w.f.table.strs, &e)
		if err != nil {
			return err
		}
		if i := slices.Index(e.raw, from); i >= 0 {
			e.raw[i] = to
			changed = append(changed, e)
			at = append(at, hidden)
		}
	}
	for i := range changed {
		if err := w.tomb.Put(be(changed[i].Ino), appendTomb(nil, &changed[i], at[i], &w.f.table)); err != nil {
			return err
		}
	}
	return nil
}

// prune forgets tombstones older than before, at most pruneMax, and returns how
// many. What is in the trash stays until it is purged, and so do folders whose
// children wait for them to come back.
func (w *wtx) prune(before time.Time) (int, error) {
	type old struct {
		ino Ino
		id  string
	}
	var list []old
	c := w.tomb.Cursor()
	for k, v := c.First(); k != nil && len(list) < pruneMax; k, v = c.Next() {
		ino := binary.BigEndian.Uint64(k)
		if rk, hidden := tombHead(v); rk == rankTrash || !hidden.Before(before) || w.hasChildren(ino) {
			continue
		}
		var e entry
		if _, err := decodeTomb(v, ino, w.f.table.strs, &e); err != nil {
			return 0, err
		}
		list = append(list, old{ino, e.ID})
	}
	for _, o := range list {
		if err := w.tomb.Delete(be(o.ino)); err != nil {
			return 0, err
		}
		if err := w.id.Delete([]byte(o.id)); err != nil {
			return 0, err
		}
		w.forget = append(w.forget, o.id)
	}
	return len(list), nil
}

func (w *wtx) hasChildren(ino Ino) bool {
	prefix := be(ino)
	k, _ := w.node.Cursor().Seek(prefix)
	return k != nil && bytes.HasPrefix(k, prefix)
}
