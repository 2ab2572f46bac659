package durable

import (
	"context"
	"sync"

	"github.com/hashicorp/raft"
)

// reads batches the proofs that this voter still leads: one round trip to the
// others answers for everyone who asked before it began.
type reads struct {
	mu      sync.Mutex
	next    *proof
	running bool
}

type proof struct {
	done chan struct{}
	err  error
}

// confirm returns when this voter has led after the call began. What the tables have
// then includes everything that was acknowledged before.
func (g *Group) confirm(ctx context.Context) error {
	l := g.leading.Load()
	if l == nil {
		return g.notLeader()
	}
	if ctx.Err() != nil {
		return refused(ctx)
	}
	if g.alone.Load() {
		if g.raft.State() != raft.Leader {
			return g.notLeader()
		}
		return nil
	}
	g.reads.mu.Lock()
	if g.reads.next == nil {
		g.reads.next = &proof{done: make(chan struct{})}
	}
	p := g.reads.next
	if !g.reads.running {
		g.reads.running = g.wg.Go(g.prove)
	}
	g.reads.mu.Unlock()
	select {
	case <-p.done:
	case <-ctx.Done():
		return refused(ctx)
	case <-g.life.Done():
		return g.ended()
	}
	if p.err != nil || g.leading.Load() != l {
		return g.notLeader()
	}
	return nil
}

func (g *Group) prove() {
	for {
		g.reads.mu.Lock()
		p := g.reads.next
		g.reads.next = nil
		if p == nil {
			g.reads.running = false
			g.reads.mu.Unlock()
			return
		}
		g.reads.mu.Unlock()
		p.err = g.raft.VerifyLeader().Error()
		close(p.done)
	}
}
