package chunk

import (
	"math/bits"
	"strconv"
)

// chunk is one piece of one version, as far as it is in memory. It is in its
// content's table while it has holds. Guarded by Cache.mu.
type chunk struct {
	v     *content
	index int64
	size  int    // bytes; less than chunkSize at the end of the version
	all   uint64 // every granule it has
	have  uint64 // granules that are there and may be read by anybody

	blocks  [blocksPerChunk]*block
	fetches []*fetch // that fill granules of it, or wait to be confirmed

	offered bool // in Cache.offers

	holds   int // streams, reads under way, fetches, the disk writer, ristretto
	windows int // of these, streams'
	cached  int // of these, ristretto's
	cost    int64

	disk    uint64 // granules in the disk tier, as far as asked
	loaded  uint64 // granules that came from there
	asked   bool   // disk is known
	finding bool   // findDisk is about to
	queued  bool   // for the disk writer
	later   bool   // in Cache.later
}

// blockMask has the granules of block idx.
func blockMask(idx int) uint64 {
	return (1<<granulesPerBlock - 1) << (idx * granulesPerBlock)
}

// span has the granules from the one with byte from to the one with byte
// to-1, both relative to the chunk. Empty when from >= to.
func span(from, to int) uint64 {
	if from >= to {
		return 0
	}
	a, b := from/granuleSize, (to+granuleSize-1)/granuleSize
	return ^uint64(0) << a & (^uint64(0) >> (granulesPerChunk - b))
}

// run is the first run of granules in mask: [a, b). a == b when mask is 0.
func run(mask uint64) (a, b int) {
	if mask == 0 {
		return 0, 0
	}
	a = bits.TrailingZeros64(mask)
	return a, a + bits.TrailingZeros64(^(mask >> a))
}

// granuleEnd is where granule g ends, relative to the chunk.
func (ch *chunk) granuleEnd(g int) int { return min((g+1)*granuleSize, ch.size) }

// base is where the chunk begins in the version.
func (ch *chunk) base() int64 { return ch.index * chunkSize }

// flying has the granules that running fetches will bring or that wait to be
// confirmed.
func (ch *chunk) flying() uint64 {
	var m uint64
	for _, f := range ch.fetches {
		m |= f.span(ch)
	}
	return m
}

// fetchOf finds the fetch that granule g comes with.
func (ch *chunk) fetchOf(g int) *fetch {
	for _, f := range ch.fetches {
		if f.span(ch)&(1<<g) != 0 {
			return f
		}
	}
	return nil
}

// empty reports whether block idx holds nothing worth keeping.
func (ch *chunk) empty(idx int) bool {
	return (ch.have|ch.flying())&blockMask(idx) == 0
}

// bytes is how many bytes the granules in mask have.
func (ch *chunk) bytes(mask uint64) int64 {
	n := int64(bits.OnesCount64(mask)) * granuleSize
	if last := (ch.size - 1) / granuleSize; mask&(1<<last) != 0 {
		n -= int64((last+1)*granuleSize - ch.size)
	}
	return n
}

// chunkLocked is chunk index of v, made when it is not there. The caller must
// hold or drop it before it unlocks.
func (c *Cache) chunkLocked(v *content, index int64) *chunk {
	if ch := v.chunks[index]; ch != nil {
		return ch
	}
	size := int(min(chunkSize, v.Size-index*chunkSize))
	ch := &chunk{v: v, index: index, size: size, all: span(0, size)}
	if !c.disk.maybe(diskKeyOf(v.Version, index)) {
		ch.asked = true
	}
	v.chunks[index] = ch
	return ch
}

func (c *Cache) unholdLocked(ch *chunk) {
	ch.holds--
	c.dropLocked(ch)
}

// dropLocked lets go of a chunk nobody holds. Blocks that are pinned live on
// as orphans until they are not.
func (c *Cache) dropLocked(ch *chunk) {
	if ch.holds > 0 || ch.v.chunks[ch.index] != ch {
		return
	}
	delete(ch.v.chunks, ch.index)
	for _, b := range ch.blocks {
		if b == nil {
			continue
		}
		c.detachLocked(b)
		if b.pins == 0 {
			c.pool.free = append(c.pool.free, b)
		}
	}
}

