package changes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/drivefs/drivefs/drive"
)

// What the service told is to be refreshed at least every 30 days (API §15,
// rule 11). A checkpoint that is still accepted confirms much, but not that no
// change was ever missed; so the feed is asked for everything, in pieces and
// with the lowest priority, into a Rebuild beside what is shown.
const (
	renewAfter = 28 * 24 * time.Hour
	// renewAgain is when it is tried again after it failed.
	renewAgain = 24 * time.Hour
	// renewNodes is how many nodes a piece shall have; between two the poller
	// looks whether it is wanted for something else.
	renewNodes = 20_000
)

// renew goes on with a renewal, or begins one when it is time. It is called
// after a poll that went well, and ends with the renewal, or when somebody wants
// a poll.
func (p *Poller) renew(ctx context.Context) {
	if p.begin != "" || p.partial {
		return
	}
	if p.refresh == nil {
		last := p.target.Refreshed()
		if last.IsZero() || time.Since(last) < renewAfter || time.Now().Before(p.renewAt) {
			return
		}
		if err := p.beginRefresh(ctx, true); err != nil {
			p.renewed(ctx, err)
			return
		}
		p.log.LogAttrs(ctx, slog.LevelInfo, "refreshing what is known of the drive", slog.Time("last", last))
	}
	ctx = drive.WithPriority(ctx, drive.Background)
	for began := time.Now(); ; {
		told, err := p.renewPiece(ctx, p.refresh)
		if ctx.Err() != nil {
			return
		}
		if err == nil && told == 0 {
			p.renewed(ctx, p.endRefresh(ctx))
			return
		}
		if err != nil {
			p.renewed(ctx, err)
			return
		}
		if p.wanted() || p.o.Interval > 0 && time.Since(began) >= p.o.Interval {
			return
		}
	}
}

// renewed ends a renewal.
func (p *Poller) renewed(ctx context.Context, err error) {
	p.renewAt = time.Now().Add(renewAgain)
	if err != nil {
		p.log.LogAttrs(ctx, slog.LevelWarn, "refreshing what is known of the drive", slog.Any("err", err), slog.Duration("again_in", renewAgain))
	}
	p.abortRefresh()
}

// renewPiece reads one answer into r. A service that does not know maxNodes
// tells everything at once. A cut answer is a piece too, if it got on.
func (p *Poller) renewPiece(ctx context.Context, r *fullAnswer) (told int, err error) {
	from := r.reached
	req := drive.ChangesRequest{Checkpoint: from, ChunkSize: p.o.ChunkSize, MaxNodes: renewNodes, IncludePurged: true}
	for b, err := range p.feed.Changes(ctx, req) {
		if errors.Is(err, drive.ErrCut) && r.reached != from {
			return max(told, 1), nil
		}
		if err != nil {
			return told, err
		}
		if b.Reset && r.pieces > 0 {
			return told, fmt.Errorf("the service does not go on where it was: %w", drive.ErrCheckpoint)
		}
		r.pieces++
		for part := range parts(b, applyFull) {
			if err := p.applyRefresh(ctx, part); err != nil {
				return told, err
			}
		}
		told += len(b.Nodes)
	}
	if told > 0 && r.reached == from && ctx.Err() == nil {
		return told, fmt.Errorf("the service tells the same again: %w", drive.ErrCheckpoint)
	}
	return told, ctx.Err()
}

// wanted reports whether somebody waits for a poll.
func (p *Poller) wanted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.next != nil
}
