package route

import (
	"yr/pkg/wire"
	"yr/pkg/yr"
	"yr/store"
)

// References across nodes. An object is at home on the node whose tag its ID
// bears; that node counts one reference for each other node that has any. A node
// asks for it (BORROW), and until the answer (LENT) is here it lets nobody who
// keeps the object alive meanwhile go: releases, and results that could cause
// them, wait (whenLent). So a reference is never in flight with nothing behind it.

// loan is a reference that this node has, or asks for, at another one.
type loan struct {
	from    *neighbour // nil: it is being located
	lent    bool
	dropped bool // nobody here needs it any more, but the answer is not here yet
	number  uint64
	then    []func()
}

// lending orders what waits for loans.
type lending struct {
	asked   uint64          // number of the last loan asked for
	open    map[uint64]bool // asked for and not answered
	waiting []lentWaiter    // in order
}

type lentWaiter struct {
	upTo uint64
	then func()
}

// whenLent runs f when every loan that was asked for until now is answered.
func (r *Router) whenLent(f func()) {
	l := &r.lending
	if len(l.open) == 0 {
		f()
		return
	}
	l.waiting = append(l.waiting, lentWaiter{l.asked, f})
}

// answered is told that a loan was granted or refused.
func (r *Router) answered(number uint64) {
	l := &r.lending
	delete(l.open, number)
	first := l.asked + 1
	for n := range l.open {
		first = min(first, n)
	}
	for len(l.waiting) > 0 && l.waiting[0].upTo < first {
		w := l.waiting[0]
		l.waiting = l.waiting[1:]
		w.then()
	}
}

// abroad reports whether an object is at home on another node.
func (r *Router) abroad(id yr.ID) bool {
	return r.opt.Cluster != nil && id.Tag() != r.opt.Tag
}

// borrow returns the name of an object of another node, and sees to it that this
// node has a reference there. nil: it is not another node's.
func (r *Router) borrow(id yr.ID) *store.Name[waiter] {
	n := r.names.Get(id)
	if l := r.loans[id]; l != nil {
		l.dropped = false
		if n != nil {
			return n
		}
	}
	if !r.abroad(id) {
		return n
	}
	if n == nil {
		n = r.names.Expect(id)
	}
	if r.loans[id] == nil {
		r.askFor(id)
	}
	return n
}

// askFor asks the home of an object for a reference.
func (r *Router) askFor(id yr.ID) {
	l := &r.lending
	l.asked++
	number := l.asked
	l.open[number] = true
	asked := &loan{number: number}
	r.loans[id] = asked
	r.reach(id.Tag(), func(n *neighbour, err error) {
		if r.loans[id] != asked {
			r.answered(number)
			return
		}
		if err != nil {
			r.notLent(id, asked, err)
			return
		}
		asked.from = n
		n.queue(func(dst []byte) []byte { return wire.AppendIDs(dst, wire.Borrow, 0, []yr.ID{id}) })
	})
}

// borrowed takes a BORROW frame: the node has a reference to each from now on, and
// is sent their values when they are ready.
func (n *neighbour) borrowed(body []byte) error {
	list, err := wire.DecodeIDs(body)
	if err != nil {
		return err
	}
	var lent, gone []yr.ID
	for _, id := range ids(list) {
		if err := n.peer.holder.Retain(id, 1); err != nil {
			gone = append(gone, id)
		} else {
			lent = append(lent, id)
		}
	}
	n.queue(func(dst []byte) []byte { return wire.AppendLent(dst, lent, gone) })
	for _, id := range lent {
		n.peer.push(id)
	}
	return nil
}

// lent takes a LENT frame.
func (n *neighbour) lent(body []byte) error {
	lent, gone, err := wire.DecodeLent(body)
	if err != nil {
		return err
	}
	r := n.r
	for _, id := range ids(lent) {
		l := r.loans[id]
		if l == nil || l.lent || l.from != n {
			if r.recovery == nil {
				n.release(id) // of a loan that was given up
			}
			continue
		}
		l.lent = true
		_ = r.cache.Release(id, 1) // a copy that somebody refers to lives as long as they do; of others nothing is cached
		r.settleLoan(l)
		if l.dropped {
			r.giveBack(id, l)
		}
	}
	for _, id := range ids(gone) {
		if l := r.loans[id]; l != nil && !l.lent && l.from == n {
			r.notLent(id, l, yr.E("get "+id.String(), yr.ObjectNotFound,
				"no such object on node %s, where it was made: it was released, or its job has ended; keep a reference as long as it is needed", n.node))
		}
	}
	return nil
}

func (r *Router) settleLoan(l *loan) {
	then := l.then
	l.then = nil
	r.answered(l.number)
	for _, f := range then {
		f()
	}
}

