package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/exit"
	"github.com/drivefs/drivefs/fs/guard"
)

func main() {
	if guard.Main() { // of a mount, in a process of its own
		return
	}
	p := &program{name: os.Args[0], stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, env: os.LookupEnv}
	os.Exit(p.main(context.Background(), os.Args))
}

// program is the process as the verbs see it.
type program struct {
	name           string // as it was called
	stdin          io.Reader
	stdout, stderr io.Writer
	env            config.Env
}

// main runs one command line and gives the exit code.
func (p *program) main(ctx context.Context, args []string) int {
	root := newRoot(p)
	addPath()
	if filepath.Base(args[0]) == "mount.drivefs" {
		if os.Geteuid() == 0 {
			p.env = machine(p.env)
		}
		var err error
		if args, err = mountHelperArgs(args); err != nil {
			return p.report(err)
		}
	}
	if len(args) > 2 && args[1] == "trash" {
		args = idsLast(args)
	}
	root.SetArgs(args[1:])
	return p.report(root.ExecuteContext(ctx))
}

// machine hides whose shell it was: what mount(8) mounts for root is the
// machine's, at boot and by sudo alike, so its places are the system's.
func machine(env config.Env) config.Env {
	return func(key string) (string, bool) {
		if key == "HOME" || strings.HasPrefix(key, "XDG_") {
			return "", false
		}
		return env(key)
	}
}

// addPath lets fusermount3 be found where it always is, whatever the caller
// left of PATH.
func addPath() {
	if _, err := exec.LookPath("fusermount3"); err != nil {
		_ = os.Setenv("PATH", strings.TrimPrefix(os.Getenv("PATH")+":/usr/local/bin:/usr/bin:/bin", ":"))
	}
}

// report writes an error's line and gives its exit code.
func (p *program) report(err error) int {
	if line := message(err); line != "" {
		fmt.Fprintln(p.stderr, "drivefs: "+line)
	}
	return exit.Code(err)
}
