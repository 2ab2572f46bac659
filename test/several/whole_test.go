package several

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"yr/pkg/yr"
	"yr/test/harness"
)

// TestOneComputer is what programs and people see of three nodes on which nothing goes wrong.
func TestOneComputer(t *testing.T) {
	t.Parallel()
	c := harness.StartComputer(t, 1, 2)
	for _, n := range c.Nodes {
		run(n, warmUp)
	}
	for _, test := range []struct {
		name string
		run  func(*testing.T, *harness.Computer)
	}{
		{"every node shows all nodes", everyNodeShowsAll},
		{"functions spread over the nodes", functionsSpread},
		{"an instance goes where its resources are", instancesGoWhereResourcesAre},
		{"calls to an instance from every node keep their order", callsKeepTheirOrder},
		{"an array is the same everywhere", arraysAreEqual},
		{"a broadcast copies every byte once to a node", broadcastCopiesOnce},
		{"shortage waits and says for what", shortageWaits},
		{"the impossible fails at once", impossibleFails},
		{"a killed driver leaves nothing on any node", killedDriverLeavesNothing},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := c.For(t)
			before := c.Settled()
			test.run(t, c)
			c.MustReturnTo(before)
		})
	}
}

// warmUp uses every node, so that logs are open, templates run and links exist before anything is compared.
const warmUp = `
yr.init()
for node in "abc":
    where.options(on(node))
    assert yr.get([where.invoke() for _ in range(3)]) == [node] * 3
    seat = Seat.options(on(node)).invoke()
    assert yr.get(seat.node.invoke()) == node
    seat.terminate()
`

func everyNodeShowsAll(t *testing.T, c *harness.Computer) {
	for _, n := range c.Nodes {
		views, err := n.Views()
		require.NoError(t, err)
		require.Len(t, views, 3)
		leaders := 0
		for _, v := range views {
			require.NotEmpty(t, v.Tag)
			require.Equal(t, c.Node(string(v.ID)).Bus(), v.Address)
			require.Equal(t, v.ID == "a", v.Master)
			if v.Leader {
				leaders++
			}
		}
		require.Equal(t, 1, leaders, "leaders that %s sees", n.Name)
		listed := n.Yr("list", "nodes")
		require.Zero(t, listed.Code, listed)
		for _, other := range c.Nodes {
			require.Contains(t, listed.Out, other.Bus())
		}
		status := n.Yr("status")
		require.Zero(t, status.Code, status)
		require.Contains(t, status.Out, "ReadyAgentsCount: 3")
	}
}

func functionsSpread(_ *testing.T, c *harness.Computer) {
	run(c.Nodes[0], `
@yr.invoke
def rest():
    time.sleep(0.1)
    return yr.apis.get_node_id()

rest.options(on(cpu=1000))
yr.init()
nodes = set(yr.get([rest.invoke() for _ in range(40)], timeout=60))
assert nodes == set("abc"), nodes
`)
}

func instancesGoWhereResourcesAre(t *testing.T, c *harness.Computer) {
	for _, n := range c.Nodes {
		out := run(n, `
yr.init()
for node in "abc":
    seat = Seat.options(on(node)).invoke()
    assert yr.get(seat.node.invoke()) == node
    assert yr.get([seat.count.invoke() for _ in range(100)]) == list(range(1, 101))
    seat.terminate()
say(yr.apis.get_node_id())
`)
		require.Equal(t, n.Name, strings.TrimSpace(out))
	}
}

func callsKeepTheirOrder(_ *testing.T, c *harness.Computer) {
	keeper := driver(c.Nodes[0], `
@yr.instance
class Ledger:
    def __init__(self):
        self.seen = {}

    def add(self, caller, number):
        self.seen.setdefault(caller, []).append(number)
        return len(self.seen[caller])

    def all(self):
        return self.seen

yr.init()
ledger = Ledger.options(on("c", name="ledger")).invoke()
assert yr.get(ledger.all.invoke()) == {}
say("kept")
while len(yr.get(ledger.all.invoke())) < 3 or any(len(n) < 1000 for n in yr.get(ledger.all.invoke()).values()):
    time.sleep(0.01)
for caller, numbers in yr.get(ledger.all.invoke()).items():
    assert numbers == list(range(1000)), (caller, numbers)
`)
	keeper.Says("kept")
	var callers []*harness.Program
	for _, n := range c.Nodes {
		callers = append(callers, driver(n, `
yr.init()
ledger = yr.get_instance("ledger")
me = yr.apis.get_node_id()
assert yr.get([ledger.add.invoke(me, k) for k in range(1000)]) == list(range(1, 1001))
`))
	}
	for _, p := range append(callers, keeper) {
		p.MustEnd()
	}
}

