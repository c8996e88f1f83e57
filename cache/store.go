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
	"github.com/drivefs/drivefs/cache/settle"
	"github.com/drivefs/drivefs/cache/tree"
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
	o       Options
	log     *slog.Logger
	remote  *drive.Client
	mirror  *mirror.Mirror
	journal *journal.Journal
	tree    *tree.Tree // mirror and journal and open files as one
	settler *settle.Settler
	chunks  *chunk.Cache

	root     atomic.Uint64 // inode of the mounted folder
	unwanted atomic.Bool   // the drive takes no changes from us: see SetWritable

	activity atomic.Pointer[func()]

	life       context.Context // ends with Close
	end        context.CancelFunc
	yields     atomic.Pointer[chunk.Cache] // chunks, once it is open: see makeRoom
	background sync.WaitGroup              // questions to the drive that nobody may be waiting for

	listing    flight // folders being listed on demand
	byName     byName
	propsAsked propsAsked
	patience   patience
	madeDirs   tree.DirTimes // when folders were made here
	space      spaceCache
	links      linkCache
	siblings   siblings
	filler     filler // bases of edits to be fetched
	events     events
	startedAt  time.Time
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
		startedAt: time.Now(),
	}
	s.filler.signal = make(chan struct{}, 1)
	s.life, s.end = context.WithCancel(context.Background())
	s.patience.bound = o.CallTimeout
	if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if err := s.openRooms(); err != nil {
		s.closeRooms()
		return nil, err
	}
	if err := s.openRoot(ctx); err != nil {
		s.closeRooms()
		return nil, err
	}
	if err := s.tree.Reconcile(); err != nil {
		s.closeRooms()
		return nil, err
	}
	return s, nil
}

func (s *Store) openRooms() error {
	var err error
	s.journal, err = journal.Open(journal.Options{Dir: s.o.StateDir, Logger: s.log, MakeRoom: s.makeRoom, BeforeSync: s.o.BeforeSync, BeforeWrite: s.o.BeforeWrite})
	if err != nil {
		return roomError(err)
	}
	for _, p := range s.journal.Problems() {
		s.events.add("journal", "", p)
		s.log.Warn("journal", "problem", p)
	}
	mo := mirror.Options{
		Path:       filepath.Join(s.o.StateDir, "mirror.db"),
		Owner:      s.owner,
		Reserve:    s.journal.ReserveIno,
		FirstIno:   max(s.journal.MaxIno()+1, firstIno),
		OwnContent: s.ownContent,
		BeforeSync: s.o.BeforeSync,
		Damaged:    s.mirrorBegunAnew,
		Skipped: func(id, why string) {
			s.events.add("mirror", "", "a node of the drive cannot be shown: "+why+" ("+id+")")
		},
		Logger: s.log,
	}
	s.mirror, err = mirror.Open(mo)
	if err != nil {
		return roomError(err)
	}
	s.tree = tree.New(tree.Options{
		Mirror: s.mirror, Journal: s.journal, NamesExact: s.o.NamesExact,
		UploadDelay: func() time.Duration { return s.o.UploadDelay }, Hostname: s.o.Hostname, Owner: s.owner, Conflict: s.conflicted, Drafted: s.drafted, Rescued: s.rescued, Logger: s.log,
	})
	s.remote.SetOwner(s.mirror.Meta(metaOwner))
	s.loadStrangers()
	disk := s.o.Disk
	if s.o.CacheDir == "" {
		disk = 0
	}
	s.chunks, err = chunk.Open(chunk.Options{
		Memory: chunkMemory(s.o.Memory), Dir: s.o.CacheDir, Disk: disk,
		Source: source{s}, Downloads: s.o.Downloads,
		ReadTimeout: s.o.ReadTimeout, Logger: s.log,
		Offline: source{s}.offline, Network: networkPlace, Wrong: source{s}.wrong,
	})
	if err != nil {
		return fmt.Errorf("cache directory: %w", err)
	}
	s.yields.Store(s.chunks)
	device, err := s.device()
	if err != nil {
		return err
	}
	s.settler = settle.New(s.journal, s.remote, host{s}, settle.Options{
		Uploads: s.o.Uploads, UploadDelay: s.o.UploadDelay, Temporary: tree.Temporary,
		WaitPerGB: s.o.UploadWaitPerGB, MinWait: s.o.UploadWait,
		Look: 2 * s.o.Backoff, Backoff: s.o.Backoff, Device: device, Logger: s.log,
	})
	return nil
}

