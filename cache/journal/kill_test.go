package journal

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// killDirEnv makes the test binary write into that directory until killed.
const killDirEnv = "DRIVEFS_JOURNAL_KILL_DIR"

// killChild closes files and forgets them, saying on standard output what it
// begins ("try") and what the journal promised ("ok").
func killChild(dir string) {
	j, err := Open(Options{Dir: dir, GroupCommit: time.Millisecond, proveAfter: 10 * time.Millisecond, small: []int64{0, -1, 3000}[os.Getpid()%3], segment: 2000})
	if err != nil {
		fmt.Println("failed", err)
		return
	}
	for i := 0; ; i++ {
		ino := uint64(10 + i%7)
		if err := killStep(j, ino, i); err != nil {
			fmt.Println("failed", err)
			return
		}
	}
}

func killStep(j *Journal, ino uint64, i int) error {
	e, ok := j.Clone(ino)
	if ok && i%5 == 0 {
		fmt.Printf("try %d gone\n", ino)
		if _, err := j.Done(ino, e.Rev); err != nil {
			return err
		}
		fmt.Printf("ok %d gone\n", ino)
		return nil
	}
	if !ok {
		e = file1(ino, fmt.Sprint("file ", ino))
	}
	d, err := j.OpenDraft(ino, nil)
	if err != nil {
		return err
	}
	text := strings.Repeat(fmt.Sprintf("<%d>", i), 1+i%1000)
	fmt.Printf("try %d %d\n", ino, i)
	if err := d.Truncate(0); err != nil {
		return err
	}
	if _, err := d.WriteAt([]byte(text), 0); err != nil {
		return err
	}
	st := d.Commit()
	e.Draft = &st
	if err := j.Put(e); err != nil {
		return err
	}
	fmt.Printf("ok %d %d\n", ino, i)
	return d.Close()
}

// TestKill9 kills a writing process at many moments; the next one continues.
func TestKill9(t *testing.T) {
	dir := t.TempDir()
	for k := range rounds(40) {
		before := map[string]string{}
		func() {
			j := open(t, Options{Dir: dir})
			defer shut(t, j)
			for ino, text := range contents(t, j) {
				before[fmt.Sprint(ino)] = killNumber(t, text)
			}
		}()
		sure, maybe := runAndKill(t, dir, 20+37*k%400, before)
		j := open(t, Options{Dir: dir})
		if p := j.Problems(); len(p) > 0 {
			t.Fatalf("kill %d: problems %q", k, p)
		}
		got := map[string]string{}
		for ino, text := range contents(t, j) {
			got[fmt.Sprint(ino)] = killNumber(t, text)
		}
		for ino := range uint64(7) {
			n := fmt.Sprint(10 + ino)
			have, ok := got[n]
			if !ok {
				have = "gone"
			}
			want, ok := sure[n]
			if !ok {
				want = "gone"
			}
			if have != want && have != maybe[n] {
				t.Fatalf("kill %d: inode %s has %s, was promised %s (in flight: %s)", k, n, have, want, maybe[n])
			}
		}
		shut(t, j)
	}
}

// killNumber is the step that wrote text; it fails the test on a mixture.
func killNumber(t *testing.T, text string) string {
	t.Helper()
	var i int
	if _, err := fmt.Sscanf(text, "<%d>", &i); err != nil || text != strings.Repeat(fmt.Sprintf("<%d>", i), 1+i%1000) {
		t.Fatalf("torn content of %d bytes: %.60q", len(text), text)
	}
	return fmt.Sprint(i)
}

// runAndKill runs a child until it has said so many lines, and returns what
// it was promised and what was under way, by inode.
func runAndKill(t *testing.T, dir string, lines int, sure map[string]string) (_, maybe map[string]string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), killDirEnv+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	maybe = map[string]string{}
	in := bufio.NewScanner(out)
	for n := 0; in.Scan(); n++ {
		f := strings.Fields(in.Text())
		switch {
		case f[0] == "try" && len(f) == 3:
			maybe[f[1]] = f[2]
		case f[0] == "ok" && len(f) == 3:
			sure[f[1]] = f[2]
			delete(maybe, f[1])
		default:
			t.Errorf("child: %s", in.Text())
		}
		if n == lines {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) {
		t.Errorf("child ended by itself: %v", err)
	}
	return sure, maybe
}
