package client

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"yr/master"
	"yr/master/masterpb"
	"yr/pkg/yr"
)

func met(id string, incarnation uint64) master.Neighbour {
	return master.Neighbour{ID: yr.Node(id), Tag: yr.Tag([]byte("00" + id)), Incarnation: incarnation}
}

func TestDeadStayDead(t *testing.T) {
	v := newView()
	require.True(t, v.meet(met("a", 1)))
	require.True(t, v.bury("a", 1))
	require.False(t, v.bury("a", 1), "told once")
	require.Empty(t, v.nodes)
	require.Empty(t, v.tags)
	require.False(t, v.meet(met("a", 1)), "an answer that was long on its way")
	require.True(t, v.meet(met("a", 2)))
	require.False(t, v.meet(met("a", 1)))
	require.False(t, v.bury("a", 1), "the former incarnation is no news")
	require.Equal(t, uint64(2), v.nodes["a"].Incarnation)
}

func TestBuryingLeavesSamplesThatWereGivenOutAlone(t *testing.T) {
	v := newView()
	v.sample = []master.Neighbour{met("a", 1), met("b", 1)}
	given := v.sample
	v.bury("a", 1)
	require.Equal(t, []master.Neighbour{met("b", 1)}, v.sample)
	require.Equal(t, []master.Neighbour{met("a", 1), met("b", 1)}, given)
}

func TestWhoIsMissingFromTheLiving(t *testing.T) {
	v := newView()
	for _, id := range []string{"a", "b", "c"} {
		v.meet(met(id, 3))
	}
	dead := v.missing([]*masterpb.Incarnation{{Node: "a", Incarnation: 3}, {Node: "b", Incarnation: 4}, {Node: "x", Incarnation: 1}})
	got := make(map[string]uint64)
	for _, d := range dead {
		got[d.GetNode()] = d.GetIncarnation()
	}
	require.Equal(t, map[string]uint64{"b": 3, "c": 3}, got)
}

func TestGraveyardIsBounded(t *testing.T) {
	v := newView()
	for i := range maxBuried + 10 {
		v.bury(yr.Node(fmt.Sprint(i)), 1)
		v.bury("flaps", uint64(i+1))
	}
	require.Len(t, v.buried, maxBuried)
	require.Len(t, v.order, maxBuried)
	require.Equal(t, uint64(maxBuried+10), v.buried["flaps"])
}

func TestTagThatGoesToAnotherNode(t *testing.T) {
	v := newView()
	v.meet(met("a", 1))
	renamed := met("a", 2)
	renamed.Tag = yr.Tag([]byte("new"))
	v.meet(renamed)
	require.Equal(t, map[yr.Tag]yr.Node{renamed.Tag: "a"}, v.tags)
}
