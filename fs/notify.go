package fs

import (
	"context"
	"slices"
	"sync"
	"syscall"

	fusefs "github.com/hanwen/go-fuse/v2/fs"

	"github.com/drivefs/drivefs/cache"
)

// notifiers is the most goroutines that tell the kernel at once. One waits as
// long as a request in its directory is unanswered, which one that came after
// the news may be, so there must be others.
const notifiers = 16

// notifier tells the kernel what it has to forget. Work is gathered by folder
// and sent one folder at a time each, so within a folder it is in order, and
// what comes while a folder waits is told together. Names wait for the requests
// in their folder (see calls), which costs no goroutine. Telling late or twice is
// harmless: the kernel asks the Store again and gets what is true then.
//
// Its goroutines are started when there is work and end when there is none;
// close waits for them.
type notifier struct {
	t *tree

	mu      sync.Mutex
	waiting map[uint64]*news // by folder; guarded by mu
	order   []uint64         // folders that may be told, first come first, some twice; guarded by mu
	telling map[uint64]*news // guarded by mu
	workers int              // guarded by mu
	closed  bool             // guarded by mu
	held    bool             // work gathers until open; guarded by mu
	wg      sync.WaitGroup
}

// news is what the kernel has to forget of one folder.
type news struct {
	names []string          // names that went, or stand for something else
	seen  map[string]bool   // the same
	came  []arrival         // names that were not there before
	list  bool              // the listing and the folder's times
	attrs map[uint64]string // attributes of children: ino → the name it should have
	self  bool              // attributes of the folder itself
	done  chan struct{}     // closed when it was told
	// busy is at how many places requests are under way that names wait for;
	// -1 = not looked at yet. Guarded by notifier.mu.
	busy int
}

// arrival is a name that came, and the inode it stands for.
type arrival struct {
	name string
	ino  uint64
}

func (n *news) name(name string) {
	n.list = true
	n.entry(name)
}

func (n *news) entry(name string) {
	if n.seen == nil {
		n.seen = map[string]bool{}
	}
	if !n.seen[name] {
		n.seen[name] = true
		n.names = append(n.names, name)
	}
}

func (n *news) attr(name string, ino uint64) {
	if n.attrs == nil {
		n.attrs = map[uint64]string{}
	}
	n.attrs[ino] = name
}

// effects takes what changed without a call of the kernel. It only queues and
// moves names in go-fuse's tree; it never waits.
func (n *notifier) effects(es []cache.Effect) {
	for i := range es {
		n.t.move(&es[i])
	}
	for i := range es {
		n.effect(&es[i])
	}
}

func (n *notifier) effect(e *cache.Effect) {
	for _, o := range e.Old {
		stays := slices.Contains(e.New, o)
		n.add(o.Dir, func(w *news) {
			// Whoever has it open may ask for its attributes again.
			w.attr(o.Name, e.Ino)
			switch {
			case !stays:
				w.name(o.Name)
			case e.Content:
				w.entry(o.Name)
			}
		})
	}
	for _, d := range e.New {
		if slices.Contains(e.Old, d) {
			continue
		}
		n.add(d.Dir, func(w *news) {
			w.list = true
			if len(e.Old) > 0 {
				w.attr(d.Name, e.Ino)
			}
			if e.Content {
				w.entry(d.Name)
			} else {
				w.came = append(w.came, arrival{d.Name, e.Ino})
			}
		})
	}
	if e.Folder && e.Attr {
		n.add(e.Ino, func(w *news) { w.self = true })
	}
	if e.Folder && len(e.Old) == 0 && len(e.New) > 0 {
		n.anew(e.Ino)
	}
}

// anew makes the kernel forget all it has in a folder that was away and comes
// back, from the trash for one. What changed in it meanwhile changed nothing
// that was shown, so nobody told of it; but what is held open in the folder
// kept its name there.
func (n *notifier) anew(dir uint64) {
	for _, d := range n.t.index.of(dir) {
		names := d.Children()
		n.add(dir, func(w *news) {
			w.list = true
			for name := range names {
				w.entry(name)
			}
		})
	}
}

// name makes the kernel forget one name of the folder dir, and the listing.
func (n *notifier) name(dir uint64, name string) {
	n.add(dir, func(w *news) { w.name(name) })
}

// add puts work for a folder into the queue, unless the kernel has nothing of
// that folder in its caches.
func (n *notifier) add(dir uint64, put func(*news)) {
	places := n.t.index.of(dir)
	if len(places) == 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return
	}
	w := n.waiting[dir]
	if w == nil {
		if n.waiting == nil {
			n.waiting, n.telling = map[uint64]*news{}, map[uint64]*news{}
		}
		w = &news{done: make(chan struct{}), busy: -1}
		n.waiting[dir] = w
		if n.telling[dir] == nil {
			n.order = append(n.order, dir)
		}
	}
	put(w)
	if w.busy < 0 && len(w.names)+len(w.came) > 0 {
		w.busy = 0
		for _, d := range places {
			if d.calls.after(func() { n.answered(dir, w) }) {
				w.busy++
			}
		}
	}
	n.employLocked()
}

// answered is called when w waits for one place less.
func (n *notifier) answered(dir uint64, w *news) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if w.busy--; w.busy == 0 && n.waiting[dir] == w && n.telling[dir] == nil {
		n.order = append(n.order, dir)
		n.employLocked()
	}
}

