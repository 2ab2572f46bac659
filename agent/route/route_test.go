package route_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"yr/pkg/wire"
	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func cores(n float64) yr.Resources {
	return yr.Resources{yr.CPU: yr.Amount(n * 1000), yr.Memory: yr.Amount(8192)}
}

// whole asks for all of a one-core node.
var whole = &wirepb.Options{Cpu: 1000, Memory: 4096}

var half = &wirepb.Options{Cpu: 500, Memory: 500}

func TestACallReturns(t *testing.T) {
	d := newNode(t, cores(2)).driver(&wirepb.Hello{})
	f := d.define(half)
	require.Equal(t, "hello", d.result(d.call(f, "echo hello")).text)
}

func TestManyCallsReturn(t *testing.T) {
	d := newNode(t, cores(2)).driver(&wirepb.Hello{})
	f := d.define(half)
	var list []yr.ID
	for i := range 2000 {
		list = append(list, d.call(f, fmt.Sprint("echo ", i)))
	}
	for i, id := range list {
		require.Equal(t, fmt.Sprint(i), d.result(id).text)
	}
}

func TestAReferenceArrivesAsItsValue(t *testing.T) {
	d := newNode(t, cores(2)).driver(&wirepb.Hello{})
	f := d.define(half)
	a := d.call(f, "echo 3")
	b := d.call(f, "first", a)
	require.Equal(t, "3", d.result(b).text)
}

func TestAFailedArgumentFailsTheCallWithItsError(t *testing.T) {
	d := newNode(t, cores(2)).driver(&wirepb.Hello{})
	f := d.define(half)
	a := d.call(f, "raise boom")
	b := d.result(d.call(f, "first", a))
	require.Equal(t, yr.DependencyFailed, b.code)
	require.Equal(t, "boom", b.text)
	require.True(t, b.v[0].Serialized)
}

func TestARaisingFunctionCostsItsWorker(t *testing.T) {
	n := newNode(t, cores(2))
	d := n.driver(&wirepb.Hello{})
	f := d.define(half)
	first := d.result(d.call(f, "who")).text
	require.Equal(t, yr.UserException, d.result(d.call(f, "raise boom")).code)
	require.NotEqual(t, first, d.result(d.call(f, "who")).text)
}

func TestRetriesRunAgain(t *testing.T) {
	d := newNode(t, cores(2)).driver(&wirepb.Hello{})
	f := d.define(&wirepb.Options{Cpu: 500, RetryTimes: 1})
	require.Equal(t, "ok", d.result(d.call(f, "flaky")).text)
}

func TestADeadWorkerFailsItsCall(t *testing.T) {
	d := newNode(t, cores(2)).driver(&wirepb.Hello{})
	f := d.define(half)
	r := d.result(d.call(f, "die"))
	require.Equal(t, yr.WorkerLost, r.code)
	require.Contains(t, r.text, "exit code 3")
}

func TestInfeasibleWorkFailsAtOnce(t *testing.T) {
	d := newNode(t, cores(2)).driver(&wirepb.Hello{})
	f := d.define(&wirepb.Options{Cpu: 500, CustomResources: map[string]float64{"ssd": 5}})
	r := d.result(d.call(f, "echo"))
	require.Equal(t, yr.ResourceConfigError, r.code)
	require.Contains(t, r.text, "ssd")
	_, id := d.create("", &wirepb.Options{Cpu: 5000}, "echo")
	require.Contains(t, d.event(id, yr.StateScheduleFailed).GetStatus().GetMessage(), "CPU")
}

func TestWorkWaitsForResourcesAndIdleWorkersGiveWay(t *testing.T) {
	n := newNode(t, cores(1))
	d := n.driver(&wirepb.Hello{RecycleMs: 300_000})
	f := d.define(&wirepb.Options{Cpu: 1000})
	require.Equal(t, "x", d.result(d.call(f, "echo x")).text)
	g := d.define(&wirepb.Options{Cpu: 900}) // another pool: the idle worker of f must go
	require.Equal(t, "y", d.result(d.call(g, "echo y")).text)
}

func TestABlockedWorkerLendsItsCPUAndGivesTasksBack(t *testing.T) {
	n := newNode(t, cores(1))
	d := n.driver(&wirepb.Hello{})
	f := d.define(&wirepb.Options{Cpu: 1000})
	blocked := d.call(f, "block")
	require.Equal(t, "g", d.result(d.call(f, "echo g")).text, "one core, and the function that has it waits")
	n.release("done")
	require.Equal(t, "done", d.result(blocked).text)
}

