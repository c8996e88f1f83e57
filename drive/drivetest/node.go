package drivetest

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Kinds and states a node can have (§5.1, §5.3).
const (
	KindFile   = "FILE"
	KindFolder = "FOLDER"
	KindAsset  = "ASSET"

	StatusAvailable = "AVAILABLE"
	StatusPending   = "PENDING"
	StatusTrash     = "TRASH"
	StatusPurged    = "PURGED"
)

// Node is a node as tests see and make it: a copy, with nothing shared.
type Node struct {
	ID, Name, Kind, Status string
	Version                int64
	Parents                []string
	Created, Modified      time.Time
	CreatedBy, Description string
	Labels                 []string
	Properties             map[string]map[string]string // owner → key → value
	IsRoot                 bool
	ExclusivelyTrashed     bool
	RecursivelyTrashed     bool
	ETag                   string
	Content                *Content // nil for folders and PENDING files
	// Extra members of the JSON object, for PutRaw.
	Extra map[string]any
}

// Content describes the bytes of a file (§5.2).
type Content struct {
	Version                int64
	Size                   int64
	MD5                    string // lower-case hex
	ContentType, Extension string
}

// Size of the content in bytes, 0 when there is none.
func (n Node) Size() int64 {
	if n.Content == nil {
		return 0
	}
	return n.Content.Size
}

// MD5 of the content in lower-case hex, "" when there is none.
func (n Node) MD5() string {
	if n.Content == nil {
		return ""
	}
	return n.Content.MD5
}

// node is the store's own record. Its fields are guarded by store.mu; a
// content, once attached, is never changed, only replaced.
type node struct {
	num     uint64 // key in the store, grows with creation
	seq     uint64 // of its last change: its place in the feed
	changed int64  // when that was, ms

	id, name, kind, status string
	version                int64
	parents                []string
	created, modified      int64 // ms
	createdBy, description string
	labels                 []string
	props                  map[string]map[string]string
	oldProps               []oldProps // in memory only, see Modes.PropertiesLag; replaced, not edited

	isRoot, exclTrashed, recTrashed bool

	content *content
	extra   string // JSON members that PutRaw added, with a leading comma
}

type content struct {
	size        int64
	md5         [16]byte
	contentType string
	ext         string
	version     int64
	date        int64  // contentDate, ms
	blob        string // name of the file in contents
	media       string // JSON of the image member, "" = none
}

func (n *node) live() bool { return n.status == StatusAvailable || n.status == StatusPending }

// fold is how the service compares names: lower case rune by rune, no
// normalisation (§5.5).
func fold(name string) string { return strings.ToLower(name) }

// etag changes with every version (§5.6).
func (n *node) etag() string {
	h := fnv.New64a()
	h.Write([]byte(n.id))
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(n.version))
	h.Write(b[:])
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

func (n *node) export() Node {
	out := Node{
		ID: n.id, Name: n.name, Kind: n.kind, Status: n.status, Version: n.version,
		Parents: slices.Clone(n.parents), Created: time.UnixMilli(n.created).UTC(), Modified: time.UnixMilli(n.modified).UTC(),
		CreatedBy: n.createdBy, Description: n.description, Labels: slices.Clone(n.labels), IsRoot: n.isRoot,
		ExclusivelyTrashed: n.exclTrashed, RecursivelyTrashed: n.recTrashed, ETag: n.etag(),
	}
	if len(n.props) > 0 {
		out.Properties = make(map[string]map[string]string, len(n.props))
		for o, m := range n.props {
			kv := make(map[string]string, len(m))
			for k, v := range m {
				kv[k] = v
			}
			out.Properties[o] = kv
		}
	}
	if c := n.content; c != nil {
		out.Content = &Content{Version: c.version, Size: c.size, MD5: hex.EncodeToString(c.md5[:]), ContentType: c.contentType, Extension: c.ext}
	}
	return out
}

// clone is a copy that later changes of n do not reach. Maps and slices of a
// node are replaced, not edited, by the store, so a shallow copy is enough.
func (n *node) clone() *node {
	c := *n
	return &c
}

// shape says which optional members an answer carries.
type shape struct {
	owner    string                                   // != "": properties of this owner (fields=["properties"])
	props    func(*node) map[string]map[string]string // as they show, nil = as they are
	tempLink func(*node) string                       // nil = none
	assets   func(*node) []*node                      // nil = none
	location func(*node) string                       // nil = none
	status   func(*node) string                       // nil = the node's own; a lagging listing tells the old one
	extra    bool                                     // members no client knows
}

