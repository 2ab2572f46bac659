package route_test

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"yr/agent/launch"
	"yr/agent/route"
	"yr/pkg/wire"
	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
	"yr/store"
)

// kept plays the parent process: it holds the segments over a restart.
type kept struct {
	mu    sync.Mutex
	files map[string]*os.File
}

func (k *kept) keep(name string, f *os.File) error {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.files[name] = os.NewFile(uintptr(fd), name)
	return nil
}

func (k *kept) drop(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if f := k.files[name]; f != nil {
		_ = f.Close()
		delete(k.files, name)
	}
}

// crash replaces the daemon's state by a new daemon's, as a restart does: all
// that is left is segments, processes and the names of who was connected.
func (n *node) crash(drivers ...*driver) {
	n.t.Helper()
	old, oldStore := n.current(), n.store
	n.mu.Lock()
	n.down = true
	var survivors []launch.Survivor
	for id := range n.workers {
		survivors = append(survivors, launch.Survivor{Worker: id, PID: 1})
	}
	conns := n.conns
	n.conns = nil
	n.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
	if n.lab != nil {
		n.lab.cut(n)
	}
	n.serving.Wait() // the old daemon's readers are gone with it
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // a crash does not wait for workers
	require.NoError(n.t, old.Close(ctx))
	require.NoError(n.t, oldStore.Close(context.Background()))
	require.NoError(n.t, n.disk.Close(context.Background()))
	n.openDisk()

	n.store = store.New(store.Options{Capacity: 64 << 20, Keep: n.kept.keep, Drop: n.kept.drop, Log: zerolog.Nop()})
	n.kept.mu.Lock()
	for name, f := range n.kept.files {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		require.NoError(n.t, err)
		require.NoError(n.t, n.store.Adopt(name, os.NewFile(uintptr(fd), name)))
	}
	n.kept.mu.Unlock()
	require.NoError(n.t, n.store.Open(n.t.Context()))
	r := n.newRouter()
	var ids []yr.ID
	for _, d := range drivers {
		ids = append(ids, d.prefix.ID(0))
	}
	var others []yr.Node
	if n.lab != nil {
		others = n.lab.knew(n)
	}
	r.Recover(survivors, ids, others)
	require.NoError(n.t, r.Open(n.t.Context()))
	n.mu.Lock()
	n.router, n.down = r, false
	n.mu.Unlock()
	if n.lab != nil {
		n.lab.rejoin(n)
	}
}

func (n *node) current() *route.Router {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.router
}

// resume connects a driver again; announce says what it holds and waits for.
func (d *driver) resume(leases []*wirepb.Lease, announce []byte) {
	d.t.Helper()
	_ = d.nc.Close()
	d.nc = dial(d.n, wire.AppendHello(nil, 1, 1, &wirepb.Hello{
		Role: uint32(yr.RoleDriver), Prefix: d.prefix.String(), Language: "test",
		Job: d.welcome.GetJob(), ResumeToken: d.welcome.GetResumeToken(), Leases: leases,
	})).nc
	d.buf = nil
	head, body, err := d.next(5 * time.Second)
	require.NoError(d.t, err)
	require.Equal(d.t, wire.Welcome, head.Type, "%s", body)
	var w wirepb.Welcome
	require.NoError(d.t, wire.DecodeMessage(wire.Welcome, body, &w))
	require.True(d.t, w.GetResumed())
	d.send(append(announce, wire.AppendEmpty(nil, wire.Announced, 0)...))
}

func defineFrame(number uint32, o *wirepb.Options) []byte {
	return wire.AppendMessage(nil, wire.Define, 0, &wirepb.Function{Number: number, CodeId: []byte("code"), Name: "m.f", Code: []byte("f"), Options: o})
}

func TestARunningCallGoesOnOverARestart(t *testing.T) {
	n := newNode(t, cores(1))
	d := n.driver(&wirepb.Hello{})
	f := d.define(&wirepb.Options{Cpu: 1000})
	running := d.call(f, "hold")
	n.untilHeld()
	n.crash(d)
	d.resume(nil, append(defineFrame(f, &wirepb.Options{Cpu: 1000}),
		wire.AppendCall(nil, wire.Resent, &wire.Call{ID: running, Target: f, Returns: 1, Args: []byte("hold")})...))
	n.release("went on")
	require.Equal(t, "went on", d.result(running).text)
	require.Equal(t, 1, n.started(), "the call was not given to a second worker")
}

