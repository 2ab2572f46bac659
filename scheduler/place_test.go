package scheduler

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/pkg/yr"
)

// res is {"CPU": 4000} in thousandths.
func res(amounts map[string]float64) yr.Resources {
	r := yr.Resources{}
	for name, v := range amounts {
		r[name] = yr.Amount(v)
	}
	return r
}

type amounts = map[string]float64

// node has the capacity, of which used is taken.
func node(id yr.Node, capacity, used amounts, devices ...Device) Node {
	n := Node{ID: id, Capacity: res(capacity), Available: res(capacity), Devices: devices}
	n.Available.Sub(res(used))
	return n
}

// cards are count cards of a model, ids from 0, unused.
func cards(typ, model string, count int) []Device {
	var d []Device
	for i := range count {
		d = append(d, Device{Type: typ, Model: model, ID: i, Free: whole})
	}
	return d
}

const header = "no available resource that meets the request requirements, The reasons are as follows:"

func TestPlace(t *testing.T) {
	small, big := amounts{yr.CPU: 4000, yr.Memory: 8000}, amounts{yr.CPU: 16000, yr.Memory: 32000, "ssd": 1}
	half := amounts{yr.CPU: 2000, yr.Memory: 4000}
	cordoned := node("c", big, nil)
	cordoned.Cordoned = true
	zoned := func(id yr.Node, zone string) Node {
		n := node(id, small, nil)
		n.Labels = map[string][]string{"zone": {zone}}
		return n
	}
	cases := []struct {
		name    string
		nodes   []Node
		local   yr.Node
		need    amounts
		require []Condition
		verdict Verdict
		node    yr.Node
		reason  string
	}{
		{"the only node", []Node{node("a", small, nil)}, "a", amounts{yr.CPU: 500}, nil, Placed, "a", ""},
		{"nothing asked for", []Node{node("a", small, small)}, "a", nil, nil, Placed, "a", ""},
		{
			"local first, even if busy",
			[]Node{node("a", small, nil), node("b", small, half)}, "b", amounts{yr.CPU: 2000}, nil, Placed, "b", "",
		},
		{
			"else the emptiest",
			[]Node{node("a", small, small), node("b", small, half), node("c", small, nil)}, "a", amounts{yr.CPU: 1000}, nil, Placed, "c", "",
		},
		{
			"the first of equals",
			[]Node{node("a", small, small), node("b", small, nil), node("c", small, nil)}, "a", amounts{yr.CPU: 1000}, nil, Placed, "b", "",
		},
		{
			"not on a cordoned node",
			[]Node{cordoned, node("b", small, half)}, "c", amounts{yr.CPU: 1000}, nil, Placed, "b", "",
		},
		{
			"exactly what is left",
			[]Node{node("a", small, half)}, "a", amounts{yr.CPU: 2000, yr.Memory: 4000}, nil, Placed, "a", "",
		},
		{
			"waits for a release",
			[]Node{node("a", small, half), node("b", small, small)}, "a", amounts{yr.CPU: 3000}, nil, Wait, "",
			header + "\n\t2 units, CPU: Not Enough (asked for 3000; most is free on a: 2000 of 4000, 2000 in use)",
		},
		{
			"waits where an overcommitted node is all there is",
			[]Node{node("a", small, amounts{yr.CPU: 4500})}, "a", amounts{yr.CPU: 1000}, nil, Wait, "",
			header + "\n\t1 unit, CPU: Not Enough (asked for 1000; most is free on a: 0 of 4000, 4500 in use)",
		},
		{
			"waits for an uncordon",
			[]Node{cordoned, node("b", small, nil)}, "b", amounts{"ssd": 1}, nil, Wait, "",
			header + "\n\t1 unit, cordoned\n\t1 unit, ssd: Not Found",
		},
		{"waits for a first node", nil, "", amounts{yr.CPU: 1000}, nil, Wait, "", "no node has joined the cluster yet"},
		{
			"never: unknown resource",
			[]Node{node("a", small, nil)}, "a", amounts{"ssd": 1}, nil, Never, "",
			"invalid resource parameter: no node can ever hold ssd=1 (no node has ssd): " + header + "\n\t1 unit, ssd: Not Found",
		},
		{
			"never: more than any node",
			[]Node{node("a", small, nil), node("b", big, nil)}, "a", amounts{"ssd": 5}, nil, Never, "",
			"invalid resource parameter: no node can ever hold ssd=5 (largest node has ssd=1): " + header +
				"\n\t1 unit, ssd: Not Found\n\t1 unit, ssd: Out Of Capacity",
		},
		{
			"never: each somewhere, not together",
			[]Node{node("a", amounts{yr.CPU: 8000}, nil), node("b", amounts{yr.CPU: 1000, "ssd": 1}, nil)}, "a",
			amounts{yr.CPU: 4000, "ssd": 1}, nil, Never, "",
			"invalid resource parameter: no node can ever hold CPU=4000 ssd=1 (each is there, but not together on one node with the labels asked for): " +
				header + "\n\t1 unit, ssd: Not Found\n\t1 unit, CPU: Out Of Capacity",
		},
		{
			"never: a negative amount",
			[]Node{node("a", small, nil)}, "a", amounts{"ssd": -1}, nil, Never, "",
			"invalid resource parameter: ssd=-1 is negative",
		},
		{
			"by label",
			[]Node{zoned("a", "east"), zoned("b", "west")}, "a", amounts{yr.CPU: 1000},
			[]Condition{{"zone", In, []string{"west", "south"}}}, Placed, "b", "",
		},
		{
			"never: no such label",
			[]Node{zoned("a", "east")}, "a", amounts{yr.CPU: 1000},
			[]Condition{{"zone", NotIn, []string{"east"}}}, Never, "",
			"invalid resource parameter: no node can ever hold CPU=1000 (each is there, but not together on one node with the labels asked for): " +
				header + "\n\t1 unit, label mismatch",
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := &State{Nodes: c.nodes, Local: c.local}
			p := Place(s, Request{Need: res(c.need), Require: c.require})
			require.Equal(t, c.verdict, p.Verdict, p.Reason)
			require.Equal(t, c.node, p.Node)
			require.Equal(t, c.reason, p.Reason)
			if c.verdict == Placed {
				require.Equal(t, res(c.need), p.Take)
			}
		})
	}
}

