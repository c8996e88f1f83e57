package mountd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
	"github.com/drivefs/drivefs/cmd/drivefs/internal/exit"
)

// readyVariable tells a child that descriptor 3 wants to hear how it went.
const readyVariable = "_DRIVEFS_READY"

// outcome is what a mount in the background tells its parent, once.
type outcome struct {
	Ready   bool   `json:"ready"`
	Exit    int    `json:"exit"`
	Message string `json:"message"`
}

// ReadyPipe is the way to the parent; nil in the parent itself.
func ReadyPipe() *os.File {
	if os.Getenv(readyVariable) != "3" {
		return nil
	}
	_ = os.Unsetenv(readyVariable)
	syscall.CloseOnExec(3)
	return os.NewFile(3, "ready")
}

// Start runs this command line again as a process of its own and
// waits until its mount answers or the reason why not has come.
func Start(ctx context.Context, c *config.Config) error {
	log, err := backgroundLog(c)
	if err != nil {
		return err
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	child := exec.Command("/proc/self/exe")
	child.Args = os.Args
	child.Env = append(os.Environ(), readyVariable+"=3")
	child.ExtraFiles = []*os.File{w}
	child.Stderr = log
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = child.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("starting in the background: %w", err)
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(signals)
	told := make(chan outcome, 1)
	go func() {
		var o outcome
		if err := json.NewDecoder(r).Decode(&o); err != nil {
			o = outcome{Exit: exit.Failed, Message: "it ended without a word: see " + log.Name()}
		}
		told <- o
	}()
	var o outcome
	interrupted := false
	for waiting := true; waiting; {
		select {
		case o = <-told: // the pipe ends with the child
			waiting = false
		case <-signals: // each is the child's: the second one leaves its uploads
			interrupted = true
			_ = child.Process.Signal(syscall.SIGTERM)
		case <-ctx.Done():
			ctx, interrupted = context.WithoutCancel(ctx), true
			_ = child.Process.Signal(syscall.SIGTERM)
		}
	}
	if interrupted {
		_ = child.Wait()
		return exit.Fail(exit.Failed, "interrupted before the mount answered")
	}
	if o.Ready {
		return child.Process.Release()
	}
	_ = child.Wait()
	return exit.Fail(o.Exit, "%s", o.Message)
}

// mostLog is how large the log of mounts in the background may be when one
// begins; then a new one is begun, and one old one kept.
const mostLog = 8 << 20

// backgroundLog opens the log: stderr would be the terminal of somebody who
// has gone on to other things.
func backgroundLog(c *config.Config) (*os.File, error) {
	if c.LogFile == "" {
		c.LogFile = filepath.Join(c.StateDir, "drivefs.log")
	}
	if err := os.MkdirAll(filepath.Dir(c.LogFile), 0o700); err != nil {
		return nil, exit.Fail(exit.Usage, "--log-file: %w", err)
	}
	if st, err := os.Stat(c.LogFile); err == nil && st.Mode().IsRegular() && st.Size() > mostLog {
		if err := os.Rename(c.LogFile, c.LogFile+".1"); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(c.LogFile, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, exit.Fail(exit.Usage, "--log-file: %w", err)
	}
	return f, nil
}

// RunBackground is the child: it tells w how it went, and goes on.
func RunBackground(ctx context.Context, o Options, w io.WriteCloser) error {
	c := o.Config
	mountpoint, err := filepath.Abs(o.Mountpoint)
	if err != nil {
		return err
	}
	log, err := backgroundLog(c)
	if err != nil {
		return err
	}
	log.Close() // mountDrive opens it again; what this process panics with goes there anyway
	// No directory is kept busy by a process that nobody sees.
	if err := os.Chdir("/"); err != nil {
		return err
	}
	tell := func(o outcome) {
		if w != nil {
			err = errors.Join(json.NewEncoder(w).Encode(o), w.Close())
			w = nil
		}
	}
	o.Mountpoint, o.Ready = mountpoint, func(string) { tell(outcome{Ready: true}) }
	merr := Run(ctx, o)
	tell(outcome{Exit: exit.Code(merr), Message: exit.Message(merr)})
	return errors.Join(merr, err)
}
