package mirror

import bolt "go.etcd.io/bbolt"

// InoOf is Ino for a caller to whom "not known" (0) and "cannot be read" are
// different answers.
func (m *Mirror) InoOf(id string) (ino Ino, err error) {
	if ino, ok := m.held(id); ok {
		return ino, nil
	}
	err = m.view(func(_ *file, tx *bolt.Tx) error {
		ino, _ = number(tx.Bucket(bID).Get([]byte(id)))
		return nil
	})
	return ino, err
}
