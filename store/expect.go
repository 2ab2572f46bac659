package store

import "yr/pkg/yr"

// Expect returns the name, and makes a pending one without an owner if there is
// none: for an object of another node that is being borrowed, or a copy of one.
// Whoever expects it refers to it before the table is asked to settle anything.
func (t *Names[W]) Expect(id yr.ID) *Name[W] {
	if n := t.names[id]; n != nil {
		return n
	}
	return t.add(id)
}

// Each calls f for every name that h refers to, and how often, until f returns
// false. f must not change the table.
func (h *Holder[W]) Each(f func(n *Name[W], references uint32) bool) {
	for n := h.first; n != nil; n = n.next {
		if !f(n, n.owned) {
			return
		}
	}
	for n, k := range h.borrowed {
		if !f(n, k) {
			return
		}
	}
}
