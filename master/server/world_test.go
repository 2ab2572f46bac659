package server_test

// A small world in one process: masters over one registry, an election that the
// test decides, nodes with their clients, and a network between them whose cables
// can be cut. Everything but the wire is real, and time is testing/synctest's.

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"yr/master"
	"yr/master/client"
	"yr/master/server"
	"yr/pkg/cluster"
	"yr/pkg/cluster/inprocess"
	"yr/pkg/yr"
)

// network carries connections by address. A cut address neither answers nor refuses.
type network struct {
	mu        sync.Mutex
	listeners map[string]*bufconn.Listener
	cut       map[string]chan struct{} // address -> closed when the cable is whole again
}

func newNetwork() *network {
	return &network{listeners: make(map[string]*bufconn.Listener), cut: make(map[string]chan struct{})}
}

func (n *network) listen(address string) *bufconn.Listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := bufconn.Listen(1 << 16)
	n.listeners[address] = l
	return l
}

// cable cuts and mends the cable of an address.
func (n *network) cable(address string, whole bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if healed, cut := n.cut[address]; whole && cut {
		close(healed)
		delete(n.cut, address)
	} else if !whole && !cut {
		n.cut[address] = make(chan struct{})
	}
}

// wait returns when no cable of the two ends is cut.
func (n *network) wait(done <-chan struct{}, ends ...string) error {
	for {
		var healed chan struct{}
		n.mu.Lock()
		for _, end := range ends {
			if h, cut := n.cut[end]; cut {
				healed = h
			}
		}
		n.mu.Unlock()
		if healed == nil {
			return nil
		}
		select {
		case <-healed:
		case <-done:
			return net.ErrClosed
		}
	}
}

// dialer makes connections from an address.
func (n *network) dialer(from string) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, to string) (net.Conn, error) {
		if err := n.wait(ctx.Done(), from, to); err != nil {
			return nil, fmt.Errorf("dial %s: %w", to, context.Cause(ctx))
		}
		n.mu.Lock()
		l := n.listeners[to]
		n.mu.Unlock()
		if l == nil {
			return nil, errors.New("connection refused")
		}
		c, err := l.DialContext(ctx)
		if err != nil {
			return nil, err
		}
		cable := &cabled{Conn: c, net: n, ends: []string{from, to}, closed: make(chan struct{}), wake: make(chan struct{}, 1)}
		go cable.pump()
		return cable, nil
	}
}

// cabled is a connection whose bytes wait in their sender while a cable is cut.
type cabled struct {
	net.Conn
	net    *network
	ends   []string
	once   sync.Once
	closed chan struct{}
	wake   chan struct{} // capacity 1

	mu      sync.Mutex
	pending []byte
}

func (c *cabled) Write(b []byte) (int, error) {
	c.mu.Lock()
	c.pending = append(c.pending, b...)
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return len(b), nil
}

func (c *cabled) pump() {
	for {
		select {
		case <-c.wake:
		case <-c.closed:
			return
		}
		if c.net.wait(c.closed, c.ends...) != nil {
			return
		}
		c.mu.Lock()
		b := c.pending
		c.pending = nil
		c.mu.Unlock()
		if _, err := c.Conn.Write(b); err != nil {
			return
		}
	}
}

func (c *cabled) Read(b []byte) (int, error) {
	k, err := c.Conn.Read(b)
	if gone := c.net.wait(c.closed, c.ends...); gone != nil {
		return 0, gone
	}
	return k, err
}

func (c *cabled) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// election says who leads, as far as each master knows.
type election struct {
	mu      sync.Mutex
	changed chan struct{}
	term    uint64
	leader  string
	frozen  map[string]view          // what a master believes that hears nothing
	stopped map[string]chan struct{} // whose process stands still; closed when it goes on
}

type view struct {
	term   uint64
	leader string
}

func (e *election) set(leader string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.term++
	e.leader = leader
	close(e.changed)
	e.changed = make(chan struct{})
}

// freeze lets a master believe what it believes now; thaw ends that.
func (e *election) freeze(master string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.frozen[master] = view{e.term, e.leader}
}

func (e *election) thaw(master string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.frozen, master)
	close(e.changed)
	e.changed = make(chan struct{})
}

// stop makes a master's process stand still; cont lets it go on.
func (e *election) stop(master string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stopped[master] = make(chan struct{})
}

func (e *election) cont(master string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	close(e.stopped[master])
	delete(e.stopped, master)
}

func (e *election) see(master string) view {
	e.mu.Lock()
	stopped := e.stopped[master]
	e.mu.Unlock()
	if stopped != nil {
		<-stopped
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if v, ok := e.frozen[master]; ok {
		return v
	}
	return view{e.term, e.leader}
}

// seat is an election as one master sees it.
type seat struct {
	*election
	address string
}

func (s seat) Leading() (uint64, bool) {
	v := s.see(s.address)
	return v.term, v.leader == s.address
}

func (s seat) Leader() (string, bool) {
	v := s.see(s.address)
	return v.leader, v.leader != ""
}

func (s seat) Changes() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// world has masters m0, m1, ... at the addresses of the same names.
type world struct {
	t        *testing.T
	net      *network
	kv       *inprocess.KV
	election *election
	masters  map[string]*masterNode
	names    []string
	dead     []string // what OnDead was told
	deadMu   sync.Mutex
}

type masterNode struct {
	cluster *cluster.Cluster
	server  *server.Server
	grpc    *grpc.Server
	served  chan struct{}
	during  func() // runs within every report that is answered with a sample
}

// inWorld runs a test in a bubble with so many masters; the first leads.
func inWorld(t *testing.T, masters int, test func(*testing.T, *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			t: t, net: newNetwork(), kv: inprocess.New(), masters: make(map[string]*masterNode),
			election: &election{changed: make(chan struct{}), frozen: make(map[string]view), stopped: make(map[string]chan struct{})},
		}
		for i := range masters {
			w.names = append(w.names, fmt.Sprint("m", i))
		}
		for _, name := range w.names {
			w.start(name)
		}
		t.Cleanup(func() {
			for name := range w.masters {
				w.kill(name)
			}
		})
		w.election.set("m0")
		synctest.Wait()
		test(t, w)
	})
}

