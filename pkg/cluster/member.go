package cluster

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	clientv3 "go.etcd.io/etcd/client/v3"

	"yr/pkg/yr"
)

// MemberOptions say where an embedded etcd member lives and who else votes.
type MemberOptions struct {
	Dir              string
	SocketDir        string // "" serves no socket
	Fsync            bool   // always on with several voters
	QuotaBytes       int64  // 0: DefaultQuotaBytes
	CompactRevisions int64  // 0: DefaultCompactRevisions
	Peers            *Peers // nil: alone for ever
	Log              zerolog.Logger
}

// Member is an etcd server inside this process. This process talks to it by
// function calls; the other masters reach it at its peer address, which an only
// voter does not open; the Unix socket is for etcdctl.
type Member struct {
	etcdKV
	options MemberOptions
	prober  *prober // nil without Peers

	change sync.Mutex             // held while engine is opened, replaced or closed
	engine atomic.Pointer[engine] // what runs; nil before Open and after Close

	readyOnce sync.Once
	ready     chan struct{} // closed when the first engine is ready
	failOnce  sync.Once
	failed    chan struct{}      // closed when etcd gives up
	failure   error              // why; written before failed is closed
	life      context.Context    // ends when etcd gives up
	end       context.CancelFunc // ends life
}

// NewMember makes a closed Member.
func NewMember(o MemberOptions) *Member {
	if o.QuotaBytes == 0 {
		o.QuotaBytes = DefaultQuotaBytes
	}
	if o.CompactRevisions == 0 {
		o.CompactRevisions = DefaultCompactRevisions
	}
	m := &Member{options: o, ready: make(chan struct{}), failed: make(chan struct{})}
	m.etcdKV = etcdKV{connect: m.connect, explain: m.requestError, slow: m.surveyLater}
	m.life, m.end = context.WithCancel(context.Background())
	return m
}

// Open starts etcd. An only voter is ready when Open returns. One of several
// waits for a majority, which may start later: Open returns when this one has
// started, and Ready and WaitReady tell the rest; requests wait as well, each for
// its own time. Errors say what is wrong and what to do.
func (m *Member) Open(ctx context.Context) error {
	if err := m.checkOptions(); err != nil {
		return err
	}
	if err := m.preflight(); err != nil {
		return err
	}
	plan, err := m.plan(ctx)
	if err != nil {
		return err
	}
	m.change.Lock()
	defer m.change.Unlock()
	e := newEngine(m, plan)
	m.engine.Store(e)
	if err := e.start(ctx); err != nil {
		m.engine.Store(nil)
		return err
	}
	if plan.several {
		return nil
	}
	if err := m.WaitReady(ctx); err != nil {
		m.engine.Store(nil)
		return errors.Join(err, e.close(context.WithoutCancel(ctx)))
	}
	return nil
}

func (m *Member) checkOptions() error {
	o := &m.options
	if o.QuotaBytes < 0 || o.CompactRevisions < 0 {
		return yr.E("start etcd", yr.ParamInvalid, "etcd.args.quota-backend-bytes (%d) and etcd.args.auto-compaction-retention (%d) cannot be negative", o.QuotaBytes, o.CompactRevisions)
	}
	if o.Peers == nil {
		return nil
	}
	if err := o.Peers.check(); err != nil {
		return err
	}
	var err error
	m.prober, err = newProber(o.Peers.TLS)
	return err
}

var errNotOpen = yr.E("registry", yr.Communication, "etcd is not running")

// Ready is closed when this member has first found a majority.
func (m *Member) Ready() <-chan struct{} { return m.ready }

// WaitReady waits for Ready. Its error names the masters that are missing.
func (m *Member) WaitReady(ctx context.Context) error {
	defer m.surveyLater()()
	select {
	case <-m.ready:
		return nil
	case <-m.life.Done(): // closed, or failed
		return m.requestError("start etcd", errStopping)
	case <-ctx.Done():
		return m.requestError("start etcd", ctx.Err())
	}
}

// surveyPatience is how long a request waits before it is found out who is missing.
const surveyPatience = 250 * time.Millisecond

// surveyLater finds out which masters are missing if the caller still waits after
// surveyPatience, so that its error can name them. The caller calls done.
func (m *Member) surveyLater() (done func()) {
	if m.prober == nil {
		return func() {}
	}
	timer := time.AfterFunc(surveyPatience, func() {
		ctx, cancel := context.WithTimeout(m.life, probeTimeout)
		defer cancel()
		m.prober.survey(ctx, m.otherVoters())
	})
	return func() { timer.Stop() }
}

// connect implements etcdKV.connect: it waits until etcd can be used.
func (m *Member) connect(ctx context.Context) (connection, error) {
	e := m.engine.Load()
	if e == nil {
		return connection{}, errNotOpen
	}
	select {
	case <-e.ready:
		return connection{client: e.client, life: e.life, reign: e.reign.Load().life}, nil
	case <-m.failed:
		return connection{}, m.failure
	case <-e.life.Done():
		return connection{}, m.requestError("wait for the registry", errStopping)
	case <-ctx.Done():
		return connection{}, m.requestError("wait for the registry", ctx.Err())
	}
}

// Close stops etcd and waits for its goroutines, at most until ctx ends. It may
// be called twice. An etcd that has given up cannot be stopped: it is left as it
// is, and its locks go with the process.
func (m *Member) Close(ctx context.Context) error {
	m.change.Lock()
	defer m.change.Unlock()
	e := m.engine.Load()
	if e == nil {
		return nil
	}
	if err := e.close(ctx); err != nil {
		return err
	}
	m.engine.Store(nil)
	m.end()
	return nil
}

// Failed is closed when etcd has given up for good: its disk is full or broken,
// or this master was removed. A lost majority is no reason; it may come back.
func (m *Member) Failed() <-chan struct{} { return m.failed }

// Err is why etcd has given up, nil while it has not.
func (m *Member) Err() error {
	select {
	case <-m.failed:
		return m.failure
	default:
		return nil
	}
}

// several reports whether this member is, or starts as, one of several.
func (m *Member) several() bool {
	e := m.engine.Load()
	return e != nil && e.plan.several
}

// Status shows how large the registry is.
type Status struct {
	DatabaseBytes int64 `json:"database_bytes"`
	Revision      int64 `json:"revision"`
}

// Status reads the state of this member.
func (m *Member) Status(ctx context.Context) (Status, error) {
	r, err := m.read(ctx, "read the registry", "\x00", clientv3.WithCountOnly())
	if err != nil {
		return Status{}, err
	}
	e, err := m.usable(ctx)
	if err != nil {
		return Status{}, err
	}
	return Status{DatabaseBytes: e.etcd.Server.Backend().Size(), Revision: r.Header.GetRevision()}, nil
}
