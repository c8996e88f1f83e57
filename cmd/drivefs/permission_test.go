package main

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/drive/drivetest"
)

// "Where the login permits reading only, every change fails with EROFS, as on
// a `--read-only` mount", until there is another token.
func TestTokenForReading(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drivetest.Options{})
	if _, err := w.drive.Else().PutPath("/d/file", []byte("content")); err != nil {
		t.Fatal(err)
	}
	give := func(scopes string) {
		t.Helper()
		b, err := json.Marshal(w.drive.TokenFor(scopes))
		if err != nil {
			t.Fatal(err)
		}
		put(t, w.token(), string(b))
	}
	give("clouddrive:read_all")
	w.mount()
	file := w.file("d/file")
	if b, err := os.ReadFile(file); err != nil || string(b) != "content" {
		t.Errorf("reading: %q, %v", b, err)
	}
	for name, err := range map[string]error{
		"create": os.WriteFile(w.file("new"), nil, 0o600),
		"write":  os.WriteFile(file, []byte("x"), 0o600),
		"mkdir":  os.Mkdir(w.file("e"), 0o700),
		"remove": os.Remove(file),
		"rename": os.Rename(file, w.file("d/other")),
		"chmod":  os.Chmod(file, 0o600),
		"times":  os.Chtimes(file, time.Now(), time.Now()),
		"cut":    os.Truncate(file, 1),
		"attr":   unix.Setxattr(file, "user.a", []byte("b"), 0),
	} {
		if !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: %v, want EROFS", name, err)
		}
	}
	if said := strings.Join(w.status().Problems, " "); !strings.Contains(said, "the token does not permit changes") {
		t.Errorf("status says %q", said)
	}
	give("clouddrive:read_all clouddrive:write")
	err := errors.New("not tried")
	for late := time.Now().Add(limit); err != nil && time.Now().Before(late); time.Sleep(50 * time.Millisecond) {
		err = os.Mkdir(w.file("e"), 0o700)
	}
	if err != nil {
		t.Errorf("with a token for writing: %v", err)
	}
	if said := w.status().Problems; len(said) > 0 {
		t.Errorf("status says %q", said)
	}
	w.must("unmount", w.mountpoint)
}
