package main

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// noise is n bytes that do not compress and differ for every seed: a block of
// random bytes, over and over, each time with its number in front.
func noise(seed, n int64) io.Reader {
	rng := rand.New(rand.NewPCG(uint64(seed), 0x6b9f))
	block := make([]byte, 64<<10)
	for i := 0; i < len(block); i += 8 {
		binary.LittleEndian.PutUint64(block[i:], rng.Uint64())
	}
	return io.LimitReader(&noisy{block: block, at: len(block)}, n)
}

type noisy struct {
	block []byte
	at    int
	n     uint64
}

func (r *noisy) Read(p []byte) (int, error) {
	if r.at == len(r.block) {
		binary.LittleEndian.PutUint64(r.block, r.n)
		r.n++
		r.at = 0
	}
	k := copy(p, r.block[r.at:])
	r.at += k
	return k, nil
}

// writeNoise makes a file of n bytes of noise.
func writeNoise(path string, n int64) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, noise(0, n))
	return errors.Join(err, f.Close())
}
