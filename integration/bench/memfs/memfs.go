package memfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

const (
	cached    = time.Hour
	blockSize = 4096
	// content is what every file consists of, over and over.
	contentSize = 1 << 20
)

// Options say what is in the filesystem. Mountpoint is required.
type Options struct {
	Mountpoint string
	// Xattrs: attributes are asked for and answered "none", as by drivefs
	// --xattrs on. Off they are refused once and never asked for again.
	Xattrs bool
	// Nodes, PerDir: the tree of drivetest's Bulk, folders included.
	Nodes, PerDir int
	// Files of the root, by name, and their sizes in bytes.
	Files map[string]int64
	// Stored are more files of the root, by name, and the files of this machine
	// they are read from, one pread a READ.
	Stored map[string]string
	// Disk is a directory that gets what is written; "" = nowhere.
	Disk string
}

// Server is a mounted memfs.
type Server struct {
	fuse *fuse.Server
	done chan struct{}
}

// Mount mounts and returns once the filesystem answers.
func Mount(o Options) (*Server, error) {
	t := &tree{o: o, content: make([]byte, contentSize), born: time.Now()}
	for i := range t.content {
		t.content[i] = byte(i * 7) // touched, so that reading finds real pages
	}
	root := t.node("", true, 0)
	t.fill(root)
	timeout := cached
	opts := &fusefs.Options{
		MountOptions: fuse.MountOptions{
			FsName: "memfs", Name: "memfs", Options: []string{"default_permissions"}, DirectMount: true,
			MaxWrite: 1 << 20, MaxBackground: 64, CongestionThreshold: 48, DisableSplice: true, ExplicitDataCacheControl: true,
			DisableXAttrs: !o.Xattrs,
		},
		EntryTimeout: &timeout, AttrTimeout: &timeout, NullPermissions: true,
		RootStableAttr: &fusefs.StableAttr{Ino: root.ino},
	}
	srv, err := fusefs.Mount(o.Mountpoint, root, opts)
	if err != nil {
		return nil, fmt.Errorf("mounting memfs: %w", err)
	}
	s := &Server{fuse: srv, done: make(chan struct{})}
	go func() {
		srv.Wait()
		close(s.done)
	}()
	raiseReadAhead(o.Mountpoint)
	return s, nil
}

// raiseReadAhead does what package fs does for its mounts; only root may.
func raiseReadAhead(mnt string) {
	var st syscall.Stat_t
	if syscall.Stat(mnt, &st) == nil {
		_ = os.WriteFile(fmt.Sprintf("/sys/class/bdi/0:%d/read_ahead_kb", st.Dev&0xff|(st.Dev>>12)&^0xff), []byte("1024"), 0)
	}
}

// Unmount ends it and waits.
func (s *Server) Unmount() error {
	if err := s.fuse.Unmount(); err != nil {
		return err
	}
	<-s.done
	return nil
}

// Done is closed when it is unmounted, by whomever.
func (s *Server) Done() <-chan struct{} { return s.done }

type tree struct {
	o       Options
	content []byte
	born    time.Time
	inos    atomic.Uint64
}

// node is a file or a folder.
type node struct {
	fusefs.Inode
	t    *tree
	ino  uint64
	name string
	dir  bool
	// stored is the file of this machine with the content, "" = the shared one.
	stored string

	mu   sync.Mutex
	size int64            // guarded by mu
	kids []*node          // guarded by mu
	by   map[string]*node // guarded by mu
}

var _ interface {
	fusefs.NodeLookuper
	fusefs.NodeGetattrer
	fusefs.NodeSetattrer
	fusefs.NodeOpendirHandler
	fusefs.NodeOpener
	fusefs.NodeCreater
	fusefs.NodeMkdirer
	fusefs.NodeGetxattrer
	fusefs.NodeListxattrer
} = (*node)(nil)

func (t *tree) node(name string, dir bool, size int64) *node {
	n := &node{t: t, ino: t.inos.Add(1), name: name, dir: dir, size: size}
	if dir {
		n.by = map[string]*node{}
	}
	return n
}

