package chunk

import (
	"errors"
	"io"
	"slices"
	"time"

	"hash/crc32"

	"golang.org/x/sys/unix"
)

// save is what the disk writer is to write: granules of a chunk, whose blocks
// it has pinned.
type save struct {
	ch     *chunk
	mask   uint64
	blocks []*block
	// Of the content when it is taken from the queue:
	tag  string
	drop bool // it is not wanted any more
}

// While bytes arrive faster than flood, the processor is needed for them: the
// disk writer lets all wait but heads and tails of media until it is slower.
const (
	flood      = 1e9 // bytes a second
	floodSpan  = 50 * time.Millisecond
	floodAfter = 2 * floodSpan
)

// flooding is what arrived in the present span.
type flooding struct {
	from, ends time.Time
	bytes      int64
}

// floodLocked counts n bytes that arrived.
func (c *Cache) floodLocked(now time.Time, n int64) {
	f := &c.arriving
	if now.Sub(f.from) >= floodSpan {
		f.from, f.bytes = now, 0
	}
	if f.bytes += n; float64(f.bytes) >= flood*floodSpan.Seconds() {
		f.ends = now.Add(floodAfter)
	}
}

// nextSaveLocked is which of the queue the writer takes, or how long it is to
// wait when none is urgent enough. The queue must not be empty.
func (c *Cache) nextSaveLocked(now time.Time) (i int, wait time.Duration) {
	if c.closed || !now.Before(c.arriving.ends) {
		return 0, 0
	}
	for i, s := range c.saves {
		if s.ch.isEdge() {
			return i, 0
		}
	}
	return 0, c.arriving.ends.Sub(now)
}

// isEdge reports whether ch is what a library scan reads of a film.
func (ch *chunk) isEdge() bool { return isMedia(ch.v.Name) && ch.v.isEdge(ch.index) }

// saveLocked queues what of ch is in memory and not on disk. Reading never
// waits for the disk: when the queue pins an eighth of the memory, what comes
// is only noted, and written if it is still there when the queue is empty.
// Heads and tails of media may pin as much again.
func (c *Cache) saveLocked(ch *chunk) {
	mask := ch.have &^ ch.disk
	if c.disk == nil || mask == 0 || ch.queued || c.saved || ch.v.dropped || !c.disk.wanted() {
		return
	}
	s := save{ch: ch}
	most := c.pool.max / 8
	if ch.isEdge() {
		most *= 2
	}
	for i, b := range ch.blocks {
		if m := mask & blockMask(i); m != 0 && c.saving < most {
			s.mask |= m
			s.blocks = append(s.blocks, b)
			c.pinLocked(b)
			c.saving++
		}
	}
	if s.mask == 0 {
		if !ch.later {
			ch.later = true
			c.later = append(c.later, ch)
		}
		return
	}
	ch.queued = true
	ch.holds++
	c.saves = append(c.saves, s)
	select {
	case c.toSave <- struct{}{}:
	default:
	}
}

// writer is the goroutine that fills the disk tier. At Close it writes what
// is queued.
func (c *Cache) writer() {
	for {
		s, wait, ok := c.nextSave()
		switch {
		case ok:
			there, err := uint64(0), errDiskOff
			if !s.drop {
				there, err = c.disk.write(s.ch.v.Version, s.ch.index, s.tag, s.mask, s.granule)
			}
			c.written(&s, there, err)
		case wait > 0:
			select {
			case <-time.After(wait):
			case <-c.toSave: // perhaps that is urgent
			case <-c.ctx.Done(): // then nothing waits
			}
		default:
			select {
			case <-c.toSave:
			case <-c.ctx.Done():
				if c.allSaved() {
					return
				}
			}
		}
	}
}

// nextSave takes the next save from the queue. ok=false: none is due before
// wait is over; 0 = none is queued.
func (c *Cache) nextSave() (s save, wait time.Duration, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.saves) == 0 && len(c.later) > 0 {
		ch := c.later[0]
		c.later[0] = nil
		c.later = c.later[1:]
		ch.later = false
		c.saveLocked(ch) // nothing, if it has gone meanwhile
	}
	if len(c.saves) == 0 {
		return save{}, 0, false
	}
	i, wait := c.nextSaveLocked(time.Now())
	if wait > 0 {
		return save{}, wait, false
	}
	s = c.saves[i]
	c.saves = slices.Delete(c.saves, i, i+1)
	s.tag, s.drop = s.ch.v.tag, s.ch.v.dropped
	return s, 0, true
}

