package route_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/pkg/wire"
	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
)

func TestWorkThatDoesNotFitRunsOnAnotherNode(t *testing.T) {
	_, nodes := newLab(t, cores(1), cores(2))
	d := nodes[0].driver(&wirepb.Hello{})
	f := d.define(&wirepb.Options{Cpu: 2000})
	require.Equal(t, "hello", d.result(d.call(f, "echo hello")).text)
	require.Equal(t, 0, nodes[0].started())
	require.Equal(t, 1, nodes[1].started())
}

func TestWorkSpreadsOverNodes(t *testing.T) {
	_, nodes := newLab(t, cores(1), cores(1), cores(1))
	d := nodes[0].driver(&wirepb.Hello{})
	f := d.define(&wirepb.Options{Cpu: 1000})
	var held []yr.ID
	for range 3 {
		held = append(held, d.call(f, "hold"))
	}
	for _, n := range nodes {
		n.untilHeld()
	}
	for _, n := range nodes {
		n.release(string(n.name))
	}
	all := ""
	for _, id := range held {
		all += d.result(id).text
	}
	require.ElementsMatch(t, strings.Split("abc", ""), strings.Split(all, ""))
}

func TestImpossibleWorkFailsAtOnceInACluster(t *testing.T) {
	_, nodes := newLab(t, cores(1), cores(2))
	d := nodes[0].driver(&wirepb.Hello{})
	f := d.define(&wirepb.Options{Cpu: 3000})
	require.Equal(t, yr.ResourceConfigError, d.result(d.call(f, "echo hello")).code)
}

func TestAnInstanceOnAnotherNode(t *testing.T) {
	_, nodes := newLab(t, cores(1), cores(2))
	d := nodes[0].driver(&wirepb.Hello{})
	in, id := d.create("", &wirepb.Options{Cpu: 2000}, "")
	for i := range 200 {
		require.Equal(t, fmt.Sprint(i+1), d.result(d.call(in, "count")).text)
	}
	require.Equal(t, int32(0), d.request(func(corr uint64) []byte {
		return wire.AppendMessage(nil, wire.Kill, corr, &wirepb.Kill{InstanceId: id[:], Wait: true})
	}).GetCode())
	require.Equal(t, yr.InstanceExited, d.result(d.call(in, "count")).code)
}

func TestANamedInstanceIsFoundFromEverywhere(t *testing.T) {
	_, nodes := newLab(t, cores(1), cores(1), cores(1))
	first := nodes[0].driver(&wirepb.Hello{})
	in, id := first.create("counter", &wirepb.Options{Cpu: 500}, "")
	first.event(id, yr.StateRunning)
	require.Equal(t, "1", first.result(first.call(in, "count")).text)
	for i, n := range nodes[1:] {
		d := n.driver(&wirepb.Hello{})
		d.corr++
		d.send(wire.AppendMessage(nil, wire.Lookup, d.corr, &wirepb.Lookup{Name: "counter"}))
		d.until("FOUND", func() bool { return d.found[d.corr] != nil })
		require.True(t, d.found[d.corr].GetFound())
		d.numbers++
		d.send(wire.AppendMessage(nil, wire.Bind, 0, &wirepb.Bind{Number: d.numbers, InstanceId: d.found[d.corr].GetInstanceId()}))
		var calls []yr.ID
		for range 50 {
			calls = append(calls, d.call(d.numbers, "count"))
		}
		for k, c := range calls {
			require.Equal(t, fmt.Sprint(2+50*i+k), d.result(c).text)
		}
		same, sameID := d.create("counter", &wirepb.Options{Cpu: 500, GetIfExists: true}, "")
		require.Equal(t, "x", d.result(d.call(same, "echo x")).text)
		d.until("the bound instance", func() bool { return len(d.events[sameID.String()].GetBoundTo()) > 0 })
		require.Equal(t, id[:], d.events[sameID.String()].GetBoundTo())
	}
}

// put puts n bytes into shared memory of the driver's node.
func (d *driver) put(n int, k byte) yr.ID {
	id := d.id()
	place := d.slab(n)
	f, err := d.n.store.File(place.Segment, place.Generation, true, d.prefix.ID(0))
	require.NoError(d.t, err)
	defer f.Close()
	_, err = f.WriteAt(bytes.Repeat([]byte{k}, n), int64(place.Offset)) //nolint:gosec // small
	require.NoError(d.t, err)
	d.send(wire.AppendObject(nil, wire.PutType, 0, id, &wire.Value{Kind: wire.Placed, Place: place}))
	return id
}

// slab leases room for n bytes.
func (d *driver) slab(n int) yr.Place {
	d.corr++
	corr := d.corr
	d.send(wire.AppendMessage(nil, wire.Lease, corr, &wirepb.LeaseRequest{Size: uint64(n)})) //nolint:gosec // small
	d.until("LEASED", func() bool { return d.leased[corr] != nil })
	l := d.leased[corr]
	require.Zero(d.t, l.GetStatus().GetCode())
	return yr.Place{Segment: l.GetSegment(), Generation: l.GetGeneration(), Length: uint64(n)} //nolint:gosec // small
}

