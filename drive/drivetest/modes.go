package drivetest

import (
	"fmt"
	"hash/fnv"
	"math"
	"path"
	"slices"
	"time"
)

// Modes are ways in which a service that keeps to the document may differ
// from this one, and how slow it is. All are off by default, part of [Faults]
// (so `serve --faults` and POST /admin/faults set them too), and may change
// while the server runs. Options has those that are fixed at the start.
type Modes struct {
	// ContentETag is the ETag header of content answers (§7.4 names it, and
	// no more): "" stands for the bytes, ETagNode changes with every change
	// of the node (rename, property, date), ETagNone is no header.
	ContentETag string `json:"content_etag,omitempty"`
	// PropertiesLag: own properties show so much later in gets and listings
	// (§11; §13.1). The feed never carries them (§5.1). The properties calls
	// themselves are always fresh.
	PropertiesLag time.Duration `json:"-"`
	// FeedOrder of the nodes in an answer of the feed, whose order is not
	// guaranteed (§9.3): "" as they changed, or one of the Order constants.
	FeedOrder string `json:"feed_order,omitempty"`
	// IgnoreMaxNodes: maxNodes is a threshold which may be exceeded (§9.1).
	IgnoreMaxNodes bool `json:"ignore_max_nodes,omitempty"`
	// BadCheckpoint is how the feed meets a checkpoint it does not accept
	// (§9.3): "" everything from the start with reset:true, "400".
	BadCheckpoint string `json:"bad_checkpoint,omitempty"`
	// IfMatch overrides Options.HonourIfMatch (§5.6): "all", "update", "none".
	IfMatch string `json:"if_match,omitempty"`
	// ClockSkew: every date the service tells (nodes, quota, the Date header)
	// is so much ahead, or behind when negative. Lives of tokens are not.
	ClockSkew time.Duration `json:"-"`
	// Delay before every call, and Delays before calls of an operation, by
	// pattern ("nodes.*"); those of all patterns that match are added.
	Delay  time.Duration            `json:"-"`
	Delays map[string]time.Duration `json:"-"`
}

// Values of Modes.
const (
	ETagNode = "node"
	ETagNone = "none"

	OrderNewest   = "newest"   // last change first
	OrderChildren = "children" // deepest first; an answer that is cut is told again from its start
	OrderShuffle  = "shuffle"  // at random, by Faults.Seed
)

// modesJSON holds what needs another form in JSON.
type modesJSON struct {
	PropertiesLag duration            `json:"properties_lag,omitempty"`
	ClockSkew     duration            `json:"clock_skew,omitempty"`
	Delay         duration            `json:"delay,omitempty"`
	Delays        map[string]duration `json:"delays,omitempty"`
}

func (m *Modes) toJSON() modesJSON {
	j := modesJSON{PropertiesLag: duration(m.PropertiesLag), ClockSkew: duration(m.ClockSkew), Delay: duration(m.Delay)}
	for op, d := range m.Delays {
		if j.Delays == nil {
			j.Delays = map[string]duration{}
		}
		j.Delays[op] = duration(d)
	}
	return j
}

func (m *Modes) fromJSON(j modesJSON) {
	m.PropertiesLag, m.ClockSkew, m.Delay, m.Delays = time.Duration(j.PropertiesLag), time.Duration(j.ClockSkew), time.Duration(j.Delay), nil
	for op, d := range j.Delays {
		if m.Delays == nil {
			m.Delays = map[string]time.Duration{}
		}
		m.Delays[op] = time.Duration(d)
	}
}

func (m *Modes) validate() error {
	for _, v := range []struct {
		name, value string
		known       []string
	}{
		{"content_etag", m.ContentETag, []string{ETagNode, ETagNone}},
		{"feed_order", m.FeedOrder, []string{OrderNewest, OrderChildren, OrderShuffle}},
		{"bad_checkpoint", m.BadCheckpoint, []string{"400"}},
		{"if_match", m.IfMatch, []string{"all", "update", "none"}},
	} {
		if v.value != "" && !slices.Contains(v.known, v.value) {
			return fmt.Errorf("%s: %q is none of %q", v.name, v.value, v.known)
		}
	}
	for op := range m.Delays {
		if _, err := path.Match(op, ""); err != nil {
			return fmt.Errorf("delays: pattern %q: %w", op, err)
		}
	}
	return nil
}

// delay before a call of this operation.
func (m *Modes) delay(op string) time.Duration {
	d := m.Delay
	for pattern, more := range m.Delays {
		if match(pattern, op) {
			d += more
		}
	}
	return d
}

