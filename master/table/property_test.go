package table_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"yr/master"
	"yr/master/table"
	"yr/pkg/cluster"
	"yr/pkg/yr"
	"yr/scheduler"
)

// Whatever happens in whatever order: the table's books are right, nobody who
// reported in time is declared dead, nobody who was silent stays alive, and a node
// that follows the answers knows of every death, across leaders.
func TestWhateverHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1_000_000, 0)
		tab := table.New(rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)))
		tab.Reset(now, nil)
		records := make(map[yr.Node]cluster.NodeRecord)
		heard := make(map[yr.Node]time.Time)
		revision := int64(0)
		believed := make(map[yr.Node]uint64) // what a reader believes to live
		since := int64(0)

		write := func(r cluster.NodeRecord) {
			revision++
			r.Revision, r.Since = revision, now
			records[r.ID] = r
			tab.Apply(now, r)
		}
		node := func() yr.Node { return yr.Node(fmt.Sprint("n", rapid.IntRange(0, 7).Draw(t, "node"))) }

		t.Repeat(map[string]func(*rapid.T){
			"register": func(t *rapid.T) {
				id := node()
				r := records[id]
				r.ID, r.Identity, r.Tag = id, "of "+string(id), cluster.NodeTag([]byte("00"+id[1:]))
				r.Incarnation++
				r.State, r.Capacity = cluster.NodeAlive, free(4)
				write(r)
				heard[id] = now
			},
			"report": func(t *rapid.T) {
				id := node()
				r := records[id]
				load := master.Load{Available: free(float64(rapid.IntRange(0, 4).Draw(t, "cpus"))), Empty: rapid.Bool().Draw(t, "empty")}
				switch tab.Report(now, id, r.Incarnation, load) {
				case table.Accepted:
					require.Equal(t, cluster.NodeAlive, r.State)
					heard[id] = now
				case table.Dying:
					require.GreaterOrEqual(t, now.Sub(heard[id]), master.Silence)
				case table.Dead:
					require.NotEqual(t, cluster.NodeAlive, r.State)
				}
				if r.Incarnation > 1 {
					require.Equal(t, table.Dead, tab.Report(now, id, r.Incarnation-1, load), "a ghost")
				}
			},
			"time passes": func(t *rapid.T) {
				for range rapid.IntRange(1, 8).Draw(t, "ticks") {
					now = now.Add(250 * time.Millisecond)
					tab.Expire(now)
				}
			},
			"the silent die": func(t *rapid.T) {
				for _, o := range tab.Expire(now) {
					require.GreaterOrEqual(t, now.Sub(heard[o.ID]), master.Silence)
					r := records[o.ID]
					require.Equal(t, r.Incarnation, o.Incarnation)
					r.State = cluster.NodeDead
					write(r)
				}
				for id, r := range records {
					alive := r.State == cluster.NodeAlive
					require.Equal(t, alive, tab.Alive(id, r.Incarnation))
					require.False(t, alive && now.Sub(heard[id]) >= master.Silence, "%s is silent and lives", id)
				}
			},
			"leave": func(t *rapid.T) {
				if r, ok := records[node()]; ok && r.State == cluster.NodeAlive {
					r.State = cluster.NodeLeft
					write(r)
				}
			},
			"restrain": func(t *rapid.T) {
				if r, ok := records[node()]; ok && r.State == cluster.NodeAlive {
					r.Restraint = cluster.Restraint{Cordoned: rapid.Bool().Draw(t, "cordoned")}
					write(r)
				}
			},
			"place": func(t *rapid.T) {
				plan, encoded := tab.Place(now, node(), request(rapid.Uint64Range(1, 100).Draw(t, "request"), float64(rapid.IntRange(0, 4).Draw(t, "cpus"))))
				if plan.Verdict == scheduler.Placed {
					r := records[plan.Node]
					require.True(t, tab.Alive(plan.Node, r.Incarnation))
					require.False(t, r.Restraint.Cordoned)
					require.NotEmpty(t, encoded)
				}
			},
			"a reader asks": func(t *rapid.T) {
				a := tab.Answer(now, node(), since)
				since = a.Deaths
				if a.All {
					clear(believed)
					for _, l := range a.Live {
						believed[l.Node] = l.Incarnation
					}
				}
				for _, d := range a.Dead {
					if believed[d.Node] <= d.Incarnation {
						delete(believed, d.Node)
					}
				}
				for id, incarnation := range believed {
					r := records[id]
					require.True(t, r.Incarnation == incarnation && r.State == cluster.NodeAlive, "%s %d is dead and the reader was not told", id, incarnation)
				}
			},
			"another leader": func(t *rapid.T) {
				var list []cluster.NodeRecord
				for _, r := range records {
					list = append(list, r)
					heard[r.ID] = now
				}
				tab = table.New(rand.New(rand.NewPCG(1, 2)))
				tab.Reset(now, list)
			},
			"": func(t *rapid.T) { require.NoError(t, tab.Check()) },
		})
	})
}
