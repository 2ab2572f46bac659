package server_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"yr/master"
	"yr/master/client"
	"yr/master/masterpb"
	"yr/master/server"
	"yr/pkg/cluster"
	"yr/pkg/cluster/inprocess"
	"yr/pkg/yr"
)

// BenchmarkFailover says how long a thousand nodes, over loopback TCP and all in this
// process, take to report to a new leader, from its election on:
//
//	go test -run '^$' -bench Failover -benchtime 1x ./master/server
func BenchmarkFailover(b *testing.B) {
	for b.Loop() {
		failover(b, 1000)
	}
}

func failover(b *testing.B, nodes int) {
	ctx := b.Context()
	kv := inprocess.New()
	e := &election{changed: make(chan struct{}), frozen: make(map[string]view), stopped: make(map[string]chan struct{})}
	var addresses []string
	var rpcs []*grpc.Server
	for i := range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(b, err)
		address := l.Addr().String()
		addresses = append(addresses, address)
		c := cluster.New(cluster.Options{Node: yr.Node(fmt.Sprint("m", i)), KV: kv, Standby: true})
		require.NoError(b, c.Open(ctx))
		s := server.New(server.Options{
			Node: yr.Node(fmt.Sprint("m", i)), Address: address, Version: "0.5.0", Leadership: seat{e, address},
			Leader: c.Leader(), Nodes: c.Nodes(), Names: c.Names(), Masters: func() []string { return addresses },
		})
		g := grpc.NewServer()
		s.Attach(g)
		require.NoError(b, s.Open(ctx))
		go func() { _ = g.Serve(l) }()
		rpcs = append(rpcs, g)
		defer func() {
			g.Stop()
			require.NoError(b, s.Close(ctx))
		}()
	}
	e.set(addresses[0])

	var wg sync.WaitGroup
	limit := make(chan struct{}, 32)
	for i := range nodes {
		id := yr.Node(fmt.Sprintf("node-%04d", i))
		c := client.New(client.Options{
			Masters: addresses, Dial: func(ctx context.Context, address string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "tcp", address)
			},
			Machine: master.Machine{ID: id, Identity: string(id), Address: "10.0.0.1:22773", Version: "0.5.0", Capacity: cpus(16)},
			Load:    func() master.Load { return master.Load{Available: cpus(8)} },
			OnLost:  func(cause error) { b.Errorf("%s was lost: %v", id, cause) },
		})
		limit <- struct{}{}
		wg.Go(func() {
			defer func() { <-limit }()
			require.NoError(b, c.Open(ctx))
		})
		defer func() { require.NoError(b, c.Close(ctx)) }()
	}
	wg.Wait()

	rpcs[0].Stop()
	time.Sleep(time.Second) // nobody leads
	elected := time.Now()
	e.set(addresses[1])
	conn, err := grpc.NewClient(addresses[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(b, err)
	defer conn.Close()
	require.Eventually(b, func() bool { return reporting(ctx, masterpb.NewMasterClient(conn)) == nodes }, 30*time.Second, 10*time.Millisecond)
	b.ReportMetric(time.Since(elected).Seconds(), "s-to-report")
}

// reporting is how many nodes have reported to a leader.
func reporting(ctx context.Context, leader masterpb.MasterClient) (count int) {
	q := &masterpb.NodesRequest{}
	for {
		page, err := leader.Nodes(ctx, q)
		if err != nil {
			return 0
		}
		for _, n := range page.GetNodes() {
			if q.After = n.GetMachine().GetId(); n.GetReason() == "" {
				count++
			}
		}
		if !page.GetMore() {
			return count
		}
	}
}
