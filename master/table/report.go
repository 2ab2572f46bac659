package table

// Joining, reporting and dying.

import (
	"slices"
	"sort"
	"strings"
	"time"

	"yr/master"
	"yr/pkg/cluster"
	"yr/pkg/yr"
)

// Standing is what the leader thinks of a node that reports.
type Standing int

const (
	// Accepted means that it lives.
	Accepted Standing = iota
	// Dead means that it was declared dead, or was never a member. It is to register again.
	Dead
	// Dying means that it was silent for too long and is being declared dead, which
	// is not in the registry yet. It is to ask again.
	Dying
)

// Report takes in how a node is. The table owns load from then on.
func (t *Table) Report(now time.Time, id yr.Node, incarnation uint64, load master.Load) Standing {
	n := t.nodes[id]
	switch {
	case n == nil || n.Incarnation != incarnation || n.State != cluster.NodeAlive:
		return Dead
	case !n.alive:
		return Dying
	}
	if !sameCards(n.load, load) {
		n.held = nil // they name cards by their place in the list
	}
	n.held = slices.DeleteFunc(n.held, func(p placement) bool {
		return now.Sub(p.at) >= HoldFor || slices.Contains(load.Taken, p.id)
	})
	load.Taken = nil
	// Before its agent is open a node has nothing to offer, and has not said what it has.
	n.heard, n.reported, n.load = now, n.reported || len(load.Available) > 0, load
	n.drain.empty = n.drain.told && load.Empty

	s := &t.state.Nodes[n.index]
	s.Available, s.Devices = load.Available.Clone(), slices.Clone(load.Devices)
	for _, p := range n.held {
		s.Take(p.plan)
	}
	t.refresh(n)
	return Accepted
}

func sameCards(a, b master.Load) bool {
	if len(a.Devices) != len(b.Devices) {
		return false
	}
	for i, d := range a.Devices {
		if o := b.Devices[i]; d.Type != o.Type || d.Model != o.Model || d.ID != o.ID {
			return false
		}
	}
	return true
}

// Overdue is an incarnation that was silent for too long.
type Overdue struct {
	ID          yr.Node
	Incarnation uint64
	Silent      time.Duration
}

// Expire takes the nodes that were silent for master.Silence from among the living,
// and returns all that the registry is yet to be told of, also those of earlier
// calls. Apply ends it. It is to be called a few times a second: if it was not, the
// leader itself was away, and everyone gets the full time again.
func (t *Table) Expire(now time.Time) []Overdue {
	if now.Sub(t.ticked) > maxPause {
		for _, n := range t.live {
			n.heard = now
		}
	}
	t.ticked = now
	for i := len(t.live) - 1; i >= 0; i-- { // retire moves the last here, which was looked at
		if n := t.live[i]; now.Sub(n.heard) >= master.Silence {
			t.retire(n)
		}
	}
	var overdue []Overdue
	for _, n := range t.nodes {
		if n.State == cluster.NodeAlive && !n.alive {
			overdue = append(overdue, Overdue{n.ID, n.Incarnation, now.Sub(n.heard)})
		}
	}
	slices.SortFunc(overdue, func(a, b Overdue) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return overdue
}

// Forgettable are the nodes that died or left so long ago that nobody asks.
func (t *Table) Forgettable(now time.Time) []Overdue {
	var old []Overdue
	for _, n := range t.nodes {
		if n.State != cluster.NodeAlive && now.Sub(n.heard) >= ForgetAfter {
			old = append(old, Overdue{n.ID, n.Incarnation, now.Sub(n.heard)})
		}
	}
	return old
}

// Alive reports whether this incarnation lives, as far as the leader knows.
func (t *Table) Alive(id yr.Node, incarnation uint64) bool {
	n := t.nodes[id]
	return n != nil && n.Incarnation == incarnation && n.alive
}

// Answer is what a node is told after its report.
type Answer struct {
	Deaths int64 // revision that Dead or Live goes up to
	Dead   []Incarnation
	All    bool // Live is everyone; who is not in it is dead
	Live   []Incarnation

	Sampled bool
	Sample  [][]byte // encoded neighbours

	Drain master.Drain
	Nodes int // how many live
}

// Incarnation is one life of a node.
type Incarnation struct {
	Node        yr.Node
	Incarnation uint64
}

// Answer makes the answer to a report that was Accepted. since is Answer.Deaths of
// the last one that the node got, 0 for a node that knows nothing.
func (t *Table) Answer(now time.Time, id yr.Node, since int64) Answer {
	a := Answer{Deaths: t.revision, Nodes: len(t.live)}
	if since == 0 || since < t.forgotten || since > t.revision { // the last: the registry was restored
		a.All, a.Live = true, t.living()
	} else {
		first := sort.Search(len(t.deaths), func(i int) bool { return t.deaths[i].revision > since })
		for _, d := range t.deaths[first:] {
			a.Dead = append(a.Dead, d.Incarnation)
		}
	}
	n := t.nodes[id]
	if n == nil {
		return a
	}
	if now.Sub(n.sampled) >= SampleEvery {
		n.sampled = now
		a.Sampled, a.Sample = true, t.sample(n, master.MaxSample)
	}
	a.Drain.Cordoned = n.Restraint.Cordoned
	if n.Restraint.Drain > 0 {
		n.drain.told = true
		a.Drain = master.Drain{Cordoned: true, Draining: true, Until: n.drain.until, End: n.Restraint.Evicted}
	}
	return a
}

func (t *Table) living() []Incarnation {
	all := make([]Incarnation, len(t.live))
	for i, n := range t.live {
		all[i] = Incarnation{n.ID, n.Incarnation}
	}
	return all
}
