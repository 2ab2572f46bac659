package daemon

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"yr/master/server"
	"yr/pkg/cluster"
	"yr/pkg/config"
	"yr/pkg/durable"
	"yr/pkg/telemetry"
	"yr/pkg/yr"
)

// What a master does besides: the registry (etcd), the records (Raft), whose
// leader is the cluster's leader, and the leader's service.

// masters is the master's part of a daemon.
type masters struct {
	cluster *cluster.Cluster
	records *durable.Group
	service *server.Server
	rpc     *grpc.Server             // of the leader's service
	store   *grpc.Server             // of the records
	list    atomic.Pointer[[]string] // where masters are reached
	revived map[yr.Node]uint64       // incarnations that left, and whose instances were seen to
	ready   chan struct{}            // records is open
	stop    context.CancelFunc
	done    chan struct{} // nobody opens records any more
}

// openMaster starts them. The only master is ready when it returns; one of several
// waits for the others in the background.
func (d *Daemon) openMaster(ctx context.Context, logs *telemetry.Logs) error {
	s := &d.plan.Settings
	m := &masters{ready: make(chan struct{}), done: make(chan struct{}), revived: make(map[yr.Node]uint64)}
	d.masters = m
	self := address(s.HostIP, s.Ports.Bus)
	m.list.Store(&[]string{self})

	peers, err := d.etcdPeers()
	if err != nil {
		return err
	}
	backup, err := d.unpackBackup(ctx)
	if err != nil {
		return err
	}
	log := logs.For("function_master")
	m.cluster = cluster.New(cluster.Options{
		Dir: filepath.Join(s.DataDir, "etcd"), Node: s.NodeID, Fsync: s.Fsync && !d.plan.Temporary,
		TablePrefix: s.TablePrefix, Peers: peers, Standby: true, Log: log,
	})
	if err := d.open(ctx, "etcd", m.cluster); err != nil {
		return err
	}
	d.step("etcd")

	m.service = server.New(server.Options{
		Node: s.NodeID, Address: self, Version: d.plan.Version, Leadership: leadership{m},
		Leader: m.cluster.Leader(), Nodes: m.cluster.Nodes(), Names: m.cluster.Names(),
		Masters: func() []string { return *m.list.Load() }, OnDead: d.recover, Log: log,
	})
	m.rpc, m.store = grpc.NewServer(), grpc.NewServer(grpc.MaxRecvMsgSize(durable.MaxMessage))
	m.service.Attach(m.rpc)
	life, stop := context.WithCancel(context.Background())
	m.stop = stop
	d.closers = append(d.closers, closer{"masters", m.close})
	records := func(bootstrap bool) *durable.Group {
		return durable.New(durable.Options{
			Dir: filepath.Join(s.DataDir, "records"), Node: s.NodeID, Address: self, Bootstrap: bootstrap,
			Listener: d.peers.Listen("raft"),
			Dial:     func(ctx context.Context, address string) (net.Conn, error) { return d.peers.Dial(ctx, address, "raft") },
			Log:      log,
		})
	}
	if len(s.Masters) < 2 && len(s.Join) == 0 {
		close(m.done)
		m.records = records(true)
		if err := m.records.Open(ctx); err != nil {
			return err
		}
		if _, err := m.founds(ctx, s); err != nil {
			return err
		}
		if backup != nil {
			if err := backup.finish(ctx, m); err != nil {
				return err
			}
		}
		d.serveRecords()
		close(m.ready)
	} else {
		go d.openRecords(life, records)
	}
	go func() { _ = m.rpc.Serve(d.peers.Listen("rpc")) }() // ends with Stop
	if err := d.open(ctx, "leader", m.service); err != nil {
		return err
	}
	d.running.Go(func() { d.tendMasters(life) })
	d.running.Go(func() { d.watchMaster(life) })
	d.running.Go(func() { d.serveAdmissions(life, d.peers.Listen(admitProtocol)) })
	d.step("records")
	return nil
}

func (m *masters) close(ctx context.Context) error {
	m.stop()
	m.rpc.Stop()
	<-m.done
	m.store.Stop()
	if m.records == nil {
		return nil
	}
	return m.records.Close(ctx)
}

// etcdPeers is how this master's etcd meets the others'. The only master listens
// for none until it gets company.
func (d *Daemon) etcdPeers() (*cluster.Peers, error) {
	s := &d.plan.Settings
	if d.plan.Temporary {
		return nil, nil //nolint:nilnil // nil: alone for ever
	}
	files, err := certificatesOf(s, filepath.Join(s.DataDir, "etcd-tls"))
	if err != nil {
		return nil, err
	}
	p := &cluster.Peers{
		Address: net.JoinHostPort(s.HostIP, strconv.Itoa(s.Ports.EtcdPeer.Number)),
		TLS:     cluster.PeerTLS{CertFile: files.Cert, KeyFile: files.Key, CAFile: files.CA},
	}
	if !s.EtcdTLS.Enabled {
		p.TLS.ServerName = "yr-master"
	}
	var addresses []string
	for _, m := range s.Masters {
		addresses = append(addresses, net.JoinHostPort(m.IP, strconv.Itoa(m.PeerPort)))
	}
	switch {
	case len(s.Join) > 0:
		p.Name, p.Join = string(s.NodeID), d.askAdmission
		if len(addresses) > 0 {
			p.Address = addresses[s.MasterIndex]
		}
		return p, nil
	case len(addresses) < 2:
		if len(addresses) == 1 {
			p.Address = addresses[0]
		}
		return p, nil
	}
	voters, self, err := cluster.VotersOf(addresses, s.HostIP)
	if err != nil {
		return nil, err
	}
	p.Voters, p.Name, p.Address = voters, voters[self].Name, voters[self].Address
	return p, nil
}

