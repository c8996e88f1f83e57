package mirror

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/drivefs/drivefs/drive"
)

// meanwhile is a context that does something when it is first looked at.
type meanwhile struct {
	context.Context
	once *sync.Once
	do   func()
}

func (m meanwhile) Err() error {
	m.once.Do(m.do)
	return m.Context.Err()
}

// TestCheckBesideOthers: a check keeps nobody waiting, and is of one moment.
func TestCheckBesideOthers(t *testing.T) {
	for _, complete := range []bool{false, true} {
		t.Run(fmt.Sprintf("complete %v", complete), func(t *testing.T) {
			m := open(t, Options{})
			nodes := []drive.Node{dir("d", "dir", 1)}
			for i := range 3000 {
				nodes = append(nodes, leaf(fmt.Sprint("f", i), fmt.Sprint("file ", i), 1, "d"))
			}
			apply(t, m, nodes...)
			if complete {
				if err := m.FeedEnd(day0); err != nil {
					t.Fatal(err)
				}
			}
			did := false
			errs := m.Check(meanwhile{t.Context(), new(sync.Once), func() {
				did = true
				// Each of these would wait for ever for a lock that is held.
				news := []drive.Node{leaf("new", "new", 1, "d")}
				for i := range 1000 {
					news = append(news, leaf(fmt.Sprint("f", i), fmt.Sprint("other ", i), 2))
				}
				apply(t, m, news...)
				told(t, m)(m.Answer(leaf("mine", "mine", 1), true, newIno(t, m)))
				if err := m.FeedEnd(day0); err != nil {
					t.Error(err)
				}
			}})
			if len(errs) > 0 || !did {
				t.Error(errs, did)
			}
			ctx, cancel := context.WithCancel(t.Context())
			errs = m.Check(meanwhile{ctx, new(sync.Once), cancel})
			if len(errs) != 1 || !errors.Is(errs[0], context.Canceled) {
				t.Error("ended by its context:", errs)
			}
		})
	}
}
