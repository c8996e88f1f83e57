package drive

import (
	"encoding/json"
	"testing"
)

func TestContentWithoutVersion(t *testing.T) {
	version := func(s string) int64 {
		var n Node
		if err := json.Unmarshal([]byte(`{"contentProperties":`+s+`}`), &n); err != nil || n.Content == nil {
			t.Fatalf("%s: %+v, %v", s, n.Content, err)
		}
		return n.Content.Version
	}
	a := version(`{"size":1,"md5":"0cc175b9c0f1b6a831c399e269772661"}`)
	b := version(`{"size":1,"md5":"92eb5ffee6ae2fec3ad71c777531578f"}`)
	if a == b || a <= 1<<32 || b <= 1<<32 {
		t.Errorf("two contents without version are %d and %d", a, b)
	}
	if again := version(`{"md5":"0cc175b9c0f1b6a831c399e269772661","size":1,"x":null}`); again != a {
		t.Errorf("one content is %d and %d", a, again)
	}
	if v := version(`{"size":1,"md5":"92eb5ffee6ae2fec3ad71c777531578f","version":3}`); v != 3 {
		t.Errorf("a version that was told became %d", v)
	}
	if v := version(`{"size":1}`); v != 0 {
		t.Errorf("nothing known became %d", v)
	}
}
