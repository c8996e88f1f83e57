package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"time"
)

// A record is
//
//	version (1 byte) | flags (1 byte) | fields | CRC-32C of all before (4 bytes, little endian)
//
// and a field is a protobuf field: key = number<<3 | wire type (0 = varint,
// 2 = length and bytes). Fields with zero values are left out, so a field
// added later reads as zero from older records; a change that an older
// drivefs must not ignore needs a new version.

const recordVersion = 1

// flagProven: the entry's content was on the disk before the record.
const flagProven = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errRecord = errors.New("journal: damaged record")

const (
	wireVarint = 0
	wireBytes  = 2
)

// Field numbers of an entry. Never reuse one.
const (
	fIno = iota + 1
	fRev
	fFlags
	fNodeID
	fBase
	fParent
	fName
	fShown
	fDraft
	fProp
	fMode
	fMtime
	fCreated
	fLocalID
	fSent
	fSince
	fDue
	fFailed
	fFailedAt
	fAttempts
	fRetryAt
	fSynced // the content that is on the disk, when it is not the entry's
	fFolder
	fOrder
	fVacatedDir
	fVacatedName
	fReplacedBy
)

const (
	entryFolder = 1 << iota
	entryRemoved
	entryOpen
	entryTrashed
)

func putUint(b []byte, field int, v uint64) []byte {
	if v == 0 {
		return b
	}
	b = binary.AppendUvarint(b, uint64(field)<<3|wireVarint)
	return binary.AppendUvarint(b, v)
}

func putInt(b []byte, field int, v int64) []byte {
	if v == 0 {
		return b
	}
	b = binary.AppendUvarint(b, uint64(field)<<3|wireVarint)
	return binary.AppendVarint(b, v)
}

func putString(b []byte, field int, s string) []byte {
	if s == "" {
		return b
	}
	return putBytes(b, field, s)
}

