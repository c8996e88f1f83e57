package drive_test

import (
	"testing"

	"github.com/drivefs/drivefs/drive"
	"github.com/drivefs/drivefs/drive/drivetest"
)

// What the token permits is found out without touching anything.
func TestPermissions(t *testing.T) {
	s := drivetest.New(t)
	for scopes, want := range map[string][2]bool{
		"clouddrive:read_all clouddrive:write": {true, true},
		"clouddrive:read_all":                  {true, false},
		"clouddrive:write":                     {false, true},
	} {
		c, err := drive.New(drive.Options{Endpoint: s.Endpoint(), Tokens: drive.StaticTokenSource(s.TokenFor(scopes).AccessToken)})
		if err != nil {
			t.Fatal(err)
		}
		read, rerr := c.MayRead(t.Context())
		write, werr := c.MayWrite(t.Context())
		if got := [2]bool{read, write}; got != want || rerr != nil || werr != nil {
			t.Errorf("%s: %v, want %v (%v, %v)", scopes, got, want, rerr, werr)
		}
		c.Close()
	}
	if n := len(s.Else().Tree()); n != 1 {
		t.Errorf("the drive has %d nodes", n)
	}
}
