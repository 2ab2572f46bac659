// Package table is what the leader knows of the nodes: who lives, what is free,
// who is to be told of which death.
//
// It does no I/O, reads no clock and takes no locks: time and chance are given to
// it, its owner lets one in at a time. Who belongs to the cluster enters only
// through Apply, after the registry has it; all else is what nodes reported and
// is forgotten with the leader.
package table

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"

	"yr/master"
	"yr/pkg/cluster"
	"yr/pkg/yr"
	"yr/scheduler"
)

// Stated limits.
const (
	// MaxDeaths is how many deaths are kept to be told one by one. A node that has
	// missed more gets the list of the living instead, the only answer that grows
	// with the cluster.
	MaxDeaths = 1024
	// HoldFor is how long the room of a placement is held back if its node does not
	// say that it has begun.
	HoldFor = 2 * time.Second
	// maxHeld bounds the placements held back on one node.
	maxHeld = 4096
	// ForgetAfter is how long a lost node is shown and remembered.
	ForgetAfter = 2 * time.Hour
	// SampleEvery bounds the neighbours sent to a node that reports often.
	SampleEvery = 500 * time.Millisecond
	// maxPause is the longest that Expire may not have been called before it is
	// taken for the leader's own absence and not for the silence of everybody.
	maxPause = time.Second
)

// Table is the leader's view. The zero value is not usable; see New.
type Table struct {
	random *rand.Rand

	nodes map[yr.Node]*node // of whatever state
	tags  map[yr.Tag]*node
	state scheduler.State // Nodes: one for each living node, at its index
	live  []*node         // parallel to state.Nodes
	roomy []*node         // of live, those that others may be sent to
	drawn scheduler.State // what draw fills

	// Deaths are numbered by the registry's revision at which they were written, so
	// that the number means the same to every leader.
	revision  int64   // the highest of any record
	deaths    []death // in the order of revisions
	forgotten int64   // deaths up to this revision are not in the list any more

	ticked time.Time // the last Expire
}

// node is a record and what was reported under it.
type node struct {
	cluster.NodeRecord
	load master.Load

	alive    bool      // in the registry, and not overdue
	reported bool      // under this leader
	heard    time.Time // or since when it is known to be dead
	sampled  time.Time
	index    int // in live, if alive
	room     int // in roomy; -1: not there
	held     []placement

	drain   drain
	encoded []byte // for the others; nil: has changed
}

// drain is how far a node is with becoming empty, if its restraint asks for that.
type drain struct {
	until time.Time // when whoever asked stops waiting
	told  bool      // the node knows
	empty bool      // and has said since that nothing runs
}

type death struct {
	Incarnation
	revision int64
}

// placement is work that was sent to a node and may not be in its report yet.
type placement struct {
	id   yr.ID
	plan scheduler.Plan
	at   time.Time
}

// New makes an empty table. random chooses samples.
func New(random *rand.Rand) *Table {
	t := &Table{random: random}
	t.clear()
	return t
}

func (t *Table) clear() {
	t.nodes = make(map[yr.Node]*node)
	t.tags = make(map[yr.Tag]*node)
	t.state, t.live, t.roomy = scheduler.State{}, nil, nil
	t.revision, t.deaths, t.forgotten = 0, nil, 0
}

// Reset begins the reign of a new leader with what the registry has. Everyone
// counts as heard of now.
func (t *Table) Reset(now time.Time, records []cluster.NodeRecord) {
	t.clear()
	t.ticked = now
	t.Reconcile(now, records)
}

// Reconcile takes in everything that the registry has.
func (t *Table) Reconcile(now time.Time, records []cluster.NodeRecord) {
	records = slices.Clone(records)
	slices.SortFunc(records, func(a, b cluster.NodeRecord) int { return cmp.Compare(a.Revision, b.Revision) })
	for _, r := range records {
		t.Apply(now, r)
	}
}

