package durable

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"yr/pkg/yr"
)

// wire is the network between voters and clients of a test: every connection goes
// through a proxy of its pair of ends, which can be shut.
type wire struct {
	mu    sync.Mutex // protects what follows
	cond  *sync.Cond
	shut  map[[2]string]bool
	conns map[net.Conn][2]string
	over  bool
	wg    sync.WaitGroup
}

func newWire() *wire {
	w := &wire{shut: make(map[[2]string]bool), conns: make(map[net.Conn][2]string)}
	w.cond = sync.NewCond(&w.mu)
	return w
}

// set opens or shuts the way from one end to another. What is under way waits.
func (w *wire) set(from, to string, shut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shut[[2]string{from, to}] = shut
	w.cond.Broadcast()
}

// pass waits until the way is open; false: the test is over.
func (w *wire) pass(way [2]string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.shut[way] && !w.over {
		w.cond.Wait()
	}
	return !w.over
}

// dial connects two ends by loopback TCP, with the proxy between.
func (w *wire) dial(ctx context.Context, from, to, address string) (net.Conn, error) {
	stop := context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.cond.Broadcast()
	})
	defer stop()
	w.mu.Lock()
	for ctx.Err() == nil && !w.over && (w.shut[[2]string{from, to}] || w.shut[[2]string{to, from}]) {
		w.cond.Wait() // a kernel tries again, too
	}
	w.mu.Unlock()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	var d net.Dialer
	far, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	near, end, err := pair()
	if err != nil {
		return nil, errors.Join(err, far.Close())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns[far], w.conns[end] = [2]string{from, to}, [2]string{from, to}
	w.wg.Go(func() { w.copy(far, end, [2]string{from, to}) })
	w.wg.Go(func() { w.copy(end, far, [2]string{to, from}) })
	return near, nil
}

// pair is a loopback TCP connection of the test with itself.
func pair() (net.Conn, net.Conn, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = ln.Close() }()
	near, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	far, err := ln.Accept()
	return near, far, err
}

func (w *wire) copy(to, from net.Conn, way [2]string) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && w.pass(way) {
			_, e := to.Write(buf[:n])
			err = errors.Join(err, e)
		}
		if err != nil {
			break
		}
	}
	_, _ = to.Close(), from.Close()
	w.mu.Lock()
	delete(w.conns, to)
	delete(w.conns, from)
	w.mu.Unlock()
}

// cut closes the connections of one end: it has died.
func (w *wire) cut(end string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for conn, way := range w.conns {
		if way[0] == end || way[1] == end {
			_ = conn.Close()
		}
	}
}

func (w *wire) close() {
	w.mu.Lock()
	w.over = true
	w.cond.Broadcast()
	for conn := range w.conns {
		_ = conn.Close()
	}
	w.mu.Unlock()
	w.wg.Wait()
}

// voter is one voter of a test cluster, which can be killed and opened again.
type voter struct {
	*Group
	of         *testCluster
	name       string
	address    string // of its listener: the same for ever
	options    Options
	clock      *skewedClock
	disk       *lossyDisk
	server     *grpc.Server
	serving    sync.WaitGroup
	faulty     atomic.Bool // every sync of a file with faultyPart in its path fails
	faultyPart string
	up         bool
}

// testCluster is a group of voters in one process, with gRPC in front of each.
type testCluster struct {
	t      testing.TB
	wire   *wire
	mu     sync.Mutex // protects voters
	voters []*voter
	lossy  bool
	clock  Clock // of all voters; nil: each its own
	beat   time.Duration
	keep   uint64 // Options.trailing
	seg    int    // Options.segment
}

const testHeartbeat = 150 * time.Millisecond

// openCluster makes a group of n voters: the first bootstraps and adds the others.
func openCluster(t testing.TB, n int, change func(*testCluster)) *testCluster {
	t.Helper()
	c := &testCluster{t: t, wire: newWire(), beat: testHeartbeat, seg: 32 << 10}
	if change != nil {
		change(c)
	}
	t.Cleanup(c.close)
	for i := range n {
		v := c.add(fmt.Sprint("n", i+1), i == 0)
		if i > 0 {
			require.NoError(t, c.leader().AddVoter(context.Background(), yr.Node(v.name), v.address))
		}
	}
	return c
}

// add opens one more node, which is no voter unless it bootstraps.
func (c *testCluster) add(name string, bootstrap bool) *voter {
	c.t.Helper()
	v := &voter{of: c, name: name, clock: &skewedClock{}, faultyPart: "wal"}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(c.t, err)
	v.address = ln.Addr().String()
	v.options = Options{
		Dir: c.t.TempDir(), Node: yr.Node(name), Address: v.address, Bootstrap: bootstrap, Heartbeat: c.beat, Clock: v.clock, trailing: c.keep, segment: c.seg,
		Dial: func(ctx context.Context, address string) (net.Conn, error) { return c.dial(ctx, name, address, 'r') },
		Fault: func(op, path string) error {
			if op == "sync" && v.faulty.Load() && strings.Contains(path, v.faultyPart) {
				return errors.New("injected: the disk does not sync")
			}
			return nil
		},
	}
	if c.clock != nil {
		v.options.Clock = c.clock
	}
	if c.lossy {
		v.disk = newLossyDisk(v.options.Fault)
		v.options.files = v.disk
	}
	require.NoError(c.t, v.open(ln))
	c.mu.Lock()
	c.voters = append(c.voters, v)
	c.mu.Unlock()
	return v
}

