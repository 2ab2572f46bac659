package route_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"yr/agent/launch"
	"yr/agent/route"
	"yr/agent/session"
	"yr/pkg/wire"
	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
	"yr/store"
)

// A node for tests: a real router, store, registry and real connections; only
// the processes are goroutines of this one. A task's arguments are a command to
// the worker (see worker.run), so that each test says what its functions do.
type node struct {
	t      *testing.T
	router *route.Router
	store  *store.Store
	socket string

	name      yr.Node
	tag       yr.Tag
	cluster   route.Cluster
	lab       *lab
	kept      *kept
	disk      *store.Disk
	spillDir  string
	registry  route.Registry
	resources yr.Resources
	serving   sync.WaitGroup

	mu      sync.Mutex
	workers map[yr.ID]*worker
	conns   []*session.Conn
	down    bool // between two daemons: connections wait in the backlog
	starts  int
	last    launch.Spec // that was started
	failing error       // what starting a worker ends in
}

func newNode(t *testing.T, resources yr.Resources) *node {
	t.Helper()
	return newNodeOf(t, "node-1", resources, newNames(), nil)
}

func newNodeOf(t *testing.T, name yr.Node, resources yr.Resources, registry route.Registry, others *lab) *node {
	t.Helper()
	n := &node{
		t: t, socket: filepath.Join(t.TempDir(), "s"), workers: map[yr.ID]*worker{},
		kept: &kept{files: map[string]*os.File{}}, resources: resources, name: name, tag: yr.NewTag(), registry: registry,
	}
	if others != nil {
		n.cluster, n.lab = others.add(n), others
	}
	n.store = store.New(store.Options{Capacity: 64 << 20, Keep: n.kept.keep, Drop: n.kept.drop, Log: zerolog.Nop()})
	require.NoError(t, n.store.Open(t.Context()))
	n.spillDir = filepath.Join(t.TempDir(), "spill")
	n.openDisk()
	n.router = n.newRouter()
	require.NoError(t, n.router.Open(t.Context()))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: n.socket})
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := l.AcceptUnix()
			if err != nil {
				return
			}
			wg.Go(func() { n.serve(nc) })
		}
	})
	t.Cleanup(func() {
		require.NoError(t, n.router.Check())
		require.NoError(t, n.store.Check())
		ctx := context.Background()
		require.NoError(t, n.router.Close(ctx))
		_ = l.Close()
		wg.Wait()
		require.NoError(t, n.store.Close(ctx))
		require.NoError(t, n.disk.Check())
		require.NoError(t, n.disk.Close(ctx))
		for name := range n.kept.files {
			n.kept.drop(name)
		}
	})
	return n
}

func (n *node) newRouter() *route.Router {
	return route.New(route.Options{
		Node: n.name, Tag: n.tag, Cluster: n.cluster, NodeIP: "127.0.0.1", Version: "test", LogDir: "logs", Resources: n.resources,
		Store: n.store, Disk: n.disk, Launcher: n, Registry: n.registry, Log: zerolog.Nop(), Grace: time.Second,
		Sign: func(string) string { return "signed" },
	})
}

func (n *node) serve(nc *net.UnixConn) {
	c, err := session.New(nc)
	if err != nil {
		return
	}
	_, body, fd, err := c.ReadFirst()
	if err != nil {
		c.Close()
		return
	}
	_, h, err := wire.DecodeHello(body)
	if err == nil {
		r := n.await(c)
		defer n.serving.Done()
		var s *route.Session
		if s, err = r.Join(route.Peer{Conn: c, Version: 1, PID: os.Getpid(), Page: fd}, h); err == nil {
			r.Leave(s, c.Serve(s))
			return
		}
	}
	c.Last(wire.AppendMessage(nil, wire.Reject, 0, wire.StatusOf(err)))
}

// await is the router that serves a connection, once there is one. The caller
// says when it has served it.
func (n *node) await(c *session.Conn) *route.Router {
	for {
		n.mu.Lock()
		if !n.down {
			n.conns = append(n.conns, c)
			n.serving.Add(1)
			r := n.router
			n.mu.Unlock()
			return r
		}
		n.mu.Unlock()
		runtime.Gosched()
	}
}

// untilHeld waits until some worker runs a task that is held.
func (n *node) untilHeld() {
	n.t.Helper()
	require.Eventually(n.t, func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, w := range n.workers {
			if w.held.Load() {
				return true
			}
		}
		return false
	}, 5*time.Second, time.Millisecond)
}