func TestALargeArgumentGoesWhereTheWorkIs(t *testing.T) {
	_, nodes := newLab(t, cores(1), cores(2))
	d := nodes[0].driver(&wirepb.Hello{})
	f := d.define(&wirepb.Options{Cpu: 2000})
	object := d.put(3<<20, 'x')
	for range 5 { // the bytes come once
		require.Equal(t, fmt.Sprint(3<<20), d.result(d.call(f, "size", object)).text)
	}
	require.Equal(t, uint64(3<<20), nodes[1].current().Counters()["fetched_bytes_total"])
	d.send(wire.AppendIDs(nil, wire.Release, 0, []yr.ID{object}))
	require.Eventually(t, func() bool { return nodes[1].store.Stats().Objects == 0 }, 5*time.Second, time.Millisecond)
}

func TestALargeResultComesHome(t *testing.T) {
	_, nodes := newLab(t, cores(1), cores(2))
	d := nodes[0].driver(&wirepb.Hello{})
	f := d.define(&wirepb.Options{Cpu: 2000})
	id := d.call(f, "large 3000000")
	v := d.result(id).v[0]
	require.Equal(t, wire.Placed, v.Kind)
	b, err := nodes[0].store.Read(v.Place)
	require.NoError(t, err)
	require.Equal(t, bytes.Repeat([]byte{'y'}, 3000000), b)
	require.Equal(t, "3000000", d.result(d.call(f, "size", id)).text)
	d.send(wire.AppendIDs(nil, wire.Release, 0, []yr.ID{id}))
	require.Eventually(t, func() bool {
		return nodes[0].store.Stats().Objects == 0 && nodes[1].store.Stats().Objects == 0
	}, 5*time.Second, time.Millisecond)
}

func TestADriversEndCleansUpEverywhere(t *testing.T) {
	_, nodes := newLab(t, cores(1), cores(2))
	d := nodes[0].driver(&wirepb.Hello{})
	f := d.define(&wirepb.Options{Cpu: 1000})
	d.create("", &wirepb.Options{Cpu: 1000}, "")
	id := d.call(f, "hold")
	d.call(f, "first", id)
	nodes[1].untilHeld()
	_ = d.nc.Close()
	for _, n := range nodes {
		require.Eventually(t, func() bool {
			c := n.current().Counters()
			return c["workers"] == 0 && c["jobs"] == 0 && c["objects"] == 0 && c["calls"] == 0
		}, 5*time.Second, time.Millisecond, "%v", n.current().Counters())
	}
}

func TestALostNodesCallsAreRetriedElsewhere(t *testing.T) {
	l, nodes := newLab(t, cores(1), cores(2), cores(2))
	d := nodes[0].driver(&wirepb.Hello{})
	again := d.define(&wirepb.Options{Cpu: 2000, RetryTimes: 1})
	once := d.define(&wirepb.Options{Cpu: 1500})
	a := d.call(again, "hold")
	require.Eventually(t, func() bool { return nodes[1].started()+nodes[2].started() == 1 }, 5*time.Second, time.Millisecond)
	b := d.call(once, "hold")
	nodes[1].untilHeld()
	nodes[2].untilHeld()
	l.kill(nodes[1])
	lost := a
	if d.heldOn(nodes[2]) == "again" {
		lost = b
	}
	if lost == b {
		o := d.result(b)
		require.Equal(t, yr.WorkerLost, o.code)
		require.Contains(t, o.text, "node b was lost")
	}
	nodes[2].release("done")
	if lost == a {
		require.Equal(t, "done", d.result(b).text)
		nodes[2].untilHeld()
		nodes[2].release("done")
	}
	require.Equal(t, "done", d.result(a).text)
}

// heldOn says which of the two functions of the test above a node runs.
func (d *driver) heldOn(n *node) string {
	_, free := n.current().Capacity()
	if free[yr.CPU] == 0 {
		return "again"
	}
	return "once"
}

func TestARecoverableInstanceComesBackOnAnotherNode(t *testing.T) {
	l, nodes := newLab(t, cores(1), cores(2), cores(2))
	d := nodes[0].driver(&wirepb.Hello{})
	in, id := d.create("", &wirepb.Options{Cpu: 2000, RecoverRetryTimes: 1}, "")
	d.event(id, yr.StateRunning)
	at := nodes[1]
	if nodes[1].started() == 0 {
		at = nodes[2]
	}
	held := d.call(in, "hold")
	at.untilHeld()
	l.kill(at)
	other := nodes[1]
	if at == other {
		other = nodes[2]
	}
	other.untilHeld()
	other.release("again")
	require.Equal(t, "again", d.result(held).text)
}

