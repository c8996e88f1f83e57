package cache

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/cache/tree"
)

// Extended attributes. "user.drivefs.*" tell about the node and cannot be
// changed:
//
//	id, version             the node and its metadata version on the drive
//	state                   synced, uploading, pending, conflict or error
//	progress                percent of the content that is sent, while it is
//	md5, content-version    of a file's content on the drive
//	cached                  bytes of it that can be read without the network
//	control                 on the mount's root: the control socket
//
// Every other "user.*" is kept as an own property of the node within
// the service's limits: ten a node, keys of 50 characters of [A-Za-z0-9_],
// values of 500 (API §11). Keys and values that do not fit those alphabets
// are encoded reversibly, which makes them longer.

const (
	userPrefix    = "user."
	drivefsPrefix = "user.drivefs."
	// ControlAttr names the control socket on the mount's root.
	ControlAttr = drivefsPrefix + "control"
)

// xattrKey is the property key of a user attribute: letters and digits stand
// for themselves, every other byte becomes _xx.
func xattrKey(name string) (string, error) {
	var b strings.Builder
	b.WriteString(tree.PropXattr)
	for i := range len(name) {
		c := name[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	if b.Len() > 50 {
		return "", fmt.Errorf("%w: the attribute's name is too long for the drive", ErrAttrSpace)
	}
	return b.String(), nil
}

func xattrName(key string) (string, bool) {
	key, ok := strings.CutPrefix(key, tree.PropXattr)
	if !ok {
		return "", false
	}
	var b strings.Builder
	for i := 0; i < len(key); i++ {
		if key[i] != '_' {
			b.WriteByte(key[i])
			continue
		}
		if i+3 > len(key) {
			return "", false
		}
		c, err := strconv.ParseUint(key[i+1:i+3], 16, 8)
		if err != nil {
			return "", false
		}
		b.WriteByte(byte(c))
		i += 2
	}
	return b.String(), true
}

// xattrValue encodes a value as text: "t" and the text, or "b" and base64.
func xattrValue(v []byte) (string, error) {
	text := true
	for _, c := range v {
		if c < ' ' || c > '~' {
			text = false
			break
		}
	}
	s := "t" + string(v)
	if !text {
		s = "b" + base64.RawStdEncoding.EncodeToString(v)
	}
	if len(s) > 500 {
		return "", fmt.Errorf("%w: the value is too long for the drive", ErrAttrSpace)
	}
	return s, nil
}

func xattrBytes(s string) ([]byte, bool) {
	switch {
	case strings.HasPrefix(s, "t"):
		return []byte(s[1:]), true
	case strings.HasPrefix(s, "b"):
		b, err := base64.RawStdEncoding.DecodeString(s[1:])
		return b, err == nil
	}
	return nil, false
}

// Getxattr is the value of an attribute of ino; ErrNoAttr when it has none of
// that name, ErrNotSupported outside "user.".
func (s *Store) Getxattr(ctx context.Context, ino, gen uint64, name string) ([]byte, error) {
	s.lister.knowPropsOf(ctx, ino)
	if !strings.HasPrefix(name, userPrefix) {
		return nil, ErrNotSupported
	}
	n, err := s.inode(ino)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(name, drivefsPrefix) {
		v, ok := s.virtual(&n, strings.TrimPrefix(name, drivefsPrefix))
		if !ok {
			return nil, ErrNoAttr
		}
		return []byte(v), nil
	}
	key, err := xattrKey(strings.TrimPrefix(name, userPrefix))
	if err != nil {
		return nil, ErrNoAttr
	}
	if v, ok := s.ownProps(ino)[key]; ok {
		if b, ok := xattrBytes(v); ok {
			return b, nil
		}
	}
	return nil, ErrNoAttr
}

// virtual is the value of a read-only attribute.
func (s *Store) virtual(n *tree.Inode, name string) (string, bool) {
	switch name {
	case "control":
		return s.o.Control, n.Ino == s.Root() && s.o.Control != ""
	case "id":
		return n.ID, n.ID != ""
	case "version":
		return strconv.FormatInt(n.Version, 10), n.Version != 0
	case "state":
		switch state := s.queue.state(n.Ino); {
		case state != "":
			return state, true
		case tree.IsConflictName(n.Name):
			// It remains so until it is renamed or removed: the user has to choose.
			return "conflict", true
		}
		return "synced", true
	}
	if n.Folder {
		return "", false
	}
	switch name {
	case "progress":
		p, ok := s.queue.active(n.Ino)
		if !ok || p.Size <= 0 {
			return "", false
		}
		return strconv.FormatInt(min(100, 100*p.Sent/p.Size), 10), true
	case "md5":
		return n.MD5, n.MD5 != "" && !n.Draft
	case "content-version":
		return strconv.FormatInt(n.Content, 10), n.Content != 0
	case "cached":
		return strconv.FormatInt(s.chunks.Cached(tree.VersionOf(n)), 10), n.ID != "" && !n.Draft
	}
	return "", false
}

// Setxattr keeps an attribute; flags are setxattr(2)'s XATTR_CREATE and
// XATTR_REPLACE.
func (s *Store) Setxattr(ctx context.Context, ino, gen uint64, name string, value []byte, flags uint32) error {
	key, err := s.ownKey(name)
	if err != nil {
		return err
	}
	v, err := xattrValue(value)
	if err != nil {
		return err
	}
	_, err = s.Getxattr(ctx, ino, gen, name)
	switch {
	case err == nil && flags&unix.XATTR_CREATE != 0:
		return ErrExist
	case err != nil && flags&unix.XATTR_REPLACE != 0:
		return ErrNoAttr
	}
	return s.change(func(tx *tree.Tx) error { return tx.SetProp(ino, key, v) })
}

// Removexattr takes an attribute away.
func (s *Store) Removexattr(ctx context.Context, ino, gen uint64, name string) error {
	key, err := s.ownKey(name)
	if err != nil {
		return err
	}
	if _, err := s.Getxattr(ctx, ino, gen, name); err != nil {
		return err
	}
	return s.change(func(tx *tree.Tx) error { return tx.SetProp(ino, key, "") })
}

// ownKey is the property of an attribute that users may set.
func (s *Store) ownKey(name string) (string, error) {
	switch {
	case s.readOnly():
		return "", ErrReadOnly
	case !strings.HasPrefix(name, userPrefix):
		return "", ErrNotSupported
	case strings.HasPrefix(name, drivefsPrefix):
		return "", ErrNotPermitted
	}
	return xattrKey(strings.TrimPrefix(name, userPrefix))
}

// Listxattr are the names of all attributes of ino. The ones drivefs makes up
// are left out, so that copying a file does not try to copy them; ask for
// them by name.
func (s *Store) Listxattr(ctx context.Context, ino, gen uint64) ([]string, error) {
	s.lister.knowPropsOf(ctx, ino)
	if _, err := s.inode(ino); err != nil {
		return nil, err
	}
	var names []string
	for k := range s.ownProps(ino) {
		if n, ok := xattrName(k); ok {
			names = append(names, userPrefix+n)
		}
	}
	slices.Sort(names)
	return names, nil
}