func TestPlaceCodes(t *testing.T) {
	s := &State{Nodes: []Node{node("a", amounts{yr.CPU: 4000}, amounts{yr.CPU: 4000})}, Local: "a"}
	require.Equal(t, yr.ResourceNotEnough, Place(s, Request{Need: res(amounts{yr.CPU: 300})}).Code)
	require.Equal(t, yr.ResourceConfigError, Place(s, Request{Need: res(amounts{yr.CPU: 9000})}).Code)
	require.Equal(t, yr.ParamInvalid, Place(s, Request{Need: res(amounts{"GPU/(/count": 1})}).Code)
}

func TestPlaceDevices(t *testing.T) {
	busy := func(d []Device, ids ...int) []Device {
		for _, id := range ids {
			d[id].Free = 0
		}
		return d
	}
	sharable := func(d []Device, free ...yr.Milli) []Device {
		for i := range d {
			d[i].Memory, d[i].Free = 65536, free[i]
		}
		return d
	}
	cases := []struct {
		name    string
		devices []Device
		need    amounts
		verdict Verdict
		ids     map[string][]int
		reason  string // part of it
	}{
		{"any model", cards("NPU", "Ascend910B4", 8), amounts{"NPU/.+/count": 2}, Placed, map[string][]int{"NPU/Ascend910B4/count": {0, 1}}, ""},
		{"an expression", cards("NPU", "Ascend310", 1), amounts{"NPU/Ascend(310|910)/count": 1}, Placed, map[string][]int{"NPU/Ascend310/count": {0}}, ""},
		{"the whole model name", cards("NPU", "Ascend910B4", 8), amounts{"NPU/Ascend910/count": 1}, Never, nil, "no node has NPU/Ascend910/count"},
		{"another type", cards("NPU", "Ascend910B4", 8), amounts{"GPU/.+/count": 1}, Never, nil, "GPU/.+/count: Not Found"},
		{"'^' matches nothing", cards("GPU", "cuda", 8), amounts{"GPU/^cuda/count": 1}, Never, nil, "GPU/^cuda/count: Not Found"},
		{"unbalanced", cards("GPU", "cuda", 8), amounts{"GPU/cu(da/count": 1}, Never, nil, "missing closing )"},
		{"balanced only in our expression", cards("GPU", "cuda", 8), amounts{"GPU/a)|(b/count": 1}, Never, nil, "unexpected )"},
		{"none asked for", cards("GPU", "cuda", 8), amounts{"GPU/.+/count": 0}, Never, nil, "must be above 0"},
		{"one and a half", cards("GPU", "cuda", 8), amounts{"GPU/.+/count": 1.5}, Never, nil, "as a whole"},
		{"count and memory", cards("NPU", "x", 8), amounts{"NPU/.+/count": 1, "NPU/.+/HBM": 1000}, Never, nil, "exclude each other"},
		{"memory, which is not known", cards("NPU", "x", 8), amounts{"NPU/.+/HBM": 1000}, Never, nil, "no node has NPU/.+/HBM"},
		{"more than there are", cards("GPU", "cuda", 2), amounts{"GPU/.+/count": 3}, Never, nil, "GPU/.+/count=3 (largest node has GPU/.+/count=2)"},
		{
			"more than are free", busy(cards("GPU", "cuda", 4), 0, 2), amounts{"GPU/.+/count": 3}, Wait, nil,
			"GPU/.+/count: Not Enough (asked for 3; most is free on a: 2 of 4, 2 in use)",
		},
		{"neighbours", busy(cards("NPU", "x", 8), 1, 4), amounts{"NPU/x/count": 2}, Placed, map[string][]int{"NPU/x/count": {2, 3}}, ""},
		{"neighbours, leaving the larger run whole", busy(cards("NPU", "x", 8), 3), amounts{"NPU/x/count": 3}, Placed, map[string][]int{"NPU/x/count": {0, 1, 2}}, ""},
		{"apart if need be", busy(cards("NPU", "x", 5), 1, 3), amounts{"NPU/x/count": 3}, Placed, map[string][]int{"NPU/x/count": {0, 2, 4}}, ""},
		{"a fraction, of counts", cards("GPU", "cuda", 8), amounts{"GPU/.+/count": 0.5}, Never, nil, "ask for whole cards"},
		{"a fraction, of the fullest card", sharable(cards("GPU", "cuda", 3), 1000, 500, 700), amounts{"GPU/.+/count": 0.5}, Placed, map[string][]int{"GPU/cuda/count": {1}}, ""},
		{"a whole card is an unused one", sharable(cards("GPU", "cuda", 2), 900, 1000), amounts{"GPU/.+/count": 1}, Placed, map[string][]int{"GPU/cuda/count": {1}}, ""},
		{
			"one model only", append(cards("GPU", "a", 2), cards("GPU", "b", 3)...), amounts{"GPU/.+/count": 3},
			Placed, map[string][]int{"GPU/b/count": {0, 1, 2}}, "",
		},
		{
			"two requests share no card", cards("GPU", "a", 2), amounts{"GPU/.+/count": 1, "GPU/a/count": 1},
			Placed, map[string][]int{"GPU/a/count": {0, 1}}, "",
		},
		{"nor take one that is not there", cards("GPU", "a", 2), amounts{"GPU/.+/count": 2, "GPU/a/count": 1}, Never, nil, "not together"},
		{"a custom resource with slashes", nil, amounts{"rack/1/slot": 1}, Never, nil, "no node has rack/1/slot"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := &State{Nodes: []Node{node("a", nil, nil, c.devices...)}, Local: "a"}
			p := Place(s, Request{Need: res(c.need)})
			require.Equal(t, c.verdict, p.Verdict, p.Reason)
			require.Equal(t, c.ids, p.Devices)
			require.Contains(t, p.Reason, c.reason)
			if c.verdict == Never {
				require.Contains(t, p.Reason, "invalid resource parameter")
			}
		})
	}
}