func TestRecursionDeeperThanTheNodeEnds(t *testing.T) {
	d := newNode(t, cores(1)).driver(&wirepb.Hello{})
	f := d.define(whole)
	require.Equal(t, "bottom", d.result(d.call(f, "nest 12")).text, "two workers fill the memory; twelve wait for each other")
}

func TestTasksBehindASlowOneAreCalledBack(t *testing.T) {
	n := newNode(t, cores(1))
	d := n.driver(&wirepb.Hello{})
	f := d.define(half)
	for range 50 { // teach the node that f is quick, so that it sends ahead
		d.result(d.call(f, "echo"))
	}
	slow := d.call(f, "hold")
	var rest []yr.ID
	for range 20 {
		rest = append(rest, d.call(f, "echo late"))
	}
	for _, id := range rest {
		require.Equal(t, "late", d.result(id).text)
	}
	n.release("slow")
	require.Equal(t, "slow", d.result(slow).text)
}

func TestCancel(t *testing.T) {
	n := newNode(t, cores(1))
	d := n.driver(&wirepb.Hello{})
	f := d.define(&wirepb.Options{Cpu: 1000})
	running := d.call(f, "hold")
	queued := d.call(f, "echo")
	cancel := func(id yr.ID, force bool) {
		d.send(wire.AppendMessage(nil, wire.Cancel, 0, &wirepb.Cancel{Ids: [][]byte{id[:]}, Force: force}))
	}
	cancel(queued, false)
	require.Contains(t, d.result(queued).text, "cancelled")
	cancel(running, true)
	require.Contains(t, d.result(running).text, "cancelled")
	require.Equal(t, "again", d.result(d.call(f, "echo again")).text)
}

func TestDeadlines(t *testing.T) {
	n := newNode(t, cores(1))
	d := n.driver(&wirepb.Hello{})
	f := d.define(&wirepb.Options{Cpu: 1000})
	id := d.id()
	tail := wire.AppendTail(nil, &wire.Tail{Deadline: uint64(time.Now().Add(100 * time.Millisecond).UnixMicro())})
	d.send(wire.AppendCall(nil, 0, &wire.Call{ID: id, Target: f, Returns: 1, Args: []byte("hold"), Tail: tail}))
	require.Equal(t, yr.DeadlineExceeded, d.result(id).code)
}

func TestInstancesKeepOrderAndState(t *testing.T) {
	d := newNode(t, cores(2)).driver(&wirepb.Hello{})
	c, id := d.create("", half, "echo")
	var list []yr.ID
	for range 300 {
		list = append(list, d.call(c, "count"))
	}
	for i, call := range list {
		require.Equal(t, fmt.Sprint(i+1), d.result(call).text)
	}
	status := d.request(func(corr uint64) []byte {
		return wire.AppendMessage(nil, wire.Kill, corr, &wirepb.Kill{InstanceId: id[:], Wait: true})
	})
	require.Zero(t, status.GetCode(), status.GetMessage())
	gone := d.result(d.call(c, "count"))
	require.Equal(t, yr.InstanceExited, gone.code)
	require.Contains(t, gone.text, "terminated")
}

func TestABlockedHeadHoldsUpOnlyItsCaller(t *testing.T) {
	n := newNode(t, cores(2))
	d := n.driver(&wirepb.Hello{})
	f := d.define(half)
	c, id := d.create("", half, "echo")
	slow := d.call(f, "hold")
	first := d.call(c, "first", slow)
	second := d.call(c, "count")
	d.event(id, yr.StateRunning)
	other := n.driver(&wirepb.Hello{})
	other.numbers++
	other.send(wire.AppendMessage(nil, wire.Bind, 0, &wirepb.Bind{Number: 1, InstanceId: id[:]}))
	require.Equal(t, "1", other.result(other.call(1, "count")).text)
	require.NotContains(t, d.results, second)
	n.untilHeld() // its worker may be slow to come
	n.release("v")
	require.Equal(t, "v", d.result(first).text)
	require.Equal(t, "2", d.result(second).text)
}

func TestARaisingConstructorFailsTheCalls(t *testing.T) {
	d := newNode(t, cores(2)).driver(&wirepb.Hello{})
	c, id := d.create("", half, "raise boom")
	r := d.result(d.call(c, "count"))
	require.Equal(t, "boom", r.text)
	require.Equal(t, yr.UserException, r.code)
	require.Equal(t, "boom", string(d.event(id, yr.StateFatal).GetError()))
}

