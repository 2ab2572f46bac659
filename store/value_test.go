package store

import (
	"testing"

	"github.com/stretchr/testify/require"

	"yr/pkg/yr"
)

func TestMoveKeepsTheBytesAndTheCounts(t *testing.T) {
	place := yr.Place{Segment: 1, Generation: 1, Length: 4096}
	away := Value{Kind: Away, Source: &Source{Spot: Spot{File: 1, Length: 4096}, Size: 4096}}
	x := newTable(t)
	h := x.Join(session(1), "")
	n := x.bind(h, object(1))
	code(t, yr.ParamInvalid, x.Move(n, away))
	require.NoError(t, x.Set(n, Value{Kind: Shared, Place: place}, nil))

	require.NoError(t, x.Move(n, away))
	require.Equal(t, Ready, n.State)
	require.Equal(t, uint64(4096), n.Size())
	require.Equal(t, NameStats{Names: 1, Away: 1, Holders: 1}, x.Stats())
	require.NoError(t, x.Check())

	code(t, yr.ParamInvalid, x.Move(n, Value{Kind: Shared, Place: yr.Place{Length: 1}}))
	code(t, yr.ParamInvalid, x.Move(n, Value{Kind: Away}))
	require.NoError(t, x.Move(n, Value{Kind: Shared, Place: place, Source: away.Source}))
	require.Equal(t, NameStats{Names: 1, Shared: 1, Holders: 1}, x.Stats())

	require.NoError(t, x.Move(n, away))
	require.NoError(t, x.Move(n, Value{Kind: Error, Code: yr.DiskFailed, Bytes: []byte("lost")}))
	require.Equal(t, Failed, n.State)
	require.Equal(t, NameStats{Names: 1, Inline: 4, Holders: 1}, x.Stats())
	require.NoError(t, x.Check())
	code(t, yr.ParamInvalid, x.Move(n, away))
	h.End()
	require.Equal(t, NameStats{}, x.Stats())

	m := x.bind(x.Join(session(2), ""), object(2))
	code(t, yr.ParamInvalid, x.Set(m, Value{Kind: Away}, nil))
	require.NoError(t, x.Set(m, away, nil))
	require.Equal(t, NameStats{Names: 1, Away: 1, Holders: 1}, x.Stats())
	require.NoError(t, x.Check())
}

func TestHolders(t *testing.T) {
	x := newTable(t)
	a, b, c := x.Join(session(1), ""), x.Join(session(2), ""), x.Join(session(3), "")
	n := x.bind(a, object(1))
	require.NoError(t, b.Retain(object(1), 2))
	x.Hold(n)
	who := func() (ids []yr.ID) {
		x.Holders(n, func(h *Holder[string]) { ids = append(ids, h.ID) })
		return ids
	}
	require.ElementsMatch(t, []yr.ID{a.ID, b.ID}, who())
	require.Equal(t, 1, n.Holds())
	require.NoError(t, c.Retain(object(1), 1))
	a.End()
	require.ElementsMatch(t, []yr.ID{b.ID, c.ID}, who())
	b.End()
	c.End()
	require.Empty(t, who())
}
