package lock

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
)

func TestLock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state/default")
	if _, ok := Find(dir); ok {
		t.Error("held before it exists")
	}
	want := Holder{PID: 42, Mountpoint: "/mnt/a\nb", Control: "/run/x.sock"}
	l, err := Take(dir, want)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := Find(dir); !ok || got != want {
		t.Errorf("%+v, %v", got, ok)
	}
	var held *HeldError
	if _, err := Take(dir, Holder{PID: 43}); !errors.As(err, &held) || held.Holder != want {
		t.Fatalf("second: %v", err)
	}
	if got, ok := Find(dir); !ok || got != want {
		t.Errorf("after the refusal: %+v, %v", got, ok)
	}
	ctx, cancel := context.WithCancel(t.Context())
	waited := make(chan error)
	go func() { waited <- WaitFree(ctx, Path(dir)) }()
	cancel()
	if err := <-waited; !errors.Is(err, context.Canceled) {
		t.Errorf("waiting: %v", err)
	}
	go func() { waited <- WaitFree(t.Context(), Path(dir)) }()
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil {
		t.Errorf("waiting: %v", err)
	}
	if _, ok := Find(dir); ok {
		t.Error("held after the release")
	}
	l, err = Take(dir, Holder{PID: 44})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Release(); err != nil {
		t.Error(err)
	}
}
