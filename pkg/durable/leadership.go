package durable

import (
	"context"
	"time"

	"github.com/hashicorp/raft"
)

// leadership is one term in which this voter leads.
type leadership struct {
	term uint64
	time *leaderTime
	due  chan struct{}
	pins *pinner
	ctx  context.Context
	end  context.CancelFunc
}

// Leading says whether this voter leads the group now, and in which epoch. Epochs
// only grow, and no two voters ever lead in the same one. A paused voter may be
// wrong about now, so what must not be done twice has to carry the epoch.
func (g *Group) Leading() (epoch uint64, ok bool) {
	if l := g.leading.Load(); l != nil {
		return l.term, true
	}
	return 0, false
}

// Leadership returns a channel that is closed when Leading or LeaderAddress may
// have changed; then ask again.
func (g *Group) Leadership() <-chan struct{} { return *g.change.Load() }

// LeaderAddress is where the leader is, as far as this voter knows; "" if it knows none.
func (g *Group) LeaderAddress() string {
	if g.raft == nil {
		return ""
	}
	address, _ := g.raft.LeaderWithID()
	return string(address)
}

// changed tells those who wait for Leadership.
func (g *Group) changed() {
	next := make(chan struct{})
	close(*g.change.Swap(&next))
}

// followLeadership turns Raft's notices into leaderships.
func (g *Group) followLeadership() {
	observed := make(chan raft.Observation, 16)
	observer := raft.NewObserver(observed, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	})
	g.raft.RegisterObserver(observer)
	defer g.raft.DeregisterObserver(observer)
	for {
		select {
		case <-g.life.Done():
			return
		case <-observed:
			g.changed()
		case leads := <-g.notify:
			g.stepDown()
			if leads {
				g.begin()
			}
		}
	}
}

// begin leads, once everything that was ever acknowledged is in the tables.
func (g *Group) begin() {
	term := g.raft.CurrentTerm()
	if err := g.raft.Barrier(0).Error(); err != nil {
		return // lost again: the next notice says so
	}
	if g.raft.State() != raft.Leader || g.raft.CurrentTerm() != term || g.life.Err() != nil {
		return
	}
	l := &leadership{
		term: term, due: make(chan struct{}, 1), pins: newPinner(),
		time: newLeaderTime(g.options.Clock, logTime(g.fsm.m.now.Load())),
	}
	l.ctx, l.end = context.WithCancel(g.life)
	g.leading.Store(l)
	g.wg.Go(func() { g.expire(l) })
	g.changed()
	if g.life.Err() != nil {
		g.stepDown() // Close may have looked before there was anything to end
	}
}

// stepDown ends the present leadership, if there is one.
func (g *Group) stepDown() {
	l := g.leading.Swap(nil)
	if l == nil {
		return
	}
	l.end()
	g.hub.reset(g.notLeader())
	g.changed()
}

func (g *Group) notLeader() error {
	if g.life.Err() != nil {
		return g.ended()
	}
	leader := g.LeaderAddress()
	if leader == g.options.Address {
		leader = "" // elected, and not ready yet
	}
	return &NotLeaderError{Leader: leader}
}

// expire ends leases and records in this leadership.
func (g *Group) expire(l *leadership) {
	e := &expirer{time: l.time, due: l.due,
		next: func() (logTime, error) {
			done, err := g.fsm.view()
			if err != nil {
				return 0, err
			}
			defer done()
			return g.fsm.m.nextExpiry()
		},
		propose: func(ctx context.Context) (bool, error) {
			out, err := g.do(ctx, op{kind: opExpire})
			return out.result.OK, err
		},
	}
	if err := e.run(l.ctx); err != nil && g.life.Err() == nil {
		g.fail(err)
	}
}

// takeOver makes a lone voter the leader without waiting for an election timeout:
// nobody else could win.
func (g *Group) takeOver(ctx context.Context) error {
	id, address := raft.ServerID(g.options.Node), raft.ServerAddress(g.options.Address)
	request := &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: g.transport.EncodePeer(id, address)}}
	if err := g.transport.TimeoutNow(id, address, request, &raft.TimeoutNowResponse{}); err != nil {
		return err
	}
	g.transport.CloseStreams() // the connection to itself is needed no more
	for {
		changed := g.Leadership()
		if _, ok := g.Leading(); ok {
			return nil
		}
		select {
		case <-changed:
		case <-g.failed:
			return g.Err()
		case <-ctx.Done():
			return refused(ctx)
		}
	}
}

// configuration is who is in the group.
func (g *Group) configuration() (raft.Configuration, error) {
	f := g.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return raft.Configuration{}, g.ended()
	}
	return f.Configuration(), nil
}

// votersChanged is called with every committed configuration.
func (g *Group) votersChanged(c raft.Configuration) {
	voters, self := 0, false
	for _, s := range c.Servers {
		if s.Suffrage == raft.Voter {
			voters++
			self = self || s.ID == raft.ServerID(g.options.Node)
		}
	}
	g.alone.Store(self && voters == 1)
}

const (
	// minTrailing log entries, or about trailingBytes of them, stay after a snapshot, so
	// that a voter that was away for a moment needs no snapshot.
	minTrailing   = 128
	maxTrailing   = 16 << 10
	trailingBytes = 16 << 20

	// appendEntries is how many log entries are sent to a follower at once.
	appendEntries = 64
)

// snapshot takes one whenever enough log has come together.
func (g *Group) snapshot() {
	for {
		select {
		case <-g.life.Done():
			return
		case <-g.fsm.full:
		}
		if err := g.takeSnapshot(); err != nil && g.life.Err() == nil {
			g.options.Log.Warn().Err(err).Uint32("group", g.options.Group).Msg("records: no snapshot this time")
			select {
			case <-time.After(time.Second):
			case <-g.life.Done():
			}
		}
	}
}

func (g *Group) takeSnapshot() error {
	entries, bytes := g.fsm.entries.Load(), g.fsm.bytes.Load()
	config := g.raft.ReloadableConfig()
	config.TrailingLogs = minTrailing
	if most := g.options.trailing; most != 0 {
		config.TrailingLogs = most
	} else if bytes > 0 && entries > 0 {
		config.TrailingLogs = uint64(min(max(trailingBytes*entries/bytes, minTrailing), maxTrailing))
	}
	if err := g.raft.ReloadConfig(config); err != nil {
		return err
	}
	taken := make(chan error, 1)
	f := g.raft.Snapshot()
	go func() { taken <- f.Error() }()
	select {
	case err := <-taken:
		return err
	case <-g.failed: // Raft may answer no more
		return g.Err()
	}
}
