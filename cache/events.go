package cache

import (
	"slices"
	"sync"
	"time"
)

// Event is something a person should know: a conflict, a change that was
// undone, something set aside.
type Event struct {
	At   time.Time `json:"at"`
	Kind string    `json:"kind"`
	Path string    `json:"path,omitempty"`
	Text string    `json:"text"`
}

// events are the last things worth telling, newest last.
type events struct {
	mu   sync.Mutex
	list []Event // guarded by mu
}

const maxEvents = 200

func (e *events) add(kind, path, text string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.list) == maxEvents {
		e.list = slices.Delete(e.list, 0, 1)
	}
	e.list = append(e.list, Event{time.Now(), kind, path, text})
}

func (e *events) all() []Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.list)
}
