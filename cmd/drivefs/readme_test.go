package main

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// step is a command of the README's session and what it prints.
type step struct {
	command string
	prints  []string
}

func session(t *testing.T) (steps []step) {
	t.Helper()
	_, text, _ := strings.Cut(read(t, filepath.Join(repository, "README.md")), "\n## A session\n")
	text, _, _ = strings.Cut(text, "\n## ")
	for line := range strings.Lines(text) {
		line, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), "    ")
		command, isCommand := strings.CutPrefix(line, "$ ")
		switch {
		case isCommand:
			steps = append(steps, step{command: command})
		case ok && len(steps) > 0:
			last := &steps[len(steps)-1]
			last.prints = append(last.prints, line)
		}
	}
	return steps
}

// What differs from one time to the next: ids, dates, times, process ids,
// ports, the home, and which calls were made when.
var differs = regexp.MustCompile(`[-_0-9A-Za-z]{22}|[-0-9]{10} [:0-9]{8}|just now|[0-9]+ seconds? ago|process [0-9]+|:[0-9]{4,5}\b|requests .*|mirror +[0-9]+ nodes|[0-9]+ changes pending \([^)]*\), [0-9]+ active`)

// The session in the README is what happens.
func TestReadme(t *testing.T) {
	t.Parallel()
	needFuse(t)
	needTools(t, "bash", "seq")
	w := newWorld(t, drivetest.Options{})
	w.env = []string{"DRIVEFS_UPLOAD_DELAY=1h"} // the machine may be slow
	if err := os.Remove(w.mountpoint); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	ln.Close()
	mine := strings.NewReplacer("127.0.0.1:8300", "127.0.0.1:"+port, "/home/me", w.home)
	same := func(command, got, want string) {
		t.Helper()
		got, want = differs.ReplaceAllString(got, "…"), differs.ReplaceAllString(mine.Replace(want), "…")
		if got != want {
			t.Errorf("%s prints\n%s\nand the README says\n%s", command, got, want)
		}
	}

	steps := session(t)
	serve, ok := strings.CutSuffix(steps[0].command, " &")
	if !ok || !strings.HasPrefix(serve, "drivefs serve ") || steps[len(steps)-1].command != "kill %1" {
		t.Fatalf("the session begins with %q", steps[0].command)
	}
	served := w.start(strings.Fields(strings.ReplaceAll(mine.Replace(serve), "~", w.home))[1:]...)
	for _, want := range steps[0].prints {
		same(serve, served.line(), want)
	}

	bin := filepath.Join(w.home, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(os.Args[0], filepath.Join(bin, "drivefs")); err != nil {
		t.Fatal(err)
	}
	const mark = "@@ the end of a command"
	var script strings.Builder
	script.WriteString("set -e\n")
	for _, s := range steps[1 : len(steps)-1] {
		script.WriteString(mine.Replace(s.command) + "\necho '" + mark + "'\n")
	}
	inner := w.command()
	cmd := exec.CommandContext(t.Context(), "bash", "-c", script.String())
	cmd.Env, cmd.Dir = append(inner.Env, "PATH="+bin+":"+os.Getenv("PATH"), "TZ=UTC"), w.home
	out, stderr, code := w.finish(cmd)
	if code != 0 || stderr != "" {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	lines := bufio.NewScanner(strings.NewReader(out))
	for _, s := range steps[1 : len(steps)-1] {
		var got []string
		for lines.Scan() && lines.Text() != mark {
			got = append(got, lines.Text())
		}
		same(s.command, strings.Join(got, "\n"), strings.Join(s.prints, "\n"))
	}
	served.signal(15)
	served.end()
}
