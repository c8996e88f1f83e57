package journal

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/synctest"
)

func TestFollowWhileWriting(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir()})
	e := file1(10, "a")
	d := must(j.OpenDraft(10, nil))
	defer d.Close()
	f := must(d.Follow())
	defer f.Close()
	type result struct {
		b   []byte
		err error
	}
	read := make(chan result)
	go func() {
		b, err := io.ReadAll(f)
		read <- result{b, err}
	}()
	var want []byte
	for i := range 300 {
		p := bytes.Repeat([]byte{byte(i)}, 1000+i)
		must(d.WriteAt(p, int64(len(want))))
		want = append(want, p...)
	}
	st := commitTo(t, j, d, e)
	if n, err := f.Finish(st.Gen); n != int64(len(want)) || err != nil {
		t.Fatalf("Finish: %d, %v", n, err)
	}
	r := <-read
	if r.err != nil || !bytes.Equal(r.b, want) {
		t.Fatalf("%d bytes of %d, %v", len(r.b), len(want), r.err)
	}
	must(d.WriteAt([]byte("later"), int64(len(want)))) // belongs to the next generation
	must(f.Seek(0, io.SeekStart))
	if b, err := io.ReadAll(f); err != nil || !bytes.Equal(b, want) {
		t.Errorf("again: %d bytes, %v", len(b), err)
	}
	commitTo(t, j, d, e)
}

func TestFollowIsSuperseded(t *testing.T) {
	tests := []struct {
		name string
		do   func(d *Draft) error // after 4 of 10 bytes were read
		over bool
	}{
		{"append", func(d *Draft) error { _, err := d.WriteAt([]byte("x"), 10); return err }, false},
		{"ahead", func(d *Draft) error { _, err := d.WriteAt([]byte("x"), 6); return err }, false},
		{"behind", func(d *Draft) error { _, err := d.WriteAt([]byte("x"), 3); return err }, true},
		{"cut ahead", func(d *Draft) error { return d.Truncate(5) }, false},
		{"cut behind", func(d *Draft) error { return d.Truncate(3) }, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			j := open(t, Options{Dir: t.TempDir()})
			d := must(j.OpenDraft(10, nil))
			defer d.Close()
			must(d.WriteAt([]byte("0123456789"), 0))
			f := must(d.Follow())
			defer f.Close()
			must(io.ReadFull(f, make([]byte, 4)))
			if f.Sent() != 4 {
				t.Errorf("Sent %d", f.Sent())
			}
			if err := tt.do(d); err != nil {
				t.Fatal(err)
			}
			over := false
			select {
			case <-f.Superseded():
				over = true
			default:
			}
			if over != tt.over {
				t.Errorf("superseded: %t", over)
			}
			e := file1(10, "a")
			st := commitTo(t, j, d, e)
			if _, err := f.Finish(st.Gen); errors.Is(err, ErrSuperseded) != tt.over {
				t.Fatalf("Finish: %v", err)
			}
			if tt.over {
				return
			}
			// From now on the content is fixed.
			must(d.WriteAt([]byte("y"), 4))
			if _, err := f.Read(make([]byte, 1)); !errors.Is(err, ErrSuperseded) {
				t.Errorf("Read after a change: %v", err)
			}
			commitTo(t, j, d, e)
		})
	}
	t.Run("remote parts", func(t *testing.T) {
		j := open(t, Options{Dir: t.TempDir()})
		d := must(j.OpenDraft(10, remote(5)))
		defer d.Close()
		if _, err := d.Follow(); !errors.Is(err, ErrIncomplete) {
			t.Errorf("Follow: %v", err)
		}
	})
}

func TestCloseEndsAWaitingRead(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		j := open(t, Options{Dir: dir})
		d := must(j.OpenDraft(10, nil))
		f := must(d.Follow())
		ended := make(chan error)
		go func() {
			_, err := f.Read(make([]byte, 1))
			ended <- err
		}()
		synctest.Wait() // it waits for bytes
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, ErrClosed) {
			t.Errorf("Read: %v", err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		shut(t, j)
	})
}
