package drivetest

// TB is what New needs of a *testing.T, so that the program that serves the
// drive does not carry package testing.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
	Cleanup(func())
}

// New is Start for tests: the server closes with the test, and its invariants
// are checked then, whatever the test was about.
func New(t TB, o ...Options) *Server {
	t.Helper()
	var opt Options
	if len(o) > 0 {
		opt = o[0]
	}
	s, err := Start(opt)
	if err != nil {
		t.Fatalf("drivetest: %v", err)
	}
	t.Cleanup(func() {
		if s.closing.Err() != nil { // the test closed it
			return
		}
		if err := s.Check(); err != nil {
			t.Errorf("drivetest: the drive broke its invariants: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("drivetest: close: %v", err)
		}
	})
	return s
}
