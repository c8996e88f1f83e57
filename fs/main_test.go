package fs_test

import (
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/drivefs/drivefs/integration"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVar); role != "" {
		os.Exit(play(role))
	}
	if code, again := integration.Isolate(); again {
		os.Exit(code)
	}
	goleak.VerifyTestMain(m)
}

// says quotes what the test shows from SEMANTICS.md, so that the text cannot
// change without the test, nor the test pass for a promise that is not made.
func says(t *testing.T, sentences ...string) {
	t.Helper()
	b, err := os.ReadFile("SEMANTICS.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sentences {
		if !strings.Contains(string(b), s) {
			t.Fatalf("SEMANTICS.md does not say: %s", s)
		}
	}
}
