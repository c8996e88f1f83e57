package journal

import (
	"encoding/binary"
	"os"
)

// namesIn finds what it can of the names in a database that bbolt refuses, so
// that drafts can be set aside under names somebody recognises. It must not be
// used for more: freed pages hold records of long ago, too.
func namesIn(path string) map[uint64]string {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	names, revs := make(map[uint64]string), make(map[uint64]uint64)
	const page = 4096 // or a multiple of it
	for at := 0; at < len(b); at += page {
		leafRecords(b[at:], func(e *Entry) {
			if e.Rev >= revs[e.Ino] {
				names[e.Ino], revs[e.Ino] = e.Place.Shown, e.Rev
			}
		})
	}
	return names
}

// leafRecords calls fn for the records in the page at the start of b, if it
// is a leaf. The layout is bbolt's, little endian: id (8 bytes), flags (2),
// count (2), overflow (4), then count times flags, position, key size, value
// size (4 each), the position counting from its own element. The value of a
// small bucket is 16 bytes and then a page of its own.
func leafRecords(b []byte, fn func(*Entry)) {
	const (
		header, element = 16, 16
		leafPage        = 2
		isBucket        = 1
		bucketHeader    = 16
	)
	le := binary.LittleEndian
	if len(b) < header || le.Uint16(b[8:]) != leafPage {
		return
	}
	count := int(le.Uint16(b[10:]))
	for at := header; count > 0 && at+element <= len(b); at, count = at+element, count-1 {
		key := int64(at) + int64(le.Uint32(b[at+4:]))
		value := key + int64(le.Uint32(b[at+8:]))
		end := value + int64(le.Uint32(b[at+12:]))
		if end > int64(len(b)) {
			continue
		}
		v := b[value:end]
		if le.Uint32(b[at:]) == isBucket {
			leafRecords(v[min(bucketHeader, len(v)):], fn)
		} else if e, _, err := decodeRecord(v); err == nil {
			fn(e)
		}
	}
}
