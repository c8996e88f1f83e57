package mirror

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"time"
	"unsafe"
)

// Ino is a local inode number: 1 is the root, others are handed out once and
// never again. The service's id is an attribute of it.
type Ino = uint64

// RootIno is the root's number.
const RootIno Ino = 1

// Record is what the service told about one live node, plus its identity.
// Records are values: nothing in one is shared with the mirror, except where a
// method says so.
type Record struct {
	Ino    Ino
	ID     string
	Folder bool
	Name   string // as the drive has it
	// Shown is the name as Linux sees it: in the folder asked about for Lookup
	// and List, in the first parent for Get and ByID; "" on the root.
	Shown string
	// Parents are the folders it is in, known and resolved; the root has none.
	// Of several parents those that are not live folders here are left out.
	Parents []Ino

	Version   int64 // of the metadata, never goes back
	ETag      string
	Created   time.Time // millisecond
	Modified  time.Time // millisecond
	CreatedBy string

	// Of files only.
	Content     int64 // content version
	Size        int64 // bytes
	MD5         string
	ContentType string
	// Gen grows by one each time somebody else changed the content.
	Gen uint64

	// Props are our own properties as last known, nil = unknown, and
	// PropsVersion is the Version for which they are known.
	Props        map[string]string
	PropsVersion int64

	Seen time.Time // day on which the service last told about it
}

// entry is a record with what is not shown outside.
type entry struct {
	Record
	raw   []Ino // parents as told, resolved; the record is stored under raw[0], or under 0 when there is none
	state state
}

func (e *entry) clone() *entry {
	c := *e
	c.raw = slices.Clone(e.raw)
	return &c
}

// home is the parent under which the record is stored.
func (e *entry) home() Ino {
	if len(e.raw) == 0 {
		return 0
	}
	return e.raw[0]
}

// state is what is known of an inode number. Among states of one version a
// later one wins over an earlier one, whatever the order in which they arrive.
type state uint8

const (
	stateUnknown     state = iota
	statePlaceholder       // it has an id, and is nothing yet: named as a parent, or bound in advance
	statePending           // PENDING, without name, of a kind nobody shows, or not told by a full answer
	stateLive
	stateTrash // kept whole until it is purged
	stateGone  // answered 404
	statePurged
)

// known reports whether the service told of it.
func (s state) known() bool { return s >= statePending }

// hidden reports whether a record is kept of what is not shown.
func (s state) hidden() bool { return s >= statePending && s != stateLive }

// Values of the node bucket begin with one of these.
const (
	tagRecord = 0x02
	tagLink   = 0x82 // then where the record is
)

const (
	flagFolder = 1 << iota
	flagContent
	flagMD5     // 16 raw bytes
	flagMD5Text // anything else
	flagProps
	flagParents
	flagGen
	flagNoCreated
	flagNoModified
)

// seenEpoch is day 0 of the two bytes at the end of every record. They are the
// end, so that records can be compared without them.
var seenEpoch = time.Date(2010, 1, 1, 0, 0, 0, 0, time.UTC)

const seenLen = 2

func dayOf(t time.Time) uint16 {
	d := t.Sub(seenEpoch) / (24 * time.Hour)
	return uint16(min(max(d, 0), 0xffff))
}

func dayTime(d uint16) time.Time { return seenEpoch.Add(time.Duration(d) * 24 * time.Hour) }

// appendRecord is the format of a record: tag, flags, then the fields in the
// order below; lengths and numbers are varints, strings carry their length,
// usual ones are codes.
func appendRecord(b []byte, e *entry) []byte {
	var flags uint64
	var sum [16]byte
	if e.Folder {
		flags |= flagFolder
	}
	if !e.Folder {
		flags |= flagContent
		if len(e.MD5) == 32 {
			if _, err := hex.Decode(sum[:], unsafe.Slice(unsafe.StringData(e.MD5), 32)); err == nil && isLowerHex(e.MD5) {
				flags |= flagMD5
			}
		}
		if flags&flagMD5 == 0 && e.MD5 != "" {
			flags |= flagMD5Text
		}
	}
	if e.Props != nil {
		flags |= flagProps
	}
	if len(e.raw) > 1 {
		flags |= flagParents
	}
	if e.Gen > 0 {
		flags |= flagGen
	}
	if e.Created.IsZero() {
		flags |= flagNoCreated
	}
	if e.Modified.IsZero() {
		flags |= flagNoModified
	}
	b = append(b, tagRecord)
	b = binary.AppendUvarint(b, flags)
	b = appendString(b, e.ID)
	b = appendString(b, e.Name)
	b = appendString(b, e.ETag)
	b = binary.AppendVarint(b, e.Version)
	var created int64
	if !e.Created.IsZero() {
		created = e.Created.UnixMilli()
		b = binary.AppendVarint(b, created)
	}
	if !e.Modified.IsZero() {
		b = binary.AppendVarint(b, e.Modified.UnixMilli()-created)
	}
	b = appendCode(b, e.CreatedBy)
	if flags&flagContent != 0 {
		b = binary.AppendVarint(b, e.Content)
		b = binary.AppendVarint(b, e.Size)
		switch {
		case flags&flagMD5 != 0:
			b = append(b, sum[:]...)
		case flags&flagMD5Text != 0:
			b = appendString(b, e.MD5)
		}
		b = appendCode(b, e.ContentType)
	}
	if flags&flagGen != 0 {
		b = binary.AppendUvarint(b, e.Gen)
	}
	if flags&flagParents != 0 {
		b = binary.AppendUvarint(b, uint64(len(e.raw)-1))
		for _, p := range e.raw[1:] {
			b = binary.AppendUvarint(b, p)
		}
	}
	if flags&flagProps != 0 {
		b = binary.AppendVarint(b, e.PropsVersion)
		b = binary.AppendUvarint(b, uint64(len(e.Props)))
		keys := make([]string, 0, len(e.Props))
		for k := range e.Props {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			b = appendString(b, k)
			b = appendString(b, e.Props[k])
		}
	}
	return binary.BigEndian.AppendUint16(b, dayOf(e.Seen))
}

