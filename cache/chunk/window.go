package chunk

// What a READ makes the cache fetch beyond its own bytes is decided here, from
// the READs of one handle alone; see doc.go for what follows from it.
const (
	// look is what is fetched at least where nothing is known but one read: a
	// request costs a round trip, for which a slow line brings as much.
	look = 256 << 10
	// filmLook is that of films and pictures: where a player jumps to it reads on,
	// from the whole picture before that place, and a second request would be a
	// second round trip. A file up to this size is fetched whole.
	filmLook = 512 << 10
	// trusting is from where on as much is fetched ahead as was read: before it,
	// half of that. Whoever wants a part of a file has stopped by then.
	trusting = 2 << 20
	// nearby is how far from where a course of reads goes on a read still belongs to
	// it: the kernel has several of up to 1 MiB on their way, and they overtake
	// each other.
	nearby = 4 << 20
)

// window is one course of reads through a version, one after the other, and
// what it has earned.
type window struct {
	next int64 // where the next read is expected
	run  int64 // bytes read so far
	gap  int64 // bytes before next that were jumped over and not read yet
}

// near reports whether a read at off goes on with w, and how far it is off.
func (w *window) near(off int64) (int64, bool) {
	d := max(off-w.next, w.next-off)
	return d, d <= nearby
}

// read takes w to the end of a read of [off, end) that is near.
func (w *window) read(off, end int64) {
	switch {
	case off >= w.next:
		w.gap += off - w.next
		w.run += end - off
		w.next = end
	default:
		// Overtaken by another read, or looked at again: what was read twice
		// earns nothing.
		late := min(min(end, w.next)-off, w.gap)
		w.gap -= late
		w.run += late
		if end > w.next {
			w.run += end - w.next
			w.next = end
		}
	}
}

// ahead is how many bytes behind next the course has earned. What it jumped
// over counts against it: whoever looks at a little here and there reads nothing
// one after the other. A picture is viewed whole or only its head is read.
func (w *window) ahead(name string) int64 {
	earned := max(w.run-w.gap, 0)
	if earned < trusting && !isImage(name) {
		return max(earned/2, min(earned, look))
	}
	return earned
}

// wants is up to where a read of [off, end) that misses its bytes fetches: at
// least a look, which begins at the granule it is in.
func (w *window) wants(v *Version, off, end int64) int64 {
	n := int64(look)
	if isFilm(v.Name) || isImage(v.Name) || v.Size <= filmLook {
		n = filmLook
	}
	return min(max(off-off%granuleSize+n, end+w.ahead(v.Name)), v.Size)
}
