package cluster_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/pkg/cluster"
	"yr/pkg/cluster/inprocess"
	"yr/pkg/yr"
)

func node(id, identity string) cluster.NodeRecord {
	return cluster.NodeRecord{
		ID: yr.Node(id), Identity: identity, Address: id + ":22773", Version: "1.0.0",
		Capacity: yr.Resources{yr.CPU: yr.Amount(4000)}, Labels: map[string][]string{"zone": {"a", "b"}}, Started: time.Unix(1, 0).UTC(),
	}
}

func TestNodesRegister(t *testing.T) {
	onEvery(t, func(t *testing.T, kv cluster.KV) {
		ctx := t.Context()
		nodes := openCluster(t, kv, "m").Nodes()
		a, err := nodes.Register(ctx, node("a", "ia"))
		require.NoError(t, err)
		require.Equal(t, uint64(1), a.Incarnation)
		require.Equal(t, cluster.NodeAlive, a.State)
		require.NotEqual(t, cluster.NodeTag{}, a.Tag)
		got, ok, err := nodes.Get(ctx, "a")
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, a, got, "what is returned is what is kept")

		again, err := nodes.Register(ctx, node("a", "ia"))
		require.NoError(t, err)
		require.Equal(t, a.Tag, again.Tag, "a restarted daemon keeps its tag")
		require.Equal(t, uint64(2), again.Incarnation)
		require.Greater(t, again.Revision, a.Revision)

		_, err = nodes.Register(ctx, node("a", "another"))
		require.Equal(t, yr.AlreadyRunning, yr.CodeOf(err), "two live nodes with one id")
		require.ErrorContains(t, err, "values.node_id")

		_, err = nodes.Fence(ctx, "a", 1)
		require.ErrorIs(t, err, cluster.ErrFenced, "that incarnation is over already")
		dead, err := nodes.Fence(ctx, "a", 2)
		require.NoError(t, err)
		require.Equal(t, cluster.NodeDead, dead.State)
		twice, err := nodes.Fence(ctx, "a", 2)
		require.NoError(t, err)
		require.Equal(t, dead, twice, "dying twice changes nothing")

		other, err := nodes.Register(ctx, node("a", "another"))
		require.NoError(t, err, "the id of a dead node is free")
		require.Equal(t, uint64(3), other.Incarnation, "an id's incarnations go on")
		require.NotEqual(t, a.Tag, other.Tag, "and its tag does not")

		_, err = nodes.Register(ctx, node("b", "ib"))
		require.NoError(t, err)
		list, err := nodes.List(ctx)
		require.NoError(t, err)
		require.Len(t, list, 2)
		for _, bad := range []cluster.NodeRecord{{}, {ID: "x"}, {Identity: "x"}, {ID: yr.Node(strings.Repeat("x", cluster.MaxName+1)), Identity: "x"}} {
			_, err = nodes.Register(ctx, bad)
			require.Equal(t, yr.ParamInvalid, yr.CodeOf(err))
		}
	})
}

func TestNodesRestraintOutlivesRestartsAndDeath(t *testing.T) {
	onEvery(t, func(t *testing.T, kv cluster.KV) {
		ctx := t.Context()
		first := openCluster(t, kv, "m1")
		a, err := first.Nodes().Register(ctx, node("a", "ia"))
		require.NoError(t, err)
		drained := cluster.Restraint{Cordoned: true, Drain: time.Minute}
		_, err = first.Nodes().Restrain(ctx, "a", a.Incarnation, drained)
		require.NoError(t, err)

		nodes := openCluster(t, kv, "m2").Nodes() // another master leads now
		_, err = nodes.Fence(ctx, "a", a.Incarnation)
		require.NoError(t, err)
		_, err = nodes.Restrain(ctx, "a", a.Incarnation, cluster.Restraint{})
		require.ErrorIs(t, err, cluster.ErrFenced)
		a, err = nodes.Register(ctx, node("a", "ia"))
		require.NoError(t, err)
		require.Equal(t, drained, a.Restraint)

		a, err = nodes.SetCordoned(ctx, "a", false)
		require.NoError(t, err)
		require.Zero(t, a.Restraint)
		a, err = nodes.SetCordoned(ctx, "a", true)
		require.NoError(t, err)
		require.True(t, a.Restraint.Cordoned)

		left, err := nodes.Leave(ctx, "a", a.Incarnation)
		require.NoError(t, err)
		require.Equal(t, cluster.NodeLeft, left.State)
		require.Zero(t, left.Restraint, "who leaves is free")
		_, err = nodes.Fence(ctx, "a", a.Incarnation)
		require.ErrorIs(t, err, cluster.ErrFenced, "who has left does not die")
		_, err = nodes.SetCordoned(ctx, "nobody", true)
		require.Equal(t, yr.ParamInvalid, yr.CodeOf(err))
	})
}

