package cache

import (
	"context"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drivefs/drivefs/cache/mirror"
	"github.com/drivefs/drivefs/cache/recent"
	"github.com/drivefs/drivefs/cache/tree"
	"github.com/drivefs/drivefs/drive"
)

// The feed does not carry properties (API §11), so what other machines of
// ours keep in them (modification times, mode bits, attributes) is asked for
// when a folder is first looked into: one children call for all of it.

// propsAsked is what is known of the folders that were asked for.
type propsAsked struct {
	mu      sync.Mutex
	folders recent.Map[uint64, *askedFolder] // guarded by mu
	// strangers are creators whose files bear no properties of ours: as long
	// as our own owner name is not known, files of others are asked for.
	// Guarded by mu.
	strangers map[string]bool
}

// askedFolder is a folder since the last news in it: news takes it out of the
// table, so what is noted here of a look before it is not believed after it.
type askedFolder struct {
	told  bool      // there is nothing to ask for; guarded by propsAsked.mu
	again time.Time // when it may be asked for next; guarded by propsAsked.mu
}

func (p *propsAsked) stranger(creator string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.strangers[creator]
}

const (
	propsRetry = time.Minute     // after a question that was not answered
	propsLag   = 5 * time.Second // after a listing older than what it is asked about (API §13.1)
)

// look is the folder as it is now; ask tells whether it may be asked for.
func (p *propsAsked) look(dir uint64) (f *askedFolder, ask bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f, ok := p.folders.Get(dir)
	if !ok {
		f = &askedFolder{}
		p.folders.Put(dir, f)
	}
	return f, !f.told && !time.Now().Before(f.again)
}

// note says what a look at f showed: all is told, or when to ask next.
func (p *propsAsked) note(f *askedFolder, told bool, again time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f.told, f.again = told, time.Now().Add(again)
}

// forget is told of news in dir.
func (p *propsAsked) forget(dir uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.folders.Delete(dir)
}

// lacksProps tells whether a node may have properties of ours that are not
// known for the version it has.
func (s *Store) lacksProps(r *mirror.Record, owner string) bool {
	if owner == "" {
		return !s.propsAsked.stranger(r.CreatedBy)
	}
	return r.CreatedBy == owner && (r.Props == nil || r.PropsVersion < r.Version)
}

// recognise finds our owner name on a machine that never created a node:
// where the key of ours is, the owner is us. nodes come with properties.
func (s *Store) recognise(nodes []drive.Node) {
	if s.owner() != "" {
		return
	}
	for i := range nodes {
		for owner, props := range nodes[i].Properties {
			if _, ours := props[tree.PropAttr]; ours && owner == nodes[i].CreatedBy {
				s.remote.SetOwner(owner)
				s.learnOwner()
				return
			}
		}
	}
	var met []string
	for i := range nodes {
		if nodes[i].Kind == drive.File && nodes[i].Live() && !slices.Contains(met, nodes[i].CreatedBy) {
			met = append(met, nodes[i].CreatedBy)
		}
		// Which are ours nobody can say yet, so they are no news about what
		// this machine keeps until somebody can.
		nodes[i].Properties = nil
	}
	s.noteStrangers(met)
}

// metaStrangers keeps the creators that are not us over restarts.
const metaStrangers = "strangers"

// maxStrangers bounds them; an account has a handful of apps.
const maxStrangers = 64

// noteStrangers remembers creators whose files bear no properties of ours.
func (s *Store) noteStrangers(creators []string) {
	p := &s.propsAsked
	p.mu.Lock()
	if p.strangers == nil {
		p.strangers = map[string]bool{}
	}
	news := false
	for _, c := range creators {
		if !p.strangers[c] && len(p.strangers) < maxStrangers {
			p.strangers[c], news = true, true
		}
	}
	all := slices.Sorted(maps.Keys(p.strangers))
	p.mu.Unlock()
	if !news {
		return
	}
	if err := s.mirror.SetMeta(metaStrangers, strings.Join(all, "\n")); err != nil {
		s.log.Warn("keeping the names of other apps", "err", err)
	}
}

// loadStrangers reads what an earlier mount found out.
func (s *Store) loadStrangers() {
	if v := s.mirror.Meta(metaStrangers); v != "" {
		s.propsAsked.strangers = map[string]bool{}
		for name := range strings.SplitSeq(v, "\n") {
			s.propsAsked.strangers[name] = true
		}
	}
}

// propsKnown makes sure that the properties of our own nodes in dir are
// known, as far as the drive tells within a call's bound; past it the answer
// goes without them, and they are pushed to the kernel when they come.
func (s *Store) propsKnown(ctx context.Context, dir uint64) {
	f, ask := s.propsAsked.look(dir)
	if !ask {
		return
	}
	var bound *time.Timer
	for range 2 { // the first answer may tell that we have an owner name
		owner := s.owner()
		if lacks, err := s.childLacksProps(dir, owner); err != nil {
			return
		} else if !lacks {
			s.propsAsked.note(f, true, 0)
			return
		}
		r, ok, err := s.mirror.Get(dir)
		online := s.remote.State().Kind
		if err != nil || !ok || online == drive.Offline || online == drive.AuthRequired {
			return
		}
		c := s.startListing(dir, r.ID)
		if bound == nil {
			bound = time.NewTimer(s.o.CallTimeout)
			defer bound.Stop()
		}
		select {
		case <-c.done:
		case <-bound.C:
			s.propsAsked.note(f, false, propsRetry)
			return
		case <-ctx.Done():
			return
		}
		if c.err != nil {
			s.propsAsked.note(f, false, propsRetry)
			return
		}
		if owner == s.owner() {
			return // the listing noted how far it told
		}
	}
}

func (s *Store) childLacksProps(dir uint64, owner string) (lacks bool, err error) {
	err = s.mirror.Scan(dir, 0, math.MaxInt, func(r *mirror.Record) bool {
		lacks = s.lacksProps(r, owner)
		return !lacks
	})
	return lacks, err
}

// propsOf is propsKnown for the folder of one node that is looked up by name.
func (s *Store) propsOf(ctx context.Context, dir uint64, name string) {
	if _, ask := s.propsAsked.look(dir); !ask {
		return
	}
	// What has a local change shows that, and needs nothing from the drive.
	if r, _, ok, err := s.mirror.Lookup(dir, name); err == nil && ok && !s.journal.Has(r.Ino) && s.lacksProps(&r, s.owner()) {
		s.propsKnown(ctx, dir)
	}
}

// propsOfNode is propsKnown for the folder of the node ino, which the kernel
// asks for, or wants to change, without looking it up.
func (s *Store) propsOfNode(ctx context.Context, ino uint64) {
	if s.journal.Has(ino) {
		return
	}
	r, ok, err := s.mirror.Get(ino)
	if err == nil && ok && len(r.Parents) > 0 && s.lacksProps(&r, s.owner()) {
		s.propsKnown(ctx, r.Parents[0])
	}
}
