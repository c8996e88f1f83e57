package changes

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/drivefs/drivefs/drive"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script is a Feed that plays answers. Each call takes the next one; when none
// is left there is no news.
type script struct {
	mu      sync.Mutex
	answers []answer
	asked   []string // checkpoints
	at      []time.Duration
	start   time.Time
}

type answer struct {
	batches []drive.Batch
	err     error         // at the end, nil = the end line
	wait    chan struct{} // if set, before the first batch
	began   chan struct{} // if set, closed when the call has come
}

func (s *script) Changes(ctx context.Context, r drive.ChangesRequest) iter.Seq2[drive.Batch, error] {
	return func(yield func(drive.Batch, error) bool) {
		s.mu.Lock()
		if !r.IncludePurged {
			panic("purged nodes are not asked for")
		}
		s.asked = append(s.asked, r.Checkpoint)
		s.at = append(s.at, time.Since(s.start))
		var a answer
		if len(s.answers) > 0 {
			a = s.answers[0]
			s.answers = s.answers[1:]
		}
		s.mu.Unlock()
		if a.began != nil {
			close(a.began)
		}
		if a.wait != nil {
			select {
			case <-a.wait:
			case <-ctx.Done():
				yield(drive.Batch{}, ctx.Err())
				return
			}
		}
		for _, b := range a.batches {
			if !yield(b, nil) {
				return
			}
		}
		if a.err != nil {
			yield(drive.Batch{}, a.err)
		}
	}
}

func (s *script) calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

func (s *script) times() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.at)
}

// state is a Target that keeps node ids.
type state struct {
	mu         sync.Mutex
	refreshed  time.Time
	checkpoint string
	ids        []string
	ends       int
	rebuilds   int
	side       *side // nil = no refresh
	resumes    []string
	resumeAt   string // where a first sync goes on
	aborted    int
	fail       error // of the next Apply
}

func (s *state) Checkpoint() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.checkpoint
}

func (s *state) Apply(_ context.Context, b drive.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fail; err != nil {
		s.fail = nil
		return err
	}
	s.ids = append(s.ids, ids(b)...)
	if b.Checkpoint != "" {
		s.checkpoint = b.Checkpoint
	}
	return nil
}

func (s *state) FeedEnd(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ends++
	return nil
}

func (s *state) BeginRefresh(context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.side != nil {
		return "", errors.New("one is open")
	}
	s.rebuilds++
	at := s.resumeAt
	s.side = &side{ids: s.resumes, checkpoint: at}
	s.resumes, s.resumeAt = nil, ""
	return at, nil
}

func (s *state) Refreshed() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refreshed
}

func (s *state) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ids)
}

// side is a refresh of a state.
type side struct {
	ids        []string
	checkpoint string
}

func (s *state) ApplyRefresh(_ context.Context, b drive.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.side.ids = append(s.side.ids, ids(b)...)
	s.side.checkpoint = b.Checkpoint
	return nil
}

func (s *state) EndRefresh(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids, s.refreshed = s.side.ids, time.Now()
	if s.side.checkpoint != "" {
		s.checkpoint = s.side.checkpoint
	}
	s.side = nil
	return nil
}

func (s *state) AbortRefresh() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.side != nil {
		s.aborted++
		s.side = nil
	}
	return nil
}

func ids(b drive.Batch) (list []string) {
	for _, n := range b.Nodes {
		list = append(list, n.ID)
	}
	return list
}

func batch(checkpoint string, ids ...string) drive.Batch {
	b := drive.Batch{Checkpoint: checkpoint}
	for _, id := range ids {
		b.Nodes = append(b.Nodes, drive.Node{ID: id})
	}
	return b
}

func reset(b drive.Batch) drive.Batch {
	b.Reset = true
	return b
}

func failure(kind error) error { return &drive.Error{Op: "changes", Kind: kind} }

// run starts a Poller in the bubble and ends it with the test.
func run(t *testing.T, f *script, s *state, o Options) *Poller {
	t.Helper()
	f.start = time.Now()
	p := New(f, s, o)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error("Run:", err)
		}
		if s.side != nil {
			t.Error("a refresh was left open")
		}
	})
	return p
}

func refresh(t testing.TB, p *Poller) {
	t.Helper()
	if err := p.Refresh(t.Context()); err != nil {
		t.Fatal("refresh:", err)
	}
}

