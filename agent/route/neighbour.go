package route

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"

	"yr/pkg/wire"
	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
)

// neighbour is another node as far as this one deals with it: workers hired there
// and workers run for it, references lent and borrowed, instances that live there.
type neighbour struct {
	r     *Router
	node  yr.Node
	tag   yr.Tag // zero: not heard yet
	link  *linkConn
	life  uint64   // its incarnation; 0: not met yet
	peer  *Session // what the node holds and has bound here
	hires map[uint32]*worker
	last  uint32 // number of the last hire

	guests    map[uint32]*worker
	calls     map[yr.ID]*call     // sent there
	instances map[yr.ID]*instance // bound there
	numbers   uint32              // of the last bound instance
	requests  map[uint64]func(h wire.Header, body []byte, err error)
	corr      uint64
	sent      answers      // results of calls that it forwarded, in case it forgets them
	limbo     bool         // its daemon was restarted; whether it remembers us is not known yet
	full      yr.Resources // what it had left when it refused a worker
	fullAt    time.Time
}

// neighbour finds or makes what is known of a node.
func (r *Router) neighbour(node yr.Node) *neighbour {
	n := r.neighbours[node]
	if n == nil {
		n = &neighbour{r: r, node: node}
		r.neighbours[node] = n
		n.clear()
	}
	return n
}

// clear makes n what it is before anything was said.
func (n *neighbour) clear() {
	r := n.r
	id := r.opt.Tag.NewID()
	n.link = newLinkConn(r.opt.Cluster.Link(n.node))
	n.peer = &Session{r: r, conn: n.link, link: n.link, id: id, prefix: id.Prefix(), role: yr.RoleNode, targets: make([]target, 1), node: n}
	n.peer.holder = r.names.Join(id, "")
	n.hires, n.guests = make(map[uint32]*worker), make(map[uint32]*worker)
	n.calls, n.instances = make(map[yr.ID]*call), make(map[yr.ID]*instance)
	n.requests = make(map[uint64]func(wire.Header, []byte, error))
	n.full, n.fullAt, n.limbo, n.sent = nil, time.Time{}, false, answers{}
}

func (n *neighbour) queue(add func(dst []byte) []byte) { n.peer.queue(add) }

// request sends a frame that is answered with the same correlation number.
func (n *neighbour) request(add func(dst []byte, corr uint64) []byte, answer func(h wire.Header, body []byte, err error)) {
	n.corr++
	corr := n.corr
	n.requests[corr] = answer
	n.queue(func(dst []byte) []byte { return add(dst, corr) })
}

// Met is told that a node is there, in its life of that incarnation. fresh: it
// knows nothing of what was said before.
func (r *Router) Met(node yr.Node, incarnation uint64, fresh bool) {
	r.turn(func() {
		n := r.neighbour(node)
		n.life = incarnation
		if !fresh && n.link.met {
			return
		}
		if n.link.met || n.limbo {
			n.suspend()
		}
		g := &wirepb.Greet{Tag: r.opt.Tag.String(), Version: r.opt.Version, Recovering: r.recovery != nil}
		n.link.greet(r.opt.Cluster.Link(node), wire.AppendMessage(nil, wire.Greet, 0, g))
		if !n.limbo {
			n.link.meet()
		}
		n.peer.touch()
	})
}

// FromNode handles a chunk of whole frames of another node in one turn.
func (r *Router) FromNode(node yr.Node, frames []byte) error {
	var err error
	r.turn(func() {
		n := r.neighbour(node)
		for len(frames) > 0 {
			h, body, rest, ferr := wire.Next(frames)
			if ferr != nil {
				err = ferr
				return
			}
			frames = rest
			if err = n.frame(h, body); err != nil {
				r.opt.Log.Error().Err(err).Str("node", string(node)).Uint8("frame", uint8(h.Type)).Msg("a node sent what it may not")
				return
			}
		}
	})
	return err
}

