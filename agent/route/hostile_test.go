package route_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/agent/session"
	"yr/pkg/wire"
	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
)

// What a session sends by mistake or by malice ends that session at most: others
// go on, and nothing of the node's is lost or held for ever.

// rejected returns the reason with which the node ends the session.
func (d *driver) rejected() *wirepb.Status {
	d.t.Helper()
	for {
		h, body, err := d.next(5 * time.Second)
		require.NoError(d.t, err, "the session ended without a reason")
		if h.Type == wire.Reject {
			m := &wirepb.Status{}
			require.NoError(d.t, wire.DecodeMessage(h.Type, body, m))
			return m
		}
	}
}

// works shows that the node still serves others.
func (n *node) works() {
	n.t.Helper()
	d := n.driver(&wirepb.Hello{})
	require.Equal(n.t, "fine", d.result(d.call(d.define(half), "echo fine")).text)
	require.NoError(n.t, n.router.Check())
}

// pending is an object that gets its value when the test releases it.
func (d *driver) pending() yr.ID {
	d.t.Helper()
	id := d.call(d.define(half), "hold")
	d.n.untilHeld()
	return id
}

func create(number uint32, id yr.ID, o *wirepb.Options, deps ...yr.ID) []byte {
	m := &wirepb.Create{Number: number, InstanceId: id[:], CodeId: []byte("class"), Name: "m.C", Code: []byte("C"), Options: o, Nvals: uint32(len(deps))} //nolint:gosec // few
	for _, dep := range deps {
		m.Deps = append(m.Deps, dep[:])
	}
	return wire.AppendMessage(nil, wire.Create, 0, m)
}

func TestASessionThatBreaksTheRulesEndsAlone(t *testing.T) {
	stranger := yr.NewID()
	for name, test := range map[string]struct {
		frame func(d *driver) []byte
		code  yr.Code
	}{
		"a call whose id is another's": {func(d *driver) []byte {
			return wire.AppendCall(nil, 0, &wire.Call{ID: stranger, Target: d.define(half), Returns: 1})
		}, yr.ParamInvalid},
		"a call whose id is no text": {func(d *driver) []byte {
			return wire.AppendCall(nil, 0, &wire.Call{ID: yr.ID(bytes.Repeat([]byte{0xff}, yr.IDLen)), Target: d.define(half), Returns: 1})
		}, yr.ParamInvalid},
		"a call of a number that was never defined": {func(d *driver) []byte {
			return wire.AppendCall(nil, 0, &wire.Call{ID: d.id(), Target: 1 << 31, Returns: 1})
		}, yr.InvokeUsage},
		"a call whose id is in use, with a deadline and an argument": {func(d *driver) []byte {
			dep := d.pending()
			c := &wire.Call{ID: d.id(), Target: 1, Returns: 1, NVals: 1, Deps: wire.IDs(dep[:])}
			c.Tail = wire.AppendTail(nil, &wire.Tail{Deadline: 1})
			return wire.AppendCall(wire.AppendCall(nil, 0, c), 0, c)
		}, yr.ParamInvalid},
		"a result, although it is no worker": {func(*driver) []byte {
			return wire.AppendResult(nil, 1, stranger, []wire.Value{{}})
		}, yr.FrameMalformed},
		"an object of another": {func(*driver) []byte {
			return wire.AppendObject(nil, wire.PutType, 0, stranger, &wire.Value{})
		}, yr.ParamInvalid},
		"an object that is too large for a message": {func(d *driver) []byte {
			return wire.AppendObject(nil, wire.PutType, 0, d.id(), &wire.Value{Data: make([]byte, wire.MaxInlinePut+1)})
		}, yr.ParamInvalid},
		"an object in memory that it does not lease": {func(d *driver) []byte {
			return wire.AppendObject(nil, wire.PutType, 0, d.id(), &wire.Value{Kind: wire.Placed, Place: yr.Place{Segment: 7, Generation: 1, Length: 64}})
		}, 0},
		"an object that is set twice": {func(d *driver) []byte {
			id := d.id()
			b := wire.AppendObject(nil, wire.PutType, 0, id, &wire.Value{Data: []byte("a")})
			return wire.AppendObject(b, wire.PutType, 0, id, &wire.Value{Data: []byte("b")})
		}, yr.ParamInvalid},
		"an instance made twice": {func(d *driver) []byte {
			id := d.id()
			return append(create(1, id, half), create(2, id, half)...)
		}, yr.ParamInvalid},
		"an instance with a number out of bounds and an argument": {func(d *driver) []byte {
			return create(1<<30, d.id(), half, d.pending())
		}, yr.ParamInvalid},
		"a handle with a number out of bounds": {func(*driver) []byte {
			return wire.AppendMessage(nil, wire.Bind, 0, &wirepb.Bind{Number: 1 << 30, InstanceId: stranger[:]})
		}, yr.ParamInvalid},
		"a frame that only the node sends": {func(*driver) []byte {
			return wire.AppendEmpty(nil, wire.Recall, 0)
		}, yr.FrameMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, cores(2))
			d := n.driver(&wirepb.Hello{})
			d.send(test.frame(d))
			status := d.rejected()
			if test.code != 0 {
				require.Equal(t, test.code, yr.Code(status.GetCode()), status.GetMessage())
			}
			n.release("late")
			n.works()
		})
	}
}

