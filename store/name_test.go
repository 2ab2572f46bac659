package store

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"yr/pkg/yr"
)

// table is a Names that remembers what was freed, in order.
type table struct {
	*Names[string]
	t     require.TestingT
	freed []yr.ID
}

func newTable(t require.TestingT) *table {
	x := &table{t: t}
	x.Names = NewNames(func(n *Name[string]) { x.freed = append(x.freed, n.ID) })
	return x
}

func (x *table) bind(h *Holder[string], id yr.ID) *Name[string] {
	n, err := h.Bind(id)
	require.NoError(x.t, err)
	return n
}

func object(k uint64) yr.ID { return yr.Prefix([]byte("driver000000")).ID(k) }
func session(k int) yr.ID   { return yr.Prefix(fmt.Appendf(nil, "sess%05d", k)).ID(0) }

func code(t *testing.T, want yr.Code, err error) {
	t.Helper()
	require.Equal(t, want, yr.CodeOf(err), "%v", err)
}

func TestNameLivesAsLongAsSomethingRefersToIt(t *testing.T) {
	id := object(1)
	cases := []struct {
		name string
		do   func(x *table, a, b *Holder[string])
		gone bool
	}{
		{"bound", func(x *table, a, _ *Holder[string]) { x.bind(a, id) }, false},
		{"released by its owner", func(x *table, a, _ *Holder[string]) {
			x.bind(a, id)
			require.NoError(x.t, a.Release(id, 1))
		}, true},
		{"retained by another", func(x *table, a, b *Holder[string]) {
			x.bind(a, id)
			require.NoError(x.t, b.Retain(id, 2))
			require.NoError(x.t, a.Release(id, 1))
		}, false},
		{"released by all", func(x *table, a, b *Holder[string]) {
			x.bind(a, id)
			require.NoError(x.t, b.Retain(id, 2))
			require.NoError(x.t, a.Release(id, 1))
			require.NoError(x.t, b.Release(id, 2))
		}, true},
		{"held by a call", func(x *table, a, _ *Holder[string]) {
			x.Hold(x.bind(a, id))
			a.End()
		}, false},
		{"held by a call that ended", func(x *table, a, _ *Holder[string]) {
			n := x.bind(a, id)
			x.Hold(n)
			a.End()
			x.Unhold(n)
		}, true},
		{"owner ended", func(x *table, a, _ *Holder[string]) {
			x.bind(a, id)
			a.End()
		}, true},
		{"owner ended, another refers", func(x *table, a, b *Holder[string]) {
			x.bind(a, id)
			require.NoError(x.t, b.Retain(id, 1))
			a.End()
		}, false},
		{"owner takes it up again", func(x *table, a, b *Holder[string]) {
			x.bind(a, id)
			require.NoError(x.t, b.Retain(id, 1))
			require.NoError(x.t, a.Release(id, 1))
			require.NoError(x.t, a.Retain(id, 1))
			b.End()
		}, false},
		{"inside another value", func(x *table, a, _ *Holder[string]) {
			x.bind(a, id)
			outer := x.bind(a, object(2))
			require.NoError(x.t, x.Set(outer, Value{Bytes: []byte("x")}, []yr.ID{id}))
			require.NoError(x.t, a.Release(id, 1))
		}, false},
		{"inside a value that went", func(x *table, a, _ *Holder[string]) {
			x.bind(a, id)
			outer := x.bind(a, object(2))
			require.NoError(x.t, x.Set(outer, Value{Bytes: []byte("x")}, []yr.ID{id, id, object(2), object(9)}))
			require.Equal(x.t, []yr.ID{id, id}, outer.Contains, "itself and unknown objects are left out")
			require.NoError(x.t, a.Release(id, 1))
			require.NoError(x.t, a.Release(object(2), 1))
		}, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			x := newTable(t)
			c.do(x, x.Join(session(1), "job-1"), x.Join(session(2), "job-2"))
			require.NoError(t, x.Check())
			require.Equal(t, c.gone, x.Get(id) == nil)
			require.Equal(t, c.gone, slices.Contains(x.freed, id))
		})
	}
}

