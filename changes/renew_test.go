package changes

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drivefs/drivefs/drive"
)

// old is a Target that was told everything long ago.
func old() *state {
	return &state{checkpoint: "c9", ids: []string{"old"}, refreshed: time.Now().Add(-renewAfter)}
}

func wantAsked(t *testing.T, f *script, want ...string) {
	t.Helper()
	if got := f.calls(); !slices.Equal(got, want) {
		t.Errorf("asked from %q, want %q", got, want)
	}
}

// TestRenew: what is four weeks old is asked for anew, in pieces, after a poll,
// and not again before its time.
func TestRenew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &script{answers: []answer{
			{},
			{batches: []drive.Batch{reset(batch("r1", "a")), batch("r2", "b")}},
			{batches: []drive.Batch{batch("r3", "c")}},
			{},
			{batches: []drive.Batch{batch("c10", "d")}},
		}}
		s := old()
		run(t, f, s, Options{Interval: time.Hour})
		synctest.Wait()
		wantAsked(t, f, "c9", "", "r2", "r3")
		wantIDs(t, s, "a", "b", "c")
		time.Sleep(renewAfter - 2*time.Hour)
		synctest.Wait()
		wantIDs(t, s, "a", "b", "c", "d")
		if s.rebuilds != 1 || s.Checkpoint() != "c10" {
			t.Errorf("%d rebuilds, at %q", s.rebuilds, s.checkpoint)
		}
		time.Sleep(4 * time.Hour)
		synctest.Wait()
		if s.rebuilds != 2 {
			t.Errorf("%d rebuilds after another four weeks", s.rebuilds)
		}
	})
}

// TestRenewOnRefresh: without an interval it waits for somebody to ask.
func TestRenewOnRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &script{answers: []answer{{}, {batches: []drive.Batch{reset(batch("r1", "a"))}}}}
		s := old()
		p := run(t, f, s, Options{})
		time.Sleep(2 * renewAfter)
		synctest.Wait()
		wantAsked(t, f)
		refresh(t, p)
		synctest.Wait()
		wantAsked(t, f, "c9", "", "r1")
		wantIDs(t, s, "a")
	})
}

// TestRenewGivesWay: between two pieces whoever wants a poll gets it, from what
// is shown; the renewal goes on afterwards.
func TestRenewGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wait, began := make(chan struct{}), make(chan struct{})
		f := &script{answers: []answer{
			{},
			{batches: []drive.Batch{reset(batch("r1", "a"))}, wait: wait, began: began},
			{batches: []drive.Batch{batch("c10", "news")}},
			{batches: []drive.Batch{batch("r2", "news")}},
		}}
		s := old()
		p := run(t, f, s, Options{Interval: time.Hour})
		<-began
		done := make(chan error)
		go func() { done <- p.Refresh(t.Context()) }()
		synctest.Wait()
		close(wait)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got := s.all(); !slices.Contains(got, "news") {
			t.Errorf("after the refresh %q", got)
		}
		synctest.Wait()
		wantAsked(t, f, "c9", "", "c9", "r1", "r2")
		wantIDs(t, s, "a", "news")
		if s.aborted != 0 {
			t.Error("what was there already was dropped")
		}
	})
}

// TestRenewFails: what is shown stays, and it is tried again a day later.
func TestRenewFails(t *testing.T) {
	for name, failing := range map[string][]answer{
		"throttled":  {{batches: []drive.Batch{reset(batch("r1", "a"))}, err: failure(drive.ErrThrottled)}},
		"cut":        {{batches: []drive.Batch{reset(batch("r1", "a"))}, err: failure(drive.ErrCut)}, {err: failure(drive.ErrCut)}},
		"checkpoint": {{batches: []drive.Batch{reset(batch("r1", "a"))}}, {err: failure(drive.ErrCheckpoint)}},
		"from start": {{batches: []drive.Batch{reset(batch("r1", "a"))}}, {batches: []drive.Batch{reset(batch("s1", "a"))}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &script{answers: append([]answer{{}}, failing...)}
				s := old()
				p := run(t, f, s, Options{Interval: time.Hour})
				time.Sleep(renewAgain - time.Minute)
				synctest.Wait()
				wantIDs(t, s, "old")
				if s.rebuilds != 1 || s.aborted != 1 || s.Checkpoint() != "c9" {
					t.Errorf("%d rebuilds, %d aborted, at %q", s.rebuilds, s.aborted, s.checkpoint)
				}
				if st := p.Status(); st.Err != nil || time.Since(st.LastEnd) > time.Hour {
					t.Errorf("polls do not go on: %+v", st)
				}
				time.Sleep(2 * time.Hour)
				synctest.Wait()
				if s.rebuilds != 2 {
					t.Errorf("%d rebuilds after a day", s.rebuilds)
				}
			})
		})
	}
}

// TestRenewCut: a cut answer that got on is continued.
func TestRenewCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &script{answers: []answer{
			{},
			{batches: []drive.Batch{reset(batch("r1", "a"))}, err: failure(drive.ErrCut)},
			{batches: []drive.Batch{batch("r2", "b")}, err: failure(drive.ErrCut)},
		}}
		s := old()
		run(t, f, s, Options{Interval: time.Hour})
		synctest.Wait()
		wantAsked(t, f, "c9", "", "r1", "r2")
		wantIDs(t, s, "a", "b")
	})
}

// TestResetWhileRenewing: the service tells everything by itself.
func TestResetWhileRenewing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wait, began := make(chan struct{}), make(chan struct{})
		f := &script{answers: []answer{
			{},
			{batches: []drive.Batch{reset(batch("r1", "a"))}, wait: wait, began: began},
			{batches: []drive.Batch{reset(batch("s1", "x"))}},
		}}
		s := old()
		p := run(t, f, s, Options{Interval: time.Hour})
		<-began
		done := make(chan error)
		go func() { done <- p.Refresh(t.Context()) }()
		synctest.Wait()
		close(wait)
		if err := <-done; err != nil {
			t.Error(err)
		}
		synctest.Wait()
		wantAsked(t, f, "c9", "", "c9")
		wantIDs(t, s, "x")
		if s.rebuilds != 2 || s.aborted != 1 {
			t.Errorf("%d rebuilds, %d aborted", s.rebuilds, s.aborted)
		}
	})
}