func TestWhatIsMerelyOddChangesNothing(t *testing.T) {
	n := newNode(t, cores(2))
	d := n.driver(&wirepb.Hello{})
	stranger := yr.NewID()
	for _, b := range [][]byte{
		wire.AppendEmpty(nil, wire.Unblocked, 0),
		wire.AppendU64(nil, wire.Blocked, 1, -1),
		wire.AppendU64(nil, wire.Yield, 1, wire.YieldRetiring),
		wire.AppendIDs(nil, wire.Retain, 0, []yr.ID{stranger}),
		wire.AppendIDs(nil, wire.Release, 0, []yr.ID{stranger}),
		wire.AppendMessage(nil, wire.Cancel, 0, &wirepb.Cancel{Ids: [][]byte{stranger[:], []byte("short")}, Force: true, Recursive: true}),
	} {
		d.send(b)
	}
	status := d.request(func(corr uint64) []byte {
		odd := bytes.Repeat([]byte{0xff}, yr.PrefixLen)
		return wire.AppendMessage(nil, wire.Kill, corr, &wirepb.Kill{InstanceId: append(odd, "00000000000"...)})
	})
	require.Equal(t, yr.InstanceNotFound, yr.Code(status.GetCode()))
	d.send(wire.AppendMessage(nil, wire.Lease, 1, &wirepb.LeaseRequest{Size: 1 << 63, Wish: 1 << 63}))
	d.until("LEASED", func() bool { return d.leased[1] != nil })
	require.NotZero(t, d.leased[1].GetStatus().GetCode())
	require.Equal(t, "fine", d.result(d.call(d.define(half), "echo fine")).text)
}

func TestAConstructorWhoseArgumentsComeTooLate(t *testing.T) {
	n := newNode(t, cores(2))
	d := n.driver(&wirepb.Hello{})
	dep, id := d.pending(), d.id()
	d.numbers++
	d.send(create(d.numbers, id, half, dep))
	status := d.request(func(corr uint64) []byte {
		return wire.AppendMessage(nil, wire.Kill, corr, &wirepb.Kill{InstanceId: id[:], Wait: true})
	})
	require.Zero(t, status.GetCode())
	n.release("late")
	require.Equal(t, "late", d.result(dep).text)
	n.works()
}

func TestANameThatCanNeverRunLetsItsArgumentsGo(t *testing.T) {
	n := newNode(t, cores(2))
	d := n.driver(&wirepb.Hello{})
	dep, id := d.pending(), d.id()
	d.numbers++
	d.send(create(d.numbers, id, &wirepb.Options{Name: "huge", Cpu: 1e9}, dep))
	d.event(id, yr.StateScheduleFailed)
	n.release("late")
	require.Equal(t, "late", d.result(dep).text)
	n.works()
}

func TestWhoSaidGoodbyeMayNotGoOn(t *testing.T) {
	n := newNode(t, cores(2))
	d := n.driver(&wirepb.Hello{})
	before := d.define(half)
	status := d.request(func(corr uint64) []byte { return wire.AppendEmpty(nil, wire.Goodbye, corr) })
	require.Zero(t, status.GetCode())
	require.Equal(t, yr.ScheduleCancelled, d.result(d.call(before, "echo x")).code)
	require.Equal(t, yr.ScheduleCancelled, d.result(d.call(d.define(whole), "echo x")).code)
	_, in := d.create("", &wirepb.Options{Cpu: 500, Memory: 500}, "x")
	d.event(in, yr.StateFatal)
	n.works()
}

func TestADeadlineBeyondAllTimeIsNone(t *testing.T) {
	d := newNode(t, cores(2)).driver(&wirepb.Hello{})
	f := d.define(half)
	for _, deadline := range []uint64{1 << 62, 1<<63 + 1, 1<<64 - 1} {
		id := d.id()
		d.send(wire.AppendCall(nil, 0, &wire.Call{
			ID: id, Target: f, Returns: 1, Args: []byte("echo x"), Tail: wire.AppendTail(nil, &wire.Tail{Deadline: deadline}),
		}))
		require.Equal(t, "x", d.result(id).text)
	}
}

