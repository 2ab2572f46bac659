package store

// The object table: which objects exist, what their values are, and who keeps
// them alive. The agent's router owns one and calls it under its own lock; the
// table has none. Nothing here does I/O or blocks.
//
// A name lives as long as any of three counts is above zero:
//
//	owned, borrowed  references of sessions (PUT, CALL, RETAIN against RELEASE)
//	holds            the agent's own: a call holds what it depends on
//	inside           values of other live names that contain a reference to it
//
// The counts of a session are kept on its [Holder], not on the name, so that a
// name stays small and a session that ends is undone in time proportional to
// what it held.

import (
	"fmt"
	"math"

	"yr/pkg/yr"
)

// State says whether an object has its value.
type State uint8

// An object is bound Pending, and turns Ready or Failed once.
const (
	Pending State = iota
	Ready
	Failed
)

func (s State) String() string {
	return [...]string{"pending", "ready", "failed"}[s]
}

// Name is one object. The pointer is good as long as the name is referenced or
// held; after that the struct is used again for another object. Fields are read
// freely and changed only through the table, except Waiters.
type Name[W any] struct {
	ID    yr.ID
	State State
	Value Value

	// Contains are the objects referred to inside the value, as far as they
	// existed when it was set.
	Contains []yr.ID

	// Waiters belongs to the caller: who wants to know when the value is set.
	Waiters []W

	owner      *Holder[W] // who bound it, also after that session ended; nil: nobody has claimed it yet
	prev, next *Name[W]   // the owner's list while owned > 0; next alone: the free list
	owned      uint32     // references of the owner
	borrowed   uint32     // references of all other holders together
	holds      uint32
	inside     uint32
}

// Owner is the session that bound the name; zero if a restarted agent has heard
// of the object and not yet of its owner.
func (n *Name[W]) Owner() yr.ID {
	if n.owner == nil {
		return yr.ID{}
	}
	return n.owner.ID
}

// Job is the job of the session that bound the name.
func (n *Name[W]) Job() yr.Job {
	if n.owner == nil {
		return ""
	}
	return n.owner.Job
}

// Size is the length of the value in bytes.
func (n *Name[W]) Size() uint64 { return n.Value.Size() }

// References is how many references sessions, calls and other values have.
func (n *Name[W]) References() int {
	return int(n.owned) + int(n.borrowed) + int(n.holds) + int(n.inside)
}

// Holds is how many of them are of calls and the like (see Hold).
func (n *Name[W]) Holds() int { return int(n.holds) }

// ClearWaiters forgets the waiters and keeps a small slice for the next ones.
func (n *Name[W]) ClearWaiters() {
	if cap(n.Waiters) > keepWaiters {
		n.Waiters = nil
		return
	}
	clear(n.Waiters)
	n.Waiters = n.Waiters[:0]
}

const (
	// keepWaiters is the capacity of a waiter slice worth keeping: most objects
	// are waited for by one call or one session.
	keepWaiters = 4
	// keepFree bounds the recycled Name structs after a peak: 64 Ki of them are
	// 11 MiB, and cover the objects in flight at 200 000 results a second.
	keepFree = 1 << 16
)

// Names is the object table. It is NOT safe for concurrent use: the caller's
// lock guards it. W is what the caller attaches to a name to be told of its value.
type Names[W any] struct {
	// OnFree is told of each name that is gone, just before its struct is used
	// again: Value.Place is then dead, Waiters (if any) will never be served.
	// It may call the table, but must not keep the pointer.
	OnFree func(*Name[W])

	names   map[yr.ID]*Name[W]
	holders map[yr.ID]*Holder[W]
	stats   NameStats

	dead       []*Name[W] // unreachable, to be finished by sweep
	sweeping   bool
	free       *Name[W]
	freeCount  int
	recovering bool
}

// NameStats are sizes of the table, kept up to date as it changes.
type NameStats struct {
	Names   int    // objects
	Pending int    // of them without a value
	Shared  int    // of them in shared memory
	Away    int    // of them on disk or on another node only
	Inline  uint64 // bytes of inline values and error payloads
	Holders int
}

// NewNames returns an empty table.
func NewNames[W any](onFree func(*Name[W])) *Names[W] {
	return &Names[W]{
		OnFree:  onFree,
		names:   make(map[yr.ID]*Name[W]),
		holders: make(map[yr.ID]*Holder[W]),
	}
}

// Get returns the name, or nil if there is none.
//
// hot: every result, get and dependency.
func (t *Names[W]) Get(id yr.ID) *Name[W] { return t.names[id] }

// Len is the number of names.
func (t *Names[W]) Len() int { return len(t.names) }

// Stats returns the sizes of the table.
func (t *Names[W]) Stats() NameStats { return t.stats }

// Each calls f for every name, in no order, until f returns false. f must not
// change the table.
func (t *Names[W]) Each(f func(*Name[W]) bool) {
	for _, n := range t.names {
		if !f(n) {
			return
		}
	}
}

