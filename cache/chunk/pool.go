package chunk

// Sizes. A chunk is what windows, ristretto and files of the disk tier are
// made of; a block is what memory is given out in; a granule is what is
// fetched, checksummed and known to be there. 64 granules a chunk make its
// state one word.
const (
	granuleSize = 64 << 10
	blockSize   = 256 << 10
	chunkSize   = 4 << 20

	granulesPerBlock = blockSize / granuleSize
	granulesPerChunk = chunkSize / granuleSize
	blocksPerChunk   = chunkSize / blockSize
	blocksPerSlab    = blocksPerChunk

	minMemory = 8 << 20 // enough that the largest View always fits
	maxView   = 2 << 20 // a longer read is copied, piece by piece
)

// block is one buffer of the pool and what is in it. Guarded by Cache.mu,
// except the bytes of buf: a granule is written by the one fetch it belongs
// to, and read only after that fetch said under the lock that it is there.
type block struct {
	buf    []byte
	ch     *chunk // nil: free, or orphaned and freed by its last unpin
	idx    int    // which block of ch
	pins   int    // views, waiting reads, the fetch and the disk writer in it
	unread bool   // fetched ahead for a running stream, not read yet
	used   int64  // pool.tick when it was last touched
}

// pool gives out the blocks. All blocks there will ever be are max; slabs are
// mapped as they are first needed and stay until Close. Guarded by Cache.mu.
type pool struct {
	max    int
	blocks []*block // every block made so far
	free   []*block // last in, first out: warm memory first
	slabs  [][]byte
	hand   int // where the search for a victim goes on
	tick   int64

	pinned   int // blocks with pins
	unread   int // blocks without pins that are unread
	promised int // blocks the running fetches will still ask for
	closed   bool
}

// available is how many blocks read-ahead may plan with: not pinned, not
// waiting to be read, not promised to a running fetch.
func (p *pool) available() int { return p.max - p.pinned - p.unread - p.promised }

// inUse is how many blocks hold something.
func (p *pool) inUse() int { return len(p.blocks) - len(p.free) }

// grow maps one more slab, when the bound allows. An error of mmap is like
// having reached the bound.
func (p *pool) grow() bool {
	n := min(blocksPerSlab, p.max-len(p.blocks))
	if n <= 0 {
		return false
	}
	slab, err := newSlab(n * blockSize)
	if err != nil {
		p.max = len(p.blocks)
		return false
	}
	p.slabs = append(p.slabs, slab)
	for i := n - 1; i >= 0; i-- {
		b := &block{buf: slab[i*blockSize : (i+1)*blockSize : (i+1)*blockSize]}
		p.blocks = append(p.blocks, b)
		p.free = append(p.free, b)
	}
	return true
}

// release unmaps the slabs once the pool is closed and nothing is pinned.
func (p *pool) release() {
	if !p.closed || p.pinned > 0 {
		return
	}
	for _, s := range p.slabs {
		freeSlab(s)
	}
	p.slabs, p.blocks, p.free = nil, nil, nil
}

// victim finds the block to take from somebody: not pinned, not unread
// (unless everything is), least recently used of a sample. Nil when every
// block is pinned, or unread and unread is not allowed.
func (p *pool) victim(unread bool) *block {
	const sample = 32
	var best, last *block
	seen := 0
	for range p.blocks {
		p.hand++
		if p.hand >= len(p.blocks) {
			p.hand = 0
		}
		b := p.blocks[p.hand]
		if b.pins > 0 || b.ch == nil {
			continue
		}
		if b.unread {
			if unread && (last == nil || b.used < last.used) {
				last = b
			}
			continue
		}
		if best == nil || b.used < best.used {
			best = b
		}
		if seen++; seen == sample {
			break
		}
	}
	if best != nil {
		return best
	}
	return last
}

// takeLocked returns a block that belongs to nobody, or nil. Read-ahead does
// not get what was fetched ahead for others; a read somebody waits for does.
func (c *Cache) takeLocked(foreground bool) *block {
	p := &c.pool
	if len(p.free) == 0 && !p.grow() {
		v := p.victim(foreground)
		if v == nil {
			return nil
		}
		c.evictLocked(v)
	}
	b := p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	return b
}

// evictLocked takes the block of an unpinned part of a chunk away.
func (c *Cache) evictLocked(b *block) {
	ch := b.ch
	c.detachLocked(b)
	c.pool.free = append(c.pool.free, b)
	if ch.cached > 0 {
		c.policyLocked(ch)
	}
}

// detachLocked makes b no part of its chunk any more.
func (c *Cache) detachLocked(b *block) {
	ch := b.ch
	if b.unread {
		b.unread = false
		if b.pins == 0 {
			c.pool.unread--
		}
	}
	ch.blocks[b.idx] = nil
	ch.have &^= blockMask(b.idx)
	b.ch = nil
}

// attachLocked makes b block idx of ch.
func (c *Cache) attachLocked(b *block, ch *chunk, idx int) {
	b.ch, b.idx = ch, idx
	ch.blocks[idx] = b
	c.pool.tick++
	b.used = c.pool.tick
}

// pinLocked keeps b's bytes where they are until unpinLocked.
func (c *Cache) pinLocked(b *block) {
	if b.pins == 0 {
		c.pool.pinned++
		if b.unread {
			c.pool.unread--
		}
	}
	b.pins++
	c.pool.tick++
	b.used = c.pool.tick
}

func (c *Cache) unpinLocked(b *block) {
	if c.letGoLocked(b) {
		c.nextForMemoryLocked()
	}
}

// letGoLocked is unpinLocked without waking who waits for memory; it reports
// whether there is more of it now.
func (c *Cache) letGoLocked(b *block) bool {
	b.pins--
	if b.pins > 0 {
		return false
	}
	p := &c.pool
	p.pinned--
	if b.unread {
		p.unread++
	}
	switch {
	case b.ch == nil:
		p.free = append(p.free, b)
	case b.ch.empty(b.idx):
		c.detachLocked(b)
		p.free = append(p.free, b)
	}
	p.release()
	return true
}

// nextForMemoryLocked lets the read that has waited longest for buffers look
// again.
func (c *Cache) nextForMemoryLocked() {
	if len(c.memory) > 0 {
		close(c.memory[0].ch)
		c.memory = c.memory[1:]
	}
}

// readAllLocked: what of ch was fetched ahead is not waited for any more.
func (c *Cache) readAllLocked(ch *chunk) {
	for _, b := range ch.blocks {
		if b != nil {
			c.readLocked(b)
		}
	}
}

// readLocked says that b was read, or need not wait for it.
func (c *Cache) readLocked(b *block) {
	if b.unread {
		b.unread = false
		if b.pins == 0 {
			c.pool.unread--
		}
	}
}