// dial reaches a voter by its address, through the wire. The first byte tells gRPC
// from the voters' own connections, as pkg/peer's protocols do.
func (c *testCluster) dial(ctx context.Context, from, address string, protocol byte) (net.Conn, error) {
	c.mu.Lock()
	to := address
	for _, v := range c.voters {
		if v.address == address {
			to = v.name
		}
	}
	c.mu.Unlock()
	conn, err := c.wire.dial(ctx, from, to, address)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write([]byte{protocol}); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// open starts the voter behind a listener on its address.
func (v *voter) open(ln net.Listener) error {
	if ln == nil {
		var err error
		for range 100 { // the old listener's port may take a moment
			if ln, err = net.Listen("tcp", v.address); err == nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
		if err != nil {
			return err
		}
	}
	split := newSplit(ln)
	v.options.Listener = split.raft
	v.Group = New(v.options)
	if err := v.Open(context.Background()); err != nil {
		return err
	}
	v.server = grpc.NewServer(grpc.MaxRecvMsgSize(MaxMessage))
	Register(v.server, v.Group)
	v.serving.Go(func() { _ = v.server.Serve(split.grpc) })
	v.serving.Go(split.run)
	v.up = true
	return nil
}

// kill ends the voter as kill -9 does: nothing is flushed, its connections break,
// and what its disk had not synced is gone.
func (v *voter) kill() {
	if !v.up {
		return
	}
	v.up = false
	if v.disk != nil {
		v.disk.crash()
	}
	v.of.wire.cut(v.name)
	v.server.Stop()
	_ = v.Close(context.Background())
	v.serving.Wait()
}

func (c *testCluster) close() {
	c.wire.close()
	for _, v := range c.voters {
		v.kill()
	}
}

// leader waits for one.
func (c *testCluster) leader() *voter {
	c.t.Helper()
	var leader *voter
	c.eventually("a leader", func() bool {
		for _, v := range c.voters {
			if !v.up {
				continue
			}
			if _, ok := v.Leading(); ok && v.confirm(context.Background()) == nil {
				leader = v
				return true
			}
		}
		return false
	})
	return leader
}

func (c *testCluster) eventually(what string, holds func() bool) {
	c.t.Helper()
	require.Eventually(c.t, holds, 20*time.Second, 5*time.Millisecond, what)
}

// followers are the voters that do not lead.
func (c *testCluster) followers() []*voter {
	leader := c.leader()
	var others []*voter
	for _, v := range c.voters {
		if v != leader {
			others = append(others, v)
		}
	}
	return others
}

// client is a Client that reaches the voters through the wire.
func (c *testCluster) client(name string) *Client {
	c.t.Helper()
	client := NewClient(ClientOptions{
		Voters: func() (addresses []string) {
			c.mu.Lock()
			defer c.mu.Unlock()
			for _, v := range c.voters {
				addresses = append(addresses, v.address)
			}
			return addresses
		},
		Dial: func(ctx context.Context, address string) (net.Conn, error) {
			return c.dial(ctx, name, address, 'g')
		},
		Patience: 4 * c.beat,
	})
	require.NoError(c.t, client.Open(context.Background()))
	c.t.Cleanup(func() { _ = client.Close(context.Background()) })
	return client
}

// split tells gRPC's connections from the voters' by their first byte.
type split struct {
	ln         net.Listener
	raft, grpc *side
}

type side struct {
	net.Listener
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newSplit(ln net.Listener) *split {
	s := &split{ln: ln}
	s.raft = &side{Listener: ln, conns: make(chan net.Conn), done: make(chan struct{})}
	s.grpc = &side{Listener: ln, conns: make(chan net.Conn), done: make(chan struct{})}
	return s
}

func (s *split) run() {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := s.ln.Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			var first [1]byte
			_ = conn.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := io.ReadFull(conn, first[:]); err != nil {
				_ = conn.Close()
				return
			}
			_ = conn.SetReadDeadline(time.Time{})
			to := s.raft
			if first[0] == 'g' {
				to = s.grpc
			}
			select {
			case to.conns <- conn:
			case <-to.done:
				_ = conn.Close()
			}
		})
	}
}

func (s *side) Accept() (net.Conn, error) {
	select {
	case conn := <-s.conns:
		return conn, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

func (s *side) Close() error {
	s.once.Do(func() { close(s.done) })
	return s.Listener.Close()
}

// skewedClock is the system's with jumps.
type skewedClock struct{ by atomic.Int64 }

func (c *skewedClock) Now() time.Time {
	return time.Now().Add(time.Duration(c.by.Load()))
}

func (c *skewedClock) After(d time.Duration) <-chan time.Time {
	return time.After(min(d, 50*time.Millisecond))
}
