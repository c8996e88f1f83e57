package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func asFault(err error) *Fault {
	var f *Fault
	if errors.As(err, &f) {
		return f
	}
	return &Fault{Exit: 1, Message: err.Error()}
}

func listen(t *testing.T, path string, calls map[string]Call) *Server {
	t.Helper()
	s, err := Listen(path, os.Geteuid(), calls, asFault)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("the socket is still there: %v", err)
		}
	})
	return s
}

func TestCall(t *testing.T) {
	for name, dir := range map[string]string{
		"short path": t.TempDir(),
		"long path":  filepath.Join(t.TempDir(), strings.Repeat("long/", 40)),
	} {
		t.Run(name, func(t *testing.T) {
			path := Path("", dir, "/mnt")
			listen(t, path, map[string]Call{
				"rename": Handle(func(_ context.Context, r RenameRequest, emit Emit) (any, error) {
					emit(Event{Line: "renaming " + r.Path})
					emit(Event{Progress: &Progress{Pending: 3}})
					return CheckResult{Problems: len(r.NewName)}, nil
				}),
				"flush": Handle(func(context.Context, struct{}, Emit) (any, error) {
					return nil, &Fault{Exit: 6, Message: "no"}
				}),
			})
			c := NewClient(path)
			var events []Event
			var result CheckResult
			err := c.Call(t.Context(), "rename", RenameRequest{Path: "/a", NewName: "abc"}, &result, func(e Event) { events = append(events, e) })
			if err != nil || result.Problems != 3 {
				t.Errorf("%+v, %v", result, err)
			}
			if want := []Event{{Line: "renaming /a"}, {Progress: &Progress{Pending: 3}}}; !reflect.DeepEqual(events, want) {
				t.Errorf("events %+v", events)
			}
			var f *Fault
			if err := c.Call(t.Context(), "flush", struct{}{}, nil, nil); !errors.As(err, &f) || f.Exit != 6 || f.Message != "no" {
				t.Errorf("flush: %v", err)
			}
			if err := c.Call(t.Context(), "nonsense", struct{}{}, nil, nil); err == nil || !strings.Contains(err.Error(), "another version") {
				t.Errorf("unknown verb: %v", err)
			}
		})
	}
}

// The socket is its owner's. A directory that others can change is refused, and
// none that was there is changed.
func TestOnlyForItsOwner(t *testing.T) {
	for _, test := range []struct {
		mode os.FileMode // of the directory, 0 = there is none
		want os.FileMode // 0 = refused
	}{{0, 0o700}, {0o700, 0o700}, {0o755, 0o755}, {0o1777, 0}, {0o770, 0}} {
		dir := filepath.Join(t.TempDir(), "run")
		if test.mode != 0 {
			if err := errors.Join(os.Mkdir(dir, 0o700), unix.Chmod(dir, uint32(test.mode))); err != nil {
				t.Fatal(err)
			}
		}
		path := Path(dir, "unused", "/mnt")
		s, err := Listen(path, os.Geteuid(), nil, asFault)
		if (err == nil) != (test.want != 0) {
			t.Errorf("a directory of mode %o: %v", test.mode, err)
		}
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			t.Fatal(err)
		}
		if want := cmp.Or(test.want, test.mode); os.FileMode(st.Mode&0o7777) != want {
			t.Errorf("the directory of mode %o has mode %o, want %o", test.mode, st.Mode&0o7777, want)
		}
		if s == nil {
			continue
		}
		if err := unix.Stat(path, &st); err != nil || st.Mode&0o777 != 0o600 {
			t.Errorf("the socket: mode %o, %v", st.Mode&0o777, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.sock")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	listen(t, path, nil)
	if err := NewClient(path).Call(t.Context(), "status", struct{}{}, nil, nil); err == nil || errors.Is(err, ErrNoMount) {
		t.Errorf("nobody listens: %v", err)
	}
}

func TestNobodyThere(t *testing.T) {
	err := NewClient(filepath.Join(t.TempDir(), "none")).Call(t.Context(), "status", struct{}{}, nil, nil)
	if !errors.Is(err, ErrNoMount) {
		t.Errorf("%v is not ErrNoMount", err)
	}
}

// A verb that goes away, and a server that closes, end the call.
func TestCancel(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.sock")
	ended := make(chan error, 2)
	s, err := Listen(path, os.Geteuid(), map[string]Call{
		"flush": Handle(func(ctx context.Context, _ struct{}, emit Emit) (any, error) {
			emit(Event{Line: "begun"})
			<-ctx.Done()
			ended <- ctx.Err()
			return nil, ctx.Err()
		}),
	}, asFault)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = NewClient(path).Call(ctx, "flush", struct{}{}, nil, func(Event) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("verb: %v", err)
	}
	<-ended
	err = NewClient(path).Call(t.Context(), "flush", struct{}{}, nil, func(Event) {
		go func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}()
	})
	if err == nil {
		t.Error("the call survived the server")
	}
	<-ended
	<-s.served
}

// The members that scripts rely on are there, whatever their value.
func TestStatusJSON(t *testing.T) {
	b, err := json.Marshal(Status{})
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		"mountpoint", "pid", "profile", "since", "state",
		"remote.state", "remote.since", "remote.error",
		"mirror.nodes", "mirror.complete", "mirror.checkpoint_age_seconds",
		"uploads.pending", "uploads.pending_bytes", "uploads.active", "uploads.failed",
		"cache.memory_bytes", "cache.disk_bytes", "cache.hits", "cache.misses", "cache.downloaded_bytes", "cache.served_bytes",
		"requests",
	} {
		var v any = got
		ok := true
		for _, key := range strings.Split(path, ".") {
			m, is := v.(map[string]any)
			if !is {
				ok = false
				break
			}
			v, ok = m[key]
		}
		if !ok {
			t.Errorf("no %s in %s", path, b)
		}
	}
}