func TestInstancesRecover(t *testing.T) {
	d := newNode(t, cores(2)).driver(&wirepb.Hello{})
	c, id := d.create("", &wirepb.Options{Cpu: 500, RecoverRetryTimes: 1}, "echo")
	d.event(id, yr.StateRunning)
	require.Equal(t, "1", d.result(d.call(c, "count")).text)
	d.call(c, "die") // sent again after the restart, and dies again: the second time is final
	d.event(id, yr.StateFatal)
	require.Equal(t, yr.InstanceExited, d.result(d.call(c, "count")).code)
}

func TestNamedInstancesAreShared(t *testing.T) {
	n := newNode(t, cores(2))
	a := n.driver(&wirepb.Hello{})
	c, id := a.create("counter", &wirepb.Options{Cpu: 500}, "echo")
	require.Equal(t, "1", a.result(a.call(c, "count")).text)
	b := n.driver(&wirepb.Hello{})
	c2, id2 := b.create("counter", &wirepb.Options{Cpu: 500}, "echo")
	require.Equal(t, "2", b.result(b.call(c2, "count")).text)
	require.Equal(t, id.String(), string(b.events[id2.String()].GetBoundTo()))
	b.corr++
	b.send(wire.AppendMessage(nil, wire.Lookup, b.corr, &wirepb.Lookup{Name: "counter"}))
	b.until("FOUND", func() bool { return b.found[b.corr] != nil })
	require.True(t, b.found[b.corr].GetFound())
	// The name is free as soon as the instance was told to end.
	require.Zero(t, a.request(func(corr uint64) []byte {
		return wire.AppendMessage(nil, wire.Kill, corr, &wirepb.Kill{InstanceId: id[:]})
	}).GetCode())
	c3, id3 := a.create("counter", &wirepb.Options{Cpu: 500}, "echo")
	require.Equal(t, "1", a.result(a.call(c3, "count")).text)
	require.NotEqual(t, id, id3)
}

func TestTheEndOfADriverEndsItsJob(t *testing.T) {
	n := newNode(t, cores(2))
	d := n.driver(&wirepb.Hello{})
	f := d.define(half)
	d.call(f, "hold")
	_, kept := d.create("kept", &wirepb.Options{Cpu: 100, Detached: true}, "echo")
	_, id := d.create("", half, "echo")
	d.event(id, yr.StateRunning)
	d.event(kept, yr.StateRunning)
	_ = d.nc.Close()
	require.Eventually(t, func() bool {
		list := n.router.Instances()
		return len(list) == 1 && list[0].ID == kept
	}, 5*time.Second, 5*time.Millisecond)
	require.Zero(t, n.router.Counters()["objects"])
}

func TestGoodbyeIsAnsweredWhenAllIsGone(t *testing.T) {
	n := newNode(t, cores(2))
	d := n.driver(&wirepb.Hello{})
	f := d.define(half)
	d.result(d.call(f, "echo"))
	require.Zero(t, d.request(func(corr uint64) []byte { return wire.AppendEmpty(nil, wire.Goodbye, corr) }).GetCode())
	require.Zero(t, n.router.Workers())
}

func TestObjectsLiveAsLongAsSomebodyRefersToThem(t *testing.T) {
	n := newNode(t, cores(2))
	d := n.driver(&wirepb.Hello{})
	d.corr++
	d.send(wire.AppendMessage(nil, wire.Lease, d.corr, &wirepb.LeaseRequest{Size: 1 << 20}))
	d.until("LEASED", func() bool { return d.leased[d.corr] != nil })
	l := d.leased[d.corr]
	inner, outer := d.id(), d.id()
	place := yr.Place{Segment: l.GetSegment(), Generation: l.GetGeneration(), Offset: 0, Length: 100_000}
	d.send(wire.AppendObject(nil, wire.PutType, 0, inner, &wire.Value{Kind: wire.Placed, Place: place}))
	d.send(wire.AppendObject(nil, wire.PutType, 0, outer, &wire.Value{Data: []byte("x"), Contains: inner[:]}))
	d.send(wire.AppendIDs(nil, wire.Release, 0, []yr.ID{inner}))
	d.settle()
	other := n.driver(&wirepb.Hello{})
	other.send(wire.AppendIDs(nil, wire.Get, 0, []yr.ID{inner}))
	other.until("OBJECT", func() bool { return len(other.objects) == 1 })
	require.Equal(t, place, other.objects[inner].v[0].Place, "the outer object keeps the inner one alive")
	d.send(wire.AppendIDs(nil, wire.Release, 0, []yr.ID{outer}))
	d.until("FREED", func() bool { return len(d.freed) == 1 })
	require.Equal(t, place, d.freed[0])
	other.send(wire.AppendIDs(nil, wire.Get, 0, []yr.ID{outer}))
	other.until("OBJECT", func() bool { return len(other.objects) == 2 })
	require.Equal(t, yr.ObjectNotFound, other.objects[outer].code)
}

