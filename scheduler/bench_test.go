package scheduler

import (
	"fmt"
	"testing"

	"yr/pkg/yr"
)

// BenchmarkRefuse is the price of the reason for people, when nothing has room.
func BenchmarkRefuse(b *testing.B) {
	for _, count := range []int{1, 1000, 10_000} {
		s := &State{Local: "node-0"}
		for i := range count {
			s.Nodes = append(s.Nodes, node(yr.Node(fmt.Sprintf("node-%d", i)),
				amounts{yr.CPU: 16000, yr.Memory: 64000}, amounts{yr.CPU: 15900 - float64(i%10)}, cards("GPU", "a100", 8)...))
			for j := range s.Nodes[i].Devices {
				s.Nodes[i].Devices[j].Free = 0
			}
		}
		for name, need := range map[string]amounts{"amounts": {yr.CPU: 500, yr.Memory: 500}, "cards": {"GPU/.+100/count": 2}} {
			b.Run(fmt.Sprintf("%s/nodes=%d", name, count), func(b *testing.B) {
				r := Request{Need: res(need)}
				b.ReportAllocs()
				for b.Loop() {
					if p := Place(s, r); p.Verdict != Wait {
						b.Fatalf("%+v", p)
					}
				}
			})
		}
	}
}
