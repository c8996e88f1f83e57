package control

import (
	"encoding/json"
	"errors"
	"time"
)

// Status is what `drivefs status --json` prints. Scripts read it: names stay.
type Status struct {
	Mountpoint string             `json:"mountpoint"`
	PID        int                `json:"pid"`
	Profile    string             `json:"profile"`
	Since      time.Time          `json:"since"`
	State      string             `json:"state"` // "ready", "syncing" (first feed under way) or "draining" (unmounting)
	Version    string             `json:"version"`
	ReadOnly   bool               `json:"read_only"`
	StateDir   string             `json:"state_dir"`
	Config     string             `json:"config"` // configuration file; a profile is a table of it
	Log        string             `json:"log"`    // the log's file, "" = stderr
	Remote     Remote             `json:"remote"`
	Mirror     Mirror             `json:"mirror"`
	Uploads    Uploads            `json:"uploads"`
	Limits     Limits             `json:"limits"`
	OpenFiles  int                `json:"open_files"` // file handles
	Cache      Cache              `json:"cache"`
	Streams    []Stream           `json:"streams"`
	Requests   map[string]Request `json:"requests"`
	Problems   []string           `json:"problems"` // what happened since the start that the user should know of
}

// Remote is how the service looks from the mount.
type Remote struct {
	State    string    `json:"state"` // "online", "offline", "throttled" or "auth-required"
	Since    time.Time `json:"since"`
	Error    string    `json:"error"` // "" while online
	Endpoint string    `json:"endpoint"`
}

// Mirror is what is known of the drive.
type Mirror struct {
	Nodes    int64 `json:"nodes"`
	Complete bool  `json:"complete"` // the whole feed was read once
	// CheckpointAge is how long ago the feed was last read to its end; -1 = never.
	CheckpointAge float64 `json:"checkpoint_age_seconds"`
}

// Uploads is what the drive lacks: contents, and changes of names and places.
type Uploads struct {
	Pending      int        `json:"pending"`
	PendingBytes int64      `json:"pending_bytes"`
	Active       int        `json:"active"`
	Failed       []Failure  `json:"failed"`
	Transfers    []Transfer `json:"transfers"`
	Uploaded     int64      `json:"uploaded_bytes"` // since the start
	Oldest       []Waiting  `json:"oldest"`         // the changes that wait longest, ten at most
	// Unclosed are the files that a program had open when drivefs was killed: what
	// is here of them is sent by their next writer's close, or flush.
	Unclosed []Waiting `json:"unclosed"`
	// OldestAge is how long the oldest pending change waits; 0 = none is pending.
	OldestAge float64 `json:"oldest_age_seconds"`
}

// Waiting is one change that the drive lacks.
type Waiting struct {
	Path     string    `json:"path"`
	Since    time.Time `json:"since"`
	WaitsFor string    `json:"waits_for"`
}

// Statuses is what `drivefs status --json` prints of all mounts.
type Statuses struct {
	Mounts []Status `json:"mounts"`
}

// Limits are the rates that hold now, and whether uploads are paused.
type Limits struct {
	Upload   int64 `json:"upload"`   // bytes a second, 0 = none
	Download int64 `json:"download"` // bytes a second, 0 = none
	Paused   bool  `json:"paused"`   // no more contents are sent
}

// LimitRequest changes what is not nil. Its answer is the Limits that hold then.
type LimitRequest struct {
	Upload   *int64 `json:"upload,omitempty"`
	Download *int64 `json:"download,omitempty"`
	Pause    *bool  `json:"pause,omitempty"`
}

// Failure is one change the drive did not take yet.
type Failure struct {
	Path    string    `json:"path"`
	Error   string    `json:"error"`
	RetryAt time.Time `json:"retry_at"`
}

// Transfer is one upload under way.
type Transfer struct {
	Path    string    `json:"path"`
	Op      string    `json:"op"`
	Sent    int64     `json:"sent"`
	Size    int64     `json:"size"`
	Rate    float64   `json:"rate"` // bytes a second
	Started time.Time `json:"started"`
}

// Stream is one file that is read.
type Stream struct {
	Name   string  `json:"name"`
	Offset int64   `json:"offset"`
	Window int64   `json:"window"`
	Rate   float64 `json:"rate"` // bytes a second
}

// Cache is what the chunk cache holds and did since the start.
type Cache struct {
	Memory     int64 `json:"memory_bytes"`
	Disk       int64 `json:"disk_bytes"`
	Hits       int64 `json:"hits"`
	Misses     int64 `json:"misses"`
	Downloaded int64 `json:"downloaded_bytes"`
	Served     int64 `json:"served_bytes"`
}

// Request counts the calls of one operation since the start.
type Request struct {
	Count     int64 `json:"count"`
	Errors    int64 `json:"errors"`
	Throttled int64 `json:"throttled"`
	Retries   int64 `json:"retries"` // tries beyond the first
}

// Progress is how far flush or unmount is.
type Progress struct {
	Pending      int        `json:"pending"`
	PendingBytes int64      `json:"pending_bytes"`
	Sent         int64      `json:"sent"` // bytes of the transfers under way
	Transfers    []Transfer `json:"transfers,omitempty"`
	Remote       string     `json:"remote"` // as Remote.State
}

// UnmountRequest is what `drivefs unmount` asks for. The zero value waits
// without limit and refuses when busy.
type UnmountRequest struct {
	NoWait  bool          `json:"no_wait"`
	Timeout time.Duration `json:"timeout"` // 0 = none
	Lazy    bool          `json:"lazy"`    // detach although busy
}

// UnmountResult is what was left behind.
type UnmountResult struct {
	Pending int       `json:"pending"`
	Failed  []Failure `json:"failed"`
	Why     string    `json:"why"`  // why that was not waited for, "" = it was not asked for
	Lock    string    `json:"lock"` // file whose lock is free when the process is done; "" = do not wait
}

// FlushResult is what is not on the drive.
type FlushResult struct {
	Failed []Failure `json:"failed"`
	Open   []string  `json:"open"` // files that programs write and have not closed yet
}

// RenameRequest is a path in the mount ("/a/b") and its new last element.
type RenameRequest struct {
	Path    string `json:"path"`
	NewName string `json:"new_name"`
}

// RestoreRequest is a node's id. The answer is the path it is restored to.
type RestoreRequest struct {
	ID string `json:"id"`
	As string `json:"as"` // the name to have then, "" = the one it had
}

// CheckRequest asks for mending too.
type CheckRequest struct {
	Repair bool `json:"repair"`
}

// CheckResult counts what was found.
type CheckResult struct {
	Problems int `json:"problems"`
}

// Event is one line of an answer. Exactly one field is set.
type Event struct {
	Progress *Progress       `json:"progress,omitempty"`
	Line     string          `json:"line,omitempty"` // for the user, as it is
	Result   json.RawMessage `json:"result,omitempty"`
	Fault    *Fault          `json:"fault,omitempty"`
}

// Fault is an error that crossed the socket.
type Fault struct {
	Exit    int    `json:"exit"`           // the verb's exit code
	Kind    string `json:"kind,omitempty"` // for programs that can do something about it
	Message string `json:"message"`
}

func (f *Fault) Error() string { return f.Message }

// ErrNoMount: nothing answers at the socket.
var ErrNoMount = errors.New("no mount answers")
