package cache

import (
	"fmt"

	"github.com/drivefs/drivefs/cache/journal"
)

// Account says whose drive a state directory is of: the id of the drive's
// root decides, the origin is for people.
type Account = journal.Account

// AccountError: the state directory is of another account than the drive that
// was reached. Nothing was changed, here or there.
type AccountError struct {
	Dir   string  // the state directory
	State Account // whose it is
	Drive Account // who answered
}

func (e *AccountError) Error() string {
	return fmt.Sprintf("%s belongs to another account: it is of %s, but the drive is %s", e.Dir, describe(e.State), describe(e.Drive))
}

func describe(a Account) string {
	if a.Origin == "" {
		return "the drive with root " + a.Root
	}
	return fmt.Sprintf("%s (root %s)", a.Origin, a.Root)
}

// Account is whose drive the state directory is of.
func (s *Store) Account() (Account, error) {
	a, err := s.journal.Account()
	if err == nil && a.Root == "" {
		a.Root = s.mirror.Root().ID // written before journals knew accounts
	}
	return a, err
}

// ConfirmAccount is told the id of the root that the drive answered with. An
// *AccountError refuses one of another account; the same one at another origin
// is noted.
func (s *Store) ConfirmAccount(root string) error {
	told := Account{Root: root, Origin: s.o.Origin}
	known, err := s.Account()
	if err != nil {
		return err
	}
	if known.Root != "" && known.Root != root {
		return &AccountError{Dir: s.o.StateDir, State: known, Drive: told}
	}
	if told.Origin == "" {
		told.Origin = known.Origin
	}
	if kept, err := s.journal.Account(); err != nil || kept == told {
		return err
	}
	return s.journal.SetAccount(told)
}

// bindAccount tells a journal from before there were accounts that it is of the
// drive with this root, so that it still knows when the mirror is gone; and
// refuses the root of another account.
func bindAccount(j *journal.Journal, dir, root string) error {
	known, err := j.Account()
	switch {
	case err != nil:
		return err
	case known.Root == "":
		return j.SetAccount(Account{Root: root})
	case known.Root != root:
		return &AccountError{Dir: dir, State: known, Drive: Account{Root: root, Origin: "its mirror"}}
	}
	return nil
}