// The retention policy. Which of the chunks that no handle needs any more
// stay in memory is ristretto's choice: a chunk that leaves a window is
// offered, and lives on with a hold of ristretto's until OnExit. Finding a
// chunk never asks ristretto but the table, so that nothing depends on a Set
// having been let in. ristretto may call back at once or block for a moment
// on its queue, so it is only ever called from the janitor, without the lock.

// tinySize is up to what size a file that is on disk, or about to be, does
// not stay in memory as well: it would take a block there, many times its own
// size, and a folder of small pictures would drive everything else out.
const tinySize = granuleSize

// offerLocked offers a chunk that leaves a window. One that came as a whole
// from the disk tier has to come a second time for it: the kernel has its bytes
// now, and reading on is faster in the few buffers that are in the processor's
// cache than through all the memory there is.
func (c *Cache) offerLocked(ch *chunk) {
	if ch.v.Size <= tinySize && (ch.queued || ch.have&^ch.disk == 0) {
		return
	}
	if ch.have == 0 || (ch.cached > 0 && ch.cost == ch.weigh()) || c.closed {
		return
	}
	if ch.cached == 0 && ch.have == ch.all && ch.loaded == ch.all && !ch.v.passed[ch.index] {
		if ch.v.passed == nil {
			ch.v.passed = make(map[int64]bool)
		}
		ch.v.passed[ch.index] = true
		return
	}
	c.policyLocked(ch)
}

// touchLocked tells ristretto that a stream has come to use a chunk: once a
// chunk, so that frequency means separate uses and not the size of READs.
func (c *Cache) touchLocked(ct *content, index int64) {
	c.touches = append(c.touches, policyKey(ct, index))
	c.wakeLocked()
}

// policyLocked has the janitor bring ristretto up to date about ch.
func (c *Cache) policyLocked(ch *chunk) {
	if ch.offered {
		return
	}
	ch.offered = true
	ch.holds++
	c.offers = append(c.offers, ch)
	c.wakeLocked()
}

func (c *Cache) wakeLocked() {
	select {
	case c.work <- struct{}{}:
	default:
	}
}

// policyKey is ristretto's key of a chunk: a string, because integers get no
// second hash there and would be mistaken for each other.
func policyKey(ct *content, index int64) string {
	return ct.key + strconv.FormatInt(index, 10)
}

// weigh is what the chunk costs in the pool, in bytes.
func (ch *chunk) weigh() int64 {
	var n int64
	for _, b := range ch.blocks {
		if b != nil {
			n += blockSize
		}
	}
	return n
}

// settlePolicy does what was put off: the janitor's part of the above.
func (c *Cache) settlePolicy() {
	c.mu.Lock()
	offers, touches := c.offers, c.touches
	c.offers, c.touches = nil, nil
	c.mu.Unlock()
	for _, k := range touches {
		c.ristretto.Get(k)
	}
	for _, ch := range offers {
		c.mu.Lock()
		ch.offered = false
		cost, key := ch.weigh(), policyKey(ch.v, ch.index)
		gone := cost == 0 || c.closed || ch.v.dropped
		del := gone && ch.cached > 0
		if !gone {
			// The hold taken in policyLocked becomes ristretto's.
			ch.cached++
			ch.cost = cost
		}
		c.mu.Unlock()
		switch {
		case gone:
			if del {
				c.ristretto.Del(key) // OnExit gives ristretto's holds back
			}
			c.mu.Lock()
			c.unholdLocked(ch)
			c.mu.Unlock()
		case !c.ristretto.Set(key, ch, cost):
			c.exited(ch) // OnExit does not come for what the queue had no room for
		}
	}
}

// exited is ristretto's OnExit: it let go of one reference to ch.
func (c *Cache) exited(ch *chunk) {
	if ch == nil {
		return // Del of what was not there
	}
	c.mu.Lock()
	ch.cached--
	c.unholdLocked(ch)
	c.mu.Unlock()
}
