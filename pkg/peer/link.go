package peer

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"yr/pkg/yr"
)

// A Link is what this node sends to one peer, and what it hears from it: two
// streams of wire frames, one each way, each over a connection that the sending
// side makes. A frame arrives exactly once while this incarnation of both nodes
// lives; connections come and go meanwhile. Whoever queues a frame never waits.
//
// A link takes frames from its first Handler.Met on; before, it has nobody to
// send them to and drops them.
type Link struct {
	p    *Peers
	node yr.Node

	ctx    context.Context // ends with the link
	cancel context.CancelFunc
	kick   chan struct{} // cap 1: there may be a better moment to connect than the next planned one
	heard  atomic.Int64  // when the last byte came, as of Peers.now; 0: never

	// handling serialises the calls of the Handler for this peer, and the meetings
	// that decide which incarnations the link is between. It is taken before mu.
	handling sync.Mutex
	received uint64 // bytes of the peer's stream that the Handler was given; guarded by handling

	mu         sync.Mutex
	closed     bool
	address    string
	generation uint64   // ours: how often this link started from nothing within our incarnation
	own        identity // who we were when we met
	peer       identity // who the peer was when we met it last
	met        bool     // own and peer hold: the link is between these two
	stale      bool     // met, and Begin is still to come: what is queued is for the peer's former life
	backlog    backlog
	out        *outbound     // what we send on; nil while there is no connection
	in         *inbound      // what we read from
	writing    bool          // somebody writes to a connection; whoever queues need not
	room       chan struct{} // closed when there is room again; nil if nobody waits
	trouble    string        // why there is no connection
}

func newLink(p *Peers, node yr.Node) *Link {
	l := &Link{p: p, node: node, kick: make(chan struct{}, 1)}
	l.ctx, l.cancel = context.WithCancel(p.ctx)
	return l
}

// Node is the peer's name.
func (l *Link) Node() yr.Node { return l.node }

// Address is where the peer is reached.
func (l *Link) Address() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.address
}

// Incarnation is the peer's as the link met it last, 0 if it never did. Within
// Handler.Met and Handler.Frames it is the one that the call is about.
func (l *Link) Incarnation() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.peer.incarnation
}

// Heard is when the last byte came from the peer; zero if none ever did. Pings
// keep it younger than a second while the peer can be reached.
func (l *Link) Heard() time.Time {
	if ns := l.heard.Load(); ns != 0 {
		return l.p.began.Add(time.Duration(ns))
	}
	return time.Time{}
}

// Queue lets add append whole wire frames to what will be sent, and returns how
// many bytes wait to be written. It never waits; Flush starts the writing. Frames
// of type 0 belong to the link itself. A link that has not met its peer, or is
// closed, takes nothing: add is not called.
//
// hot: once per frame.
func (l *Link) Queue(add func(dst []byte) []byte) (waiting int) {
	l.mu.Lock()
	if l.met && !l.stale {
		l.backlog.push(add)
	}
	waiting = l.backlog.unsent()
	l.mu.Unlock()
	return waiting
}

// Full says that the peer lags MaxUnacknowledged bytes behind.
func (l *Link) Full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.full()
}

func (l *Link) full() bool { return l.backlog.unacked() > MaxUnacknowledged }

// WaitRoom waits until the link is not Full. It fails when ctx is done or the
// link is closed.
func (l *Link) WaitRoom(ctx context.Context) error {
	for {
		l.mu.Lock()
		if l.closed {
			l.mu.Unlock()
			return l.gone()
		}
		if !l.full() {
			l.mu.Unlock()
			return nil
		}
		if l.room == nil {
			l.room = make(chan struct{})
		}
		room := l.room
		l.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return yr.Wrap("peer: wait for room", yr.Communication, ctx.Err())
		}
	}
}

// announceRoom wakes whoever waits for room; mu is held.
func (l *Link) announceRoom() {
	if l.room != nil && (l.closed || !l.full()) {
		close(l.room)
		l.room = nil
	}
}

func (l *Link) gone() error {
	e := yr.E("peer", yr.Communication, "the link to node %q is closed", l.node)
	e.Err = ErrClosed
	return e
}

// Begin is for a Handler in Met with fresh set. Frames queued before it are
// dropped, frames queued after it go to the peer's new incarnation. A Handler that
// queues under a lock of its own calls it under that lock, after it has forgotten
// the peer's former life. If it does not call it, Met's return is the moment.
func (l *Link) Begin() {
	l.mu.Lock()
	l.stale = false
	l.mu.Unlock()
}

// LinkView shows a link.
type LinkView struct {
	Node           yr.Node   `json:"node"`
	Address        string    `json:"address"`
	Incarnation    uint64    `json:"incarnation"`    // of the peer; 0: not met
	Sending        bool      `json:"sending"`        // a connection to the peer exists
	Receiving      bool      `json:"receiving"`      // a connection from the peer exists
	Waiting        int       `json:"waiting"`        // bytes not written
	Unacknowledged int       `json:"unacknowledged"` // bytes that the peer has not confirmed
	Heard          time.Time `json:"heard"`
	Reason         string    `json:"reason,omitempty"` // why there is no connection to the peer
}

