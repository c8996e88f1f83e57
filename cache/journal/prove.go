package journal

import (
	"errors"
	"log/slog"
	"slices"
	"time"
)

// proveAfter is how long recorded content may wait for its upload before it
// is synced although nobody asked. After a power failure content that was not
// is set aside, so this bounds what such a failure can keep from the drive,
// while files that are uploaded at once never cost a sync.
const proveAfter = 5 * time.Second

// noteUnprovenLocked keeps the prover's list.
func (j *Journal) noteUnprovenLocked(e *Entry) {
	p := j.proven[e.Ino]
	if e.Draft == nil || e.Draft.Size == 0 || (p != nil && p.Gen == e.Draft.Gen) {
		delete(j.unproven, e.Ino)
		return
	}
	if _, ok := j.unproven[e.Ino]; ok {
		return
	}
	j.unproven[e.Ino] = time.Now()
	if len(j.unproven) == 1 {
		wake(j.toProve)
	}
}

// prover syncs content that has waited for long. It is a goroutine of its own
// because syncing gigabytes takes longer than a commit may wait.
func (j *Journal) prover() {
	for {
		select {
		case <-j.toProve:
		case <-j.stop:
			return
		}
		for j.waitingForProof() > 0 {
			if !j.proveSome() {
				return
			}
		}
	}
}

// proveSome waits a while and syncs what is due by then. It returns false
// when the journal is closing.
func (j *Journal) proveSome() bool {
	t := time.NewTimer(j.prove / 4)
	defer t.Stop()
	select {
	case <-t.C:
	case <-j.stop:
		return false
	}
	for _, ino := range j.dueForProof() {
		select {
		case <-j.stop:
			return false
		default:
			j.proveContent(ino)
		}
	}
	return true
}

func (j *Journal) waitingForProof() int {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return len(j.unproven)
}

// dueForProof is the inodes that have waited long enough, the longest first.
func (j *Journal) dueForProof() []uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	var due []uint64
	now := time.Now()
	for ino, since := range j.unproven {
		if now.Sub(since) >= j.prove {
			due = append(due, ino)
		}
	}
	slices.SortFunc(due, func(a, b uint64) int { return j.unproven[a].Compare(j.unproven[b]) })
	for _, ino := range due {
		// Should it fail, or be changed meanwhile, it waits again.
		j.unproven[ino] = now
	}
	return due
}

func (j *Journal) proveContent(ino uint64) {
	d, err := j.ContinueDraft(ino)
	if (d == nil && err == nil) || errors.Is(err, ErrClosed) {
		return
	}
	if err == nil {
		err = errors.Join(d.Sync(), d.Close())
	}
	if err != nil {
		j.log.Warn("journal: cannot sync a draft, will be repeated", slog.Uint64("ino", ino), slog.Any("err", err))
	}
}
