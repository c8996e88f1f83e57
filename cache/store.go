package cache

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/drivefs/drivefs/cache/chunk"
	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/mirror"
	"github.com/drivefs/drivefs/cache/tree"
	"github.com/drivefs/drivefs/cache/writeback"
	"github.com/drivefs/drivefs/drive"
)

// Options configures Open. StateDir, and Remote, are required.
type Options struct {
	StateDir string        // mirror and journal; made when missing, 0700
	CacheDir string        // downloaded chunks; "" = no disk tier
	Remote   *drive.Client // the service
	Origin   string        // where that is, as https://host, for AccountError; "" = not told

	Memory int64 // bytes for contents, 0 = 512 MiB: chunks, and what reads under way hold beside them
	Disk   int64 // bytes for the disk tier, 0 = none

	ReadOnly   bool
	NamesExact bool   // lookups take the exact spelling only (design.md §3)
	RootPath   string // folder of the drive to show, "" or "/" = all

	Uploads, Downloads int           // connections, 0 = 16
	UploadDelay        time.Duration // how long a closed file settles; 0 = at once
	FsyncDrive         bool          // fsync waits for the drive
	TempLinkThreshold  int64         // bytes; larger files are read by tempLink, 0 = never
	UploadWaitPerGB    time.Duration // looking for an ambiguous upload, 0 = 3 min
	UploadWait         time.Duration // … at least, 0 = 30 s
	CommitAfter        time.Duration // when what is written to a file that stays open is safe from kill -9, 0 = 30 s
	Backoff            time.Duration // unit of waiting before something is tried or looked for again, 0 = 1 s
	MaxFileSize        int64         // bytes, 0 = 50,000 MiB (API §5.8)

	ReadTimeout time.Duration // a read without a byte for so long fails, 0 = 15 s
	CallTimeout time.Duration // how long a namespace call waits for the drive, 0 = 1 s

	BeforeSync  func()       // for tests: called before each fsync of mirror and journal; nil = nothing
	BeforeWrite func() error // for tests: called before each write of the journal, which fails with its error; nil = nothing

	Control  string // path of the control socket, for user.drivefs.control
	Hostname string // in names of conflict copies, "" = os.Hostname
	Logger   *slog.Logger
}

// Store is the one truth of a mount. All methods are safe for concurrent use.
type Store struct {
	o         Options
	log       *slog.Logger
	remote    *drive.Client
	mirror    *mirror.Mirror
	journal   *journal.Journal
	tree      *tree.Tree // mirror and journal and open files as one
	writeBack *writeback.WriteBack
	chunks    *chunk.Cache
	yields    atomic.Pointer[chunk.Cache] // chunks, once it is open: see makeRoom

	background *background
	props      *properties
	intake     *intake
	lister     *lister
	filler     *filler
	siblings   *siblings
	paths      paths
	events     events
	patience   patience
	space      space
	queue      Queue
	feed       Feed

	unwanted atomic.Bool   // the drive takes no changes from us: see SetWritable
	madeDirs tree.DirTimes // when folders were made here
}

// Open opens the state directory: the journal, the mirror (a damaged one is
// set aside and begun anew), the chunk cache. On a first mount it asks the
// drive for its root; that, and only that, needs the network, so errors of
// package drive pass through. ErrInUse and ErrNewer refuse the directory.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MaxFileSize == 0 {
		o.MaxFileSize = 50_000 << 20
	}
	if o.ReadTimeout == 0 {
		o.ReadTimeout = 15 * time.Second
	}
	if o.CallTimeout == 0 {
		o.CallTimeout = time.Second
	}
	if o.Hostname == "" {
		o.Hostname, _ = os.Hostname()
	}
	s := &Store{
		o: o, log: o.Logger, remote: o.Remote,
		background: newBackground(),
	}
	s.events.paths, s.events.log = &s.paths, s.log
	if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if err := s.open(ctx); err != nil {
		_ = s.Close() // of what was opened so far
		return nil, err
	}
	return s, nil
}

