package several

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/test/harness"
	"yr/test/harness/fault"
)

// failover is what the computer promises: so long after the loss of the leader new work is placed again.
const failover = 5 * time.Second

// unnoticed is how long a running call or instance may take more because of what happens to masters: the machine's noise.
const unnoticed = 2 * time.Second

// TestLeaderFails takes the leader of three masters away, in every way in turn, while programs work on the others.
func TestLeaderFails(t *testing.T) {
	t.Parallel()
	c := harness.StartComputer(t, 3, 0)
	var leader *harness.Node
	ways := []fault.Fault{
		{Name: "kill -9", Begin: func() error { leader.Kill(); return nil }},
		{
			Name:  "SIGSTOP",
			Begin: func() error { leader.Host.Pause(); return nil },
			End:   func() error { leader.Host.Resume(); return nil },
		},
		{
			Name:  "partition",
			Begin: func() error { return c.Lab.Isolate(leader.Host) },
			End:   c.Lab.Heal,
		},
	}
	for _, way := range ways {
		t.Run(way.Name, func(t *testing.T) {
			leader = c.Leader()
			others := c.Others(leader)
			// Names are the leader's. What a node knows of the others is enough for the rest.
			l := startLoad(t, others[0], 9, others[1].Name, "name", "create", "instance")
			local := startLoad(t, others[1], 9, others[1].Name, "call")
			faults, err := fault.Schedule{
				Seed: fault.Seed(), Count: 1, Menu: []fault.Fault{way},
				Lasts:   [2]time.Duration{6 * time.Second, 6 * time.Second},
				Settled: func() error { return c.Ready(c.Nodes...) },
			}.Run(t.Context())
			require.NoError(t, err)
			counted := l.tally(faults)
			require.NoError(t, counted.Err(failover))
			require.Zero(t, counted.Outcomes["failed"], counted.Failures())
			require.Less(t, counted.Slowest["instance"], unnoticed)
			counted = local.tally(faults)
			require.NoError(t, counted.Err(unnoticed))
			require.Less(t, counted.Slowest["call"], unnoticed)
		})
	}
}

// TestNoMasterForAWhile stops all masters; what runs on the other nodes must not be lost, and all is well afterwards.
func TestNoMasterForAWhile(t *testing.T) {
	t.Parallel()
	c := harness.StartComputer(t, 1, 2)
	outage := 10 * time.Second
	if long() {
		outage = time.Minute
	}
	l := startLoad(t, c.Nodes[1], int(outage/time.Second)+5, "b", "call", "create", "instance", "object")
	faults, err := fault.Schedule{
		Seed: fault.Seed(), Count: 1, Lasts: [2]time.Duration{outage, outage},
		Menu: []fault.Fault{{
			Name:  "no master",
			Begin: func() error { c.Nodes[0].Host.Pause(); return nil },
			End:   func() error { c.Nodes[0].Host.Resume(); return nil },
		}},
		Settled: func() error { return c.Ready(c.Nodes...) },
	}.Run(t.Context())
	require.NoError(t, err)
	require.NoError(t, l.tally(faults).Err(outage+missed))
	for _, n := range c.Nodes {
		run(n, warmUp)
	}
}

// TestPowerFailsEverywhere ends everything at one moment. What was promised to be kept is there afterwards, the rest is cleanly gone.
func TestPowerFailsEverywhere(t *testing.T) {
	t.Parallel()
	masters := 1
	if long() {
		masters = 3
	}
	c := harness.StartComputer(t, masters, 3-masters)
	views, err := c.Nodes[0].Views()
	require.NoError(t, err)
	tags := map[string]string{}
	for _, v := range views {
		tags[string(v.ID)] = v.Tag
	}
	p := driver(c.Nodes[1], `
yr.init()
detached = Seat.options(on("c", name="detached", custom_extensions={"lifecycle": "detached"})).invoke()
assert yr.get(detached.node.invoke()) == "c"
say("working")
while True:
    yr.get([where.invoke() for _ in range(100)])
`)
	p.Says("working")
	for _, n := range c.Nodes {
		n.Host.Pause()
	}
	for _, n := range c.Nodes {
		n.PowerOff()
	}
	c.Again(c.Nodes...)
	c.Whole()
	views, err = c.Nodes[2].Views()
	require.NoError(t, err)
	for _, v := range views {
		require.Equal(t, tags[string(v.ID)], v.Tag, "a node that comes back is the node that it was")
	}
	for _, n := range c.Nodes {
		f := n.Settled()
		require.Zero(t, f["objects"]+f["instances"]+f["calls"]+f["jobs"], "%s: %v", n.Name, f)
		run(n, warmUp)
	}
	run(c.Nodes[0], `
yr.init()
end = time.monotonic() + 10
while True:
    try:
        assert yr.get(Seat.options(on(name="detached")).invoke().count.invoke()) == 1
        break  # the name is free again
    except yr.YRError as e:
        assert time.monotonic() < end, e
        time.sleep(0.1)
`)
}
