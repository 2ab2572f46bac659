package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"time"

	"github.com/rs/zerolog"

	"yr/pkg/yr"
)

// Options say what registry to open and who opens it.
type Options struct {
	Dir       string // of the embedded etcd, <data_dir>/etcd; created with mode 0700
	SocketDir string // where etcd.sock is made, for etcdctl; "" makes none. Paths longer than MaxSocketPath are refused

	Node yr.Node

	// Peers are the other masters, and how to meet them. nil: alone for ever. A
	// master that may get company later has Peers without Voters.
	Peers *Peers

	TablePrefix string // before every key (values.etcd.table_prefix), so that clusters can share an etcd

	// Fsync makes every commit wait for the disk (etcd.args.unsafe-no-fsync=false).
	// Off by default with one master, as upstream: what a power failure costs, the
	// last registrations, dies with the machine anyway. A killed daemon loses
	// nothing. With several masters it is always on.
	Fsync bool

	// QuotaBytes bounds the database (etcd.args.quota-backend-bytes),
	// CompactRevisions the history (etcd.args.auto-compaction-retention).
	QuotaBytes       int64 // 0: DefaultQuotaBytes
	CompactRevisions int64 // 0: DefaultCompactRevisions

	// Standby leaves it to the caller who leads (Leader.TakeOver). Otherwise Open
	// takes over, which only an only master may do; with Peers.Voters, or if Peers
	// joined, Standby is implied.
	Standby bool

	// KV is the store to use instead of an embedded etcd; Dir, SocketDir and Peers
	// are then unused. Whoever made it closes it.
	KV KV

	Now    func() time.Time // nil: time.Now
	Random io.Reader        // nil: crypto/rand
	Log    zerolog.Logger
}

// Cluster is this node's view of the registry.
type Cluster struct {
	options Options
	member  *Member // nil with Options.KV
	leader  *Leader
	names   *Names
	config  *Config
	nodes   *Nodes
	facts   *Facts
}

// New makes a closed Cluster.
func New(o Options) *Cluster {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	return &Cluster{options: o}
}

// Open starts the registry. Alone, it is ready and this node leads when Open
// returns; one of several masters goes on starting (Ready). On error nothing is
// left running.
func (c *Cluster) Open(ctx context.Context) (err error) {
	o := c.options
	kv := o.KV
	if kv == nil {
		c.member = NewMember(MemberOptions{
			Dir: o.Dir, SocketDir: o.SocketDir, Fsync: o.Fsync, Peers: o.Peers,
			QuotaBytes: o.QuotaBytes, CompactRevisions: o.CompactRevisions, Log: o.Log,
		})
		if err := c.member.Open(ctx); err != nil {
			return err
		}
		kv = c.member
	}
	keys := keyspace{prefix: o.TablePrefix}
	c.leader = &Leader{kv: kv, keys: keys, node: o.Node}
	c.names = &Names{kv: kv, keys: keys, leader: c.leader}
	c.config = &Config{kv: kv, keys: keys, leader: c.leader}
	c.nodes = &Nodes{kv: kv, keys: keys, leader: c.leader, now: o.Now, random: o.Random}
	c.facts = &Facts{kv: kv, keys: keys, leader: c.leader, random: o.Random}
	if o.Standby || c.member != nil && c.member.several() {
		return nil
	}
	if _, err := c.leader.TakeOver(ctx); err != nil {
		return errors.Join(err, c.Close(context.WithoutCancel(ctx)))
	}
	return nil
}

// Close stops the registry. It may be called twice, and after a failed Open.
func (c *Cluster) Close(ctx context.Context) error {
	if c.member == nil {
		return nil
	}
	return c.member.Close(ctx)
}

// Leader is this node's claim to lead.
func (c *Cluster) Leader() *Leader { return c.leader }

// Names are the named instances.
func (c *Cluster) Names() *Names { return c.names }

// Config is the configuration of the whole cluster.
func (c *Cluster) Config() *Config { return c.config }

// Nodes are the machines that belong to the cluster.
func (c *Cluster) Nodes() *Nodes { return c.nodes }

// Facts are what is true of the cluster as a whole.
func (c *Cluster) Facts() *Facts { return c.facts }

// Member is the embedded etcd: the masters, how to add and remove them, backup.
// It is nil with Options.KV.
func (c *Cluster) Member() *Member { return c.member }

// Ready is closed when a majority of the masters has been found. Until then
// requests wait, each for its own time.
func (c *Cluster) Ready() <-chan struct{} {
	if c.member == nil {
		return closedChannel
	}
	return c.member.Ready()
}

var closedChannel = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// WaitReady waits for Ready. Its error names the masters that are missing.
func (c *Cluster) WaitReady(ctx context.Context) error {
	if c.member == nil {
		return nil
	}
	return c.member.WaitReady(ctx)
}

// Watch reports what changes in the registry after a revision: a leader's signal
// that another took over, or that an operator changed the configuration.
// See KV.Watch.
func (c *Cluster) Watch(ctx context.Context, what Part, after int64) <-chan Batch {
	return c.leader.kv.Watch(ctx, c.leader.keys.part(what), after)
}

// Failed is closed when the embedded registry can go on no longer (disk full,
// broken files, removed from the cluster); Err then says why. The daemon must
// stop and say so. A lost majority is no failure.
func (c *Cluster) Failed() <-chan struct{} {
	if c.member == nil {
		return nil
	}
	return c.member.Failed()
}

// Err is why the registry failed, nil while it has not.
func (c *Cluster) Err() error {
	if c.member == nil {
		return nil
	}
	return c.member.Err()
}