// open makes the rooms and what works between them, those first that others
// need.
func (s *Store) open(ctx context.Context) error {
	if err := s.openState(); err != nil {
		switch {
		case errors.Is(err, journal.ErrInUse), errors.Is(err, mirror.ErrInUse):
			return fmt.Errorf("%w: %w", ErrInUse, err)
		case errors.Is(err, journal.ErrNewer), errors.Is(err, mirror.ErrNewer):
			return fmt.Errorf("%w: %w", ErrNewer, err)
		}
		return err
	}
	s.props = newProperties(s.mirror, s.remote, s.log)
	s.tree = tree.New(tree.Options{
		Mirror: s.mirror, Journal: s.journal, NamesExact: s.o.NamesExact,
		UploadDelay: func() time.Duration { return s.o.UploadDelay }, CommitAfter: s.o.CommitAfter, Hostname: s.o.Hostname, Owner: s.remote.Owner,
		Conflict: s.events.conflicted, Rescued: s.events.rescued, Drafted: func(ino uint64) { s.filler.add(ino, fillDelay) },
		Logger: s.log,
	})
	s.paths.tree = s.tree
	s.intake = &intake{mirror: s.mirror, tree: s.tree, props: s.props, log: s.log}
	if err := s.openChunks(); err != nil {
		return fmt.Errorf("cache directory: %w", err)
	}
	s.lister = &lister{
		mirror: s.mirror, tree: s.tree, journal: s.journal, remote: s.remote, props: s.props, intake: s.intake,
		background: s.background, propsBound: s.o.CallTimeout, log: s.log,
	}
	s.siblings = newSiblings(s.tree, s.chunks, s.remote, s.background, s.o.Downloads)
	s.patience.bound = s.o.CallTimeout
	s.space.remote, s.space.background, s.space.bound = s.remote, s.background, s.o.CallTimeout
	if err := s.openWriteBack(); err != nil {
		return err
	}
	s.queue = Queue{journal: s.journal, tree: s.tree, writeBack: s.writeBack, paths: &s.paths, readOnly: s.o.ReadOnly}
	s.feed = Feed{mirror: s.mirror, intake: s.intake, lister: s.lister, writeBack: s.writeBack}
	if err := s.openRoot(ctx); err != nil {
		return err
	}
	return s.tree.Reconcile()
}

// openState opens journal and mirror.
func (s *Store) openState() (err error) {
	s.journal, err = journal.Open(journal.Options{Dir: s.o.StateDir, Logger: s.log, MakeRoom: s.makeRoom, BeforeSync: s.o.BeforeSync, BeforeWrite: s.o.BeforeWrite})
	if err != nil {
		return err
	}
	for _, p := range s.journal.Problems() {
		s.events.add("journal", "", p)
		s.log.Warn("journal", "problem", p)
	}
	s.mirror, err = mirror.Open(mirror.Options{
		Path:     filepath.Join(s.o.StateDir, "mirror.db"),
		Owner:    s.remote.Owner,
		Reserve:  s.journal.ReserveIno,
		FirstIno: max(s.journal.MaxIno()+1, firstIno),
		// The bytes of a node are those that an upload of ours has just sent.
		OwnContent: func(id string, size int64, md5 string) bool {
			e, ok := s.journal.ByNode(id)
			return ok && e.Sent != nil && e.Sent.Size == size && e.Sent.MD5 == md5
		},
		BeforeSync: s.o.BeforeSync,
		Damaged:    s.mirrorBegunAnew,
		Skipped: func(id, why string) {
			s.events.add("mirror", "", "a node of the drive cannot be shown: "+why+" ("+id+")")
		},
		Logger: s.log,
	})
	return err
}

func (s *Store) openChunks() (err error) {
	disk := s.o.Disk
	if s.o.CacheDir == "" {
		disk = 0
	}
	x := &source{
		mirror: s.mirror, tree: s.tree, remote: s.remote, intake: s.intake, paths: &s.paths, events: &s.events,
		large: s.o.TempLinkThreshold, log: s.log,
	}
	x.links.Max = mostLinks
	s.chunks, err = chunk.Open(chunk.Options{
		Memory: chunkMemory(s.o.Memory), Dir: s.o.CacheDir, Disk: disk,
		Source: x, Downloads: s.o.Downloads,
		ReadTimeout: s.o.ReadTimeout, Logger: s.log,
		Offline: x.offline, Network: networkPlace, Wrong: x.wrong,
	})
	s.yields.Store(s.chunks)
	return err
}

