package daemon

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"yr/agent"
	"yr/master"
	"yr/master/client"
	"yr/pkg/certs"
	"yr/pkg/config"
	"yr/pkg/durable"
	"yr/pkg/peer"
	"yr/pkg/session"
	"yr/pkg/telemetry"
	"yr/pkg/yr"
)

// A node's part in the cluster: connections with others, and its place among them
// as the leader sees it. The masters' part is in master.go.

// openPeers prepares the connections with other nodes. Links begin once this node
// has an incarnation, when there is an agent to hear what they bring.
func (d *Daemon) openPeers(ctx context.Context, logs *telemetry.Logs) error {
	s := &d.plan.Settings
	o := peer.Options{
		Node: s.NodeID, Address: address(s.HostIP, s.Ports.Bus), Version: d.plan.Version, Token: s.Token,
		Handler: hearer{d}, Source: source{d}, Log: logs.For("function_proxy"),
	}
	if s.TLS.Enabled {
		live, err := certs.Open(certs.Files{CA: s.TLS.CAFile, Cert: s.TLS.CertFile, Key: s.TLS.KeyFile}, certs.LiveOptions{OptionalClient: true})
		if err != nil {
			return yr.Wrap("values.fs.tls", yr.ParamInvalid, err)
		}
		o.TLS = live
	}
	d.peers = peer.New(o)
	return d.open(ctx, "peers", d.peers)
}

// hearer and source give the agent what links and readers bring: the agent is made
// after the peers are.
type hearer struct{ d *Daemon }

func (h hearer) Met(l *peer.Link, fresh bool)             { h.d.agent.Met(l, fresh) }
func (h hearer) Frames(l *peer.Link, frames []byte) error { return h.d.agent.Frames(l, frames) }

type source struct{ d *Daemon }

func (s source) Open(request []byte) (*os.File, int64, int64, func(), error) {
	return s.d.agent.Source(request)
}

// join makes this node a member of the cluster: its own, if it is the only master.
func (d *Daemon) join(ctx context.Context, logs *telemetry.Logs) error {
	p, s := d.plan, &d.plan.Settings
	identity, err := identityOf(s.DataDir)
	if err != nil {
		return err
	}
	d.client = client.New(client.Options{
		Masters: d.masterAddresses(),
		Dial:    func(ctx context.Context, address string) (net.Conn, error) { return d.peers.Dial(ctx, address, "rpc") },
		Machine: master.Machine{
			ID: s.NodeID, Identity: identity, Address: address(s.HostIP, s.Ports.Bus), Version: p.Version, Master: p.Master,
			Capacity: s.Resources, Labels: s.Labels, Started: d.born,
		},
		Load: d.load,
		OnLost: func(cause error) {
			logf("the leader does not hear of this node: %v", cause)
			d.whenReady(func(a *agent.Agent) { a.Isolated() })
		},
		OnRejoined: func(uint64) {
			logf("the leader hears of this node again")
			d.whenReady(func(a *agent.Agent) { a.Regained() })
		},
		OnJoined: func(incarnation uint64) {
			logf("this node was given up and has joined again")
			d.whenReady(func(a *agent.Agent) { a.Reborn() })
			d.peers.Renew(incarnation)
		},
		OnDeath: func(node yr.Node, incarnation uint64) {
			d.peers.Fence(node, incarnation)
			if d.lives(node, incarnation) {
				return
			}
			d.whenReady(func(a *agent.Agent) { a.NodeDead(node, incarnation) })
		},
		OnDrain: func(drain master.Drain) { d.whenReady(func(a *agent.Agent) { a.Drain(drain) }) },
		Log:     logs.For("function_master"),
	})
	if err := d.open(ctx, "membership", member{d}); err != nil {
		return err
	}
	d.records = durable.NewClient(durable.ClientOptions{
		Voters: d.voters,
		Dial: func(ctx context.Context, address string) (net.Conn, error) {
			return d.peers.Dial(ctx, address, "records")
		},
	})
	return d.open(ctx, "records client", d.records)
}