func putBytes[T string | []byte](b []byte, field int, s T) []byte {
	b = binary.AppendUvarint(b, uint64(field)<<3|wireBytes)
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// putTime keeps seconds and nanoseconds apart: a user may set any year.
func putTime(b []byte, field int, t time.Time) []byte {
	if t.IsZero() {
		return b
	}
	var buf [2 * binary.MaxVarintLen64]byte
	s := binary.AppendVarint(buf[:0], t.Unix())
	s = binary.AppendUvarint(s, uint64(t.Nanosecond()))
	return putBytes(b, field, s)
}

// appendRecord appends the record of e to b. synced is the last content of
// the inode that was synced to the disk, nil when none was.
func appendRecord(b []byte, e *Entry, synced *DraftState) []byte {
	start := len(b)
	proven := synced.same(e.Draft)
	var flags byte
	if proven {
		flags |= flagProven
	}
	b = append(b, recordVersion, flags)
	b = appendEntry(b, e)
	if synced != nil && !proven {
		b = putBytes(b, fSynced, appendDraft(nil, synced))
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

func appendEntry(b []byte, e *Entry) []byte {
	var flags uint64
	for _, f := range []struct {
		on  bool
		bit uint64
	}{{e.Folder, entryFolder}, {e.Removed, entryRemoved}, {e.Open, entryOpen}, {e.Trashed, entryTrashed}} {
		if f.on {
			flags |= f.bit
		}
	}
	b = putUint(b, fIno, e.Ino)
	b = putUint(b, fRev, e.Rev)
	b = putUint(b, fFlags, flags)
	b = putString(b, fNodeID, e.NodeID)
	if e.Base != nil {
		b = putBytes(b, fBase, appendBase(nil, e.Base))
	}
	for _, p := range e.Place.Parents {
		b = putUint(b, fParent, p)
	}
	for _, d := range e.Folders {
		b = putBytes(b, fFolder, putString(putUint(nil, 1, d.Ino), 2, d.ID))
	}
	b = putString(b, fName, e.Place.Name)
	b = putString(b, fShown, e.Place.Shown)
	if e.Draft != nil {
		b = putBytes(b, fDraft, appendDraft(nil, e.Draft))
	}
	if len(e.Props) > 0 {
		keys := make([]string, 0, len(e.Props))
		for k := range e.Props {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			b = putBytes(b, fProp, putString(putString(nil, 1, k), 2, e.Props[k]))
		}
	}
	b = putUint(b, fMode, uint64(e.Mode))
	b = putTime(b, fMtime, e.Mtime)
	b = putTime(b, fCreated, e.Created)
	b = putString(b, fLocalID, e.LocalID)
	if e.Sent != nil {
		b = putBytes(b, fSent, appendSent(nil, e.Sent))
	}
	b = putTime(b, fSince, e.Since)
	b = putTime(b, fDue, e.Due)
	b = putString(b, fFailed, e.Failed)
	b = putTime(b, fFailedAt, e.FailedAt)
	b = putInt(b, fAttempts, int64(e.Attempts))
	b = putTime(b, fRetryAt, e.RetryAt)
	b = putUint(b, fOrder, e.Order)
	b = putUint(b, fVacatedDir, e.Vacated.Dir)
	b = putString(b, fVacatedName, e.Vacated.Name)
	return putUint(b, fReplacedBy, e.ReplacedBy)
}

func appendBase(b []byte, v *Base) []byte {
	for _, p := range v.Parents {
		b = putBytes(b, 1, p)
	}
	b = putString(b, 2, v.Name)
	b = putInt(b, 3, v.Version)
	b = putString(b, 4, v.ETag)
	b = putInt(b, 5, v.Content)
	b = putInt(b, 6, v.Size)
	return putString(b, 7, v.MD5)
}

func appendDraft(b []byte, v *DraftState) []byte {
	b = putUint(b, 1, v.Gen)
	b = putInt(b, 2, v.Size)
	if len(v.Local) > 0 {
		local := make([]byte, 0, 8*len(v.Local))
		var last int64
		for _, x := range v.Local {
			local = binary.AppendUvarint(local, uint64(x.Off-last))
			local = binary.AppendUvarint(local, uint64(x.End-x.Off))
			last = x.End
		}
		b = putBytes(b, 3, local)
	}
	b = putInt(b, 4, v.Limit)
	b = putString(b, 5, v.BaseID)
	b = putInt(b, 6, v.BaseGen)
	b = putInt(b, 7, v.BaseLen)
	b = putString(b, 8, v.BaseMD5)
	b = putUint(b, 9, v.File)
	return putUint(b, 10, v.Sums)
}

// fProofIno goes before the fields of a draft in opSynced.
const fProofIno = 15

func appendSent(b []byte, v *Sent) []byte {
	b = putUint(b, 1, v.Gen)
	b = putInt(b, 2, v.Size)
	b = putString(b, 3, v.MD5)
	if v.Whole {
		b = putUint(b, 4, 1)
	}
	b = putTime(b, 5, v.At)
	b = putTime(b, 6, v.Deadline)
	b = putString(b, 7, v.ParentID)
	b = putString(b, 8, v.Name)
	b = putUint(b, 9, uint64(max(v.Tries, 0)))
	for _, x := range v.Earlier {
		sum := putString(putInt(putUint(nil, 1, x.Gen), 2, x.Size), 3, x.MD5)
		b = putBytes(b, 10, sum)
	}
	b = putTime(b, 11, v.Began)
	return putUint(b, 12, v.File)
}

// fields walks over encoded fields; the first malformed one makes it fail.
type fields struct {
	b   []byte
	num int
	v   uint64 // varint as it stands
	s   []byte // bytes
	bad bool
}

func (f *fields) next() bool {
	if f.bad || len(f.b) == 0 {
		return false
	}
	key := f.uvarint()
	f.num, f.v, f.s = int(key>>3), 0, nil
	switch key & 7 {
	case wireVarint:
		f.v = f.uvarint()
	case wireBytes:
		n := f.uvarint()
		if n > uint64(len(f.b)) {
			f.bad = true
			return false
		}
		f.s, f.b = f.b[:n], f.b[n:]
	default:
		f.bad = true
	}
	return !f.bad
}

func (f *fields) uvarint() uint64 {
	v, n := binary.Uvarint(f.b)
	if n <= 0 {
		f.bad, f.b = true, nil
		return 0
	}
	f.b = f.b[n:]
	return v
}

// int undoes the zigzag of putInt.
func (f *fields) int() int64 { return int64(f.v>>1) ^ -int64(f.v&1) }

func (f *fields) time() time.Time {
	sec, n := binary.Varint(f.s)
	if n <= 0 {
		f.bad = true
		return time.Time{}
	}
	nsec, m := binary.Uvarint(f.s[n:])
	if m <= 0 || nsec >= 1e9 {
		f.bad = true
		return time.Time{}
	}
	return time.Unix(sec, int64(nsec)).UTC()
}

// decodeRecord undoes appendRecord. It answers errRecord for damage and
// ErrNewer for a record of a later version.
func decodeRecord(b []byte) (e *Entry, synced *DraftState, err error) {
	if len(b) < 6 {
		return nil, nil, fmt.Errorf("%w: %d bytes", errRecord, len(b))
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return nil, nil, fmt.Errorf("%w: checksum", errRecord)
	}
	if body[0] > recordVersion {
		return nil, nil, fmt.Errorf("%w: record version %d", ErrNewer, body[0])
	}
	e, synced, ok := decodeEntry(body[2:])
	if !ok || e.Ino == 0 || (e.Draft != nil && !e.Draft.sane()) || (synced != nil && !synced.sane()) {
		return nil, nil, fmt.Errorf("%w: fields", errRecord)
	}
	if body[1]&flagProven != 0 {
		synced = e.Draft
	}
	if synced != nil {
		synced.c.synced = true
	}
	return e, synced, nil
}

func decodeEntry(b []byte) (e *Entry, synced *DraftState, ok bool) {
	e = &Entry{}
	f := fields{b: b}
	ok = true
	for f.next() {
		switch f.num {
		case fIno:
			e.Ino = f.v
		case fRev:
			e.Rev = f.v
		case fFlags:
			e.Folder = f.v&entryFolder != 0
			e.Removed = f.v&entryRemoved != 0
			e.Open = f.v&entryOpen != 0
			e.Trashed = f.v&entryTrashed != 0
		case fNodeID:
			e.NodeID = string(f.s)
		case fBase:
			e.Base = decodeBase(f.s, &ok)
		case fParent:
			e.Place.Parents = append(e.Place.Parents, f.v)
		case fFolder:
			e.Folders = append(e.Folders, decodeFolder(f.s, &ok))
		case fName:
			e.Place.Name = string(f.s)
		case fShown:
			if e.Place.Shown = e.Place.Name; e.Place.Name != string(f.s) {
				e.Place.Shown = string(f.s)
			}
		case fDraft:
			e.Draft = decodeDraft(f.s, &ok)
		case fProp:
			if e.Props == nil {
				e.Props = make(map[string]string)
			}
			k, v := decodePair(f.s, &ok)
			e.Props[k] = v
		case fMode:
			e.Mode = uint32(f.v)
		case fMtime:
			e.Mtime = f.time()
		case fCreated:
			e.Created = f.time()
		case fLocalID:
			e.LocalID = string(f.s)
		case fSent:
			e.Sent = decodeSent(f.s, &ok)
		case fSince:
			e.Since = f.time()
		case fDue:
			e.Due = f.time()
		case fFailed:
			e.Failed = string(f.s)
		case fFailedAt:
			e.FailedAt = f.time()
		case fAttempts:
			e.Attempts = int(f.int())
		case fRetryAt:
			e.RetryAt = f.time()
		case fOrder:
			e.Order = f.v
		case fVacatedDir:
			e.Vacated.Dir = f.v
		case fVacatedName:
			e.Vacated.Name = string(f.s)
		case fReplacedBy:
			e.ReplacedBy = f.v
		case fSynced:
			synced = decodeDraft(f.s, &ok)
		}
	}
	return e, synced, ok && !f.bad
}

func decodeFolder(b []byte, ok *bool) (d FolderID) {
	f := fields{b: b}
	for f.next() {
		switch f.num {
		case 1:
			d.Ino = f.v
		case 2:
			d.ID = string(f.s)
		}
	}
	*ok = *ok && !f.bad
	return d
}

func decodeBase(b []byte, ok *bool) *Base {
	v := &Base{}
	f := fields{b: b}
	for f.next() {
		switch f.num {
		case 1:
			v.Parents = append(v.Parents, string(f.s))
		case 2:
			v.Name = string(f.s)
		case 3:
			v.Version = f.int()
		case 4:
			v.ETag = string(f.s)
		case 5:
			v.Content = f.int()
		case 6:
			v.Size = f.int()
		case 7:
			v.MD5 = string(f.s)
		}
	}
	*ok = *ok && !f.bad
	return v
}

func decodeDraft(b []byte, ok *bool) *DraftState {
	v := &DraftState{c: &blob{}}
	f := fields{b: b}
	for f.next() {
		switch f.num {
		case 1:
			v.Gen = f.v
		case 2:
			v.Size = f.int()
		case 3:
			x := fields{b: f.s}
			var last uint64
			for len(x.b) > 0 && !x.bad {
				off := last + x.uvarint()
				last = off + x.uvarint()
				if off > math.MaxInt64 || last > math.MaxInt64 {
					x.bad = true
				}
				v.Local = append(v.Local, Extent{int64(off), int64(last)})
			}
			f.bad = f.bad || x.bad
		case 4:
			v.Limit = f.int()
		case 5:
			v.BaseID = string(f.s)
		case 6:
			v.BaseGen = f.int()
		case 7:
			v.BaseLen = f.int()
		case 8:
			v.BaseMD5 = string(f.s)
		case 9:
			v.File = f.v
		case 10:
			v.Sums = f.v
		}
	}
	*ok = *ok && !f.bad
	return v
}

func decodeSent(b []byte, ok *bool) *Sent {
	v := &Sent{}
	f := fields{b: b}
	for f.next() {
		switch f.num {
		case 1:
			v.Gen = f.v
		case 2:
			v.Size = f.int()
		case 3:
			v.MD5 = string(f.s)
		case 4:
			v.Whole = f.v != 0
		case 5:
			v.At = f.time()
		case 6:
			v.Deadline = f.time()
		case 7:
			v.ParentID = string(f.s)
		case 8:
			v.Name = string(f.s)
		case 9:
			v.Tries = int(f.v)
		case 12:
			v.File = f.v
		case 10:
			v.Earlier = append(v.Earlier, decodeSum(f.s, ok))
		case 11:
			v.Began = f.time()
		}
	}
	*ok = *ok && !f.bad
	return v
}

func decodeSum(b []byte, ok *bool) (v Sum) {
	f := fields{b: b}
	for f.next() {
		switch f.num {
		case 1:
			v.Gen = f.v
		case 2:
			v.Size = f.int()
		case 3:
			v.MD5 = string(f.s)
		}
	}
	*ok = *ok && !f.bad
	return v
}

func decodePair(b []byte, ok *bool) (key, value string) {
	f := fields{b: b}
	for f.next() {
		switch f.num {
		case 1:
			key = string(f.s)
		case 2:
			value = string(f.s)
		}
	}
	*ok = *ok && !f.bad
	return key, value
}
