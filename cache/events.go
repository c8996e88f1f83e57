package cache

import (
	"fmt"
	"log/slog"
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
	paths *paths
	log   *slog.Logger

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

// conflicted tells of a conflict that a change on the drive brought about: ino is
// called name now.
func (e *events) conflicted(ino uint64, name string) {
	e.add("conflict", e.paths.of(ino), fmt.Sprintf("a file of that name was made on the drive meanwhile: both are kept; the local one is %q", name))
	e.log.Warn("conflict: both versions are kept", "local", name)
}

// rescued tells of a local change whose folder went from the drive.
func (e *events) rescued(ino uint64) {
	e.add("edit", e.paths.of(ino), "its folder went from the drive; the folder is made again")
}

func (e *events) all() []Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.list)
}
