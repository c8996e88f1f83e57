package cache

import (
	"log/slog"
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

// properties knows which nodes may have properties of ours that the mirror
// lacks, and who we are. The feed does not carry properties (API §11), so what
// other machines of ours keep in them (modification times, mode bits, attributes)
// is asked for when a folder is first looked into: one children call for all of
// it, which is the lister's.
type properties struct {
	mirror *mirror.Mirror
	remote *drive.Client
	log    *slog.Logger

	mu      sync.Mutex
	folders recent.Map[uint64, *askedFolder] // guarded by mu
	// foreign are creators whose files bear no properties of ours: as long
	// as our own owner name is not known, files of others are asked for.
	// Guarded by mu.
	foreign map[string]bool
}

// askedFolder is a folder since the last change in it: a change takes it out of
// the table, so what is noted here of a look before it is not believed after it.
type askedFolder struct {
	told  bool      // there is nothing to ask for; guarded by properties.mu
	again time.Time // when it may be asked for next; guarded by properties.mu
}

const (
	propsRetry = time.Minute     // after a question that was not answered
	propsLag   = 5 * time.Second // after a listing older than what it is asked about (API §13.1)

	metaOwner   = "owner"     // owner name of our own properties (API §11)
	metaForeign = "strangers" // the creators that are not us
	maxForeign  = 64          // an account has a handful of apps
)

// newProperties begins with what earlier mounts found out.
func newProperties(m *mirror.Mirror, remote *drive.Client, log *slog.Logger) *properties {
	p := &properties{mirror: m, remote: remote, log: log, foreign: map[string]bool{}}
	remote.SetOwner(m.Meta(metaOwner))
	for creator := range strings.SplitSeq(m.Meta(metaForeign), "\n") {
		if creator != "" {
			p.foreign[creator] = true
		}
	}
	return p
}

// keepOwner keeps the owner name that the first node we created told.
func (p *properties) keepOwner() {
	if o := p.remote.Owner(); o != "" && p.mirror.Meta(metaOwner) != o {
		if err := p.mirror.SetMeta(metaOwner, o); err != nil {
			p.log.Warn("keeping the owner name", "err", err)
		}
	}
}

// look is the folder as it is now; ask tells whether it may be asked for.
func (p *properties) look(dir uint64) (f *askedFolder, ask bool) {
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
func (p *properties) note(f *askedFolder, told bool, again time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f.told, f.again = told, time.Now().Add(again)
}

// forget: something changed in dir.
func (p *properties) forget(dir uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.folders.Delete(dir)
}

// lacks tells whether a node may have properties of ours that are not known for
// the version it has. owner is ours, "" while it is not known.
func (p *properties) lacks(r *mirror.Record, owner string) bool {
	if owner != "" {
		return r.CreatedBy == owner && (r.Props == nil || r.PropsVersion < r.Version)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.foreign[r.CreatedBy]
}

// childLacks is lacks for any node in the folder dir.
func (p *properties) childLacks(dir uint64, owner string) (lacks bool, err error) {
	err = p.mirror.Scan(dir, 0, math.MaxInt, func(r *mirror.Record) bool {
		lacks = p.lacks(r, owner)
		return !lacks
	})
	return lacks, err
}

// recognise finds our owner name on a machine that never created a node:
// where the key of ours is, the owner is us. nodes come with properties.
func (p *properties) recognise(nodes []drive.Node) {
	if p.remote.Owner() != "" {
		return
	}
	for i := range nodes {
		for owner, props := range nodes[i].Properties {
			if _, ours := props[tree.PropAttr]; ours && owner == nodes[i].CreatedBy {
				p.remote.SetOwner(owner)
				p.keepOwner()
				return
			}
		}
	}
	var met []string
	for i := range nodes {
		if nodes[i].Kind == drive.File && nodes[i].Live() && !slices.Contains(met, nodes[i].CreatedBy) {
			met = append(met, nodes[i].CreatedBy)
		}
		// Which are ours is not known yet, so they say nothing about what this
		// machine keeps.
		nodes[i].Properties = nil
	}
	all, more := p.noteForeign(met)
	if !more {
		return
	}
	if err := p.mirror.SetMeta(metaForeign, strings.Join(all, "\n")); err != nil {
		p.log.Warn("keeping the names of other apps", "err", err)
	}
}

// noteForeign remembers creators whose files bear no properties of ours; all
// are those that are known now, more tells whether there are new ones.
func (p *properties) noteForeign(creators []string) (all []string, more bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range creators {
		if !p.foreign[c] && len(p.foreign) < maxForeign {
			p.foreign[c], more = true, true
		}
	}
	return slices.Sorted(maps.Keys(p.foreign)), more
}
