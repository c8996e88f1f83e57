package drivetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
)

// Orders of BulkInOrder.
const (
	Interleaved   = "interleaved"    // the folders, then their files by turns
	Shuffled      = "shuffled"       // the folders, then their files in no order
	ChildrenFirst = "children-first" // the files by turns, their folders last
)

// BulkInOrder makes the tree of Bulk so that the feed tells it in another order.
func (s *Server) BulkInOrder(order string, n, perDir int) error {
	if perDir < 1 {
		return errors.New("bulk: perDir must be positive")
	}
	ct, err := s.bulkContent()
	if err != nil {
		return err
	}
	dirs := (n + perDir) / (perDir + 1)
	list := make([]*node, dirs)
	err = s.bulkMake(dirs, func(t *tx, i int) {
		list[i] = t.create(&node{name: fmt.Sprintf("bulk-%07d", i), kind: KindFolder, parents: []string{t.root.id}, createdBy: elseOwner})
	})
	if err != nil {
		return err
	}
	next := make([]int, n-dirs)
	for i := range next {
		next[i] = i
	}
	if order == Shuffled {
		rand.New(rand.NewPCG(1, 2)).Shuffle(len(next), func(i, j int) { next[i], next[j] = next[j], next[i] })
	}
	parents := make([][]string, dirs) // of the files of a folder, one list for all
	for i, d := range list {
		parents[i] = []string{d.id}
	}
	err = s.bulkMake(len(next), func(t *tx, i int) {
		k := next[i]
		t.create(&node{name: fmt.Sprintf("file-%06d.txt", k/dirs), kind: KindFile, parents: parents[k%dirs], createdBy: elseOwner, content: ct})
	})
	if err != nil || order != ChildrenFirst {
		return err
	}
	for _, d := range list {
		if _, err := s.Else().Touch(d.id); err != nil {
			return err
		}
	}
	return nil
}

// bulkMake calls one for each of n nodes, in transactions that are not too large.
func (s *Server) bulkMake(n int, one func(t *tx, i int)) error {
	const step = 20_000
	for i := 0; i < n; {
		t, e := s.st.begin()
		if e != nil {
			return e
		}
		for ; i < n && len(t.dirty) < step; i++ {
			one(t, i)
		}
		if err := t.load(); err != nil {
			return err
		}
	}
	return nil
}
