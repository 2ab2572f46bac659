package cluster

import (
	"context"
	"errors"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"google.golang.org/grpc"

	"yr/pkg/yr"
)

// A single voter needs no patience: it is ready one election after its start.
// Several must bear a pause of one of them without electing another leader.
const (
	loneTickMs, loneElectionMs = 10, 50
	tickMs, electionMs         = 100, 1000
)

// What keeps the member small. The registry holds some thousand keys, so etcd's
// defaults (64 MB log segments, 10 000 entries kept in memory) are far too large.
const (
	// DefaultQuotaBytes bounds the database file; past it writes fail with DiskFull.
	DefaultQuotaBytes = 1 << 30
	// DefaultCompactRevisions is how many revisions of history are kept.
	DefaultCompactRevisions = 10_000

	walSegmentBytes = 4 << 20
	snapshotEvery   = 2_000
	catchUpEntries  = 500
	maxRequestBytes = 1 << 20

	// maxLearners may catch up at a time: growing from one voter to three adds two.
	maxLearners = 2

	// defragMiB of free pages in the database make a start give them back first.
	defragMiB = 64
)

// settlePause is between attempts at what the others must agree to.
const settlePause = 100 * time.Millisecond

var shrinkWAL = sync.OnceFunc(func() { wal.SegmentSizeBytes = walSegmentBytes })

// engine is one run of etcd. A Member has one at a time; growing replaces it.
type engine struct {
	member *Member
	plan   plan

	booted chan struct{} // closed when what follows is set
	etcd   *embed.Etcd
	client *clientv3.Client
	server *grpc.Server // serves the socket; nil without one

	ready   chan struct{}           // closed when requests can be answered
	life    context.Context         // ends when etcd stops or gives up
	end     context.CancelCauseFunc // ends life
	reign   atomic.Pointer[reign]   // of the leader that etcd has, or had last
	closing atomic.Bool             // what etcd complains about from now on is that it was closed
	work    sync.WaitGroup          // our goroutines
}

func newEngine(m *Member, p plan) *engine {
	e := &engine{member: m, plan: p, booted: make(chan struct{}), ready: make(chan struct{})}
	e.life, e.end = context.WithCancelCause(m.life)
	e.reign.Store(e.newReign())
	return e
}

// reign is the time of one leader of etcd. Requests live in it.
type reign struct {
	life context.Context
	end  context.CancelCauseFunc
}

func (e *engine) newReign() *reign {
	r := &reign{}
	r.life, r.end = context.WithCancelCause(e.life)
	return r
}

// succession is how long a request still waits for its answer when another leader
// has been elected: what had reached a majority is answered by then.
const succession = 500 * time.Millisecond

// succeed ends the reigns of leaders that have been followed by others.
func (e *engine) succeed() {
	for {
		select {
		case <-e.etcd.Server.LeaderChangedNotify():
			last := e.reign.Swap(e.newReign())
			time.AfterFunc(succession, func() { last.end(ErrElection) })
		case <-e.life.Done():
			return
		}
	}
}

// start runs embed.StartEtcd on a goroutine of its own, because etcd answers
// broken files by panicking or exiting: the logger turns both into the end of
// the goroutine (see fatalHook). On error nothing is left running.
func (e *engine) start(ctx context.Context) error {
	m := e.member
	listener, err := m.listen()
	if err != nil {
		return err
	}
	if err := e.boot(); err != nil {
		e.end(errStopping)
		if listener != nil {
			_ = listener.Close()
		}
		return err
	}
	if listener != nil {
		e.serve(listener)
	}
	e.work.Go(e.settle)
	e.work.Go(e.succeed)
	if err := e.checkCluster(ctx); err != nil {
		return errors.Join(err, e.close(context.WithoutCancel(ctx)))
	}
	return nil
}

