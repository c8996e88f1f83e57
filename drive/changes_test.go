package drive

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const (
	line1 = `{"checkpoint":"c1","reset":true,"nodes":[{"id":"1","kind":"FOLDER","status":"AVAILABLE"},{"id":"2"}],"statusCode":200}` + "\n"
	line2 = `{"checkpoint":"c2","reset":false,"nodes":[{"id":"1","status":"TRASH"}],"statusCode":200}` + "\n"
	end   = `{"end":true}` + "\n"
)

func collect(c *Client, ctx context.Context, r ChangesRequest) (got string, err error) {
	for b, e := range c.Changes(ctx, r) {
		if e != nil {
			err = e
			continue // it is the last, or the test sees what follows
		}
		got += fmt.Sprintf("%s,%v,%d ", b.Checkpoint, b.Reset, len(b.Nodes))
	}
	return strings.TrimSpace(got), err
}

func TestChangesStreams(t *testing.T) {
	tests := []struct {
		name, body, want string
		err              error
	}{
		{"whole", line1 + line2 + end, "c1,true,2 c2,false,1", nil},
		{"end alone", end, "", nil},
		{"no news", `{"checkpoint":"c9","reset":false,"nodes":[],"statusCode":200}` + end, "c9,false,0", nil},
		{"fields in any order", `{"statusCode":200,"nodes":[{"id":"1"}],"new":{"a":[1,{}]},"reset":true,"checkpoint":"c1"}` + end, "c1,true,1", nil},
		{"null nodes", `{"checkpoint":"c1","nodes":null}` + end, "c1,false,0", nil},
		{"odd nodes", `{"checkpoint":"c1","nodes":[{"kind":"FILE"},{"id":"1","version":"x"},7,{"createdDate":0,"id":"2"} ,"x",null, {"createdDate":"","id":"3"},[],{"id":"4"}]}` + end, "c1,false,4", nil},
		{"all in one line", strings.ReplaceAll(line1+line2+end, "\n", ""), "c1,true,2 c2,false,1", nil},
		{"something after the end", line1 + end + "garbage", "c1,true,2", nil},
		{"no end line", line1 + line2, "c1,true,2 c2,false,1", ErrCut},
		{"cut in a line", line1 + line2[:60], "c1,true,2", ErrCut},
		{"garbage at the end", line1 + line2 + `{"checkpoint":"c3","nodes":[{"id":!`, "c1,true,2 c2,false,1", ErrCut},
		{"HTML at the end", line1 + `<html>gateway</html>`, "c1,true,2", ErrCut},
		{"partial failure", line1 + `{"checkpoint":"c2","nodes":[{"id":"9"}],"statusCode":503}` + line2 + end, "c1,true,2", ErrCut},
		{"empty", "", "", ErrCut},
		{"not the API", "<html>hotel</html>", "", ErrProtocol},
		{"an array", `[]`, "", ErrCut},
		{"a huge value", `{"checkpoint":"` + strings.Repeat("x", 2*maxFeedValue) + `"}` + end, "", ErrCut},
	}
	for _, tt := range tests {
		for _, zip := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.name, ", gzip ", zip), func(t *testing.T) {
				s, c := socketless(t, nil)
				s.HandleFunc("POST /meta/changes", func(w http.ResponseWriter, r *http.Request) {
					body := []byte(tt.body)
					if zip && r.Header.Get("Accept-Encoding") == "gzip" {
						var b bytes.Buffer
						z := gzip.NewWriter(&b)
						_, _ = z.Write(body)
						z.Close()
						body = b.Bytes()
						w.Header().Set("Content-Encoding", "gzip")
					}
					_, _ = w.Write(body)
				})
				got, err := collect(c, bg, ChangesRequest{})
				if got != tt.want || !errors.Is(err, tt.err) {
					t.Errorf("got %.300q, %v", got, err)
				}
			})
		}
	}
}

func TestChangesRequestAndErrors(t *testing.T) {
	s, c := socketless(t, nil)
	var bodies []string
	status := 200
	s.HandleFunc("POST /meta/changes", func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		bodies = append(bodies, string(b))
		reply(w, status, end)
	})
	for _, r := range []ChangesRequest{{}, {Checkpoint: "c", ChunkSize: 5, MaxNodes: 7, IncludePurged: true}} {
		if _, err := collect(c, bg, r); err != nil {
			t.Fatal(err)
		}
	}
	if want := `{} {"checkpoint":"c","chunkSize":5,"maxNodes":7,"includePurged":"true"}`; strings.Join(bodies, " ") != want {
		t.Errorf("%s", bodies)
	}
	status = 400
	_, err := collect(c, bg, ChangesRequest{Checkpoint: "old"})
	wantIs(t, err, ErrCheckpoint)
	_, err = collect(c, bg, ChangesRequest{})
	wantIs(t, err, ErrInvalid)
}