func TestTakeAndGive(t *testing.T) {
	s := &State{Nodes: []Node{node("a", amounts{yr.CPU: 4000, "GPU/cuda/count": 2}, nil, cards("GPU", "cuda", 2)...)}, Local: "a"}
	p := Place(s, Request{Need: res(amounts{yr.CPU: 1000, "GPU/.+/count": 2})})
	require.Equal(t, res(amounts{yr.CPU: 1000, "GPU/cuda/count": 2}), p.Take)
	n := &s.Nodes[0]
	n.Take(p)
	require.Equal(t, res(amounts{yr.CPU: 3000, "GPU/cuda/count": 0}), n.Available)
	require.Equal(t, Wait, Place(s, Request{Need: res(amounts{"GPU/.+/count": 1})}).Verdict)
	n.Give(p)
	require.Equal(t, n.Capacity, n.Available)
	require.Equal(t, Placed, Place(s, Request{Need: res(amounts{"GPU/.+/count": 1})}).Verdict)
}

func TestRelaxedStopsAtTheFirstWithRoom(t *testing.T) {
	capacity := amounts{yr.CPU: 4000}
	s := &State{Nodes: []Node{node("a", capacity, capacity), node("b", capacity, amounts{yr.CPU: 3000}), node("c", capacity, nil)}}
	need := res(amounts{yr.CPU: 500})
	require.Equal(t, yr.Node("c"), Place(s, Request{Need: need}).Node)
	require.Equal(t, yr.Node("b"), Place(s, Request{Need: need, Relaxed: 1}).Node)
}