func (e *engine) boot() error {
	shrinkWAL()
	m := e.member
	config, err := e.config()
	if err != nil {
		return err
	}
	type outcome struct {
		etcd *embed.Etcd
		err  error
	}
	started := make(chan outcome, 1)
	go func() {
		out := outcome{err: errors.New("etcd gave up while starting")}
		defer func() {
			if p := recover(); p != nil {
				out.err = m.broken(errorOf(p))
			}
			started <- out
		}()
		etcd, err := embed.StartEtcd(config)
		if err != nil {
			err = m.startError(e.plan, err)
		}
		out = outcome{etcd, err}
	}()

	// StartEtcd cannot be interrupted. It takes milliseconds, or seconds if it must
	// ask masters that do not answer, or fails.
	select {
	case out := <-started:
		if out.err != nil {
			return out.err
		}
		e.etcd = out.etcd
		e.client = v3client.New(e.etcd.Server)
		close(e.booted)
		return nil
	case <-m.failed:
		return m.failure
	}
}

func (e *engine) config() (*embed.Config, error) {
	o := &e.member.options
	c := embed.NewConfig()
	c.Name = e.plan.name
	c.Dir = o.Dir
	c.InitialElectionTickAdvance = true
	c.AutoCompactionMode = embed.CompactorModeRevision
	c.AutoCompactionRetention = strconv.FormatInt(o.CompactRevisions, 10)
	c.QuotaBackendBytes = o.QuotaBytes
	c.SnapshotCount, c.SnapshotCatchUpEntries = snapshotEvery, catchUpEntries
	c.MaxRequestBytes = maxRequestBytes
	c.MaxLearners = maxLearners
	c.BootstrapDefragThresholdMegabytes = defragMiB
	c.EnableGRPCGateway = false
	c.AuthToken = ""
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(e.logger())
	c.InitialCluster = e.plan.cluster
	c.InitialClusterToken = e.plan.token
	c.ClusterState = e.plan.state

	// Nobody listens for clients here: the URL is a name that etcd wants to have.
	c.ListenClientUrls, c.AdvertiseClientUrls = nil, []url.URL{{Scheme: "unix", Host: "yr-" + e.plan.name}}
	if !e.plan.several {
		c.TickMs, c.ElectionMs = loneTickMs, loneElectionMs
		c.UnsafeNoFsync = !o.Fsync
		c.ListenPeerUrls, c.AdvertisePeerUrls = nil, []url.URL{lonePeer}
		return c, nil
	}
	c.TickMs, c.ElectionMs = tickMs, electionMs
	listen, err := o.Peers.listenURL()
	if err != nil {
		return nil, yr.Wrap("start etcd", yr.ParamInvalid, err)
	}
	c.ListenPeerUrls = []url.URL{listen}
	c.AdvertisePeerUrls = []url.URL{{Scheme: "https", Host: o.Peers.Address}}
	c.PeerTLSInfo = o.Peers.TLS.info()
	return c, nil
}

// settle makes this member what the configuration says: reachable, ready and, if
// it came as a learner, a voter. It ends with the engine.
func (e *engine) settle() {
	m, server := e.member, e.etcd.Server
	if e.plan.several {
		if !e.try("find a majority", e.answers) || !e.try("announce the peer address", e.announce) {
			e.stopped()
			return
		}
	} else {
		select {
		case <-server.ReadyNotify():
		case <-server.StopNotify():
			e.stopped()
			return
		case <-e.life.Done():
			return
		}
	}
	e.lift()
	close(e.ready)
	m.readyOnce.Do(func() { close(m.ready) })
	if e.plan.several && !e.try("become a voter", e.promoteSelf) {
		e.stopped()
		return
	}
	select {
	case <-server.StopNotify():
		e.stopped()
	case <-e.life.Done():
	}
}

// try repeats step until it is done; false means that etcd has stopped.
func (e *engine) try(what string, step func(context.Context) (done bool, err error)) bool {
	stopped := e.etcd.Server.StopNotify()
	said := ""
	for {
		ctx, cancel := context.WithTimeout(e.life, requestTimeout)
		done, err := step(ctx)
		cancel()
		if done {
			return true
		}
		if err != nil && err.Error() != said && e.life.Err() == nil {
			said = err.Error()
			e.member.options.Log.Warn().Err(err).Msgf("this master cannot %s yet; it goes on trying", what)
		}
		select {
		case <-time.After(settlePause):
		case <-stopped:
			return false
		case <-e.life.Done():
			return false
		}
	}
}