// employLocked starts goroutines for the work that waits.
func (n *notifier) employLocked() {
	if len(n.order) > 0 && n.workers < notifiers && !n.held {
		n.workers++
		n.wg.Go(n.work)
	}
}

// hold gathers work without telling it: what changes while a mount begins is
// told when go-fuse has its connection.
func (n *notifier) hold() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.held = true
}

// open ends hold.
func (n *notifier) open() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.held = false
	n.employLocked()
}

// work tells folders until none is left.
func (n *notifier) work() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for len(n.order) > 0 {
		dir := n.order[0]
		n.order = n.order[1:]
		w := n.waiting[dir]
		if w == nil || w.busy > 0 {
			continue // told already, or again in the order when it is answered
		}
		delete(n.waiting, dir)
		n.telling[dir] = w
		n.mu.Unlock()
		n.t.tell(dir, w)
		n.mu.Lock()
		delete(n.telling, dir)
		if n.waiting[dir] != nil {
			n.order = append(n.order, dir)
		}
		close(w.done)
	}
	n.workers--
}

// settle returns when everything that was queued before it was told.
func (n *notifier) settle(ctx context.Context) error {
	n.mu.Lock()
	var all []*news
	for _, w := range n.waiting {
		all = append(all, w)
	}
	for _, w := range n.telling {
		all = append(all, w)
	}
	n.mu.Unlock()
	for _, w := range all {
		select {
		case <-w.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// close drops what waits and waits for what is being told. The connection must
// be gone, or about to: then the kernel answers at once.
func (n *notifier) close() {
	n.mu.Lock()
	n.closed = true
	for dir, w := range n.waiting {
		delete(n.waiting, dir)
		close(w.done)
	}
	n.order = nil
	n.mu.Unlock()
	n.wg.Wait()
}

// tell is the one place that notifies the kernel. It runs on the notifier's
// goroutines and holds nothing. Nodes come from the index and go-fuse's tree,
// so each of them was attached.
//
// The names come before the listing: NotifyEntry waits until the READDIRs
// under way are answered, so that what they read is in the kernel's cache, and
// out of it again, when NotifyContent has run. At least one name is told for
// that. More of those that came are told only where the kernel may remember
// that they were absent, or has something else under them: a folder listed on
// demand would otherwise be forgotten name by name right after it was shown.
func (t *tree) tell(ino uint64, w *news) {
	for _, d := range t.index.of(ino) {
		var byIno map[uint64]*fusefs.Inode
		for ino, name := range w.attrs {
			have := d.GetChild(name)
			if have == nil || inoOf(have) != ino {
				// The kernel may know it by another spelling only, or by the
				// name it had before.
				if byIno == nil {
					byIno = children(d)
				}
				have = byIno[ino]
			}
			if have != nil {
				t.told("attributes", have.NotifyContent(-1, 0))
			}
		}
		for _, name := range w.names {
			t.told("name", d.NotifyEntry(name))
		}
		waited := len(w.names) > 0
		for _, a := range w.came {
			have := d.GetChild(a.name)
			// go-fuse's tree is no proof of what the kernel has: move was
			// faster, or the node is held open since before it went.
			if !d.asked.Load() && (have == nil || inoOf(have) == a.ino) {
				continue
			}
			t.told("name", d.NotifyEntry(a.name))
			waited = true
		}
		if !waited && len(w.came) > 0 {
			t.told("name", d.NotifyEntry(w.came[0].name))
		}
		switch {
		case w.list:
			t.told("listing", d.NotifyContent(0, 0))
		case w.self:
			t.told("attributes", d.NotifyContent(-1, 0))
		}
	}
}

// children are the nodes below d by their inode number in the Store.
func children(d *dir) map[uint64]*fusefs.Inode {
	in := map[uint64]*fusefs.Inode{}
	for _, n := range d.Children() {
		in[inoOf(n)] = n
	}
	return in
}

// told looks at the kernel's answer to a notification.
func (t *tree) told(what string, e syscall.Errno) {
	switch e {
	case 0,
		syscall.ENOENT,                                  // the kernel does not have it: as it should be
		syscall.ENOTCONN, syscall.ENODEV, syscall.EBADF, // unmounting
		syscall.ENOTDIR, syscall.ENOTEMPTY, syscall.EBUSY:
		return
	}
	t.log.Warn("the kernel refused a notification", "of", what, "err", e)
}

// move gives a renamed node its new place in go-fuse's tree at once, where the
// kernel knows both folders. Otherwise the tree would have it at the old place
// until the next lookup, and news of its attributes would not find it.
func (t *tree) move(e *cache.Effect) {
	var from, to *cache.Dentry
	for i := range e.Old {
		if !slices.Contains(e.New, e.Old[i]) {
			if from != nil {
				return
			}
			from = &e.Old[i]
		}
	}
	for i := range e.New {
		if !slices.Contains(e.Old, e.New[i]) {
			if to != nil {
				return
			}
			to = &e.New[i]
		}
	}
	if from == nil || to == nil {
		return
	}
	olds, news := t.index.of(from.Dir), t.index.of(to.Dir)
	if len(olds) != 1 || len(news) != 1 {
		return
	}
	if have := olds[0].GetChild(from.Name); have != nil && inoOf(have) == e.Ino {
		olds[0].MvChild(from.Name, news[0].EmbeddedInode(), to.Name, true)
	}
}

// inoOf is the Store's inode number of a node.
func inoOf(n *fusefs.Inode) uint64 {
	if d, ok := n.Operations().(*dir); ok {
		return d.ino
	}
	return n.StableAttr().Ino
}