func TestAReferenceInsideAResultOfAnotherNode(t *testing.T) {
	_, nodes := newLab(t, cores(1), cores(2))
	d := nodes[0].driver(&wirepb.Hello{})
	f := d.define(&wirepb.Options{Cpu: 2000})
	id := d.call(f, "wrap inner")
	o := d.result(id)
	require.Equal(t, 1, o.v[0].Contains.Len())
	inner := o.v[0].Contains.At(0)
	d.send(wire.AppendIDs(wire.AppendIDs(nil, wire.Retain, 0, []yr.ID{inner}), wire.Get, 0, []yr.ID{inner}))
	d.until("the inner object", func() bool { _, ok := d.objects[inner]; return ok })
	require.Equal(t, "inner", d.objects[inner].text)
	d.send(wire.AppendIDs(nil, wire.Release, 0, []yr.ID{id}))
	d.settle()
	d.send(wire.AppendIDs(nil, wire.Release, 0, []yr.ID{inner}))
	require.Eventually(t, func() bool {
		return nodes[0].current().Counters()["objects"] == 0 && nodes[1].current().Counters()["objects"] == 0
	}, 5*time.Second, time.Millisecond)
}

func TestWorkGoesOnWhileTheHirersDaemonRestarts(t *testing.T) {
	_, nodes := newLab(t, cores(1), cores(3))
	d := nodes[0].driver(&wirepb.Hello{Job: "job-1"})
	f := d.define(&wirepb.Options{Cpu: 2000})
	held := d.call(f, "hold")
	nodes[1].untilHeld()
	nodes[0].crash(d)
	d.resume(nil, append(defineFrame(f, &wirepb.Options{Cpu: 2000}),
		wire.AppendCall(nil, wire.Resent, &wire.Call{ID: held, Target: f, Returns: 1, Args: []byte("hold")})...))
	nodes[1].release("done")
	require.Equal(t, "done", d.result(held).text)
	require.Equal(t, "more", d.result(d.call(f, "echo more")).text)
	require.Equal(t, 1, nodes[1].started())
}

func TestWorkGoesOnWhileTheHostsDaemonRestarts(t *testing.T) {
	_, nodes := newLab(t, cores(1), cores(3))
	d := nodes[0].driver(&wirepb.Hello{})
	f := d.define(&wirepb.Options{Cpu: 2000})
	held := d.call(f, "hold")
	nodes[1].untilHeld()
	nodes[1].crash()
	nodes[1].release("done")
	require.Equal(t, "done", d.result(held).text)
	require.Equal(t, "more", d.result(d.call(f, "echo more")).text)
	require.Equal(t, 1, nodes[1].started())
}

func TestAnInstanceElsewhereSurvivesBothDaemons(t *testing.T) {
	_, nodes := newLab(t, cores(1), cores(3))
	d := nodes[0].driver(&wirepb.Hello{Job: "job-1"})
	in, id := d.create("", &wirepb.Options{Cpu: 2000}, "")
	d.event(id, yr.StateRunning)
	require.Equal(t, "1", d.result(d.call(in, "count")).text)
	nodes[1].crash()
	require.Equal(t, "2", d.result(d.call(in, "count")).text)
	nodes[0].crash(d)
	d.resume(nil, wire.AppendMessage(nil, wire.Bind, 0, &wirepb.Bind{Number: in, InstanceId: id[:]}))
	require.Equal(t, "3", d.result(d.call(in, "count")).text)
}

func TestCallersElsewhereDoNotNoticeARestartOfTheHome(t *testing.T) {
	_, nodes := newLab(t, cores(1), cores(1))
	owner := nodes[0].driver(&wirepb.Hello{Job: "job-1"})
	_, id := owner.create("counter", &wirepb.Options{Cpu: 500}, "")
	owner.event(id, yr.StateRunning)
	d := nodes[1].driver(&wirepb.Hello{})
	d.numbers++
	d.send(wire.AppendMessage(nil, wire.Bind, 0, &wirepb.Bind{Number: d.numbers, InstanceId: id[:]}))
	require.Equal(t, "1", d.result(d.call(d.numbers, "count")).text)
	held := d.call(d.numbers, "hold")
	nodes[0].untilHeld()
	nodes[0].crash(owner)
	owner.resume(nil, wire.AppendMessage(nil, wire.Bind, 0, &wirepb.Bind{Number: owner.numbers, InstanceId: id[:]}))
	nodes[0].release("done")
	require.Equal(t, "done", d.result(held).text)
	require.Equal(t, "2", d.result(d.call(d.numbers, "count")).text)
}

func TestAnObjectKeptElsewhereIsFoundAfterARestart(t *testing.T) {
	_, nodes := newLab(t, cores(1), cores(3))
	d := nodes[0].driver(&wirepb.Hello{})
	f := d.define(&wirepb.Options{Cpu: 2000})
	object := d.put(3<<20, 'x')
	require.Equal(t, fmt.Sprint(3<<20), d.result(d.call(f, "size", object)).text)
	nodes[1].crash()
	require.Equal(t, fmt.Sprint(3<<20), d.result(d.call(f, "size", object)).text)
}