func TestNamesRefuse(t *testing.T) {
	x := newTable(t)
	a, b := x.Join(session(1), ""), x.Join(session(2), "")
	n := x.bind(a, object(1))
	_, err := b.Bind(object(1))
	code(t, yr.ParamInvalid, err)
	_, err = b.Claim(object(1))
	code(t, yr.ParamInvalid, err)
	code(t, yr.ParamInvalid, a.Release(object(1), 2))
	code(t, yr.ParamInvalid, b.Release(object(1), 1))
	code(t, yr.ObjectNotFound, a.Release(object(2), 1))
	code(t, yr.ObjectNotFound, a.Retain(object(2), 1))
	code(t, yr.RateLimited, a.Retain(object(1), 1<<32-1))
	require.NoError(t, b.Retain(object(1), 1<<32-1))
	code(t, yr.RateLimited, b.Retain(object(1), 1))
	require.NoError(t, x.Set(n, Value{Bytes: []byte("v")}, nil))
	code(t, yr.ParamInvalid, x.Set(n, Value{Bytes: []byte("w")}, nil))
	a.End()
	a.End()
	code(t, yr.Finalized, a.Retain(object(1), 1))
	_, err = a.Bind(object(3))
	code(t, yr.Finalized, err)
	require.NoError(t, x.Check())
}

func TestNameStats(t *testing.T) {
	x := newTable(t)
	h := x.Join(session(1), "job-7")
	inline, shared, failed := x.bind(h, object(1)), x.bind(h, object(2)), x.bind(h, object(3))
	x.bind(h, object(4))
	require.NoError(t, x.Set(inline, Value{Bytes: make([]byte, 100)}, nil))
	require.NoError(t, x.Set(shared, Value{Kind: Shared, Place: yr.Place{Length: 1 << 20}}, nil))
	require.NoError(t, x.Set(failed, Value{Kind: Error, Code: yr.UserException, Bytes: []byte("boom")}, nil))
	require.Equal(t, NameStats{Names: 4, Pending: 1, Shared: 1, Inline: 104, Holders: 1}, x.Stats())
	require.Equal(t, []State{Ready, Ready, Failed}, []State{inline.State, shared.State, failed.State})
	require.Equal(t, uint64(1<<20), shared.Size())
	require.Equal(t, uint64(104), h.Inline())
	require.Equal(t, 4, h.Owned())
	require.Equal(t, yr.Job("job-7"), shared.Job())
	h.End()
	require.Equal(t, NameStats{}, x.Stats())
	require.Len(t, x.freed, 4)
	require.NoError(t, x.Check())
}

func TestDeeplyNestedValuesAreFreedWithoutRecursion(t *testing.T) {
	const depth = 200_000
	x := newTable(t)
	h := x.Join(session(1), "")
	for k := range uint64(depth) {
		n := x.bind(h, object(k))
		if k > 0 {
			require.NoError(t, x.Set(n, Value{}, []yr.ID{object(k - 1)}))
			require.NoError(t, h.Release(object(k-1), 1))
		}
	}
	require.Equal(t, depth, x.Len())
	require.NoError(t, h.Release(object(depth-1), 1))
	require.Zero(t, x.Len())
	require.Equal(t, object(depth-1), x.freed[0])
	require.NoError(t, x.Check())
}

func TestWaitersReachOnFreeAndAreNotInherited(t *testing.T) {
	x := newTable(t)
	var waiters []string
	x.OnFree = func(n *Name[string]) { waiters = append(waiters, n.Waiters...) }
	h := x.Join(session(1), "")
	n := x.bind(h, object(1))
	n.Waiters = append(n.Waiters, "call 1", "session 2")
	require.NoError(t, h.Release(object(1), 1))
	require.Equal(t, []string{"call 1", "session 2"}, waiters)
	require.Empty(t, x.bind(h, object(2)).Waiters)
}

func TestOnFreeMayCallTheTable(t *testing.T) {
	x := newTable(t)
	h := x.Join(session(1), "")
	held := x.bind(h, object(1))
	x.Hold(held)
	x.OnFree = func(n *Name[string]) {
		require.Nil(t, x.Get(n.ID), "a dying name cannot be found")
		if n.ID == object(2) {
			x.Unhold(held)
		}
	}
	x.bind(h, object(2))
	h.End()
	require.Zero(t, x.Len())
	require.NoError(t, x.Check())
}

