package table

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"yr/master"
	"yr/pkg/cluster"
	"yr/pkg/yr"
	"yr/scheduler"
)

// filled is a table of nodes that have reported.
func filled(count int, now time.Time) (*Table, []master.Load) {
	t := New(rand.New(rand.NewPCG(1, 2)))
	t.Reset(now, nil)
	loads := make([]master.Load, count)
	for i := range count {
		id := yr.Node(fmt.Sprintf("node-%05d", i))
		t.Apply(now, cluster.NodeRecord{
			ID: id, Identity: string(id), Tag: cluster.NodeTag([]byte{byte('0' + i/3844%62%10), byte('a' + i/26%26), byte('a' + i%26)}),
			Incarnation: 1, State: cluster.NodeAlive, Revision: int64(i + 1), Capacity: room(16),
			Labels: map[string][]string{"NODE_ID": {string(id)}},
		})
		loads[i] = master.Load{Available: room(float64(1 + i%15))}
		t.Report(now, id, 1, loads[i])
	}
	return t, loads
}

func room(cpus float64) yr.Resources {
	return yr.Resources{yr.CPU: yr.Amount(cpus * 1000), yr.Memory: yr.Amount(cpus * 2048)}
}

// BenchmarkReport is a report with its answer, without the wire.
func BenchmarkReport(b *testing.B) {
	for _, count := range []int{100, 1000, 10_000} {
		b.Run(fmt.Sprintf("nodes=%d", count), func(b *testing.B) {
			now := time.Unix(1_000_000, 0)
			t, loads := filled(count, now)
			ids := make([]yr.Node, count)
			for i := range ids {
				ids[i] = yr.Node(fmt.Sprintf("node-%05d", i))
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				k := i % count
				if k == 0 {
					now = now.Add(time.Second)
					t.Expire(now)
				}
				t.Report(now, ids[k], 1, loads[k])
				if a := t.Answer(now, ids[k], t.revision); !a.Sampled {
					b.Fatal("no sample")
				}
			}
		})
	}
}

// BenchmarkPlace places until nothing is free, and begins again.
func BenchmarkPlace(b *testing.B) {
	for _, count := range []int{100, 1000, 10_000} {
		for name, require := range map[string][]scheduler.Condition{
			"any": nil, "labelled": {{Label: "NODE_ID", Op: scheduler.In, Values: []string{"node-00050"}}},
		} {
			b.Run(fmt.Sprintf("%s/nodes=%d", name, count), func(b *testing.B) {
				now := time.Unix(1_000_000, 0)
				t, loads := filled(count, now)
				r := scheduler.Request{Need: yr.Resources{yr.CPU: yr.Amount(500), yr.Memory: yr.Amount(500)}, Require: require}
				b.ReportAllocs()
				for b.Loop() {
					plan, _ := t.Place(now, "node-00000", r)
					if plan.Verdict == scheduler.Placed {
						continue
					}
					b.StopTimer()
					now = now.Add(HoldFor)
					for _, n := range t.live {
						t.Report(now, n.ID, 1, loads[n.index])
					}
					b.StartTimer()
				}
			})
		}
	}
}
