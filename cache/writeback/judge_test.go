package writeback

import (
	"testing"
	"time"

	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/drive"
)

// TestJudge has a row for each line of API §13.2, for each that bears on it in
// §5.3, §5.5, §6.6 and §13.1, and for what two machines of one user may do.
func TestJudge(t *testing.T) {
	began := time.Date(2015, 6, 1, 12, 0, 0, 0, time.UTC)
	base := &journal.Base{Name: "a", Parents: []string{"p"}, Content: 4, Size: 3, MD5: "old"}
	// node changes what an upload of ours, unanswered, would have made.
	type set func(*evidence)
	file := func(version int64, holds match, sets ...set) evidence {
		e := evidence{clue: byName, found: true, kind: drive.File, sits: true, holds: holds, tried: true, began: began, owner: "us"}
		e.node = drive.Node{ID: "n", Name: "a", Kind: drive.File, Status: drive.Available, Parents: []string{"p"},
			Created: began.Add(time.Second), CreatedBy: "us", Content: &drive.ContentProperties{Version: version, Size: 7, MD5: "new"}}
		if holds == noContent {
			e.node.Content = nil
		}
		for _, s := range sets {
			s(&e)
		}
		return e
	}
	folder := func(sets ...set) evidence {
		e := file(0, noContent)
		e.kind, e.node.Kind = drive.Folder, drive.Folder
		for _, s := range sets {
			s(&e)
		}
		return e
	}
	own := func(version int64, holds match, sets ...set) evidence {
		return file(version, holds, append([]set{func(e *evidence) { e.clue, e.base = byNode, base }}, sets...)...)
	}
	gone := func(e *evidence) { e.found = false }
	trashed := func(e *evidence) { e.node.Status = drive.Trashed }
	isPending := func(e *evidence) { e.node.Status = drive.Pending }
	taken := func(e *evidence) { e.clue = byTaken }
	mapped := func(e *evidence) { e.clue = byMapped }
	elsewhere := func(e *evidence) { e.sits = false }
	never := func(e *evidence) { e.tried = false }
	others := func(e *evidence) { e.node.CreatedBy = "them" }
	older := func(e *evidence) { e.node.Created = began.Add(-time.Hour) }
	claimed := func(e *evidence) { e.claimed = true }
	seen := func(e *evidence) { e.seen = true }
	noDate := func(e *evidence) { e.began = time.Time{} }
	noOwner := func(e *evidence) { e.owner = "" }
	unversioned := func(e *evidence) { e.node.Content.Version = 1<<62 + 5 }
	asFolder := func(e *evidence) { e.node.Kind = drive.Folder }

	for _, tt := range []struct {
		what string
		e    evidence
		want verdict
	}{
		// "The file appears later with the right size and MD5, or never."
		{"appeared", file(1, whole), ours},
		{"appeared, and was not known to be possible", file(1, whole, never), ours},
		{"appeared, of an app that is not ours: the bytes count", file(1, whole, others), ours},
		{"appeared and left again", file(1, whole, elsewhere), unclear},
		{"appeared and was trashed", file(1, whole, trashed), absent},
		{"not there yet", file(0, noContent, gone), absent},
		// "A blind retry gives 409 when the file has appeared: compare size and MD5."
		{"409, the same bytes", file(1, whole, taken), ours},
		{"409 at the first try, the same bytes", file(1, whole, taken, never), ours},
		{"409, another generation of ours has arrived", file(1, former, taken), broken},
		{"409 about the localId, another generation of ours has arrived", file(1, former, mapped), broken},
		{"409, other bytes", file(1, other, taken), foreign},
		{"409 names a node that is not there", file(0, noContent, taken, gone), absent},
		{"409 names a node that was trashed", file(1, whole, taken, trashed), absent},
		{"409 names a node that has left the name", file(1, other, taken, elsewhere), unclear},
		{"409 about the localId, its node was taken elsewhere", file(1, other, mapped, elsewhere), broken},
		{"… and was given other content since", file(2, other, mapped, elsewhere), foreign},
		{"… and this program never sent it", file(1, other, mapped, elsewhere, never), foreign},
		{"409 without a reason, other bytes under the name", file(1, other, mapped), foreign},
		// "Nothing will appear, or a PENDING node stays."
		{"PENDING where the upload went", file(0, noContent, isPending), pending},
		{"PENDING, 409 about the localId", file(0, noContent, isPending, mapped, never), broken},
		{"PENDING, 409 about the localId, of another app", file(0, noContent, isPending, mapped, never, others), pending},
		{"PENDING, 409 about the name, after a call of unknown outcome", file(0, noContent, isPending, taken), broken},
		{"PENDING, 409 about the name at the first try", file(0, noContent, isPending, taken, never), pending},
		{"PENDING of before", file(0, noContent, isPending, taken, older), pending},
		{"available and still without content", file(0, noContent), pending},
		// "Truncated files stored as complete were seen."
		{"cut short", file(1, beginning), broken},
		{"cut short, met by a 409", file(1, beginning, taken), broken},
		{"cut short, when the service tells no content versions", file(1, beginning, unversioned), broken},
		{"cut short to nothing", file(1, empty), broken},
		{"empty, and shown here as another file", file(1, empty, seen), foreign},
		{"cut short, no date known", file(1, beginning, noDate), broken},
		{"cut short, no owner known", file(1, beginning, noOwner), broken},
		// Another machine of the same user, which bears the same name.
		{"a beginning of ours, but nothing was ever sent", file(1, beginning, taken, never), foreign},
		{"a beginning of ours, from before the first call", file(1, beginning, older), foreign},
		{"a beginning of ours, written twice", file(2, beginning), foreign},
		{"a beginning of ours, by another app", file(1, beginning, others), foreign},
		{"what another entry made", file(1, whole, claimed), foreign},
		{"a folder where a file was sent", file(0, noContent, taken, asFolder), foreign},
		// Overwrites: "gets the node and looks for a grown version; then compares MD5 and size."
		{"overwritten", own(5, whole), ours},
		{"overwritten by others with the same bytes", own(5, whole, never), ours},
		{"not overwritten", own(4, other, func(e *evidence) { e.node.Content.MD5, e.node.Content.Size = "old", 3 }), untouched},
		{"the same bytes under a new version", own(9, other, never, func(e *evidence) { e.node.Content.MD5, e.node.Content.Size = "old", 3 }), untouched},
		{"another tag and metadata version", own(4, other, never, func(e *evidence) {
			e.node.ETag, e.node.Version = "moved", 99
			e.node.Content.MD5, e.node.Content.Size = "old", 3
		}), untouched},
		{"overwritten by an earlier generation", own(5, former), broken},
		{"overwritten, cut short", own(5, beginning), broken},
		{"overwritten, cut short to nothing", own(5, empty), broken},
		{"emptied by others later", own(6, empty), foreign},
		{"emptied by others, nothing was sent", own(5, empty, never), foreign},
		{"overwritten by others", own(5, other), foreign},
		{"a beginning, but nothing was sent", own(5, beginning, never), foreign},
		{"PENDING under an overwrite", own(0, noContent, isPending), pending},
		{"trashed under an overwrite", own(5, whole, trashed), absent},
		{"gone under an overwrite", own(0, noContent, gone), absent},
		// Folders.
		{"mkdir without an answer", folder(), ours},
		{"mkdir without an answer, met by a 409", folder(taken), ours},
		{"mkdir without an answer, met by a 409 about the localId", folder(mapped), ours},
		{"… and moved meanwhile", folder(mapped, elsewhere), ours},
		{"mkdir on two machines at once", folder(taken, never), foreign},
		{"… told without a reason", folder(mapped, never), foreign},
		{"mkdir without an answer of a folder that was there", folder(taken, older), foreign},
		{"mkdir without an answer, another app's folder", folder(taken, others), foreign},
		{"mkdir without an answer, another entry's folder", folder(taken, claimed), foreign},
		{"a file where a folder is wanted", folder(taken, func(e *evidence) { e.node.Kind = drive.File }), foreign},
		{"a folder that is not AVAILABLE yet (API §13.1)", folder(isPending), unclear},
		{"a folder that went to the trash", folder(taken, trashed), absent},
	} {
		if got := judge(&tt.e); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.what, got, tt.want)
		}
	}
}
