package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/integration"
)

// Roles this program has when it starts itself.
const (
	roleDrive = "serve-drive"
	roleWarm  = "touch-memory"
	roleLimit = "mount-limit"
	roleSlow  = "mount-slow"
)

// section is one table. Its sizes come from bench.full.
type section struct {
	name  string
	about string
	limit time.Duration // quick; full gets twelve times as much
	run   func(ctx context.Context, b *bench, t *table) error
}

var sections = []section{
	{"read", "sequential and random reading", 4 * time.Minute, runRead},
	{"looks", "a part of a film, many small files", 2 * time.Minute, runLooks},
	{"players", "media players and library scanners", 2 * time.Minute, runPlayers},
	{"write", "writing", 4 * time.Minute, runWrite},
	{"names", "removing, making and moving many", 2 * time.Minute, runNames},
	{"meta", "listing and stat", 3 * time.Minute, runMeta},
	{"mirror", "a large account", 3 * time.Minute, runMirror},
	{"orders", "a large account, told in any order", 5 * time.Minute, runOrders},
	{"waits", "what a slow disk or service holds up", 3 * time.Minute, runWaits},
	{"memory", "memory with many open files", 2 * time.Minute, runMemory},
}

// bench is one run.
type bench struct {
	self, drivefs, rclone string // programs; rclone "" = cannot be compared
	noRclone              string // why
	base                  string // everything the run puts on disk
	full                  bool
	profile               string // directory for CPU profiles, "" = none
	flags                 []string

	procs procs
	dirs  int
}

func init() {
	// Processes die with the thread that started them (see start), and the
	// main thread lives as long as the program.
	runtime.LockOSThread()
}

