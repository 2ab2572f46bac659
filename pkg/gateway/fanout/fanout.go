// Package fanout puts a question to every node of the cluster, and names those
// that did not answer.
//
// It is bounded: so many nodes at a time, so long for each and for all. A node
// that hangs or is gone costs its own time, and is missed by name, never silently.
package fanout

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"yr/pkg/gateway/answer"
	"yr/pkg/gateway/ask"
	"yr/pkg/yr"
)

const (
	// NodeTimeout is how long one node may take to answer.
	NodeTimeout = 2 * time.Second
	// Parallel is how many nodes are asked at a time.
	Parallel = 64
	// wholeTimeout bounds the whole question; below ask.DefaultTimeout, so that the
	// asker gets what there is.
	wholeTimeout = 8 * time.Second
)

// Options of a Fan.
type Options struct {
	Self yr.Node
	// Nodes lists the nodes of the cluster; nil: there is only this one.
	Nodes func(context.Context) ([]yr.NodeView, error)
	Dial  ask.Dial // connects to a node's address; nil: plain TCP
	Token string   // sent with every question; empty where Dial proves who asks
}

// Fan asks the other nodes.
type Fan struct {
	options Options
	many    *ask.Many

	mu    sync.Mutex
	known []yr.NodeView // the last answer of Nodes
}

// New makes a Fan.
func New(o Options) *Fan { return &Fan{options: o, many: ask.NewMany(o.Dial, o.Token)} }

// Close gives idle connections back.
func (f *Fan) Close() { f.many.Close() }

// Alone reports whether there are no other nodes to ask.
func (f *Fan) Alone() bool { return f.options.Nodes == nil }

// Others lists the other nodes that live. When the list is not to be had, it is
// the last one that was, and the entry of Unreachable says so.
func (f *Fan) Others(ctx context.Context) ([]yr.NodeView, []answer.Unreachable) {
	if f.Alone() {
		return nil, nil
	}
	nodes, missed := f.members(ctx)
	return slices.DeleteFunc(nodes, func(n yr.NodeView) bool {
		return n.ID == f.options.Self || n.State == "lost"
	}), missed
}

// Node finds a node by its name, a lost one too.
func (f *Fan) Node(ctx context.Context, id yr.Node) (yr.NodeView, bool) {
	return f.find(ctx, func(n yr.NodeView) bool { return n.ID == id })
}

// Home finds the node where an ID was born, by the tag in it.
func (f *Fan) Home(ctx context.Context, id string) (yr.NodeView, bool) {
	if len(id) != yr.IDLen {
		return yr.NodeView{}, false
	}
	return f.find(ctx, func(n yr.NodeView) bool { return n.Tag != "" && strings.HasPrefix(id, n.Tag) })
}

func (f *Fan) find(ctx context.Context, is func(yr.NodeView) bool) (yr.NodeView, bool) {
	if f.Alone() {
		return yr.NodeView{}, false
	}
	nodes, _ := f.members(ctx)
	if at := slices.IndexFunc(nodes, is); at >= 0 {
		return nodes[at], true
	}
	return yr.NodeView{}, false
}

func (f *Fan) members(ctx context.Context) ([]yr.NodeView, []answer.Unreachable) {
	ctx, cancel := context.WithTimeout(ctx, NodeTimeout)
	defer cancel()
	nodes, err := f.options.Nodes(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		return slices.Clone(f.known), []answer.Unreachable{{
			Reason: "the list of nodes is not to be had, so the nodes that were known last were asked: " + err.Error(),
		}}
	}
	f.known = slices.Clone(nodes)
	return slices.Clone(nodes), nil
}

// At asks one node; the caller bounds the question with its context.
func (f *Fan) At(n yr.NodeView) *ask.Asker { return f.many.At(n.Address) }

// Each puts a question to nodes, many at a time, and gives each answer to take,
// one at a time. It returns who did not answer.
func Each[V any](ctx context.Context, f *Fan, nodes []yr.NodeView,
	question func(context.Context, *ask.Asker) (V, error), take func(yr.NodeView, V),
) []answer.Unreachable {
	ctx, cancel := context.WithTimeout(ctx, wholeTimeout)
	defer cancel()
	var next atomic.Int64
	var mu sync.Mutex // take and missed
	var missed []answer.Unreachable
	var askers sync.WaitGroup
	for range min(Parallel, len(nodes)) {
		askers.Go(func() {
			for {
				at := int(next.Add(1)) - 1
				if at >= len(nodes) {
					return
				}
				n := nodes[at]
				value, err := one(ctx, f.At(n), question)
				mu.Lock()
				if err != nil {
					missed = append(missed, answer.Unreachable{Node: n.ID, Address: n.Address, Reason: err.Error()})
				} else {
					take(n, value)
				}
				mu.Unlock()
			}
		})
	}
	askers.Wait()
	slices.SortFunc(missed, func(a, b answer.Unreachable) int { return cmp.Compare(a.Node, b.Node) })
	return missed
}

func one[V any](ctx context.Context, at *ask.Asker, question func(context.Context, *ask.Asker) (V, error)) (V, error) {
	ctx, cancel := context.WithTimeout(ctx, NodeTimeout)
	defer cancel()
	return question(ctx, at)
}
