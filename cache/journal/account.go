package journal

import (
	"encoding/json"
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// Account says whose drive the intents are for.
type Account struct {
	Root   string `json:"root"`   // id of the drive's root, "" = not known yet
	Origin string `json:"origin"` // where that drive was reached last, as https://host; "" = not known
}

// metaAccount is the key of the account in the bucket meta, as JSON.
var metaAccount = []byte("account")

// Account is what SetAccount was given last, over restarts; the zero Account
// for a journal that was never told, or whose database was damaged.
func (j *Journal) Account() (a Account, err error) {
	err = j.db.View(func(tx *bolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		if meta == nil {
			return nil
		}
		if v := meta.Get(metaAccount); v != nil {
			return json.Unmarshal(v, &a)
		}
		return nil
	})
	if err != nil {
		return Account{}, fmt.Errorf("journal: account: %w", err)
	}
	return a, nil
}

// SetAccount keeps a; it is on the disk when SetAccount returns.
func (j *Journal) SetAccount(a Account) error {
	text, err := json.Marshal(a)
	if err == nil {
		err = j.db.Update(func(tx *bolt.Tx) error {
			meta, err := tx.CreateBucketIfNotExists(bucketMeta)
			if err != nil {
				return err
			}
			return meta.Put(metaAccount, text)
		})
	}
	if err != nil {
		return fmt.Errorf("journal: account: %w", err)
	}
	return nil
}