// Set gives the name its value, once, and takes ownership of v.Bytes and
// contains. Each contained object stays alive as long as this one; an unknown
// one is already gone and left out. The caller then serves n.Waiters.
//
// hot: every put and every result.
func (t *Names[W]) Set(n *Name[W], v Value, contains []yr.ID) error {
	if n.State != Pending {
		return yr.E("set object "+n.ID.String(), yr.ParamInvalid, "it has its value already (%s); an object is set once", n.State)
	}
	if v.Kind == Away && v.Source == nil {
		return yr.E("set object "+n.ID.String(), yr.ParamInvalid, "its bytes are away and it is not said where")
	}
	t.stats.Pending--
	t.become(n, v)
	if len(contains) > 0 {
		n.Contains = t.contain(n, contains)
	}
	return nil
}

// contain takes a reference to each id that exists and returns those ids.
func (t *Names[W]) contain(outer *Name[W], ids []yr.ID) []yr.ID {
	kept := ids[:0]
	for _, id := range ids {
		inner := t.names[id]
		if inner == nil && t.recovering {
			inner = t.add(id)
		}
		if inner == nil || inner == outer {
			continue
		}
		inner.inside++
		kept = append(kept, id)
	}
	return kept
}

func (t *Names[W]) countInline(n *Name[W], delta int64) {
	if delta == 0 {
		return
	}
	t.stats.Inline += uint64(delta) //nolint:gosec // two's complement: a negative delta subtracts
	if n.owner != nil {
		n.owner.inline += uint64(delta) //nolint:gosec // as above
	}
}

// Hold keeps n alive until Unhold, whatever sessions do. Holds are counted.
//
// hot: every dependency of every call.
func (t *Names[W]) Hold(n *Name[W]) { n.holds++ }

// Unhold takes one Hold back; n may be gone afterwards.
//
// hot: as Hold.
func (t *Names[W]) Unhold(n *Name[W]) {
	if n.holds == 0 {
		panic("store: Unhold of " + n.ID.String() + ", which is not held")
	}
	n.holds--
	t.settle(n)
}

// Join returns the holder with this id, and makes it if it is new. A session
// keeps the pointer; it is good until End.
func (t *Names[W]) Join(id yr.ID, job yr.Job) *Holder[W] {
	if h := t.holders[id]; h != nil {
		return h
	}
	h := &Holder[W]{ID: id, Job: job, table: t}
	t.holders[id] = h
	t.stats.Holders++
	return h
}

// Holder returns the holder with this id, or nil.
func (t *Names[W]) Holder(id yr.ID) *Holder[W] { return t.holders[id] }

// BeginRecovery is for a restarted agent, whose sessions come back one by one
// and name objects before the objects' owners have announced them: until
// EndRecovery, Retain and Set make a pending name, without an owner, of every
// unknown id.
func (t *Names[W]) BeginRecovery() { t.recovering = true }

// EndRecovery calls lost for every name that was made so and that nobody
// claimed. lost gives it an error as its value.
func (t *Names[W]) EndRecovery(lost func(*Name[W])) {
	t.recovering = false
	var unclaimed []*Name[W]
	for _, n := range t.names {
		if n.owner == nil && n.State == Pending {
			n.holds++ // lost may free others
			unclaimed = append(unclaimed, n)
		}
	}
	for _, n := range unclaimed {
		lost(n)
		t.Unhold(n)
	}
}

// add makes a pending name that nobody refers to yet.
func (t *Names[W]) add(id yr.ID) *Name[W] {
	n := t.free
	if n != nil {
		t.free, n.next = n.next, nil
		t.freeCount--
	} else {
		n = new(Name[W])
	}
	n.ID = id
	t.names[id] = n
	t.stats.Names++
	t.stats.Pending++
	return n
}

// settle frees n if nothing refers to it any more, and then what only n kept
// alive. Iterative, because values nest as deep as users like.
func (t *Names[W]) settle(n *Name[W]) {
	if n.owned|n.borrowed|n.holds|n.inside != 0 {
		return
	}
	t.unlink(n)
	t.dead = append(t.dead, n)
	if !t.sweeping {
		t.sweep()
	}
}

// unlink takes n out of the table; from here on nobody finds it.
func (t *Names[W]) unlink(n *Name[W]) {
	delete(t.names, n.ID)
	t.stats.Names--
	if n.State == Pending {
		t.stats.Pending--
	}
	t.unbecome(n)
}

func (t *Names[W]) sweep() {
	t.sweeping = true
	for len(t.dead) > 0 {
		n := t.dead[len(t.dead)-1]
		t.dead = t.dead[:len(t.dead)-1]
		t.uncontain(n.Contains)
		if t.OnFree != nil {
			t.OnFree(n)
		}
		t.recycle(n)
	}
	t.sweeping = false
}

// uncontain takes back one reference to each contained object.
func (t *Names[W]) uncontain(ids []yr.ID) {
	for _, id := range ids {
		inner := t.names[id]
		inner.inside--
		t.settle(inner)
	}
}

func (t *Names[W]) recycle(n *Name[W]) {
	if t.freeCount >= keepFree {
		return
	}
	n.ClearWaiters()
	*n = Name[W]{Waiters: n.Waiters, next: t.free}
	t.free = n
	t.freeCount++
}

// addReferences guards a count against a peer that takes references for ever.
func addReferences(count *uint32, n uint32) error {
	if *count > math.MaxUint32-n {
		return fmt.Errorf("more than %d references", uint32(math.MaxUint32))
	}
	*count += n
	return nil
}
