package journal

import (
	"errors"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"
)

// The ballast is room that only the log may have when the disk is full, so
// that closing, renaming and, above all, deleting works there: on filesystems
// that write nothing in place, too. It is made again when there is room.
const (
	ballastName = "ballast"
	ballastSize = 8 << 20
	ballastRoom = 8 * ballastSize // free on the disk before it is made
)

// roomLeast is what MakeRoom is asked for at least, so that it is not asked
// for each write.
const roomLeast = 64 << 20

// isFull reports whether the error is of a disk without room.
func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// makeRoom lets go of the files that nobody needs any more, then asks who else
// may have room to give; it tells whether there may be room now. It is called
// by who writes a draft.
func (j *Journal) makeRoom(bytes int64) bool {
	j.mu.Lock()
	some := len(j.rubbish) > 0
	j.mu.Unlock()
	if some && j.harden() != nil {
		some = false
	}
	if !j.unlinking.TryLock() { // some are being removed
		some = true
		j.unlinking.Lock()
	}
	j.unlinking.Unlock()
	return some || j.room != nil && j.room(max(bytes, roomLeast))
}

// makeRoomForLog asks who may have room to give, then gives the ballast up.
func (j *Journal) makeRoomForLog() bool {
	asked := j.room != nil && j.room(roomLeast)
	err := j.fs.Remove(j.path(ballastName))
	if err == nil {
		j.log.Warn("journal: the disk is full, the reserve of the log is given up")
	}
	return asked || err == nil
}

// restoreBallast makes the ballast again, best effort.
func (j *Journal) restoreBallast() {
	path := j.path(ballastName)
	if _, err := os.Lstat(path); err == nil {
		return
	}
	var st unix.Statfs_t
	if err := unix.Statfs(j.dir, &st); err != nil || int64(st.Bavail)*st.Bsize < ballastRoom {
		return
	}
	f, err := j.fs.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return
	}
	if err := errors.Join(f.Allocate(unix.FALLOC_FL_KEEP_SIZE, 0, ballastSize), f.Close()); err != nil {
		j.log.Info("journal: no reserve for the log", slog.Any("err", err))
		_ = j.fs.Remove(path) // it would be no reserve
	}
}

// Uncommitted lists the inodes of files whose content was to be recorded and
// could not, because the log could not be written. The bytes are kept:
// OpenDraft finds them, dirty.
func (j *Journal) Uncommitted() (inos []uint64) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	for ino, d := range j.drafts {
		if d.kept && d.dirty.Load() {
			inos = append(inos, ino)
		}
	}
	return inos
}