// frame handles one frame of another node.
//
// hot: once per frame.
func (n *neighbour) frame(h wire.Header, body []byte) error {
	r := n.r
	switch h.Type {
	case wire.Relay:
		return n.relay(h.Flags, body)
	case wire.ResultType:
		return n.callResult(body)
	case wire.ObjectType:
		return n.object(body)
	case wire.Borrow:
		return n.borrowed(body)
	case wire.Lent:
		return n.lent(body)
	case wire.Forget:
		return n.forget(body)
	case wire.PutType:
		return n.announced(h.Flags, body)
	case wire.CallType, wire.Release, wire.Get, wire.Ping, wire.Pong, wire.Bind, wire.Kill, wire.Lookup, wire.Cancel:
		return n.peer.frame(h, body)
	case wire.Done, wire.Found:
		if answer := n.requests[h.Corr]; answer != nil {
			delete(n.requests, h.Corr)
			answer(h, body, nil)
		}
		return nil
	}
	return r.fromNodeRare(n, h, body)
}

func (r *Router) fromNodeRare(n *neighbour, h wire.Header, body []byte) error {
	switch h.Type {
	case wire.Greet:
		return decoded(h, body, &wirepb.Greet{}, n.greeted)
	case wire.Hire:
		return decoded(h, body, &wirepb.Hire{}, n.hire)
	case wire.Hired:
		return decoded(h, body, &wirepb.Hired{}, n.hired)
	case wire.Dismiss:
		return decoded(h, body, &wirepb.Dismiss{}, n.dismiss)
	case wire.Gone:
		return decoded(h, body, &wirepb.Gone{}, n.gone)
	case wire.Instance:
		return decoded(h, body, &wirepb.InstanceEvent{}, n.event)
	case wire.JobEnd:
		return decoded(h, body, &wirepb.JobEnd{}, n.endJob)
	case wire.JobEnded:
		return decoded(h, body, &wirepb.JobEnd{}, n.jobEnded)
	case wire.JobKept:
		return decoded(h, body, &wirepb.JobInfo{}, n.jobKept)
	case wire.Kept:
		return decoded(h, body, &wirepb.KeptWorker{}, n.kept)
	case wire.Wanted:
		return decoded(h, body, &wirepb.WantedWorker{}, n.wanted)
	case wire.Resumed:
		return decoded(h, body, &wirepb.ResumedWorker{}, n.resumed)
	case wire.Reunited:
		r.reunited(n)
		return nil
	}
	return yr.E("link", yr.FrameMalformed, "frame type %d is not one that a node may send", h.Type)
}

func (n *neighbour) greeted(m *wirepb.Greet) error {
	tag, err := yr.ParseTag(m.GetTag())
	if err != nil {
		return yr.Wrap("greet", yr.FrameMalformed, err)
	}
	n.tag = tag
	n.r.tagged[tag] = n
	n.r.remember(n)
	switch {
	case n.limbo && m.GetRecovering():
		n.reunite()
	case n.limbo:
		n.r.lose(n, yr.E("node "+string(n.node), yr.Communication, "the daemon of node %s was restarted", n.node))
		n.link.meet()
	case m.GetRecovering(): // it waits to hear that there is nothing to tell
		n.queue(func(dst []byte) []byte { return wire.AppendEmpty(dst, wire.Reunited, 0) })
	}
	return nil
}

// reach finds the neighbour with a tag, asking the leader if need be. then runs
// in a turn of the router, now or later.
func (r *Router) reach(tag yr.Tag, then func(n *neighbour, err error)) {
	if n := r.tagged[tag]; n != nil {
		then(n, nil)
		return
	}
	if r.opt.Cluster == nil || tag == r.opt.Tag || tag == (yr.Tag{}) {
		then(nil, errNowhere)
		return
	}
	found := func(node yr.Node) *neighbour {
		n := r.neighbour(node)
		n.tag = tag
		r.tagged[tag] = n
		return n
	}
	if node, ok := r.opt.Cluster.Tagged(tag); ok {
		then(found(node), nil)
		return
	}
	r.background(func(ctx context.Context) {
		node, err := r.opt.Cluster.Locate(ctx, tag)
		r.turn(func() {
			if err != nil {
				then(nil, err)
				return
			}
			then(found(node), nil)
		})
	})
}

