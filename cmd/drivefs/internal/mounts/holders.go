package mounts

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Holder is one reason why a mount cannot be taken away.
type Holder struct {
	PID     int    `json:"pid"` // 0: not a process but a mount inside the mount
	Command string `json:"command"`
	What    string `json:"what"` // "works in", "has open", "has mapped", "runs" or "is mounted at"
	Path    string `json:"path"`
}

func (h Holder) String() string {
	if h.PID == 0 {
		return fmt.Sprintf("%s %s %s", h.Command, h.What, h.Path)
	}
	return fmt.Sprintf("%s (%d) %s %s", h.Command, h.PID, h.What, h.Path)
}

// Holders is who keeps m busy, as far as this user may see: one reason a
// process, in the order of process ids. A mount without a mountpoint is one
// that was detached: its device finds who still has it.
func Holders(m Mount) []Holder {
	var found []Holder
	all, _ := List()
	for _, l := range all {
		if m.Mountpoint != "" && l.Mountpoint != m.Mountpoint && Below(l.Mountpoint, m.Mountpoint) {
			found = append(found, Holder{Command: l.Source, What: "is mounted at", Path: l.Mountpoint})
		}
	}
	procs, _ := os.ReadDir("/proc")
	var pids []int
	for _, p := range procs {
		if pid, err := strconv.Atoi(p.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	for _, pid := range pids {
		if h, ok := holder(pid, m); ok {
			found = append(found, h)
		}
	}
	return found
}

func holder(pid int, m Mount) (Holder, bool) {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	h := Holder{PID: pid}
	link := func(name, what string) bool {
		target, err := os.Readlink(filepath.Join(proc, name))
		target = strings.TrimSuffix(target, " (deleted)")
		switch {
		case err != nil:
			return false
		case m.Mountpoint == "":
			if !onDevice(filepath.Join(proc, name), m) {
				return false
			}
		case !Below(target, m.Mountpoint):
			return false
		}
		h.What, h.Path = what, target
		return true
	}
	held := link("cwd", "works in") || link("root", "works in") || link("exe", "runs")
	if !held {
		fds, _ := os.ReadDir(filepath.Join(proc, "fd"))
		held = slices.ContainsFunc(fds, func(fd os.DirEntry) bool { return link("fd/"+fd.Name(), "has open") })
	}
	if !held {
		h.Path, held = mapped(filepath.Join(proc, "maps"), m)
		h.What = "has mapped"
	}
	if held {
		comm, _ := os.ReadFile(filepath.Join(proc, "comm"))
		h.Command = strings.TrimSpace(string(comm))
	}
	return h, held
}

// onDevice reports whether what a link of /proc leads to lies on m. The
// filesystem itself is not asked: it may be the caller's, or dead.
func onDevice(link string, m Mount) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, link, unix.AT_STATX_DONT_SYNC, 0, &st)
	return err == nil && st.Dev_major == m.Major && st.Dev_minor == m.Minor
}

// mapped looks for a mapping of the mount's device: a file may stay mapped
// after its descriptor is closed. Source: proc_pid_maps(5).
func mapped(file string, m Mount) (string, bool) {
	f, err := os.Open(file)
	if err != nil {
		return "", false
	}
	defer f.Close()
	device := fmt.Sprintf("%02x:%02x", m.Major, m.Minor)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) >= 6 && fields[3] == device {
			return strings.Join(fields[5:], " "), true
		}
	}
	return "", false
}
