package cluster

// HardStop ends a member's etcd without a word to the others. Close follows.
func HardStop(m *Member) {
	e := m.engine.Load()
	e.closing.Store(true)
	e.etcd.Server.HardStop()
}