// add puts k into n. It does not replace.
func (n *node) add(k *node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.kids = append(n.kids, k)
	n.by[k.name] = k
}

// fill makes what Options say.
func (t *tree) fill(root *node) {
	var dir *node
	for made, dirs := 0, 0; made < t.o.Nodes; made++ {
		if dir == nil || len(dir.kids) == t.o.PerDir {
			dir = t.node(fmt.Sprintf("bulk-%07d", dirs), true, 0)
			dirs++
			root.add(dir)
			continue
		}
		dir.add(t.node(fmt.Sprintf("file-%06d.txt", len(dir.kids)), false, 26))
	}
	for name, size := range t.o.Files {
		root.add(t.node(name, false, size))
	}
	for name, path := range t.o.Stored {
		if info, err := os.Stat(path); err == nil {
			n := t.node(name, false, info.Size())
			n.stored = path
			root.add(n)
		}
	}
	slices.SortFunc(root.kids, func(a, b *node) int { return int(a.ino) - int(b.ino) })
}

func (n *node) attr(a *fuse.Attr) {
	n.mu.Lock()
	a.Size = uint64(n.size)
	n.mu.Unlock()
	a.Ino, a.Nlink, a.Mode, a.Blksize = n.ino, 1, 0o644, blockSize
	if n.dir {
		a.Mode = 0o755
	}
	a.Mode |= n.mode()
	a.Blocks = (a.Size + blockSize - 1) / blockSize * (blockSize / 512)
	a.SetTimes(&n.t.born, &n.t.born, &n.t.born)
	a.Uid, a.Gid = uint32(os.Getuid()), uint32(os.Getgid())
}

func (n *node) mode() uint32 {
	if n.dir {
		return fuse.S_IFDIR
	}
	return fuse.S_IFREG
}

// shown is k's kernel inode below n.
func (n *node) shown(ctx context.Context, k *node, out *fuse.EntryOut) *fusefs.Inode {
	k.attr(&out.Attr)
	out.SetAttrTimeout(cached)
	out.SetEntryTimeout(cached)
	if k.Operations() != nil {
		return k.EmbeddedInode()
	}
	return n.NewInode(ctx, k, fusefs.StableAttr{Mode: k.mode(), Ino: k.ino})
}

// Lookup leaves the timeout of an absent name at zero, as drivefs does.
func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fusefs.Inode, syscall.Errno) {
	n.mu.Lock()
	k := n.by[name]
	n.mu.Unlock()
	if k == nil {
		return nil, syscall.ENOENT
	}
	return n.shown(ctx, k, out), 0
}

// Getattr answers stat.
func (n *node) Getattr(_ context.Context, _ fusefs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	n.attr(&out.Attr)
	out.SetTimeout(cached)
	return 0
}

// Setattr heeds the size and accepts the rest.
func (n *node) Setattr(_ context.Context, _ fusefs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok {
		n.mu.Lock()
		n.size = int64(size)
		n.mu.Unlock()
	}
	n.attr(&out.Attr)
	out.SetTimeout(cached)
	return 0
}

// Getxattr has none.
func (n *node) Getxattr(context.Context, string, []byte) (uint32, syscall.Errno) {
	return 0, syscall.ENODATA
}

// Listxattr has none.
func (n *node) Listxattr(context.Context, []byte) (uint32, syscall.Errno) { return 0, 0 }

// Mkdir makes an empty folder.
func (n *node) Mkdir(ctx context.Context, name string, _ uint32, out *fuse.EntryOut) (*fusefs.Inode, syscall.Errno) {
	k := n.t.node(name, true, 0)
	n.add(k)
	return n.shown(ctx, k, out), 0
}

// Create makes a file that goes to the disk, or nowhere.
func (n *node) Create(ctx context.Context, name string, _, _ uint32, out *fuse.EntryOut) (*fusefs.Inode, fusefs.FileHandle, uint32, syscall.Errno) {
	k := n.t.node(name, false, 0)
	h := &handle{n: k}
	if n.t.o.Disk != "" {
		f, err := os.Create(filepath.Join(n.t.o.Disk, fmt.Sprint(k.ino)))
		if err != nil {
			return nil, nil, 0, syscall.EIO
		}
		h.file = f
	}
	n.add(k)
	return n.shown(ctx, k, out), h, fuse.FOPEN_DIRECT_IO, 0
}

