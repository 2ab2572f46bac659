package route_test

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"yr/agent/route"
	"yr/pkg/yr"
	"yr/scheduler"
)

// A lab is several nodes whose routers are joined by links in memory: ordered,
// and as slow or dead as a test wants. The leader is a function of what the
// routers say.
type lab struct {
	t  *testing.T
	mu sync.Mutex

	nodes map[yr.Node]*node
	dead  map[yr.Node]bool
	down  map[yr.Node]bool // between two daemons
	life  map[yr.Node]uint64
	lines map[[2]yr.Node]*line
	met   map[[2]yr.Node]bool
	wg    sync.WaitGroup
}

func newLab(t *testing.T, resources ...yr.Resources) (*lab, []*node) {
	l := &lab{t: t, nodes: map[yr.Node]*node{}, dead: map[yr.Node]bool{}, down: map[yr.Node]bool{}, life: map[yr.Node]uint64{}, lines: map[[2]yr.Node]*line{}, met: map[[2]yr.Node]bool{}}
	registry := newNames()
	t.Cleanup(l.close)
	var list []*node
	for i, r := range resources {
		list = append(list, newNodeOf(t, yr.Node("abcdefgh"[i:i+1]), r, registry, l))
	}
	return l, list
}

// meet introduces two nodes to each other, once.
func (l *lab) meet(a, b yr.Node) {
	l.mu.Lock()
	key := [2]yr.Node{min(a, b), max(a, b)}
	again := l.met[key]
	l.met[key] = true
	one, other := l.nodes[a], l.nodes[b]
	lifeA, lifeB := 1+l.life[a], 1+l.life[b]
	l.mu.Unlock()
	if !again {
		one.current().Met(b, lifeB, true)
		other.current().Met(a, lifeA, true)
	}
}

// knew are the nodes that a node has met.
func (l *lab) knew(n *node) (list []yr.Node) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key := range l.met {
		switch n.name {
		case key[0]:
			list = append(list, key[1])
		case key[1]:
			list = append(list, key[0])
		}
	}
	return list
}

// cut drops all that a crashed daemon says from now on, and what is said to it.
func (l *lab) cut(n *node) {
	l.mu.Lock()
	l.down[n.name] = true
	var old []*line
	for key, line := range l.lines {
		if key[0] == n.name {
			delete(l.lines, key)
			old = append(old, line)
		}
	}
	l.mu.Unlock()
	for _, line := range old {
		line.close()
	}
}

// rejoin introduces the next daemon of a node to those who knew the last one.
func (l *lab) rejoin(n *node) {
	others := l.knew(n)
	l.mu.Lock()
	l.down[n.name] = false
	l.life[n.name]++
	for _, o := range others {
		delete(l.met, [2]yr.Node{min(n.name, o), max(n.name, o)})
	}
	l.mu.Unlock()
	for _, o := range others {
		l.meet(n.name, o)
	}
}

// place is one node's view of the lab.
type place struct {
	lab *lab
	own *node
}

func (l *lab) add(n *node) route.Cluster {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nodes[n.name] = n
	return &place{l, n}
}

func (l *lab) close() {
	l.mu.Lock()
	for _, line := range l.lines {
		line.close()
	}
	l.mu.Unlock()
	l.wg.Wait()
}

// kill has a node die, as far as the others are concerned.
func (l *lab) kill(n *node) {
	l.mu.Lock()
	l.dead[n.name] = true
	var others []*node
	for _, o := range l.nodes {
		if o != n {
			others = append(others, o)
		}
	}
	l.mu.Unlock()
	for _, o := range others {
		o.current().NodeDead(n.name, 1+l.life[n.name])
	}
}

func (p *place) others() []*node {
	p.lab.mu.Lock()
	defer p.lab.mu.Unlock()
	var list []*node
	for _, name := range slices.Sorted(maps.Keys(p.lab.nodes)) {
		if n := p.lab.nodes[name]; n != p.own && !p.lab.dead[name] {
			list = append(list, n)
		}
	}
	return list
}

func (p *place) Kick() {}

// Sample is empty, so that every placement asks the leader, whose view is never late.
func (p *place) Sample() []route.Candidate { return nil }

func (p *place) Tagged(yr.Tag) (yr.Node, bool) { return "", false }

func (p *place) Locate(_ context.Context, tag yr.Tag) (yr.Node, error) {
	p.lab.mu.Lock()
	defer p.lab.mu.Unlock()
	for name, n := range p.lab.nodes {
		if n.tag == tag && !p.lab.dead[name] {
			return name, nil
		}
	}
	return "", yr.E("locate", yr.ObjectNotFound, "no node has tag %s", tag)
}

func (p *place) Schedule(_ context.Context, request scheduler.Request) (scheduler.Plan, error) {
	state := scheduler.State{}
	for _, n := range append(p.others(), p.own) {
		capacity, available := n.current().Capacity()
		state.Nodes = append(state.Nodes, scheduler.Node{ID: n.name, Capacity: capacity, Available: available})
	}
	return scheduler.Place(&state, request), nil
}

func (p *place) Fetch(ctx context.Context, at yr.Node, id yr.ID, room func(int64) ([]byte, error)) error {
	p.lab.mu.Lock()
	n, dead := p.lab.nodes[at], p.lab.dead[at]
	p.lab.mu.Unlock()
	if n == nil || dead {
		return yr.E("fetch", yr.Communication, "node %s does not answer", at)
	}
	f, offset, length, release, err := n.current().Bytes(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	defer f.Close()
	b, err := room(length)
	if err == nil {
		_, err = f.ReadAt(b, offset)
	}
	return err
}

func (p *place) Link(to yr.Node) route.Link {
	p.lab.mu.Lock()
	defer p.lab.mu.Unlock()
	key := [2]yr.Node{p.own.name, to}
	if l := p.lab.lines[key]; l != nil {
		return l
	}
	l := &line{lab: p.lab, from: p.own.name, to: p.lab.nodes[to]}
	l.more.L = &l.mu
	p.lab.lines[key] = l
	p.lab.wg.Go(l.run)
	return l
}

// line carries frames from one node to another.
type line struct {
	lab    *lab
	from   yr.Node
	to     *node
	mu     sync.Mutex
	more   sync.Cond
	out    []byte
	closed bool
}

func (l *line) Queue(add func(dst []byte) []byte) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out = add(l.out)
	return len(l.out)
}

func (l *line) Flush()    { l.more.Signal() }
func (l *line) WaitRoom() {}

// Begin drops what was queued for the node's former life.
func (l *line) Begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out = nil
}
func (l *line) Heard() time.Time { return time.Now() }

func (l *line) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.more.Signal()
}

func (l *line) run() {
	l.lab.meet(l.from, l.to.name)
	for {
		l.mu.Lock()
		for len(l.out) == 0 && !l.closed {
			l.more.Wait()
		}
		batch := l.out
		l.out = nil
		closed := l.closed
		l.mu.Unlock()
		if closed {
			return
		}
		l.lab.mu.Lock()
		dead := l.lab.dead[l.from] || l.lab.dead[l.to.name] || l.lab.down[l.from] || l.lab.down[l.to.name]
		l.lab.mu.Unlock()
		if dead {
			continue
		}
		r := l.to.current()
		if err := r.FromNode(l.from, batch); err != nil {
			l.lab.t.Errorf("%s refuses what %s says: %v", l.to.name, l.from, err)
		}
	}
}