// Start and Kill play the launcher.
func (n *node) Start(s launch.Spec) {
	n.mu.Lock()
	n.starts++
	n.last = s
	failing := n.failing
	n.mu.Unlock()
	go func() {
		if failing != nil {
			n.current().WorkerStarted(s.Worker, 0, failing)
			return
		}
		n.current().WorkerStarted(s.Worker, 1, nil)
		prefix := n.tag.NewPrefix()
		w := &worker{peer: dial(n, wire.AppendHello(nil, 1, 1, &wirepb.Hello{
			Role: uint32(yr.RoleWorker), Prefix: prefix.String(), WorkerId: s.Worker[:], Token: s.Token, Language: "test",
		})), node: n, id: s.Worker, released: make(chan string, 16)}
		w.prefix = prefix
		n.mu.Lock()
		n.workers[s.Worker] = w
		n.mu.Unlock()
		w.run()
	}()
}

// Warm has nothing to warm.
func (n *node) Warm(string, string, map[string]string) {}

func (n *node) Kill(id yr.ID) {
	n.mu.Lock()
	w, down := n.workers[id], n.down
	n.mu.Unlock()
	if down { // the daemon that wants it has crashed
		return
	}
	go n.exit(w, id, "killed by SIGKILL")
}

func (n *node) exit(w *worker, id yr.ID, text string) {
	n.mu.Lock()
	delete(n.workers, id)
	n.mu.Unlock()
	if w != nil {
		w.dead.Store(true)
		_ = w.nc.Close()
	}
	n.current().WorkerExited(launch.Exit{Worker: id, PID: 1, Text: text})
}

func (n *node) started() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.starts
}

// peer is one end of a session as an SDK has it.
type peer struct {
	nc      *net.UnixConn
	buf     []byte
	welcome wirepb.Welcome
	prefix  yr.Prefix
	seq     uint64
}

func dial(n *node, hello []byte) *peer {
	nc, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: n.socket})
	require.NoError(n.t, err)
	p := &peer{nc: nc}
	p.send(hello)
	return p
}

func (p *peer) send(b []byte) { _, _ = p.nc.Write(b) }

var errTimeout = errors.New("no frame came in time")

// next returns the next frame.
func (p *peer) next(patience time.Duration) (wire.Header, []byte, error) {
	chunk := make([]byte, 64<<10)
	for {
		if h, body, rest, err := wire.Next(p.buf); err == nil {
			p.buf = append([]byte(nil), rest...)
			return h, append([]byte(nil), body...), nil
		}
		_ = p.nc.SetReadDeadline(time.Now().Add(patience))
		n, err := p.nc.Read(chunk)
		if n == 0 || err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				err = errTimeout
			}
			return wire.Header{}, nil, err
		}
		p.buf = append(p.buf, chunk[:n]...)
	}
}

// driver is a peer with the manners of a driver.
type driver struct {
	*peer
	t       *testing.T
	n       *node
	numbers uint32
	results map[yr.ID]outcome
	events  map[string]*wirepb.InstanceEvent
	done    map[uint64]*wirepb.Status
	found   map[uint64]*wirepb.Found
	leased  map[uint64]*wirepb.Lease
	objects map[yr.ID]outcome
	freed   []yr.Place
	corr    uint64
	pongs   int
}

// settle returns when the node has handled everything that was sent.
func (d *driver) settle() {
	d.t.Helper()
	want := d.pongs + 1
	d.send(wire.AppendEmpty(nil, wire.Ping, 1))
	d.until("PONG", func() bool { return d.pongs == want })
}

type outcome struct {
	text string
	code yr.Code
	v    []wire.Value
}

func (n *node) driver(h *wirepb.Hello) *driver {
	prefix := n.tag.NewPrefix()
	h.Role, h.Prefix, h.Language = uint32(yr.RoleDriver), prefix.String(), "test"
	d := &driver{
		peer: dial(n, wire.AppendHello(nil, 1, 1, h)), t: n.t, n: n,
		results: map[yr.ID]outcome{}, events: map[string]*wirepb.InstanceEvent{}, done: map[uint64]*wirepb.Status{},
		found: map[uint64]*wirepb.Found{}, leased: map[uint64]*wirepb.Lease{}, objects: map[yr.ID]outcome{},
	}
	d.prefix = prefix
	head, body, err := d.next(5 * time.Second)
	require.NoError(n.t, err)
	require.Equal(n.t, wire.Welcome, head.Type)
	require.NoError(n.t, wire.DecodeMessage(wire.Welcome, body, &d.welcome))
	n.t.Cleanup(func() { _ = d.nc.Close() })
	return d
}

