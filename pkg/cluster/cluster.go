package cluster

import (
	"context"
	"errors"
	"time"

	"github.com/rs/zerolog"

	"yr/pkg/yr"
)

// Options say what registry to open and who opens it.
type Options struct {
	Dir       string // of the embedded etcd, <data_dir>/etcd; created with mode 0700
	SocketDir string // where etcd.sock is made, for etcdctl; "" makes none. Paths longer than MaxSocketPath are refused

	Node       yr.Node
	NodeRecord NodeRecord // ID is set to Node; Identity, if empty, is kept in Dir

	// Voters are the masters' addresses. One master, the default, may be left out.
	Voters []string

	TablePrefix string // before every key (values.etcd.table_prefix), so that clusters can share an etcd

	// Fsync makes every commit wait for the disk (etcd.args.unsafe-no-fsync=false).
	// Off by default with one master, as upstream: what a power failure costs, the
	// last registrations, dies with the machine anyway. A killed daemon loses nothing.
	Fsync bool

	QuotaBytes       int64         // 0: DefaultQuotaBytes
	CompactRevisions int64         // 0: DefaultCompactRevisions
	LeaseTTL         time.Duration // 0: DefaultLeaseTTL; at least a second

	// OnLost and OnJoined are told when this node's lease is lost and regained,
	// not about the first Join. They run on the goroutine that renews the lease.
	OnLost   func(cause error)
	OnJoined func()

	// KV is the store to use instead of an embedded etcd; Dir and SocketDir are then unused.
	KV KV

	Log zerolog.Logger
}

// Cluster is this node's view of the registry, and its place in it.
type Cluster struct {
	options Options
	member  *Member // nil with Options.KV
	leader  *Leader
	names   *Names
	config  *Config
	nodes   *Membership
}

// New makes a closed Cluster.
func New(o Options) *Cluster {
	if o.LeaseTTL == 0 {
		o.LeaseTTL = DefaultLeaseTTL
	}
	return &Cluster{options: o}
}

// Open starts the registry, takes leadership over and joins this node. On error
// nothing is left running.
func (c *Cluster) Open(ctx context.Context) (err error) {
	o := c.options
	if len(o.Voters) > 1 {
		return yr.E("cluster", yr.ParamInvalid,
			"%d masters are configured and this version runs one; keep one [[values.etcd.address]] entry and set values.etcd.enable_multi_master=false", len(o.Voters))
	}
	if o.LeaseTTL < time.Second {
		return yr.E("cluster", yr.ParamInvalid, "the lease of a node lasts %v, at least 1s is needed", o.LeaseTTL)
	}
	kv := o.KV
	if kv == nil {
		c.member = NewMember(MemberOptions{
			Dir: o.Dir, SocketDir: o.SocketDir, Fsync: o.Fsync,
			QuotaBytes: o.QuotaBytes, CompactRevisions: o.CompactRevisions, Log: o.Log,
		})
		if err := c.member.Open(ctx); err != nil {
			return err
		}
		kv = c.member
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close(context.WithoutCancel(ctx)))
		}
	}()

	record := o.NodeRecord
	record.ID = o.Node
	if record.Identity == "" && c.member != nil {
		if record.Identity, err = c.member.Identity(); err != nil {
			return err
		}
	}
	keys := keyspace{prefix: o.TablePrefix}
	c.leader = &Leader{kv: kv, keys: keys, node: o.Node}
	c.names = &Names{kv: kv, keys: keys, leader: c.leader}
	c.config = &Config{kv: kv, keys: keys, leader: c.leader}
	c.nodes = &Membership{kv: kv, keys: keys, ttl: o.LeaseTTL, record: record, onLost: o.OnLost, onJoined: o.OnJoined}
	if _, err := c.leader.TakeOver(ctx); err != nil {
		return err
	}
	return c.nodes.Join(ctx)
}

// Close leaves the cluster and stops the registry. It may be called twice, and
// after a failed Open.
func (c *Cluster) Close(ctx context.Context) error {
	var errs []error
	if c.nodes != nil {
		errs = append(errs, c.nodes.Leave(ctx))
	}
	if c.member != nil {
		errs = append(errs, c.member.Close(ctx))
	}
	return errors.Join(errs...)
}

// Leader is this node's claim to lead.
func (c *Cluster) Leader() *Leader { return c.leader }

// Names are the named instances.
func (c *Cluster) Names() *Names { return c.names }

// Config is the configuration of the whole cluster.
func (c *Cluster) Config() *Config { return c.config }

// Membership is this node's place among the others.
func (c *Cluster) Membership() *Membership { return c.nodes }

// Failed is closed when the embedded registry can go on no longer (disk full,
// broken files); Err then says why. The daemon must stop and say so.
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