var errNowhere = yr.E("find", yr.ObjectNotFound, "no node of this cluster made it")

// background runs f outside the lock, until the router closes.
func (r *Router) background(f func(ctx context.Context)) {
	if r.ctx.Err() != nil {
		return
	}
	r.wg.Go(func() { f(r.ctx) })
}

// NodeDead is told that the leader gave up a node's life: nothing that it had will
// come back, and its work may be done by others.
func (r *Router) NodeDead(node yr.Node, incarnation uint64) {
	r.turn(func() {
		n := r.neighbours[node]
		if n == nil || n.life > incarnation {
			return
		}
		r.lose(n, yr.E("node "+string(node), yr.Communication, "node %s was lost", node))
		delete(r.neighbours, node)
		if n.tag != (yr.Tag{}) {
			delete(r.tagged, n.tag)
		}
	})
}

// Isolated is told that the leader has not heard of this node for so long that it
// will give it up, and others may then do its work. What they could do is stopped
// before it returns: workers for nodes that do not hear this one either. Where the
// link is alive nothing happens: its node knows better.
func (r *Router) Isolated() {
	r.turn(func() {
		r.isolated = true
		r.endCutOff()
	})
}

// Regained is told that the leader hears of this node again, and never gave it up.
func (r *Router) Regained() { r.turn(func() { r.isolated = false }) }

// endCutOff ends the workers that others may be starting anew by now.
func (r *Router) endCutOff() {
	for _, w := range r.workers {
		if w.guest != nil && (w.guest.from == nil || w.guest.from.silent()) {
			r.endWorker(w, "its node has lost touch with the cluster")
		}
		if w.in != nil && w.in.keep != nil {
			r.endWorker(w, "its node has lost touch with the cluster, which makes it anew elsewhere")
		}
	}
}

// Reborn is told that this node was given up and has a new life in the cluster:
// whatever it shared with others is gone.
func (r *Router) Reborn() {
	r.turn(func() {
		r.isolated = false
		for _, in := range r.instances {
			r.surrender(in)
		}
		for _, n := range r.neighbours {
			r.lose(n, yr.E("node "+string(n.node), yr.Communication, "this node, %s, was given up by the cluster's leader for a while", r.opt.Node))
		}
	})
}

// lose undoes everything that was shared with a node.
func (r *Router) lose(n *neighbour, cause error) {
	r.opt.Log.Warn().Str("node", string(n.node)).Err(cause).Msg("a node is lost")
	text := messageOf(cause)
	old := *n
	n.clear() // what follows may speak to the node's successor

	for _, w := range old.hires {
		r.hiredGone(w, text, 0, false)
	}
	for _, w := range old.guests {
		w.guest.from = nil
		r.endWorker(w, text)
	}
	for _, answer := range old.requests {
		answer(wire.Header{}, nil, cause)
	}
	for _, in := range old.instances {
		if !r.suspendForeign(in, old.calls, cause) {
			r.foreignLost(in, cause)
		}
	}
	for _, c := range old.calls {
		r.forwardedLost(c, cause)
	}
	r.loansLost(n, cause)
	old.peer.closed = true
	for _, t := range old.peer.targets {
		if t.in != nil {
			delete(t.in.real().watchers, old.peer)
		}
	}
	for _, c := range r.calls {
		if c.caller == old.peer {
			c.caller = nil
		}
	}
	old.peer.holder.End()
	for _, j := range r.jobs {
		delete(j.nodes, n)
		if j.home == n {
			r.endJob(j, text)
		}
		r.jobMayEnd(j)
	}
	r.hungry = true
}

// messageOf is the text of an error without the operation.
func messageOf(err error) string {
	var e *yr.Error
	if errors.As(err, &e) && e.Msg != "" {
		return e.Msg
	}
	return err.Error()
}

// decoded hands a message of a frame to the function that takes it.
func decoded[M proto.Message](h wire.Header, body []byte, m M, take func(M) error) error {
	if err := wire.DecodeMessage(h.Type, body, m); err != nil {
		return err
	}
	return take(m)
}