func TestWorkersThatCannotStartFailTheCalls(t *testing.T) {
	n := newNode(t, cores(2))
	n.failing = yr.E("start worker", yr.UserCodeLoad, "python9 not found")
	d := n.driver(&wirepb.Hello{})
	f := d.define(half)
	r := d.result(d.call(f, "echo"))
	require.Equal(t, yr.UserCodeLoad, r.code)
	require.Contains(t, r.text, "python9 not found")
	_, id := d.create("", half, "echo")
	require.Contains(t, d.event(id, yr.StateFatal).GetStatus().GetMessage(), "python9")
}

func TestIdleWorkersAreRecycled(t *testing.T) {
	n := newNode(t, cores(2))
	d := n.driver(&wirepb.Hello{RecycleMs: 100})
	f := d.define(half)
	first := d.result(d.call(f, "who")).text
	require.Eventually(t, func() bool { return n.router.Workers() == 0 }, 5*time.Second, 5*time.Millisecond)
	require.NotEqual(t, first, d.result(d.call(f, "who")).text)
}

func TestABrokenFrameEndsTheSessionWithAReason(t *testing.T) {
	n := newNode(t, cores(2))
	d := n.driver(&wirepb.Hello{})
	d.send(wire.AppendBytes(nil, wire.CallType, 0, 0, []byte("short")))
	h, body, err := d.next(5 * time.Second)
	require.NoError(t, err)
	require.Equal(t, wire.Reject, h.Type)
	m := &wirepb.Status{}
	require.NoError(t, wire.DecodeMessage(h.Type, body, m))
	require.Equal(t, int32(yr.FrameMalformed), m.GetCode())
}

func TestWhySaysWhatACallWaitsFor(t *testing.T) {
	n := newNode(t, cores(1))
	d := n.driver(&wirepb.Hello{})
	f := d.define(&wirepb.Options{Cpu: 1000})
	running := d.call(f, "hold")
	dependent := d.call(f, "first", running)
	queued := d.call(f, "echo")
	require.Eventually(t, func() bool {
		e, ok := n.router.Why(queued.String())
		return ok && e.State == "queued"
	}, 5*time.Second, time.Millisecond)
	e, ok := n.router.Why(dependent.String())
	require.True(t, ok)
	require.Contains(t, e.Reason, running.String())
	require.Greater(t, len(e.Trail), 1, "the trail leads to the running call: %v", e.Trail)
	n.untilHeld()
	n.release("x")
	d.result(queued)
	d.result(dependent)
	require.Empty(t, n.router.Calls())
}

func TestADetachedInstanceDoesNotWaitForTheResultOfAnEndedJob(t *testing.T) {
	n := newNode(t, cores(2))
	d := n.driver(&wirepb.Hello{})
	dep := d.call(d.define(half), "hold")
	n.untilHeld()
	number, in := d.create("stays", &wirepb.Options{Cpu: 500, Memory: 500, Detached: true}, "x")
	d.event(in, yr.StateRunning)
	d.call(number, "first", dep)
	d.settle()
	require.Equal(t, uint64(2), n.router.Counters()["calls"])
	require.NoError(t, d.nc.Close())
	require.Eventually(t, func() bool { return n.router.Counters()["calls"] == 0 }, 5*time.Second, time.Millisecond)
	require.Equal(t, uint64(1), n.router.Counters()["instances"])
}

func TestAWorkerThatIsGivenUpAfterItConnectedEnds(t *testing.T) {
	n := newNode(t, cores(2))
	d := n.driver(&wirepb.Hello{})
	f := d.define(half)
	require.Equal(t, "x", d.result(d.call(f, "echo x")).text)
	n.mu.Lock()
	spec := n.last
	n.mu.Unlock()
	n.router.WorkerStarted(spec.Worker, 0, yr.E("start worker", yr.WorkerLost, "its template ended"))
	require.Eventually(t, func() bool {
		c := n.router.Counters()
		return c["sessions"] == 1 && c["workers"] == 0
	}, 5*time.Second, time.Millisecond)
	require.Equal(t, "y", d.result(d.call(f, "echo y")).text)
}
