package daemon

import (
	"context"
	"io"
	"net"
	"time"

	"yr/agent"
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
	voters, err := m.records.Members()
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
			if voter.Node == n.ID && voter.Voter {
				v.State, v.Reason = "ready", ""
			}
		}
		if n.State == "lost" {
			if v.State != "ready" {
				continue // it was taken out of the masters
			}
			v.State, v.Reason = "lost", n.Reason
		}
		list = append(list, v)
	}
	return list, nil
}

// RemoveMaster takes a master's votes away: in the records first, where the leader
// is, then in the registry.
func (c commands) RemoveMaster(ctx context.Context, node yr.Node) error {
	m, err := c.master("remove master")
	if err != nil {
		return err
	}
	member, err := m.etcdOf(ctx, node)
	if err != nil {
		return err
	}
	if err := m.records.RemoveVoter(ctx, node); err != nil {
		return err
	}
	if err := m.cluster.Member().RemoveMember(ctx, member); err != nil {
		return err
	}
	return m.cluster.Facts().DropMaster(ctx, node)
}

// etcdOf finds the etcd of a master: it is called like the node if it joined, and
// else, if it was configured, it is the one on the node's host.
func (m *masters) etcdOf(ctx context.Context, node yr.Node) (name string, err error) {
	members, err := m.cluster.Member().Members(ctx)
	if err != nil {
		return "", err
	}
	known, err := m.cluster.Facts().Masters(ctx)
	if err != nil {
		return "", err
	}
	for _, v := range members {
		if v.Name == string(node) {
			return v.Name, nil
		}
	}
	for _, k := range known {
		host, _, _ := net.SplitHostPort(k.Address)
		for _, v := range members {
			if at, _, _ := net.SplitHostPort(v.Address); k.Node == node && at == host {
				return v.Address, nil
			}
		}
	}
	return "", yr.E("remove master", yr.ParamInvalid, "node %s is no master of this cluster; `yr masters list` shows them", node)
}

func (c commands) Backup(ctx context.Context, w io.Writer) error {
	if _, err := c.master("back up"); err != nil {
		return err
	}
	return c.d.writeBackup(ctx, w)
}

// recover is told of every node that was declared dead, on the leader: what
// outlives its node begins again here.
func (d *Daemon) recover(ctx context.Context, dead cluster.NodeRecord) {
	d.whenReady(func(a *agent.Agent) {
		for ctx.Err() == nil {
			err := a.Revive(ctx, dead.ID)
			if err == nil {
				return
			}
			logf("the instances of node %s could not be made anew, trying again: %v", dead.ID, err)
			pause(ctx, time.Second)
		}
	})
}
