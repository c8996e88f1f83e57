package mirror

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drivefs/drivefs/drive"
)

// account is a big account in the order in which it was made: a folder with
// 10,000 files, then folders with 100 files each, eight folders to a level.
type account struct {
	r     *rand.Rand
	n     int
	dirs  []string
	left  int // children to come in the last folder
	times time.Time
}

const idLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

func newAccount() *account {
	return &account{r: rand.New(rand.NewPCG(1, 2)), dirs: []string{rootID}, times: day0}
}

func (a *account) id() string {
	var b [22]byte
	for i := range b {
		b[i] = idLetters[a.r.IntN(64)]
	}
	return string(b[:])
}

func (a *account) node() drive.Node {
	a.n++
	a.times = a.times.Add(1234 * time.Millisecond)
	n := drive.Node{
		ID: a.id(), Status: drive.Available, Version: 1 + a.r.Int64N(9), ETag: a.id()[:11],
		Created: a.times, Modified: a.times.Add(time.Duration(a.r.IntN(1e6)) * time.Millisecond), CreatedBy: "CloudDriveWeb",
	}
	if a.left == 0 {
		n.Kind = drive.Folder
		n.Name = fmt.Sprintf("Folder %06d", a.n)
		n.Parents = []string{a.dirs[len(a.dirs)/8]}
		a.dirs = append(a.dirs, n.ID)
		a.left = 100
		if a.n == 1 {
			a.left = 10_000
		}
		return n
	}
	a.left--
	n.Kind = drive.File
	n.Name = fmt.Sprintf("IMG_%08d holiday %03d.jpg", a.r.IntN(1e8), a.left)
	n.Parents = []string{a.dirs[len(a.dirs)-1]}
	const hex = "0123456789abcdef"
	var sum [32]byte
	for i := range sum {
		sum[i] = hex[a.r.IntN(16)]
	}
	n.Content = &drive.ContentProperties{Version: 1, Size: a.r.Int64N(1 << 32), MD5: string(sum[:]), ContentType: "image/jpeg", Extension: "jpg"}
	return n
}

func (a *account) batch(n int) drive.Batch {
	b := drive.Batch{Nodes: make([]drive.Node, 0, n)}
	for range n {
		b.Nodes = append(b.Nodes, a.node())
	}
	b.Checkpoint = "checkpoint-" + strconv.Itoa(a.n)
	return b
}

func heapBytes() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// anonymous is RssAnon of this process in MiB, 0 where it cannot be told.
func anonymous() float64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kb, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kb / 1024
		}
	}
	return 0
}

// load is a first sync of n nodes in batches of size.
func load(b testing.TB, m *Mirror, n, size int) (applying time.Duration, peak uint64) {
	a := newAccount()
	for a.n < n {
		batch := a.batch(min(size, n-a.n))
		start := time.Now()
		if _, err := m.Apply(batch); err != nil {
			b.Fatal(err)
		}
		applying += time.Since(start)
		peak = max(peak, heapBytes())
	}
	start := time.Now()
	if err := m.FeedEnd(time.Now()); err != nil {
		b.Fatal(err)
	}
	return applying + time.Since(start), peak
}

func benchMirror(b *testing.B, n, size int) (*Mirror, time.Duration, uint64) {
	m, err := Open(Options{Path: filepath.Join(b.TempDir(), "mirror.db")})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := m.Close(); err != nil {
			b.Error(err)
		}
	})
	if _, err := m.SetRoot(root()); err != nil {
		b.Fatal(err)
	}
	d, peak := load(b, m, n, size)
	return m, d, peak
}

// BenchmarkLoad is the first sync of a million nodes, as the feed brings them.
func BenchmarkLoad(b *testing.B) {
	for _, size := range []int{2000} {
		b.Run(fmt.Sprint("batch=", size), func(b *testing.B) {
			for b.Loop() {
				const n = 1_000_000
				m, d, peak := benchMirror(b, n, size)
				st, err := os.Stat(m.o.Path)
				if err != nil {
					b.Fatal(err)
				}
				runtime.GC()
				b.ReportMetric(n/d.Seconds(), "nodes/s")
				b.ReportMetric(float64(st.Size())/1e6, "db-MB")
				b.ReportMetric(float64(peak)/(1<<20), "peak-heap-MiB")
				b.ReportMetric(float64(heapBytes())/(1<<20), "heap-after-MiB")
				b.ReportMetric(anonymous(), "anon-MiB")
				start := time.Now()
				if err := m.Close(); err != nil {
					b.Fatal(err)
				}
				again, err := Open(m.o)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(time.Since(start).Milliseconds()), "reopen-ms")
				m.cur.Store(again.cur.Load()) // closed by the cleanup
			}
		})
	}
}

// orders are those in which a service may tell an account.
var orders = []struct {
	name string
	sort func(nodes []drive.Node)
}{
	{"made", func([]drive.Node) {}},
	{"interleaved", func(nodes []drive.Node) { // the folders, then their files by turns
		at, next := map[string]int{}, map[string]int{}
		for i := range nodes {
			if n := &nodes[i]; n.Kind == drive.File {
				next[n.Parents[0]]++
				at[n.ID] = next[n.Parents[0]]
			}
		}
		slices.SortStableFunc(nodes, func(a, b drive.Node) int { return cmp.Compare(at[a.ID], at[b.ID]) })
	}},
	{"random", func(nodes []drive.Node) {
		r := rand.New(rand.NewPCG(7, 8))
		r.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	}},
	{"children-first", slices.Reverse[[]drive.Node]},
}