// roomError gives the rooms' own start-up errors the names of this package.
func roomError(err error) error {
	switch {
	case errors.Is(err, journal.ErrInUse), errors.Is(err, mirror.ErrInUse):
		return fmt.Errorf("%w: %w", ErrInUse, err)
	case errors.Is(err, journal.ErrNewer), errors.Is(err, mirror.ErrNewer):
		return fmt.Errorf("%w: %w", ErrNewer, err)
	}
	return err
}

const (
	metaOwner  = "owner"  // owner name of our own properties (API §11)
	metaDevice = "device" // what tells this state directory from every other
)

// device is what the LocalIDs that are made here begin with. Those that were
// sent keep theirs in the journal, so that it may be made anew with the mirror.
func (s *Store) device() (string, error) {
	if d := s.mirror.Meta(metaDevice); d != "" {
		return d, nil
	}
	d := strings.ToLower(rand.Text()[:10])
	return d, s.mirror.SetMeta(metaDevice, d)
}

// firstIno is above the cookies of "." and "..", since an inode number is its
// own cookie in a folder; 1 is the root.
const firstIno = 3

// owner is the owner name of our own properties, "" while unknown.
func (s *Store) owner() string { return s.remote.Owner() }

// learnOwner keeps the owner name that the first node we created told.
func (s *Store) learnOwner() {
	if o := s.remote.Owner(); o != "" && s.mirror.Meta(metaOwner) != o {
		if err := s.mirror.SetMeta(metaOwner, o); err != nil {
			s.log.Warn("keeping the owner name", "err", err)
		}
	}
}

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
	} else if err := s.bindAccount(); err != nil {
		return err
	}
	ino, err := s.walk(ctx, s.mirror.Root().Ino, s.o.RootPath)
	if err != nil {
		return fmt.Errorf("--root %s: %w", s.o.RootPath, err)
	}
	s.root.Store(ino)
	return nil
}

// walk resolves a path of folders below ino.
func (s *Store) walk(ctx context.Context, ino uint64, path string) (uint64, error) {
	for name := range pathNames(path) {
		e, _, err := s.Lookup(ctx, ino, name)
		if errors.Is(err, ErrNotExist) || err == nil && !e.Folder {
			return 0, ErrNoRoot
		}
		if err != nil {
			return 0, err
		}
		ino = e.Ino
	}
	return ino, nil
}

// SetWritable says whether the drive takes changes from us. While it does not,
// every call that would make one is ErrReadOnly, as on a read-only mount; what
// the journal has already is tried again all the same, now and then.
func (s *Store) SetWritable(may bool) { s.unwanted.Store(!may) }

// Writable is what SetWritable said last, true at first.
func (s *Store) Writable() bool { return !s.unwanted.Load() }

func (s *Store) readOnly() bool { return s.o.ReadOnly || s.unwanted.Load() }

// Run settles wishes, and audits the mirror, until ctx ends, and returns when
// its workers stopped. Uploads under way are cut off then; the journal has them.
//
// On a read-only mount nothing is settled: what an earlier mount left in the
// journal stays there for the next one that may write.
func (s *Store) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var helpers sync.WaitGroup
	helpers.Go(func() { s.audit(ctx) })
	defer helpers.Wait()
	defer cancel()
	if s.o.ReadOnly {
		<-ctx.Done()
		return nil
	}
	helpers.Go(func() { s.fillBases(ctx) })
	return s.settler.Run(ctx)
}

// Close closes the rooms. Run must have returned, and no call may be under
// way. It does not wait for wishes: the journal has them.
func (s *Store) Close() error {
	return s.closeRooms()
}

func (s *Store) closeRooms() error {
	var errs []error
	s.end()
	s.background.Wait()
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
func (s *Store) Root() uint64 { return s.root.Load() }

// OnEffects sets who tells the kernel. fn is called with no lock held, from
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
