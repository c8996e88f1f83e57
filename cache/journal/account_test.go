package journal

import "testing"

func TestAccountSurvives(t *testing.T) {
	dir := t.TempDir()
	want := Account{Root: "root-id", Origin: "https://drive.example"}
	j := open(t, Options{Dir: dir})
	if got, err := j.Account(); err != nil || got != (Account{}) {
		t.Fatalf("a new journal has %+v, %v", got, err)
	}
	if err := j.SetAccount(want); err != nil {
		t.Fatal(err)
	}
	shut(t, j)
	j = open(t, Options{Dir: dir})
	if got, err := j.Account(); err != nil || got != want {
		t.Errorf("after a restart: %+v, %v", got, err)
	}
}