// allSaved ends saving when nothing is queued.
func (c *Cache) allSaved() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.saved = len(c.saves) == 0 && len(c.later) == 0
	return c.saved
}

// written takes that s was written, and what of its chunk is on the disk now.
func (c *Cache) written(s *save, there uint64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := s.ch
	if err == nil {
		ch.disk, ch.asked = there, true
	}
	ch.queued = false
	c.saving -= len(s.blocks)
	for _, b := range s.blocks {
		c.unpinLocked(b)
	}
	if err == nil {
		c.saveLocked(ch) // more may have come meanwhile
	} else if ch.windows == 0 {
		c.offerLocked(ch) // if it was not, for being about to be written
	}
	c.unholdLocked(ch)
}

// granule is the bytes of granule g, one of s.mask.
func (s *save) granule(g int) []byte {
	base := g / granulesPerBlock
	i := 0
	for idx := range base {
		if s.mask&blockMask(idx) != 0 {
			i++
		}
	}
	from := g * granuleSize
	to := s.ch.granuleEnd(g)
	return s.blocks[i].buf[from-base*blockSize : to-base*blockSize]
}

// readDisk brings f from the disk tier, on the goroutine of the read that needs
// it. Whatever is wrong there ends the fetch; the reader looks again and goes to
// the network.
func (c *Cache) readDisk(f *fetch) {
	defer f.cancel()
	c.mu.Lock()
	ch := f.chunks[0]
	base, a := ch.base(), int(f.lo-ch.base())/granuleSize
	c.mu.Unlock()

	file, err := c.disk.get(f.ct.Version, ch.index)
	c.mu.Lock()
	switch {
	case err != nil:
		ch.disk, ch.asked = 0, true
	case !f.ct.admitLocked(file.tag):
		ch.disk, ch.asked = 0, true
		err = errDiskForeign
	default:
		ch.disk, ch.asked = file.mask, true
		_, n := run(file.mask &^ (1<<a - 1) & span(a*granuleSize, ch.size))
		if file.mask&(1<<a) == 0 {
			n = a
		}
		f.to = min(f.to, base+int64(n)*granuleSize)
		f.trusted = true
	}
	c.mu.Unlock()
	switch {
	case errors.Is(err, errDiskForeign):
		c.disk.put(file)
		c.disk.remove(f.ct.Version, ch.index)
	case err == nil:
		if err := c.copyDisk(f, ch, file); err != nil {
			c.log.Debug("reading the disk cache", "name", f.ct.Name, "err", err)
			c.disk.remove(f.ct.Version, ch.index)
			c.mu.Lock()
			ch.disk = 0
			c.mu.Unlock()
		}
		c.disk.put(file)
	}
	c.mu.Lock()
	c.endLocked(f, false)
	c.mu.Unlock()
}

// findDisk learns what of ch, which it holds, is in the disk tier, and has the
// kernel read that from the disk: it is soon asked for.
func (c *Cache) findDisk(ch *chunk) {
	file, err := c.disk.get(ch.v.Version, ch.index)
	if err == nil {
		_ = unix.Fadvise(int(file.f.Fd()), 0, 0, unix.FADV_WILLNEED)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	ch.finding = false
	if !ch.asked {
		ch.asked, ch.disk = true, 0
		if err == nil && ch.v.admitLocked(file.tag) {
			ch.disk = file.mask
		}
	}
	if err == nil {
		c.disk.put(file)
	}
	c.unholdLocked(ch)
	c.pumpLocked()
}

// copyDisk fills f from file, a block at a time, and checks every granule.
func (c *Cache) copyDisk(f *fetch, ch *chunk, file *diskFile) error {
	base := ch.base()
	for {
		c.mu.Lock()
		buf := c.bufferLocked(f)
		pos := int(f.at - base)
		c.mu.Unlock()
		if buf == nil {
			return nil
		}
		if n, err := file.f.ReadAt(buf, int64(headerSize+pos)); n < len(buf) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		for at := 0; at < len(buf); at += granuleSize {
			g := (pos + at) / granuleSize
			if crc32.Checksum(buf[at:min(at+granuleSize, len(buf))], castagnoli) != file.crc[g] {
				return errDiskTorn
			}
		}
		c.mu.Lock()
		c.arrivedLocked(f, len(buf))
		c.mu.Unlock()
	}
}
