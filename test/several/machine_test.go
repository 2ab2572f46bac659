package several

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/test/harness"
	"yr/test/harness/fault"
	"yr/test/harness/lab"
)

// onePlease is a schedule of one fault of so many seconds.
func onePlease(f fault.Fault, seconds int) fault.Schedule {
	lasts := time.Duration(seconds) * time.Second
	return fault.Schedule{Seed: fault.Seed(), Count: 1, Menu: []fault.Fault{f}, Lasts: [2]time.Duration{lasts, lasts}}
}

// TestWrongClocks sets the clocks of a master and of another node wrong, in both directions, and cuts the node off
// meanwhile, so that it has to register with that clock.
func TestWrongClocks(t *testing.T) {
	t.Parallel()
	c := harness.StartComputer(t, 1, 2)
	a, b := c.Nodes[0], c.Nodes[1]
	l := startLoad(t, c.Nodes[2], 14, "c", "call", "create", "instance", "object")
	faults, err := onePlease(fault.Fault{
		Name: "wrong clocks",
		Begin: func() error {
			if err := fault.SetClock(a.Child(), 36*time.Hour); err != nil {
				return err
			}
			if err := fault.SetClock(b.Child(), -36*time.Hour); err != nil {
				return err
			}
			return c.Lab.Isolate(b.Host)
		},
		End: c.Lab.Heal,
	}, 7).Run(t.Context())
	require.NoError(t, err)
	require.NoError(t, l.tally(faults).Err(missed))
	c.Whole()
	for _, n := range c.Nodes {
		run(n, warmUp)
	}
	require.NoError(t, fault.SetClock(a.Child(), 0), "and right again, backwards by a day and a half")
	c.Whole()
	run(b, warmUp)
}

// TestSlowAndLossyNetwork works over lines as they are between cities.
func TestSlowAndLossyNetwork(t *testing.T) {
	t.Parallel()
	c := harness.StartComputer(t, 1, 2)
	seed := fault.Seed()
	line := lab.Line{Delay: 20 * time.Millisecond, Jitter: 10 * time.Millisecond, Loss: 0.01}
	each := func(do func(from, to *lab.Host) error) func() error {
		return func() error {
			for _, from := range c.Lab.Hosts {
				for _, to := range c.Lab.Hosts {
					if from == to {
						continue
					}
					if err := do(from, to); err != nil {
						return err
					}
				}
			}
			return nil
		}
	}
	l := startLoad(t, c.Nodes[0], 12, harness.Far, "call", "create", "instance", "object")
	s := onePlease(fault.Fault{
		Name:  "slow and lossy lines",
		Begin: each(func(from, to *lab.Host) error { return from.Slow(to, line, seed) }),
		End:   each(func(from, to *lab.Host) error { return from.Fast(to) }),
	}, 8)
	t.Log(s)
	faults, err := s.Run(t.Context())
	require.NoError(t, err)
	counted := l.tally(faults)
	require.NoError(t, counted.Err(failover))
	require.Zero(t, counted.Outcomes["failed"], counted.Failures())
}

// TestOneWayLink has what a node sends vanish, while it still hears the others: it must not be half there for ever.
func TestOneWayLink(t *testing.T) {
	t.Parallel()
	c := harness.StartComputer(t, 1, 2)
	a, b := c.Nodes[0], c.Nodes[1]
	l := startLoad(t, a, 15, harness.Far, "call", "create", "instance", "object")
	faults, err := onePlease(fault.Fault{
		Name:  "b is heard by nobody",
		Begin: func() error { return b.Host.Blackhole(c.Lab.Hosts...) },
		End:   func() error { return b.Host.Reach(c.Lab.Hosts...) },
	}, 8).Run(t.Context())
	require.NoError(t, err)
	require.NoError(t, l.tally(faults).Err(missed+missed))
	c.Whole()
	run(b, warmUp)
}