func isLowerHex(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// reader walks over an encoded value. All strings it gives are parts of s.
type reader struct {
	b   []byte
	s   string // the bytes of b
	pos int
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b[min(r.pos, len(r.b)):])
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.pos += n
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b[min(r.pos, len(r.b)):])
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.pos += n
	return v
}

func (r *reader) byte() byte {
	if r.pos >= len(r.b) {
		r.bad = true
		return 0
	}
	r.pos++
	return r.b[r.pos-1]
}

func (r *reader) string() string {
	n := r.uvarint()
	if r.bad || n > uint64(len(r.b)-r.pos) {
		r.bad = true
		return ""
	}
	if n == 0 {
		return ""
	}
	s := r.s[r.pos : r.pos+int(n)]
	r.pos += int(n)
	return s
}

func (r *reader) code() string {
	switch c := r.uvarint(); {
	case c == 0:
		return r.string()
	case c <= uint64(len(usual)):
		return usual[c-1]
	}
	r.bad = true
	return ""
}

// usual are strings that repeat a million times. Their places are part of the
// format: add at the end.
var usual = [...]string{
	"", "CloudDriveWeb", "CloudDriveIOS", "CloudDriveAndroid", "CloudDriveDesktop",
	"application/octet-stream", "application/pdf", "application/zip", "application/json", "application/xml",
	"application/msword", "application/vnd.ms-excel", "application/vnd.ms-powerpoint", "application/rtf",
	"application/vnd.openxmlformats-officedocument.wordprocessingml.document",
	"application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
	"application/vnd.openxmlformats-officedocument.presentationml.presentation",
	"application/vnd.oasis.opendocument.text", "application/vnd.oasis.opendocument.spreadsheet",
	"application/x-tar", "application/gzip", "application/x-gzip", "application/x-7z-compressed", "application/x-rar-compressed",
	"application/javascript", "application/epub+zip", "application/postscript", "application/x-sqlite3",
	"text/plain", "text/plain; charset=utf-8", "text/html", "text/css", "text/csv", "text/markdown", "text/xml", "text/x-python",
	"image/jpeg", "image/png", "image/gif", "image/webp", "image/tiff", "image/heic", "image/svg+xml", "image/bmp",
	"image/x-canon-cr2", "image/x-nikon-nef", "image/x-sony-arw", "image/x-adobe-dng",
	"video/mp4", "video/quicktime", "video/x-matroska", "video/x-msvideo", "video/webm", "video/mpeg", "video/3gpp",
	"audio/mpeg", "audio/mp4", "audio/flac", "audio/ogg", "audio/x-wav", "message/rfc822",
}

var usualCode = func() map[string]uint64 {
	m := map[string]uint64{}
	for i, s := range usual {
		m[s] = uint64(i) + 1
	}
	return m
}()

func appendCode(b []byte, s string) []byte {
	if c, ok := usualCode[s]; ok {
		return binary.AppendUvarint(b, c)
	}
	return appendString(append(b, 0), s)
}

// decodeRecord reads the value stored under (parent, ino) into e. parent is 0
// for the root and for nodes without parents. All strings are parts of one
// copy, so a record costs one allocation and is safe to keep. Errors wrap
// ErrDamaged.
func decodeRecord(v []byte, parent, ino Ino, e *entry) error {
	buf := make([]byte, len(v)+md5Len)
	copy(buf, v)
	return decode(v, unsafe.String(unsafe.SliceData(buf), len(v)), buf[len(v):], nil, parent, ino, e)
}

const md5Len = 32 // of the text

// loan is what a record is read into that is not to be kept.
type loan struct {
	md5   [md5Len]byte
	props map[string]string
}

// decodeLent is decodeRecord without the copy: e is valid as long as v is, and
// until the next use of l.
func decodeLent(v []byte, l *loan, parent, ino Ino, e *entry) error {
	if l.props == nil {
		l.props = map[string]string{}
	}
	clear(l.props)
	return decode(v, unsafe.String(unsafe.SliceData(v), len(v)), l.md5[:], l.props, parent, ino, e)
}

