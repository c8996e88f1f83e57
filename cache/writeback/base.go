package writeback

import (
	"context"
	"errors"
	"fmt"

	"github.com/drivefs/drivefs/cache/chunk"
	"github.com/drivefs/drivefs/cache/journal"
	"github.com/drivefs/drivefs/drive"
)

// nearby is how many bytes cost less than another request for those behind
// them.
const nearby = 1 << 20

// together joins ranges with little between them. Fill leaves out what is
// local.
func together(xs []journal.Extent) []journal.Extent {
	var out []journal.Extent
	for _, x := range xs {
		if last := len(out) - 1; last >= 0 && x.Off-out[last].End <= nearby {
			out[last].End = x.End
			continue
		}
		out = append(out, x)
	}
	return out
}

// Complete fetches what is missing of the base of ino's draft d. drive.ErrChanged
// or drive.ErrNotFound when it cannot be had any more.
func (s *WriteBack) Complete(ctx context.Context, ino uint64, d *journal.Draft) error {
	id, content, size, md5 := d.Base()
	v := chunk.Version{ID: id, Content: content, Size: size, MD5: md5}
	if e, ok := s.j.Get(ino); ok {
		v.Name = e.Place.Name
	}
	for _, x := range together(d.Missing(0, d.Size())) {
		n, err := s.o.Fetch(ctx, v, x.Off, x.End, d.Fill)
		if err == nil && n < x.End-x.Off {
			err = drive.ErrChanged
		}
		if err != nil {
			return err
		}
	}
	// Recorded, so that it is not needed again after a restart. Where the file
	// was written to meanwhile, another commit will tell.
	st, ok := d.State()
	if !ok {
		return nil
	}
	return s.tree.Learn(ino, func(e *journal.Entry) bool {
		if e.Draft == nil || e.Draft.Gen != st.Gen {
			return false
		}
		e.Draft = &st
		return true
	})
}

// baseLost settles an edit of a part of a file whose other parts cannot be had
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
func (s *WriteBack) baseLost(ctx context.Context, ino uint64, d *journal.Draft, n drive.Node) error {
	st, ok := d.State()
	if !ok {
		return journal.ErrSuperseded // written to meanwhile
	}
	ours := written(&st)
	p := s.o.Path(ino)
	switch {
	case len(ours) == 0:
		done, err := s.tree.DropContent(ino, st.Gen)
		if done {
			s.o.Notify(Event{"undone", p, "it was cut here and replaced on the drive; the drive's version stays"})
		}
		return errors.Join(journal.ErrSuperseded, err)
	case n.Live() && n.Content != nil && st.Limit == st.BaseLen && ours[0].Off >= st.BaseLen:
		return s.appendBeside(ctx, ino, d, &st, n)
	}
	name := "content"
	if e, ok := s.j.Get(ino); ok {
		name = e.Place.Shown
	}
	to, err := s.j.Quarantine(name, st.Size, ours, d.ReadAt)
	if err != nil {
		return err
	}
	done, err := s.tree.DropContent(ino, st.Gen)
	if done {
		what := fmt.Sprintf("parts of it were changed here, and the version they belong to is gone from the drive; the drive's version stays, the changed parts are in %s", to)
		s.o.Notify(Event{"quarantine", p, what})
		s.log.Warn("an edit cannot be completed and is set aside", "path", p, "to", to)
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
func (s *WriteBack) appendBeside(ctx context.Context, ino uint64, d *journal.Draft, st *journal.DraftState, n drive.Node) error {
	beside, err := s.mirror.NewIno()
	if err != nil {
		return err
	}
	c, err := s.j.OpenDraft(beside, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	v := chunk.Version{ID: n.ID, Content: n.Content.Version, Size: n.Content.Size, MD5: n.Content.MD5, Name: n.Name}
	write := func(b []byte, at int64) error {
		_, err := c.WriteAt(b, at)
		return err
	}
	if got, err := s.o.Fetch(ctx, v, 0, v.Size, write); err != nil {
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
	name, done, err := s.tree.ReplaceContent(ino, st.Gen, beside, cst)
	if !done {
		c.Abort(cst)
		return errors.Join(journal.ErrSuperseded, err)
	}
	s.o.Notify(Event{"conflict", s.o.Path(beside), fmt.Sprintf("the file was replaced on the drive while something was appended here: both are kept; what was appended is behind the drive's version in %q", name)})
	return journal.ErrSuperseded
}