// notLent ends a loan that could not be had.
func (r *Router) notLent(id yr.ID, l *loan, cause error) {
	delete(r.loans, id)
	r.loseName(id, cause)
	r.settleLoan(l)
}

// loseName gives a name whose value will not come, or is not to be had any more, an error.
func (r *Router) loseName(id yr.ID, cause error) {
	n := r.names.Get(id)
	if n == nil {
		return
	}
	v := ownValue(&wire.Value{Kind: wire.Failed, Code: yr.CodeOf(cause), Data: []byte(cause.Error())})
	r.names.Hold(n)
	var err error
	switch {
	case n.State == store.Pending:
		err = r.names.Set(n, v, nil)
	case n.Value.Kind == store.Away:
		err = r.names.Move(n, v)
	}
	if err != nil {
		r.opt.Log.Error().Err(err).Stringer("object", id).Msg("a lost object could not be marked")
	}
	r.serve(n)
	r.names.Unhold(n)
}

// giveBack tells the lender that nobody here needs an object any more.
func (r *Router) giveBack(id yr.ID, l *loan) {
	if !l.lent {
		l.dropped = true
		return
	}
	delete(r.loans, id)
	from := l.from
	r.whenLent(func() { from.release(id) })
}

func (n *neighbour) release(id yr.ID) {
	n.queue(func(dst []byte) []byte { return wire.AppendIDs(dst, wire.Release, 0, []yr.ID{id}) })
}

// borrowKept is told that a session takes a reference: to an object of another
// node, this node needs one too.
//
// hot: every reference that a session takes.
func (r *Router) borrowKept(id yr.ID) {
	if id.Tag() != r.opt.Tag && r.abroad(id) && r.sessions[id.Prefix()] == nil {
		r.borrow(id)
	}
}

// forgetCopies tells the nodes that have copies of an object that it is gone.
func (r *Router) forgetCopies(id yr.ID) {
	for _, n := range r.spread[id] {
		n.queue(func(dst []byte) []byte { return wire.AppendIDs(dst, wire.Forget, 0, []yr.ID{id}) })
	}
	delete(r.spread, id)
}

// keptBy notes that a node holds an object's bytes, or what is inside it, for us.
func (r *Router) keptBy(n *neighbour, id yr.ID) {
	if old := r.loans[id]; old != nil {
		if old.from == n && old.lent {
			return
		}
		if old.lent {
			old.from.release(id)
		}
	}
	r.loans[id] = &loan{from: n, lent: true}
}

// admit takes references that came inside values, and goes on when this node
// has them itself. The sender holds them until then.
func (r *Router) admit(from *neighbour, id yr.ID, values []wire.Value, then func(values []wire.Value)) {
	waits := 0
	for i := range values {
		waits += r.awaitLoans(values[i].Contains, nil)
	}
	if waits == 0 {
		then(values)
		return
	}
	kept := make([]wire.Value, len(values))
	for i, v := range values {
		v.Data, v.Contains = append([]byte(nil), v.Data...), append(wire.IDs(nil), v.Contains...)
		kept[i] = v
	}
	var inner []*store.Name[waiter]
	goOn := func() {
		if waits--; waits > 0 {
			return
		}
		then(kept)
		for _, n := range inner {
			r.names.Unhold(n)
		}
	}
	waits = 1 // not before all are asked
	for i := range kept {
		for _, c := range ids(kept[i].Contains) {
			if n := r.names.Get(c); n != nil {
				r.names.Hold(n) // until the value that contains it is set
				inner = append(inner, n)
			}
		}
		waits += r.awaitLoans(kept[i].Contains, goOn)
	}
	goOn()
}

// awaitLoans borrows objects and has then run for each that is not lent yet. It
// returns how many those are.
func (r *Router) awaitLoans(list wire.IDs, then func()) (waits int) {
	for i := range list.Len() {
		id := list.At(i)
		if !r.abroad(id) {
			continue
		}
		r.borrow(id)
		if l := r.loans[id]; l != nil && !l.lent {
			waits++
			if then != nil {
				l.then = append(l.then, then)
			}
		}
	}
	return waits
}

// object takes an OBJECT frame: the value of something borrowed.
func (n *neighbour) object(body []byte) error {
	var v wire.Value
	id, _, err := wire.DecodeObject(body, &v)
	if err != nil {
		return err
	}
	r := n.r
	if l := r.loans[id]; l == nil || l.from != n {
		if l == nil && r.recovery != nil {
			return r.lentBefore(n, id, &v)
		}
		return nil // nobody needs it any more
	}
	r.admit(n, id, []wire.Value{v}, func(values []wire.Value) { r.arrived(n, id, &values[0]) })
	return nil
}