func TestAResultThatNobodyGotIsSentAgain(t *testing.T) {
	n := newNode(t, cores(1))
	d := n.driver(&wirepb.Hello{})
	f := d.define(half)
	id := d.call(f, "count")
	require.Equal(t, "1", d.result(id).text)
	n.crash(d)
	delete(d.results, id) // as if the daemon had died before it could pass it on
	d.resume(nil, append(defineFrame(f, half),
		wire.AppendCall(nil, wire.Resent, &wire.Call{ID: id, Target: f, Returns: 1, Args: []byte("count")})...))
	require.Equal(t, "1", d.result(id).text, "it was not run again")
}

func TestACallThatNeverStartedRunsAfterARestart(t *testing.T) {
	n := newNode(t, cores(1))
	d := n.driver(&wirepb.Hello{})
	f := d.define(&wirepb.Options{Cpu: 1000})
	held := d.call(f, "hold")
	queued := d.call(f, "echo later")
	n.untilHeld()
	n.crash(d)
	o := &wirepb.Options{Cpu: 1000}
	frames := defineFrame(f, o)
	frames = wire.AppendCall(frames, wire.Resent, &wire.Call{ID: held, Target: f, Returns: 1, Args: []byte("hold")})
	frames = wire.AppendCall(frames, wire.Resent, &wire.Call{ID: queued, Target: f, Returns: 1, Args: []byte("echo later")})
	d.resume(nil, frames)
	n.release("first")
	require.Equal(t, "first", d.result(held).text)
	require.Equal(t, "later", d.result(queued).text)
}

func TestInstancesSurviveARestart(t *testing.T) {
	n := newNode(t, cores(2))
	d := n.driver(&wirepb.Hello{})
	c, id := d.create("counter", &wirepb.Options{Cpu: 500}, "echo")
	require.Equal(t, "1", d.result(d.call(c, "count")).text)
	n.crash(d)
	d.resume(nil, wire.AppendMessage(nil, wire.Bind, 0, &wirepb.Bind{Number: c, InstanceId: id[:]}))
	require.Equal(t, "2", d.result(d.call(c, "count")).text)
	d.corr++
	d.send(wire.AppendMessage(nil, wire.Lookup, d.corr, &wirepb.Lookup{Name: "counter"}))
	d.until("FOUND", func() bool { return d.found[d.corr] != nil })
	require.True(t, d.found[d.corr].GetFound(), "it kept its name")
}

func TestAnInstanceWhoseConstructorNeverBeganIsFailed(t *testing.T) {
	n := newNode(t, cores(2))
	d := n.driver(&wirepb.Hello{})
	c, id := d.create("", half, "lose")
	n.untilHeld()
	n.crash(d)
	d.resume(nil, wire.AppendMessage(nil, wire.Bind, 0, &wirepb.Bind{Number: c, InstanceId: id[:]}))
	r := d.result(d.call(c, "count"))
	require.Contains(t, []yr.Code{yr.InstanceExited, yr.InstanceNotFound}, r.code, r.text)
	require.Contains(t, r.text, "before its constructor had begun")
}

// TestACreationIsSentAgain: the driver has not heard of its instance, whose worker
// may have come back before it, or come back after it, built or not.
func TestACreationIsSentAgain(t *testing.T) {
	for _, command := range []string{"echo", "lose"} {
		t.Run(command, func(t *testing.T) {
			n := newNode(t, cores(2))
			d := n.driver(&wirepb.Hello{})
			c, id := d.create("", &wirepb.Options{Cpu: 500}, command)
			if command == "lose" {
				n.untilHeld()
			} else {
				d.event(id, yr.StateRunning)
			}
			n.crash(d)
			first := d.id()
			frames := wire.AppendMessage(nil, wire.Create, 0, &wirepb.Create{
				Number: c, InstanceId: id[:], CodeId: []byte("class"), Name: "m.C", Code: []byte("C"),
				Options: &wirepb.Options{Cpu: 500, Ordered: true}, Args: []byte("echo"),
			})
			frames = wire.AppendCall(frames, wire.Resent, &wire.Call{ID: first, Target: c, Returns: 1, Args: []byte("count")})
			d.resume(nil, frames)
			require.Equal(t, "1", d.result(first).text)
			require.Equal(t, "2", d.result(d.call(c, "count")).text)
			require.Len(t, n.current().Instances(), 1)
		})
	}
}

