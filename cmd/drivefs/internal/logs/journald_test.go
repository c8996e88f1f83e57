package logs

import (
	"bytes"
	"testing"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/config"
)

// The journal gets a priority before each line, and no second time.
func TestJournalPriorities(t *testing.T) {
	t.Setenv("JOURNAL_STREAM", "8:1")
	var b bytes.Buffer
	log, end, err := Open(&config.Config{}, &b)
	if err != nil {
		t.Fatal(err)
	}
	log.Info("one")
	log.With("k", "v").Warn("two")
	log.WithGroup("g").Error("three", "k", "v")
	end()
	const want = "<6>level=INFO msg=one\n<4>level=WARN msg=two k=v\n<3>level=ERROR msg=three g.k=v\n"
	if got := b.String(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
