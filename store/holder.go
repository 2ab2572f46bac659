package store

// A Holder is one session's side of the object table: the objects it bound, and
// the references that it took to objects of others. Guarded, like the table, by
// the caller's lock.

import "yr/pkg/yr"

// Holder is a session as far as references go. Made by [Names.Join].
type Holder[W any] struct {
	ID  yr.ID
	Job yr.Job

	table    *Names[W]
	first    *Name[W] // names with owned > 0, newest first
	owned    int
	borrowed map[*Name[W]]uint32 // references to names of other owners
	inline   uint64
	ended    bool
}

// Owned is the number of live names that this holder bound and still refers to;
// Borrowed the number of names of others that it refers to.
func (h *Holder[W]) Owned() int { return h.owned }

// Borrowed is documented at Owned.
func (h *Holder[W]) Borrowed() int { return len(h.borrowed) }

// Inline is the number of bytes of inline values that this holder bound and that
// are still alive, whoever refers to them: what its inline budget is spent on.
func (h *Holder[W]) Inline() uint64 { return h.inline }

// Bind makes a pending name owned by h, with one reference.
//
// hot: every put and every result of every call.
func (h *Holder[W]) Bind(id yr.ID) (*Name[W], error) {
	if h.ended {
		return nil, over("bind", id)
	}
	if h.table.names[id] != nil {
		return nil, yr.E("bind object "+id.String(), yr.ParamInvalid, "the id is in use; a session never uses an id twice")
	}
	n := h.table.add(id)
	h.own(n)
	n.owned = 1
	return n, nil
}

// Claim is Bind for a session that resumes: it also takes over a name that others
// spoke of first, and finds the one that h has bound already.
func (h *Holder[W]) Claim(id yr.ID) (*Name[W], error) {
	n := h.table.names[id]
	if n == nil || h.ended {
		return h.Bind(id)
	}
	if n.owner == h {
		return n, nil
	}
	if n.owner != nil {
		return nil, yr.E("claim object "+id.String(), yr.ParamInvalid, "it belongs to session %s", n.owner.ID)
	}
	h.own(n)
	h.inline += uint64(len(n.Value.Bytes))
	n.owned = 1
	if k := h.borrowed[n]; k > 0 { // retained before it was claimed: now its own
		delete(h.borrowed, n)
		n.borrowed -= k
		n.owned = k
	}
	return n, nil
}

// Retain adds k references of h to the object.
//
// hot: every reference that arrives in a worker inside a value.
func (h *Holder[W]) Retain(id yr.ID, k uint32) error {
	if h.ended {
		return over("retain", id)
	}
	n := h.table.names[id]
	if n == nil {
		if !h.table.recovering || k == 0 {
			return notFound("retain", id)
		}
		n = h.table.add(id)
	}
	if k == 0 {
		return nil
	}
	if n.owner == h {
		return h.retainOwn(n, k)
	}
	if err := addReferences(&n.borrowed, k); err != nil {
		return yr.Wrap("retain object "+id.String(), yr.RateLimited, err)
	}
	if h.borrowed == nil {
		h.borrowed = make(map[*Name[W]]uint32)
	}
	h.borrowed[n] += k
	return nil
}

func (h *Holder[W]) retainOwn(n *Name[W], k uint32) error {
	fresh := n.owned == 0 // it had dropped its last one while others kept the object
	if err := addReferences(&n.owned, k); err != nil {
		return yr.Wrap("retain object "+n.ID.String(), yr.RateLimited, err)
	}
	if fresh {
		h.link(n)
	}
	return nil
}

// Release takes k references of h back; the object may be gone afterwards.
//
// hot: every object that a program drops.
func (h *Holder[W]) Release(id yr.ID, k uint32) error {
	n := h.table.names[id]
	if n == nil {
		return notFound("release", id)
	}
	if k == 0 {
		return nil
	}
	if n.owner == h {
		if n.owned < k {
			return tooMany(id, k, n.owned)
		}
		n.owned -= k
		if n.owned == 0 {
			h.unlink(n)
		}
		h.table.settle(n)
		return nil
	}
	have := h.borrowed[n]
	if have < k {
		return tooMany(id, k, have)
	}
	if have == k {
		delete(h.borrowed, n)
	} else {
		h.borrowed[n] = have - k
	}
	n.borrowed -= k
	h.table.settle(n)
	return nil
}

// Holders calls f for everyone who has references to n. Time is proportional to the
// number of sessions if others than the owner have any.
func (t *Names[W]) Holders(n *Name[W], f func(*Holder[W])) {
	if n.owned > 0 {
		f(n.owner)
	}
	if n.borrowed == 0 {
		return
	}
	for _, h := range t.holders {
		if h.borrowed[n] > 0 {
			f(h)
		}
	}
}

// References is how many references h has to n.
func (h *Holder[W]) References(n *Name[W]) uint32 {
	if n.owner == h {
		return n.owned
	}
	return h.borrowed[n]
}

// End gives back every reference of h. Names that others refer to live on.
func (h *Holder[W]) End() {
	if h.ended {
		return
	}
	h.ended = true
	t := h.table
	delete(t.holders, h.ID)
	t.stats.Holders--
	for h.first != nil {
		n := h.first
		n.owned = 0
		h.unlink(n)
		t.settle(n)
	}
	for n, k := range h.borrowed {
		delete(h.borrowed, n)
		n.borrowed -= k
		t.settle(n)
	}
}

// own makes h the owner of n and puts it on the list.
func (h *Holder[W]) own(n *Name[W]) {
	n.owner = h
	h.link(n)
}

func (h *Holder[W]) link(n *Name[W]) {
	n.next = h.first
	if h.first != nil {
		h.first.prev = n
	}
	h.first = n
	h.owned++
}

func (h *Holder[W]) unlink(n *Name[W]) {
	if n.prev != nil {
		n.prev.next = n.next
	} else {
		h.first = n.next
	}
	if n.next != nil {
		n.next.prev = n.prev
	}
	n.prev, n.next = nil, nil
	h.owned--
}

func notFound(op string, id yr.ID) error {
	return yr.E(op+" object "+id.String(), yr.ObjectNotFound, "no such object: it was released, or it was never made here")
}

func over(op string, id yr.ID) error {
	return yr.E(op+" object "+id.String(), yr.Finalized, "the session has ended")
}

func tooMany(id yr.ID, k, have uint32) error {
	return yr.E("release object "+id.String(), yr.ParamInvalid, "%d references given back, %d held", k, have)
}
