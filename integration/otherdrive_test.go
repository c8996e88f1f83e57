package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/integration/otherdrive"
)

// The scenario below runs the built program against a server that other
// people might have written from the same document: package otherdrive, under
// each reading the document permits.

// otherMount is a mount of otherdrive in a process of its own.
type otherMount struct {
	process
	srv                *otherdrive.Server
	base               string
	state, cache, file string
	last               time.Time
}

// took logs how long it was since the last step.
func (m *otherMount) took(what string) {
	m.Helper()
	if !m.last.IsZero() {
		m.Logf("%s: %v", what, time.Since(m.last).Round(time.Millisecond))
	}
	m.last = time.Now()
}

func newOtherMount(t testing.TB, opt otherdrive.Options) *otherMount {
	t.Helper()
	if os.Getuid() != 0 {
		need(t, "fusermount3")
	}
	srv, err := otherdrive.Start(opt)
	if err != nil {
		t.Fatal(err)
	}
	base := t.TempDir()
	m := &otherMount{
		process: process{TB: t, dir: filepath.Join(base, "mnt"), runtime: base},
		srv:     srv, base: base, file: filepath.Join(base, "token.json"),
	}
	m.fresh(1)
	if err := os.Mkdir(m.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := srv.WriteToken(m.file); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if m.running() {
			m.kill()
		}
		_ = unix.Unmount(m.dir, unix.MNT_DETACH)
		if err := srv.Check(); err != nil {
			t.Error("the drive: ", err)
		}
		for i, c := range srv.Complaints() {
			if i < 5 {
				t.Error("the drive complains of ", c)
			}
		}
		if t.Failed() {
			t.Logf("the last requests:\n%s", strings.Join(srv.Log(60), "\n"))
			t.Logf("the mount said:\n%s", tail(m.log.String(), 6000))
		}
		srv.Close()
	})
	return m
}

// fresh gives the next mount a state and a cache of its own.
func (m *otherMount) fresh(n int) {
	m.state = filepath.Join(m.base, "state"+strconv.Itoa(n))
	m.cache = filepath.Join(m.base, "cache"+strconv.Itoa(n))
}

func (m *otherMount) account() []string {
	return []string{"--endpoint", m.srv.Endpoint(), "--token-file", m.file, "--client-id", "id", "--client-secret", "secret",
		"--token-url", m.srv.TokenURL(), "--state-dir", m.state}
}

func (m *otherMount) start(flags ...string) {
	m.Helper()
	args := append(append([]string{"mount"}, m.account()...), "--cache-dir", m.cache, "--poll-interval", "0", "--upload-delay", "200ms", "--log-level", "debug")
	m.launch(append(append(args, flags...), m.dir)...)
}

// asked is a verb that takes the account's flags.
func (m *otherMount) asked(args ...string) string {
	m.Helper()
	return m.must(append(args, m.account()...)...)
}

// both runs a script in the mount and in the reference directory.
func (m *otherMount) both(ref, script string) {
	m.Helper()
	for _, dir := range []string{ref, m.dir} {
		cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
		if out, err := cmd.CombinedOutput(); err != nil {
			m.Fatalf("in %s: %s: %v\n%s", filepath.Base(dir), script, err, out)
		}
	}
}

// listed is a directory tree as path → "dir" or the md5 of a file.
func listed(dir string) (map[string]string, error) {
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			out[rel] = "dir"
			return nil
		}
		out[rel], _, err = md5File(path)
		return err
	})
	return out, err
}

// differences tells what a tree lacks, has too much, or has otherwise.
func differences(want, have map[string]string) []string {
	var out []string
	for path, w := range want {
		if h, ok := have[path]; !ok {
			out = append(out, "lacks "+path)
		} else if h != w {
			out = append(out, fmt.Sprintf("%s is %s, not %s", path, h, w))
		}
	}
	for path := range have {
		if _, ok := want[path]; !ok {
			out = append(out, "should not have "+path)
		}
	}
	slices.Sort(out)
	return out[:min(len(out), 8)]
}

