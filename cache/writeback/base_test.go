package writeback

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drivefs/drivefs/cache/journal"
)

// What is missing between small changes is asked for in one range; what is far
// apart is not fetched for what lies between.
func TestTogether(t *testing.T) {
	var many []journal.Extent
	for off := int64(0); off < 24<<20; off += 200_000 {
		many = append(many, journal.Extent{Off: off + 7, End: off + 200_000})
	}
	for name, tt := range map[string]struct{ in, want []journal.Extent }{
		"nothing":      {},
		"one":          {in: []journal.Extent{{Off: 3, End: 9}}, want: []journal.Extent{{Off: 3, End: 9}}},
		"many changes": {in: many, want: []journal.Extent{{Off: 7, End: many[len(many)-1].End}}},
		"just near":    {in: []journal.Extent{{Off: 0, End: 9}, {Off: 9 + nearby, End: 9 + nearby + 1}}, want: []journal.Extent{{Off: 0, End: 10 + nearby}}},
		"far":          {in: []journal.Extent{{Off: 0, End: 9}, {Off: 10 + nearby, End: 11 + nearby}}, want: []journal.Extent{{Off: 0, End: 9}, {Off: 10 + nearby, End: 11 + nearby}}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, together(tt.in)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