func TestConditions(t *testing.T) {
	labels := map[string][]string{"zone": {"a", "b"}, "flag": nil}
	for _, c := range []struct {
		c    Condition
		want bool
	}{
		{Condition{"zone", In, []string{"b", "c"}}, true},
		{Condition{"zone", In, []string{"c"}}, false},
		{Condition{"none", In, []string{"c"}}, false},
		{Condition{"zone", NotIn, []string{"b"}}, false},
		{Condition{"zone", NotIn, []string{"c"}}, true},
		{Condition{"none", NotIn, []string{"c"}}, true},
		{Condition{"flag", Exists, nil}, true},
		{Condition{"none", Exists, nil}, false},
		{Condition{"none", NotExists, nil}, true},
		{Condition{"zone", NotExists, nil}, false},
		{Condition{"zone", Operator(99), nil}, true},
	} {
		require.Equal(t, c.want, c.c.Holds(labels), "%+v", c.c)
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		name string
		need amounts
		code yr.Code
		text string
	}{
		{"the defaults", amounts{yr.CPU: 500, yr.Memory: 500}, yr.OK, ""},
		{"the least", amounts{yr.CPU: 300, yr.Memory: 128}, yr.OK, ""},
		{"the most", amounts{yr.CPU: 16000, yr.Memory: 1073741824}, yr.OK, ""},
		{"no cpu at all", amounts{yr.CPU: 0, yr.Memory: 128}, yr.OK, ""},
		{"custom", amounts{"ssd": 0.5, "NPU/.+/count": 2}, yr.OK, ""},
		{"too little cpu", amounts{yr.CPU: 299}, yr.ResourceConfigError, "invalid resource parameter: cpu=299 is out of range, it must be 300 to 16000 millicores, or 0"},
		{"too much cpu", amounts{yr.CPU: 16001}, yr.ResourceConfigError, "out of range"},
		{"too little memory", amounts{yr.Memory: 127}, yr.ResourceConfigError, "memory=127 is out of range, it must be 128 to 1073741824 MiB"},
		{"negative", amounts{yr.CPU: -500}, yr.ResourceConfigError, "out of range"},
		{"negative custom", amounts{"ssd": -1}, yr.ParamInvalid, "negative"},
		{"no name", amounts{"": 1}, yr.ParamInvalid, "without a name"},
		{"bad expression", amounts{"NPU/[/count": 1}, yr.ParamInvalid, "missing closing ]"},
		{"no expression", amounts{"NPU//count": 1}, yr.ParamInvalid, "1 to 256 characters"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := Validate(res(c.need))
			require.Equal(t, c.code, yr.CodeOf(err), "%v", err)
			if err != nil {
				require.ErrorContains(t, err, c.text)
			}
		})
	}
}

