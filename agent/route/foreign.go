package route

import (
	"context"
	"encoding/json"

	"yr/pkg/wire"
	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
	"yr/store"
)

// Instances that are at home on another node. This node forwards calls to them in
// the order in which they were sent; their home has the one mailbox, resolves the
// arguments and sees to retries and restarts.

// foreign is what an instance struct that stands for another node's instance has.
type foreign struct {
	home   *neighbour // nil: it is being located
	number uint32     // at its home
	parked []*call    // sent before the home was known
}

// foreignInstance is the stand-in for an instance of another node.
func (r *Router) foreignInstance(id yr.ID, j *job) *instance {
	if in := r.foreigners[id]; in != nil {
		return in
	}
	in := &instance{
		r: r, id: id, job: j, options: &wirepb.Options{}, class: "instance", lanes: make(map[yr.Prefix]*lane),
		foreign: &foreign{},
	}
	in.set(yr.StateCreating, "its node is being asked for it")
	r.foreigners[id] = in
	r.reach(id.Tag(), func(n *neighbour, err error) {
		if err != nil { // its node is gone: it may have come back on another
			r.seek(in, yr.E("bind", yr.InstanceNotFound, "there is no instance %s: %s", id, messageOf(err)))
			return
		}
		r.bindAt(n, in)
	})
	return in
}

// bindAt has the home of an instance know that this node calls it.
func (r *Router) bindAt(n *neighbour, in *instance) {
	f := in.foreign
	n.numbers++
	f.home, f.number = n, n.numbers
	n.instances[in.id] = in
	m := &wirepb.Bind{Number: f.number, InstanceId: in.id[:]}
	n.queue(func(dst []byte) []byte { return wire.AppendMessage(dst, wire.Bind, 0, m) })
	parked := f.parked
	f.parked = nil
	for _, c := range parked {
		if c.state != callEnded {
			r.forward(c, c.resent)
		}
	}
}

// forward sends a call to the home of its instance.
//
// hot: once per call of an instance of another node.
func (r *Router) forward(c *call, resent bool) {
	f := c.in.foreign
	c.state = callRunning
	if f.home == nil {
		f.parked = append(f.parked, c)
		return
	}
	c.at = f.home
	f.home.calls[c.id] = c
	var flags uint8
	if c.argsBlob {
		flags |= wire.ArgsBlob
	}
	if resent {
		flags |= wire.Resent
	}
	tail := wire.Tail{Attempt: c.attempt, Trace: c.trace}
	if !c.deadline.IsZero() {
		tail.Deadline = uint64(c.deadline.UnixMicro())
	}
	m := wire.Call{
		ID: c.id, Target: f.number, Returns: c.returns, NVals: c.nvals, Deps: c.deps, Method: c.method, Args: c.args,
		Tail: wire.AppendTail(nil, &tail),
	}
	f.home.queue(func(dst []byte) []byte { return wire.AppendCall(dst, flags, &m) })
}

// callResult takes the outcome of a call that was forwarded.
//
// hot: once per call of an instance of another node.
func (n *neighbour) callResult(body []byte) error {
	id, values, _, err := wire.DecodeResult(body, n.peer.scratch[:0])
	if err != nil {
		return err
	}
	n.peer.scratch = values[:0]
	r := n.r
	r.admit(n, id, values, func(values []wire.Value) {
		c := n.calls[id]
		if c == nil && r.recovery != nil {
			r.keepResult(id, values, n.peer)
			return
		}
		if c == nil || c.state != callRunning {
			r.returnValues(n, id, values)
			return
		}
		delete(n.calls, id)
		c.at = nil
		r.complete(c, values, n.peer)
	})
	return nil
}

// resultForNode sends the outcome of a forwarded call back. What the other node
// must fetch, or what refers to something, is held for it until it releases it.
func (r *Router) resultForNode(s *Session, c *call, values []wire.Value) {
	out := make([]wire.Value, len(values))
	var drop []yr.ID
	for k := range values {
		id := c.id.Return(k)
		out[k] = values[k]
		n := r.names.Get(id)
		if n == nil || n.State == store.Pending {
			continue
		}
		out[k] = withContains(r.valueFor(s.node, n), n)
		if out[k].Kind != wire.Away && out[k].Contains.Len() == 0 {
			drop = append(drop, id)
		}
	}
	if len(values) == 1 && values[0].Kind == wire.Failed {
		for k := 1; k < int(c.returns); k++ {
			drop = append(drop, c.id.Return(k))
		}
	}
	frame := wire.AppendResult(nil, 0, c.id, out)
	s.node.sent.add(c.id, frame)
	r.whenLent(func() {
		s.queue(func(dst []byte) []byte { return append(dst, frame...) })
	})
	for _, id := range drop {
		if err := s.holder.Release(id, 1); err != nil {
			r.opt.Log.Error().Err(err).Msg("a result for another node could not be let go")
		}
	}
}