// arrived gives a borrowed object its value, or its new place.
func (r *Router) arrived(from *neighbour, id yr.ID, v *wire.Value) {
	n := r.names.Get(id)
	if n == nil || n.State == store.Failed || n.State == store.Ready && n.Value.Kind != store.Away {
		return
	}
	value := r.located(from, v)
	r.names.Hold(n)
	var err error
	switch {
	case n.State == store.Pending:
		err = r.names.Set(n, value, ids(v.Contains))
	case n.Value.Kind == store.Away && !r.bringing[id]:
		err = r.names.Move(n, value)
	}
	if err != nil {
		r.opt.Log.Error().Err(err).Stringer("object", id).Msg("a borrowed object could not be given its value")
	}
	r.serve(n)
	r.names.Unhold(n)
}

// located turns a value that came over a link into one of the object table. A
// node that is not known here is not looked for: the sender can always be asked.
func (r *Router) located(from *neighbour, v *wire.Value) store.Value {
	if v.Kind != wire.Away {
		return ownValue(v)
	}
	source := v.Source()
	node, place := from.node, source.Place
	if at := r.tagged[source.Tag]; at != nil {
		node = at.node
	} else if source.Tag != from.tag {
		place = yr.Place{} // of somebody else's memory
	}
	return store.Value{Kind: store.Away, Source: &store.Source{Node: node, Place: place, Size: source.Size}}
}

// take gives a name the value that another node made for it. The bytes, and what
// is inside, are held there for this node.
func (r *Router) take(from *neighbour, n *store.Name[waiter], v *wire.Value) error {
	if v.Kind == wire.Away {
		r.keptBy(from, n.ID)
	}
	if err := r.names.Set(n, r.located(from, v), ids(v.Contains)); err != nil {
		return err
	}
	if v.Kind != wire.Away && v.Contains.Len() > 0 {
		from.release(n.ID) // what is inside is held here now
	}
	r.serve(n)
	return nil
}

// valueFor is a value as another node is told of it.
func (r *Router) valueFor(to *neighbour, n *store.Name[waiter]) wire.Value {
	switch n.Value.Kind {
	case store.Shared:
		r.spreads(n.ID, to)
		return wire.AwayValue(wire.Source{ID: n.ID, Size: n.Value.Place.Length, Tag: r.opt.Tag, Place: n.Value.Place})
	case store.Away:
		source := wire.Source{ID: n.ID, Size: n.Value.Source.Size, Tag: r.opt.Tag} // on this node's disk
		if node := n.Value.Source.Node; node != "" {
			if at := r.neighbours[node]; at != nil && at.tag != (yr.Tag{}) {
				source.Tag, source.Place = at.tag, n.Value.Source.Place
			}
		}
		r.spreads(n.ID, to)
		return wire.AwayValue(source)
	case store.Inline, store.Error:
	}
	return r.wireValue(n)
}

// spreads notes that a node may copy an object of ours, and is to forget it when it is gone.
func (r *Router) spreads(id yr.ID, to *neighbour) {
	for _, n := range r.spread[id] {
		if n == to {
			return
		}
	}
	r.spread[id] = append(r.spread[id], to)
}

// returnValues gives back what a node kept for us in vain.
func (r *Router) returnValues(from *neighbour, id yr.ID, values []wire.Value) {
	for k := range values {
		if v := &values[k]; v.Kind == wire.Away || v.Contains.Len() > 0 {
			from.release(id.Return(k))
		}
	}
}

// loansLost ends the loans of a node that is lost.
func (r *Router) loansLost(n *neighbour, cause error) {
	for id, l := range r.loans {
		if l.from != n {
			continue
		}
		delete(r.loans, id)
		r.loseName(id, yr.E("get "+id.String(), yr.Communication, "object %s is lost: %s", id, messageOf(cause)))
		if !l.lent {
			r.settleLoan(l)
		}
	}
	for id, list := range r.spread {
		kept := list[:0]
		for _, m := range list {
			if m != n {
				kept = append(kept, m)
			}
		}
		if len(kept) == 0 {
			delete(r.spread, id)
		} else {
			r.spread[id] = kept
		}
	}
	r.sourcesLost(n, cause)
}

// sourcesLost marks what had its only bytes on a lost node.
func (r *Router) sourcesLost(n *neighbour, cause error) {
	var lost []yr.ID
	r.names.Each(func(name *store.Name[waiter]) bool {
		if v := &name.Value; name.State == store.Ready && v.Kind == store.Away && v.Source.Node == n.node && r.loans[name.ID] == nil {
			lost = append(lost, name.ID)
		}
		return true
	})
	for _, id := range lost {
		r.loseName(id, yr.E("get "+id.String(), yr.Communication, "object %s is lost: %s", id, messageOf(cause)))
	}
}
