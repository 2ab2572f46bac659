package several

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/test/harness"
	"yr/test/harness/fault"
)

// missed is how long a node may be silent before it is dead, and what the rest of the computer needs to act on it.
const missed = 10 * time.Second

// TestNodeLosesPower ends everything on a node at once while it has work of every kind.
func TestNodeLosesPower(t *testing.T) {
	t.Parallel()
	c := harness.StartComputer(t, 1, 2)
	a := c.Nodes[0]
	p := driver(a, `
@yr.invoke
def slow(seconds):
    time.sleep(seconds)
    return yr.apis.get_node_id()

def made(size):
    return bytes(size)

make = yr.invoke(made)

yr.init()
phoenix = Seat.options(on(FAR, name="phoenix", recover_retry_times=3)).invoke()
life, home = yr.get(phoenix.who.invoke())
mortal = Seat.options(on(home)).invoke()
assert yr.get([mortal.count.invoke() for _ in range(3)]) == [1, 2, 3]
made_there = make.options(on(home)).invoke(5_000_000)
yr.wait(made_there, timeout=20)
slow.options(on(home))
once = slow.invoke(60)
slow.options(on(FAR, retry_times=5))
again = [slow.invoke(2) for _ in range(8)]
time.sleep(0.5)
say("lives on", home)
sys.stdin.readline()

# What asked to come back comes back; nobody has to ask twice for what may be repeated.
assert set(yr.get(again, timeout=30)) <= set("bc"), "calls with retries"
deadline = time.monotonic() + 30
while True:
    try:
        after = yr.get(phoenix.who.invoke(), timeout=30)
        break
    except yr.YRError as e:
        assert time.monotonic() < deadline, e
        time.sleep(0.05)
say("rose on", after[1])
assert after[0] != life and after[1] not in ("a", home), after
assert yr.get(yr.get_instance("phoenix").who.invoke()) == after, "its name goes with it"

# What cannot come back says so, and why.
for ended in mortal.count.invoke(), once:
    with fails(yr.YRError, home, within=20):
        yr.get(ended, timeout=30)
try:  # its bytes may have been here already
    assert yr.get(made_there, timeout=30) == bytes(5_000_000)
except yr.YRError as e:
    assert home in str(e), e
phoenix.terminate()
say("told")
`)
	home := c.Node(strings.TrimPrefix(p.Says("lives on"), "lives on "))
	require.Contains(t, []string{"b", "c"}, home.Name)
	began := time.Now()
	home.PowerOff()
	p.Tell("it is off")
	p.Says("rose on")
	took := time.Since(began)
	t.Logf("recovered after %.1f s", took.Seconds())
	require.Less(t, took, missed)
	p.MustEnd()
	c.WholeFor(c.Others(home)...)
	c.Again(home)
	c.Whole()
	run(home, warmUp)
}

// TestIsolatedNodeStopsItsInstancesFirst has an instance leave traces: its second life must begin after its first has ended.
func TestIsolatedNodeStopsItsInstancesFirst(t *testing.T) {
	t.Parallel()
	c := harness.StartComputer(t, 1, 2)
	p := driver(c.Nodes[0], `
import threading

@yr.instance
class Beacon:
    """Shines every 10 ms, whether it is asked or not."""

    def __init__(self, path):
        self.path, self.life = path, os.urandom(4).hex()
        threading.Thread(target=self.shine, daemon=True).start()

    def shine(self):
        with open(self.path, "a") as out:
            while True:
                print(self.life, time.monotonic(), file=out, flush=True)
                time.sleep(0.01)

    def node(self):
        return yr.apis.get_node_id()

yr.init()
path = os.path.join(os.getcwd(), "beacon")
beacon = Beacon.options(on(FAR, recover_retry_times=3)).invoke(path)
home = yr.get(beacon.node.invoke())
say("shines on", home)
sys.stdin.readline()
while True:
    try:
        moved = yr.get(beacon.node.invoke(), timeout=30)
    except yr.YRError:
        time.sleep(0.05)
        continue
    if moved != home:
        break
say("moved to", moved)
sys.stdin.readline()
lives = {}
for line in open(path):
    life, at = line.split()
    lives.setdefault(life, []).append(float(at))
first, second = sorted(lives.values())
assert max(first) < min(second), f"both were alive for {max(first) - min(second):.2f} s"
say("dark for", min(second) - max(first))
`)
	home := c.Node(strings.TrimPrefix(p.Says("shines on"), "shines on "))
	require.NotNil(t, home)
	require.NoError(t, c.Lab.Isolate(home.Host))
	p.Tell("it is alone")
	p.Says("moved to")
	require.NoError(t, c.Lab.Heal())
	c.Whole() // it comes back by itself, as a new incarnation
	p.Tell("all are back")
	t.Log(p.Says("dark for"))
	p.MustEnd()
	run(home, warmUp)
}

// TestDaemonsDieUnderLoad kills one daemon after the other while a program works on all of them.
func TestDaemonsDieUnderLoad(t *testing.T) {
	t.Parallel()
	c := harness.StartComputer(t, 1, 2)
	for _, n := range c.Nodes {
		run(n, warmUp)
		was := n.Child()
		n.Kill() // a first death opens logs; what comes after is compared
		n.Restarted(was)
	}
	c.Whole()
	run(c.Nodes[0], warmUp)
	before := c.Settled()
	s := fault.Schedule{
		Seed: fault.Seed(), Count: 6,
		Lasts: [2]time.Duration{time.Second, time.Second}, Pauses: [2]time.Duration{0, time.Second},
		Settled: func() error { return c.Ready(c.Nodes...) },
	}
	for _, n := range c.Nodes {
		s.Menu = append(s.Menu, fault.Fault{Name: "kill the daemon of " + n.Name, Begin: func() error { n.Kill(); return nil }})
	}
	t.Log(s)
	near := startLoad(t, c.Nodes[0], 13, "a", "call", "create", "object")
	far := startLoad(t, c.Nodes[1], 13, "c", "call", "create", "instance", "object")
	faults, err := s.Run(t.Context())
	require.NoError(t, err)
	require.NoError(t, near.tally(faults).Err(missed))
	counted := far.tally(faults)
	require.NoError(t, counted.Err(missed))
	require.Zero(t, counted.ByKind["call"]["failed"], "calls with retries")
	c.Whole()
	c.MustReturnTo(before)
}

// TestPausedNode stops a machine for less and for more than it takes to be missed.
func TestPausedNode(t *testing.T) {
	t.Parallel()
	c := harness.StartComputer(t, 1, 2)
	b := c.Nodes[1]
	s := fault.Schedule{
		Seed: fault.Seed(), Count: 2,
		Lasts: [2]time.Duration{2 * time.Second, 8 * time.Second}, Pauses: [2]time.Duration{time.Second, 2 * time.Second},
		Menu: []fault.Fault{{
			Name:  "pause b",
			Begin: func() error { b.Host.Pause(); return nil },
			End:   func() error { b.Host.Resume(); return nil },
		}},
		Settled: func() error { return c.Ready(c.Nodes...) },
	}
	t.Log(s)
	l := startLoad(t, c.Nodes[0], 20, harness.Far, "call", "create", "instance", "object")
	faults, err := s.Run(t.Context())
	require.NoError(t, err)
	require.NoError(t, l.tally(faults).Err(missed+missed))
	c.Whole()
	run(b, warmUp)
}
