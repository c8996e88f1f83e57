package cache

import (
	"context"
	"errors"
	"fmt"

	"github.com/drivefs/drivefs/cache/chunk"
	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/drive"
)

// BaseLost settles an edit of a part of a file whose other parts cannot be had
// any more, because they were replaced (n is what the drive has instead) or
// purged (n has no id). Bytes that were never written are never made up:
//
//   - a mere truncation has no bytes of ours and gives way;
//   - what was only appended goes behind the drive's version, into a conflict
//     copy, which is whole;
//   - anything else is kept apart, and said.
//
// In all cases the drive's version stands. It answers journal.ErrSuperseded
// where the entry is another one now.
func (h host) BaseLost(ctx context.Context, ino uint64, d *journal.Draft, n drive.Node) error {
	st, ok := d.State()
	if !ok {
		return journal.ErrSuperseded // written to meanwhile
	}
	ours := written(&st)
	p := h.s.PathOf(ino)
	switch {
	case len(ours) == 0:
		done, err := h.s.tree.DropContent(ino, st.Gen)
		if done {
			h.s.events.add("undone", p, "it was cut here and replaced on the drive; the drive's version stays")
		}
		return errors.Join(journal.ErrSuperseded, err)
	case n.Live() && n.Content != nil && st.Limit == st.BaseLen && ours[0].Off >= st.BaseLen:
		return h.appendBeside(ctx, ino, d, &st, n)
	}
	name := "content"
	if e, ok := h.s.journal.Get(ino); ok {
		name = e.Place.Shown
	}
	to, err := h.s.journal.Quarantine(name, st.Size, ours, d.ReadAt)
	if err != nil {
		return err
	}
	done, err := h.s.tree.DropContent(ino, st.Gen)
	if done {
		what := fmt.Sprintf("parts of it were changed here, and the version they belong to is gone from the drive; the drive's version stays, the changed parts are in %s", to)
		h.s.events.add("quarantine", p, what)
		h.s.log.Warn("an edit cannot be completed and is set aside", "path", p, "to", to)
	}
	return errors.Join(journal.ErrSuperseded, err)
}

// written are the parts of a content that are not its base's.
func written(st *journal.DraftState) (xs []journal.Extent) {
	for _, x := range st.Local {
		if x.End = min(x.End, st.Limit, st.Size); x.Off < x.End {
			xs = append(xs, x)
		}
	}
	if st.Limit < st.Size {
		xs = append(xs, journal.Extent{Off: st.Limit, End: st.Size})
	}
	return xs
}

// appendBeside makes a conflict copy of the drive's version with what was
// appended here behind it.
func (h host) appendBeside(ctx context.Context, ino uint64, d *journal.Draft, st *journal.DraftState, n drive.Node) error {
	beside, err := h.s.mirror.NewIno()
	if err != nil {
		return err
	}
	c, err := h.s.journal.OpenDraft(beside, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	v := chunk.Version{ID: n.ID, Content: n.Content.Version, Size: n.Content.Size, MD5: n.Content.MD5, Name: n.Name}
	write := func(b []byte, at int64) error {
		_, err := c.WriteAt(b, at)
		return err
	}
	if got, err := h.s.chunks.CopyRange(ctx, v, 0, v.Size, write); err != nil {
		return err // also when it was replaced once more: the next try takes that
	} else if got < v.Size {
		return drive.ErrUnavailable
	}
	buf := make([]byte, 256<<10)
	for off := st.BaseLen; off < st.Size; {
		k, err := d.ReadAt(buf[:min(int64(len(buf)), st.Size-off)], off)
		if k == 0 {
			return errors.Join(journal.ErrSuperseded, err)
		}
		if err := write(buf[:k], v.Size+off-st.BaseLen); err != nil {
			return err
		}
		off += int64(k)
	}
	if now, ok := d.State(); !ok || now.Gen != st.Gen {
		return journal.ErrSuperseded
	}
	cst := c.Commit()
	name, done, err := h.s.tree.ReplaceContent(ino, st.Gen, beside, cst)
	if !done {
		c.Abort(cst)
		return errors.Join(journal.ErrSuperseded, err)
	}
	h.s.events.add("conflict", h.s.PathOf(beside), fmt.Sprintf("the file was replaced on the drive while something was appended here: both are kept; what was appended is behind the drive's version in %q", name))
	return journal.ErrSuperseded
}
