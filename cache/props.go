package cache

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drivefs/drivefs/cache/mirror"
	"github.com/drivefs/drivefs/cache/tree"
	"github.com/drivefs/drivefs/drive"
)

// The feed does not carry properties (API §11), so what other machines of
// ours keep in them (modification times, mode bits, attributes) is asked for
// when a folder is first looked into: one children call for all of it.

// propsAsked remembers for which folders nothing is to be asked any more.
type propsAsked struct {
	mu sync.Mutex
	m  map[uint64]time.Time // folder → when it may be looked at again; zero = only after news
	// strangers are creators whose files bear no properties of ours: as long
	// as our own owner name is not known, files of others are asked for.
	strangers map[string]bool
	// probe is the last listing made to find our owner name: one at a time,
	// since its answer tells of all the others' folders too.
	probe *listingCall
}

func (p *propsAsked) stranger(creator string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.strangers[creator]
}

const (
	maxPropsAsked = 1 << 16
	propsRetry    = time.Minute     // after a question that was not answered
	propsLag      = 5 * time.Second // after a listing older than what it is asked about (API §13.1)
)

func (p *propsAsked) done(dir uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	until, ok := p.m[dir]
	return ok && (until.IsZero() || time.Now().Before(until))
}

func (p *propsAsked) set(dir uint64, until time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.m == nil || len(p.m) >= maxPropsAsked {
		p.m = map[uint64]time.Time{}
	}
	p.m[dir] = until
}

func (p *propsAsked) forget(dir uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.m, dir)
}

// lacksProps tells whether a node of ours may have properties that are not
// known for the version it has.
func (s *Store) lacksProps(r *mirror.Record, owner string) bool {
	if owner == "" {
		return !r.Folder && !s.propsAsked.stranger(r.CreatedBy)
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

// mayProbe tells whether a listing may be made to find our owner name; the
// caller hands it to probing.
func (p *propsAsked) mayProbe() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.probe == nil {
		return true
	}
	select {
	case <-p.probe.done:
		return true
	default:
		return false
	}
}

func (p *propsAsked) probing(c *listingCall) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.probe = c
}

// propsKnown makes sure that the properties of our own nodes in dir are
// known, as far as the drive tells within a call's bound; past it the answer
// goes without them, and they show when they come.
func (s *Store) propsKnown(ctx context.Context, dir uint64) {
	owner := s.owner()
	if s.propsAsked.done(dir) {
		return
	}
	lacks, err := s.childLacksProps(dir, owner)
	if err != nil {
		return
	}
	if !lacks {
		s.propsAsked.set(dir, time.Time{})
		return
	}
	r, ok, err := s.mirror.Get(dir)
	if err != nil || !ok {
		return
	}
	if owner == "" && !s.propsAsked.mayProbe() {
		return
	}
	s.propsAsked.set(dir, time.Now().Add(propsRetry))
	c := s.startListing(dir, r.ID)
	if owner == "" {
		s.propsAsked.probing(c)
	}
	if owner == "" || s.remote.State().Kind != drive.Online {
		return // perhaps nothing of ours, or nobody who answers: not worth a wait
	}
	t := time.NewTimer(s.o.CallTimeout)
	defer t.Stop()
	select {
	case <-c.done:
		if c.err != nil {
			break
		}
		until := time.Time{}
		if lacks, err := s.childLacksProps(dir, owner); err != nil || lacks {
			until = time.Now().Add(propsLag)
		}
		s.propsAsked.set(dir, until)
	case <-t.C:
	case <-ctx.Done():
	}
}

func (s *Store) childLacksProps(dir uint64, owner string) (lacks bool, err error) {
	err = s.mirror.Scan(dir, 0, int(^uint(0)>>1), func(r *mirror.Record) bool {
		lacks = s.lacksProps(r, owner)
		return !lacks
	})
	return lacks, err
}

// propsOf is propsKnown for the folder of one node that somebody looks up.
func (s *Store) propsOf(ctx context.Context, dir uint64, name string) {
	owner := s.owner()
	if s.propsAsked.done(dir) {
		return
	}
	if r, _, ok, err := s.mirror.Lookup(dir, name); err != nil || !ok || !s.lacksProps(&r, owner) {
		return
	}
	s.propsKnown(ctx, dir)
}
