package scheduler

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"yr/pkg/yr"
)

var (
	models   = []string{"A", "B"}
	names    = []string{yr.CPU, yr.Memory, "ssd"}
	patterns = []string{"GPU/.+/count", "GPU/A/count", "GPU/(A|B)/count", "GPU/^A/count"}
)

func drawNode(t *rapid.T, id int) Node {
	n := Node{ID: yr.Node(fmt.Sprint("n", id)), Capacity: yr.Resources{}, Cordoned: rapid.IntRange(0, 9).Draw(t, "cordoned") == 0}
	for _, name := range names {
		if rapid.Bool().Draw(t, "has "+name) {
			n.Capacity[name] = yr.Milli(rapid.IntRange(1, 8).Draw(t, name)) * 500
		}
	}
	for i := range rapid.IntRange(0, 5).Draw(t, "cards") {
		d := Device{Type: "GPU", Model: rapid.SampledFrom(models).Draw(t, "model"), ID: i, Free: whole}
		if rapid.Bool().Draw(t, "sharable") {
			d.Memory = 1024
		}
		n.Devices = append(n.Devices, d)
		n.Capacity[resourceName(d)] += whole
	}
	n.Available = n.Capacity.Clone()
	return n
}

func drawNeed(t *rapid.T) yr.Resources {
	need := yr.Resources{}
	for _, name := range names {
		if rapid.Bool().Draw(t, "needs "+name) {
			need[name] = yr.Milli(rapid.IntRange(0, 9).Draw(t, name)) * 500
		}
	}
	for _, key := range patterns {
		if rapid.IntRange(0, 3).Draw(t, "needs "+key) == 0 {
			need[key] = rapid.SampledFrom([]yr.Milli{250, 500, 1000, 2000, 3000}).Draw(t, key)
		}
	}
	return need
}

// TestPlacementKeepsItsPromises places and releases at random: nothing is given
// twice, what is placed fits, Never is said exactly when no empty node could hold
// the request, and Wait ends when everything is released.
func TestPlacementKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &State{Local: "n0"}
		for i := range rapid.IntRange(1, 4).Draw(t, "nodes") {
			s.Nodes = append(s.Nodes, drawNode(t, i))
		}
		var placed []Plan
		byID := func(id yr.Node) *Node {
			for i := range s.Nodes {
				if s.Nodes[i].ID == id {
					return &s.Nodes[i]
				}
			}
			return nil
		}
		t.Repeat(map[string]func(*rapid.T){
			"place": func(t *rapid.T) {
				r := Request{Need: drawNeed(t)}
				p := Place(s, r)
				require.Equal(t, p, Place(s, r), "the same question has the same answer")
				empty := emptied(s)
				switch p.Verdict {
				case Placed:
					n := byID(p.Node)
					require.False(t, n.Cordoned)
					_, ok := n.Available.Fits(p.Take)
					require.True(t, ok, "%v does not fit into %v", p.Take, n.Available)
					n.Take(p)
					placed = append(placed, p)
				case Wait:
					require.Equal(t, yr.ResourceNotEnough, p.Code)
					require.Equal(t, Placed, Place(empty, r).Verdict, p.Reason)
				case Never:
					require.Equal(t, yr.ResourceConfigError, p.Code)
					require.Equal(t, Never, Place(empty, r).Verdict, p.Reason)
					require.Contains(t, p.Reason, "no node can ever hold")
				}
			},
			"release": func(t *rapid.T) {
				if len(placed) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(placed)-1).Draw(t, "which")
				byID(placed[i].Node).Give(placed[i])
				placed = append(placed[:i], placed[i+1:]...)
			},
			"": func(t *rapid.T) {
				for i := range s.Nodes {
					checkNode(t, &s.Nodes[i])
				}
			},
		})
	})
}

// emptied is the state with nothing running and nothing cordoned.
func emptied(s *State) *State {
	e := &State{Local: s.Local}
	for i := range s.Nodes {
		n := s.Nodes[i].Empty()
		n.Cordoned = false
		e.Nodes = append(e.Nodes, n)
	}
	return e
}

// checkNode verifies that no more is taken than there is, and that cards and the
// count of cards agree.
func checkNode(t *rapid.T, n *Node) {
	free := yr.Resources{}
	for _, d := range n.Devices {
		require.GreaterOrEqual(t, d.Free, yr.Milli(0))
		require.LessOrEqual(t, d.Free, whole)
		free[resourceName(d)] += d.Free
	}
	for name, v := range n.Available {
		require.GreaterOrEqual(t, v, yr.Milli(0), name)
		require.LessOrEqual(t, v, n.Capacity[name], name)
	}
	for name, v := range free {
		require.Equal(t, v, n.Available[name], name)
	}
}

// TestQueueAgainstModel compares the queue with a stable sort.
func TestQueueAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type entry struct{ priority, value int }
		q := &Queue[entry]{Limit: 20}
		var items []*Item[entry]
		var model []entry // in order
		remove := func(i int) { model = append(model[:i:i], model[i+1:]...) }
		next := 0
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				e := entry{rapid.IntRange(-2, 2).Draw(t, "priority"), next}
				next++
				item := q.Push(e.priority, e)
				require.Equal(t, len(model) >= 20, item == nil)
				if item == nil {
					return
				}
				items = append(items, item)
				at := 0
				for at < len(model) && model[at].priority >= e.priority {
					at++
				}
				model = append(model[:at:at], append([]entry{e}, model[at:]...)...)
			},
			"pop": func(t *rapid.T) {
				v, ok := q.Pop()
				require.Equal(t, len(model) > 0, ok)
				if ok {
					require.Equal(t, model[0], v)
					remove(0)
				}
			},
			"remove": func(t *rapid.T) {
				if len(items) == 0 {
					t.Skip()
				}
				item := rapid.SampledFrom(items).Draw(t, "item")
				q.Remove(item) // perhaps for the second time
				for i, e := range model {
					if e == item.Value {
						remove(i)
						break
					}
				}
			},
			"serve": func(t *rapid.T) {
				policy := rapid.SampledFrom([]Policy{FIFO, Fairness}).Draw(t, "policy")
				divisor := rapid.IntRange(1, 3).Draw(t, "divisor")
				accept := func(e entry) bool { return e.value%divisor == 0 }
				served := q.Serve(policy, accept)
				var left []entry
				blocked := false
				for _, e := range model {
					if blocked || !accept(e) {
						left = append(left, e)
						blocked = blocked || policy == Fairness
					}
				}
				require.Equal(t, len(model)-len(left), served)
				model = left
			},
			"": func(t *rapid.T) {
				require.Equal(t, len(model), q.Len())
				var got []entry
				for item := range q.All() {
					got = append(got, item.Value)
				}
				require.ElementsMatch(t, model, got)
				for i := range got {
					require.Equal(t, model[i], got[i])
				}
			},
		})
	})
}