func TestRecoveryTakesReferencesBeforeOwners(t *testing.T) {
	x := newTable(t)
	a, b := x.Join(session(1), ""), x.Join(session(2), "")
	x.BeginRecovery()
	require.NoError(t, b.Retain(object(1), 1)) // b borrows what a will announce
	require.NoError(t, b.Retain(object(2), 1)) // and something whose owner never comes back
	require.NoError(t, a.Retain(object(3), 2)) // a counts its own before it announces it
	outer, err := b.Claim(object(4))
	require.NoError(t, err)
	require.NoError(t, x.Set(outer, Value{Bytes: []byte("o")}, []yr.ID{object(1)}))

	one, err := a.Claim(object(1))
	require.NoError(t, err)
	require.NoError(t, x.Set(one, Value{Bytes: []byte("one")}, nil))
	three, err := a.Claim(object(3))
	require.NoError(t, err)
	require.Equal(t, uint32(2), a.References(three))
	again, err := a.Claim(object(3))
	require.NoError(t, err)
	require.Same(t, three, again)
	require.NoError(t, x.Check())

	var lost []yr.ID
	x.EndRecovery(func(n *Name[string]) {
		lost = append(lost, n.ID)
		require.NoError(t, x.Set(n, Value{Kind: Error, Code: yr.ObjectNotFound, Bytes: []byte("lost")}, nil))
	})
	require.Equal(t, []yr.ID{object(2)}, lost)
	require.Equal(t, 4, x.References(object(1))+x.References(object(2)))
	code(t, yr.ObjectNotFound, a.Retain(object(5), 1))
	require.NoError(t, x.Check())
	a.End()
	b.End()
	require.Zero(t, x.Len())
}

func (x *table) References(id yr.ID) int { return x.Get(id).References() }

func TestCollectFreesRings(t *testing.T) {
	x := newTable(t)
	h := x.Join(session(1), "")
	a, b, kept := x.bind(h, object(1)), x.bind(h, object(2)), x.bind(h, object(3))
	require.NoError(t, x.Set(a, Value{}, []yr.ID{object(2), object(3)}))
	require.NoError(t, x.Set(b, Value{}, []yr.ID{object(1)}))
	x.Hold(kept)
	h.End()
	require.Equal(t, 3, x.Len(), "counting alone cannot free a ring")
	require.Equal(t, 2, x.Collect())
	require.Equal(t, 1, x.Len())
	require.NoError(t, x.Check())
	require.Zero(t, x.Collect())
	x.Unhold(kept)
	require.Zero(t, x.Len())
}

// TestNamesAgainstModel compares the table with a naive one: counts in one big
// map, reachability computed from scratch after every step.
func TestNamesAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		x := newTable(rt)
		m := newModel()
		next := uint64(0)
		pick := func() yr.ID { return object(rapid.Uint64Range(0, next+1).Draw(rt, "object")) }
		holder := func() *Holder[string] {
			return x.Join(session(rapid.IntRange(0, 3).Draw(rt, "session")), "")
		}
		rt.Repeat(map[string]func(*rapid.T){
			"bind": func(*rapid.T) {
				h := holder()
				x.bind(h, object(next))
				m.bind(h.ID, object(next))
				next++
			},
			"set": func(rt *rapid.T) {
				n := x.Get(pick())
				if n == nil || n.State != Pending {
					rt.Skip()
				}
				var inner []yr.ID
				for range rapid.IntRange(0, 2).Draw(rt, "contains") {
					inner = append(inner, object(rapid.Uint64Range(0, n.ID.Seq()).Draw(rt, "inner")))
				}
				m.set(n.ID, inner)
				require.NoError(rt, x.Set(n, Value{Bytes: make([]byte, 3)}, inner))
			},
			"retain": func(*rapid.T) {
				h, id := holder(), pick()
				k := rapid.Uint32Range(1, 3).Draw(rt, "n")
				require.Equal(rt, m.retain(h.ID, id, int(k)), h.Retain(id, k) == nil)
			},
			"release": func(*rapid.T) {
				h, id := holder(), pick()
				k := rapid.Uint32Range(1, 3).Draw(rt, "n")
				require.Equal(rt, m.release(h.ID, id, int(k)), h.Release(id, k) == nil)
			},
			"hold": func(*rapid.T) {
				if n := x.Get(pick()); n != nil {
					x.Hold(n)
					m.retain(yr.ID{}, n.ID, 1)
				}
			},
			"unhold": func(*rapid.T) {
				if n := x.Get(pick()); n != nil && m.refs[ref{yr.ID{}, n.ID}] > 0 {
					m.release(yr.ID{}, n.ID, 1)
					x.Unhold(n)
				}
			},
			"end": func(*rapid.T) {
				h := holder()
				h.End()
				m.end(h.ID)
			},
			"": func(rt *rapid.T) {
				require.NoError(rt, x.Check())
				require.Equal(rt, len(m.alive), x.Len())
				for id := range m.alive {
					require.NotNil(rt, x.Get(id))
				}
			},
		})
	})
}

