package tree

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"
)

// Attr is what stat shows of an inode.
type Attr struct {
	Ino     uint64
	Gen     uint64 // kernel inode identity beside Ino: grows with each foreign content version
	Folder  bool
	Size    int64  // bytes; 0 for folders
	Mode    uint32 // ModeSet | 0777 bits of its own; 0 = none, the mount's umask decides
	Nlink   uint32 // folders 1, files their parents, 0 = removed but open
	Writing bool   // open for writing: the next write moves it
	Mtime   time.Time
	Ctime   time.Time
	Created time.Time
}

// ModeSet marks a mode that was chosen, so that 0000 differs from none.
const ModeSet = 1 << 31

// Entry is one line of a directory.
type Entry struct {
	Name    string // as shown
	Primary bool   // the directory is the folder's first parent
	Attr
}

// Dentry is a name in a folder.
type Dentry struct {
	Dir  uint64
	Name string // as shown
}

// Effect is what the kernel must forget because something changed that it was
// not told by a call of its own. Old alone: gone; New alone: appeared; both
// and different: renamed or moved; both empty: only attributes.
type Effect struct {
	Ino      uint64
	Folder   bool
	Old, New []Dentry
	Content  bool // the bytes changed: new opens must see a new kernel inode
	Attr     bool // any attribute changed
}

// SetAttr is what setattr(2) asks for; nil fields stay as they are.
type SetAttr struct {
	Size  *int64
	Mode  *uint32 // 0777 bits; other bits are ignored
	Mtime *time.Time
}

// PropAttr is the own property (API §11) that carries what the service has no
// field for: modification time and mode bits. One key for both, since each
// key costs a call.
const PropAttr = "drivefs_attr"

// PropXattr prefixes the own properties that carry user.* attributes.
const PropXattr = "x_"

// AttrProp writes the value of PropAttr: "m=SECONDS.NANOS p=MODE", leaving
// out what is not set; "" when nothing is.
func AttrProp(mtime time.Time, mode uint32) string {
	var parts []string
	if !mtime.IsZero() {
		parts = append(parts, fmt.Sprintf("m=%d.%09d", mtime.Unix(), mtime.Nanosecond()))
	}
	if mode&ModeSet != 0 {
		parts = append(parts, fmt.Sprintf("p=%04o", mode&0o777))
	}
	return strings.Join(parts, " ")
}

// parseAttrProp reads what AttrProp wrote. Words it does not know, or that do
// not parse, are left out: another version may have written them.
func parseAttrProp(s string) (mtime time.Time, mode uint32) {
	for s != "" {
		word, rest, _ := strings.Cut(s, " ")
		s = rest
		key, val, _ := strings.Cut(word, "=")
		switch key {
		case "m":
			secs, frac, _ := strings.Cut(val, ".")
			sec, err := strconv.ParseInt(secs, 10, 64)
			if err != nil {
				continue
			}
			nsec, err := strconv.ParseInt(frac, 10, 64)
			if err != nil || len(frac) != 9 {
				nsec = 0
			}
			mtime = time.Unix(sec, nsec)
		case "p":
			if m, err := strconv.ParseUint(val, 8, 32); err == nil {
				mode = ModeSet | uint32(m)&0o777
			}
		}
	}
	return mtime, mode
}

// withAttrProp returns props with PropAttr set for mtime and mode.
func withAttrProp(props map[string]string, mtime time.Time, mode uint32) map[string]string {
	v := AttrProp(mtime, mode)
	if v == "" {
		return props
	}
	return withProp(props, PropAttr, v)
}

// withProp returns a copy of props in which key is v.
func withProp(props map[string]string, key, v string) map[string]string {
	props = maps.Clone(props)
	if props == nil {
		props = map[string]string{}
	}
	props[key] = v
	return props
}
