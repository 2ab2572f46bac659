package route

import (
	"bytes"
	"slices"

	"yr/pkg/wire"
	"yr/pkg/yr"
	"yr/store"
)

// Objects: puts, references, gets, and what happens when a value arrives.

// put binds and sets an object that the session made.
//
// hot: once per put.
func (s *Session) put(flags uint8, body []byte) error {
	var v wire.Value
	id, _, err := wire.DecodeObject(body, &v)
	if err != nil {
		return err
	}
	if flags&wire.Announce != 0 {
		return s.announce(id, &v)
	}
	if id.Prefix() != s.prefix {
		return yr.E("put", yr.ParamInvalid, "object %s was not made by this session (%s)", id, s.prefix)
	}
	if v.Kind == wire.Failed {
		return yr.E("put "+id.String(), yr.ParamInvalid, "an object cannot be put as an error")
	}
	if v.Kind == wire.Inline && len(v.Data) > wire.MaxInlinePut {
		return yr.E("put "+id.String(), yr.ParamInvalid, "%d bytes are over the limit of %d for an object inside its message; write it to a slab", len(v.Data), wire.MaxInlinePut)
	}
	n, err := s.holder.Bind(id)
	if err != nil {
		return err
	}
	s.r.counters.puts.Add(1)
	return s.r.set(n, s.id, &v)
}

// set gives a name its value, made by the session maker, and serves who waits.
//
// hot: once per object.
func (r *Router) set(n *store.Name[waiter], maker yr.ID, v *wire.Value) error {
	if v.Kind == wire.Placed {
		if err := r.opt.Store.Publish(maker, v.Place); err != nil {
			return err
		}
	}
	if err := r.names.Set(n, ownValue(v), ids(v.Contains)); err != nil {
		return err
	}
	r.track(n)
	r.serve(n)
	return nil
}

// setBy is set for a value of a session: of a worker here, or of another node.
//
// hot: once per result.
func (r *Router) setBy(maker *Session, n *store.Name[waiter], v *wire.Value) error {
	if maker.node != nil {
		return r.take(maker.node, n, v)
	}
	return r.set(n, maker.id, v)
}

// ownValue copies what aliases a read buffer.
func ownValue(v *wire.Value) store.Value {
	switch v.Kind {
	case wire.Placed:
		return store.Value{Kind: store.Shared, Place: v.Place}
	case wire.Failed:
		return store.Value{Kind: store.Error, Code: v.Code, Serialized: v.Serialized, Bytes: bytes.Clone(v.Data)}
	}
	return store.Value{Kind: store.Inline, Bytes: bytes.Clone(v.Data)}
}

// wireValue is the other direction; it shares the bytes.
func (r *Router) wireValue(n *store.Name[waiter]) wire.Value {
	r.use(n)
	v := &n.Value
	switch v.Kind {
	case store.Shared:
		return wire.Value{Kind: wire.Placed, Place: v.Place}
	case store.Away:
		return wire.AwayValue(wire.Source{ID: n.ID, Size: v.Source.Size})
	case store.Error:
		return wire.Value{Kind: wire.Failed, Code: v.Code, Serialized: v.Serialized, Data: v.Bytes}
	}
	return wire.Value{Kind: wire.Inline, Data: v.Bytes}
}

func withContains(v wire.Value, n *store.Name[waiter]) wire.Value {
	for _, id := range n.Contains {
		v.Contains = append(v.Contains, id[:]...)
	}
	return v
}

func ids(packed wire.IDs) []yr.ID {
	if packed.Len() == 0 {
		return nil
	}
	list := make([]yr.ID, packed.Len())
	for i := range list {
		list[i] = packed.At(i)
	}
	return list
}

// serve tells everyone who waited for n.
func (r *Router) serve(n *store.Name[waiter]) {
	if len(n.Waiters) == 0 {
		return
	}
	// A waiter may drop the last reference to n: keep it until all are served.
	r.names.Hold(n)
	waiters := n.Waiters
	n.Waiters = nil
	for _, w := range waiters {
		switch {
		case w.session != nil:
			w.session.sendObject(n)
		case w.frame != nil:
			r.valueHere(w.frame, n)
		case w.result != nil:
			w.result.arrived()
		default:
			r.dependencyReady(w.call, n)
		}
	}
	r.names.Unhold(n)
}