func TestChangesConnectionLost(t *testing.T) {
	s, c := overTCP(t, nil)
	s.HandleFunc("POST /meta/changes", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, line1+line2[:30])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	got, err := collect(c, bg, ChangesRequest{})
	wantIs(t, err, ErrCut)
	if got != "c1,true,2" {
		t.Errorf("%q", got)
	}
}

// A batch is there when its line is, not when the stream ends; who has
// enough ends the call, and who cancels is told so.
func TestChangesAreStreamed(t *testing.T) {
	s, c := overTCP(t, nil)
	left := make(chan struct{}, 2)
	s.HandleFunc("POST /meta/changes", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = io.WriteString(z, line1)
		z.Flush()
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		left <- struct{}{}
	})
	for b, err := range c.Changes(bg, ChangesRequest{}) {
		if err != nil || b.Checkpoint != "c1" {
			t.Errorf("%+v, %v", b, err)
		}
		break
	}
	<-left
	ctx, cancel := context.WithCancel(bg)
	defer cancel()
	var last error
	for b, err := range c.Changes(ctx, ChangesRequest{}) {
		if b.Checkpoint == "c1" {
			cancel()
		}
		last = err
	}
	<-left
	wantIs(t, last, context.Canceled)
	if errors.Is(last, ErrCut) {
		t.Error("the feed was not cut, the caller left")
	}
}

func TestChangesSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pr, pw := io.Pipe()
		s, c := socketless(t, func(o *Options) {
			base := o.Transport
			o.Transport = roundTripperFunc(func(r *http.Request) (*http.Response, error) {
				if r.Method != "POST" {
					return base.RoundTrip(r)
				}
				time.Sleep(10 * time.Minute) // before the first byte of a full sync
				go func() {
					_, _ = io.WriteString(pw, line1)
					<-r.Context().Done()
					pw.CloseWithError(r.Context().Err())
				}()
				return &http.Response{StatusCode: 200, Header: http.Header{}, Body: pr, Request: r}, r.Context().Err()
			})
		})
		_ = s
		start := time.Now()
		got, err := collect(c, bg, ChangesRequest{})
		wantIs(t, err, ErrCut)
		if got != "c1,true,2" || time.Since(start) != 10*time.Minute+changesSilence {
			t.Errorf("%q after %v", got, time.Since(start))
		}
	})
}

// endlessLine writes one line of n nodes and the end.
func endlessLine(w io.Writer, reset string, n int) {
	fmt.Fprintf(w, `{"checkpoint":"c2",%s"nodes":[{"id":"0"}`, reset)
	for i := 1; i < n; i++ {
		fmt.Fprintf(w, `,{"id":"%d","name":"some name that takes space","parents":["p"],"labels":[]}`, i)
	}
	_, _ = io.WriteString(w, "]}\n"+end)
}

func TestChangesHugeLine(t *testing.T) {
	for reset, want := range map[string]string{
		`"reset":true,`:  ",true,20000 ,false,20000 c2,false,5000",
		`"reset":false,`: "c1,false,20000 c1,false,20000 c2,false,5000",
		``:               "c2,false,45000",
	} {
		s, c := socketless(t, nil)
		s.HandleFunc("POST /meta/changes", func(w http.ResponseWriter, r *http.Request) { endlessLine(w, reset, 45_000) })
		got, err := collect(c, bg, ChangesRequest{Checkpoint: "c1"})
		if err != nil || got != want {
			t.Errorf("%s: %q, %v", reset, got, err)
		}
	}
}

// An odd node is understood wherever it stands, and changes nothing around it.
func TestChangesOddNodesInALongLine(t *testing.T) {
	pr, pw := io.Pipe()
	go func() {
		fmt.Fprint(pw, strings.Repeat(`{"checkpoint":"c0","nodes":[]}`+"\n", 10_000))
		fmt.Fprint(pw, `{"checkpoint":"c1","nodes":[`)
		for i := range 5_000 {
			sep, odd := ",", `"2015-06-01T09:10:11.120Z"`
			if i == 0 {
				sep = ""
			}
			if i%97 == 5 {
				sep, odd = " ,\n", `"never"`
			}
			fmt.Fprintf(pw, `%s{"createdDate":%s,"id":"%d","name":"n%d"}`, sep, odd, i, i)
		}
		fmt.Fprint(pw, `]}{"end":true}`)
		pw.Close()
	}()
	i := 0
	f := newFeed(pr, "")
	err := f.run(func(b Batch, err error) bool {
		for _, n := range b.Nodes {
			if n.ID != fmt.Sprint(i) || n.Name != "n"+n.ID || n.Created.IsZero() != (i%97 == 5) {
				t.Fatalf("node %d is %+v", i, n)
			}
			i++
		}
		return true
	})
	if err != nil || i != 5_000 || cap(f.in.keep) > 1<<20 {
		t.Errorf("%d nodes, %d bytes kept, %v", i, cap(f.in.keep), err)
	}
}

