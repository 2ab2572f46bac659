package codec_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"yr/master"
	"yr/master/internal/codec"
	"yr/master/masterpb"
	"yr/pkg/yr"
	"yr/scheduler"
)

func machine() master.Machine {
	return master.Machine{
		ID: "n1", Identity: "i", Tag: yr.Tag([]byte("a1B")), Address: "10.0.0.1:22773", Version: "0.1.0", Master: true,
		Capacity: yr.Resources{yr.CPU: 4000, "GPU/a100/count": 2000}, Labels: map[string][]string{"zone": {"a", "b"}, "empty": nil},
		Started: time.UnixMilli(1_700_000_000_123),
	}
}

func load() master.Load {
	return master.Load{
		Available: yr.Resources{yr.CPU: -500}, Devices: []scheduler.Device{{Type: "GPU", Model: "a100", ID: 3, Memory: 80_000, Free: 250}},
		Workers: 3, Pending: 1_000_000, Empty: true, Taken: []yr.ID{yr.NewID()},
		Store: yr.StoreView{Capacity: 1, Leased: 2, Live: 3, Warm: 4, Segments: 5, Objects: 6, Inline: 7},
	}
}

func TestThereAndBack(t *testing.T) {
	m, err := codec.MachineOf(codec.Machine(machine()))
	require.NoError(t, err)
	require.Equal(t, machine(), m)

	want := load()
	l, err := codec.LoadOf(codec.Load(want))
	require.NoError(t, err)
	require.Equal(t, want, l)

	neighbour := master.Neighbour{
		ID: "n1", Tag: m.Tag, Address: "h:1", Incarnation: 7, Capacity: m.Capacity, Available: l.Available, Labels: m.Labels, Cordoned: true, Master: true,
	}
	raw := codec.Neighbour(neighbour)
	require.Equal(t, raw, codec.Neighbour(neighbour), "equal nodes are equal bytes")
	n, err := codec.NeighbourOf(raw)
	require.NoError(t, err)
	require.Equal(t, neighbour, n)

	request := scheduler.Request{
		ID: yr.NewID(), Need: yr.Resources{yr.CPU: 1}, Tenant: "acme", Priority: -3, Relaxed: 2,
		Require: []scheduler.Condition{{Label: "zone", Op: scheduler.NotIn, Values: []string{"a"}}},
	}
	local, r, err := codec.ScheduleRequest(codec.Request("n1", request))
	require.NoError(t, err)
	require.Equal(t, yr.Node("n1"), local)
	require.Equal(t, request, r)

	plan := scheduler.Plan{
		Verdict: scheduler.Wait, Node: "n1", Take: yr.Resources{yr.CPU: 1}, Devices: map[string][]int{"GPU/a100/count": {0, 3}},
		Code: yr.ResourceNotEnough, Reason: "because",
	}
	p, err := codec.SchedulerPlan(codec.Plan(plan, nil), "n1")
	require.NoError(t, err)
	require.Equal(t, plan, p)
}

func TestBounds(t *testing.T) {
	long := strings.Repeat("x", 1000)
	many := func(n int) yr.Resources {
		r := make(yr.Resources)
		for i := range n {
			r[fmt.Sprint("r", i)] = 1
		}
		return r
	}
	for name, change := range map[string]func(*master.Machine, *master.Load){
		"no name":            func(m *master.Machine, _ *master.Load) { m.ID = "" },
		"a long name":        func(m *master.Machine, _ *master.Load) { m.ID = yr.Node(long) },
		"no identity":        func(m *master.Machine, _ *master.Load) { m.Identity = "" },
		"no address":         func(m *master.Machine, _ *master.Load) { m.Address = "" },
		"a bad tag":          func(m *master.Machine, _ *master.Load) { m.Tag = yr.Tag([]byte("a/b")) },
		"too many resources": func(m *master.Machine, _ *master.Load) { m.Capacity = many(codec.MaxResources + 1) },
		"a nameless one":     func(m *master.Machine, _ *master.Load) { m.Capacity = yr.Resources{"": 1} },
		"a long label":       func(m *master.Machine, _ *master.Load) { m.Labels = map[string][]string{long: nil} },
		"a long value":       func(m *master.Machine, _ *master.Load) { m.Labels = map[string][]string{"a": {long}} },
		"too many labels": func(m *master.Machine, _ *master.Load) {
			m.Labels = map[string][]string{"a": make([]string, codec.MaxLabels)}
		},
		"too much available": func(_ *master.Machine, l *master.Load) { l.Available = many(codec.MaxResources + 1) },
		"too many devices":   func(_ *master.Machine, l *master.Load) { l.Devices = make([]scheduler.Device, codec.MaxDevices+1) },
		"a long device":      func(_ *master.Machine, l *master.Load) { l.Devices = []scheduler.Device{{Model: long}} },
		"too many taken":     func(_ *master.Machine, l *master.Load) { l.Taken = make([]yr.ID, codec.MaxTaken+1) },
	} {
		t.Run(name, func(t *testing.T) {
			m, l := machine(), load()
			change(&m, &l)
			_, err := codec.MachineOf(codec.Machine(m))
			if err == nil {
				_, err = codec.LoadOf(codec.Load(l))
			}
			require.Equal(t, yr.ParamInvalid, yr.CodeOf(err), "%v", err)
		})
	}
}