func wantIDs(t *testing.T, s *state, want ...string) {
	t.Helper()
	if got := s.all(); !slices.Equal(got, want) {
		t.Errorf("applied %q, want %q", got, want)
	}
}

// Each line: what the feed says, from where the calls must have begun, and
// what must be known then.
func TestAnswers(t *testing.T) {
	cut := failure(drive.ErrCut)
	tests := []struct {
		name     string
		from     string // the Target's checkpoint, with node "old"
		o        Options
		answers  []answer
		asked    []string
		ids      []string
		end      string // checkpoint then
		ends     int
		rebuilds int
		aborted  int
		resumeAt string // of a first sync of which "kept" is there
	}{
		{
			name:    "first sync",
			answers: []answer{{batches: []drive.Batch{reset(batch("c1", "a")), batch("c2", "b")}}},
			asked:   []string{""}, ids: []string{"a", "b"}, end: "c2", ends: 1, rebuilds: 1,
		}, {
			name: "a first sync that does not say reset", answers: []answer{{batches: []drive.Batch{batch("c1", "a")}}},
			asked: []string{""}, ids: []string{"a"}, end: "c1", ends: 1, rebuilds: 1,
		}, {
			name: "a first sync goes on after a restart", resumeAt: "c7",
			answers: []answer{{batches: []drive.Batch{batch("c8", "b")}}},
			asked:   []string{"c7"}, ids: []string{"kept", "b"}, end: "c8", ends: 1, rebuilds: 1,
		}, {
			name: "and is told from the start", resumeAt: "c7",
			answers: []answer{{batches: []drive.Batch{reset(batch("r1", "a"))}}},
			asked:   []string{"c7"}, ids: []string{"a"}, end: "r1", ends: 1, rebuilds: 2, aborted: 1,
		}, {
			name: "news", from: "c2",
			answers: []answer{{batches: []drive.Batch{batch("c3", "b")}}},
			asked:   []string{"c2"}, ids: []string{"old", "b"}, end: "c3", ends: 1,
		}, {
			name: "the end line alone", from: "c2",
			answers: []answer{{}},
			asked:   []string{"c2"}, ids: []string{"old"}, end: "c2", ends: 1,
		}, {
			name: "a cut stream goes on from the last chunk",
			answers: []answer{
				{batches: []drive.Batch{reset(batch("c1", "a")), batch("c2", "b")}, err: cut},
				{batches: []drive.Batch{batch("c3", "c")}, err: cut},
				{batches: []drive.Batch{batch("c4", "d")}},
			},
			asked: []string{"", "c2", "c3"}, ids: []string{"a", "b", "c", "d"}, end: "c4", ends: 1, rebuilds: 1,
		}, {
			name: "cut at the same place for a while", from: "c1",
			answers: []answer{{err: cut}, {err: cut}, {batches: []drive.Batch{batch("c2", "b")}}},
			asked:   []string{"c1", "c1", "c1"}, ids: []string{"old", "b"}, end: "c2", ends: 1,
		}, {
			name: "reset builds beside", from: "c1",
			answers: []answer{{batches: []drive.Batch{reset(batch("r1", "x")), batch("r2", "y")}}},
			asked:   []string{"c1"}, ids: []string{"x", "y"}, end: "r2", ends: 1, rebuilds: 1,
		}, {
			name: "a cut reset goes on into the same side", from: "c1",
			answers: []answer{
				{batches: []drive.Batch{reset(batch("r1", "x"))}, err: cut},
				{batches: []drive.Batch{batch("r2", "y")}},
			},
			asked: []string{"c1", "r1"}, ids: []string{"x", "y"}, end: "r2", ends: 1, rebuilds: 1,
		}, {
			name: "reset again after a cut begins again", from: "c1",
			answers: []answer{
				{batches: []drive.Batch{reset(batch("r1", "x"))}, err: cut},
				{batches: []drive.Batch{reset(batch("s1", "z"))}},
			},
			asked: []string{"c1", "r1"}, ids: []string{"z"}, end: "s1", ends: 1, rebuilds: 2, aborted: 1,
		}, {
			name: "the checkpoint is refused", from: "c1",
			answers: []answer{{err: failure(drive.ErrCheckpoint)}, {batches: []drive.Batch{reset(batch("r1", "x"))}}},
			asked:   []string{"c1", ""}, ids: []string{"x"}, end: "r1", ends: 1, rebuilds: 1,
		}, {
			name: "refused, and the full answer does not say reset", from: "c1",
			answers: []answer{{err: failure(drive.ErrCheckpoint)}, {batches: []drive.Batch{batch("r1", "x")}}},
			asked:   []string{"c1", ""}, ids: []string{"x"}, end: "r1", ends: 1, rebuilds: 1,
		}, {
			name: "the checkpoint of a side is refused", from: "c1",
			answers: []answer{
				{batches: []drive.Batch{reset(batch("r1", "x"))}, err: cut},
				{err: failure(drive.ErrCheckpoint)},
				{batches: []drive.Batch{reset(batch("s1", "z"))}},
			},
			asked: []string{"c1", "r1", ""}, ids: []string{"z"}, end: "s1", ends: 1, rebuilds: 2, aborted: 1,
		}, {
			name: "reset in the middle of an answer", from: "c1",
			answers: []answer{{batches: []drive.Batch{batch("c2", "b"), reset(batch("r1", "x")), batch("r2", "y")}}},
			asked:   []string{"c1"}, ids: []string{"x", "y"}, end: "r2", ends: 1, rebuilds: 1,
		}, {
			name: "--checkpoint of one who knows nothing is never all", o: Options{Checkpoint: "x9"},
			answers: []answer{{batches: []drive.Batch{batch("c1", "a")}}},
			asked:   []string{"x9"}, ids: []string{"a"}, end: "c1", ends: 0,
		}, {
			name: "--checkpoint refused: the own one", from: "c1", o: Options{Checkpoint: "x9"},
			answers: []answer{{err: failure(drive.ErrCheckpoint)}, {batches: []drive.Batch{batch("c2", "a")}}},
			asked:   []string{"x9", "c1"}, ids: []string{"old", "a"}, end: "c2", ends: 1,
		}, {
			name: "a split line repeats from the checkpoint before it", from: "c1",
			answers: []answer{{batches: []drive.Batch{batch("c1", "a"), batch("c1", "b")}, err: cut}, {batches: []drive.Batch{batch("c2", "a", "b")}}},
			asked:   []string{"c1", "c1"}, ids: []string{"old", "a", "b", "a", "b"}, end: "c2", ends: 1,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &script{answers: tt.answers}
				s := &state{checkpoint: tt.from}
				if tt.from != "" {
					s.ids = []string{"old"}
				}
				if s.resumeAt = tt.resumeAt; tt.resumeAt != "" {
					s.resumes = []string{"kept"}
				}
				p := run(t, f, s, tt.o)
				refresh(t, p)
				wantIDs(t, s, tt.ids...)
				if got := f.calls(); !slices.Equal(got, tt.asked) {
					t.Errorf("asked from %q, want %q", got, tt.asked)
				}
				if s.Checkpoint() != tt.end || s.ends != tt.ends || s.rebuilds != tt.rebuilds || s.aborted != tt.aborted {
					t.Errorf("at %q after %d ends, %d rebuilds, %d aborted", s.checkpoint, s.ends, s.rebuilds, s.aborted)
				}
				if st := p.Status(); st.Err != nil || st.Syncing || st.LastEnd.IsZero() {
					t.Errorf("status %+v", st)
				}
			})
		})
	}
}