// cpuTime is what this process has used of all processors.
func cpuTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkLoadOrders is the first sync of a million nodes in any order.
func BenchmarkLoadOrders(b *testing.B) {
	n := *loadNodes
	for _, order := range orders {
		b.Run(order.name, func(b *testing.B) {
			nodes := newAccount().batch(n).Nodes
			order.sort(nodes)
			var told []byte // nodes that are held would be the collector's work
			for i := range nodes {
				told = appendNode(told, &nodes[i])
			}
			nodes = nil
			for b.Loop() {
				m, err := Open(Options{Path: filepath.Join(b.TempDir(), "mirror.db")})
				if err != nil {
					b.Fatal(err)
				}
				start, cpu := time.Now(), cpuTime()
				begin(b, m)
				for at := 0; at < len(told); {
					part := make([]drive.Node, 2000)
					i := 0
					for ; i < len(part) && at < len(told); i++ {
						if err := decodeNode(frame(told[at:]), &part[i]); err != nil {
							b.Fatal(err)
						}
						at += len(frame(told[at:]))
					}
					tell(b, m, "c", part[:i]...)
				}
				b.ReportMetric((cpuTime()-cpu).Seconds()*1e6/float64(n), "cpu-µs/node-spooled")
				if err := m.EndRefresh(nil); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(n)/time.Since(start).Seconds(), "nodes/s")
				b.ReportMetric((cpuTime()-cpu).Seconds()*1e6/float64(n), "cpu-µs/node")
				b.ReportMetric(anonymous(), "anon-MiB")
				st, err := os.Stat(m.o.Path)
				if err := errors.Join(err, m.Close()); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(st.Size())/1e6, "db-MB")
			}
		})
	}
}

var loadNodes = flag.Int("load-nodes", 1_000_000, "nodes of BenchmarkLoadOrders")

// BenchmarkRead is what lookups and listings cost with 300,000 nodes.
func BenchmarkRead(b *testing.B) {
	m, _, _ := benchMirror(b, 300_000, 8000)
	var big Ino
	var names []string
	var inos []Ino
	err := m.List(RootIno, 0, 1, func(r *Record) bool { big = r.Ino; return true })
	if err == nil {
		err = m.List(big, 0, 10_000, func(r *Record) bool {
			names, inos = append(names, r.Shown), append(inos, r.Ino)
			return true
		})
	}
	if err != nil || len(names) < 10_000 {
		b.Fatal(len(names), err)
	}
	b.Run("lookup", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, _, ok, err := m.Lookup(big, names[i%len(names)]); !ok || err != nil {
				b.Fatal(ok, err)
			}
		}
	})
	b.Run("absent", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, _, ok, err := m.Lookup(big, "no such name"); ok || err != nil {
				b.Fatal(ok, err)
			}
		}
	})
	b.Run("get", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, ok, err := m.Get(inos[i%len(inos)]); !ok || err != nil {
				b.Fatal(ok, err)
			}
		}
	})
	b.Run("list10k", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			n := 0
			if err := m.List(big, 0, 1<<30, func(*Record) bool { n++; return true }); err != nil || n < 10_000 {
				b.Fatal(n, err)
			}
		}
	})
}

// BenchmarkApply is 100,000 known nodes that changed, while somebody looks
// names up all the time: how long was the longest wait?
func BenchmarkApply(b *testing.B) {
	const total, changed, size = 300_000, 100_000, 2000 // as the poller gives them
	m, _, _ := benchMirror(b, total, 8000)
	a := newAccount()
	all := a.batch(total).Nodes
	version := int64(100)
	for b.Loop() {
		r := rand.New(rand.NewPCG(3, 4))
		version++
		stop := make(chan struct{})
		waits := make(chan []time.Duration)
		go func() {
			var list []time.Duration
			for i := 0; ; i++ {
				select {
				case <-stop:
					waits <- list
					return
				default:
				}
				start := time.Now()
				if _, _, err := m.ByID(all[i%len(all)].ID); err != nil {
					b.Error(err)
				}
				list = append(list, time.Since(start))
			}
		}()
		perm := r.Perm(total)[:changed]
		start := time.Now()
		for part := range slices.Chunk(perm, size) {
			batch := drive.Batch{Checkpoint: fmt.Sprint("c", version, part[0])}
			for _, i := range part {
				n := all[i]
				n.Version = version
				n.Modified = n.Modified.Add(time.Hour)
				if i%10 == 0 {
					n.Name = fmt.Sprint("renamed ", version, " ", n.Name)
				}
				batch.Nodes = append(batch.Nodes, n)
			}
			changes, err := m.Apply(batch)
			if err != nil || len(changes) != len(part) {
				b.Fatal(len(changes), err)
			}
		}
		d := time.Since(start)
		close(stop)
		list := <-waits
		slices.Sort(list)
		b.ReportMetric(d.Seconds(), "s/100k")
		b.ReportMetric(float64(list[len(list)-1].Microseconds())/1000, "longest-wait-ms")
		b.ReportMetric(float64(list[len(list)*999/1000].Microseconds()), "p999-us")
	}
}
