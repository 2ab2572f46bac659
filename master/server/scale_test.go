package server_test

// What a cluster's reports cost: simulated nodes with real clients over loopback TCP,
// the leader in a process of its own, so that its CPU is its own.

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"yr/master"
	"yr/master/client"
	"yr/master/server"
	"yr/pkg/cluster"
	"yr/pkg/cluster/inprocess"
	"yr/pkg/yr"
)

const leaderEnv = "YR_TEST_LEADER"

// only leads alone and for ever.
type only struct{ address string }

func (o only) Leading() (uint64, bool)  { return 1, true }
func (o only) Leader() (string, bool)   { return o.address, true }
func (o only) Changes() <-chan struct{} { return nil }

// leaderMain is the leader's process: it prints its address, and ends with its
// standard input.
func leaderMain() error {
	ctx := context.Background()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := l.Addr().String()
	c := cluster.New(cluster.Options{Node: "leader", KV: inprocess.New(), Standby: true})
	if err := c.Open(ctx); err != nil {
		return err
	}
	s := server.New(server.Options{
		Node: "leader", Address: address, Version: "0.5.0", Leadership: only{address},
		Leader: c.Leader(), Nodes: c.Nodes(), Names: c.Names(), Masters: func() []string { return []string{address} },
	})
	g := grpc.NewServer()
	s.Attach(g)
	if err := s.Open(ctx); err != nil {
		return err
	}
	go func() { _ = g.Serve(l) }()
	fmt.Println(address)
	_, _ = io.Copy(io.Discard, os.Stdin)
	g.Stop()
	return s.Close(ctx)
}

// leaderProcess starts the leader and returns where it listens and how much CPU it
// has used so far.
func leaderProcess(t testing.TB) (address string, cpu func() time.Duration) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), leaderEnv+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, in.Close())
		require.NoError(t, cmd.Wait())
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	return strings.TrimSpace(line), func() time.Duration {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		require.NoError(t, err)
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+2:]))
		user, _ := strconv.Atoi(fields[11])
		system, _ := strconv.Atoi(fields[12])
		return time.Duration(user+system) * 10 * time.Millisecond // clock ticks of 1/100 s
	}
}

// cost is what the reports of a cluster cost for a second.
type cost struct {
	sent, received float64 // bytes for one node, as TCP's payload
	cpu            float64 // cores of the leader
	reports        float64 // of all nodes
}

// measure lets so many nodes report for a while.
func measure(t testing.TB, nodes int, window time.Duration) cost {
	t.Helper()
	address, cpu := leaderProcess(t)
	var sent, received, reports atomic.Int64
	clients := make([]*client.Client, nodes)
	var wg sync.WaitGroup
	limit := make(chan struct{}, 32)
	for i := range clients {
		id := yr.Node(fmt.Sprintf("node-%04d", i))
		clients[i] = client.New(client.Options{
			Masters: []string{address},
			Dial: func(ctx context.Context, address string) (net.Conn, error) {
				var d net.Dialer
				c, err := d.DialContext(ctx, "tcp", address)
				return &counted{c, &sent, &received}, err
			},
			Machine: master.Machine{
				ID: id, Identity: "identity-of-" + string(id), Address: fmt.Sprintf("10.0.%d.%d:22773", i/256, i%256), Version: "0.5.0",
				Capacity: cpus(16), Labels: map[string][]string{"NODE_ID": {string(id)}, "HOST_IP": {"10.0.0.1"}},
			},
			Load: func() master.Load {
				reports.Add(1)
				return master.Load{Available: cpus(4 + float64(i%12)), Workers: 7, Store: yr.StoreView{Capacity: 1 << 34, Objects: 1000}}
			},
		})
		limit <- struct{}{}
		wg.Go(func() {
			defer func() { <-limit }()
			require.NoError(t, clients[i].Open(t.Context()))
		})
	}
	wg.Wait()
	time.Sleep(time.Second) // the last to join have made their first regular report
	began, used := time.Now(), cpu()
	sent.Store(0)
	received.Store(0)
	reports.Store(0)
	time.Sleep(window)
	took, n := time.Since(began).Seconds(), float64(nodes)
	c := cost{
		sent: float64(sent.Load()) / took / n, received: float64(received.Load()) / took / n,
		cpu: (cpu() - used).Seconds() / took, reports: float64(reports.Load()) / took,
	}
	for _, c := range clients {
		require.Eventually(t, func() bool { return c.Joined() && c.Others() == nodes-1 }, 10*time.Second, 10*time.Millisecond)
		wg.Go(func() { require.NoError(t, c.Close(context.Background())) })
	}
	wg.Wait()
	return c
}

// counted counts a connection's bytes.
type counted struct {
	net.Conn
	sent, received *atomic.Int64
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.sent.Add(int64(n))
	return n, err
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.received.Add(int64(n))
	return n, err
}

func TestHundredNodes(t *testing.T) {
	c := measure(t, 100, 1500*time.Millisecond)
	t.Logf("100 nodes: a node sends %.0f and receives %.0f bytes/s, the leader uses %.3f cores", c.sent, c.received, c.cpu)
	require.Less(t, c.cpu, 0.5)
	require.Less(t, c.sent, 1000.0)
	require.Less(t, c.received, 10_000.0)
}

// BenchmarkLeader says what nodes' reports cost:
//
//	go test -run '^$' -bench Leader -benchtime 1x ./master/server
func BenchmarkLeader(b *testing.B) {
	for _, nodes := range []int{10, 40, 100, 1000} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			for b.Loop() {
				c := measure(b, nodes, 5*time.Second)
				b.ReportMetric(c.sent, "B-sent/node/s")
				b.ReportMetric(c.received, "B-received/node/s")
				b.ReportMetric(c.cpu, "leader-cores")
				b.ReportMetric(c.reports, "reports/s")
			}
		})
	}
}
