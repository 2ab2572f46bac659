// Package scheduler decides where work is placed: a pure function from a snapshot
// of the nodes and a request to a plan and a reason. It does no I/O, takes no
// locks and reads no clock, so that every placement is reproduced by a table row.
package scheduler

import (
	"yr/pkg/yr"
)

// Node is a machine as the scheduler sees it.
type Node struct {
	ID        yr.Node
	Capacity  yr.Resources // of the empty node; cards are counted as "GPU/<model>/count"
	Available yr.Resources // may be negative: a blocked worker lent its CPU and woke up
	Labels    map[string][]string
	Cordoned  bool // runs what it runs, and gets nothing new
	Devices   []Device
}

// Device is one accelerator card. A node lists neighbouring cards next to each
// other; requests for several cards get neighbours where they can.
type Device struct {
	Type   string // "GPU" or "NPU"
	Model  string
	ID     int      // what CUDA_VISIBLE_DEVICES calls it
	Memory uint64   // MiB; 0 if only the number of cards is known, which rules fractions out
	Free   yr.Milli // thousandths of the card, 1000: nobody uses it
}

// State is the snapshot that a decision is made on.
type State struct {
	Nodes []Node
	Local yr.Node // where the request came in; tried first
}

// Request asks for room for one worker.
type Request struct {
	ID   yr.ID
	Need yr.Resources // "GPU/<regular expression>/count" asks for cards

	Tenant   yr.Tenant
	Priority int

	// Require are conditions on node labels; all must hold.
	Require []Condition

	// Relaxed stops the search at this many nodes with room; 0: look at all.
	Relaxed int
}

// Verdict is the kind of answer.
type Verdict int

// Placed comes with a node. Wait means that it fits once something is released
// (code ResourceNotEnough). Never means that it fits on no node even if empty, or
// that the request makes no sense (ResourceConfigError, ParamInvalid).
const (
	Placed Verdict = iota
	Wait
	Never
)

func (v Verdict) String() string { return [...]string{"placed", "wait", "never"}[v] }

// Plan is the answer to a request.
type Plan struct {
	Verdict Verdict
	Node    yr.Node
	Take    yr.Resources     // to subtract from the node's Available
	Devices map[string][]int // cards to use, by their resource name, "GPU/<model>/count"

	Code   yr.Code // why it was not placed
	Reason string  // the same for people

	cards []card
}

// card is a share of the node's Devices[index].
type card struct {
	index int
	share yr.Milli
}

// Take applies a plan to its node; Give undoes it.
func (n *Node) Take(p Plan) { n.apply(p, 1) }

// Give is documented at Take.
func (n *Node) Give(p Plan) { n.apply(p, -1) }

func (n *Node) apply(p Plan, sign yr.Milli) {
	for name, amount := range p.Take {
		n.Available[name] -= sign * amount
	}
	for _, c := range p.cards {
		n.Devices[c.index].Free -= sign * c.share
	}
}

// Empty is the node as it would be if nothing ran there.
func (n *Node) Empty() Node {
	e := *n
	e.Available = n.Capacity
	e.Devices = make([]Device, len(n.Devices))
	for i, d := range n.Devices {
		d.Free = whole
		e.Devices[i] = d
	}
	return e
}
