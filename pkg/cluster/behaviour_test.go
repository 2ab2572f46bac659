package cluster_test

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/pkg/cluster"
	"yr/pkg/cluster/inprocess"
	"yr/pkg/yr"
)

// onEvery runs a behaviour test against every store that there is.
func onEvery(t *testing.T, test func(t *testing.T, kv cluster.KV)) {
	t.Parallel()
	for name, open := range map[string]func(t *testing.T) cluster.KV{
		"etcd":          func(t *testing.T) cluster.KV { return openMember(t, t.TempDir()) },
		"external etcd": func(t *testing.T) cluster.KV { return openExternal(t) },
		"inprocess":     func(*testing.T) cluster.KV { return inprocess.New() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

func openMember(t *testing.T, dir string) *cluster.Member {
	t.Helper()
	m := cluster.NewMember(cluster.MemberOptions{Dir: filepath.Join(dir, "etcd")})
	require.NoError(t, m.Open(t.Context()))
	t.Cleanup(func() { require.NoError(t, m.Close(context.Background())) })
	return m
}

func openCluster(t *testing.T, kv cluster.KV, node yr.Node) *cluster.Cluster {
	t.Helper()
	c := cluster.New(cluster.Options{Node: node, KV: kv})
	require.NoError(t, c.Open(t.Context()))
	t.Cleanup(func() { require.NoError(t, c.Close(context.Background())) })
	return c
}

func TestNames(t *testing.T) {
	onEvery(t, func(t *testing.T, kv cluster.KV) {
		ctx := t.Context()
		names := openCluster(t, kv, "n1").Names()

		existing, claimed, err := names.Claim(ctx, "acme", "ns", "counter", []byte("first"))
		require.NoError(t, err)
		require.True(t, claimed, "a free name is bound")
		require.Nil(t, existing)

		existing, claimed, err = names.Claim(ctx, "acme", "ns", "counter", []byte("second"))
		require.NoError(t, err)
		require.False(t, claimed, "a bound name is not bound again")
		require.Equal(t, "first", string(existing), "the loser learns who won")

		for _, other := range []struct{ tenant, namespace, name string }{
			{"", "ns", "counter"}, {"acme", "", "counter"}, {"acme", "ns", "Counter"}, {"acme", "ns/counter", "x"}, {"acme", "ns", "counter/x"},
		} {
			_, ok, err := names.Find(ctx, yr.Tenant(other.tenant), other.namespace, other.name)
			require.NoError(t, err)
			require.False(t, ok, "%v is another name", other)
		}

		require.NoError(t, names.Drop(ctx, "acme", "ns", "counter", []byte("second")))
		record, ok, err := names.Find(ctx, "acme", "ns", "counter")
		require.NoError(t, err)
		require.True(t, ok, "only the owner of the record drops the name")
		require.Equal(t, "first", string(record))

		require.NoError(t, names.Drop(ctx, "acme", "ns", "counter", []byte("first")))
		_, ok, err = names.Find(ctx, "acme", "ns", "counter")
		require.NoError(t, err)
		require.False(t, ok)
		require.NoError(t, names.Drop(ctx, "acme", "ns", "counter", []byte("first")), "dropping a free name is no error")
	})
}

func TestNamesOfTheDefaultTenant(t *testing.T) {
	onEvery(t, func(t *testing.T, kv cluster.KV) {
		names := openCluster(t, kv, "n1").Names()
		_, claimed, err := names.Claim(t.Context(), "", "", "n", nil)
		require.NoError(t, err)
		require.True(t, claimed)
		record, ok, err := names.Find(t.Context(), yr.DefaultTenant, "", "n")
		require.NoError(t, err)
		require.True(t, ok, "the empty tenant is the default tenant")
		require.Empty(t, record)
	})
}

func TestNamesListInPages(t *testing.T) {
	onEvery(t, func(t *testing.T, kv cluster.KV) {
		ctx := t.Context()
		names := openCluster(t, kv, "n1").Names()
		want := map[string]string{}
		for i := range 25 {
			b := cluster.Binding{Namespace: fmt.Sprint("n/", i%3), Name: fmt.Sprint("ä ", i), Record: []byte{byte(i)}}
			_, _, err := names.Claim(ctx, "acme", b.Namespace, b.Name, b.Record)
			require.NoError(t, err)
			want[b.Namespace+"|"+b.Name] = string(b.Record)
		}
		_, _, err := names.Claim(ctx, "acme2", "n", "x", nil)
		require.NoError(t, err)

		got := map[string]string{}
		var after *cluster.Binding
		for more := true; more; {
			var page []cluster.Binding
			page, more, err = names.List(ctx, "acme", after, 10)
			require.NoError(t, err)
			require.LessOrEqual(t, len(page), 10)
			for _, b := range page {
				got[b.Namespace+"|"+b.Name] = string(b.Record)
				after = &b
			}
		}
		require.Equal(t, want, got)
	})
}

func TestLimits(t *testing.T) {
	onEvery(t, func(t *testing.T, kv cluster.KV) {
		ctx := t.Context()
		c := openCluster(t, kv, "n1")
		long := strings.Repeat("n", cluster.MaxName)
		_, claimed, err := c.Names().Claim(ctx, "t", long, long, bytes.Repeat([]byte{1}, cluster.MaxRecord))
		require.NoError(t, err)
		require.True(t, claimed, "everything at its limit is accepted")

		for name, claim := range map[string]func() error{
			"empty name":     func() error { _, _, err := c.Names().Claim(ctx, "t", "ns", "", nil); return err },
			"long name":      func() error { _, _, err := c.Names().Claim(ctx, "t", "ns", long+"n", nil); return err },
			"long namespace": func() error { _, _, err := c.Names().Claim(ctx, "t", long+"n", "n", nil); return err },
			"large record": func() error {
				_, _, err := c.Names().Claim(ctx, "t", "ns", "n", make([]byte, cluster.MaxRecord+1))
				return err
			},
			"large setting": func() error { return c.Config().Set(ctx, "s", strings.Repeat("x", cluster.MaxRecord)) },
			"no setting":    func() error { return c.Config().Set(ctx, "", 1) },
			"odd setting":   func() error { return c.Config().Set(ctx, "s", make(chan int)) },
		} {
			require.Equal(t, yr.ParamInvalid, yr.CodeOf(claim()), name)
		}
	})
}

func TestAStaleLeaderCannotWrite(t *testing.T) {
	onEvery(t, func(t *testing.T, kv cluster.KV) {
		ctx := t.Context()
		old := openCluster(t, kv, "old")
		_, _, err := old.Names().Claim(ctx, "t", "", "n", []byte("old"))
		require.NoError(t, err)

		successor := openCluster(t, kv, "new")
		require.Equal(t, old.Leader().Epoch()+1, successor.Leader().Epoch())
		node, epoch, err := successor.Leader().Current(ctx)
		require.NoError(t, err)
		require.Equal(t, yr.Node("new"), node)
		require.Equal(t, successor.Leader().Epoch(), epoch)

		_, _, err = old.Names().Claim(ctx, "t", "", "m", []byte("old"))
		require.ErrorIs(t, err, cluster.ErrStale)
		require.ErrorIs(t, old.Names().Drop(ctx, "t", "", "n", []byte("old")), cluster.ErrStale)
		require.ErrorIs(t, old.Config().Set(ctx, "s", 1), cluster.ErrStale)
		require.ErrorIs(t, old.Config().Unset(ctx, "s"), cluster.ErrStale)

		record, ok, err := old.Names().Find(ctx, "t", "", "n")
		require.NoError(t, err)
		require.True(t, ok, "reading stays possible")
		require.Equal(t, "old", string(record))
		_, ok, err = successor.Names().Find(ctx, "t", "", "m")
		require.NoError(t, err)
		require.False(t, ok, "nothing of the stale leader's writes arrived")
	})
}

func TestManyTakeOversCount(t *testing.T) {
	onEvery(t, func(t *testing.T, kv cluster.KV) {
		c := openCluster(t, kv, "n1")
		var group sync.WaitGroup
		seen := make(chan uint64, 40)
		for range 4 {
			group.Go(func() {
				for range 10 {
					if epoch, err := c.Leader().TakeOver(t.Context()); err == nil {
						seen <- epoch
					}
				}
			})
		}
		group.Wait()
		close(seen)
		unique := map[uint64]bool{}
		for epoch := range seen {
			require.False(t, unique[epoch], "epoch %d was given out twice", epoch)
			unique[epoch] = true
		}
		require.Len(t, unique, 40)
	})
}

func TestConfig(t *testing.T) {
	onEvery(t, func(t *testing.T, kv cluster.KV) {
		ctx := t.Context()
		config := openCluster(t, kv, "n1").Config()
		var n int
		ok, err := config.Get(ctx, "store/slots", &n)
		require.NoError(t, err)
		require.False(t, ok)
		require.NoError(t, config.Set(ctx, "store/slots", 4096))
		ok, err = config.Get(ctx, "store/slots", &n)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, 4096, n)
		require.NoError(t, config.Set(ctx, "other", map[string]bool{"x": true}))
		all, err := config.All(ctx)
		require.NoError(t, err)
		require.Len(t, all, 2)
		require.JSONEq(t, "4096", string(all["store/slots"]))
		require.NoError(t, config.Unset(ctx, "other"))
		require.NoError(t, config.Unset(ctx, "other"))
		all, err = config.All(ctx)
		require.NoError(t, err)
		require.Len(t, all, 1)
	})
}

func TestARenewedLeaseOutlivesItsTime(t *testing.T) {
	onEvery(t, func(t *testing.T, kv cluster.KV) {
		ctx := t.Context()
		kept, err := kv.Grant(ctx, time.Second)
		require.NoError(t, err)
		left, err := kv.Grant(ctx, time.Second)
		require.NoError(t, err)
		for key, lease := range map[string]cluster.LeaseID{"/kept": kept, "/left": left} {
			_, err := kv.Commit(ctx, nil, []cluster.Write{{Key: key, Lease: lease}})
			require.NoError(t, err)
		}
		require.Eventually(t, func() bool {
			require.NoError(t, kv.Renew(ctx, kept))
			_, ok, err := kv.Get(ctx, "/left")
			require.NoError(t, err)
			return !ok
		}, 20*time.Second, 50*time.Millisecond, "a lease that nobody renews ends")
		_, ok, err := kv.Get(ctx, "/kept")
		require.NoError(t, err)
		require.True(t, ok)
		require.ErrorIs(t, kv.Renew(ctx, left), cluster.ErrLeaseGone)
		_, err = kv.Commit(ctx, nil, []cluster.Write{{Key: "/x", Lease: left}})
		require.ErrorIs(t, err, cluster.ErrLeaseGone)
		require.NoError(t, kv.Revoke(ctx, left), "ending what is over is no error")
	})
}

func TestTablePrefixesAreApart(t *testing.T) {
	onEvery(t, func(t *testing.T, kv cluster.KV) {
		ctx := t.Context()
		a := cluster.New(cluster.Options{Node: "n", TablePrefix: "/a", KV: kv})
		b := cluster.New(cluster.Options{Node: "n", TablePrefix: "/b", KV: kv})
		for _, c := range []*cluster.Cluster{a, b} {
			require.NoError(t, c.Open(ctx))
			defer func() { require.NoError(t, c.Close(context.Background())) }()
		}
		_, claimed, err := a.Names().Claim(ctx, "", "", "x", nil)
		require.NoError(t, err)
		require.True(t, claimed)
		_, claimed, err = b.Names().Claim(ctx, "", "", "x", nil)
		require.NoError(t, err)
		require.True(t, claimed)
	})
}

func TestANewerFormatIsRefused(t *testing.T) {
	onEvery(t, func(t *testing.T, kv cluster.KV) {
		ctx := t.Context()
		names := openCluster(t, kv, "n1").Names()
		for name, value := range map[string]string{"newer": "\x02record", "empty": ""} {
			_, err := kv.Commit(ctx, nil, []cluster.Write{{Key: "/yr/t/names//" + name, Value: []byte(value)}})
			require.NoError(t, err)
		}
		_, _, err := names.Find(ctx, "t", "", "newer")
		require.Equal(t, yr.VersionMismatch, yr.CodeOf(err))
		_, _, err = names.Claim(ctx, "t", "", "newer", nil)
		require.Equal(t, yr.VersionMismatch, yr.CodeOf(err))
		_, _, err = names.Find(ctx, "t", "", "empty")
		require.Error(t, err)

		config := openCluster(t, kv, "n1").Config()
		_, err = kv.Commit(ctx, nil, []cluster.Write{{Key: "/yr/!/config/s", Value: []byte(`{"v":2}`)}, {Key: "/yr/!/config/t", Value: []byte(`x`)}})
		require.NoError(t, err)
		_, err = config.Get(ctx, "s", nil)
		require.Equal(t, yr.VersionMismatch, yr.CodeOf(err))
		_, err = config.Get(ctx, "t", nil)
		require.Error(t, err)
	})
}
