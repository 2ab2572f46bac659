package several

import (
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/test/harness"
	"yr/test/harness/fault"
	"yr/test/harness/lab"
)

// TestSoak has faults of all kinds happen, one after the other, to three masters and two more nodes while two programs
// work, for YR_SOAK_SECONDS (600). The programs' own nodes are spared what would end the programs.
func TestSoak(t *testing.T) {
	onlyLong(t)
	seconds, err := strconv.Atoi(os.Getenv("YR_SOAK_SECONDS"))
	if err != nil {
		seconds = 600
	}
	c := harness.StartComputer(t, 3, 2)
	spared := map[*harness.Node]bool{c.Nodes[0]: true, c.Nodes[4]: true}
	s := fault.Schedule{
		Seed: fault.Seed(), Count: 16,
		Lasts: [2]time.Duration{time.Second, 9 * time.Second}, Pauses: [2]time.Duration{0, 2 * time.Second},
		Settled: func() error { return c.Ready(c.Nodes...) },
	}
	for _, n := range c.Nodes {
		s.Menu = append(s.Menu, toDaemon(c, n)...)
		if !spared[n] {
			s.Menu = append(s.Menu, toMachine(c, n)...)
		}
	}
	t.Log(s)
	ends := time.Now().Add(time.Duration(seconds) * time.Second)
	for round := 1; time.Now().Before(ends); round++ {
		near := startLoad(t, c.Nodes[0], 90, harness.Far, "call", "create", "instance", "object")
		other := startLoad(t, c.Nodes[4], 90, anywhere, "call", "create", "instance", "object")
		faults, err := s.Run(t.Context())
		require.NoError(t, err)
		for _, l := range []*load{near, other} {
			require.NoError(t, l.tally(faults).Err(4*missed), "round %d, %s", round, s)
		}
		c.Whole()
		s.Seed++
	}
	for name, f := range c.Settled() {
		require.Zero(t, f["objects"]+f["instances"]+f["calls"]+f["jobs"], "%s: %v", name, f)
	}
}

// toDaemon is what a node's programs survive.
func toDaemon(c *harness.Computer, n *harness.Node) []fault.Fault {
	line := lab.Line{Delay: 30 * time.Millisecond, Jitter: 30 * time.Millisecond, Loss: 0.05}
	toAll := func(do func(other *lab.Host) error) func() error {
		return func() error {
			for _, other := range c.Lab.Hosts {
				if other == n.Host {
					continue
				}
				if err := do(other); err != nil {
					return err
				}
			}
			return nil
		}
	}
	return []fault.Fault{
		{Name: "kill the daemon of " + n.Name, Begin: func() error { n.Kill(); return nil }},
		{Name: "kill a worker of " + n.Name, Begin: func() error {
			if pid := n.Find("yr-worker"); pid != 0 {
				return syscall.Kill(pid, syscall.SIGKILL)
			}
			return nil
		}},
		{
			Name:  "slow lines from " + n.Name,
			Begin: toAll(func(other *lab.Host) error { return n.Host.Slow(other, line, 1) }),
			End:   toAll(n.Host.Fast),
		},
		{
			Name:  "wrong clock of " + n.Name,
			Begin: func() error { return fault.SetClock(n.Child(), time.Hour) },
			End:   func() error { return fault.SetClock(n.Child(), 0) },
		},
	}
}

// toMachine is what ends a node's programs.
func toMachine(c *harness.Computer, n *harness.Node) []fault.Fault {
	return []fault.Fault{
		{
			Name:  "pause " + n.Name,
			Begin: func() error { n.Host.Pause(); return nil },
			End:   func() error { n.Host.Resume(); return nil },
		},
		{Name: "isolate " + n.Name, Begin: func() error { return c.Lab.Isolate(n.Host) }, End: c.Lab.Heal},
		{Name: "unplug " + n.Name, Begin: n.Host.Unplug, End: n.Host.Plug},
		{
			Name:  n.Name + " is heard by nobody",
			Begin: func() error { return n.Host.Blackhole(c.Lab.Hosts...) },
			End:   c.Lab.Heal,
		},
		{
			Name: n.Name + " hears nobody",
			Begin: func() error {
				for _, other := range c.Lab.Hosts {
					if err := other.Blackhole(n.Host); err != nil {
						return err
					}
				}
				return nil
			},
			End: c.Lab.Heal,
		},
		{
			Name:  n.Name + " loses power",
			Begin: func() error { n.PowerOff(); return nil },
			End:   func() error { c.Again(n); return nil },
		},
	}
}