func TestNodesAreUpdatedAndForgotten(t *testing.T) {
	onEvery(t, func(t *testing.T, kv cluster.KV) {
		ctx := t.Context()
		nodes := openCluster(t, kv, "m").Nodes()
		a, err := nodes.Register(ctx, node("a", "ia"))
		require.NoError(t, err)
		updated, err := nodes.Update(ctx, "a", 1, func(r *cluster.NodeRecord) {
			r.Address, r.Identity, r.Incarnation, r.Tag = "elsewhere:1", "forged", 99, cluster.NodeTag{}
		})
		require.NoError(t, err)
		require.Equal(t, "elsewhere:1", updated.Address)
		require.Equal(t, []any{a.Identity, a.Incarnation, a.Tag}, []any{updated.Identity, updated.Incarnation, updated.Tag})

		require.ErrorIs(t, nodes.Forget(ctx, "a", 1), cluster.ErrFenced, "it lives")
		_, err = nodes.Leave(ctx, "a", 1)
		require.NoError(t, err)
		_, err = nodes.Update(ctx, "a", 1, func(*cluster.NodeRecord) {})
		require.ErrorIs(t, err, cluster.ErrFenced)
		require.NoError(t, nodes.Forget(ctx, "a", 1))
		require.NoError(t, nodes.Forget(ctx, "a", 1))
		_, ok, err := nodes.Get(ctx, "a")
		require.NoError(t, err)
		require.False(t, ok)

		owner, err := nodes.TagOwner(ctx, yr.Tag(a.Tag))
		require.NoError(t, err)
		require.Equal(t, "ia", owner, "a tag is never given out again")
		back, err := nodes.Register(ctx, node("a", "ia"))
		require.NoError(t, err)
		require.Equal(t, a.Tag, back.Tag)
		require.Equal(t, uint64(2), back.Incarnation, "nor is an incarnation")
	})
}

// Nobody gets a tag that somebody has had, however unlucky chance is.
func TestTagsAreUnique(t *testing.T) {
	kv := inprocess.New()
	c := cluster.New(cluster.Options{Node: "m", KV: kv, Random: &unlucky{}})
	require.NoError(t, c.Open(t.Context()))
	seen := map[cluster.NodeTag]bool{}
	for i := range 50 {
		id := string(rune('A' + i))
		r, err := c.Nodes().Register(t.Context(), node(id, "i"+id))
		require.NoError(t, err)
		require.False(t, seen[r.Tag], "%s", r.Tag)
		_, err = yr.ParseTag(r.Tag.String())
		require.NoError(t, err)
		seen[r.Tag] = true
	}

	wished := node("w", "iw")
	wished.Tag = cluster.NodeTag{'w', 'x', 'w'}
	r, err := c.Nodes().Register(t.Context(), wished)
	require.NoError(t, err)
	require.Equal(t, wished.Tag, r.Tag, "the tag of an old data directory is given back to it")
	wished.ID, wished.Identity = "v", "iv"
	r, err = c.Nodes().Register(t.Context(), wished)
	require.NoError(t, err)
	require.NotEqual(t, wished.Tag, r.Tag, "unless it is another's by now")

	c = cluster.New(cluster.Options{Node: "m", KV: kv, Random: same{}})
	require.NoError(t, c.Open(t.Context()))
	_, err = c.Nodes().Register(t.Context(), node("x", "ix"))
	require.NoError(t, err)
	_, err = c.Nodes().Register(t.Context(), node("y", "iy"))
	require.Equal(t, yr.ResourceNotEnough, yr.CodeOf(err), "when there is none left, that is said")
}

// unlucky draws every tag eight times.
type unlucky struct{ drawn uint16 }

func (u *unlucky) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(u.drawn / 24 & 0xff)
		u.drawn++
	}
	return len(b), nil
}

type same struct{}

func (same) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 61
	}
	return len(b), nil
}

