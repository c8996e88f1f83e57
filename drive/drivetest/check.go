package drivetest

import (
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// Check holds the drive against its invariants: live names are unique in
// their parents, parents exist and are no files' (but for assets), nobody is
// below himself, and every content on disk has the size and MD5 of its record.
// It reads all contents.
func (s *Server) Check() error {
	st := s.st
	st.mu.RLock()
	var errs []error
	fail := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	type want struct {
		id string
		ct *content
	}
	var contents []want
	var used int64
	names := map[nameKey]*node{}
	for id, n := range st.byID {
		if n.id != id {
			fail("node %s is kept as %s", n.id, id)
		}
		if n.status == StatusPurged {
			continue
		}
		if n.content != nil {
			contents = append(contents, want{id, n.content})
			used += n.content.size
		}
		for _, p := range n.parents {
			st.checkChild(n, p, fail)
			if k := (nameKey{p, fold(n.name)}); n.live() && n.name != "" {
				if other := names[k]; other != nil && !st.twins[k] {
					fail("nodes %s and %s are both %q in %s", other.id, id, n.name, p)
				}
				names[k] = n
			}
		}
	}
	if used != st.used {
		fail("contents are %d bytes, the account says %d", used, st.used)
	}
	st.mu.RUnlock()
	seen := map[string]bool{}
	for _, w := range contents {
		if !seen[w.ct.blob] {
			seen[w.ct.blob] = true
			if err := s.checkContent(w.id, w.ct); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

func (st *store) checkChild(n *node, parent string, fail func(string, ...any)) {
	p := st.byID[parent]
	switch {
	case p == nil || p.status == StatusPurged:
		if n.live() {
			fail("live node %s has a parent that is not there: %s", n.id, parent)
		}
		return
	case p.kind != KindFolder && n.kind != KindAsset:
		fail("node %s is below %s, which is no folder", n.id, parent)
	case n.live() && !p.live() && !slices.ContainsFunc(n.parents, func(id string) bool {
		other := st.byID[id] // a node with several parents lives on in the others
		return other != nil && other.live()
	}):
		fail("live node %s is below %s in the trash", n.id, parent)
	}
	if _, ok := st.children[parent][n]; !ok {
		fail("node %s is missing among the children of %s", n.id, parent)
	}
	if parent == n.id || st.belowLocked(parent, n) {
		fail("node %s is below itself", n.id)
	}
}

func (s *Server) checkContent(id string, ct *content) error {
	f, err := s.st.blobs.open(ct.blob)
	if errors.Is(err, os.ErrNotExist) {
		if now := s.st.get(id); now == nil || now.content == nil || now.content.blob != ct.blob {
			return nil // replaced while we looked
		}
	}
	if err != nil {
		return fmt.Errorf("content of %s: %w", id, err)
	}
	defer f.Close()
	h := md5.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return fmt.Errorf("content of %s: %w", id, err)
	}
	if n != ct.size || [md5.Size]byte(h.Sum(nil)) != ct.md5 {
		return fmt.Errorf("content of %s: %d bytes %x on disk, %d bytes %x in the record", id, n, h.Sum(nil), ct.size, ct.md5)
	}
	return nil
}
