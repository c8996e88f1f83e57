package cache

import (
	"context"
	"sync"
)

// background runs what goes on without the call that began it, until the Store
// closes.
type background struct {
	ctx context.Context // ends with close
	end context.CancelFunc
	wg  sync.WaitGroup
}

func newBackground() *background {
	b := &background{}
	b.ctx, b.end = context.WithCancel(context.Background())
	return b
}

// run calls fn on a goroutine of its own; ctx ends when the Store closes, and
// fn must return then.
func (b *background) run(fn func(ctx context.Context)) {
	b.wg.Go(func() { fn(b.ctx) })
}

// close ends what runs and waits for it. Nothing may be run afterwards.
func (b *background) close() {
	b.end()
	b.wg.Wait()
}