func arraysAreEqual(_ *testing.T, c *harness.Computer) {
	run(c.Nodes[0], `
import numpy as np

def array(seed):
    return np.random.default_rng(seed).standard_normal(12_500_000)  # 100 MB

make = yr.invoke(array)

@yr.invoke
def same(x, seed):
    return bool(np.array_equal(x, array(seed)))

yr.init()
made = make.options(on("b")).invoke(7)
assert np.array_equal(yr.get(made, timeout=60), array(7)), "made on b, read on a"
assert yr.get(same.options(on("c")).invoke(made, 7), timeout=60), "made on b, read on c"
assert yr.get(same.options(on("b")).invoke(yr.put(array(8)), 8), timeout=60), "put on a, read on b"
`)
}

// broadcastCopiesOnce reads one value three times on each of the other nodes, all at the same time.
func broadcastCopiesOnce(t *testing.T, c *harness.Computer) {
	const size = 256 << 20
	p := driver(c.Nodes[0], `
import numpy as np

@yr.instance
class Reader:
    def ready(self):
        return yr.apis.get_node_id()

    def last(self, x):
        return len(x), int(x[-1])

yr.init()
readers = [Reader.options(on(node)).invoke() for node in "bc" for _ in range(3)]
assert yr.get([r.ready.invoke() for r in readers]) == list("bbbccc")
value = yr.put(np.full(int(sys.argv[1]), 7, dtype=np.uint8))
say("ready")
sys.stdin.readline()
assert yr.get([r.last.invoke(value) for r in readers], timeout=60) == [(int(sys.argv[1]), 7)] * 6
say("read")
`, "268435456")
	p.Says("ready")
	before := traffic(t, c)
	p.Tell("go")
	p.MustEnd()
	after := traffic(t, c)
	for i, n := range c.Nodes[1:] {
		got := after[i+1].Received - before[i+1].Received
		require.InEpsilon(t, size, got, 0.1, "bytes that %s received", n.Name)
	}
	require.InEpsilon(t, 2*size, after[0].Sent-before[0].Sent, 0.1, "bytes that a sent")
}

func shortageWaits(t *testing.T, c *harness.Computer) {
	p := driver(c.Nodes[0], `
yr.init()
first = Seat.options(on(custom_resources={"b": 100})).invoke()
assert yr.get(first.node.invoke()) == "b"
second = Seat.options(on(custom_resources={"b": 50})).invoke()
answer = second.node.invoke()
say("waiting")
sys.stdin.readline()
first.terminate()
assert yr.get(answer, timeout=20) == "b"
`)
	p.Says("waiting")
	var waiting yr.InstanceView
	harness.Eventually(t, "an instance that waits", func() (bool, string) {
		listed := c.Nodes[2].Yr("list", "instances", "-o", "json")
		var all []yr.InstanceView
		if err := json.Unmarshal([]byte(listed.Out), &all); err != nil {
			return false, listed.String()
		}
		for _, waiting = range all {
			if waiting.Class != "" && waiting.State != "running" {
				return true, ""
			}
		}
		return false, listed.Out
	})
	for _, n := range c.Nodes {
		why := n.Yr("why", waiting.ID.String())
		require.Zero(t, why.Code, why)
		require.Regexp(t, `\bb\b`, why.Out, "the resource that is short, as %s tells it", n.Name)
	}
	p.Tell("go on")
	p.MustEnd()
}

func impossibleFails(_ *testing.T, c *harness.Computer) {
	for _, n := range c.Nodes {
		run(n, `
yr.init()
for options in on(custom_resources={"b": 101}), on(custom_resources={"ssd": 1}), on("a", cpu=16000):
    began = time.monotonic()
    with fails(yr.YRError, "1006", within=3):
        yr.get(Seat.options(options).invoke().node.invoke())
    where.options(options)
    with fails(yr.YRError, "1006", within=3):
        yr.get(where.invoke())
`)
	}
}

func killedDriverLeavesNothing(_ *testing.T, c *harness.Computer) {
	p := driver(c.Nodes[1], `
@yr.invoke
def forever(x):
    time.sleep(1000)

@yr.instance
class Holder:
    def hold(self, x):
        self.held = x, yr.put(bytes(1_000_000))
        return bytes(5_000_000)

yr.init()
shared = yr.put(bytes(3_000_000))
holders = [Holder.options(on(node)).invoke() for node in "abc"]
kept = [h.hold.invoke(shared) for h in holders]
yr.get(kept)
calls = []
for node in "abc":
    forever.options(on(node))
    calls.append(forever.invoke(shared))
queued = [forever.options(on("c", cpu=2000)).invoke(k) for k in range(10)]
say("busy")
time.sleep(1000)
`)
	p.Says("busy")
	harness.Eventually(c.T(), "work on every node", func() (bool, string) {
		for _, n := range c.Nodes {
			f, err := n.Footprint()
			if err != nil || f["workers"]+f["instances"] < 2 {
				return false, n.Name + " does nothing"
			}
		}
		return true, ""
	})
	p.Kill()
}