// sendObject answers a GET, now or when the peer has read what it was sent before.
func (s *Session) sendObject(n *store.Name[waiter]) {
	if s.full {
		s.late = append(s.late, late{id: n.ID, object: true})
		return
	}
	if s.node != nil {
		v := withContains(s.r.valueFor(s.node, n), n)
		s.queue(func(dst []byte) []byte { return wire.AppendObject(dst, wire.ObjectType, 0, n.ID, &v) })
		return
	}
	if s.r.bringFor(n, waiter{session: s}) > 0 {
		return
	}
	v := withContains(s.r.wireValue(n), n)
	s.queue(func(dst []byte) []byte { return wire.AppendObject(dst, wire.ObjectType, 0, n.ID, &v) })
}

// get pushes objects that are ready, and remembers who waits for the others.
func (s *Session) get(body []byte) error {
	list, err := wire.DecodeIDs(body)
	if err != nil {
		return err
	}
	for i := range list.Len() {
		if s.full {
			s.late = append(s.late, late{id: list.At(i), object: true})
			continue
		}
		s.push(list.At(i))
	}
	return nil
}

// push sends an object if it is ready, and otherwise when it is.
func (s *Session) push(id yr.ID) {
	n := s.r.names.Get(id)
	switch {
	case n == nil:
		v := errorValue(yr.E("get "+id.String(), yr.ObjectNotFound,
			"no such object: it was released, its job has ended, or it was lost with the process that held it; keep a reference as long as it is needed"))
		s.queue(func(dst []byte) []byte { return wire.AppendObject(dst, wire.ObjectType, 0, id, &v) })
	case n.State == store.Pending:
		if !s.awaits(n) {
			n.Waiters = append(n.Waiters, waiter{session: s})
		}
	default:
		s.sendObject(n)
	}
}

// awaits reports whether the session has asked for n already. A program that
// polls asks over and over: looking at the last few waiters tells.
func (s *Session) awaits(n *store.Name[waiter]) bool {
	recent := n.Waiters[max(0, len(n.Waiters)-recentWaiters):]
	return slices.ContainsFunc(recent, func(w waiter) bool { return w.session == s })
}

// recentWaiters bounds that look; more sessions seldom wait for one object.
const recentWaiters = 64

// count takes or drops references. An unknown object is no reason to end a
// session: it may have been released by the end of its job.
//
// hot: once per batch of dropped references.
func (s *Session) count(t wire.Type, body []byte) error {
	list, err := wire.DecodeIDs(body)
	if err != nil {
		return err
	}
	for i := range list.Len() {
		if t == wire.Release {
			err = s.holder.Release(list.At(i), 1)
		} else {
			s.r.borrowKept(list.At(i))
			err = s.holder.Retain(list.At(i), 1)
		}
		if err != nil && s.node == nil && yr.CodeOf(err) != yr.ObjectNotFound {
			return err // a node that was restarted may give back what it does not have: that is no reason to lose it
		}
	}
	return nil
}

// freed is told by the table of every object that is gone.
func (r *Router) freed(n *store.Name[waiter]) {
	r.untrack(n)
	if len(r.loans) > 0 {
		if l := r.loans[n.ID]; l != nil {
			r.giveBack(n.ID, l)
		}
	}
	if len(r.spread) > 0 {
		r.forgetCopies(n.ID)
	}
	if n.Value.Kind == store.Shared && n.State == store.Ready {
		r.freePlace(n.Value.Place)
	}
}

// freePlace gives a blob's memory back and tells the session that may reuse it.
func (r *Router) freePlace(p yr.Place) {
	lessee, ok := r.opt.Store.Free(p)
	if !ok {
		return
	}
	if s := r.sessions[lessee.Prefix()]; s != nil && !s.closed {
		s.freed = append(s.freed, p)
		s.touch()
	}
}

// errorValue is a system error as a value.
func errorValue(err error) wire.Value {
	return wire.Value{Kind: wire.Failed, Code: yr.CodeOf(err), Data: []byte(err.Error())}
}