func TestErrorsKeepTheirMeaning(t *testing.T) {
	cause := yr.Wrap("claim", yr.DiskFailed, errors.New("the disk is gone"))
	got := codec.Refusal(codec.Status(cause))
	require.Equal(t, yr.DiskFailed, yr.CodeOf(got))
	require.ErrorContains(t, got, "claim: the disk is gone")

	var redirect *codec.Redirect
	require.ErrorAs(t, codec.Refusal(codec.Status(&codec.Redirect{Leader: "h:1"})), &redirect)
	require.Equal(t, "h:1", redirect.Leader)

	require.NoError(t, codec.Status(nil))
	require.NoError(t, codec.Refusal(codec.Status(context.DeadlineExceeded)), "no answer is no refusal")
	require.NoError(t, codec.Refusal(status.Error(codes.Unavailable, "gone")))
	require.NoError(t, codec.Refusal(errors.New("not of gRPC")))
}

// FuzzDecode gives every decoder what a peer might send. What is accepted is within
// the bounds, and means the same when it is sent on.
func FuzzDecode(f *testing.F) {
	add := func(kind byte, m proto.Message) {
		raw, err := proto.Marshal(m)
		require.NoError(f, err)
		f.Add(kind, raw)
	}
	add(0, codec.Machine(machine()))
	add(1, codec.Load(load()))
	f.Add(byte(2), codec.Neighbour(master.Neighbour{ID: "n", Tag: yr.Tag([]byte("abc"))}))
	add(3, codec.Request("n", scheduler.Request{Need: yr.Resources{yr.CPU: 1}, Require: []scheduler.Condition{{Label: "a"}}}))
	add(4, codec.Plan(scheduler.Plan{Verdict: scheduler.Never, Devices: map[string][]int{"GPU/a/count": {1}}}, nil))
	f.Fuzz(func(t *testing.T, kind byte, raw []byte) {
		switch kind % 5 {
		case 0:
			var p masterpb.Machine
			if proto.Unmarshal(raw, &p) != nil {
				return
			}
			if m, err := codec.MachineOf(&p); err == nil {
				again, err := codec.MachineOf(codec.Machine(m))
				require.NoError(t, err)
				require.Equal(t, m.Capacity, again.Capacity)
				require.Equal(t, m.Tag, again.Tag)
			}
		case 1:
			var p masterpb.Load
			if proto.Unmarshal(raw, &p) != nil {
				return
			}
			if l, err := codec.LoadOf(&p); err == nil {
				require.LessOrEqual(t, len(l.Devices), codec.MaxDevices)
				again, err := codec.LoadOf(codec.Load(l))
				require.NoError(t, err)
				require.Equal(t, l, again)
			}
		case 2:
			if n, err := codec.NeighbourOf(raw); err == nil {
				again, err := codec.NeighbourOf(codec.Neighbour(n))
				require.NoError(t, err)
				require.Equal(t, n.Available, again.Available)
				require.Equal(t, n.ID, again.ID)
			}
		case 3:
			var p masterpb.ScheduleRequest
			if proto.Unmarshal(raw, &p) != nil {
				return
			}
			if local, r, err := codec.ScheduleRequest(&p); err == nil {
				scheduler.Place(&scheduler.State{Local: local, Nodes: []scheduler.Node{{ID: "n", Labels: map[string][]string{"a": {"b"}}}}}, r)
			}
		case 4:
			var p masterpb.ScheduleResponse
			if proto.Unmarshal(raw, &p) != nil {
				return
			}
			if plan, err := codec.SchedulerPlan(&p, "n"); err == nil {
				_ = plan.Verdict.String()
			}
		}
	})
}
