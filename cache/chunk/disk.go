package chunk

import (
	"container/list"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"io/fs"
	"log/slog"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sys/unix"
)

var (
	errDiskOff     = errors.New("the disk cache is off")
	errDiskMiss    = errors.New("not in the disk cache")
	errDiskTorn    = errors.New("a damaged file in the disk cache")
	errDiskForeign = errors.New("the disk cache has bytes of doubtful origin")
	errDiskID      = errors.New("an id too long for the disk cache")
	errDiskSpace   = errors.New("no room for the disk cache beside the reserve")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// disk is the disk tier: one file a chunk, found by its name alone, so that
// there is no index that could be lost or be wrong. The first page of a file
// says what it is, which granules it has and their checksums; the rest is the
// chunk, with holes. Data is written before the page that vouches for it.
//
// What is in memory about it is for eviction and to answer "no" without
// asking the disk; it is rebuilt from the names while reading goes on. A nil
// *disk is a tier that is not there.
type disk struct {
	dir     string
	max     int64
	most    int // entries: they are in memory
	log     *slog.Logger
	statfs  func(dir string) (free, total int64, err error)
	writing sync.Mutex // one write at a time; before headers and mu
	headers sync.RWMutex

	mu      sync.Mutex // guards the rest; after Cache.mu, nothing is called under it
	entries map[diskKey]*entry
	nodes   map[uint64][]*entry
	lru     [2]*list.List // of *entry, the oldest in front; [1] are the edges of media
	used    [2]int64      // bytes on disk
	open    map[diskKey]*diskFile
	opened  *list.List // of *diskFile, the one used last in front
	scanned bool
	off     bool
	retry   time.Time // when off, no write before
	checked time.Time // when free space was looked at
	since   int64     // bytes written from then on
}

// diskKey is what a file's name says. node is a hash of the id; the page
// inside has the id itself.
type diskKey struct {
	node    uint64
	content int64
	index   int64
}

// entryBytes is what an entry takes in memory, with its places in tables and
// lists.
const entryBytes = 256

// fileCost is what a file with so many bytes of content takes: its pages, the one
// that vouches for them, and its entry.
func fileCost(bytes int64) int64 { return (bytes+headerSize+4095)&^4095 + entryBytes }

type entry struct {
	diskKey
	edge  int   // of media: kept longest, index into disk.lru
	cost  int64 // bytes on disk
	bytes int64 // of content
	elem  *list.Element
}

func diskKeyOf(v Version, index int64) diskKey {
	return diskKey{xxhash.Sum64String(v.ID), v.Content, index}
}

func openDisk(dir string, max int64, most int, log *slog.Logger) *disk {
	return &disk{
		dir: dir, max: max, most: most, log: log, statfs: statfs,
		entries: make(map[diskKey]*entry), nodes: make(map[uint64][]*entry),
		lru:  [2]*list.List{list.New(), list.New()},
		open: make(map[diskKey]*diskFile), opened: list.New(),
	}
}

func statfs(dir string) (free, total int64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, 0, err
	}
	return int64(s.Bavail) * s.Bsize, int64(s.Blocks) * s.Bsize, nil
}

func (d *disk) shard(node uint64) string { return filepath.Join(d.dir, fmt.Sprintf("%02x", node>>56)) }

const edgeSuffix = ".k"

func (d *disk) path(k diskKey, edge int) string {
	name := fmt.Sprintf("%016x.%d.%d", k.node, k.content, k.index)
	if edge == 1 {
		name += edgeSuffix
	}
	return filepath.Join(d.shard(k.node), name)
}

// parseName is the reverse of path.
func parseName(name string) (k diskKey, edge int, ok bool) {
	name, isEdge := strings.CutSuffix(name, edgeSuffix)
	if isEdge {
		edge = 1
	}
	p := strings.Split(name, ".")
	if len(p) != 3 || len(p[0]) != 16 {
		return k, 0, false
	}
	var err [3]error
	k.node, err[0] = strconv.ParseUint(p[0], 16, 64)
	k.content, err[1] = strconv.ParseInt(p[1], 10, 64)
	k.index, err[2] = strconv.ParseInt(p[2], 10, 64)
	return k, edge, errors.Join(err[:]...) == nil
}

