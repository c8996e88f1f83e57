package journal

import "slices"

// extents is a set of byte ranges: sorted, disjoint, not adjacent.
type extents []Extent

// add puts [off, end) into the set. Extending the last range, which is what
// sequential writing does, costs no search and no allocation.
func (x *extents) add(off, end int64) {
	if off >= end {
		return
	}
	s := *x
	if n := len(s); n > 0 && s[n-1].Off <= off && off <= s[n-1].End {
		s[n-1].End = max(s[n-1].End, end)
		return
	}
	// [i, k) are the ranges that touch or overlap the new one.
	i := s.search(off)
	k := i
	for k < len(s) && s[k].Off <= end {
		off = min(off, s[k].Off)
		end = max(end, s[k].End)
		k++
	}
	if k > i {
		s[i] = Extent{off, end}
		*x = slices.Delete(s, i+1, k)
		return
	}
	*x = slices.Insert(s, i, Extent{off, end})
}

// search is the index of the first range that ends at or after off.
func (x extents) search(off int64) int {
	i, _ := slices.BinarySearchFunc(x, off, func(e Extent, off int64) int {
		if e.End < off {
			return -1
		}
		return 1
	})
	return i
}

// cut takes away everything at and beyond at.
func (x *extents) cut(at int64) {
	s := *x
	for n := len(s); n > 0 && s[n-1].End > at; n = len(s) {
		if s[n-1].Off < at {
			s[n-1].End = at
			break
		}
		s = s[:n-1]
	}
	*x = s
}

// missing lists the parts of [off, end) that are not in the set.
func (x extents) missing(off, end int64) []Extent {
	var gaps []Extent
	for i := x.search(off); off < end; i++ {
		if i == len(x) || x[i].Off >= end {
			gaps = append(gaps, Extent{off, end})
			break
		}
		if off < x[i].Off {
			gaps = append(gaps, Extent{off, x[i].Off})
		}
		off = max(off, x[i].End)
	}
	return gaps
}

// sane reports whether the set keeps its own rules and lies below limit.
func (x extents) sane(limit int64) bool {
	last := int64(-1)
	for _, e := range x {
		if e.Off <= last || e.Off < 0 || e.End <= e.Off || e.End > limit {
			return false
		}
		last = e.End
	}
	return true
}

// sane reports whether the state can be true of a draft.
func (s *DraftState) sane() bool {
	return s.Gen != 0 && s.Size >= 0 && s.Limit >= 0 && s.Limit <= s.Size && extents(s.Local).sane(s.Limit)
}
