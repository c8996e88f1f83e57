package tree

import (
	"testing"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/cache/mirror"
)

// TestChangedPropsAreKept: what was set after the answer is not taken for known.
func TestChangedPropsAreKept(t *testing.T) {
	r := mirror.Record{Version: 1, Props: map[string]string{"a": "1"}, PropsVersion: 1}
	base := &journal.Base{Version: 1}
	for name, c := range map[string]struct {
		edit func(*mirror.Record, *journal.Entry)
		want bool
	}{
		"as it went up":       {func(*mirror.Record, *journal.Entry) {}, true},
		"another value":       {func(_ *mirror.Record, e *journal.Entry) { e.Props["a"] = "2" }, false},
		"one more":            {func(_ *mirror.Record, e *journal.Entry) { e.Props["b"] = "2" }, false},
		"removed":             {func(_ *mirror.Record, e *journal.Entry) { e.Props["a"] = "" }, false},
		"absent, as wished":   {func(_ *mirror.Record, e *journal.Entry) { e.Props["b"] = "" }, true},
		"nothing known":       {func(r *mirror.Record, _ *journal.Entry) { r.Props, r.PropsVersion = nil, 0 }, false},
		"set after the node":  {func(_ *mirror.Record, e *journal.Entry) { e.Base.Version = 2 }, false},
		"of a former version": {func(r *mirror.Record, _ *journal.Entry) { r.Version = 2 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			r, e, b := r, &journal.Entry{}, *base
			e.Base, e.Props = &b, map[string]string{"a": "1"}
			c.edit(&r, e)
			if got := knows(&r, e); got != c.want {
				t.Errorf("knows: %v", got)
			}
		})
	}
}