// TestAnAnsweredCallLeavesItsMailboxInOrder: a result that came before the call
// was sent again is not counted out of a mailbox that the call never was in.
func TestAnAnsweredCallLeavesItsMailboxInOrder(t *testing.T) {
	n := newNode(t, cores(2))
	d := n.driver(&wirepb.Hello{})
	c, id := d.create("", &wirepb.Options{Cpu: 500}, "echo")
	answered := d.call(c, "count")
	require.Equal(t, "1", d.result(answered).text)
	n.crash(d)
	require.Eventually(t, func() bool { return n.current().Workers() == 1 }, 5*time.Second, time.Millisecond)
	delete(d.results, answered)
	frames := wire.AppendMessage(nil, wire.Bind, 0, &wirepb.Bind{Number: c, InstanceId: id[:]})
	frames = wire.AppendCall(frames, wire.Resent, &wire.Call{ID: answered, Target: c, Returns: 1, Args: []byte("count")})
	d.resume(nil, frames)
	require.Equal(t, "1", d.result(answered).text)
	require.Equal(t, "2", d.result(d.call(c, "count")).text)
	require.Zero(t, n.current().Instances()[0].Pending)
}

func TestObjectsInSharedMemorySurviveARestart(t *testing.T) {
	n := newNode(t, cores(1))
	d := n.driver(&wirepb.Hello{})
	d.corr++
	d.send(wire.AppendMessage(nil, wire.Lease, d.corr, &wirepb.LeaseRequest{Size: 1 << 20}))
	d.until("LEASED", func() bool { return d.leased[d.corr] != nil })
	l := d.leased[d.corr]
	object, inline := d.id(), d.id()
	place := wire.Value{Kind: wire.Placed, Place: yr.Place{Segment: l.GetSegment(), Generation: l.GetGeneration(), Length: 70_000}}
	d.send(wire.AppendObject(nil, wire.PutType, 0, object, &place))
	d.settle()
	n.crash(d)
	frames := wire.AppendObject(nil, wire.PutType, wire.Announce, object, &place)
	frames = wire.AppendObject(frames, wire.PutType, wire.Announce, inline, &wire.Value{Data: []byte("small")})
	d.resume([]*wirepb.Lease{{Segment: l.GetSegment(), Generation: l.GetGeneration()}}, frames)
	d.send(wire.AppendIDs(nil, wire.Get, 0, []yr.ID{object, inline}))
	d.until("OBJECTs", func() bool { return len(d.objects) == 2 })
	require.Equal(t, place.Place, d.objects[object].v[0].Place)
	require.Equal(t, "small", d.objects[inline].text)
	d.send(wire.AppendIDs(nil, wire.Release, 0, []yr.ID{object}))
	d.until("FREED", func() bool { return len(d.freed) == 1 })
}

func TestADriverThatDoesNotComeBackLosesItsJob(t *testing.T) {
	n := newNode(t, cores(1))
	d := n.driver(&wirepb.Hello{})
	f := d.define(half)
	d.call(f, "hold")
	n.untilHeld()
	n.crash() // nobody is waited for
	require.Eventually(t, func() bool { return n.current().Workers() == 0 }, 5*time.Second, 5*time.Millisecond)
}

func TestAStrangersTokenResumesNothing(t *testing.T) {
	n := newNode(t, cores(1))
	d := n.driver(&wirepb.Hello{})
	n.crash(d)
	p := dial(n, wire.AppendHello(nil, 1, 1, &wirepb.Hello{Role: uint32(yr.RoleDriver), Prefix: yr.NewPrefix().String(), ResumeToken: d.welcome.GetResumeToken()}))
	h, body, err := p.next(5 * time.Second)
	require.NoError(t, err)
	require.Equal(t, wire.Reject, h.Type)
	m := &wirepb.Status{}
	require.NoError(t, wire.DecodeMessage(h.Type, body, m))
	require.Contains(t, m.GetMessage(), "cannot be resumed")
	_ = p.nc.Close()
}