func TestNodesRegisterAtTheSameTime(t *testing.T) {
	onEvery(t, func(t *testing.T, kv cluster.KV) {
		nodes := openCluster(t, kv, "m").Nodes()
		var all sync.WaitGroup
		var mu sync.Mutex
		incarnations, tags := map[uint64]bool{}, map[cluster.NodeTag]bool{}
		for range 4 {
			all.Go(func() {
				for range 5 {
					r, err := nodes.Register(t.Context(), node("a", "ia"))
					mu.Lock()
					if err != nil {
						t.Errorf("%v", err)
					} else if incarnations[r.Incarnation] {
						t.Errorf("incarnation %d was given out twice", r.Incarnation)
					}
					incarnations[r.Incarnation], tags[r.Tag] = true, true
					mu.Unlock()
				}
			})
		}
		all.Wait()
		require.Len(t, incarnations, 20)
		require.Len(t, tags, 1)
	})
}

func TestFacts(t *testing.T) {
	onEvery(t, func(t *testing.T, kv cluster.KV) {
		ctx := t.Context()
		c := openCluster(t, kv, "m")
		id, err := c.Facts().ID(ctx)
		require.NoError(t, err)
		require.Empty(t, id)
		id, err = c.Facts().EnsureID(ctx)
		require.NoError(t, err)
		require.Len(t, id, 16)
		again, err := openCluster(t, kv, "other").Facts().EnsureID(ctx)
		require.NoError(t, err)
		require.Equal(t, id, again)
		_, err = c.Facts().EnsureID(ctx)
		require.NoError(t, err, "reading needs no leader")

		c = openCluster(t, kv, "m")
		for _, m := range []cluster.Master{{Node: "n2", Name: "etcd1", Address: "b:1"}, {Node: "n1", Name: "etcd0", Address: "a:1"}, {Node: "n2", Name: "etcd1", Address: "c:1", Peer: "c:2"}} {
			require.NoError(t, c.Facts().PutMaster(ctx, m))
		}
		require.NoError(t, c.Facts().DropMaster(ctx, "nobody"))
		masters, err := c.Facts().Masters(ctx)
		require.NoError(t, err)
		require.Equal(t, []cluster.Master{{Node: "n1", Name: "etcd0", Address: "a:1"}, {Node: "n2", Name: "etcd1", Address: "c:1", Peer: "c:2"}}, masters)
		require.NoError(t, c.Facts().DropMaster(ctx, "n1"))
		masters, err = c.Facts().Masters(ctx)
		require.NoError(t, err)
		require.Len(t, masters, 1)
		require.Equal(t, yr.ParamInvalid, yr.CodeOf(c.Facts().PutMaster(ctx, cluster.Master{})))
	})
}

func TestAStaleLeaderCannotTouchNodesOrFacts(t *testing.T) {
	onEvery(t, func(t *testing.T, kv cluster.KV) {
		ctx := t.Context()
		old := openCluster(t, kv, "old")
		a, err := old.Nodes().Register(ctx, node("a", "ia"))
		require.NoError(t, err)
		openCluster(t, kv, "new")
		for name, write := range map[string]func() error{
			"register": func() error { _, err := old.Nodes().Register(ctx, node("b", "ib")); return err },
			"return":   func() error { _, err := old.Nodes().Register(ctx, node("a", "ia")); return err },
			"fence":    func() error { _, err := old.Nodes().Fence(ctx, "a", a.Incarnation); return err },
			"leave":    func() error { _, err := old.Nodes().Leave(ctx, "a", a.Incarnation); return err },
			"cordon":   func() error { _, err := old.Nodes().SetCordoned(ctx, "a", true); return err },
			"restrain": func() error {
				_, err := old.Nodes().Restrain(ctx, "a", 1, cluster.Restraint{Evicted: true})
				return err
			},
			"id":      func() error { _, err := old.Facts().EnsureID(ctx); return err },
			"masters": func() error { return old.Facts().PutMaster(ctx, cluster.Master{Node: "n", Address: "a"}) },
		} {
			require.ErrorIs(t, write(), cluster.ErrStale, name)
		}
		got, _, err := old.Nodes().Get(ctx, "a")
		require.NoError(t, err)
		require.Equal(t, a, got)
	})
}