// Open keeps the pages.
func (n *node) Open(context.Context, uint32) (fusefs.FileHandle, uint32, syscall.Errno) {
	h := &handle{n: n}
	if n.stored != "" {
		f, err := os.Open(n.stored)
		if err != nil {
			return nil, 0, syscall.EIO
		}
		h.file = f
	}
	return h, fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH, 0
}

// OpendirHandle lets the kernel keep the listing.
func (n *node) OpendirHandle(context.Context, uint32) (fusefs.FileHandle, uint32, syscall.Errno) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &dirHandle{n: n, kids: slices.Clone(n.kids)}, fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE, 0
}

// dirHandle is called for one request at a time.
type dirHandle struct {
	n    *node
	kids []*node
	at   int // entries handed out, "." and ".." among them
}

var _ interface {
	fusefs.FileReaddirenter
	fusefs.FileSeekdirer
	fusefs.FileLookuper
} = (*dirHandle)(nil)

// Readdirent gives the next entry.
func (h *dirHandle) Readdirent(context.Context) (*fuse.DirEntry, syscall.Errno) {
	h.at++
	e := &fuse.DirEntry{Off: uint64(h.at), Mode: fuse.S_IFDIR, Ino: h.n.ino}
	switch {
	case h.at == 1:
		e.Name = "."
	case h.at == 2:
		e.Name = ".."
	case h.at-3 < len(h.kids):
		k := h.kids[h.at-3]
		e.Name, e.Mode, e.Ino = k.name, k.mode(), k.ino
	default:
		h.at--
		return nil, 0
	}
	return e, 0
}

// Seekdir goes to where off was handed out.
func (h *dirHandle) Seekdir(_ context.Context, off uint64) syscall.Errno {
	h.at = int(off)
	return 0
}

// Lookup completes an entry of READDIRPLUS.
func (h *dirHandle) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fusefs.Inode, syscall.Errno) {
	if i := h.at - 3; i >= 0 && i < len(h.kids) && h.kids[i].name == name {
		return h.n.shown(ctx, h.kids[i], out), 0
	}
	return h.n.Lookup(ctx, name, out)
}

// handle is an open file; file is nil where writes go nowhere.
type handle struct {
	n    *node
	file *os.File
}

var _ interface {
	fusefs.FileReader
	fusefs.FileWriter
	fusefs.FileReleaser
} = (*handle)(nil)

// Read hands out the shared content without copying, or what is stored.
func (h *handle) Read(_ context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if h.n.stored != "" {
		n, err := h.file.ReadAt(dest, off)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, syscall.EIO
		}
		return fuse.ReadResultVector([][]byte{dest[:n]}), 0
	}
	h.n.mu.Lock()
	size := h.n.size
	h.n.mu.Unlock()
	return fuse.ReadResultVector(pieces(h.n.t.content, off, min(int64(len(dest)), max(0, size-off)))), 0
}

// pieces are n bytes from off of content repeated for ever.
func pieces(content []byte, off, n int64) [][]byte {
	var out [][]byte
	for n > 0 {
		from := off % int64(len(content))
		k := min(n, int64(len(content))-from)
		out = append(out, content[from:from+k])
		off, n = off+k, n-k
	}
	return out
}

// Write goes to the disk, or nowhere.
func (h *handle) Write(_ context.Context, p []byte, off int64) (uint32, syscall.Errno) {
	if h.file != nil {
		if _, err := h.file.WriteAt(p, off); err != nil {
			return 0, syscall.EIO
		}
	}
	h.n.mu.Lock()
	h.n.size = max(h.n.size, off+int64(len(p)))
	h.n.mu.Unlock()
	return uint32(len(p)), 0
}

// Release closes what Create opened.
func (h *handle) Release(context.Context) syscall.Errno {
	if h.file != nil {
		_ = h.file.Close()
	}
	return 0
}