// scan learns what is there from an earlier run.
func (d *disk) scan(ctx context.Context) {
	type found struct {
		entry
		at time.Time
	}
	var all []found
	shards, _ := os.ReadDir(d.dir)
	for _, sh := range shards {
		if len(sh.Name()) != 2 || !sh.IsDir() {
			continue
		}
		files, _ := os.ReadDir(filepath.Join(d.dir, sh.Name()))
		for _, f := range files {
			if ctx.Err() != nil {
				return
			}
			k, edge, ok := parseName(f.Name())
			info, err := f.Info()
			if !ok || err != nil {
				continue
			}
			cost := info.Size()
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				cost = st.Blocks * 512
			}
			cost += entryBytes
			all = append(all, found{entry{diskKey: k, edge: edge, cost: cost, bytes: max(0, min(cost, info.Size())-headerSize)}, info.ModTime()})
		}
	}
	// Youngest first, each before those that are known: what was written
	// meanwhile is younger than all of them.
	slices.SortFunc(all, func(a, b found) int { return b.at.Compare(a.at) })
	d.mu.Lock()
	for i := range all {
		if e := &all[i].entry; d.entries[e.diskKey] == nil {
			e := *e
			d.addLocked(&e, false)
		}
	}
	d.scanned = true
	d.mu.Unlock()
	d.writing.Lock()
	defer d.writing.Unlock()
	_ = d.makeRoom(0)
}

// addLocked makes e known, as the youngest or as the oldest.
func (d *disk) addLocked(e *entry, young bool) {
	d.entries[e.diskKey] = e
	d.nodes[e.node] = append(d.nodes[e.node], e)
	d.used[e.edge] += e.cost
	if young {
		e.elem = d.lru[e.edge].PushBack(e)
	} else {
		e.elem = d.lru[e.edge].PushFront(e)
	}
}

func (d *disk) removeLocked(e *entry) {
	if d.entries[e.diskKey] != e {
		return
	}
	delete(d.entries, e.diskKey)
	d.forgetLocked(e.diskKey)
	if es := remove(d.nodes[e.node], e); len(es) > 0 {
		d.nodes[e.node] = es
	} else {
		delete(d.nodes, e.node)
	}
	d.lru[e.edge].Remove(e.elem)
	d.used[e.edge] -= e.cost
}

// maybe reports whether chunk k may be there; false is certain.
func (d *disk) maybe(k diskKey) bool {
	if d == nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.scanned || d.entries[k] != nil
}

// hasVersion reports whether anything of v may be there.
func (d *disk) hasVersion(v Version) bool {
	if d == nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.scanned {
		return true
	}
	for _, e := range d.nodes[xxhash.Sum64String(v.ID)] {
		if e.content == v.Content {
			return true
		}
	}
	return false
}

// anyOf is a chunk of v that is there.
func (d *disk) anyOf(v Version) (index int64, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range d.nodes[xxhash.Sum64String(v.ID)] {
		if e.content == v.Content {
			return e.index, true
		}
	}
	return 0, false
}

func (d *disk) bytes() int64 {
	if d == nil {
		return 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.used[0] + d.used[1]
}

// bytesOf is how much of each chunk of v is there.
func (d *disk) bytesOf(v Version) map[int64]int64 {
	if d == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	m := make(map[int64]int64)
	for _, e := range d.nodes[xxhash.Sum64String(v.ID)] {
		if e.content == v.Content {
			m[e.index] = min(e.bytes, v.Size-e.index*chunkSize, chunkSize)
		}
	}
	return m
}

// wanted reports whether a write would be tried.
func (d *disk) wanted() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.off || !time.Now().Before(d.retry)
}

// The page at the beginning of a file.
const (
	headerSize = 4096
	magic      = "drivefs chunk 1\n"
)

type header struct {
	id   string
	size int64
	mask uint64
	tag  string
	crc  [granulesPerChunk]uint32
}

// diskFile is an open file with its page decoded: granules in it never change.
type diskFile struct {
	header
	key   diskKey
	f     *os.File
	mtime time.Time

	// Guarded by disk.mu.
	users int
	elem  *list.Element // of disk.opened; nil when others shall not find it
}

