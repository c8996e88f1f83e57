package guard

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Dying tells whether the process pid was killed, or ended, and cannot go: its
// first thread is gone, or has SIGKILL pending. A process that is not there any
// more counts; one that cannot be looked at does not.
func Dying(pid int) bool {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return true
	}
	return err == nil && dying(status)
}

// dying reads it out of a /proc status file.
func dying(status []byte) bool {
	const kill = 1 << (unix.SIGKILL - 1)
	for line := range bytes.Lines(status) {
		name, val, _ := bytes.Cut(bytes.TrimSpace(line), []byte(":\t"))
		switch string(name) {
		case "State":
			if len(val) > 0 && (val[0] == 'Z' || val[0] == 'X') {
				return true
			}
		case "SigPnd", "ShdPnd":
			if mask, err := strconv.ParseUint(string(val), 16, 64); err == nil && mask&kill != 0 {
				return true
			}
		}
	}
	return false
}
