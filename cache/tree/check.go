package tree

import "fmt"

// Check holds the journal's entries against the mirror: each has its node or
// none, and stands in folders of the tree. It looks at a part of them at a
// time, so that nothing waits for it.
func (t *Tree) Check() []error {
	var errs []error
	inos := t.journal.Inos()
	for len(inos) > 0 {
		part := inos[:min(checkPart, len(inos))]
		inos = inos[len(part):]
		t.Read(func(v View) {
			for _, ino := range part {
				errs = append(errs, v.check(ino)...)
			}
		})
	}
	return errs
}

const checkPart = 256

func (v View) check(ino uint64) (errs []error) {
	e, ok := v.Entry(ino)
	if !ok {
		return nil
	}
	if (e.NodeID == "") != (e.Base == nil) {
		errs = append(errs, fmt.Errorf("entry %d: node %q and its base do not go together", ino, e.NodeID))
	}
	if have, ok := v.ByNode(e.NodeID); e.NodeID != "" && (!ok || have.Ino != ino) {
		errs = append(errs, fmt.Errorf("entry %d: its node %s belongs to another entry", ino, e.NodeID))
	}
	if e.Removed {
		return errs
	}
	for _, p := range e.Place.Parents {
		if _, ok, err := v.Inode(p); err == nil && !ok {
			errs = append(errs, fmt.Errorf("entry %d (%s): its folder %d is not in the tree", ino, e.Place.Shown, p))
		}
	}
	return errs
}

// Leaks tells what is kept for entries and open files that are gone, for tests
// once nothing is pending and nothing open.
func (t *Tree) Leaks() (errs []error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for what, n := range map[string]int{
		"generations": len(t.gens), "echoes": len(t.echoes.at) + len(t.echoes.of),
		"open files": len(t.files.open), "pins": len(t.files.pins),
	} {
		if n > 0 {
			errs = append(errs, fmt.Errorf("%d %s are kept", n, what))
		}
	}
	return errs
}