// appendNode writes the JSON of n (§5.1) by hand: a full feed is a million of these.
func appendNode(b []byte, n *node, s *shape) []byte {
	status := n.status
	if s != nil && s.status != nil {
		status = s.status(n)
	}
	if status == StatusPurged { // id and status are all that may be relied on (§9.3)
		b = append(b, `{"id":`...)
		b = appendString(b, n.id)
		b = append(b, `,"kind":`...)
		b = appendString(b, n.kind)
		b = append(b, `,"status":"PURGED","version":`...)
		b = strconv.AppendInt(b, n.version, 10)
		return append(b, `,"parents":[]}`...)
	}
	b = append(b, '{')
	if n.isRoot {
		b = append(b, `"isRoot":true,`...)
	}
	b = append(b, `"eTagResponse":"`...)
	b = append(b, n.etag()...)
	b = append(b, `","id":`...)
	b = appendString(b, n.id)
	if n.name != "" {
		b = append(b, `,"name":`...)
		b = appendString(b, n.name)
	}
	b = append(b, `,"kind":`...)
	b = appendString(b, n.kind)
	b = append(b, `,"version":`...)
	b = strconv.AppendInt(b, n.version, 10)
	b = append(b, `,"labels":`...)
	b = appendStrings(b, n.labels)
	if n.description != "" {
		b = append(b, `,"description":`...)
		b = appendString(b, n.description)
	}
	b = append(b, `,"createdDate":`...)
	b = appendDate(b, n.created)
	b = append(b, `,"createdBy":`...)
	b = appendString(b, n.createdBy)
	b = append(b, `,"restricted":false,"modifiedDate":`...)
	b = appendDate(b, n.modified)
	b = append(b, `,"isShared":false,"parents":`...)
	b = appendStrings(b, n.parents)
	b = append(b, `,"status":`...)
	b = appendString(b, status)
	if n.exclTrashed {
		b = append(b, `,"exclusivelyTrashed":true`...)
	}
	if n.recTrashed {
		b = append(b, `,"recursivelyTrashed":true`...)
	}
	if c := n.content; c != nil {
		b = append(b, `,"contentProperties":{"version":`...)
		b = strconv.AppendInt(b, c.version, 10)
		b = append(b, `,"size":`...)
		b = strconv.AppendInt(b, c.size, 10)
		b = append(b, `,"md5":"`...)
		b = hex.AppendEncode(b, c.md5[:])
		b = append(b, `","contentType":`...)
		b = appendString(b, c.contentType)
		if c.ext != "" {
			b = append(b, `,"extension":`...)
			b = appendString(b, c.ext)
		}
		b = append(b, `,"contentDate":`...)
		b = appendDate(b, c.date)
		if c.media != "" {
			b = append(b, `,"image":`...)
			b = append(b, c.media...)
		}
		b = append(b, '}')
	}
	if s != nil {
		b = appendAsked(b, n, s)
	}
	b = append(b, n.extra...)
	return append(b, '}')
}

// appendAsked writes the members that only some answers carry.
func appendAsked(b []byte, n *node, s *shape) []byte {
	if s.owner != "" {
		props := n.props[s.owner]
		if s.props != nil {
			props = s.props(n)[s.owner]
		}
		own, _ := json.Marshal(map[string]map[string]string{s.owner: props})
		if len(props) == 0 {
			own = []byte("{}")
		}
		b = append(b, `,"properties":`...)
		b = append(b, own...)
	}
	if s.tempLink != nil && n.kind == KindFile {
		b = append(b, `,"tempLink":`...)
		b = appendString(b, s.tempLink(n))
	}
	if s.location != nil {
		b = append(b, `,"location":`...)
		b = appendString(b, s.location(n))
	}
	if s.assets != nil {
		b = append(b, `,"assets":[`...)
		for i, a := range s.assets(n) {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendNode(b, a, nil)
		}
		b = append(b, ']')
	}
	if s.extra {
		b = append(b, `,"ownerId":"A1B2C3","protectedFolder":false,"parentMap":{"FOLDER":[]},"transforms":[1.5,null,{"deep":[]}]`...)
	}
	return b
}

func appendDate(b []byte, ms int64) []byte {
	b = append(b, '"')
	b = time.UnixMilli(ms).UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	return append(b, '"')
}