func TestRefreshFails(t *testing.T) {
	for _, kind := range []error{drive.ErrThrottled, drive.ErrUnavailable, drive.ErrAuth, drive.ErrProtocol} {
		synctest.Test(t, func(t *testing.T) {
			f := &script{answers: []answer{{batches: []drive.Batch{batch("c1", "a")}, err: failure(kind)}}}
			s := &state{}
			p := run(t, f, s, Options{})
			if err := p.Refresh(t.Context()); !errors.Is(err, kind) {
				t.Errorf("refresh: %v, want %v", err, kind)
			}
			if st := p.Status(); !errors.Is(st.Err, kind) || s.ends != 0 {
				t.Errorf("status %+v after %d ends", st, s.ends)
			}
			refresh(t, p)
			if st := p.Status(); st.Err != nil {
				t.Errorf("healed, and still %v", st.Err)
			}
			wantIDs(t, s, "a") // what came before is good
		})
	}
}

func TestCutWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &script{}
		for range 3 * stuckMax {
			f.answers = append(f.answers, answer{err: failure(drive.ErrCut)})
		}
		p := run(t, f, &state{}, Options{})
		if err := p.Refresh(t.Context()); !errors.Is(err, drive.ErrCut) {
			t.Errorf("refresh: %v", err)
		}
		if n := len(f.calls()); n != stuckMax {
			t.Errorf("%d calls at the same place, want %d", n, stuckMax)
		}
		for i, at := range f.times()[1:] {
			if at-f.times()[i] < stuckFirst/2 {
				t.Errorf("again after %v", at-f.times()[i])
			}
		}
	})
}

