package settle

import "github.com/drivefs/drivefs/cache/tree"

// besideName is a name for a node whose own is taken by another.
func besideName(name, id string) string {
	stem, ext := tree.SplitExt(name)
	return stem + " (" + id[:min(8, len(id))] + ")" + ext
}
