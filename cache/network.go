package cache

import (
	"hash/fnv"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/drive"
)

// offline is since when the drive does not answer, zero when it does.
func (x *source) offline() time.Time {
	if st := x.remote.State(); st.Kind == drive.Offline {
		return st.Since
	}
	return time.Time{}
}

// networkPlace tells where in the network this machine is, and how often it has
// been asleep: what was tried in vain before another answer tells nothing.
func networkPlace() uint64 {
	h := fnv.New64a()
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		_, _ = h.Write([]byte(a.String()))
	}
	var awake, all unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &awake) == nil && unix.ClockGettime(unix.CLOCK_BOOTTIME, &all) == nil {
		_, _ = h.Write([]byte{byte((all.Nano() - awake.Nano()) / int64(time.Second))})
	}
	return h.Sum64()
}
