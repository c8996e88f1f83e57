package chunk

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/dgraph-io/ristretto/v2"
)

// Cache is the bytes that were seen, and the reading of those that were not.
// It is safe for concurrent use.
type Cache struct {
	source      Source
	log         *slog.Logger
	downloads   int // connections that bring bytes at once
	readTimeout time.Duration
	offline     func() time.Time
	network     func() uint64
	wrong       func(v Version, again bool)

	ctx    context.Context // ends at Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // every goroutine but ristretto's

	ristretto *ristretto.Cache[string, *chunk]
	disk      *disk
	work      chan struct{} // one slot: the janitor has something to do
	toSave    chan struct{} // one slot: the disk writer has

	adopting sync.Mutex // one Adopt at a time, before mu

	// mu guards everything below, and all of content, chunk, block, fetch,
	// stream and Reader. Nothing slow happens under it.
	mu       sync.Mutex
	closed   bool
	pool     pool
	contents map[string]map[int64]*content // by id and content version
	known    int                           // how many
	changes  int64                         // how often a version was found changed

	running  []*fetch
	queue    []*fetch // reads that wait for a connection
	order    int64
	conns    int // fetches from the network that have a goroutine
	bodies   int // of these, whose answer has come
	line     line
	aheadAt  time.Time // no read-ahead from the network before
	streak   int       // failures of read-ahead since the last answer that brought bytes
	failedAt time.Time // the last of them
	pause    *time.Timer
	silence  silence
	place    uint64 // of network, lately

	streams []*stream // those that read ahead
	turn    int
	memory  []*waiter // reads that wait for buffers, first come first

	offers  []*chunk // for ristretto, see chunk.go
	touches []string
	saves   []save   // for the disk writer, see save.go
	saving  int      // blocks they pin
	later   []*chunk // for which it had no room
	saved   bool     // it has ended

	arriving flooding // see save.go

	hits, misses, downloaded, served int64
}

// Open makes a cache. It fails only when o cannot be used; a disk tier that
// does not work is reported to the Logger and tried again later.
func Open(o Options) (*Cache, error) {
	if o.Source == nil {
		return nil, errors.New("chunk: no Source")
	}
	if o.Memory == 0 {
		o.Memory = 512 << 20
	}
	if o.Downloads <= 0 {
		o.Downloads = 16
	}
	if o.ReadTimeout <= 0 {
		o.ReadTimeout = 15 * time.Second
	}
	if o.Network == nil {
		o.Network = func() uint64 { return 0 }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Cache{
		source: o.Source, log: o.Logger, readTimeout: o.ReadTimeout,
		offline: o.Offline, network: o.Network, wrong: o.Wrong,
		work: make(chan struct{}, 1), toSave: make(chan struct{}, 1),
		contents: make(map[string]map[int64]*content),
	}
	c.pool.max = int(max(o.Memory, minMemory) / blockSize)
	// Every connection may have a block pinned, and reads need some too.
	c.downloads = min(o.Downloads, c.pool.max/4)
	// One connection is for reads that somebody waits for.
	c.line = line{max: max(1, c.downloads-1)}
	// The windows take what they need from the rest by evicting; an eighth
	// is theirs without that.
	keep := int64(c.pool.max-c.pool.max/8) * blockSize
	r, err := ristretto.NewCache(&ristretto.Config[string, *chunk]{
		NumCounters:        max(1000, 10*keep/blockSize),
		MaxCost:            keep,
		BufferItems:        64,
		IgnoreInternalCost: true,
		OnExit:             c.exited,
	})
	if err != nil {
		return nil, err
	}
	c.ristretto = r
	c.place = c.network()
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if o.Dir != "" && o.Disk > 0 {
		c.disk = openDisk(o.Dir, o.Disk, int(max(o.Memory, minMemory)/16/entryBytes), o.Logger)
		c.wg.Go(func() { c.disk.scan(c.ctx) })
		c.wg.Go(func() { c.disk.keepReserve(c.ctx) })
		c.wg.Go(c.writer)
	}
	c.wg.Go(c.janitor)
	return c, nil
}

// Close ends everything that runs and waits for it. What waits for the disk
// is written first. Readers may be closed later; Views may be released later.
func (c *Cache) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	if c.pause != nil {
		c.pause.Stop()
	}
	for len(c.queue) > 0 {
		f := c.queue[0]
		c.unqueueLocked(f)
		c.finishLocked(f)
	}
	c.mu.Unlock()
	c.cancel()
	c.wg.Wait()
	c.ristretto.Close()
	c.disk.close()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, vs := range c.contents {
		for _, ct := range vs {
			for len(ct.pending) > 0 {
				c.settleFetchLocked(ct.pending[0], errClosed)
			}
		}
	}
	c.pool.closed = true
	c.pool.release()
	return nil
}

// headerTimeout is how long one request may take to be answered, and
// stallTimeout how long a body may stop, before another is made: so that a
// read has more than one try within its time.
func (c *Cache) headerTimeout() time.Duration { return c.readTimeout * 2 / 3 }
func (c *Cache) stallTimeout() time.Duration  { return c.readTimeout / 3 }

// ReadInto copies [off, off+len(p)) of v, less only at the end of the
// version, for those who want the bytes and are no handle. It asks with
// drive.Background unless ctx has a priority of its own, reads ahead within
// what was asked for only, and disturbs no Reader's windows. Errors are those
// of ReadAt.
func (c *Cache) ReadInto(ctx context.Context, v Version, p []byte, off int64) (int, error) {
	n, err := c.CopyRange(ctx, v, off, off+int64(len(p)), func(b []byte, at int64) error {
		copy(p[at-off:], b)
		return nil
	})
	return int(n), err
}

