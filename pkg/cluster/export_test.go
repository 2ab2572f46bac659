package cluster

import (
	"context"
	"time"
)

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

// LeadRaft makes a member the leader of etcd's Raft.
func LeadRaft(ctx context.Context, m *Member) error {
	server := m.engine.Load().etcd.Server
	if server.Leader() == server.MemberID() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return server.MoveLeader(ctx, uint64(server.Leader()), uint64(server.MemberID()))
}
