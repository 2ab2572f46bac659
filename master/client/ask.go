package client

// Questions to the leader. Each is put to whoever leads until it is answered or its
// context ends; without a deadline of its own a question waits ten seconds.

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"yr/master"
	"yr/master/internal/codec"
	"yr/master/masterpb"
	"yr/pkg/yr"
	"yr/scheduler"
)

// ErrGone says that the leader knows no living node of that tag or id, as opposed
// to not having answered.
var ErrGone = errors.New("there is no such node in the cluster")

// ask bounds a question and puts it.
func (c *Client) ask(ctx context.Context, question func(context.Context, masterpb.MasterClient) error) error {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, askPatience)
		defer cancel()
	}
	return c.leaders.ask(ctx, question)
}

// Schedule asks the leader where a request fits, with all nodes in view; this node
// is tried first. If the verdict is Placed, the node is returned too and its room
// is held back until it reports, or for two seconds; the plan cannot be used with
// scheduler.Node.Take.
func (c *Client) Schedule(ctx context.Context, r scheduler.Request) (scheduler.Plan, master.Neighbour, error) {
	var answer *masterpb.ScheduleResponse
	request := codec.Request(c.options.Machine.ID, r)
	err := c.ask(ctx, func(ctx context.Context, leader masterpb.MasterClient) (err error) {
		answer, err = leader.Schedule(ctx, request)
		return err
	})
	if err != nil {
		return scheduler.Plan{}, master.Neighbour{}, err
	}
	var node master.Neighbour
	if len(answer.GetNeighbour()) > 0 {
		if node, err = codec.NeighbourOf(answer.GetNeighbour()); err != nil {
			return scheduler.Plan{}, node, err
		}
		c.mu.Lock()
		c.view.meet(node)
		c.mu.Unlock()
	}
	plan, err := codec.SchedulerPlan(answer, node.ID)
	return plan, node, err
}

// Locate finds the node with this tag: from memory if it was named before, else
// from the leader. errors.Is(err, ErrGone) if it lives no more.
func (c *Client) Locate(ctx context.Context, tag yr.Tag) (master.Neighbour, error) {
	if n, ok := c.Find(tag); ok {
		return n, nil
	}
	return c.locate(ctx, &masterpb.LocateRequest{Tag: tag.String()})
}

// LocateNode is Locate by the node's id.
func (c *Client) LocateNode(ctx context.Context, id yr.Node) (master.Neighbour, error) {
	if n, ok := c.Node(id); ok {
		return n, nil
	}
	return c.locate(ctx, &masterpb.LocateRequest{Node: string(id)})
}

func (c *Client) locate(ctx context.Context, request *masterpb.LocateRequest) (master.Neighbour, error) {
	var answer *masterpb.LocateResponse
	err := c.ask(ctx, func(ctx context.Context, leader masterpb.MasterClient) (err error) {
		answer, err = leader.Locate(ctx, request)
		return err
	})
	if err != nil {
		return master.Neighbour{}, err
	}
	if len(answer.GetNeighbour()) == 0 {
		return master.Neighbour{}, fmt.Errorf("%w: %s", ErrGone, answer.GetReason())
	}
	n, err := codec.NeighbourOf(answer.GetNeighbour())
	if err != nil {
		return n, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.view.meet(n) {
		return master.Neighbour{}, fmt.Errorf("%w: node %s was declared dead", ErrGone, n.ID)
	}
	return n, nil
}

// Nodes lists every node of the cluster, also the lost ones.
func (c *Client) Nodes(ctx context.Context) ([]yr.NodeView, error) {
	var views []yr.NodeView
	request := &masterpb.NodesRequest{}
	for {
		var page *masterpb.NodesResponse
		err := c.ask(ctx, func(ctx context.Context, leader masterpb.MasterClient) (err error) {
			page, err = leader.Nodes(ctx, request)
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, n := range page.GetNodes() {
			v, err := nodeView(n)
			if err != nil {
				return nil, err
			}
			views = append(views, v)
			request.After = string(v.ID)
		}
		if !page.GetMore() {
			return views, nil
		}
	}
}

func nodeView(m *masterpb.NodeState) (yr.NodeView, error) {
	machine, load := m.GetMachine(), m.GetLoad()
	capacity, err := codec.Resources(machine.GetCapacity())
	if err != nil {
		return yr.NodeView{}, err
	}
	available, err := codec.Resources(load.GetAvailable())
	if err != nil {
		return yr.NodeView{}, err
	}
	v := yr.NodeView{
		ID: yr.Node(machine.GetId()), Tag: machine.GetTag(), Address: machine.GetAddress(), Version: machine.GetVersion(),
		Master: machine.GetMaster(), Leader: m.GetLeader(), State: m.GetState(), Reason: m.GetReason(),
		Capacity: floats(capacity), Available: floats(available), Labels: make(map[string]string),
		Workers: int(load.GetWorkers()), Store: codec.StoreView(load.GetStore()), Started: codec.Time(machine.GetStartedUnixMs()),
	}
	for _, l := range machine.GetLabels() {
		v.Labels[l.GetKey()] = strings.Join(l.GetValues(), ",")
	}
	return v, nil
}

func floats(r yr.Resources) map[string]float64 {
	f := make(map[string]float64, len(r))
	for name, milli := range r {
		f[name] = milli.Float()
	}
	return f
}

// Leave ends the reports and tells the leader that this node goes, so that nobody
// waits for it. The client is to be closed afterwards.
func (c *Client) Leave(ctx context.Context) error {
	if c.stop == nil {
		return yr.E("leave", yr.Internal, "this node has not joined")
	}
	c.halt()
	c.reporting.Wait() // a report after the word would be one of a dead node, which registers again
	request := &masterpb.LeaveRequest{Node: string(c.options.Machine.ID), Incarnation: c.Incarnation()}
	return c.ask(ctx, func(ctx context.Context, leader masterpb.MasterClient) error {
		_, err := leader.Leave(ctx, request)
		return err
	})
}

// Masters are the masters of the cluster and who of them leads.
type Masters struct {
	Addresses []string
	Leader    string
	Epoch     uint64
}

// Masters asks the leader for the masters.
func (c *Client) Masters(ctx context.Context) (m Masters, err error) {
	err = c.ask(ctx, func(ctx context.Context, leader masterpb.MasterClient) error {
		answer, err := leader.Masters(ctx, &masterpb.MastersRequest{})
		if err == nil {
			m = Masters{Addresses: answer.GetAddresses(), Leader: answer.GetLeader(), Epoch: answer.GetEpoch()}
		}
		return err
	})
	return m, err
}
