package changes

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"time"

	"github.com/drivefs/drivefs/drive"
)

// catchUp asks until an answer has reached its end line, and returns how many
// nodes were told.
func (p *Poller) catchUp(ctx context.Context) (told int64, err error) {
	stuck := 0
	p.starts = 0
	if p.refresh == nil && p.from() == "" { // a first sync
		if err := p.beginRefresh(ctx, false); err != nil {
			return 0, err
		}
	}
	for {
		from, starts := p.from(), p.starts
		n, err := p.answer(ctx, from)
		told += n
		switch {
		case ctx.Err() != nil:
			return told, ctx.Err()
		case err == nil:
			return told, p.end(ctx)
		case errors.Is(err, drive.ErrCheckpoint):
			if from == "" || p.starts >= startMax {
				return told, err
			}
			p.log.LogAttrs(ctx, slog.LevelWarn, "the checkpoint is not accepted, starting over", slog.Any("err", err))
			if err := p.startOver(ctx); err != nil {
				return told, err
			}
		case errors.Is(err, drive.ErrCut):
			if p.from() != from {
				stuck = 0
				p.log.LogAttrs(ctx, slog.LevelInfo, "the changes stream was cut, going on", slog.Int64("nodes", told))
				if p.starts > starts { // it began from the start
					if err := sleep(ctx, jitter(stuckFirst<<p.starts)); err != nil {
						return told, err
					}
				}
				continue
			}
			if stuck++; stuck >= stuckMax {
				return told, err
			}
			if err := sleep(ctx, jitter(stuckFirst<<(stuck-1))); err != nil {
				return told, err
			}
		default:
			return told, err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// fullAnswer is one being taken.
type fullAnswer struct {
	reached string // checkpoint inside it
	renewal bool   // in pieces between polls, which go on beside it
	pieces  int    // of a renewal
}

// from is where the next answer of a poll begins.
func (p *Poller) from() string {
	switch {
	case p.refresh != nil && !p.refresh.renewal:
		return p.refresh.reached
	case p.begin != "":
		return p.begin
	}
	return p.target.Checkpoint()
}

// startOver drops the checkpoint that the service did not accept. What a
// refresh has reached is lost with it; the Target's own knowledge stays until a
// new one has told it all.
func (p *Poller) startOver(ctx context.Context) error {
	if err := sleep(ctx, jitter(stuckFirst<<p.starts)); err != nil {
		return err
	}
	p.starts++
	if (p.refresh == nil || p.refresh.renewal) && p.begin != "" {
		p.begin = "" // the Target's own is to be tried yet
		return nil
	}
	return p.beginRefresh(ctx, false)
}

// beginRefresh begins one in the place of that under way.
func (p *Poller) beginRefresh(ctx context.Context, renewal bool) error {
	p.abortRefresh()
	from, err := p.target.BeginRefresh(ctx)
	if err != nil {
		return fmt.Errorf("beginning to take everything anew: %w", err)
	}
	p.refresh = &fullAnswer{renewal: renewal, reached: from}
	return nil
}

func (p *Poller) abortRefresh() {
	if p.refresh == nil {
		return
	}
	p.refresh = nil
	if err := p.target.AbortRefresh(); err != nil {
		p.log.LogAttrs(context.Background(), slog.LevelWarn, "dropping what was told anew", slog.Any("err", err))
	}
}

func (p *Poller) endRefresh(ctx context.Context) error {
	p.refresh = nil
	if err := p.target.EndRefresh(ctx); err != nil {
		return fmt.Errorf("taking what was told anew: %w", err)
	}
	return nil
}

// end is reached with the end line.
func (p *Poller) end(ctx context.Context) error {
	p.full = false
	if r := p.refresh; r != nil && !r.renewal {
		if err := p.endRefresh(ctx); err != nil {
			return err
		}
		p.partial = false
	}
	if p.partial {
		return nil
	}
	return p.target.FeedEnd(ctx)
}

// told is what the decoding goroutine hands over.
type told struct {
	b   drive.Batch
	err error
}

// answer reads one answer of the feed and applies it, and returns how many
// nodes were applied. Without an error the end line was reached.
func (p *Poller) answer(ctx context.Context, from string) (n int64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	stream := make(chan told, readAhead)
	go func() {
		defer close(stream)
		req := drive.ChangesRequest{Checkpoint: from, ChunkSize: p.o.ChunkSize, IncludePurged: true}
		for b, err := range p.feed.Changes(ctx, req) {
			select {
			case stream <- told{b, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	defer func() {
		cancel()
		for range stream { // until the goroutine has ended
		}
	}()
	p.full = p.full || from == ""
	if p.begin == from && from != "" && p.target.Checkpoint() == "" {
		p.partial = true
	}
	t, ok := <-stream
	for ok {
		if t.err != nil {
			return n, t.err
		}
		b := t.b
		var more bool
		t, more, ok = gather(&b, stream, p.applyMax())
		for part := range parts(b, p.applyMax()) {
			if err := p.apply(ctx, part); err != nil {
				return n, err
			}
			n += int64(len(part.Nodes))
			p.setStatus(func(s *Status) { s.NodesSeen += int64(len(part.Nodes)) })
		}
		if ok && !more {
			t, ok = <-stream
		}
	}
	return n, ctx.Err()
}

func (p *Poller) applyMax() int {
	if p.full {
		return applyFull
	}
	return applyNews
}

// gather adds chunks that are there already to b, so that a long answer is
// applied in large transactions. What it took from the stream and did not add
// is next, if there is such: an error, or a chunk that says reset and so begins
// a new state. ok=false: the stream has ended.
func gather(b *drive.Batch, stream <-chan told, limit int) (next told, more, ok bool) {
	for len(b.Nodes) > 0 && len(b.Nodes) < limit {
		select {
		case t, ok := <-stream:
			if !ok || t.err != nil || t.b.Reset {
				return t, ok, ok
			}
			b.Nodes = append(b.Nodes, t.b.Nodes...)
			if t.b.Checkpoint != "" {
				b.Checkpoint = t.b.Checkpoint
			}
		default:
			return told{}, false, true
		}
	}
	return told{}, false, true
}

// parts cuts a chunk that is larger than what shall be applied at a time. Only
// the last part has the checkpoint: it covers them all.
func parts(b drive.Batch, limit int) iter.Seq[drive.Batch] {
	return func(yield func(drive.Batch) bool) {
		for len(b.Nodes) > limit {
			if !yield(drive.Batch{Nodes: b.Nodes[:limit], Reset: b.Reset}) {
				return
			}
			b.Nodes, b.Reset = b.Nodes[limit:], false
		}
		yield(b)
	}
}

// apply gives one chunk to whom it belongs.
func (p *Poller) apply(ctx context.Context, b drive.Batch) error {
	r := p.refresh
	if b.Reset {
		again := p.full
		p.full = true
		switch mine := r != nil && !r.renewal; {
		case mine && r.reached == "":
			// This is what it was begun for.
		case mine || p.target.Checkpoint() != "":
			if again {
				// The service does not go on where the stream was cut.
				if p.starts++; p.starts > startMax {
					return &drive.Error{Op: "changes", Kind: drive.ErrCheckpoint, Err: errors.New("told from the start again and again")}
				}
			}
			if err := p.beginRefresh(ctx, false); err != nil {
				return err
			}
		}
		p.partial = false
	}
	if r = p.refresh; r != nil && !r.renewal {
		return p.applyRefresh(ctx, b)
	}
	if err := p.target.Apply(ctx, b); err != nil {
		return err
	}
	if b.Checkpoint != "" {
		p.begin = ""
	}
	return nil
}

func (p *Poller) applyRefresh(ctx context.Context, b drive.Batch) error {
	if err := p.target.ApplyRefresh(ctx, b); err != nil {
		p.abortRefresh()
		return err
	}
	if b.Checkpoint != "" {
		p.refresh.reached = b.Checkpoint
	}
	return nil
}