func TestVisibleDevices(t *testing.T) {
	devices := map[string][]int{"GPU/a/count": {3, 1}, "GPU/b/count": {2}, "NPU/x/count": {0, 0}}
	require.Equal(t, map[string]string{"CUDA_VISIBLE_DEVICES": "1,2,3", "ASCEND_RT_VISIBLE_DEVICES": "0"}, VisibleDevices(devices, nil))
	require.Equal(t, map[string]string{"ASCEND_RT_VISIBLE_DEVICES": "0"},
		VisibleDevices(devices, map[string]string{"YR_NOSET_CUDA_VISIBLE_DEVICES": "1"}))
	require.Empty(t, VisibleDevices(nil, nil))
}

func TestExpired(t *testing.T) {
	require.Equal(t, "the instance cannot be scheduled within 30000 ms. which has been scheduled for 4 times. The latest failure: CPU: Not Enough",
		Expired("CPU: Not Enough", 30*time.Second, 4))
}

func FuzzValidate(f *testing.F) {
	for _, key := range []string{"NPU/.+/count", "GPU/a)|(b/count", "GPU/^/HBM", "ssd", "GPU//", "/", "NPU/a/b/count", "GPU/(?i)x/count"} {
		f.Add(key, int64(1000))
	}
	f.Fuzz(func(t *testing.T, key string, amount int64) {
		need := yr.Resources{key: yr.Milli(amount)}
		s := &State{Nodes: []Node{node("a", amounts{yr.CPU: 1000}, nil, cards("GPU", "cuda", 2)...)}, Local: "a"}
		p := Place(s, Request{Need: need})
		if err := Validate(need); yr.CodeOf(err) == yr.ParamInvalid && p.Code != yr.ParamInvalid {
			t.Fatalf("%q=%d: Validate says %v, Place says %+v", key, amount, err, p)
		}
		if p.Verdict == Placed {
			s.Nodes[0].Take(p)
		}
	})
}

func BenchmarkPlace(b *testing.B) {
	for _, count := range []int{1, 10_000} {
		b.Run(fmt.Sprintf("nodes=%d", count), func(b *testing.B) {
			s := &State{Local: "node-0"}
			for i := range count {
				s.Nodes = append(s.Nodes, node(yr.Node(fmt.Sprintf("node-%d", i)), amounts{yr.CPU: 16000, yr.Memory: 64000, "ssd": 2}, amounts{yr.CPU: float64(i % 15000)}))
			}
			if count > 1 {
				s.Nodes[0].Cordoned = true // so that all are looked at
			}
			r := Request{Need: res(amounts{yr.CPU: 500, yr.Memory: 500})}
			b.ReportAllocs()
			for b.Loop() {
				if Place(s, r).Verdict != Placed {
					b.Fatal("not placed")
				}
			}
		})
	}
}
