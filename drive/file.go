package drive

import (
	"errors"
	"io"
	"os"
)

// maxSmallFile bounds the two small files this package keeps.
const maxSmallFile = 64 << 10

var errFileTooLong = errors.New("the file is too long")

func readSmallFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSmallFile+1))
	if err == nil && len(data) > maxSmallFile {
		err = errFileTooLong
	}
	return data, err
}
