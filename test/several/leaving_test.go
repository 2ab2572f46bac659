package several

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/test/harness"
)

// TestCordonDrainLeave empties a node by command, and takes it away.
func TestCordonDrainLeave(t *testing.T) {
	t.Parallel()
	c := harness.StartComputer(t, 1, 2)
	a, b := c.Nodes[0], c.Nodes[1]

	t.Run("a cordoned node gets nothing new", func(*testing.T) {
		c.Nodes[2].MustYr("cordon", "b") // from any node
		c.State(b, "cordoned")
		run(a, `
yr.init()
where.options(on(FAR))
assert set(yr.get([where.invoke() for _ in range(50)])) == {"c"}
seats = [Seat.options(on(FAR)).invoke() for _ in range(4)]
assert yr.get([s.node.invoke() for s in seats]) == ["c"] * 4
`)
		a.MustYr("uncordon", "b")
		c.Whole()
		run(a, warmUp)
	})

	t.Run("a drained node ends what it has", func(t *testing.T) {
		p := driver(a, `
@yr.invoke
def slow():
    say("running")
    time.sleep(3)
    return yr.apis.get_node_id()

yr.init()
slow.options(on("b"))
running = slow.invoke()
seat = Seat.options(on("b")).invoke()
assert yr.get(seat.count.invoke()) == 1
say("working")
sys.stdin.readline()
assert yr.get(running, timeout=20) == "b", "what runs may end"
assert yr.get(seat.count.invoke()) == 2, "and be called"
say("ended")
sys.stdin.readline()
seat.terminate()
say("over")
`)
		p.Says("working")
		drain := a.Command(a.Binary, "--log-dir-prefix", a.Prefix, "drain", "b", "--timeout", "30s")
		c.State(b, "draining")
		p.Tell("b is being drained")
		p.Says("ended")
		require.True(t, drain.Pause(500), "the instance is still there")
		p.Tell("end it")
		p.MustEnd()
		drain.MustEnd()
		a.MustYr("uncordon", "b")
		c.Whole()
	})

	t.Run("an evicted node gives away what can be made again", func(t *testing.T) {
		p := driver(a, `
yr.init()
while True:
    phoenix = Seat.options(on(FAR, recover_retry_times=1)).invoke()
    if yr.get(phoenix.node.invoke()) == "b":
        break
    phoenix.terminate()
mortal = Seat.options(on("b")).invoke()
assert yr.get(mortal.count.invoke()) == 1
say("working")
sys.stdin.readline()
with fails(yr.YRError, "1013"):
    yr.get(mortal.count.invoke(), timeout=20)
while True:
    try:
        if yr.get(phoenix.node.invoke(), timeout=20) == "c":
            break
    except yr.YRError:
        time.sleep(0.05)
say("moved")
`)
		p.Says("working")
		a.MustYr("evict", "b", "--grace", "1s")
		p.Tell("b is evicted")
		p.Says("moved")
		p.MustEnd()
		c.State(b, "drained")
	})

	t.Run("a node that leaves is not missed", func(t *testing.T) {
		began := time.Now()
		b.Stop()
		harness.Eventually(t, "two nodes", func() (bool, string) {
			views, err := a.Views()
			var state strings.Builder
			ready := 0
			for _, v := range views {
				state.WriteString(string(v.ID) + "=" + v.State + " ")
				if v.State == "ready" {
					ready++
				}
			}
			return err == nil && ready == 2, state.String()
		})
		require.Less(t, time.Since(began), 3*time.Second, "nobody waits for the node to be missed")
		run(a, `
yr.init()
where.options(on("c"))
assert yr.get(where.invoke()) == "c"
where.options(on("b"))
with fails(yr.YRError, "1006"):
    yr.get(where.invoke(), timeout=20)
`)
		c.Again(b)
		a.MustYr("uncordon", "b")
		c.Whole()
		run(b, warmUp)
	})
}
