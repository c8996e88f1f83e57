package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

func sortDurations(d []time.Duration) { slices.Sort(d) }

// readAll reads a file from its beginning to its end with read(2)s of block
// bytes, as dd does, and fails unless it has size bytes.
func readAll(ctx context.Context, path string, size int64, block int) (time.Duration, error) {
	began := time.Now()
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	n, err := readFrom(ctx, f, make([]byte, block))
	if err == nil && n != size {
		err = fmt.Errorf("%s: %d bytes, want %d", path, n, size)
	}
	return time.Since(began), err
}

func readFrom(ctx context.Context, f *os.File, buf []byte) (n int64, err error) {
	for ctx.Err() == nil {
		k, err := f.Read(buf)
		n += int64(k)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
	return n, ctx.Err()
}

// forget drops the kernel's pages of a file; it has no other effect.
func forget(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// seeks reads block bytes at n random places, none of them twice, and returns
// how long each took.
func seeks(ctx context.Context, path string, size int64, block, n int, seed uint64) ([]time.Duration, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rng := rand.New(rand.NewPCG(seed, 1))
	// Places far enough from each other that none is in the window of the
	// one before.
	cells := rng.Perm(n)
	cell := size / int64(n)
	buf := make([]byte, block)
	var out []time.Duration
	for _, c := range cells {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		off := int64(c)*cell + rng.Int64N(max(1, cell/2))&^4095
		began := time.Now()
		if _, err := f.ReadAt(buf, off); err != nil {
			return nil, err
		}
		out = append(out, time.Since(began))
	}
	return out, nil
}

// randomReads does n reads of block bytes at random places, past the kernel's
// pages, and returns how many a second.
func randomReads(ctx context.Context, path string, size int64, block, n int) (float64, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return none, err
	}
	defer f.Close()
	buf, err := unix.Mmap(-1, 0, block, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned
	if err != nil {
		return none, err
	}
	defer unix.Munmap(buf)
	rng := rand.New(rand.NewPCG(7, 7))
	began := time.Now()
	for i := range n {
		if i%256 == 0 && ctx.Err() != nil {
			return none, ctx.Err()
		}
		if _, err := f.ReadAt(buf, rng.Int64N(size/int64(block))*int64(block)); err != nil {
			return none, err
		}
	}
	return perSecond(float64(n), time.Since(began)), nil
}

// writeFile writes size bytes in blocks and closes; the two times are until
// the last write returned, and of close.
func writeFile(ctx context.Context, path string, size int64, block int) (writing, closing time.Duration, err error) {
	buf := make([]byte, block)
	// The bytes are made before: one block, its number changes.
	if _, err := io.ReadFull(noise(42, int64(block)), buf); err != nil {
		return 0, 0, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	for off := int64(0); off < size; off += int64(block) {
		if ctx.Err() != nil {
			return 0, 0, errors.Join(ctx.Err(), f.Close())
		}
		for i := range 8 {
			buf[i] = byte(off >> (8 * i))
		}
		if _, err := f.Write(buf[:min(int64(block), size-off)]); err != nil {
			return 0, 0, errors.Join(err, f.Close())
		}
	}
	writing = time.Since(began)
	began = time.Now()
	err = f.Close()
	return writing, time.Since(began), err
}

// localTree makes n files of size bytes in folders of 100.
func localTree(dir string, n int, size int64) error {
	for i := range n {
		at := filepath.Join(dir, fmt.Sprintf("d%03d", i/100))
		if i%100 == 0 {
			if err := os.MkdirAll(at, 0o755); err != nil {
				return err
			}
		}
		b, err := io.ReadAll(noise(int64(i)<<8, size))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(at, fmt.Sprintf("f%05d.bin", i)), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// until asks again and again until what it waits for is so.
func until(ctx context.Context, every time.Duration, so func() (bool, error)) error {
	for {
		ok, err := so()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(every):
		}
	}
}

// readPart reads n bytes from off.
func readPart(ctx context.Context, path string, off, n int64, block int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, block)
	for end := off + n; off < end; {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		k, err := f.ReadAt(buf[:min(int64(block), end-off)], off)
		if err != nil {
			return err
		}
		off += int64(k)
	}
	return nil
}

func stat(path string) error {
	_, err := os.Lstat(path)
	return err
}