func TestTenantsDoNotReachEachOthersInstances(t *testing.T) {
	n := newNode(t, cores(2))
	mine, theirs := n.driver(&wirepb.Hello{Tenant: "mine"}), n.driver(&wirepb.Hello{Tenant: "theirs"})
	number, id := mine.create("", &wirepb.Options{Cpu: 500, Memory: 500}, "x")
	mine.event(id, yr.StateRunning)
	status := theirs.request(func(corr uint64) []byte {
		return wire.AppendMessage(nil, wire.Kill, corr, &wirepb.Kill{InstanceId: id[:], Wait: true})
	})
	require.Equal(t, yr.InstanceNotFound, yr.Code(status.GetCode()))
	theirs.numbers++
	theirs.send(wire.AppendMessage(nil, wire.Bind, 0, &wirepb.Bind{Number: theirs.numbers, InstanceId: id[:]}))
	require.Equal(t, yr.InstanceNotFound, theirs.result(theirs.call(theirs.numbers, "count")).code)
	require.Equal(t, "1", mine.result(mine.call(number, "count")).text)
}

func TestAWorkersTokenIsGoodForOneSession(t *testing.T) {
	n := newNode(t, cores(2))
	d := n.driver(&wirepb.Hello{})
	f := d.define(half)
	require.Equal(t, "x", d.result(d.call(f, "echo x")).text)
	n.mu.Lock()
	spec := n.last
	n.mu.Unlock()
	for name, hello := range map[string]*wirepb.Hello{
		"a second session":           {Token: spec.Token},
		"no token":                   {},
		"a session token of another": {ResumeToken: d.welcome.GetResumeToken(), Prefix: d.prefix.String()},
	} {
		hello.Role, hello.WorkerId, hello.Language = uint32(yr.RoleWorker), spec.Worker[:], "test"
		if hello.Prefix == "" {
			hello.Prefix = yr.NewPrefix().String()
		}
		p := dial(n, wire.AppendHello(nil, 1, 1, hello))
		h, _, err := p.next(5 * time.Second)
		require.NoError(t, err, name)
		require.Equal(t, wire.Reject, h.Type, name)
		_ = p.nc.Close()
	}
	n.works()
}

func TestAPrefixThatIsAPathIsRefused(t *testing.T) {
	n := newNode(t, cores(2))
	for _, prefix := range []string{"../../../../", "abc", "abcdefghijk\n"} {
		p := dial(n, wire.AppendHello(nil, 1, 1, &wirepb.Hello{Role: uint32(yr.RoleDriver), Prefix: prefix}))
		h, body, err := p.next(5 * time.Second)
		require.NoError(t, err)
		require.Equal(t, wire.Reject, h.Type, prefix)
		m := &wirepb.Status{}
		require.NoError(t, wire.DecodeMessage(h.Type, body, m))
		require.Equal(t, yr.ParamInvalid, yr.Code(m.GetCode()))
		_ = p.nc.Close()
	}
}

// A program that asks for more than it reads costs the node a bounded queue, not
// a copy of everything; when it reads, all of it comes.
func TestObjectsWaitForAReaderWithoutBeingCopied(t *testing.T) {
	n := newNode(t, cores(2))
	d := n.driver(&wirepb.Hello{})
	id := d.call(d.define(half), "echo "+string(bytes.Repeat([]byte("x"), 60_000)))
	d.result(id)
	const times = 1000 // 60 MB
	many := make([]yr.ID, times)
	for i := range many {
		many[i] = id
	}
	d.send(wire.AppendIDs(nil, wire.Get, 0, many))
	n.mu.Lock()
	conn := n.conns[0]
	n.mu.Unlock()
	queued := func() int { return conn.Queue(func(dst []byte) []byte { return dst }) }
	require.Eventually(t, func() bool { return queued() > 0 }, 5*time.Second, time.Millisecond)
	n.router.Counters() // waits for the turn that handles the frame
	require.Less(t, queued(), 2*session.HighWater)
	for got := 0; got < times; {
		h, _, err := d.next(5 * time.Second)
		require.NoError(t, err, "after %d of %d objects", got, times)
		if h.Type == wire.ObjectType {
			got++
		}
	}
}

func TestPollingForAnObjectIsAnsweredOnce(t *testing.T) {
	n := newNode(t, cores(2))
	d := n.driver(&wirepb.Hello{})
	id := d.pending()
	for range 100 {
		d.send(wire.AppendIDs(nil, wire.Get, 0, []yr.ID{id}))
	}
	d.settle()
	n.release("x")
	objects := 0
	for asked := false; ; {
		h, _, err := d.next(5 * time.Second)
		require.NoError(t, err)
		switch h.Type {
		case wire.ObjectType:
			objects++
		case wire.ResultType:
			if !asked { // what comes before its answer is all there is
				d.send(wire.AppendEmpty(nil, wire.Ping, 1))
				asked = true
			}
		case wire.Pong:
			require.Equal(t, 1, objects)
			return
		}
	}
}