// Apply takes in a record as the registry has it. Records enter in the order of
// their revisions; one that is known, or older than what is known, is ignored.
func (t *Table) Apply(now time.Time, r cluster.NodeRecord) {
	n := t.nodes[r.ID]
	if n != nil && n.Revision >= r.Revision {
		return
	}
	if n == nil {
		n = &node{index: -1, room: -1}
		t.nodes[r.ID] = n
	}
	t.revision = max(t.revision, r.Revision)
	fresh, restrained := r.Incarnation != n.Incarnation, r.Restraint != n.Restraint
	if t.tags[yr.Tag(n.Tag)] == n {
		delete(t.tags, yr.Tag(n.Tag))
	}
	n.NodeRecord = r
	t.tags[yr.Tag(r.Tag)] = n

	if fresh {
		t.retire(n)
		n.reported, n.held, n.heard = false, nil, now
		t.mourn(r, r.Incarnation-1)
	}
	if fresh || restrained {
		n.drain = drain{until: now.Add(r.Restraint.Drain)}
	}
	switch {
	case r.State != cluster.NodeAlive:
		t.retire(n)
		n.heard = now
		t.mourn(r, r.Incarnation)
	case fresh:
		t.enlist(n)
	}
	t.refresh(n)
}

// Forget removes a node that is no member.
func (t *Table) Forget(id yr.Node, incarnation uint64) {
	n := t.nodes[id]
	if n == nil || n.Incarnation != incarnation || n.State == cluster.NodeAlive {
		return
	}
	delete(t.nodes, id)
	if t.tags[yr.Tag(n.Tag)] == n {
		delete(t.tags, yr.Tag(n.Tag))
	}
}

// enlist makes a node one of the living.
func (t *Table) enlist(n *node) {
	n.alive, n.index = true, len(t.live)
	t.live = append(t.live, n)
	t.state.Nodes = append(t.state.Nodes, scheduler.Node{ID: n.ID, Capacity: n.Capacity, Labels: n.Labels})
}

// retire takes a node from among the living; the last takes its index.
func (t *Table) retire(n *node) {
	if !n.alive {
		return
	}
	t.bar(n)
	last := len(t.live) - 1
	t.live[n.index], t.state.Nodes[n.index] = t.live[last], t.state.Nodes[last]
	t.live[n.index].index = n.index
	t.live[last], t.state.Nodes[last] = nil, scheduler.Node{}
	t.live, t.state.Nodes = t.live[:last], t.state.Nodes[:last]
	n.alive, n.index = false, -1
}

// refresh brings what is derived from a node's record and load up to date.
func (t *Table) refresh(n *node) {
	n.encoded = nil
	if !n.alive {
		return
	}
	s := &t.state.Nodes[n.index]
	s.Capacity, s.Labels, s.Cordoned = n.Capacity, n.Labels, n.Restraint.Cordoned
	if n.reported && !n.Restraint.Cordoned && hasRoom(s) {
		t.admit(n)
	} else {
		t.bar(n)
	}
}

// admit and bar keep roomy.
func (t *Table) admit(n *node) {
	if n.room < 0 {
		n.room = len(t.roomy)
		t.roomy = append(t.roomy, n)
	}
}

func (t *Table) bar(n *node) {
	if n.room < 0 {
		return
	}
	last := len(t.roomy) - 1
	t.roomy[n.room] = t.roomy[last]
	t.roomy[n.room].room = n.room
	t.roomy[last] = nil
	t.roomy, n.room = t.roomy[:last], -1
}

// hasRoom: the smallest worker fits.
func hasRoom(s *scheduler.Node) bool {
	return s.Available[yr.CPU] >= scheduler.MinCPU && s.Available[yr.Memory] >= scheduler.MinMemory
}

// mourn remembers a death to be told: r says that it has happened, not when.
func (t *Table) mourn(r cluster.NodeRecord, incarnation uint64) {
	if incarnation == 0 {
		return
	}
	t.deaths = append(t.deaths, death{Incarnation{r.ID, incarnation}, r.Revision})
	if extra := len(t.deaths) - MaxDeaths; extra > 0 {
		t.forgotten = t.deaths[extra-1].revision
		t.deaths = slices.Clone(t.deaths[extra:])
	}
}