// View shows the link as it is.
func (l *Link) View() LinkView {
	heard := l.Heard()
	l.mu.Lock()
	defer l.mu.Unlock()
	v := LinkView{Node: l.node, Address: l.address, Sending: l.out != nil, Receiving: l.in != nil,
		Waiting: l.backlog.unsent(), Unacknowledged: l.backlog.unacked(), Heard: heard}
	if l.met {
		v.Incarnation = l.peer.incarnation
	}
	if l.out == nil {
		v.Reason = l.trouble
	}
	return v
}

// setAddress changes where the peer is reached. A connection that exists stays:
// it is with the peer, wherever it was reached.
func (l *Link) setAddress(address string) {
	l.mu.Lock()
	changed := address != "" && address != l.address
	if changed {
		l.address = address
	}
	l.mu.Unlock()
	if changed {
		l.retry()
	}
}

// retry connects without waiting for the next planned attempt.
func (l *Link) retry() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// ownIdentity is who we are on this link at the moment.
func (l *Link) ownIdentity() identity {
	l.mu.Lock()
	generation := l.generation
	l.mu.Unlock()
	return l.p.own(generation)
}

// meet settles between which incarnations the link is, now that a handshake has
// proved who both are: own is who we said we were in it. If the pair is new the
// link starts from nothing. It calls the Handler. handling is held.
//
// Both ends decide alike without agreeing further: the pair (own, peer) names the
// life of the link, either end starts each pair once, with both streams at 0, and
// nothing of a pair is sent before its meeting.
func (l *Link) meet(own, peer identity) error {
	if err := l.p.checkFence(l.node, peer.incarnation); err != nil {
		return err
	}
	l.mu.Lock()
	fresh, err := l.judge(own, peer)
	if err != nil {
		l.mu.Unlock()
		return err
	}
	if fresh {
		l.startOver()
		l.own, l.met, l.stale = own, true, true
		l.received = 0
	}
	l.peer = peer
	l.mu.Unlock()
	if fresh {
		l.p.opt.Log.Info().Str("peer", string(l.node)).Uint64("incarnation", peer.incarnation).Str("address", peer.address).Msg("met a node")
	}
	l.p.opt.Handler.Met(l, fresh)
	if fresh {
		l.Begin()
	}
	return nil
}

// judge says whether the pair is new; mu is held.
func (l *Link) judge(own, peer identity) (fresh bool, err error) {
	now := l.p.own(l.generation)
	switch {
	case l.closed:
		return false, refuse(refusedEarly, "node %q has just closed its link to node %q", own.node, l.node)
	case own.incarnation != now.incarnation || own.generation != now.generation:
		return false, refuse(refusedEarly, "node %q changed its incarnation during the handshake", own.node)
	case own.incarnation == 0 || peer.incarnation == 0:
		return false, refuse(refusedEarly, "a link needs two members of the cluster; node %q has incarnation %d, node %q %d", own.node, own.incarnation, l.node, peer.incarnation)
	}
	switch then := l.peer; {
	case peer.incarnation < then.incarnation, peer.incarnation == then.incarnation && peer.generation < then.generation:
		return false, refuse(refusedFenced, "incarnation %d of node %q was replaced by %d", peer.incarnation, l.node, then.incarnation)
	case peer.incarnation == then.incarnation && peer.boot != then.boot:
		return false, refuse(refusedSame, "two processes claim incarnation %d of node %q", peer.incarnation, l.node)
	case l.met && peer.incarnation == then.incarnation && peer.generation == then.generation:
		return false, nil
	}
	return true, nil
}

// startOver drops everything of the link's present life; mu is held.
func (l *Link) startOver() {
	l.met, l.stale = false, false
	if l.out != nil {
		l.out.sock.drop()
		l.out = nil
	}
	if l.in != nil {
		l.in.end()
		l.in = nil
	}
	l.backlog = backlog{}
	l.announceRoom()
}

// renew follows a change of our incarnation.
func (l *Link) renew(incarnation uint64) {
	l.mu.Lock()
	if l.met && l.own.incarnation != incarnation {
		l.startOver()
	}
	l.mu.Unlock()
	l.retry()
}

// reset follows a violation of the protocol by the peer: our generation grows, by
// which the peer knows at the next meeting that it starts from nothing too.
func (l *Link) reset(why error) {
	l.mu.Lock()
	l.generation++
	l.startOver()
	l.mu.Unlock()
	l.p.opt.Log.Error().Str("peer", string(l.node)).Err(why).Msg("a peer broke the protocol; the link to it starts from nothing")
	l.retry()
}

// fence closes the link if it is with this incarnation of the peer, an earlier one
// or nobody yet.
func (l *Link) fence(incarnation uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.peer.incarnation > incarnation {
		return false
	}
	l.shut()
	return true
}

// close ends the link for good.
func (l *Link) close() {
	l.mu.Lock()
	l.shut()
	l.mu.Unlock()
}

// shut is close; mu is held.
func (l *Link) shut() {
	if l.closed {
		return
	}
	l.closed = true
	l.startOver()
	l.cancel()
}

// tick sends a sign of life each way and gives up connections that show none; awake
// says that this process was there to hear them.
func (l *Link) tick(awake bool) {
	l.mu.Lock()
	out, in := l.out, l.in
	l.backlog.relax()
	l.mu.Unlock()
	if in != nil {
		in.tick(awake)
	}
	if out != nil {
		l.ping(out, awake)
	}
}