// openFiles is how many files stay open: a random read that opens its file costs
// twice as much as one that does not.
const openFiles = 256

// encode is the page of chunk index of v: magic, checksum of what follows,
// content version, size, index, mask, checksums, and the id and the tag with
// their lengths.
func (h *header) encode(v Version, index int64) ([]byte, bool) {
	if len(v.ID)+len(h.tag) > headerSize-512 {
		return nil, false
	}
	p := make([]byte, 0, headerSize)
	p = append(p, magic...)
	p = append(p, 0, 0, 0, 0)
	for _, n := range []uint64{uint64(v.Content), uint64(v.Size), uint64(index), h.mask} {
		p = binary.LittleEndian.AppendUint64(p, n)
	}
	for _, n := range h.crc {
		p = binary.LittleEndian.AppendUint32(p, n)
	}
	for _, s := range []string{v.ID, h.tag} {
		p = binary.LittleEndian.AppendUint16(p, uint16(len(s)))
		p = append(p, s...)
	}
	p = p[:headerSize]
	binary.LittleEndian.PutUint32(p[len(magic):], crc32.Checksum(p[len(magic)+4:], castagnoli))
	return p, true
}

// decode reports whether p is the page of chunk index of v.
func (h *header) decode(p []byte, v Version, index int64) bool {
	if len(p) != headerSize || string(p[:len(magic)]) != magic {
		return false
	}
	p = p[len(magic):]
	if binary.LittleEndian.Uint32(p) != crc32.Checksum(p[4:], castagnoli) {
		return false
	}
	p = p[4:]
	num := func() uint64 {
		n := binary.LittleEndian.Uint64(p)
		p = p[8:]
		return n
	}
	if num() != uint64(v.Content) || num() != uint64(v.Size) || num() != uint64(index) {
		return false
	}
	h.mask = num()
	for i := range h.crc {
		h.crc[i] = binary.LittleEndian.Uint32(p)
		p = p[4:]
	}
	str := func() string {
		n := int(binary.LittleEndian.Uint16(p))
		p = p[2:]
		s := string(p[:min(n, len(p))])
		p = p[len(s):]
		return s
	}
	h.id, h.size = str(), v.Size
	h.tag = str()
	return h.id == v.ID
}

// get finds chunk index of v and holds it open until put. errDiskMiss when it
// is not there, or was and is of no use.
func (d *disk) get(v Version, index int64) (*diskFile, error) {
	k := diskKeyOf(v, index)
	d.mu.Lock()
	e := d.entries[k]
	if f := d.open[k]; f != nil && e != nil {
		f.users++
		d.opened.MoveToFront(f.elem)
		d.lru[e.edge].MoveToBack(e.elem)
		d.mu.Unlock()
		if f.id == v.ID && f.size == v.Size {
			return f, nil
		}
		d.put(f)
		return nil, errDiskMiss
	}
	names := []int{0, 1}
	if e != nil {
		names = []int{e.edge}
	} else if d.scanned {
		names = nil
	}
	d.mu.Unlock()
	for _, edge := range names {
		f, err := os.Open(d.path(k, edge))
		if err != nil {
			continue
		}
		df := &diskFile{f: f, key: k, users: 1}
		if d.load(df, v, index) {
			if info, err := f.Stat(); err == nil {
				df.mtime = info.ModTime()
			}
			d.counted(k, edge, v.chunkBytes(index, df.mask))
			d.keepOpen(df)
			return df, nil
		}
		_ = f.Close()
		_ = os.Remove(f.Name())
	}
	if e != nil {
		d.mu.Lock()
		d.removeLocked(e)
		d.mu.Unlock()
	}
	return nil, errDiskMiss
}

// keepOpen lets others find f.
func (d *disk) keepOpen(f *diskFile) {
	d.mu.Lock()
	d.forgetLocked(f.key)
	d.open[f.key] = f
	f.elem = d.opened.PushFront(f)
	if d.opened.Len() > openFiles {
		d.forgetLocked(d.opened.Back().Value.(*diskFile).key)
	}
	d.mu.Unlock()
}

