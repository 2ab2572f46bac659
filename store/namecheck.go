package store

// What the object table must always satisfy, and what reference counting alone
// cannot do: finding values that keep each other alive.

import (
	"fmt"
)

// Check verifies every invariant of the table in time proportional to its size.
// Tests, fault tests and `yr debug` call it.
func (t *Names[W]) Check() error {
	var sum NameStats
	inside := make(map[*Name[W]]uint32)
	inline := make(map[*Holder[W]]uint64)
	for id, n := range t.names {
		if n.ID != id {
			return fmt.Errorf("name %s is filed under %s", n.ID, id)
		}
		if n.References() == 0 {
			return fmt.Errorf("name %s is referred to by nobody and still there", id)
		}
		for _, c := range n.Contains {
			inner := t.names[c]
			if inner == nil {
				return fmt.Errorf("name %s contains %s, which is gone", id, c)
			}
			inside[inner]++
		}
		sum.add(n.State, n.Value)
		inline[n.owner] += uint64(len(n.Value.Bytes))
	}
	sum.Holders = len(t.holders)
	if sum != t.stats {
		return fmt.Errorf("stats say %+v, the table holds %+v", t.stats, sum)
	}
	for id, n := range t.names {
		if n.inside != inside[n] {
			return fmt.Errorf("name %s counts %d containers, has %d", id, n.inside, inside[n])
		}
	}
	return t.checkHolders(inline)
}

func (s *NameStats) add(state State, v Value) {
	s.Names++
	if state == Pending {
		s.Pending++
	}
	switch v.Kind {
	case Shared:
		s.Shared++
	case Away:
		s.Away++
	case Inline, Error:
	}
	s.Inline += uint64(len(v.Bytes))
}

func (t *Names[W]) checkHolders(inline map[*Holder[W]]uint64) error {
	borrowed := make(map[*Name[W]]uint32)
	listed := make(map[*Name[W]]bool)
	for id, h := range t.holders {
		if h.ID != id || h.ended {
			return fmt.Errorf("holder %s is filed under %s (ended %v)", h.ID, id, h.ended)
		}
		if h.inline != inline[h] {
			return fmt.Errorf("holder %s counts %d inline bytes, has %d", id, h.inline, inline[h])
		}
		count := 0
		for n := h.first; n != nil; n = n.next {
			if n.owner != h || n.owned == 0 || t.names[n.ID] != n {
				return fmt.Errorf("holder %s lists %s (%d references), which is not its own", id, n.ID, n.owned)
			}
			listed[n] = true
			count++
		}
		if count != h.owned {
			return fmt.Errorf("holder %s counts %d names, lists %d", id, h.owned, count)
		}
		for n, k := range h.borrowed {
			if k == 0 || n.owner == h || t.names[n.ID] != n {
				return fmt.Errorf("holder %s borrows %d of %s", id, k, n.ID)
			}
			borrowed[n] += k
		}
	}
	for id, n := range t.names {
		if n.borrowed != borrowed[n] {
			return fmt.Errorf("name %s counts %d borrowed references, holders have %d", id, n.borrowed, borrowed[n])
		}
		if (n.owned > 0) != listed[n] {
			return fmt.Errorf("name %s has %d references of its owner, listed: %v", id, n.owned, listed[n])
		}
	}
	return nil
}

// Collect frees the names that only each other's values keep alive and returns
// how many. A program makes such a ring by returning a reference to what will
// contain the result. Time is proportional to the table: call it when a job ends.
func (t *Names[W]) Collect() int {
	reached := make(map[*Name[W]]struct{})
	var next []*Name[W]
	visit := func(n *Name[W]) {
		if _, ok := reached[n]; !ok {
			reached[n] = struct{}{}
			next = append(next, n)
		}
	}
	ring := false
	for _, n := range t.names {
		if n.owned|n.borrowed|n.holds != 0 {
			visit(n)
		} else {
			ring = true // held by values only; most are reached below
		}
	}
	if !ring {
		return 0
	}
	for len(next) > 0 {
		n := next[len(next)-1]
		next = next[:len(next)-1]
		for _, id := range n.Contains {
			visit(t.names[id])
		}
	}
	return t.cut(reached)
}

// cut frees every name that was not reached.
func (t *Names[W]) cut(reached map[*Name[W]]struct{}) int {
	var lost []*Name[W]
	for _, n := range t.names {
		if _, ok := reached[n]; !ok {
			n.holds++ // so that none goes before all are cut
			lost = append(lost, n)
		}
	}
	for _, n := range lost {
		contains := n.Contains
		n.Contains = nil
		t.uncontain(contains)
	}
	for _, n := range lost {
		t.Unhold(n)
	}
	return len(lost)
}