func (w *world) start(name string) {
	m := &masterNode{
		cluster: cluster.New(cluster.Options{Node: yr.Node(name), KV: w.kv, Standby: true}),
		grpc:    grpc.NewServer(), served: make(chan struct{}),
	}
	require.NoError(w.t, m.cluster.Open(w.t.Context()))
	m.server = server.New(server.Options{
		Node: yr.Node(name), Address: name, Version: "0.5.0",
		Leadership: seat{w.election, name},
		Leader:     m.cluster.Leader(), Nodes: m.cluster.Nodes(), Names: m.cluster.Names(),
		Masters: func() []string {
			if m.during != nil {
				m.during()
			}
			return w.names
		},
		OnDead: func(_ context.Context, dead cluster.NodeRecord) {
			w.deadMu.Lock()
			defer w.deadMu.Unlock()
			w.dead = append(w.dead, fmt.Sprintf("%s %d", dead.ID, dead.Incarnation))
		},
		Random: rand.New(rand.NewPCG(1, 2)),
	})
	m.server.Attach(m.grpc)
	require.NoError(w.t, m.server.Open(w.t.Context()))
	l := w.net.listen(name)
	go func() {
		defer close(m.served)
		_ = m.grpc.Serve(l)
	}()
	w.masters[name] = m
}

// kill ends a master as kill -9 does: its connections break.
func (w *world) kill(name string) {
	m := w.masters[name]
	delete(w.masters, name)
	w.net.mu.Lock()
	delete(w.net.listeners, name)
	w.net.mu.Unlock()
	m.grpc.Stop()
	<-m.served
	require.NoError(w.t, m.server.Close(context.Background()))
	require.NoError(w.t, m.cluster.Close(context.Background()))
}

func (w *world) mourned() []string {
	w.deadMu.Lock()
	defer w.deadMu.Unlock()
	return append([]string(nil), w.dead...)
}

// node is a node with a diary of what its client told it.
type node struct {
	*client.Client
	id    yr.Node
	mu    sync.Mutex
	diary []entry
	load  master.Load
	loads int
}

type entry struct {
	at   time.Time
	what string
}

func (n *node) note(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.diary = append(n.diary, entry{time.Now(), fmt.Sprintf(format, args...)})
}

// told is what the node was told so far; when says how long after a time it was.
func (n *node) told() (what []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.diary {
		what = append(what, e.what)
	}
	return what
}

func (n *node) when(t *testing.T, what string, since time.Time) time.Duration {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.diary {
		if e.what == what {
			return e.at.Sub(since)
		}
	}
	require.Failf(t, "not told", "%s was not told %q, only %v", n.id, what, n.diary)
	return 0
}

func (n *node) setLoad(l master.Load) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.load = l
}

func (n *node) reports() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.loads
}

// node makes a node of four CPUs that is not open yet.
func (w *world) node(id yr.Node, change ...func(*client.Options)) *node {
	n := &node{id: id, load: master.Load{Available: cpus(4)}}
	o := client.Options{
		Masters: w.names, Dial: w.net.dialer(string(id)),
		Machine: master.Machine{
			ID: id, Identity: "of " + string(id), Address: string(id) + ":22773", Version: "0.5.1",
			Capacity: cpus(4), Labels: map[string][]string{"NODE_ID": {string(id)}},
		},
		Load: func() master.Load {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.loads++
			return n.load
		},
		OnLost:     func(error) { n.note("lost") },
		OnRejoined: func(i uint64) { n.note("rejoined %d", i) },
		OnJoined:   func(i uint64) { n.note("joined %d", i) },
		OnDeath:    func(id yr.Node, i uint64) { n.note("death of %s %d", id, i) },
		OnDrain:    func(d master.Drain) { n.note("cordon %v drain %v end %v", d.Cordoned, d.Draining, d.End) },
	}
	for _, f := range change {
		f(&o)
	}
	n.Client = client.New(o)
	return n
}

// join opens a node; the test's end closes it.
func (w *world) join(id yr.Node, change ...func(*client.Options)) *node {
	w.t.Helper()
	n := w.node(id, change...)
	require.NoError(w.t, n.Open(w.t.Context()))
	w.t.Cleanup(func() { require.NoError(w.t, n.Close(context.Background())) })
	return n
}

func cpus(n float64) yr.Resources {
	return yr.Resources{yr.CPU: yr.Amount(n * 1000), yr.Memory: yr.Amount(8192)}
}

// pass lets time go by and everybody come to rest.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