func TestChangesMemory(t *testing.T) {
	pr, pw := io.Pipe()
	go func() {
		endlessLine(pw, `"reset":true,`, 200_000)
		pw.Close()
	}()
	nodes, peak := 0, uint64(0)
	err := newFeed(pr, "").run(func(b Batch, err error) bool {
		nodes += len(b.Nodes)
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		peak = max(peak, m.HeapAlloc)
		return true
	})
	if err != nil || nodes != 200_000 || peak > 30<<20 {
		t.Errorf("%d nodes, heap up to %d MiB, %v", nodes, peak>>20, err)
	}
}

// repeated gives a text again and again, as fast as it is taken.
type repeated struct {
	head, text string
	n          int64  // bytes given
	look       func() // called each MiB
}

func (r *repeated) Read(p []byte) (n int, err error) {
	for n < len(p) {
		at := r.n + int64(n)
		var from string
		if at < int64(len(r.head)) {
			from = r.head[at:]
		} else {
			from = r.text[(at-int64(len(r.head)))%int64(len(r.text)):]
		}
		n += copy(p[n:], from)
	}
	if r.n += int64(n); r.n>>20 != (r.n-int64(n))>>20 {
		r.look()
	}
	return n, nil
}

// A feed without an end costs memory within bounds, and comes to an end.
func TestChangesWithoutEnd(t *testing.T) {
	const open = `{"checkpoint":"c2","nodes":[{"id":"0"}`
	owners := ""
	for i := range 1000 {
		owners += fmt.Sprintf(`"o%d":{"k":""},`, i)
	}
	for i, tt := range []struct {
		name, head, text string
		whole            bool // asked from the start
		ends             bool // within maxHeldCost and what is buffered
	}{
		{"nodes before reset", open, `,{"id":"a","name":"n"}`, false, true},
		{"small nodes before reset", open, `,{"id":"a"}`, false, true},
		{"nodes with many parents", open, `,{"id":"a","parents":[` + strings.Repeat(`"",`, 1000) + `""]}`, false, true},
		{"nodes with many properties", open, `,{"id":"a","properties":{` + owners + `"p":{}}}`, false, true},
		{"no nodes at all", open, `,{}`, false, true},
		{"odd things", open, `,7`, false, true},
		{"nodes after reset", `{"checkpoint":"c2","reset":true,"nodes":[{"id":"0"}`, `,{"id":"a","name":"n"}`, false, false},
		{"everything was asked for", open, `,{"id":"a","name":"n"}`, true, false},
		{"fields", `{"checkpoint":"c2"`, `,"a":1`, false, true},
		{"blanks", `{`, " ", false, true},
		{"blanks in nodes", open, "\n", false, true},
		{"a text", `{"checkpoint":"`, "x", false, true},
		{"a key", `{"`, "x", false, true},
		{"a node", open + `,{"name":"`, "x", false, true},
		{"a deep node", open + `,{"name":`, "[", false, true},
		{"a field of its own", `{"x":["`, "x", false, true},
		{"empty lines", "", "\n", false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := &repeated{head: tt.head, text: tt.text}
			checkpoint := "c1"
			if tt.whole {
				checkpoint = ""
			}
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			before, peak, batches, nodes := m.HeapAlloc, uint64(0), 0, 0
			look := func() {
				if runtime.ReadMemStats(&m); m.HeapAlloc-min(before, m.HeapAlloc) > 10<<20 {
					runtime.GC()
					runtime.ReadMemStats(&m)
				}
				peak = max(peak, m.HeapAlloc-min(before, m.HeapAlloc))
			}
			in.look = look
			const enough = 4
			f, scale := newFeed(in, checkpoint), int64(8)
			if i == 0 {
				scale = 1 // the rest are of the same make
			}
			f.bounds = feedBounds{usualBounds.batch / scale, usualBounds.held / scale, usualBounds.idle / scale, usualBounds.line / scale}
			err := f.run(func(b Batch, err error) bool {
				batches++
				nodes += len(b.Nodes)
				return batches < enough
			})
			switch {
			case tt.ends && (err == nil || batches > 0):
				t.Errorf("%d batches, %v", batches, err)
			case !tt.ends && (err != nil || batches != enough || nodes < enough*maxBatchNodes/10):
				t.Errorf("%d batches, %d nodes, %v", batches, nodes, err)
			}
			if peak > uint64(80<<20/scale+16<<20) || tt.ends && in.n > 2*f.bounds.idle+4*maxFeedValue {
				t.Errorf("%d MiB of memory, %d MiB read", peak>>20, in.n>>20)
			}
			t.Logf("%d MiB of memory, %d MiB read: %v", peak>>20, in.n>>20, err)
		})
	}
}