func appendStrings(b []byte, l []string) []byte {
	b = append(b, '[')
	for i, s := range l {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, s)
	}
	return append(b, ']')
}

func appendString(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			q, _ := json.Marshal(s)
			return append(b, q...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// The record in the store: one version byte, then fields in order; numbers
// are varints, strings carry their length.
const recordVersion = 1

const (
	flagRoot = 1 << iota
	flagExclTrashed
	flagRecTrashed
	flagContent
)

func (n *node) encode(b []byte) []byte {
	var flags byte
	for _, f := range []struct {
		on  bool
		bit byte
	}{{n.isRoot, flagRoot}, {n.exclTrashed, flagExclTrashed}, {n.recTrashed, flagRecTrashed}, {n.content != nil, flagContent}} {
		if f.on {
			flags |= f.bit
		}
	}
	str := func(s string) { b = binary.AppendUvarint(b, uint64(len(s))); b = append(b, s...) }
	list := func(l []string) {
		b = binary.AppendUvarint(b, uint64(len(l)))
		for _, s := range l {
			str(s)
		}
	}
	num := func(v int64) { b = binary.AppendVarint(b, v) }
	b = append(b, recordVersion, flags)
	num(int64(n.seq))
	num(n.changed)
	str(n.id)
	str(n.name)
	str(n.kind)
	str(n.status)
	num(n.version)
	list(n.parents)
	num(n.created)
	num(n.modified)
	str(n.createdBy)
	str(n.description)
	list(n.labels)
	b = binary.AppendUvarint(b, uint64(len(n.props)))
	for o, m := range n.props {
		str(o)
		b = binary.AppendUvarint(b, uint64(len(m)))
		for k, v := range m {
			str(k)
			str(v)
		}
	}
	str(n.extra)
	if c := n.content; c != nil {
		num(c.size)
		b = append(b, c.md5[:]...)
		str(c.contentType)
		str(c.ext)
		num(c.version)
		num(c.date)
		str(c.blob)
		str(c.media)
	}
	return b
}

// decoder reads a record; after the first fault it yields zeros and bad is set.
type decoder struct {
	b      []byte
	bad    bool
	intern map[string]string // few different values, many nodes
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return nil
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) str() string { return string(d.bytes(d.uint())) }

func (d *decoder) shared() string {
	raw := d.bytes(d.uint())
	if s, ok := d.intern[string(raw)]; ok {
		return s
	}
	s := string(raw)
	if len(d.intern) < 100_000 {
		d.intern[s] = s
	}
	return s
}

func (d *decoder) list() []string {
	n := d.uint()
	if n == 0 || n > uint64(len(d.b)) {
		return nil
	}
	l := make([]string, n)
	for i := range l {
		l[i] = d.shared()
	}
	return l
}

func (d *decoder) node(num uint64, rec []byte) (*node, bool) {
	if len(rec) < 2 || rec[0] != recordVersion {
		return nil, false
	}
	flags := rec[1]
	d.b, d.bad = rec[2:], false
	n := &node{num: num, isRoot: flags&flagRoot != 0, exclTrashed: flags&flagExclTrashed != 0, recTrashed: flags&flagRecTrashed != 0}
	n.seq = uint64(d.int())
	n.changed = d.int()
	n.id = d.str()
	n.name = d.str()
	n.kind = d.shared()
	n.status = d.shared()
	n.version = d.int()
	n.parents = d.list()
	n.created = d.int()
	n.modified = d.int()
	n.createdBy = d.shared()
	n.description = d.str()
	n.labels = d.list()
	for i := d.uint(); i > 0 && !d.bad; i-- {
		if n.props == nil {
			n.props = make(map[string]map[string]string)
		}
		o := d.shared()
		m := make(map[string]string)
		for j := d.uint(); j > 0 && !d.bad; j-- {
			k := d.shared()
			m[k] = d.str()
		}
		n.props[o] = m
	}
	n.extra = d.str()
	if flags&flagContent != 0 {
		c := &content{size: d.int()}
		copy(c.md5[:], d.bytes(16))
		c.contentType = d.shared()
		c.ext = d.shared()
		c.version = d.int()
		c.date = d.int()
		c.blob = d.shared()
		c.media = d.shared()
		n.content = c
	}
	return n, !d.bad && len(d.b) == 0
}
