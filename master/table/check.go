package table

import (
	"fmt"

	"yr/pkg/cluster"
	"yr/pkg/yr"
)

// Check returns what is wrong with the table's own books; tests call it after every step.
func (t *Table) Check() error {
	if len(t.live) != len(t.state.Nodes) {
		return fmt.Errorf("%d nodes live and the scheduler sees %d", len(t.live), len(t.state.Nodes))
	}
	for i, n := range t.live {
		switch {
		case !n.alive || n.index != i || t.state.Nodes[i].ID != n.ID || t.nodes[n.ID] != n:
			return fmt.Errorf("node %s is at place %d of the living and says %d", n.ID, i, n.index)
		case n.State != cluster.NodeAlive:
			return fmt.Errorf("node %s lives and the registry knows better", n.ID)
		case t.state.Nodes[i].Cordoned != n.Restraint.Cordoned:
			return fmt.Errorf("the scheduler has another opinion about the cordon of node %s", n.ID)
		case (n.room >= 0) != (n.reported && !n.Restraint.Cordoned && hasRoom(&t.state.Nodes[i])):
			return fmt.Errorf("node %s is wrongly among those with room, or wrongly not", n.ID)
		}
	}
	for i, n := range t.roomy {
		if n.room != i || !n.alive {
			return fmt.Errorf("node %s is at place %d of those with room and says %d", n.ID, i, n.room)
		}
	}
	for id, n := range t.nodes {
		if n.alive && (n.index < 0 || n.index >= len(t.live) || t.live[n.index] != n) {
			return fmt.Errorf("node %s says that it lives", id)
		}
		if t.tags[yr.Tag(n.Tag)] != n {
			return fmt.Errorf("node %s does not have its tag %s", id, n.Tag)
		}
	}
	last := t.forgotten
	for _, d := range t.deaths {
		if d.revision < last || d.revision > t.revision {
			return fmt.Errorf("the death of %s at revision %d is out of order", d.Node, d.revision)
		}
		last = d.revision
	}
	return nil
}