// TestStartingOver: a service that does not go on where it was is asked for the
// whole account a few times, later and later, and the poll fails then; the next
// ones come ever more rarely; and it heals.
func TestStartingOver(t *testing.T) {
	refused := answer{err: failure(drive.ErrCheckpoint)}
	cut := failure(drive.ErrCut)
	for name, again := range map[string]func(i int) []answer{
		"refused after each cut": func(i int) []answer {
			return []answer{{batches: []drive.Batch{reset(batch(fmt.Sprint("r", i), "x"))}, err: cut}, refused}
		},
		"refused, and nothing came": func(int) []answer { return []answer{refused} },
		"from the start after each cut": func(i int) []answer {
			return []answer{{batches: []drive.Batch{reset(batch(fmt.Sprint("r", i), "x"))}, err: cut}}
		},
		"by turns": func(i int) []answer {
			a := answer{batches: []drive.Batch{reset(batch(fmt.Sprint("r", i), "x"))}, err: cut}
			return []answer{a, a, refused}
		},
	} {
		for _, from := range []string{"c1", ""} {
			t.Run(name+" from "+from, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := &script{}
					for i := range 200 {
						f.answers = append(f.answers, again(i)...)
					}
					s := &state{checkpoint: from}
					p := run(t, f, s, Options{})
					for range 3 {
						before := len(f.calls())
						if err := p.Refresh(t.Context()); !errors.Is(err, drive.ErrCheckpoint) {
							t.Fatalf("refresh: %v", err)
						}
						full := 0
						asked, at := f.calls()[before:], f.times()[before:]
						for i := range asked {
							if asked[i] == "" {
								full++
							}
							if i > 0 && (asked[i] == "" || i > 1 && name == "from the start after each cut") && at[i]-at[i-1] < stuckFirst/2 {
								t.Errorf("asked from the start %v after the call before", at[i]-at[i-1])
							}
						}
						if full > startMax+1 || len(asked) > 3*(startMax+1) {
							t.Errorf("asked from %q", asked)
						}
					}
					if st := p.Status(); !errors.Is(st.Err, drive.ErrCheckpoint) {
						t.Errorf("status %+v", st)
					}
					f.mu.Lock()
					f.answers = nil
					f.mu.Unlock()
					refresh(t, p)
				})
			})
		}
	}
}

// TestStartingOverIsRare: nor do the polls by themselves ask for it all soon again.
func TestStartingOverIsRare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &script{}
		for range 1000 {
			f.answers = append(f.answers, answer{batches: []drive.Batch{reset(batch("r1", "x"))}, err: failure(drive.ErrCut)}, answer{err: failure(drive.ErrCheckpoint)})
		}
		run(t, f, &state{checkpoint: "c1"}, Options{Interval: 30 * time.Second})
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		full := 0
		for _, from := range f.calls() {
			if from == "" {
				full++
			}
		}
		if full < 24 || full > 24*2*startMax+40 {
			t.Errorf("asked for everything %d times in a day", full)
		}
	})
}

func TestTargetFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := errors.New("no space left")
		f := &script{answers: []answer{{batches: []drive.Batch{batch("c2", "a")}}, {batches: []drive.Batch{batch("c2", "a")}}}}
		s := &state{checkpoint: "c1", fail: full}
		p := run(t, f, s, Options{})
		if err := p.Refresh(t.Context()); !errors.Is(err, full) {
			t.Errorf("refresh: %v", err)
		}
		refresh(t, p)
		wantIDs(t, s, "a")
	})
}