// metaDevice is what tells this state directory from every other.
const metaDevice = "device"

// device is what the LocalIDs that are made here begin with. Those that were
// sent keep theirs in the journal, so that it may be made anew with the mirror.
func device(m *mirror.Mirror) (string, error) {
	if d := m.Meta(metaDevice); d != "" {
		return d, nil
	}
	d := strings.ToLower(rand.Text()[:10])
	return d, m.SetMeta(metaDevice, d)
}

// firstIno is above the cookies of "." and "..", since an inode number is its
// own cookie in a folder; 1 is the root.
const firstIno = 3

// openRoot makes sure the mirror knows the drive's root and finds the folder
// to be shown.
func (s *Store) openRoot(ctx context.Context) error {
	if s.mirror.Root().ID == "" {
		n, err := s.remote.Root(ctx)
		if err != nil {
			return fmt.Errorf("asking the drive for its root: %w", err)
		}
		if err := s.ConfirmAccount(n.ID); err != nil {
			return err
		}
		if _, err := s.mirror.SetRoot(n); err != nil {
			return err
		}
	} else if err := bindAccount(s.journal, s.o.StateDir, s.mirror.Root().ID); err != nil {
		return err
	}
	e, err := s.resolve(ctx, s.mirror.Root().Ino, s.o.RootPath)
	if errors.Is(err, ErrNotExist) || errors.Is(err, ErrNotDir) || err == nil && !e.Folder {
		err = ErrNoRoot
	}
	if err != nil {
		return fmt.Errorf("--root %s: %w", s.o.RootPath, err)
	}
	s.paths.root.Store(e.Ino)
	return nil
}

// SetWritable says whether the drive takes changes from us. While it does not,
// every call that would make one is ErrReadOnly, as on a read-only mount; what
// the journal has already is tried again all the same, now and then.
func (s *Store) SetWritable(may bool) { s.unwanted.Store(!may) }

// Writable is what SetWritable said last, true at first.
func (s *Store) Writable() bool { return !s.unwanted.Load() }

func (s *Store) readOnly() bool { return s.o.ReadOnly || s.unwanted.Load() }

// Run does what the journal wants of the drive, and audits the mirror, until ctx
// ends, and returns when its workers stopped. Uploads under way are cut off then;
// the journal has them.
//
// On a read-only mount nothing is sent: what an earlier mount left in the
// journal stays there for the next one that may write.
func (s *Store) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var helpers sync.WaitGroup
	auditor := &auditor{mirror: s.mirror, remote: s.remote, checker: s.checker, events: &s.events, log: s.log}
	helpers.Go(func() { auditor.run(ctx) })
	defer helpers.Wait()
	defer cancel()
	if s.o.ReadOnly {
		<-ctx.Done()
		return nil
	}
	helpers.Go(func() { s.filler.run(ctx) })
	helpers.Go(func() { s.tree.CommitOpen(ctx) })
	return s.writeBack.Run(ctx)
}

// Close closes the rooms. Run must have returned, and no call may be under
// way. It does not wait for intents: the journal has them.
func (s *Store) Close() error {
	var errs []error
	s.background.close()
	if s.chunks != nil {
		errs = append(errs, s.chunks.Close())
	}
	if s.mirror != nil {
		errs = append(errs, s.mirror.Close())
	}
	if s.journal != nil {
		errs = append(errs, s.journal.Close())
	}
	return errors.Join(errs...)
}

// Root is the inode of the mounted folder: 1, or the one --root named.
func (s *Store) Root() uint64 { return s.paths.root.Load() }

// OnEffects sets what tells the kernel. fn is called with no lock held, from
// the goroutine that made the change; it must not block.
func (s *Store) OnEffects(fn func([]Effect)) { s.tree.OnEffects(fn) }

// chunkMemory is what of the memory for contents chunks get. Each read of the
// kernel holds a buffer as long as itself while it waits, whatever it is
// answered from (go-fuse): 64 of 1 MiB at most, and the garbage of as many.
func chunkMemory(all int64) int64 {
	if all == 0 {
		all = 512 << 20
	}
	return all - min(all/8, 64<<20)
}