func TestWatch(t *testing.T) {
	onEvery(t, func(t *testing.T, kv cluster.KV) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		write := func(writes ...cluster.Write) int64 {
			outcome, err := kv.Commit(ctx, nil, writes)
			require.NoError(t, err)
			return outcome.Revision
		}
		began := write(cluster.Write{Key: "/w/before", Value: []byte("0")})
		now := kv.Watch(ctx, "/w/", 0)
		require.Equal(t, cluster.Batch{Revision: began}, <-now, "the first batch says that the watch stands")

		first := write(cluster.Write{Key: "/w/a", Value: []byte("1")}, cluster.Write{Key: "/elsewhere", Value: []byte("x")}, cluster.Write{Key: "/w/b", Value: []byte("2")})
		second := write(cluster.Write{Key: "/w/a", Delete: true}, cluster.Write{Key: "/w/absent", Delete: true})
		want := []cluster.Event{
			{Key: "/w/a", Value: []byte("1"), Revision: first}, {Key: "/w/b", Value: []byte("2"), Revision: first}, {Key: "/w/a", Revision: second, Deleted: true},
		}
		require.Equal(t, want, collect(t, now, len(want)))

		past := kv.Watch(ctx, "/w/", began)
		require.Equal(t, cluster.Batch{Revision: began}, <-past)
		require.Equal(t, want, collect(t, past, len(want)), "from the past, nothing is missing")

		cancel()
		for range now {
		}
		for range past {
		}
	})
}

func collect(t *testing.T, in <-chan cluster.Batch, n int) (events []cluster.Event) {
	t.Helper()
	for len(events) < n {
		b, ok := <-in
		require.True(t, ok)
		require.NoError(t, b.Err)
		for _, e := range b.Events {
			if len(e.Value) == 0 {
				e.Value = nil
			}
			events = append(events, e)
		}
		require.Equal(t, events[len(events)-1].Revision, b.Revision)
	}
	return events
}

func TestASlowWatchIsGivenUp(t *testing.T) {
	onEvery(t, func(t *testing.T, kv cluster.KV) {
		w := kv.Watch(t.Context(), "/w/", 0)
		<-w
		writes := make([]cluster.Write, 100)
		for i := range writes {
			writes[i] = cluster.Write{Key: "/w/" + string(rune('A'+i)), Value: []byte("v")}
		}
		for range cluster.WatchBacklog/len(writes) + 2 {
			_, err := kv.Commit(t.Context(), nil, writes)
			require.NoError(t, err)
		}
		var last cluster.Batch
		seen := 0
		for b := range w {
			last = b
			if seen += len(b.Events); seen == 2*len(writes) { // in time, so far; now too slow
				for range cluster.WatchBacklog/len(writes) + 2 {
					_, err := kv.Commit(t.Context(), nil, writes)
					require.NoError(t, err)
				}
			}
		}
		require.ErrorIs(t, last.Err, cluster.ErrLagged)
	})
}

func TestAWatchOfWhatIsGone(t *testing.T) {
	kv := inprocess.New()
	for range 1100 {
		_, err := kv.Commit(t.Context(), nil, []cluster.Write{{Key: "k", Value: []byte("v")}})
		require.NoError(t, err)
	}
	require.ErrorIs(t, last(kv.Watch(t.Context(), "k", 3)), cluster.ErrCompacted)

	m := openMember(t, t.TempDir())
	for range 20 {
		_, err := m.Commit(t.Context(), nil, []cluster.Write{{Key: "k", Value: []byte("v")}})
		require.NoError(t, err)
	}
	require.NoError(t, cluster.Compact(m, 10))
	require.ErrorIs(t, last(m.Watch(t.Context(), "k", 3)), cluster.ErrCompacted)
}

// last is why a watch ends.
func last(w <-chan cluster.Batch) (err error) {
	for b := range w {
		err = b.Err
	}
	return err
}

func TestAWatchEndsWithItsStore(t *testing.T) {
	m := cluster.NewMember(cluster.MemberOptions{Dir: t.TempDir()})
	require.NoError(t, m.Open(t.Context()))
	w := m.Watch(t.Context(), "/", 0)
	<-w
	require.NoError(t, m.Close(t.Context()))
	b := <-w
	require.Equal(t, yr.Communication, yr.CodeOf(b.Err), "%v", b.Err)
	_, open := <-w
	require.False(t, open)
}

func FuzzNodeRecord(f *testing.F) {
	f.Add([]byte(`{"v":1,"id":"a","tag":"abc","incarnation":3,"capacity":{"CPU":1000},"labels":{"a":["b"]},"state":"alive"}`))
	f.Add([]byte(`{"v":1,"tag":"a b"}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		var r, back cluster.NodeRecord
		if json.Unmarshal(value, &r) != nil {
			return
		}
		raw, err := json.Marshal(r)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(raw, &back))
		require.Equal(t, r.Tag, back.Tag)
	})
}
