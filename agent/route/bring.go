package route

import (
	"context"
	"errors"
	"os"
	"time"

	"yr/pkg/wire"
	"yr/pkg/yr"
	"yr/store"
)

// Bytes that are elsewhere, brought into this node's memory when somebody wants
// to read them: from another node over the bulk path, or from this node's disk.
// Whoever wants the same object meanwhile waits for the same transfer, so bytes
// come once to a node however many read them there.

// bringFor has a value brought in if it is not here, and says how many times
// (0 or 1) w will be told: when it is here, or lost.
func (r *Router) bringFor(n *store.Name[waiter], w waiter) int {
	switch {
	case n.State == store.Pending:
	case n.State == store.Ready && n.Value.Kind == store.Away:
		r.bring(n)
	default:
		return 0
	}
	n.Waiters = append(n.Waiters, w)
	return 1
}

// bring starts a transfer, unless one is under way.
func (r *Router) bring(n *store.Name[waiter]) {
	if r.bringing[n.ID] {
		return
	}
	r.bringing[n.ID] = true
	r.names.Hold(n)
	id, source := n.ID, *n.Value.Source
	if source.Node == "" {
		r.restore(n, func(place yr.Place, err error) { r.brought(n, place, nil, err) })
		return
	}
	r.background(func(ctx context.Context) { r.fetch(ctx, n, id, source) })
}

// fetch copies an object from another node.
func (r *Router) fetch(ctx context.Context, n *store.Name[waiter], id yr.ID, source store.Source) {
	var room *store.Reservation
	err := r.opt.Cluster.Fetch(ctx, source.Node, id, func(size int64) ([]byte, error) {
		if uint64(size) != source.Size { //nolint:gosec // not negative
			return nil, yr.E("fetch "+id.String(), yr.FrameMalformed, "node %s has %d bytes of it, %d were announced", source.Node, size, source.Size)
		}
		if room != nil { // an earlier try broke off
			return room.Bytes(), nil
		}
		var err error
		room, err = r.reserveRoom(ctx, source.Size)
		if err != nil {
			return nil, err
		}
		return room.Bytes(), nil
	})
	if err == nil && room == nil {
		err = yr.E("fetch "+id.String(), yr.Internal, "node %s sent nothing", source.Node)
	}
	if err == nil {
		err = room.Publish()
	}
	if err != nil && room != nil {
		room.Discard()
	}
	r.turn(func() {
		var place yr.Place
		if err == nil {
			place = room.Place
		}
		r.brought(n, place, &source, err)
	})
}

// roomPatience is how long a transfer waits for memory that others give back.
const roomPatience = 10 * time.Second

// reserveRoom waits for room in shared memory.
func (r *Router) reserveRoom(ctx context.Context, size uint64) (*store.Reservation, error) {
	ctx, cancel := context.WithTimeout(ctx, roomPatience)
	defer cancel()
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		room, err := r.opt.Store.Reserve(size)
		if err == nil || yr.CodeOf(err) != yr.StoreFull {
			return room, err
		}
		r.turn(func() { r.makeRoom(size) })
		select {
		case <-ctx.Done():
			return nil, err
		case <-t.C:
		}
	}
}

// brought ends a transfer: n is still held by it.
func (r *Router) brought(n *store.Name[waiter], place yr.Place, source *store.Source, err error) {
	delete(r.bringing, n.ID)
	switch {
	case n.State != store.Ready || n.Value.Kind != store.Away: // it was lost meanwhile
		if err == nil {
			r.freePlace(place)
		}
	case err == nil:
		v := store.Value{Kind: store.Shared, Place: place, Source: n.Value.Source}
		if err := r.names.Move(n, v); err != nil {
			r.opt.Log.Error().Err(err).Stringer("object", n.ID).Msg("a value that was brought in could not be used")
			r.freePlace(place)
		} else {
			r.counters.brought.Add(place.Length)
			r.track(n)
		}
	case source != nil && r.elsewhereNow(n, source, err):
		r.names.Unhold(n)
		return // it has moved: its waiters wait on
	}
	waiters := n.Waiters
	n.Waiters = nil
	if n.State == store.Ready && n.Value.Kind == store.Away {
		r.notBrought(n, waiters, err)
	} else {
		n.Waiters = waiters
		r.serve(n)
	}
	r.names.Unhold(n)
}

// elsewhereNow looks for an object again that was not where it was said to be. Its
// home knows better, or says that it is gone.
func (r *Router) elsewhereNow(n *store.Name[waiter], source *store.Source, cause error) bool {
	code := yr.CodeOf(cause)
	if code == yr.StoreFull || r.ctx.Err() != nil {
		return false
	}
	if n.Value.Source != nil && n.Value.Source.Node != source.Node { // told meanwhile
		r.bring(n)
		return true
	}
	l := r.loans[n.ID]
	if r.abroad(n.ID) && l != nil && l.lent && l.from.node != source.Node {
		// The lender knows where its object is now. Until it answers, ask it for the bytes.
		if r.names.Move(n, store.Value{Kind: store.Away, Source: &store.Source{Node: l.from.node, Size: source.Size}}) == nil {
			r.bring(n)
			return true
		}
	}
	if code == yr.ObjectNotFound || code == yr.Communication {
		r.names.Hold(n)
		r.loseName(n.ID, yr.E("get "+n.ID.String(), code, "its bytes could not be read from node %s: %s", source.Node, messageOf(cause)))
		r.names.Unhold(n)
		return true
	}
	return false
}

