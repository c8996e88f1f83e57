package journal

import (
	"context"
	"encoding/json"
	"fmt"
)

// Account says whose drive the intents are for.
type Account struct {
	Root   string `json:"root"`   // id of the drive's root, "" = not known yet
	Origin string `json:"origin"` // where that drive was reached last, as https://host; "" = not known
}

// Account is what SetAccount was given last, over restarts; the zero Account
// for a journal that was never told, or whose log was lost.
func (j *Journal) Account() (a Account, err error) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	if j.account == nil {
		return a, nil
	}
	if err := json.Unmarshal(j.account, &a); err != nil {
		return Account{}, fmt.Errorf("journal: account: %w", err)
	}
	return a, nil
}

// SetAccount keeps a; it is on the disk when SetAccount returns.
func (j *Journal) SetAccount(a Account) error {
	text, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("journal: account: %w", err)
	}
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return ErrClosed
	}
	seq := j.queueLocked(&record{meta: &meta{account: text}})
	j.mu.Unlock()
	if err := j.Written(seq); err != nil {
		return fmt.Errorf("journal: account: %w", err)
	}
	j.mu.Lock()
	j.account = text
	j.mu.Unlock()
	return j.Sync(context.Background())
}
