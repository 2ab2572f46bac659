package durable

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"yr/pkg/yr"
)

// Member is a node of the group. One that does not vote yet is a learner: it gets
// the log and counts for no majority.
type Member struct {
	Node    yr.Node
	Address string
	Voter   bool
	Leader  bool
}

// Members are those of the newest configuration that this voter knows.
func (g *Group) Members() ([]Member, error) {
	c, err := g.configuration()
	if err != nil {
		return nil, err
	}
	_, leader := g.raft.LeaderWithID()
	members := make([]Member, len(c.Servers))
	for i, s := range c.Servers {
		members[i] = Member{Node: yr.Node(s.ID), Address: string(s.Address), Voter: s.Suffrage == raft.Voter, Leader: s.ID == leader}
	}
	return members, nil
}

// learnerLag is how many log entries a learner may be behind when it gets its vote.
const learnerLag = 64

// AddVoter adds a node, or gives one that is there a new address. It joins as a
// learner, and gets its vote once it has caught up: until then it could only slow
// the group down. Only the leader can do it; when ctx ends first the node stays a
// learner, and AddVoter may be called again.
func (g *Group) AddVoter(ctx context.Context, node yr.Node, address string) error {
	if err := g.leads(ctx); err != nil {
		return err
	}
	id, to := raft.ServerID(node), raft.ServerAddress(address)
	if err := g.changeMembers(ctx, func() raft.IndexFuture { return g.raft.AddNonvoter(id, to, 0, 0) }); err != nil {
		return err
	}
	if err := g.caughtUp(ctx, address); err != nil {
		return err
	}
	g.alone.Store(false) // before anybody else could be elected
	err := g.changeMembers(ctx, func() raft.IndexFuture { return g.raft.AddVoter(id, to, 0, 0) })
	if c, e := g.configuration(); e == nil {
		g.votersChanged(c)
	}
	return err
}

// RemoveVoter removes a node, dead or alive. Removing the leader itself makes it
// hand over first.
func (g *Group) RemoveVoter(ctx context.Context, node yr.Node) error {
	if err := g.leads(ctx); err != nil {
		return err
	}
	members, err := g.Members()
	if err != nil {
		return err
	}
	voters := slices.DeleteFunc(members, func(m Member) bool { return !m.Voter })
	if len(voters) == 1 && voters[0].Node == node {
		return &yr.Error{Op: "remove voter", Code: yr.ParamInvalid, Msg: fmt.Sprintf("%s is the only voter; the group would be gone", node)}
	}
	return g.changeMembers(ctx, func() raft.IndexFuture { return g.raft.RemoveServer(raft.ServerID(node), 0, 0) })
}

// ReplaceVoter puts a new node in the place of one that will not come back. The
// dead one goes first, so that the group never needs its vote.
func (g *Group) ReplaceVoter(ctx context.Context, dead, node yr.Node, address string) error {
	if dead == node {
		return &yr.Error{Op: "replace voter", Code: yr.ParamInvalid, Msg: fmt.Sprintf("%s cannot replace itself; a voter whose disk is lost needs another name", node)}
	}
	if err := g.RemoveVoter(ctx, dead); err != nil {
		return err
	}
	return g.AddVoter(ctx, node, address)
}

// TransferLeadership hands over to the voter that is furthest, or to a named one.
func (g *Group) TransferLeadership(ctx context.Context, to yr.Node) error {
	if err := g.leads(ctx); err != nil {
		return err
	}
	if to == "" {
		return g.await(ctx, g.raft.LeadershipTransfer())
	}
	members, err := g.Members()
	if err != nil {
		return err
	}
	for _, m := range members {
		if m.Node == to && m.Voter {
			return g.await(ctx, g.raft.LeadershipTransferToServer(raft.ServerID(to), raft.ServerAddress(m.Address)))
		}
	}
	return &yr.Error{Op: "transfer leadership", Code: yr.ParamInvalid, Msg: fmt.Sprintf("%s is no voter of this group", to)}
}

func (g *Group) leads(ctx context.Context) error {
	if g.leading.Load() == nil {
		return g.notLeader()
	}
	if ctx.Err() != nil {
		return refused(ctx)
	}
	return nil
}

func (g *Group) changeMembers(ctx context.Context, change func() raft.IndexFuture) error {
	return g.await(ctx, change())
}

// await bounds the wait for Raft by ctx; what was begun goes on.
func (g *Group) await(ctx context.Context, f raft.Future) error {
	done := make(chan error, 1)
	if !g.wg.Go(func() { done <- f.Error() }) {
		return g.ended()
	}
	select {
	case err := <-done:
		switch {
		case err == nil:
			return nil
		case errors.Is(err, raft.ErrNotLeader):
			return g.notLeader()
		default:
			return &yr.Error{Op: "change members", Code: yr.Communication, Err: err}
		}
	case <-ctx.Done():
		return detail(ErrUnknown, "the change of members was begun: %v", ctx.Err())
	}
}

// caughtUp waits until a learner has nearly all of the log.
func (g *Group) caughtUp(ctx context.Context, address string) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		goal := g.fsm.m.index.Load()
		at, err := g.streams.progress(ctx, address)
		if err == nil && at+learnerLag >= goal {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return detail(ErrUnavailable, "the new voter at %s has not caught up; it stays a learner (%v, %v)", address, ctx.Err(), err)
		case <-g.life.Done():
			return g.ended()
		}
		if g.leading.Load() == nil {
			return g.notLeader()
		}
	}
}