// decode reads v, of which text has the bytes. It puts the md5 into sum, and
// the properties into props, nil = a map of their own.
func decode(v []byte, text string, sum []byte, props map[string]string, parent, ino Ino, e *entry) error {
	r := reader{b: v, s: text}
	if r.byte() != tagRecord {
		return fmt.Errorf("inode %d: not a record: %w", ino, ErrDamaged)
	}
	flags := r.uvarint()
	*e = entry{state: stateLive, raw: e.raw[:0]}
	e.Ino = ino
	e.Folder = flags&flagFolder != 0
	e.ID = r.string()
	e.Name = r.string()
	e.ETag = r.string()
	e.Version = r.varint()
	var created int64
	if flags&flagNoCreated == 0 {
		created = r.varint()
		e.Created = time.UnixMilli(created).UTC()
	}
	if flags&flagNoModified == 0 {
		e.Modified = time.UnixMilli(created + r.varint()).UTC()
	}
	e.CreatedBy = r.code()
	if flags&flagContent != 0 {
		e.Content = r.varint()
		e.Size = r.varint()
		switch {
		case flags&flagMD5 != 0:
			if r.bad || len(v)-r.pos < 16 {
				r.bad = true
				break
			}
			hex.Encode(sum, v[r.pos:r.pos+16])
			e.MD5 = unsafe.String(unsafe.SliceData(sum), md5Len)
			r.pos += 16
		case flags&flagMD5Text != 0:
			e.MD5 = r.string()
		}
		e.ContentType = r.code()
	}
	if flags&flagGen != 0 {
		e.Gen = r.uvarint()
	}
	if parent != 0 {
		e.raw = append(e.raw, parent)
	}
	if flags&flagParents != 0 {
		n := r.uvarint()
		if n > uint64(len(v)) {
			r.bad = true
			n = 0
		}
		for range n {
			e.raw = append(e.raw, r.uvarint())
		}
	}
	if flags&flagProps != 0 {
		e.PropsVersion = r.varint()
		n := r.uvarint()
		if n > uint64(len(v)) {
			r.bad = true
			n = 0
		}
		if e.Props = props; props == nil {
			e.Props = make(map[string]string, n)
		}
		for range n {
			k := r.string()
			e.Props[k] = r.string()
		}
	}
	if r.bad || len(v)-r.pos != seenLen {
		return fmt.Errorf("inode %d: the record does not end where it should: %w", ino, ErrDamaged)
	}
	e.Seen = dayTime(binary.BigEndian.Uint16(v[r.pos:]))
	return nil
}

// isFolderValue reports what kind a stored record is of, without reading on.
func isFolderValue(v []byte) bool {
	if len(v) < 2 || v[0] != tagRecord {
		return false
	}
	flags, n := binary.Uvarint(v[1:])
	return n > 0 && flags&flagFolder != 0
}

// A link says that the record of a node with several parents is elsewhere.
func appendLink(b []byte, home Ino) []byte { return binary.AppendUvarint(append(b, tagLink), home) }

func decodeLink(v []byte) (home Ino, ok bool) {
	if len(v) < 2 || v[0] != tagLink {
		return 0, false
	}
	h, n := binary.Uvarint(v[1:])
	return h, n > 0
}

// The value of the inode bucket begins with the state. A placeholder's goes on
// with its id, a live one's with flags and the parent under which the record
// is; of what is hidden the record is here, behind the time since when.
const (
	flagIsFolder = 1 << iota
	flagIsMulti  // a folder with several parents
	flagIsListed // it was listed completely before the first sync ended
)

const liveLen = 2 + 8

func appendLive(b []byte, flags byte, home Ino) []byte {
	return binary.BigEndian.AppendUint64(append(b, byte(stateLive), flags), home)
}

func appendPlaceholder(b []byte, id string) []byte {
	return append(append(b, byte(statePlaceholder)), id...)
}

func appendHidden(b []byte, e *entry, since time.Time) []byte {
	b = append(b, byte(e.state))
	b = binary.AppendVarint(b, since.Unix())
	b = binary.AppendUvarint(b, e.home())
	return appendRecord(b, e)
}

func stateOf(v []byte) state {
	if len(v) == 0 {
		return stateUnknown
	}
	return state(v[0])
}

// liveAt is where the record of a live one is; ok=false for others.
func liveAt(v []byte) (flags byte, home Ino, ok bool) {
	if len(v) != liveLen || v[0] != byte(stateLive) {
		return 0, 0, false
	}
	return v[1], binary.BigEndian.Uint64(v[2:]), true
}

// hiddenSince is since when what v tells about is hidden.
func hiddenSince(v []byte) time.Time {
	r := reader{b: v, pos: 1}
	return time.Unix(r.varint(), 0)
}

func decodeHidden(v []byte, ino Ino, e *entry) error {
	r := reader{b: v, pos: 1}
	_ = r.varint()
	home := r.uvarint()
	if r.bad || !stateOf(v).hidden() || stateOf(v) > statePurged {
		return fmt.Errorf("inode %d: neither live nor hidden: %w", ino, ErrDamaged)
	}
	if err := decodeRecord(v[r.pos:], home, ino, e); err != nil {
		return err
	}
	e.state = stateOf(v)
	return nil
}
