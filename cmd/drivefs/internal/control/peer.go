package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"

	"golang.org/x/sys/unix"
)

// peerKey is where a connection's context has the user at the other end.
type peerKey struct{}

// withPeer notes who connected. Source: SO_PEERCRED of unix(7).
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	uid, err := peerOf(conn)
	if err != nil {
		uid = -1 // nobody: guests' verbs are all there is
	}
	return context.WithValue(ctx, peerKey{}, uid)
}

// peerOf is the user at the other end of a unix socket.
func peerOf(conn net.Conn) (uid int, err error) {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, errors.New("not a unix socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var serr error
	if err := raw.Control(func(fd uintptr) { cred, serr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if serr != nil {
		return 0, serr
	}
	return int(cred.Uid), nil
}

// isOwner reports whether a call comes from this process's user, or root.
func isOwner(ctx context.Context) bool {
	uid, ok := ctx.Value(peerKey{}).(int)
	return ok && (uid == 0 || uid == os.Geteuid())
}

func ownersOnly(call Call) Call {
	return func(ctx context.Context, body []byte, emit Emit) (any, error) {
		if !isOwner(ctx) {
			return nil, errors.New("only who mounted it may do this")
		}
		return call(ctx, body, emit)
	}
}

func ownersPage(page http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !isOwner(r.Context()) {
			http.Error(w, "only who mounted it may look", http.StatusForbidden)
			return
		}
		page(w, r)
	}
}

// checkPeer refuses a socket behind which another user is than the mount's:
// anybody can mount something that looks like ours and names any socket.
func checkPeer(conn net.Conn, uid int) error {
	got, err := peerOf(conn)
	if err == nil && got != uid && got != 0 {
		err = fmt.Errorf("user %d answers for a mount of user %d", got, uid)
	}
	return err
}
