package table

// Where work fits, and who is shown to whom.

import (
	"fmt"
	"time"

	"yr/master"
	"yr/master/internal/codec"
	"yr/pkg/cluster"
	"yr/pkg/yr"
	"yr/scheduler"
)

// few is how many nodes with room are looked at for a request that any of them may
// take, if there are more than twice as many: the best of 64 is as good as the
// best of 10 000, and found a hundred times as fast.
const few = 64

// Place finds room for a request with all living nodes in view, the node local
// first, and holds it back until the node reports that it has begun, or for
// HoldFor. If it was placed, encoded describes the node.
//
// hot: once for every worker that does not fit where it was asked for.
func (t *Table) Place(now time.Time, local yr.Node, r scheduler.Request) (plan scheduler.Plan, encoded []byte) {
	plan.Verdict = scheduler.Wait
	if len(r.Require) == 0 && len(t.roomy) > 2*few {
		plan = scheduler.Place(t.draw(local), r)
	}
	if plan.Verdict != scheduler.Placed {
		t.state.Local = local
		plan = scheduler.Place(&t.state, r)
	}
	switch plan.Verdict {
	case scheduler.Placed:
		n := t.nodes[plan.Node]
		t.state.Nodes[n.index].Take(plan)
		if len(n.held) == maxHeld {
			n.held = n.held[1:]
		}
		n.held = append(n.held, placement{r.ID, plan, now})
		t.refresh(n)
		return plan, t.encode(n)
	case scheduler.Never:
		// A node says only in its reports which cards it has.
		if silent := t.unreported(); silent > 0 && plan.Code == yr.ResourceConfigError {
			plan.Verdict, plan.Code = scheduler.Wait, yr.ResourceNotEnough
			plan.Reason = fmt.Sprintf("%d of %d nodes have not reported to the leader yet; so far: %s", silent, len(t.live), plan.Reason)
		}
	}
	return plan, nil
}

// draw is a state of the node local and a few others with room. It is good until
// the next call.
func (t *Table) draw(local yr.Node) *scheduler.State {
	t.drawn.Local, t.drawn.Nodes = local, t.drawn.Nodes[:0]
	if n := t.nodes[local]; n != nil && n.alive {
		t.drawn.Nodes = append(t.drawn.Nodes, t.state.Nodes[n.index])
	}
	for left := len(t.roomy); left > len(t.roomy)-few; left-- {
		t.swap(t.random.IntN(left), left-1)
		if n := t.roomy[left-1]; n.ID != local {
			t.drawn.Nodes = append(t.drawn.Nodes, t.state.Nodes[n.index])
		}
	}
	return &t.drawn
}

func (t *Table) unreported() (count int) {
	for _, n := range t.live {
		if !n.reported {
			count++
		}
	}
	return count
}

// sample chooses up to limit others with room: each is the one with more room of
// two that were drawn.
func (t *Table) sample(reader *node, limit int) [][]byte {
	chosen := make([][]byte, 0, min(limit, len(t.roomy)))
	if len(t.roomy) <= limit {
		for _, i := range t.random.Perm(len(t.roomy)) {
			if n := t.roomy[i]; n != reader {
				chosen = append(chosen, t.encode(n))
			}
		}
		return chosen
	}
	// The chosen gather at the end of roomy, out of the draw's reach.
	for left := len(t.roomy); left > 0 && len(chosen) < limit; left-- {
		i, j := t.random.IntN(left), t.random.IntN(left)
		if t.share(t.roomy[j]) > t.share(t.roomy[i]) {
			i = j
		}
		n := t.roomy[i]
		t.swap(i, left-1)
		if n != reader {
			chosen = append(chosen, t.encode(n))
		}
	}
	return chosen
}

func (t *Table) swap(i, j int) {
	t.roomy[i], t.roomy[j] = t.roomy[j], t.roomy[i]
	t.roomy[i].room, t.roomy[j].room = i, j
}

// share is the part of a node that is free, by whichever resource is scarcer.
func (t *Table) share(n *node) float64 {
	s := &t.state.Nodes[n.index]
	return min(
		float64(s.Available[yr.CPU])/float64(s.Capacity[yr.CPU]),
		float64(s.Available[yr.Memory])/float64(s.Capacity[yr.Memory]))
}

// encode describes a living node to others; it is done once for each change.
func (t *Table) encode(n *node) []byte {
	if n.encoded == nil {
		n.encoded = codec.Neighbour(t.neighbour(n))
	}
	return n.encoded
}

func (t *Table) neighbour(n *node) master.Neighbour {
	s := &t.state.Nodes[n.index]
	return master.Neighbour{
		ID: n.ID, Tag: yr.Tag(n.Tag), Address: n.Address, Incarnation: n.Incarnation,
		Capacity: s.Capacity, Available: s.Available, Labels: s.Labels, Cordoned: n.Restraint.Cordoned, Master: n.Master,
	}
}

// Locate describes the living node with this id or, if id is empty, this tag.
// Without one, reason says what became of it.
func (t *Table) Locate(now time.Time, id yr.Node, tag yr.Tag) (encoded []byte, reason string) {
	n, what := t.nodes[id], fmt.Sprintf("node %q", id)
	if id == "" {
		n, what = t.tags[tag], "the node with tag "+tag.String()
	}
	switch {
	case n == nil:
		return nil, what + " is not of this cluster, or was forgotten"
	case n.alive:
		return t.encode(n), ""
	}
	return nil, fmt.Sprintf("node %q (%s) %s", n.ID, yr.Tag(n.Tag), t.fate(now, n))
}

// fate says what became of a node that lives no more.
func (t *Table) fate(now time.Time, n *node) string {
	switch n.State {
	case cluster.NodeLeft:
		return "left the cluster at " + n.Since.Format(time.RFC3339)
	case cluster.NodeDead:
		return "was declared dead at " + n.Since.Format(time.RFC3339)
	}
	return fmt.Sprintf("is lost: it has been silent for %s", now.Sub(n.heard).Round(time.Second))
}
