package cache

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/drive/drivetest"
)

// A state directory is of one account, with its mirror and without.
func TestStateOfAnotherAccount(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Origin = "http://first" })
	other := drivetest.New(t, drivetest.Options{})
	if err := w.s.ConfirmAccount(w.s.mirror.Root().ID); err != nil {
		t.Fatal(err)
	}
	mine, err := w.s.Account()
	if err != nil || mine.Origin != "http://first" || mine.Root == "" {
		t.Fatalf("%+v, %v", mine, err)
	}
	theirs := Account{Root: "another-root", Origin: "http://first"}
	var refused *AccountError
	if err := w.s.ConfirmAccount(theirs.Root); !errors.As(err, &refused) || refused.State != mine || refused.Drive != theirs {
		t.Errorf("another root: %v", err)
	}
	w.stop()

	if err := os.Remove(filepath.Join(w.o.StateDir, "mirror.db")); err != nil {
		t.Fatal(err)
	}
	client, err := drive.New(drive.Options{Endpoint: other.Endpoint(), Tokens: drive.StaticTokenSource(other.Token().AccessToken)})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	o := w.o
	o.Remote, o.Origin = client, "http://second"
	if s, err := Open(context.Background(), o); !errors.As(err, &refused) || refused.State != mine || refused.Drive.Origin != "http://second" {
		t.Errorf("opened with another drive: %v, %v", s, err)
	}

	w.o.Origin = "http://third"
	w.open()
	if now, err := w.s.Account(); err != nil || now.Root != mine.Root || now.Origin != "http://third" {
		t.Errorf("the same account elsewhere: %+v, %v", now, err)
	}
}