// voters are where the records are asked for: at the masters, as last heard of.
func (d *Daemon) voters() []string {
	if list := d.client.MasterAddresses(); len(list) > 0 {
		return list
	}
	return d.masterAddresses()
}

// lives reports whether a node whose life ended has a new one: its daemon was
// restarted. It is met again then, and says itself what it remembers.
func (d *Daemon) lives(node yr.Node, incarnation uint64) bool {
	ctx, cancel := context.WithTimeout(context.Background(), locateTimeout)
	defer cancel()
	for {
		n, err := d.client.LocateNode(ctx, node)
		switch {
		case err == nil && n.Incarnation > incarnation:
			d.peers.Link(node, n.Address)
			return true
		case err == nil, errors.Is(err, client.ErrGone), ctx.Err() != nil:
			return false
		}
		pause(ctx, locateAgain) // the leader was lost just now; the next one knows
	}
}

// How long a new life of a node is looked for.
const (
	locateTimeout = 10 * time.Second
	locateAgain   = 100 * time.Millisecond
)

// member opens and closes the place in the cluster: a node that goes says so.
type member struct{ d *Daemon }

func (m member) Open(ctx context.Context) error { return m.d.client.Open(ctx) }

func (m member) Close(ctx context.Context) error {
	if m.d.client.Joined() {
		ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
		defer cancel()
		if err := m.d.client.Leave(ctx); err != nil {
			logf("the leader was not told that this node goes: %v", err)
		}
	}
	return m.d.client.Close(ctx)
}

// whenReady runs f with the agent, which is opened after the node has joined.
func (d *Daemon) whenReady(f func(a *agent.Agent)) {
	select {
	case <-d.agentOpen:
		f(d.agent)
	case <-d.done:
	}
}

// load is what this node reports each second.
func (d *Daemon) load() master.Load {
	select {
	case <-d.agentOpen:
		return d.agent.Load()
	default:
		return master.Load{Available: yr.Resources{}} // nothing can be started yet
	}
}

// masterAddresses are where to look for the leader first: this node itself, if it
// is a master.
func (d *Daemon) masterAddresses() []string {
	s := &d.plan.Settings
	var list []string
	if d.plan.Master {
		list = append(list, address(s.HostIP, s.Ports.Bus))
	}
	for i, m := range s.Masters {
		if i != s.MasterIndex || !d.plan.Master {
			list = append(list, m.Address())
		}
	}
	return append(list, s.Join...)
}

// leaveTimeout bounds saying goodbye to the leader.
const leaveTimeout = 2 * time.Second

// identityOf tells this data directory from any other, so that a restarted daemon
// gets its place back and a second one with the same node id does not.
func identityOf(dataDir string) (string, error) {
	path := filepath.Join(dataDir, "identity")
	text, err := os.ReadFile(path)
	if err == nil && len(strings.TrimSpace(string(text))) > 0 {
		return strings.TrimSpace(string(text)), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", yr.Wrap("read the node's identity", yr.DiskFailed, err)
	}
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // crypto/rand.Read never fails on Linux
	identity := hex.EncodeToString(raw[:])
	return identity, session.WriteAtomic(path, []byte(identity+"\n"), 0o600)
}

// certificatesOf are the files with which masters' etcds prove themselves to each
// other: configured ones, or made from the cluster's token.
func certificatesOf(s *config.Settings, dir string) (certs.Files, error) {
	if s.EtcdTLS.Enabled {
		return certs.Files{CA: s.EtcdTLS.CAFile, Cert: s.EtcdTLS.CertFile, Key: s.EtcdTLS.KeyFile}, nil
	}
	id, err := certs.FromToken(s.Token, []string{"yr-master", s.HostIP})
	if err != nil {
		return certs.Files{}, err
	}
	return id.Write(dir)
}
