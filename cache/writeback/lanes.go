package writeback

import "time"

// lane is which limit a piece of work counts against.
type lane int

const (
	laneCalls lane = iota // no content to send
	laneSmall             // content below smallFile
	laneLarge             // other content
	lanes
)

// limits says how much may run at once. Owned by the queue.
//
// The number of parallel uploads is not known beforehand: the service does
// not publish what it bears (API §13.3). It starts at half, grows by one with
// each upload that went well, and is halved when one was throttled, once per
// round. Large files never take the last quarter, so a small file never
// waits for a large one to end; and small ones leave one place while large ones
// wait and none runs, so that a day of small files does not hold up a large one.
type limits struct {
	calls   int // most in laneCalls
	most    int // most uploads, whatever happens
	uploads int // most uploads now
	running [lanes]int
	fell    time.Time // when uploads was last halved
}

func newLimits(o Options) limits {
	return limits{calls: o.Calls, most: o.Uploads, uploads: max(1, o.Uploads/2)}
}

// free reports whether one more may start in l; largeWaits: something is ready
// in laneLarge.
func (m *limits) free(l lane, largeWaits bool) bool {
	switch l {
	case laneCalls:
		return m.running[laneCalls] < m.calls
	case laneLarge:
		return m.running[laneLarge] < m.large() && m.content() < max(m.uploads, 2)
	default:
		most := m.uploads
		if largeWaits && m.running[laneLarge] == 0 {
			most--
		}
		// One small file may always go: a single large upload must not stop the rest.
		return m.content() < most || m.running[laneSmall] == 0
	}
}

// large is how many uploads of laneLarge may run.
func (m *limits) large() int {
	reserve := (m.uploads + 3) / 4
	return max(1, m.uploads-reserve)
}

func (m *limits) content() int { return m.running[laneSmall] + m.running[laneLarge] }

// total is everything that runs.
func (m *limits) total() int { return m.content() + m.running[laneCalls] }

// ended notes how a piece of work in l that began then went.
func (m *limits) ended(l lane, began time.Time, throttled, good bool, now time.Time) {
	m.running[l]--
	switch {
	case throttled:
		// What began before the last fall met the same throttling.
		if began.After(m.fell) {
			m.uploads = max(1, m.uploads/2)
			m.fell = now
		}
	case good && l != laneCalls:
		m.uploads = min(m.most, m.uploads+1)
	}
}
