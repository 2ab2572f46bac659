package client

// What this node knows of the others. Only the leader's answers change it.

import (
	"slices"

	"yr/master"
	"yr/master/masterpb"
	"yr/pkg/yr"
)

// maxBuried is how many deaths are remembered, so that an answer which was long on
// its way does not bring a dead node back and nobody hears of a death twice.
const maxBuried = 4096

// view is protected by the Client's mu.
type view struct {
	deaths int64 // revision of the registry up to which deaths are known

	living int // nodes of the cluster, this one too
	sample []master.Neighbour
	nodes  map[yr.Node]master.Neighbour // all that were ever named here and live
	tags   map[yr.Tag]yr.Node
	buried map[yr.Node]uint64 // highest incarnation known to be dead
	order  []yr.Node          // of burial
}

func newView() view {
	return view{nodes: make(map[yr.Node]master.Neighbour), tags: make(map[yr.Tag]yr.Node), buried: make(map[yr.Node]uint64)}
}

// meet remembers a neighbour; false if it is dead or this description is older
// than another.
func (v *view) meet(n master.Neighbour) bool {
	if n.Incarnation <= v.buried[n.ID] {
		return false
	}
	old, ok := v.nodes[n.ID]
	if ok && old.Incarnation > n.Incarnation {
		return false
	}
	if ok && old.Tag != n.Tag {
		delete(v.tags, old.Tag)
	}
	v.nodes[n.ID] = n
	v.tags[n.Tag] = n.ID
	return true
}

// bury removes an incarnation and those before it; false if that is known.
func (v *view) bury(node yr.Node, incarnation uint64) bool {
	if incarnation <= v.buried[node] {
		return false
	}
	if n, ok := v.nodes[node]; ok && n.Incarnation <= incarnation {
		delete(v.nodes, node)
		delete(v.tags, n.Tag)
	}
	v.sample = slices.DeleteFunc(slices.Clone(v.sample), func(n master.Neighbour) bool {
		return n.ID == node && n.Incarnation <= incarnation
	})
	if _, again := v.buried[node]; again {
		v.order = slices.DeleteFunc(v.order, func(n yr.Node) bool { return n == node })
	}
	v.buried[node] = incarnation
	v.order = append(v.order, node)
	if len(v.order) > maxBuried {
		delete(v.buried, v.order[0])
		v.order = v.order[1:]
	}
	return true
}

// missing are the incarnations that were met here and are not in the leader's list
// of everyone who lives.
func (v *view) missing(live []*masterpb.Incarnation) []*masterpb.Incarnation {
	alive := make(map[yr.Node]uint64, len(live))
	for _, l := range live {
		alive[yr.Node(l.GetNode())] = l.GetIncarnation()
	}
	var dead []*masterpb.Incarnation
	for id, n := range v.nodes {
		if n.Incarnation < alive[id] || alive[id] == 0 {
			dead = append(dead, &masterpb.Incarnation{Node: string(id), Incarnation: n.Incarnation})
		}
	}
	return dead
}

// Sample is a random choice of other nodes that had room at the last report, those
// with more room likelier, at most 32. It costs nothing.
func (c *Client) Sample() []master.Neighbour {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.view.sample // replaced, never changed
}

// Find is the node with this tag, as far as it is known here; Locate asks.
func (c *Client) Find(tag yr.Tag) (master.Neighbour, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id, ok := c.view.tags[tag]
	return c.view.nodes[id], ok
}

// Node is the node with this id, as far as it is known here; LocateNode asks.
func (c *Client) Node(id yr.Node) (master.Neighbour, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok := c.view.nodes[id]
	return n, ok
}

// Others is how many other nodes the cluster had at the last report.
func (c *Client) Others() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(c.view.living-1, 0)
}