// forgetLocked has nobody find the open file of k any more: its page is another
// one now, or it is not needed.
func (d *disk) forgetLocked(k diskKey) {
	f := d.open[k]
	if f == nil {
		return
	}
	delete(d.open, k)
	d.opened.Remove(f.elem)
	f.elem = nil
	if f.users == 0 {
		_ = f.f.Close()
	}
}

// touchAfter is how old the time of a file of the disk tier may be before a
// use renews it: that is what the order of eviction is rebuilt from.
const touchAfter = 10 * time.Minute

// put ends a use of f.
func (d *disk) put(f *diskFile) {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if now.Sub(f.mtime) > touchAfter {
		f.mtime = now
		_ = os.Chtimes(f.f.Name(), now, now)
	}
	if f.users--; f.users == 0 && f.elem == nil {
		_ = f.f.Close()
	}
}

// close closes what stayed open.
func (d *disk) close() {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for k := range d.open {
		d.forgetLocked(k)
	}
}

func (d *disk) load(f *diskFile, v Version, index int64) bool {
	d.headers.RLock()
	defer d.headers.RUnlock()
	p := make([]byte, headerSize)
	n, err := f.f.ReadAt(p, 0)
	if n < headerSize && err != nil {
		return false
	}
	return f.decode(p, v, index)
}

// remove forgets chunk index of v.
func (d *disk) remove(v Version, index int64) {
	k := diskKeyOf(v, index)
	d.mu.Lock()
	if e := d.entries[k]; e != nil {
		d.removeLocked(e)
	}
	d.mu.Unlock()
	for edge := range 2 {
		_ = os.Remove(d.path(k, edge))
	}
}

func (d *disk) dropVersion(v Version) {
	d.drop(xxhash.Sum64String(v.ID), func(k diskKey) bool { return k.content == v.Content })
}

func (d *disk) dropNode(id string) {
	d.drop(xxhash.Sum64String(id), func(diskKey) bool { return true })
}

// drop removes the chunks of a node that match, also one just being written.
func (d *disk) drop(node uint64, match func(diskKey) bool) {
	if d == nil {
		return
	}
	d.writing.Lock()
	defer d.writing.Unlock()
	var names []string
	d.mu.Lock()
	for _, e := range slices.Clone(d.nodes[node]) {
		if match(e.diskKey) {
			d.removeLocked(e)
			names = append(names, d.path(e.diskKey, e.edge))
		}
	}
	scanned := d.scanned
	d.mu.Unlock()
	if !scanned {
		files, _ := os.ReadDir(d.shard(node))
		for _, f := range files {
			if k, _, ok := parseName(f.Name()); ok && k.node == node && match(k) {
				names = append(names, filepath.Join(d.shard(node), f.Name()))
			}
		}
	}
	for _, n := range names {
		_ = os.Remove(n)
	}
}

// write adds granules of chunk index of v and reports which are there then.
// An error of the disk leaves the tier off for a while.
func (d *disk) write(v Version, index int64, tag string, mask uint64, granule func(g int) []byte) (uint64, error) {
	d.writing.Lock()
	defer d.writing.Unlock()
	if !d.wanted() {
		return 0, errDiskOff
	}
	there, err := d.writeFile(v, index, tag, mask, granule)
	if !errors.Is(err, errDiskID) {
		d.report(err)
	}
	return there, err
}

func (d *disk) writeFile(v Version, index int64, tag string, mask uint64, granule func(g int) []byte) (uint64, error) {
	k := diskKeyOf(v, index)
	d.mu.Lock()
	e := d.entries[k]
	edge := 0
	if e != nil {
		edge = e.edge
	} else if isMedia(v.Name) && v.isEdge(index) {
		edge = 1
	}
	d.mu.Unlock()
	if err := d.makeRoom(fileCost(v.chunkBytes(index, mask))); err != nil {
		return 0, err
	}
	path := d.path(k, edge)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		d.shardGone(k.node)
		if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
			f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		}
	}
	if err != nil {
		return 0, err
	}
	df := &diskFile{f: f}
	defer func() { _ = f.Close() }()
	if !d.load(df, v, index) || df.tag != "" && tag != "" && df.tag != tag {
		df.header = header{}
		err = f.Truncate(0)
	}
	if tag != "" {
		df.tag = tag
	}
	if err == nil {
		err = d.writeTo(df, v, index, mask, granule)
	}
	if err != nil {
		d.mu.Lock()
		e := d.entries[k]
		d.mu.Unlock()
		if e == nil {
			_ = os.Remove(path) // nobody would count it
		}
		return 0, err
	}
	d.counted(k, edge, v.chunkBytes(index, df.mask))
	d.mu.Lock()
	d.forgetLocked(k)
	d.mu.Unlock()
	return df.mask, nil
}

