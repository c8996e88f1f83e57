package control

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// attr names the control socket of a mount, on its root.
const attr = "user.drivefs.control"

// Patience is how long a mount may take to name its socket. It answers from
// memory; one that does not is stopped or stuck.
const Patience = 5 * time.Second

// SocketOf lets the mount name its socket. unix.ENOTCONN: its process is gone;
// unix.EACCES: it is another user's.
func SocketOf(ctx context.Context, mountpoint string) (string, error) {
	type answer struct {
		path string
		err  error
	}
	got := make(chan answer, 1)
	go func() { // a stuck mount keeps this one until the process ends
		buf := make([]byte, 4096)
		n, err := unix.Getxattr(mountpoint, attr, buf)
		if err != nil {
			n = 0
		}
		got <- answer{strings.TrimRight(string(buf[:n]), "\x00"), err}
	}()
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	began := time.Now()
	select {
	case a := <-got:
		return a.path, a.err
	case <-ctx.Done():
		return "", fmt.Errorf("no answer within %v", time.Since(began).Round(time.Second/10))
	}
}
