package fs

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	// signalPoll is how often the masks are looked at once a wait was
	// interrupted: go-fuse tells of the first signal only.
	signalPoll = 100 * time.Millisecond
	// blindPatience is how long a wait goes on whose process cannot be seen.
	blindPatience = time.Second
)

// call is the context of one request. The kernel interrupts a request for any
// signal that has a handler, so timers, SIGCHLD and Go's own SIGURG end
// go-fuse's context, and EINTR from stat or open breaks programs. A call ends
// only when the caller is dying or got HUP, INT, QUIT or TERM; other signals
// leave it waiting to its normal bound.
//
// Nothing is watched until somebody asks for Done, which answers from memory
// never do.
type call struct {
	ctx   context.Context // go-fuse's
	t     *tree
	op    string
	began time.Time
	held  [2]held // folders whose lock the kernel holds for it

	mu    sync.Mutex
	err   error         // why it ended; guarded by mu
	done  chan struct{} // nil until asked for; guarded by mu
	over  chan struct{} // closed by end; nil while there is no watcher
	gone  chan struct{} // closed when the watcher returned
	ended bool          // guarded by mu
}

// held is a folder whose lock is held, and the cohort that says so.
type held struct {
	d  *dir
	in *cohort
}

// holds notes that the kernel holds the lock of d until the call is answered.
func (c *call) holds(d *dir) {
	i := 0
	if c.held[0].d != nil {
		i = 1
	}
	c.held[i] = held{d, d.calls.begin()}
}

// enter begins a request of the kernel, op by name; end must be deferred.
func (t *tree) enter(ctx context.Context, op string) *call {
	c := &call{ctx: ctx, t: t, op: op}
	if t.observe != nil {
		c.began = time.Now()
	}
	return c
}

// end tells how the request was answered (nil: well), and stops the watcher and
// waits for it.
func (c *call) end(answer *syscall.Errno) {
	c.mu.Lock()
	c.ended = true
	watched := c.over != nil
	c.mu.Unlock()
	if watched {
		close(c.over)
		<-c.gone
	}
	for _, h := range c.held {
		if h.d != nil {
			h.d.calls.end(h.in)
		}
	}
	if c.t.observe != nil {
		o := Operation{Kind: c.op, Took: time.Since(c.began)}
		if answer != nil && *answer != 0 {
			o.Errno = unix.ErrnoName(*answer)
		}
		c.t.observe(o)
	}
}

// Operation is one request of the kernel and how it was answered. Of a listing
// each piece is one.
type Operation struct {
	Kind  string // "lookup", "readdir", "write" …
	Errno string // "ENOENT" …; "" = it went well
	Took  time.Duration
}

// Deadline: there is none; the Store bounds every wait itself.
func (c *call) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done is closed when the caller gave up.
func (c *call) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if !c.ended { // else nobody is left to give up
			c.over, c.gone = make(chan struct{}), make(chan struct{})
			go c.run()
		}
	}
	return c.done
}

// Err is context.Canceled once the caller gave up.
func (c *call) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Value is that of go-fuse's context: the caller.
func (c *call) Value(key any) any { return c.ctx.Value(key) }

// thread is who called, 0 = the kernel does not tell.
func (c *call) thread() uint32 {
	caller, ok := fuse.FromContext(c.ctx)
	if !ok {
		return 0
	}
	return caller.Pid
}

// run watches the caller from the first interrupt on.
func (c *call) run() {
	defer close(c.gone)
	select {
	case <-c.over:
		return
	case <-c.ctx.Done():
	}
	pid := c.thread()
	tick := time.NewTicker(signalPoll)
	defer tick.Stop()
	var blind time.Duration
	for {
		switch c.t.signals(pid) {
		case gaveUp:
			c.cancel()
			return
		case unseen:
			if blind >= blindPatience {
				c.cancel()
				return
			}
			blind += signalPoll
		case waits:
			blind = 0
		}
		select {
		case <-c.over:
			return
		case <-tick.C:
		}
	}
}

func (c *call) cancel() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = context.Canceled
	close(c.done)
}

// verdict is what a look at a waiting process says.
type verdict int

const (
	waits  verdict = iota // no signal that ends a wait
	gaveUp                // it is dying, gone, or was asked to stop
	unseen                // it cannot be looked at from here
)

func bit(s syscall.Signal) uint64 { return 1 << (uint(s) - 1) }

// fatalSignals end a wait when they are pending for the process. SIGKILL
// pending for the thread covers every deadly default action: the kernel turns
// it into SIGKILL for each thread.
var fatalSignals = bit(syscall.SIGHUP) | bit(syscall.SIGINT) | bit(syscall.SIGQUIT) |
	bit(syscall.SIGTERM) | bit(syscall.SIGKILL)

// signalsOf looks at the masks of the thread pid in /proc.
func signalsOf(pid uint32) verdict {
	if pid == 0 {
		// The caller lives in another pid namespace.
		return unseen
	}
	b, err := os.ReadFile("/proc/" + strconv.FormatUint(uint64(pid), 10) + "/status")
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ESRCH):
		return gaveUp
	case err != nil:
		return unseen
	}
	return judge(b)
}

// judge reads the masks out of a /proc status file. Signals that the thread
// blocks do not reach it, so they end nothing.
func judge(status []byte) verdict {
	var pending, blocked uint64
	var found int
	for line := range bytes.Lines(status) {
		name, val, ok := bytes.Cut(bytes.TrimSpace(line), []byte(":"))
		if !ok {
			continue
		}
		var into *uint64
		var mask uint64
		switch string(name) {
		case "SigPnd", "ShdPnd":
			into = &pending
		case "SigBlk":
			into = &blocked
		default:
			continue
		}
		mask, err := strconv.ParseUint(string(bytes.TrimSpace(val)), 16, 64)
		if err != nil {
			return unseen
		}
		*into |= mask
		found++
	}
	switch {
	case found < 3:
		return unseen
	case pending&^(blocked&^bit(syscall.SIGKILL))&fatalSignals != 0:
		return gaveUp
	}
	return waits
}