// counted makes chunk k known with so many bytes, as the youngest.
func (d *disk) counted(k diskKey, edge int, bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	cost := fileCost(bytes)
	if e := d.entries[k]; e != nil {
		d.used[e.edge] += cost - e.cost
		e.cost, e.bytes = cost, bytes
		d.lru[e.edge].MoveToBack(e.elem)
	} else {
		d.addLocked(&entry{diskKey: k, edge: edge, cost: cost, bytes: bytes}, true)
	}
}

// chunkBytes is how many bytes the granules in mask of chunk index have.
func (v *Version) chunkBytes(index int64, mask uint64) int64 {
	ch := chunk{size: int(min(chunkSize, v.Size-index*chunkSize))}
	return ch.bytes(mask)
}

// writeTo adds granules to an open file, and last the page that vouches for
// them.
func (d *disk) writeTo(df *diskFile, v Version, index int64, mask uint64, granule func(g int) []byte) error {
	for todo := mask &^ df.mask; todo != 0; todo &= todo - 1 {
		g := bits.TrailingZeros64(todo)
		p := granule(g)
		if _, err := df.f.WriteAt(p, int64(headerSize+g*granuleSize)); err != nil {
			return err
		}
		df.crc[g] = crc32.Checksum(p, castagnoli)
		df.mask |= 1 << g
		d.since += int64(len(p))
	}
	page, ok := df.encode(v, index)
	if !ok {
		return errDiskID
	}
	d.headers.Lock()
	defer d.headers.Unlock()
	_, err := df.f.WriteAt(page, 0)
	return err
}

// shardGone: a directory is not there (yet, or any more): neither is what we
// thought was in it.
func (d *disk) shardGone(node uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range d.entries {
		if e.node>>56 == node>>56 {
			d.removeLocked(e)
		}
	}
}

// reserve is how much of a filesystem the tier leaves free for others.
func reserve(total int64) int64 { return min(total/20, 2<<30) }

// makeRoom evicts until n more bytes fit both the bound and the free space
// beside the reserve. Edges of media go last, unless they are more than three
// quarters of everything.
func (d *disk) makeRoom(n int64) error {
	short := int64(0)
	if now := time.Now(); d.since > 64<<20 || now.Sub(d.checked) > 5*time.Second {
		d.checked, d.since = now, 0
		dir := d.dir
		for {
			free, total, err := d.statfs(dir)
			if errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
				dir = filepath.Dir(dir)
				continue
			}
			if err == nil {
				short = reserve(total) + n - free
			}
			break
		}
		if short > 0 {
			d.checked = time.Time{} // look again before the next write
		}
	}
	for {
		d.mu.Lock()
		if d.used[0]+d.used[1]+n <= d.max && len(d.entries) < d.most && short <= 0 {
			d.mu.Unlock()
			return nil
		}
		class := 0
		if d.lru[0].Len() == 0 || d.used[1] > d.max/4*3 {
			class = 1
		}
		front := d.lru[class].Front()
		if front == nil {
			d.mu.Unlock()
			return errDiskSpace
		}
		e := front.Value.(*entry)
		d.removeLocked(e)
		d.mu.Unlock()
		if err := os.Remove(d.path(e.diskKey, e.edge)); err == nil {
			short -= e.cost
		}
	}
}

// report turns the tier off after an error, and on after a success, with one
// line each.
func (d *disk) report(err error) {
	d.mu.Lock()
	was := d.off
	d.off = err != nil
	if err != nil {
		d.retry = time.Now().Add(30 * time.Second)
	}
	d.mu.Unlock()
	switch {
	case err != nil && !was:
		d.log.Warn("disk cache off: what is read is not kept there", "dir", d.dir, "err", err)
	case err == nil && was:
		d.log.Info("disk cache on again", "dir", d.dir)
	}
}