// driveIs fails unless the drive holds what ref does, byte for byte.
func (m *otherMount) driveIs(ref, when string) {
	m.Helper()
	defer m.took(when + " on the drive")
	want, err := listed(ref)
	if err != nil {
		m.Fatal(err)
	}
	have := map[string]string{}
	for path, e := range m.srv.Tree() {
		have[path] = "dir"
		if e.Kind == "FILE" {
			have[path] = e.MD5
			if data, err := e.Data(); err != nil || int64(len(data)) != e.Size {
				m.Errorf("%s on the drive: %d bytes of %d, %v", path, len(data), e.Size, err)
			}
		}
	}
	if d := differences(want, have); len(d) > 0 {
		m.Fatalf("%s the drive %s", when, strings.Join(d, "\n\t"))
	}
}

// mountIs fails unless the mount shows what ref holds; it refreshes until it
// does, since the feed may lag.
func (m *otherMount) mountIs(ref, when string) {
	m.Helper()
	defer m.took(when + " in the mount")
	want, err := listed(ref)
	if err != nil {
		m.Fatal(err)
	}
	late := time.Now().Add(90 * time.Second)
	for {
		have, err := listed(m.dir)
		d := differences(want, have)
		if err == nil && len(d) == 0 {
			return
		}
		if time.Now().After(late) {
			m.Fatalf("%s the mount %s (%v)", when, strings.Join(d, "\n\t"), err)
		}
		time.Sleep(200 * time.Millisecond)
		m.must("refresh", m.dir)
	}
}