// event takes an INSTANCE frame: what became of an instance that lives there.
func (n *neighbour) event(m *wirepb.InstanceEvent) error {
	id, err := yr.ParseID(string(m.GetInstanceId()))
	if err != nil {
		return yr.Wrap("instance event", yr.FrameMalformed, err)
	}
	in := n.instances[id]
	if in == nil {
		return nil
	}
	state := yr.InstanceState(m.GetState()) //nolint:gosec // a small number
	in.set(state, m.GetStatus().GetMessage())
	in.kept = m.GetKept()
	if status := m.GetStatus(); status != nil {
		in.failure = wire.Value{Kind: wire.Failed, Code: yr.Code(status.GetCode()), Data: []byte(status.GetMessage())}
		if len(m.GetError()) > 0 {
			in.failure.Serialized, in.failure.Data = true, m.GetError()
		}
	}
	in.announce()
	if state.Ended() {
		n.r.forgetForeign(in)
	}
	return nil
}

// forgetForeign ends the stand-in of an instance that has ended. Calls that were
// sent get their answers from its home.
func (r *Router) forgetForeign(in *instance) {
	delete(r.foreigners, in.id)
	if h := in.foreign.home; h != nil && h.instances[in.id] == in {
		delete(h.instances, in.id)
	}
	r.ended.instance(in)
}

// foreignLost ends an instance whose home is lost.
func (r *Router) foreignLost(in *instance, cause error) {
	in.failure = errorValue(cause)
	in.set(yr.StateFatal, messageOf(cause))
	for _, c := range in.foreign.parked {
		if c.state != callEnded {
			r.fail(c, cause)
		}
	}
	in.foreign.parked = nil
	in.announce()
	r.forgetForeign(in)
}

// forwardedLost ends a call whose instance's home is lost.
func (r *Router) forwardedLost(c *call, cause error) {
	if c.state != callRunning {
		return
	}
	c.at = nil
	r.fail(c, yr.E("call "+c.name(), yr.Communication, "it may have run or not: %s", messageOf(cause)))
}

// killForeign passes a KILL on.
func (s *Session) killForeign(id yr.ID, corr uint64, m *wirepb.Kill) {
	s.r.reach(id.Tag(), func(n *neighbour, err error) {
		if in := s.r.foreigners[id]; in != nil && in.foreign.home != nil {
			n, err = in.foreign.home, nil // it may have moved
		}
		if err != nil {
			s.done(corr, yr.E("kill", yr.InstanceNotFound, "there is no instance %s: %s", id, messageOf(err)))
			return
		}
		n.request(func(dst []byte, corr uint64) []byte { return wire.AppendMessage(dst, wire.Kill, corr, m) },
			func(h wire.Header, body []byte, err error) {
				status := &wirepb.Status{}
				if err == nil {
					err = wire.DecodeMessage(h.Type, body, status)
				}
				if err == nil && status.GetCode() != 0 {
					err = yr.E("kill", yr.Code(status.GetCode()), "%s", status.GetMessage())
				}
				s.done(corr, err)
			})
	})
}

// findElsewhere asks the registry, and then the home, for a named instance.
func (r *Router) findElsewhere(key nameKey, then func(f *wirepb.Found)) {
	r.registry.add(func() {
		record, ok, err := r.opt.Registry.Find(r.ctx, key.tenant, key.namespace, key.name)
		var holder nameRecord
		if err == nil && ok {
			err = json.Unmarshal(record, &holder)
		}
		r.turn(func() {
			if err != nil || !ok || holder.Node == r.opt.Node {
				then(&wirepb.Found{})
				return
			}
			r.findAt(holder.Node, key, func(_ yr.ID, f *wirepb.Found, _ error) { then(f) })
		})
	})
}

// findAt asks a node for a named instance: zero if it knows none, an error if it
// could not be asked.
func (r *Router) findAt(node yr.Node, key nameKey, then func(in yr.ID, f *wirepb.Found, err error)) {
	m := &wirepb.Lookup{Name: key.name, Namespace: key.namespace, Tenant: string(key.tenant)}
	r.neighbour(node).request(
		func(dst []byte, corr uint64) []byte { return wire.AppendMessage(dst, wire.Lookup, corr, m) },
		func(h wire.Header, body []byte, err error) {
			f := &wirepb.Found{}
			if err == nil {
				err = wire.DecodeMessage(h.Type, body, f)
			}
			id, perr := yr.ParseID(string(f.GetInstanceId()))
			if err != nil || perr != nil {
				then(yr.ID{}, &wirepb.Found{}, err)
				return
			}
			then(id, f, nil)
		})
}

// nodeGone reports whether the registry's holder of a name is a node that is
// known to be dead: then the name is free.
func (r *Router) nodeGone(ctx context.Context, record nameRecord) bool {
	if r.opt.Cluster == nil || record.Node == r.opt.Node {
		return false
	}
	_, err := r.opt.Cluster.Locate(ctx, record.Instance.Tag())
	return err != nil && (yr.CodeOf(err) == yr.ObjectNotFound || yr.CodeOf(err) == yr.InstanceExited)
}
