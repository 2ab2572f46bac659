package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"yr/agent/route"
	"yr/master"
	"yr/master/client"
	"yr/pkg/peer"
	"yr/pkg/yr"
	"yr/scheduler"
)

// others is the rest of the cluster as the router sees it: the leader's client
// knows where nodes are, pkg/peer carries frames and bytes between them.
type others struct {
	own    yr.Node
	client *client.Client
	peers  *peer.Peers

	mu     sync.Mutex
	sample []master.Neighbour // as last seen,
	heard  time.Time          // and when it was first
}

var _ route.Cluster = (*others)(nil)

func (o *others) Kick() { o.client.Kick() }

func (o *others) Sample() []route.Candidate {
	sample := o.client.Sample()
	o.mu.Lock()
	if len(sample) != len(o.sample) || len(sample) > 0 && &sample[0] != &o.sample[0] {
		o.sample, o.heard = sample, time.Now()
	}
	heard := o.heard
	o.mu.Unlock()
	list := make([]route.Candidate, 0, len(sample))
	for i := range sample {
		n := &sample[i]
		if n.ID == o.own {
			continue
		}
		list = append(list, route.Candidate{Heard: heard, Node: scheduler.Node{
			ID: n.ID, Capacity: n.Capacity, Available: n.Available, Labels: n.Labels, Cordoned: n.Cordoned,
		}})
	}
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] }) //nolint:gosec // no secret
	return list
}

func (o *others) Tagged(tag yr.Tag) (yr.Node, bool) {
	n, ok := o.client.Find(tag)
	return n.ID, ok
}

func (o *others) Locate(ctx context.Context, tag yr.Tag) (yr.Node, error) {
	n, err := o.client.Locate(ctx, tag)
	if errors.Is(err, client.ErrGone) {
		return "", yr.E("locate", yr.ObjectNotFound, "no node of this cluster made it, or that node is lost")
	}
	return n.ID, err
}

func (o *others) Schedule(ctx context.Context, r scheduler.Request) (scheduler.Plan, error) {
	plan, _, err := o.client.Schedule(ctx, r)
	return plan, err
}

func (o *others) Fetch(ctx context.Context, node yr.Node, id yr.ID, room func(size int64) ([]byte, error)) error {
	n, err := o.client.LocateNode(ctx, node)
	if errors.Is(err, client.ErrGone) {
		return yr.E("fetch "+id.String(), yr.Communication, "node %s was lost", node)
	}
	if err == nil {
		_, err = o.peers.Fetch(ctx, node, n.Address, id[:], room)
	}
	return err
}

// Link knows the address of any node that the leader named or that has connected
// here; for another one it is asked for.
func (o *others) Link(node yr.Node) route.Link {
	n, ok := o.client.Node(node)
	l := o.peers.Link(node, n.Address)
	if !ok && l.Address() == "" {
		go func() {
			if n, err := o.client.LocateNode(context.Background(), node); err == nil {
				o.peers.Link(node, n.Address)
			}
		}()
	}
	return link{l}
}

// link gives pkg/peer's link the methods that the router uses.
type link struct{ *peer.Link }

func (l link) WaitRoom() { _ = l.Link.WaitRoom(context.Background()) } // an error: the link is closed, and takes everything

// Met and Frames take what links bring.
func (a *Agent) Met(l *peer.Link, fresh bool) { a.router.Met(l.Node(), l.Incarnation(), fresh) }

// Frames is documented at Met.
func (a *Agent) Frames(l *peer.Link, frames []byte) error {
	return a.router.FromNode(l.Node(), frames)
}

// bytesPatience bounds how long another node's read waits for a disk here.
const bytesPatience = 30 * time.Second

// Source serves bulk reads of objects.
func (a *Agent) Source(request []byte) (f *os.File, offset, length int64, release func(), err error) {
	id, err := yr.ParseID(string(request))
	if err != nil {
		return nil, 0, 0, nil, yr.Wrap("read object", yr.ParamInvalid, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), bytesPatience)
	defer cancel()
	return a.router.Bytes(ctx, id)
}

// NodeDead is told of a node's death; it, Isolated, Regained and Reborn are what
// the leader's client tells.
func (a *Agent) NodeDead(node yr.Node, incarnation uint64) { a.router.NodeDead(node, incarnation) }

// Isolated is documented at NodeDead.
func (a *Agent) Isolated() { a.router.Isolated() }

// Regained is documented at NodeDead.
func (a *Agent) Regained() { a.router.Regained() }

// Reborn is documented at NodeDead.
func (a *Agent) Reborn() { a.router.Reborn() }

// Load is what this node reports to the leader.
func (a *Agent) Load() master.Load {
	l := a.router.Load()
	return master.Load{
		Available: l.Available, Devices: l.Devices, Workers: l.Workers, Pending: l.Pending, Store: a.router.Store(),
		Taken: l.Taken, Empty: l.Empty,
	}
}

// Drain does what the leader asks of a node that is to get no new work, or is being emptied.
func (a *Agent) Drain(d master.Drain) { a.router.Drain(d.Cordoned, d.Draining, d.End) }
