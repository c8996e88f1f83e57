package cache

import (
	"errors"
	"log/slog"
	"sync/atomic"

	"github.com/drivefs/drivefs/cache/mirror"
	"github.com/drivefs/drivefs/cache/tree"
	"github.com/drivefs/drivefs/drive"
)

// intake takes what the drive answers: into the mirror, and what differs there
// into the tree, which tells the kernel. Its methods are safe for concurrent use;
// their errors are the mirror's.
type intake struct {
	mirror *mirror.Mirror
	tree   *tree.Tree
	props  *properties
	log    *slog.Logger

	activity atomic.Pointer[func()] // see Feed.OnActivity
}

// node takes a node that the drive answered with, to whatever call.
func (in *intake) node(n drive.Node) error {
	changes, err := in.mirror.Answer(n, false, 0)
	if err != nil {
		return err
	}
	in.answered(changes)
	return nil
}

// gone takes that a node is not live any more, at the version that was told; 0 =
// none was.
func (in *intake) gone(id string, version int64) error {
	changes, err := in.mirror.Gone(id, version)
	if err != nil {
		return err
	}
	in.answered(changes)
	return nil
}

// children takes nodes of the folder dir, told with their properties; last: they,
// and those of the calls before, are all there are. ErrNotExist when the folder went meanwhile.
func (in *intake) children(dir uint64, nodes []drive.Node, last bool) error {
	in.props.recognise(nodes)
	changes, err := in.mirror.Listing(dir, nodes, last)
	if errors.Is(err, mirror.ErrUnknown) {
		return ErrNotExist
	}
	if err != nil {
		return err
	}
	in.show(changes, dir)
	in.noteActivity(changes)
	return nil
}

// answered shows changes that an answer made in the mirror. The feed has not
// told of them, so it is asked soon.
func (in *intake) answered(changes []mirror.Change) {
	in.show(changes, 0)
	in.noteActivity(changes)
}

func (in *intake) noteActivity(changes []mirror.Change) {
	// While the first feed streams in, everything is new.
	if fn := in.activity.Load(); fn != nil && len(changes) > 0 && in.mirror.Complete() {
		(*fn)()
	}
}

// show turns what became different in the mirror into effects, and has the
// properties asked for again of what others changed; but not in the folder
// listed, 0 = none, whose properties came along.
func (in *intake) show(changes []mirror.Change, listed uint64) {
	if len(changes) == 0 {
		return
	}
	for i := range changes {
		if c := &changes[i]; !c.Own {
			for _, d := range c.New {
				if d.Dir != listed {
					in.props.forget(d.Dir)
				}
			}
		}
	}
	if err := in.tree.Told(changes); err != nil {
		in.log.Warn("showing what the drive told", "err", err)
	}
}
