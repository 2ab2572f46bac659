package daemon

import (
	"context"
	"io"
	"time"

	"yr/pkg/cluster"
	"yr/pkg/gateway/api"
	"yr/pkg/yr"
)

// commands are what people ask of the cluster through the gateway of a node.
type commands struct{ d *Daemon }

var _ api.Cluster = commands{}

func (c commands) Nodes(ctx context.Context) ([]yr.NodeView, error) { return c.d.client.Nodes(ctx) }

func (c commands) SetCordoned(ctx context.Context, node yr.Node, cordoned bool) error {
	return c.d.client.SetCordoned(ctx, node, cordoned)
}

func (c commands) Drain(ctx context.Context, node yr.Node, timeout time.Duration) error {
	return c.d.client.Drain(ctx, node, timeout)
}

func (c commands) Evict(ctx context.Context, node yr.Node) error { return c.d.client.Evict(ctx, node) }

func (c commands) Leave(ctx context.Context) error { return c.d.client.Leave(ctx) }

// master is this node's mastership; the commands about masters are put to the leader.
func (c commands) master(op string) (*masters, error) {
	if c.d.masters == nil {
		return nil, yr.E(op, yr.ParamInvalid, "node %s is no master; ask one", c.d.plan.Settings.NodeID)
	}
	return c.d.masters, nil
}

func (c commands) Masters(ctx context.Context) ([]api.MasterView, error) {
	m, err := c.master("list masters")
	if err != nil {
		return nil, err
	}
	nodes, err := c.d.client.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	voters, err := m.voters(ctx)
	if err != nil {
		return nil, err
	}
	var list []api.MasterView
	for _, n := range nodes {
		if !n.Master {
			continue
		}
		v := api.MasterView{Node: n.ID, Address: n.Address, Leader: n.Leader, State: "joining", Reason: "it does not vote yet"}
		for _, voter := range voters {
			if voter.Node == n.ID && voter.Votes {
				v.State, v.Reason = "ready", ""
			}
		}
		if n.State == "lost" {
			v.State, v.Reason = "lost", n.Reason
		}
		list = append(list, v)
	}
	return list, nil
}

func (c commands) AddMaster(_ context.Context, node yr.Node) error {
	return yr.E("add master", yr.ParamInvalid,
		"a node becomes a master by starting as one: `yr start --master --join %s` on its machine (node %s must not run there meanwhile)",
		address(c.d.plan.Settings.HostIP, c.d.plan.Settings.Ports.Master), node)
}

// RemoveMaster takes a master's votes away: in the records first, where the leader
// is, then in the registry.
func (c commands) RemoveMaster(ctx context.Context, node yr.Node) error {
	m, err := c.master("remove master")
	if err != nil {
		return err
	}
	if err := m.removeVoter(ctx, node); err != nil {
		return err
	}
	known, err := m.cluster.Facts().Masters(ctx)
	if err != nil {
		return err
	}
	for _, k := range known {
		if k.Node != node {
			continue
		}
		if err := m.cluster.Member().RemoveMember(ctx, k.Peer); err != nil {
			return err
		}
	}
	return m.cluster.Facts().DropMaster(ctx, node)
}

func (c commands) ReplaceMaster(ctx context.Context, gone, by yr.Node) error {
	if err := c.RemoveMaster(ctx, gone); err != nil {
		return err
	}
	return c.AddMaster(ctx, by)
}

func (c commands) Backup(ctx context.Context, w io.Writer) error {
	m, err := c.master("back up")
	if err != nil {
		return err
	}
	return writeBackup(ctx, w, m)
}

// recover is told of every node that was declared dead, on the leader.
func (d *Daemon) recover(context.Context, cluster.NodeRecord) {}
