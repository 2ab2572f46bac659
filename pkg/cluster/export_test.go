package cluster

import "context"

// HardStop ends a member's etcd without a word to the others. Close follows.
func HardStop(m *Member) {
	e := m.engine.Load()
	e.closing.Store(true)
	e.etcd.Server.HardStop()
}

// Compact forgets the history before a revision.
func Compact(m *Member, revision int64) error {
	_, err := m.engine.Load().client.Compact(context.Background(), revision)
	return err
}