// CopyRange is ReadInto for more than one wants to hold at once: it hands out
// [from, to) in order, in pieces that give must not keep, and tells how many
// bytes that were. An error of give ends it.
func (c *Cache) CopyRange(ctx context.Context, v Version, from, to int64, give func(b []byte, at int64) error) (int64, error) {
	r := c.Reader(v)
	defer r.Close()
	to = min(to, v.Size)
	if from < 0 || from >= to {
		return 0, nil
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return 0, errClosed
	}
	s := c.beginStreamLocked(r, from)
	s.values, s.limit = ctx, to
	s.run, s.lacks = 2*chunkSize, true // what is copied is wanted
	c.mu.Unlock()
	for at := from; at < to; {
		b, err := r.ReadAt(ctx, at, int(min(to-at, maxView/2)))
		if err != nil {
			return at - from, err
		}
		for _, sl := range b.Slices() {
			if err == nil {
				err = give(sl, at)
				at += int64(len(sl))
			}
		}
		b.Release()
		if err != nil {
			return at - from, err
		}
	}
	return to - from, nil
}

// Adopt keeps the bytes of a draft that was just uploaded as v: on disk, and
// in memory when it is small. It reads r before it returns and is best
// effort: whatever fails is fetched when it is asked for.
func (c *Cache) Adopt(v Version, r io.ReaderAt) {
	if v.Size <= 0 {
		return
	}
	c.adopting.Lock()
	defer c.adopting.Unlock()
	c.mu.Lock()
	ct := c.contentLocked(v)
	if c.closed || ct.changed || ct.dropped || ct.tag != "" && !ct.sure {
		// Bytes that nobody confirmed are there already: never mix.
		c.mu.Unlock()
		return
	}
	ct.plain = true
	c.mu.Unlock()

	small := v.Size <= chunkSize
	if c.disk == nil && !small {
		return
	}
	buf := make([]byte, min(v.Size, chunkSize))
	for index := int64(0); index*chunkSize < v.Size; index++ {
		p := buf[:min(chunkSize, v.Size-index*chunkSize)]
		if n, err := r.ReadAt(p, index*chunkSize); n < len(p) {
			c.log.Debug("adopting an upload", "name", v.Name, "err", err)
			return
		}
		if small && c.adoptMemory(ct, p) || c.disk == nil {
			continue // the disk writer has it
		}
		mask := span(0, len(p))
		there, err := c.disk.write(ct.Version, index, "", mask, func(g int) []byte {
			return p[g*granuleSize : min((g+1)*granuleSize, len(p))]
		})
		if err != nil {
			return // the tier has said why
		}
		c.mu.Lock()
		if ch := ct.chunks[index]; ch != nil {
			ch.disk, ch.asked = there, true
		}
		c.mu.Unlock()
		if c.ctx.Err() != nil {
			return
		}
	}
}

// adoptMemory makes p the only chunk of ct, if there is memory to spare, and
// reports whether the disk writer will write all of it.
func (c *Cache) adoptMemory(ct *content, p []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.pool.available() < len(p)/blockSize+1 {
		return false
	}
	ch := c.chunkLocked(ct, 0)
	ch.holds++
	for idx := 0; idx*blockSize < len(p); idx++ {
		part := p[idx*blockSize : min((idx+1)*blockSize, len(p))]
		if ch.blocks[idx] != nil || ch.flying()&blockMask(idx) != 0 {
			continue
		}
		b := c.takeLocked(false)
		if b == nil {
			break
		}
		// It becomes the chunk's when it is full: nobody else writes to it.
		c.pinLocked(b)
		c.mu.Unlock()
		copy(b.buf, part)
		c.mu.Lock()
		if ch.blocks[idx] == nil && ch.flying()&blockMask(idx) == 0 && !c.closed {
			c.attachLocked(b, ch, idx)
			ch.have |= span(idx*blockSize, idx*blockSize+len(part))
		}
		c.unpinLocked(b)
	}
	c.saveLocked(ch)
	queued := ch.queued && ch.have == ch.all
	c.offerLocked(ch)
	c.unholdLocked(ch)
	return queued
}

// Cached is how many bytes of v are in memory or on disk.
func (c *Cache) Cached(v Version) int64 {
	onDisk := c.disk.bytesOf(v)
	c.mu.Lock()
	defer c.mu.Unlock()
	var n int64
	if ct := c.contents[v.ID][v.Content]; ct != nil {
		for index, ch := range ct.chunks {
			if ch.asked {
				n += ch.bytes(ch.have | ch.disk)
			} else {
				n += max(ch.bytes(ch.have), onDisk[index])
			}
			delete(onDisk, index)
		}
	}
	for _, m := range onDisk {
		n += m
	}
	return n
}

// Drop forgets every version of the node id, best effort. Open Readers go on,
// with what their windows hold and with what the service gives.
func (c *Cache) Drop(id string) {
	c.mu.Lock()
	for _, ct := range c.contents[id] {
		c.dropContentLocked(ct)
	}
	c.mu.Unlock()
	c.disk.dropNode(id)
}

// Stats is a snapshot.
func (c *Cache) Stats() Stats {
	s := Stats{DiskBytes: c.disk.bytes()}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.MemoryBytes = int64(c.pool.inUse()) * blockSize
	s.Hits, s.Misses, s.Downloaded, s.Served = c.hits, c.misses, c.downloaded, c.served
	share := c.shareLocked()
	for _, st := range c.streams {
		s.Streams = append(s.Streams, StreamStat{Name: st.ct.Name, Off: st.next, Window: min(st.ahead(st.ct.Name), share), Rate: st.rate})
	}
	return s
}