// notBrought tells those who wait that a value stays where it is, for lack of room
// here: they get the error, the object lives on.
func (r *Router) notBrought(n *store.Name[waiter], waiters []waiter, cause error) {
	if cause == nil {
		cause = errors.New("it could not be brought in")
	}
	v := errorValue(yr.Wrap("get "+n.ID.String(), yr.CodeOf(cause), cause))
	for _, w := range waiters {
		switch {
		case w.session != nil:
			w.session.queue(func(dst []byte) []byte { return wire.AppendObject(dst, wire.ObjectType, 0, n.ID, &v) })
		case w.frame != nil:
			w.frame.waits--
			r.passHeld(w.frame.w.guest)
		case w.result != nil:
			w.result.arrived()
		default:
			w.call.waiting--
			r.fail(w.call, yr.Wrap("call "+w.call.name(), yr.CodeOf(cause), cause))
		}
	}
}

// here makes sure that what a call needs is in the memory of the node that runs
// it. If not, the call waits, and is ready again when it is.
func (r *Router) here(c *call, w *worker) bool {
	if w.host != nil {
		return true // values travel with the task, or the other node fetches them
	}
	for i := range c.nvals {
		if n := r.names.Get(c.deps.At(i)); n != nil && n.State == store.Ready {
			c.waiting += r.bringFor(n, waiter{call: c})
		}
	}
	if code := c.code(); !code.object.IsZero() {
		if n := r.names.Get(code.object); n != nil {
			c.waiting += r.bringFor(n, waiter{call: c})
		}
	}
	return c.waiting == 0
}

// whenHere has the results of a call brought here before its caller is told of
// them, and reports whether there is anything to bring.
func (r *Router) whenHere(s *Session, c *call) bool {
	result := &awaited{}
	for k := range int(c.returns) {
		if n := r.names.Get(c.id.Return(k)); n != nil && n.State == store.Ready && n.Value.Kind == store.Away {
			result.waits += r.bringFor(n, waiter{result: result})
		}
	}
	l := late{id: c.id, returns: c.returns}
	result.then = func() {
		if s.full {
			s.late = append(s.late, l)
		} else {
			s.pushLate(l)
		}
	}
	return result.waits > 0
}

// code is the code that a call runs.
func (c *call) code() *code {
	if c.fn != nil {
		return c.fn.code
	}
	if c == c.in.ctor {
		return c.in.code
	}
	return &code{}
}

// copyOf is the name of an object that a task from another node needs: it may be
// here already, or be a copy to be made. Copies are kept in the cache as long as
// there is room and their home has them.
func (r *Router) copyOf(source wire.Source) *store.Name[waiter] {
	if n := r.names.Get(source.ID); n != nil {
		return n
	}
	n := r.names.Expect(source.ID)
	if err := r.cache.Retain(source.ID, 1); err != nil {
		r.opt.Log.Error().Err(err).Msg("a copy could not be kept")
	}
	set := func(v store.Value) {
		if err := r.names.Set(n, v, nil); err != nil {
			r.opt.Log.Error().Err(err).Stringer("object", source.ID).Msg("a copy could not be named")
		}
		r.serve(n)
	}
	r.names.Hold(n)
	r.reach(source.Tag, func(at *neighbour, err error) {
		if err != nil {
			set(ownValue(&wire.Value{Kind: wire.Failed, Code: yr.CodeOf(err), Data: []byte(err.Error())}))
		} else {
			set(store.Value{Kind: store.Away, Source: &store.Source{Node: at.node, Size: source.Size}})
		}
		r.names.Unhold(n)
	})
	return n
}

// unholdCopy lets go of an object that a task needed.
func (r *Router) unholdCopy(n *store.Name[waiter]) { r.names.Unhold(n) }

// forget takes a FORGET frame: these objects are gone at home, and so are copies.
func (n *neighbour) forget(body []byte) error {
	list, err := wire.DecodeIDs(body)
	if err != nil {
		return err
	}
	for _, id := range ids(list) {
		_ = n.r.cache.Release(id, 1) // an object that is not cached is nothing to forget
	}
	return nil
}

// Bytes opens an object for another node's transfer. It may wait for the disk.
// release is called when the transfer is over.
func (r *Router) Bytes(ctx context.Context, id yr.ID) (f *os.File, offset, length int64, release func(), err error) {
	op := "read object " + id.String()
	ready := make(chan error, 1)
	var n *store.Name[waiter]
	r.turn(func() {
		if n = r.names.Get(id); n == nil {
			ready <- yr.E(op, yr.ObjectNotFound, "node %s does not have it (any more)", r.opt.Node)
			return
		}
		r.names.Hold(n)
		if r.bringFor(n, waiter{result: &awaited{then: func() { ready <- nil }, waits: 1}}) == 0 {
			ready <- nil
		}
	})
	letGo := func() { r.turn(func() { r.names.Unhold(n) }) }
	select {
	case err = <-ready:
	case <-ctx.Done():
		err = ctx.Err()
	case <-r.ctx.Done():
		err = r.ctx.Err()
	}
	if err != nil {
		if n != nil {
			letGo()
		}
		return nil, 0, 0, nil, err
	}
	var place yr.Place
	r.turn(func() {
		if n.State != store.Ready || n.Value.Kind != store.Shared {
			err = yr.E(op, yr.ObjectNotFound, "its bytes are not on node %s (any more)", r.opt.Node)
			return
		}
		r.use(n)
		place = n.Value.Place
	})
	if err == nil {
		f, offset, err = r.opt.Store.Section(place)
	}
	if err != nil {
		letGo()
		return nil, 0, 0, nil, err
	}
	return f, offset, int64(place.Length), letGo, nil //nolint:gosec // below 2^46
}

// awaited counts values that are being brought in for one purpose.
type awaited struct {
	waits int
	then  func()
}

func (a *awaited) arrived() {
	if a.waits--; a.waits == 0 {
		a.then()
	}
}