// founderKey names the master that begins the records; the others are added by it.
const founderKey = "/yr/!/founder"

// openRecords opens the records of one of several masters: one of them, whoever
// is first, founds the group.
func (d *Daemon) openRecords(life context.Context, records func(bootstrap bool) *durable.Group) {
	m := d.masters
	defer close(m.done)
	if err := m.cluster.WaitReady(life); err != nil {
		return
	}
	for {
		founds, err := m.founds(life, &d.plan.Settings)
		switch {
		case life.Err() != nil:
			return
		case err != nil:
			logf("the masters' registry does not answer: %v", err)
			pause(life, time.Second)
			continue
		}
		m.records = records(founds)
		break
	}
	if err := m.records.Open(life); err != nil {
		d.fail(yr.Wrap("open the records", yr.CodeOf(err), err))
		return
	}
	d.serveRecords()
	close(m.ready)
}

// serveRecords answers nodes that read and write records.
func (d *Daemon) serveRecords() {
	m := d.masters
	durable.Register(m.store, m.records)
	go func() { _ = m.store.Serve(d.peers.Listen("records")) }() // ends with Stop
}

// founds reports whether this master begins the records. The first one to ask does.
func (m *masters) founds(ctx context.Context, s *config.Settings) (bool, error) {
	key, own := s.TablePrefix+founderKey, []byte(s.NodeID)
	out, err := m.cluster.Member().Commit(ctx, []cluster.Condition{{Key: key}}, []cluster.Write{{Key: key, Value: own}})
	return err == nil && (out.OK || string(out.Current[0].Value) == string(own)), err
}

func pause(ctx context.Context, how time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(how):
	}
}

// watchMaster notices when the registry or the records can go on no longer.
func (d *Daemon) watchMaster(life context.Context) {
	m := d.masters
	select {
	case <-life.Done():
		return
	case <-m.cluster.Failed():
		d.fail(m.cluster.Err())
		return
	case <-m.ready:
	}
	select {
	case <-life.Done():
	case <-m.cluster.Failed():
		d.fail(m.cluster.Err())
	case <-m.records.Failed():
		d.fail(m.records.Err())
	}
}

// tendMasters keeps, on the leader, the list of masters and the voters what the
// registered masters are.
func (d *Daemon) tendMasters(life context.Context) {
	m := d.masters
	for life.Err() == nil {
		if _, leading := (leadership{m}).Leading(); leading {
			if err := d.tendOnce(life); err != nil && !errors.Is(err, context.Canceled) {
				logf("the list of masters could not be brought up to date: %v", err)
			}
		} else if list, err := m.cluster.Facts().Masters(life); err == nil && len(list) > 0 {
			addresses := make([]string, 0, len(list))
			for _, one := range list {
				addresses = append(addresses, one.Address)
			}
			m.list.Store(&addresses)
		}
		pause(life, time.Second)
	}
}

// tendOnce makes every registered master a voter and names it to those who join.
func (d *Daemon) tendOnce(ctx context.Context) error {
	m := d.masters
	nodes, err := m.cluster.Nodes().List(ctx)
	if err != nil {
		return err
	}
	known, err := m.cluster.Facts().Masters(ctx)
	if err != nil {
		return err
	}
	voters, err := m.records.Members()
	if err != nil {
		return err
	}
	var addresses []string
	for _, n := range nodes {
		if n.State == cluster.NodeLeft && m.revived[n.ID] < n.Incarnation {
			m.revived[n.ID] = n.Incarnation
			d.recover(ctx, n) // what outlives it goes on here
		}
		if !n.Master || n.State == cluster.NodeLeft {
			continue
		}
		addresses = append(addresses, n.Address)
		if n.State != cluster.NodeAlive {
			continue
		}
		if !slices.ContainsFunc(known, func(k cluster.Master) bool { return k.Node == n.ID && k.Address == n.Address }) {
			if err := m.cluster.Facts().PutMaster(ctx, cluster.Master{Node: n.ID, Name: string(n.ID), Address: n.Address}); err != nil {
				return err
			}
		}
		if !slices.ContainsFunc(voters, func(v durable.Member) bool { return v.Node == n.ID && v.Address == n.Address && v.Voter }) {
			if err := m.records.AddVoter(ctx, n.ID, n.Address); err != nil {
				return err
			}
		}
	}
	if len(addresses) > 0 {
		m.list.Store(&addresses)
	}
	return nil
}

// leadership is the records' leadership as the leader's service asks for it.
type leadership struct{ m *masters }

func (l leadership) open() bool {
	select {
	case <-l.m.ready:
		return true
	default:
		return false
	}
}

func (l leadership) Leading() (term uint64, ok bool) {
	if !l.open() {
		return 0, false
	}
	return l.m.records.Leading()
}

func (l leadership) Changes() <-chan struct{} {
	if !l.open() {
		return l.m.ready
	}
	return l.m.records.Leadership()
}

func (l leadership) Leader() (address string, ok bool) {
	if !l.open() {
		return "", false
	}
	address = l.m.records.LeaderAddress()
	return address, address != ""
}
