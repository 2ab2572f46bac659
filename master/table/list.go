package table

import (
	"fmt"
	"slices"
	"time"

	"yr/master"
	"yr/pkg/cluster"
	"yr/pkg/yr"
)

// MaxPage is the most nodes that one List returns.
const MaxPage = 500

// Entry shows a node to people.
type Entry struct {
	cluster.NodeRecord
	Load   master.Load
	Status string // "ready", "cordoned", "draining", "drained", "lost"
	Reason string // of a status other than "ready"
}

// List shows up to limit nodes in the order of their ids, after the given one.
// Who has left is not shown.
func (t *Table) List(now time.Time, after yr.Node, limit int) (page []Entry, more bool) {
	ids := make([]yr.Node, 0, len(t.nodes))
	for id, n := range t.nodes {
		if id > after && n.State != cluster.NodeLeft {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	if limit <= 0 || limit > MaxPage {
		limit = MaxPage
	}
	if more = len(ids) > limit; more {
		ids = ids[:limit]
	}
	for _, id := range ids {
		page = append(page, t.entry(now, t.nodes[id]))
	}
	return page, more
}

func (t *Table) entry(now time.Time, n *node) Entry {
	e := Entry{NodeRecord: n.NodeRecord, Load: n.load}
	switch left := n.drain.until.Sub(now).Round(time.Second); {
	case !n.alive:
		e.Load = master.Load{}
		e.Status, e.Reason = "lost", t.fate(now, n)
	case n.Restraint.Drain > 0 && n.drain.empty:
		e.Status, e.Reason = "drained", "nothing runs here; uncordon it, or take it away"
	case n.Restraint.Evicted:
		e.Status, e.Reason = "draining", "what still runs here is being ended"
	case n.Restraint.Drain > 0 && left > 0:
		e.Status, e.Reason = "draining", fmt.Sprintf("what runs here has %s to end", left)
	case n.Restraint.Drain > 0:
		e.Status, e.Reason = "draining", "it gets no new work and becomes empty"
	case n.Restraint.Cordoned:
		e.Status, e.Reason = "cordoned", "it gets no new work until it is uncordoned"
	case !n.reported:
		e.Status, e.Reason = "ready", "it has not reported to this leader yet"
	default:
		e.Status = "ready"
	}
	return e
}

// Member is the record of a node that belongs to the cluster now.
func (t *Table) Member(id yr.Node) (cluster.NodeRecord, error) {
	n := t.nodes[id]
	if n == nil || n.State != cluster.NodeAlive {
		return cluster.NodeRecord{}, yr.E("node", yr.ParamInvalid, "there is no node %q in this cluster; `yr status` lists them", id)
	}
	return n.NodeRecord, nil
}

// Record is what the registry has of a node, of whatever state.
func (t *Table) Record(id yr.Node) (cluster.NodeRecord, bool) {
	n := t.nodes[id]
	if n == nil {
		return cluster.NodeRecord{}, false
	}
	return n.NodeRecord, true
}

// Empty notes how long somebody will wait for a draining node. drained: nothing
// runs there any more.
func (t *Table) Empty(id yr.Node, until time.Time) (drained bool) {
	n := t.nodes[id]
	if n == nil || !n.alive {
		return true // whatever ran there
	}
	n.drain.until = until
	return n.drain.empty
}