// TestRefreshJoins: a Refresh is answered by a call that begins after it.
func TestRefreshJoins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wait, began := make(chan struct{}), make(chan struct{})
		f := &script{answers: []answer{
			{batches: []drive.Batch{batch("c1", "a")}, wait: wait, began: began},
			{batches: []drive.Batch{batch("c2", "b")}},
			{batches: []drive.Batch{batch("c3", "c")}},
		}}
		s := &state{}
		p := run(t, f, s, Options{})
		errs := make(chan error, 4)
		ask := func() { errs <- p.Refresh(t.Context()) }
		go ask()
		<-began
		for range 3 {
			go ask()
		}
		synctest.Wait()
		if len(errs) > 0 {
			t.Fatal("answered before the service did")
		}
		close(wait)
		for range 4 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		wantIDs(t, s, "a", "b") // one call for the three
		synctest.Wait()
		if n := len(f.calls()); n != 2 {
			t.Errorf("%d calls", n)
		}
	})
}

func TestRefreshGivesUpWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &script{answers: []answer{{wait: make(chan struct{})}}}
		s := &state{}
		f.start = time.Now()
		p := New(f, s, Options{})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- p.Run(ctx) }()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.Refresh(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("refresh: %v", err)
		}
		waiting := make(chan error)
		go func() { waiting <- p.Refresh(t.Context()) }()
		synctest.Wait()
		stop()
		if err := <-waiting; !errors.Is(err, ErrStopped) {
			t.Errorf("refresh at the end: %v", err)
		}
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := p.Refresh(t.Context()); !errors.Is(err, ErrStopped) {
			t.Errorf("refresh afterwards: %v", err)
		}
	})
}

// TestInterval: quick after activity, slower when idle, one call each time.
func TestInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &script{answers: []answer{{batches: []drive.Batch{batch("c1", "a")}}}}
		p := run(t, f, &state{}, Options{Interval: 30 * time.Second})
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		var gaps []time.Duration
		at := f.times()
		for i := range at[1:] {
			gaps = append(gaps, at[i+1]-at[i])
		}
		if at[0] != 0 || gaps[0] != soonest || !slices.IsSorted(gaps) || gaps[len(gaps)-1] != 30*time.Second {
			t.Errorf("polls at %v after %v", gaps, at[0])
		}
		if st := p.Status(); st.Interval != 30*time.Second {
			t.Errorf("status %+v", st)
		}
		n := len(at)
		p.Poke()
		time.Sleep(soonest + time.Second)
		synctest.Wait()
		if got := len(f.calls()); got != n+1 {
			t.Errorf("%d polls after a poke, want 1", got-n)
		}
	})
}

// TestPokeWhileFailing: activity here is no reason to hurry a service that is
// not well.
func TestPokeWhileFailing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &script{}
		for range 20 {
			f.answers = append(f.answers, answer{err: failure(drive.ErrThrottled)})
		}
		p := run(t, f, &state{}, Options{Interval: 30 * time.Second})
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		n := len(f.calls())
		for range 20 {
			p.Poke()
			time.Sleep(time.Second)
		}
		if got := len(f.calls()); got > n+1 {
			t.Errorf("%d calls in 20 s", got-n)
		}
	})
}

func TestIntervalShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &script{}
		run(t, f, &state{}, Options{Interval: time.Second})
		time.Sleep(10*time.Second + time.Millisecond)
		synctest.Wait()
		if n := len(f.calls()); n != 11 {
			t.Errorf("%d polls in 10 s at an interval of 1 s", n)
		}
	})
}

func TestIntervalZero(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &script{}
		p := run(t, f, &state{}, Options{})
		p.Poke()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(f.calls()); n != 0 {
			t.Errorf("%d polls without a refresh", n)
		}
		refresh(t, p)
		time.Sleep(time.Hour)
		if n := len(f.calls()); n != 1 {
			t.Errorf("%d polls after one refresh", n)
		}
	})
}

// TestBackOff: fewer and fewer calls while the service is not well; a login is
// looked for more often; and quick again once it is.
func TestBackOff(t *testing.T) {
	for _, tt := range []struct {
		kind error
		last time.Duration
	}{{drive.ErrThrottled, backoffLast}, {drive.ErrUnavailable, backoffLast}, {drive.ErrAuth, authLast}} {
		synctest.Test(t, func(t *testing.T) {
			f := &script{}
			for range 30 {
				f.answers = append(f.answers, answer{err: failure(tt.kind)})
			}
			p := run(t, f, &state{}, Options{Interval: 30 * time.Second})
			time.Sleep(time.Hour)
			synctest.Wait()
			at := f.times()
			if n := len(at); n < 12 {
				t.Errorf("%v: %d calls in an hour", tt.kind, n)
			}
			for i := range at[1:] {
				if gap := at[i+1] - at[i]; i < 29 && (gap < soonest/2 || gap > tt.last*3/2) {
					t.Errorf("%v: %v between failures", tt.kind, gap)
				}
			}
			if !errors.Is(p.Status().Err, tt.kind) && len(at) < 30 {
				t.Errorf("%v: status %+v", tt.kind, p.Status())
			}
		})
	}
}