type ref struct{ holder, id yr.ID }

type model struct {
	alive    map[yr.ID]bool
	contains map[yr.ID][]yr.ID
	refs     map[ref]int
}

func newModel() *model {
	return &model{map[yr.ID]bool{}, map[yr.ID][]yr.ID{}, map[ref]int{}}
}

func (m *model) bind(h, id yr.ID) { m.alive[id] = true; m.refs[ref{h, id}] = 1 }

func (m *model) set(id yr.ID, inner []yr.ID) {
	for _, i := range inner {
		if m.alive[i] && i != id {
			m.contains[id] = append(m.contains[id], i)
		}
	}
}

func (m *model) retain(h, id yr.ID, k int) bool {
	if !m.alive[id] {
		return false
	}
	m.refs[ref{h, id}] += k
	return true
}

func (m *model) release(h, id yr.ID, k int) bool {
	if !m.alive[id] || m.refs[ref{h, id}] < k {
		return false
	}
	m.refs[ref{h, id}] -= k
	m.settle()
	return true
}

func (m *model) end(h yr.ID) {
	for r := range m.refs {
		if r.holder == h {
			delete(m.refs, r)
		}
	}
	m.settle()
}

// settle keeps what a reference reaches. The test makes no rings: a value only
// contains objects that were made before it.
func (m *model) settle() {
	alive := map[yr.ID]bool{}
	var visit func(yr.ID)
	visit = func(id yr.ID) {
		if !alive[id] {
			alive[id] = true
			for _, i := range m.contains[id] {
				visit(i)
			}
		}
	}
	for r, k := range m.refs {
		if k > 0 {
			visit(r.id)
		}
	}
	m.alive = alive
	for r := range m.refs {
		if !alive[r.id] {
			delete(m.refs, r)
		}
	}
}

func BenchmarkPutRelease(b *testing.B) {
	for _, live := range []int{0, 1_000_000} {
		b.Run(fmt.Sprintf("live=%d", live), func(b *testing.B) {
			t := NewNames[int](nil)
			h := t.Join(session(1), "")
			for k := range uint64(live) { //nolint:gosec // small
				_, _ = h.Bind(object(k))
			}
			value := make([]byte, 64)
			p := yr.Prefix([]byte("driver111111"))
			b.ReportAllocs()
			b.ResetTimer()
			for k := range uint64(b.N) { //nolint:gosec // a benchmark does not reach 2^32
				id := p.ID(k)
				n, _ := h.Bind(id)
				_ = t.Set(n, Value{Bytes: value}, nil)
				_ = h.Release(id, 1)
			}
		})
	}
}

func BenchmarkResultWithDependency(b *testing.B) {
	t := NewNames[int](nil)
	driver, worker := t.Join(session(1), ""), t.Join(session(2), "")
	arg, _ := driver.Bind(object(0))
	value := make([]byte, 64)
	p := yr.Prefix([]byte("driver111111"))
	b.ReportAllocs()
	for k := range uint64(b.N) { //nolint:gosec // as above
		id := p.ID(k)
		n, _ := driver.Bind(id)
		t.Hold(arg)
		_ = worker.Retain(arg.ID, 1)
		n.Waiters = append(n.Waiters, 1)
		_ = t.Set(n, Value{Bytes: value}, nil)
		n.ClearWaiters()
		_ = worker.Release(arg.ID, 1)
		t.Unhold(arg)
		_ = driver.Release(id, 1)
	}
}

func BenchmarkEndHolder(b *testing.B) {
	t := NewNames[int](nil)
	for range 100_000 {
		_, _ = t.Join(session(0), "").Bind(yr.NewID())
	}
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		b.StopTimer()
		h := t.Join(session(1), "")
		for k := range uint64(100) {
			_, _ = h.Bind(object(k))
		}
		b.StartTimer()
		h.End()
	}
}

func TestUnholdOfWhatIsNotHeldPanics(t *testing.T) {
	x := newTable(t)
	n := x.bind(x.Join(session(1), ""), object(1))
	defer func() {
		require.NotNil(t, recover(), "an agent that unholds twice would free what others use")
	}()
	x.Unhold(n)
	require.NoError(t, errors.New("unreachable"))
}