// ifMatch is which calls heed If-Match.
func (st *store) ifMatch() IfMatch {
	switch st.modes.Load().IfMatch {
	case "all":
		return IfMatchAll
	case "update":
		return IfMatchUpdate
	case "none":
		return IfMatchNone
	}
	return st.o.HonourIfMatch
}

// stamp is what the service takes for the time, in ms.
func (st *store) stamp() int64 {
	return st.o.Clock().Add(st.modes.Load().ClockSkew).UnixMilli()
}

// oldProps are the properties of a node before a change.
type oldProps struct {
	at    int64 // of the change
	props map[string]map[string]string
}

// keepProps remembers n's properties before they change, while they lag.
func (t *tx) keepProps(n *node) {
	lag := t.modes.Load().PropertiesLag.Milliseconds()
	if lag <= 0 {
		n.oldProps = nil
		return
	}
	kept := slices.DeleteFunc(slices.Clone(n.oldProps), func(o oldProps) bool { return o.at <= t.now-lag })
	n.oldProps = append(kept, oldProps{t.now, n.props})
}

// shownProps are n's properties as gets and listings tell them.
func (st *store) shownProps(n *node) map[string]map[string]string {
	if lag := st.modes.Load().PropertiesLag; lag > 0 {
		horizon := st.now().Add(-lag).UnixMilli()
		for _, o := range n.oldProps {
			if o.at > horizon {
				return o.props
			}
		}
	}
	return n.props
}

// feedOrder is one of the orders with its seed.
type feedOrder struct {
	name string
	seed uint64
}

// tag tells orders apart in checkpoints.
func (o feedOrder) tag() uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, o.name, o.seed)
	return h.Sum64()
}

// resumable: a key depends on nothing but the node's last change, so that a
// cut answer can go on behind a key.
func (o feedOrder) resumable() bool { return o.name != OrderChildren }

// key of a change; nodes are told in its order, and no two have the same but
// by a chance of 2^-64.
func (o feedOrder) key(st *store, n *node) uint64 {
	switch o.name {
	case OrderNewest:
		return ^n.seq
	case OrderShuffle: // splitmix64
		z := n.seq*0x9e3779b97f4a7c15 + o.seed
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		return z ^ z>>31
	}
	return math.MaxUint64 - st.depthLocked(n)<<48 - (n.seq & (1<<48 - 1))
}

// depthLocked is the longest way up.
func (st *store) depthLocked(n *node) (depth uint64) {
	for _, p := range n.parents {
		if up := st.byID[p]; up != nil {
			depth = max(depth, 1+st.depthLocked(up))
		}
	}
	return depth
}

// keyed is a change in the order it will be told.
type keyed struct {
	key, seq uint64
	n        *node
}

// orderedLocked are the changes in (from, upTo], behind a key, in order; upTo 0 is the
// last one that shows by now.
func (f *feed) orderedLocked(o feedOrder, from position) (out []keyed, upTo uint64) {
	st := f.c.s.st
	upTo = from.upTo
	hidden := false
	for _, e := range st.log[st.after(from.seq):] {
		current := e.n.seq == e.seq
		if from.upTo == 0 {
			if hidden = current && f.hides(e.n); hidden {
				break
			}
			upTo = e.seq
		} else if e.seq > from.upTo {
			break
		}
		if current && f.tells(e.n) {
			if k := o.key(st, e.n); !from.ordered || k > from.last {
				out = append(out, keyed{k, e.seq, e.n})
			}
		}
	}
	upTo = max(upTo, from.seq)
	slices.SortFunc(out, func(a, b keyed) int {
		switch {
		case a.key < b.key:
			return -1
		case a.key > b.key:
			return 1
		}
		return 0
	})
	return out, upTo
}

// inOrder returns what writes the next line of an answer in the order o.
func (f *feed) inOrder(o feedOrder, from position, reset bool, size int) func() (told int, more bool) {
	st := f.c.s.st
	st.mu.RLock()
	left, upTo := f.orderedLocked(o, from)
	st.mu.RUnlock()
	return func() (int, bool) {
		st.mu.RLock()
		defer st.mu.RUnlock()
		var nodes []*node
		at := position{seq: upTo}
		for len(left) > 0 && len(nodes) < size {
			k := left[0]
			left = left[1:]
			if k.n.seq == k.seq { // otherwise it changed meanwhile, and comes after upTo
				nodes = append(nodes, k.n)
			}
			if len(left) > 0 {
				at = position{seq: from.seq, upTo: upTo, last: k.key, tag: o.tag(), ordered: true}
			}
		}
		if at.ordered && !o.resumable() {
			at = position{seq: from.seq}
		}
		f.line(at, reset, nodes)
		reset = false
		return len(nodes), len(left) > 0
	}
}
