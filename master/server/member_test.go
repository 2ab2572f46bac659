package server_test

// Coming, going, and being kept from work.

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/master"
	"yr/master/client"
	"yr/pkg/yr"
)

func TestRefusals(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(*client.Options)
		code   yr.Code
		text   string
	}{
		{"another daemon with a live node's id", func(o *client.Options) { o.Machine.Identity = "another" }, yr.AlreadyRunning, `node "a" is already in this cluster (a:22773`},
		{"two versions ahead", func(o *client.Options) { o.Machine.Version = "0.7.0" }, yr.VersionMismatch, "the cluster runs yr 0.5.0 and this node 0.7.0"},
		{"two versions behind", func(o *client.Options) { o.Machine.Version = "0.3.9" }, yr.VersionMismatch, "install 0.5"},
		{"another major version", func(o *client.Options) { o.Machine.Version = "1.5.0" }, yr.VersionMismatch, ""},
		{"no master", func(o *client.Options) { o.Masters = []string{"x1", "x2"} }, yr.InitConnection, "x1: connection refused, x2: connection refused"},
		{"no address", func(o *client.Options) { o.Masters = nil }, yr.InitConnection, "no address of a master is configured"},
		{"wrong token", func(o *client.Options) {
			o.Dial = func(context.Context, string) (net.Conn, error) {
				return nil, yr.E("handshake", yr.Unauthorized, "the token is not this cluster's")
			}
		}, yr.Unauthorized, "token"},
		{"no name", func(o *client.Options) { o.Machine.ID = "" }, yr.ParamInvalid, "name of a node"},
	} {
		t.Run(row.name, func(t *testing.T) {
			inWorld(t, 2, func(t *testing.T, w *world) {
				w.join("a")
				n := w.node("a", row.change)
				began := time.Now()
				err := n.Open(t.Context())
				require.Equal(t, row.code, yr.CodeOf(err), "%v", err)
				require.ErrorContains(t, err, row.text)
				if row.code != yr.InitConnection {
					require.Less(t, time.Since(began), time.Second, "what waiting cannot cure fails at once")
				}
				require.NoError(t, n.Close(t.Context()))
			})
		})
	}
}

func TestOneVersionApartWorksTogether(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		for _, version := range []string{"0.4.0", "0.6.3"} {
			n := w.join(yr.Node("of "+version), func(o *client.Options) { o.Machine.Version = version })
			require.Equal(t, uint64(1), n.Incarnation())
		}
	})
}

func TestNameOfADeadNodeMayBeTakenByAnother(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		first := w.join("a")
		tag := first.Tag()
		require.NoError(t, first.Close(t.Context()))
		second := w.node("a", func(o *client.Options) { o.Machine.Identity = "another" })
		require.Equal(t, yr.AlreadyRunning, yr.CodeOf(second.Open(t.Context())))
		pass(master.Silence + time.Second)
		second = w.join("a", func(o *client.Options) { o.Machine.Identity = "another" })
		require.Equal(t, uint64(2), second.Incarnation())
		require.NotEqual(t, tag, second.Tag(), "the tag stays with the data directory")
	})
}

func TestRestartedDaemonTakesItsPlaceOver(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		watcher := w.join("watcher")
		first := w.join("a")
		require.NoError(t, first.Close(t.Context()))
		second := w.join("a")
		require.Equal(t, uint64(2), second.Incarnation())
		require.Equal(t, first.Tag(), second.Tag())
		pass(2 * time.Second)
		require.Equal(t, []string{"death of a 1"}, watcher.told())
		require.Empty(t, second.told())
		require.Empty(t, w.mourned(), "it was not lost: what it ran is its own affair")
	})
}

func TestLeave(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		a, b := w.join("a"), w.join("b")
		pass(time.Second)
		require.NoError(t, b.Leave(t.Context()))
		pass(10 * time.Second) // it is slow to end, and reports no more
		require.Empty(t, b.told())
		require.NoError(t, b.Close(t.Context()))
		require.Equal(t, []string{"death of b 1"}, a.told())
		require.Empty(t, w.mourned())
		nodes, err := a.Nodes(t.Context())
		require.NoError(t, err)
		require.Len(t, nodes, 1)
	})
}

func TestCordonDrainEvict(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w *world) {
		a, b := w.join("a"), w.join("b")
		require.NoError(t, a.SetCordoned(t.Context(), "b", true))
		pass(2 * time.Second)
		require.Empty(t, a.Sample(), "a cordoned node gets nothing new")
		require.NoError(t, a.SetCordoned(t.Context(), "b", false))
		require.Equal(t, yr.ParamInvalid, yr.CodeOf(a.SetCordoned(t.Context(), "nobody", true)))

		ended := make(chan error, 1)
		go func() { ended <- a.Drain(t.Context(), "b", 30*time.Second) }()
		pass(5 * time.Second)
		require.Equal(t, []string{"cordon true drain false end false", "cordon true drain true end false"}, b.told())
		w.election.set("m1") // whoever waits tells the new leader how long
		pass(5 * time.Second)
		require.WithinDuration(t, time.Now().Add(20*time.Second), b.Draining().Until, 2*time.Second)
		b.setLoad(master.Load{Available: cpus(4), Empty: true})
		b.Kick()
		pass(time.Second)
		require.NoError(t, <-ended)
		nodes, err := a.Nodes(t.Context())
		require.NoError(t, err)
		require.Equal(t, "drained", nodes[1].State)

		b.setLoad(master.Load{Available: cpus(3)})
		pass(time.Second)
		require.NoError(t, a.SetCordoned(t.Context(), "b", false))
		pass(time.Second)
		require.Equal(t, "cordon false drain false end false", b.told()[len(b.told())-1])

		err = a.Drain(t.Context(), "b", 3*time.Second)
		require.Equal(t, yr.DeadlineExceeded, yr.CodeOf(err), "%v", err)
		nodes, err = a.Nodes(t.Context())
		require.NoError(t, err)
		require.Equal(t, "cordoned", nodes[1].State)

		go func() { ended <- a.Evict(t.Context(), "b") }()
		pass(2 * time.Second)
		require.Contains(t, b.told(), "cordon true drain true end true")
		b.setLoad(master.Load{Available: cpus(4), Empty: true})
		require.NoError(t, <-ended)

		go func() { ended <- a.Drain(t.Context(), "b", time.Hour) }()
		b.setLoad(master.Load{Available: cpus(3)})
		pass(time.Second)
		require.NoError(t, b.Close(t.Context()))
		require.NoError(t, <-ended, "a node that died runs nothing")
	})
}

func TestKicksAreCoalesced(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		a := w.join("a")
		pass(time.Second)
		before := a.reports()
		for range 100 {
			a.Kick()
			pass(10 * time.Millisecond)
		}
		require.InDelta(t, 20, a.reports()-before, 1)
		pass(time.Second)
		before = a.reports()
		pass(10 * time.Second)
		require.Equal(t, 10, a.reports()-before, "and one a second without")
	})
}