// TestGather: chunks that are there already are applied together, up to a
// size; a reset, an error and the end are borders.
func TestGather(t *testing.T) {
	large := batch("big")
	large.Nodes = make([]drive.Node, applyNews)
	for _, tt := range []struct {
		name  string
		first drive.Batch
		queue []told
		close bool
		ids   []string
		to    string
		more  bool
		ok    bool
		left  int
	}{
		{name: "nothing waits", first: batch("c1", "a"), ids: []string{"a"}, to: "c1", ok: true},
		{name: "all that waits", first: batch("c1", "a"), queue: []told{{b: batch("c2", "b")}, {b: batch("c3")}, {b: batch("c4", "d")}}, ids: []string{"a", "b", "d"}, to: "c4", ok: true},
		{name: "the end", first: batch("c1", "a"), queue: []told{{b: batch("c2", "b")}}, close: true, ids: []string{"a", "b"}, to: "c2"},
		{name: "a checkpoint of nothing", first: batch("c1", "a"), queue: []told{{b: batch("", "b")}}, ids: []string{"a", "b"}, to: "c1", ok: true},
		{name: "reset", first: batch("c1", "a"), queue: []told{{b: reset(batch("r1", "x"))}, {b: batch("r2", "y")}}, ids: []string{"a"}, to: "c1", more: true, ok: true, left: 1},
		{name: "an error", first: batch("c1", "a"), queue: []told{{err: drive.ErrCut}}, ids: []string{"a"}, to: "c1", more: true, ok: true},
		{name: "large enough", first: large, queue: []told{{b: batch("c2", "b")}}, to: "big", ids: make([]string, applyNews), ok: true, left: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stream := make(chan told, 10)
			for _, x := range tt.queue {
				stream <- x
			}
			if tt.close {
				close(stream)
			}
			b := tt.first
			next, more, ok := gather(&b, stream, applyNews)
			if !slices.Equal(ids(b), tt.ids) || b.Checkpoint != tt.to || more != tt.more || ok != tt.ok || len(stream) != tt.left {
				t.Errorf("%d nodes to %q, more %v, ok %v, %d left", len(b.Nodes), b.Checkpoint, more, ok, len(stream))
			}
			if more && next.err == nil && !next.b.Reset {
				t.Errorf("took %+v away", next)
			}
		})
	}
}

func TestParts(t *testing.T) {
	for n, want := range map[int][]int{0: {0}, 1: {1}, applyNews: {applyNews}, applyNews + 1: {applyNews, 1}, 3 * applyNews: {applyNews, applyNews, applyNews}} {
		b := reset(batch("c1"))
		b.Nodes = make([]drive.Node, n)
		var sizes []int
		for p := range parts(b, applyNews) {
			if first, last := len(sizes) == 0, len(sizes) == len(want)-1; p.Reset != first || (p.Checkpoint == "c1") != last {
				t.Errorf("%d nodes: part %d says reset %v, checkpoint %q", n, len(sizes), p.Reset, p.Checkpoint)
			}
			sizes = append(sizes, len(p.Nodes))
		}
		if !slices.Equal(sizes, want) {
			t.Errorf("%d nodes in parts of %d, want %d", n, sizes, want)
		}
	}
}

func TestLongAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var batches []drive.Batch
		var want []string
		for i := range 200 {
			var list []string
			for j := range 100 {
				list = append(list, fmt.Sprint(i, "-", j))
			}
			want = append(want, list...)
			batches = append(batches, batch(fmt.Sprint("c", i), list...))
		}
		batches[0].Reset = true
		s := &state{}
		p := run(t, &script{answers: []answer{{batches: batches}}}, s, Options{})
		refresh(t, p)
		wantIDs(t, s, want...)
		if s.Checkpoint() != "c199" {
			t.Errorf("at %s", s.checkpoint)
		}
		if st := p.Status(); st.NodesSeen != 20_000 {
			t.Errorf("%d nodes seen", st.NodesSeen)
		}
	})
}