// here runs a script in the mount alone.
func (m *otherMount) here(script string) {
	m.Helper()
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = m.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		m.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// holdsOnce fails unless each content lies on the drive once, at a path that
// begins as told.
func (m *otherMount) holdsOnce(want map[string]string) {
	m.Helper()
	found := map[string][]string{}
	for path, e := range m.srv.Tree() {
		if e.Kind != "FILE" || e.Size > 100 {
			continue
		}
		data, err := e.Data()
		if err != nil {
			m.Fatal(err)
		}
		found[string(data)] = append(found[string(data)], path)
	}
	for content, path := range want {
		if got := found[content]; len(got) != 1 || !strings.HasPrefix(got[0], path) {
			m.Errorf("%q should be at %s once, is at %q", content, path, got)
		}
	}
}

// copyDrive makes ref what the drive is.
func (m *otherMount) copyDrive(ref string) {
	m.Helper()
	if err := os.RemoveAll(ref); err != nil {
		m.Fatal(err)
	}
	tree := m.srv.Tree()
	for _, path := range slices.Sorted(maps.Keys(tree)) {
		at := filepath.Join(ref, path)
		if tree[path].Kind == "FOLDER" {
			if err := os.MkdirAll(at, 0o755); err != nil {
				m.Fatal(err)
			}
			continue
		}
		data, err := tree[path].Data()
		if err == nil {
			err = os.MkdirAll(filepath.Dir(at), 0o755)
		}
		if err == nil {
			err = os.WriteFile(at, data, 0o644)
		}
		if err != nil {
			m.Fatal(err)
		}
	}
}

var oddNames = []string{
	"-dash first", "a (1).txt", `quote " ' and \ back`, "äöü ß.txt", "100% & more+.txt", "star*?[x]{y}~^!|:", "日本語.txt",
	".hidden", "trailing dot.", "UPPER and lower.TXT", "no extension", "two  blanks", "emoji 🎉.jpg", "semi;colon,comma=equal", "#hash",
}

// makeTree fills a directory: files of odd names and sizes, an empty one, a
// big one.
func makeTree(t testing.TB, dir string, files, big int) {
	rng := rand.NewChaCha8([32]byte{1})
	write := func(name string, size int) {
		b := make([]byte, size)
		_, _ = rng.Read(b)
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range oddNames {
		write(filepath.Join("odd", n), len(n)*97)
	}
	for i := range files {
		write(fmt.Sprintf("d%d/s%d/file %03d.bin", i%4, i%3, i), i*i*7)
	}
	write("empty", 0)
	write("big.bin", big)
	if err := os.MkdirAll(filepath.Join(dir, "hollow/deep"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// otherScenario is a day with the drive.
func otherScenario(t *testing.T, opt otherdrive.Options, files, big int, flags ...string) {
	m := newOtherMount(t, opt)
	src, ref := filepath.Join(m.base, "src"), filepath.Join(m.base, "ref")
	for _, d := range []string{src, ref} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	makeTree(t, src, files, big)
	m.start(flags...)
	m.both(ref, "cp -r ../src tree")
	m.must("flush", m.dir)
	m.driveIs(ref, "after cp -r")

	// What one mount wrote, another reads with nothing cached.
	m.unmount()
	m.fresh(2)
	m.start(flags...)
	m.mountIs(ref, "after a remount with fresh cache and state")
	m.both(ref, `dd if=tree/big.bin of=/dev/null bs=4096 skip=200 count=3 status=none; tail -c 100 tree/big.bin | cmp - <(tail -c 100 ../src/big.bin)`)

	if big > 20<<20 {
		// Slow enough that the upload begins before the end is written.
		m.both(ref, `{ head -c 20000000 ../src/big.bin; sleep 0.6; tail -c +20000001 ../src/big.bin; } > slow.bin
			{ head -c 20000000 ../src/big.bin; sleep 0.6; echo end; } > tree/big.bin; cp ../src/big.bin tree/big.bin`)
	}

	// The namespace, and contents changed.
	m.both(ref, `mkdir new new/sub; mv tree/d0 new/d0; mv tree/d1 tree/renamed; mv "tree/odd/a (1).txt" "new/b (2).txt"
		mv "tree/odd/.hidden" "tree/odd/#hash"; mv tree/empty new/sub/; cp ../src/empty new/empty2`)
	m.both(ref, `printf over > "tree/d2/s2/file 002.bin"; printf more >> "tree/d2/s0/file 006.bin"; truncate -s 10 "tree/d3/s0/file 003.bin"
		: > "tree/d3/s1/file 007.bin"; printf x | dd of=tree/big.bin bs=1 seek=1000 conv=notrunc status=none; printf new > new/made`)
	m.must("flush", m.dir)
	m.driveIs(ref, "after renames and overwrites")
	m.both(ref, `printf 2 > t.tmp; mv t.tmp new/made; mv new/made new/sub/made; mv new/sub new/top; mkdir -p a/b/c; mv new/top a/b/c/; rm "tree/odd/two  blanks"; rm -r tree/renamed; rmdir tree/hollow/deep`)
	m.must("flush", m.dir)
	m.driveIs(ref, "after moves and removals")
	m.mountIs(ref, "after moves and removals")

	// Another case of the name, which mv cannot do.
	m.must("rename", "--state-dir", m.state, filepath.Join(m.dir, "tree/odd/UPPER and lower.TXT"), "upper and LOWER.txt")
	m.must("rename", "--state-dir", m.state, filepath.Join(m.dir, "tree/hollow"), "HOLLOW")
	if err := os.Rename(filepath.Join(ref, "tree/odd/UPPER and lower.TXT"), filepath.Join(ref, "tree/odd/upper and LOWER.txt")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(ref, "tree/hollow"), filepath.Join(ref, "tree/HOLLOW")); err != nil {
		t.Fatal(err)
	}
	m.must("flush", m.dir)
	m.driveIs(ref, "after a case rename")

	// Out of the trash again: a folder with its files, and one file.
	for late := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		list := m.asked("trash", "list")
		if strings.Contains(list, "renamed") {
			break
		}
		if time.Now().After(late) {
			t.Fatalf("trash list does not show the folder:\n%s", list)
		}
	}
	m.asked("trash", "restore", "/tree/renamed")
	m.both(ref, `true`)
	if err := os.CopyFS(filepath.Join(ref, "tree/renamed"), os.DirFS(filepath.Join(src, "d1"))); err != nil {
		t.Fatal(err)
	}
	m.driveIs(ref, "after restore")
	m.mountIs(ref, "after restore")

	// Somebody else.
	elsewhere := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	here := func(script string) {
		t.Helper()
		cmd := exec.Command("bash", "-euc", script)
		cmd.Dir = ref
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	m.srv.Forget()
	elsewhere(m.srv.MoveHosts())
	for late := time.Now().Add(90 * time.Second); opt.Moves; time.Sleep(time.Second) {
		// Hosts that were named within the last minute are not doubted.
		if _, code := m.verb("refresh", m.dir); code == 0 || time.Now().After(late) {
			break
		}
	}
	elsewhere(m.srv.Mkdir("tree/theirs"))
	elsewhere(m.srv.Put("tree/theirs/one", []byte("1")))
	elsewhere(m.srv.Put("tree/theirs/two", bytes.Repeat([]byte("2"), 70000)))
	elsewhere(m.srv.Put("tree/d2/s2/file 002.bin", []byte("written elsewhere")))
	elsewhere(m.srv.Move("tree/d3", "new/d3"))
	elsewhere(m.srv.Trash("tree/renamed"))
	elsewhere(m.srv.Trash("tree/d2/s0"))
	here(`mkdir tree/theirs; printf 1 > tree/theirs/one; head -c 70000 /dev/zero | tr '\0' 2 > tree/theirs/two
		printf 'written elsewhere' > "tree/d2/s2/file 002.bin"; mv tree/d3 new/d3; rm -r tree/renamed tree/d2/s0`)
	m.mountIs(ref, "after changes elsewhere")
	m.both(ref, `printf ' and here' >> "tree/d2/s2/file 002.bin"; printf 11 > tree/theirs/one; rm tree/theirs/two; touch -d 2001-02-03T04:05:06 "new/b (2).txt"`)
	m.must("flush", m.dir)
	m.driveIs(ref, "after edits of what came from elsewhere")

	// Somebody else takes the same names, and nobody here has heard of it.
	elsewhere(m.srv.Put("tree/theirs/same", []byte("their same")))
	elsewhere(m.srv.Put("tree/theirs/one", []byte("their one")))
	elsewhere(m.srv.Mkdir("unseen"))
	elsewhere(m.srv.Put("unseen/f", []byte("their f")))
	m.here(`printf 'our same' > tree/theirs/same; printf 'our one' > tree/theirs/one; mkdir unseen || true`)
	for late := time.Now().Add(time.Minute); time.Now().Before(late); time.Sleep(200 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(m.dir, "unseen")); err == nil {
			break
		}
		m.must("refresh", m.dir)
	}
	// Two spellings of one name, of which the second may be refused.
	m.here(`printf 'our g' > unseen/g; printf composed > unseen/$'caf\u00e9'; printf decomposed > unseen/$'cafe\u0301'`)
	m.must("flush", m.dir)
	m.holdsOnce(map[string]string{
		"their same": "tree/theirs/same", "their one": "tree/theirs/one", "their f": "unseen/f", "our g": "unseen/g",
		"our same": "tree/theirs/same (conflict ", "our one": "tree/theirs/one (conflict ",
		"composed": "unseen/caf", "decomposed": "unseen/caf",
	})
	m.copyDrive(ref)
	m.mountIs(ref, "after a dispute")

	// A crash with everything still to be sent.
	m.both(ref, `mkdir crash; for i in 1 2 3 4 5 6 7 8 9; do echo $i > crash/$i; done; cp ../src/big.bin crash/; mv crash/1 crash/one; rm crash/2; printf z >> "new/b (2).txt"; touch -d 2001-02-03T04:05:06 "new/b (2).txt" crash/3`)
	m.kill()
	_ = unix.Unmount(m.dir, unix.MNT_DETACH)
	m.start(flags...)
	m.mountIs(ref, "after kill -9 and a remount")
	m.must("flush", m.dir)
	m.driveIs(ref, "after kill -9 and a flush")

	m.asked("about")
	if out := m.asked("check"); testing.Verbose() {
		t.Log(out)
	}
	var status struct {
		State   string
		Remote  struct{ State string }
		Mirror  struct{ Complete bool }
		Uploads struct {
			Pending int
			Failed  []any
		}
	}
	if err := json.Unmarshal([]byte(m.must("status", "--json", m.dir)), &status); err != nil {
		t.Fatal(err)
	}
	if status.Uploads.Pending != 0 || len(status.Uploads.Failed) != 0 || !status.Mirror.Complete {
		t.Errorf("status: %+v", status)
	}
	m.unmount()
	m.fresh(3)
	m.start(flags...)
	m.mountIs(ref, "in a fresh mount")
	// Without our owner name, or a service that takes properties with a new
	// node, times stay on the machine that set them.
	if !opt.NoCreatedBy && !opt.NoProps && !opt.PropsDropped {
		for _, name := range []string{"new/b (2).txt", "crash/3"} {
			st, err := os.Stat(filepath.Join(m.dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if want := "2001-02-03"; st.ModTime().Local().Format(time.DateOnly) != want {
				t.Errorf("%s is of %v in a fresh mount, set was %s", name, st.ModTime(), want)
			}
		}
	}
	m.unmount()
	m.driveIs(ref, "at the end")
}

// mixture is a few choices drawn by a seed, and what they are called.
func mixture(seed uint64) (opt otherdrive.Options, name string) {
	rng := rand.New(rand.NewPCG(seed, 0))
	all := otherdrive.Choices()
	var names []string
	for range 6 {
		c := all[rng.IntN(len(all))]
		if c.Name == "hosts-move" || c.Name == "slow" {
			continue // minutes each
		}
		c.Set(&opt)
		names = append(names, c.Name)
	}
	return opt, fmt.Sprintf("seed %d: %s", seed, strings.Join(names, " "))
}

func TestOtherDrive(t *testing.T) {
	t.Run("plain", func(t *testing.T) {
		t.Parallel()
		otherScenario(t, otherdrive.Options{}, 84, 30<<20)
	})
	t.Run("stranger", func(t *testing.T) {
		// Most of what a stranger's server may do otherwise at once.
		t.Parallel()
		otherScenario(t, otherdrive.Options{
			NoETag: true, LeanContent: true, LeanNodes: true, NotFound: "empty", BareConflict: true, Spread: true, NoSlash: true,
			PageSize: 7, LastPage: "endless", Count: "missing", ListTrash: true, NameExact: true, Groups: "none", Retrash: 404,
			EmptyAnswers: true, EmptyAnswers2: true, LocalID: "409", NoChunked: true, Created200: true, NoLength: true,
			Redirect: true, Quiet: "end", NoReset: true, NoStatusCode: true, FeedBackwards: true, BadCheckpoint: "400",
			Forgets: true, Gzip: "always", Rotate: true, TokenCalls: 60, ExpiresIn: "missing", Expired: "empty",
		}, 30, 5<<20, "--templink-threshold", "1MiB")
	})
	t.Run("messy", func(t *testing.T) {
		t.Parallel()
		otherScenario(t, otherdrive.Options{
			IfMatch: true, ExtraFields: true, Strays: true, Deep: true, NotFound: "html", PageSize: 9, PageRepeats: true,
			LastPage: "null", Count: "wrong", LocalID: "ignored", EarlyConflict: true, Range: "ignored", CutDownloads: true,
			PendingFirst: true, RootInChanges: true, FeedRepeats: true, FeedCut: true, OwnerCheck: "403", PropsSilent: true,
			LostUploads: 12, NoKeepAlive: true,
		}, 30, 3<<20)
	})
	if os.Getenv("DRIVEFS_SOAK") == "" {
		return
	}
	for _, c := range otherdrive.Choices() {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			var opt otherdrive.Options
			c.Set(&opt)
			big := 6 << 20
			if opt.NoChunked || opt.LostUploads > 0 || opt.EarlyConflict || opt.LocalID != "" || opt.TokenCalls > 0 || opt.Throttle > 0 ||
				opt.Flaky > 0 || opt.IfMatch || opt.AnswerPending || opt.FalseErrors > 0 || opt.OverwriteLie || opt.BareConflict {
				big = 24 << 20 // for uploads that begin early
			}
			otherScenario(t, opt, 40, big)
		})
	}
	first, n := uint64(1), uint64(40)
	if v, err := strconv.ParseUint(os.Getenv("DRIVEFS_SEED"), 10, 64); err == nil {
		first, n = v, 1
	}
	for seed := first; seed < first+n; seed++ {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			opt, name := mixture(seed)
			t.Log(name)
			otherScenario(t, opt, 30, 3<<20)
		})
	}
}