// TestMasterWithAFullDisk fills the disk of the only master: what needs the disk is refused with an error of its kind,
// the rest goes on, and what was acknowledged is there afterwards.
func TestMasterWithAFullDisk(t *testing.T) {
	t.Parallel()
	c := harness.NewComputer(t, 2)
	a, b := c.Nodes[0], c.Nodes[1]
	dir := filepath.Join(a.Prefix, "data")
	disk, err := fault.Mount(dir, 256<<20)
	require.NoError(t, err)
	c.Lab.After("umount -l '" + dir + "' 2>/dev/null")
	t.Cleanup(func() { _ = disk.Unmount() })
	a.MayCrash()
	c.StartMasters(1, "-s", "etcd.args.unsafe-no-fsync=false")
	b.Join()
	c.Whole()
	told := memory{}
	told.cordons(a, 4)

	l := startLoad(t, b, 12, "b", "call", "create", "instance")
	faults, err := onePlease(fault.Fault{
		Name: "full disk",
		Begin: func() error {
			if err := disk.Fill(); err != nil {
				return err
			}
			told.cordons(a, 2)
			return nil
		},
		End: disk.Free,
	}, 5).Run(t.Context())
	require.NoError(t, err)
	require.NoError(t, l.tally(faults).Err(missed))
	told.must(c)
	c.Whole()
	run(a, `
yr.init()
where.options(on("b"))
assert yr.get(where.invoke()) == "b"
`)
}

// TestMasterWhoseDiskFails has every fsync of the only master fail. It must not go on as if it had written.
func TestMasterWhoseDiskFails(t *testing.T) {
	t.Parallel()
	c := harness.NewComputer(t, 2)
	a, b := c.Nodes[0], c.Nodes[1]
	a.MayCrash()
	c.StartMasters(1, "-s", "etcd.args.unsafe-no-fsync=false") // a single master does not wait for its disk by itself
	b.Join()
	c.Whole()
	told := memory{false: true}
	l := startLoad(t, b, 12, "b", "call", "create", "instance")
	var stop func()
	faults, err := onePlease(fault.Fault{
		Name: "fsync fails",
		Begin: func() (err error) {
			if stop, err = fault.FailSync(a.Child()); err != nil {
				return err
			}
			told.cordons(a, 5)
			return nil
		},
		End: func() error { stop(); return nil },
	}, 4).Run(t.Context())
	if stop == nil {
		t.Skip(err)
	}
	require.NoError(t, l.tally(faults).Err(missed))
	require.NoError(t, err)
	told.must(c)
	c.Whole()
}

// memory is what a computer may remember of its first node: whether it is cordoned, as acknowledged last or asked for
// since then. The load runs on the second one, which goes on making instances all the while.
type memory map[bool]bool

// cordons cordons and uncordons the first node in turn.
func (m memory) cordons(at *harness.Node, times int) {
	for i := range times {
		cordon := i%2 == 0
		command := "uncordon"
		if cordon {
			command = "cordon"
		}
		if at.Yr(command, at.Name).Code == 0 {
			clear(m)
		}
		m[cordon] = true
	}
}

// must waits until the computer remembers, and uncordons the node then. A master that gave up on its disk may have to be
// started again, on the same directory.
func (m memory) must(c *harness.Computer) {
	a := c.Nodes[0]
	if !a.Session.Alive() {
		c.Again(a)
	}
	harness.Eventually(c.T(), "the last acknowledged state of a", func() (bool, string) {
		views, err := a.Views()
		return err == nil && len(views) == 2 && m[cordoned(a, a)], fmt.Sprint(views, err)
	})
	if cordoned(a, a) {
		a.MustYr("uncordon", a.Name)
	}
}

// cordoned asks a node whether another one is cordoned.
func cordoned(at, node *harness.Node) bool {
	views, err := at.Views()
	if err != nil {
		return false
	}
	for _, v := range views {
		if string(v.ID) == node.Name {
			return v.State == "cordoned"
		}
	}
	return false
}