func (d *driver) id() yr.ID {
	d.seq++
	return d.prefix.ID(d.seq)
}

func (d *driver) define(o *wirepb.Options) uint32 {
	d.numbers++
	d.send(wire.AppendMessage(nil, wire.Define, 0, &wirepb.Function{Number: d.numbers, CodeId: []byte("code"), Name: "m.f", Code: []byte("f"), Options: o}))
	return d.numbers
}

// call sends a call of one result and returns its id.
func (d *driver) call(target uint32, command string, deps ...yr.ID) yr.ID {
	id := d.id()
	var packed wire.IDs
	for _, dep := range deps {
		packed = append(packed, dep[:]...)
	}
	d.send(wire.AppendCall(nil, 0, &wire.Call{ID: id, Target: target, Returns: 1, NVals: len(deps), Deps: packed, Args: []byte(command)}))
	return id
}

func (d *driver) create(name string, o *wirepb.Options, command string) (uint32, yr.ID) {
	d.numbers++
	id := d.id()
	o.Name, o.Ordered = name, true
	d.send(wire.AppendMessage(nil, wire.Create, 0, &wirepb.Create{
		Number: d.numbers, InstanceId: id[:], CodeId: []byte("class"), Name: "m.C", Code: []byte("C"), Options: o, Args: []byte(command),
	}))
	return d.numbers, id
}

// ask sends a request and waits for the answer that ok finds.
func (d *driver) until(what string, ok func() bool) {
	d.t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); {
		require.True(d.t, time.Now().Before(end), "waited for %s; have results %v, events %v", what, d.results, d.events)
		h, body, err := d.next(time.Second)
		if errors.Is(err, errTimeout) {
			continue
		}
		require.NoError(d.t, err, "while waiting for %s", what)
		d.take(h, body)
	}
}

func (d *driver) take(h wire.Header, body []byte) {
	switch h.Type {
	case wire.ResultType:
		id, values, _, err := wire.DecodeResult(body, nil)
		require.NoError(d.t, err)
		d.results[id] = outcomeOf(values)
	case wire.ObjectType:
		var v wire.Value
		id, _, err := wire.DecodeObject(body, &v)
		require.NoError(d.t, err)
		d.objects[id] = outcomeOf([]wire.Value{v})
	case wire.Instance:
		e := &wirepb.InstanceEvent{}
		require.NoError(d.t, wire.DecodeMessage(h.Type, body, e))
		d.events[string(e.GetInstanceId())] = e
	case wire.Done:
		m := &wirepb.Status{}
		require.NoError(d.t, wire.DecodeMessage(h.Type, body, m))
		d.done[h.Corr] = m
	case wire.Found:
		m := &wirepb.Found{}
		require.NoError(d.t, wire.DecodeMessage(h.Type, body, m))
		d.found[h.Corr] = m
	case wire.Leased:
		m := &wirepb.Lease{}
		require.NoError(d.t, wire.DecodeMessage(h.Type, body, m))
		d.leased[h.Corr] = m
	case wire.Freed:
		places, err := wire.DecodeFreed(body)
		require.NoError(d.t, err)
		d.freed = append(d.freed, places...)
	case wire.Pong:
		d.pongs++
	case wire.Reject:
		m := &wirepb.Status{}
		require.NoError(d.t, wire.DecodeMessage(h.Type, body, m))
		d.t.Fatalf("rejected: %v", m)
	}
}

func outcomeOf(values []wire.Value) outcome {
	o := outcome{v: values}
	if len(values) == 1 {
		o.text, o.code = string(values[0].Data), values[0].Code
	}
	return o
}

func (d *driver) result(id yr.ID) outcome {
	d.t.Helper()
	d.until("result of "+id.String(), func() bool { _, ok := d.results[id]; return ok })
	return d.results[id]
}

func (d *driver) event(id yr.ID, state yr.InstanceState) *wirepb.InstanceEvent {
	d.t.Helper()
	d.until("instance "+state.String(), func() bool {
		e := d.events[id.String()]
		return e != nil && yr.InstanceState(e.GetState()) == state //nolint:gosec // small
	})
	return d.events[id.String()]
}

// request sends a frame with a fresh correlation number and waits for its DONE.
func (d *driver) request(frame func(corr uint64) []byte) *wirepb.Status {
	d.t.Helper()
	d.corr++
	corr := d.corr
	d.send(frame(corr))
	d.until("DONE", func() bool { return d.done[corr] != nil })
	return d.done[corr]
}