// stopped is called when etcd has ended. Unless it was told to, it was removed
// from the cluster: it stops for no other reason.
func (e *engine) stopped() {
	select {
	case <-e.etcd.Server.StopNotify():
		if !e.closing.Load() {
			e.member.fail(ErrRemoved)
		}
	case <-e.life.Done():
	}
}

// answers reports whether a majority answers. etcd's own ReadyNotify waits, after
// that, for its name to be known: for 7 s, if the first attempt is lost.
func (e *engine) answers(ctx context.Context) (bool, error) {
	if e.etcd.Server.Leader() == 0 {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	_, err := e.client.Get(ctx, "\x00")
	return err == nil, nil // not yet is no error: requests that wait say who is missing
}

// lift ends the refusal of writes that reaching the quota once has begun and that
// etcd keeps until told, if this member's database is below the quota again: it was
// raised, or old revisions are gone.
func (e *engine) lift() {
	server, limit := e.etcd.Server, e.member.options.QuotaBytes
	for _, alarm := range server.Alarms() {
		if alarm.GetAlarm() != etcdserverpb.AlarmType_NOSPACE || alarm.GetMemberID() != uint64(server.MemberID()) || server.Backend().SizeInUse() > limit/10*9 {
			continue
		}
		ctx, cancel := context.WithTimeout(e.life, requestTimeout)
		_, err := e.client.AlarmDisarm(ctx, &clientv3.AlarmMember{MemberID: alarm.GetMemberID(), Alarm: alarm.GetAlarm()})
		cancel()
		if err != nil {
			e.member.options.Log.Warn().Err(err).Msg("the registry still refuses writes although its quota is not reached; restart this master")
		}
	}
}

// announce corrects the address under which the cluster knows this member: a
// master that was alone had none, and one that has moved has another.
func (e *engine) announce(ctx context.Context) (bool, error) {
	self := e.self()
	want := peerURL(e.member.options.Peers.Address)
	if self == nil || len(self.PeerURLs) == 1 && self.PeerURLs[0] == want {
		return true, nil
	}
	_, err := e.client.MemberUpdate(ctx, uint64(self.ID), []string{want})
	return err == nil, err
}

// promoteSelf makes a learner a voter as soon as that makes the cluster safer: an
// even number of voters survives no more losses than one less. So the second
// master waits, learning, until the third has started too.
func (e *engine) promoteSelf(ctx context.Context) (bool, error) {
	self := e.self()
	if self == nil || !self.IsLearner {
		return true, nil
	}
	voters := 0
	var learners []Voter // besides this one
	for _, member := range e.members() {
		if !member.IsLearner {
			voters++
		} else if member.ID != self.ID {
			learners = append(learners, Voter{member.Name, addressOf(member)})
		}
	}
	if voters%2 != 0 && !e.member.prober.anyAnswers(ctx, learners) {
		return false, nil
	}
	_, err := e.client.MemberPromote(ctx, uint64(self.ID))
	return err == nil, err
}

func (e *engine) members() []*membership.Member { return e.etcd.Server.Cluster().Members() }

// self is this member as it knows itself, nil if it has been removed.
func (e *engine) self() *membership.Member {
	return e.etcd.Server.Cluster().Member(e.etcd.Server.MemberID())
}

// close stops etcd and waits for it, at most until ctx ends.
func (e *engine) close(ctx context.Context) error {
	e.closing.Store(true)
	e.end(errStopping)
	dead := e.member.Err() != nil && !errors.Is(e.member.Err(), ErrRemoved)
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		if e.server != nil {
			e.server.Stop()
		}
		if dead {
			return
		}
		_ = e.client.Close()
		e.etcd.Close()
		e.work.Wait()
	}()
	var gaveUp <-chan struct{} // while it is being stopped
	if e.member.Err() == nil {
		gaveUp = e.member.failed
	}
	select {
	case <-closed:
		return nil
	case <-gaveUp:
		return nil
	case <-ctx.Done():
		return yr.Wrap("stop etcd", yr.Internal, ctx.Err())
	}
}