func main() {
	if len(os.Args) == 3 {
		var err error
		switch os.Args[1] {
		case roleDrive:
			err = serveDrive(os.Args[2])
		case roleWarm:
			err = touchMemory(os.Args[2])
		case roleLimit:
			err = mountLimit(os.Args[2])
		case roleSlow:
			err = mountSlow(os.Args[2])
		default:
			err = errNoRole
		}
		if err == nil {
			return
		}
		if !errors.Is(err, errNoRole) {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	// Who waits for the other one must not go first: that would kill it before
	// it has cleaned up. run hears both again.
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	if code, again := integration.Isolate(); again {
		os.Exit(code)
	}
	os.Exit(run())
}

var errNoRole = errors.New("no role")

func run() int {
	only := flag.String("run", ".", "sections whose name matches `REGEXP`")
	size := flag.String("size", "quick", "quick (minutes) or full (the sizes of the targets)")
	dir := flag.String("dir", os.TempDir(), "where to put drives, states and caches")
	profile := flag.String("profile", "", "write CPU profiles of the mount to `DIR`")
	without := flag.Bool("no-rclone", false, "leave rclone out")
	built := flag.String("drivefs", "", "measure the program at `PATH` instead of building it")
	more := flag.String("mount-flags", "", "more flags for drivefs mount, separated by blanks")
	flag.Parse()
	re, err := regexp.Compile(*only)
	if err != nil || flag.NArg() > 0 || *size != "quick" && *size != "full" {
		fmt.Fprintln(os.Stderr, "bench: bad usage:", err)
		flag.Usage()
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	b := &bench{full: *size == "full", drivefs: *built, profile: *profile, flags: strings.Fields(*more)}
	if err := b.prepare(ctx, *dir, *without); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	defer b.cleanUp()
	b.machine()
	code := 0
	for _, s := range sections {
		if ctx.Err() != nil {
			break
		}
		if re.MatchString(s.name) && !b.section(ctx, s) {
			code = 1
		}
	}
	if ctx.Err() != nil {
		fmt.Fprintln(os.Stderr, "bench: interrupted")
		return 1
	}
	return code
}

// prepare finds and builds what is measured.
func (b *bench) prepare(ctx context.Context, dir string, noRclone bool) (err error) {
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return fmt.Errorf("no FUSE here: %w", err)
	}
	if b.profile != "" {
		if err := os.MkdirAll(b.profile, 0o755); err != nil {
			return err
		}
	}
	if b.base, err = os.MkdirTemp(dir, "drivefs-bench-"); err != nil {
		return err
	}
	if b.drivefs == "" {
		b.drivefs = filepath.Join(b.base, "drivefs")
		out, err := exec.CommandContext(ctx, "go", "build", "-o", b.drivefs, "github.com/drivefs/drivefs/cmd/drivefs").CombinedOutput()
		if err != nil {
			b.cleanUp()
			return fmt.Errorf("building drivefs: %w\n%s", err, out)
		}
	}
	switch path, err := exec.LookPath("rclone"); {
	case noRclone:
		b.noRclone = "left out"
	case err != nil:
		b.noRclone = "not installed"
	case !strings.Contains(outputOf(path, "help", "backend", "acd"), "acd-templink-threshold"):
		b.noRclone = "has no backend acd (removed in 1.66)"
	default:
		b.rclone = path
	}
	return nil
}

// cleanUp ends every process and removes what was put on disk.
func (b *bench) cleanUp() {
	b.procs.endAll()
	if err := os.RemoveAll(b.base); err != nil {
		fmt.Fprintln(os.Stderr, "bench: cleaning up:", err)
	}
}

// machine prints what was measured where.
func (b *bench) machine() {
	var uts unix.Utsname
	_ = unix.Uname(&uts)
	cpu, mem := "?", "?"
	for line := range strings.Lines(slurp("/proc/cpuinfo")) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			cpu = strings.TrimSpace(v)
			break
		}
	}
	if kb, ok := field(slurp("/proc/meminfo"), "MemTotal"); ok {
		mem = bytesText(float64(kb << 10))
	}
	size := "quick"
	if b.full {
		size = "full"
	}
	fmt.Printf("machine: %d cores %s, %s, Linux %s, load %s\n", runtime.NumCPU(), cpu, mem,
		unix.ByteSliceToString(uts.Release[:]), strings.Join(strings.Fields(slurp("/proc/loadavg"))[:3], " "))
	gofuse := "?"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "github.com/hanwen/go-fuse/v2" {
				gofuse = m.Version
			}
		}
	}
	rclone := b.noRclone
	if b.rclone != "" {
		rclone, _, _ = strings.Cut(outputOf(b.rclone, "version"), "\n")
	}
	fmt.Printf("versions: %s; %s; go-fuse %s; rclone: %s; %s\n", strings.TrimSpace(outputOf(b.drivefs, "version")), runtime.Version(), gofuse, rclone, time.Now().Format(time.DateTime))
	fmt.Printf("sizes: %s; ratios within one table only\n", size)
}

func outputOf(name string, args ...string) string {
	out, _ := exec.Command(name, args...).CombinedOutput()
	return string(out)
}

func slurp(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}

// section runs one section within its time and prints its table.
func (b *bench) section(ctx context.Context, s section) bool {
	limit := s.limit
	if b.full {
		limit *= 12
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// A system call that waits for a mount ends when the mount does.
	over := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-ctx.Done():
			b.procs.killAll()
		case <-over:
		}
	}()
	t := &table{name: s.name, about: s.about, out: os.Stdout}
	t.head()
	began := time.Now()
	err := s.run(ctx, b, t)
	close(over)
	<-watched
	b.procs.endAll()
	b.removeDirs()
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("took longer than %v: %w", limit, err)
	case ctx.Err() != nil:
		err = ctx.Err()
	}
	if err != nil {
		fmt.Printf("%s: broke off: %v\n", s.name, err)
	}
	fmt.Printf("(%s: %.0f s)\n", s.name, time.Since(began).Seconds())
	return err == nil
}

// dir is a new name for a directory below the run's.
func (b *bench) dir(what string) string {
	b.dirs++
	return filepath.Join(b.base, "s", fmt.Sprintf("%s%d", what, b.dirs))
}

// removeDirs removes what a section left.
func (b *bench) removeDirs() {
	if err := os.RemoveAll(filepath.Join(b.base, "s")); err != nil {
		fmt.Fprintln(os.Stderr, "bench: cleaning up:", err)
	}
}

// pick is one of two sizes.
func pick[T any](b *bench, quick, full T) T {
	if b.full {
		return full
	}
	return quick
}
