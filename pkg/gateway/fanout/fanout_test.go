package fanout

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"yr/pkg/gateway/ask"
	"yr/pkg/yr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// crowd is many nodes behind one address, which counts how many are asked at a time.
func crowd(tb testing.TB, n int, answer http.HandlerFunc) (f *Fan, nodes []yr.NodeView, most *atomic.Int64) {
	tb.Helper()
	var now atomic.Int64
	most = &atomic.Int64{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		at := now.Add(1)
		defer now.Add(-1)
		for before := most.Load(); at > before && !most.CompareAndSwap(before, at); before = most.Load() {
		}
		answer(w, r)
	}))
	tb.Cleanup(server.Close)
	for i := range n {
		nodes = append(nodes, yr.NodeView{ID: yr.Node(fmt.Sprintf("n%04d", i)), Address: fmt.Sprintf("n%04d:1", i), State: "ready"})
	}
	f = New(Options{
		Self: "n0000", Nodes: func(context.Context) ([]yr.NodeView, error) { return nodes, nil },
		Dial: func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", server.Listener.Addr().String())
		},
	})
	tb.Cleanup(f.Close)
	return f, nodes, most
}

func number(ctx context.Context, at *ask.Asker) (n int, err error) {
	return n, at.Get(ctx, "/", nil, &n)
}

func TestAThousandNodesAreAskedInABoundedWay(t *testing.T) {
	f, _, most := crowd(t, 1000, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("7")) })
	others, missed := f.Others(t.Context())
	require.Empty(t, missed)
	require.Len(t, others, 999, "not itself")
	sum := 0
	missed = Each(t.Context(), f, others, number, func(_ yr.NodeView, n int) { sum += n })
	require.Empty(t, missed)
	require.Equal(t, 999*7, sum)
	require.LessOrEqual(t, most.Load(), int64(Parallel))
}

func TestWhoIsNotAskedInTimeIsMissed(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	f, _, _ := crowd(t, 200, func(w http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	others, _ := f.Others(ctx)
	at := time.Now()
	missed := Each(ctx, f, others, number, func(yr.NodeView, int) { t.Error("nobody answers") })
	require.Len(t, missed, 199, "every one of them, by name")
	require.Equal(t, yr.Node("n0001"), missed[0].Node)
	require.Less(t, time.Since(at), NodeTimeout)
}

func TestNodesAreFound(t *testing.T) {
	list := []yr.NodeView{{ID: "a", Tag: "aaa"}, {ID: "b", Tag: "bbb", State: "lost"}, {ID: "old"}}
	var broken error
	f := New(Options{Self: "a", Nodes: func(context.Context) ([]yr.NodeView, error) { return list, broken }})
	home, ok := f.Home(t.Context(), "bbbxxxxxx00000000001")
	require.True(t, ok)
	require.Equal(t, yr.Node("b"), home.ID)
	for _, id := range []string{"", "bbb", "cccxxxxxx00000000001", "a name of 20 letters"} {
		_, ok = f.Home(t.Context(), id)
		require.False(t, ok, id)
	}
	others, missed := f.Others(t.Context())
	require.Empty(t, missed)
	require.Equal(t, []yr.NodeView{{ID: "old"}}, others, "neither itself nor who is lost")
	broken, list = errors.New("no leader"), nil
	others, missed = f.Others(t.Context())
	require.Len(t, others, 1, "those that were known last")
	require.Contains(t, missed[0].Reason, "no leader")

	alone := New(Options{})
	require.True(t, alone.Alone())
	others, missed = alone.Others(t.Context())
	require.Empty(t, others)
	require.Empty(t, missed)
}

// What a view of the cluster costs the node that is asked, per other node.
func BenchmarkEach(b *testing.B) {
	f, _, _ := crowd(b, 64, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("7")) })
	others, _ := f.Others(b.Context())
	b.ReportAllocs()
	for b.Loop() {
		Each(b.Context(), f, others, number, func(yr.NodeView, int) {})
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(others)), "µs/node")
}
