package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/rs/zerolog"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"google.golang.org/grpc"

	"yr/pkg/yr"
)

// A single voter needs no patience: it is ready one election after its start.
// Several voters will need 100 ms and 1 s, because short timeouts elect
// needlessly when a member pauses.
const (
	tickMs     = 10
	electionMs = 50
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
)

// MaxSocketPath is the longest path of a Unix socket that yr makes; the kernel
// allows 107 bytes.
const MaxSocketPath = 100

// MemberOptions say where an embedded etcd member lives.
type MemberOptions struct {
	Dir              string
	SocketDir        string // "" serves no socket
	Fsync            bool
	QuotaBytes       int64 // 0: DefaultQuotaBytes
	CompactRevisions int64 // 0: DefaultCompactRevisions
	Log              zerolog.Logger
}

// Member is an etcd server inside this process, the only voter of its cluster.
// This process talks to it by function calls; the Unix socket is for etcdctl.
type Member struct {
	options MemberOptions

	etcd    *embed.Etcd
	client  *clientv3.Client
	server  *grpc.Server // serves the socket; nil without one
	serving chan struct{}

	failOnce sync.Once
	failed   chan struct{}      // closed when etcd gives up
	failure  error              // why; written before failed is closed
	life     context.Context    // ends when etcd gives up; requests live in it
	end      context.CancelFunc // ends life
	closing  atomic.Bool        // what etcd complains about from now on is that it was closed
}

var shrinkWAL = sync.OnceFunc(func() { wal.SegmentSizeBytes = walSegmentBytes })

// NewMember makes a closed Member.
func NewMember(o MemberOptions) *Member {
	if o.QuotaBytes == 0 {
		o.QuotaBytes = DefaultQuotaBytes
	}
	if o.CompactRevisions == 0 {
		o.CompactRevisions = DefaultCompactRevisions
	}
	m := &Member{options: o, failed: make(chan struct{})}
	m.life, m.end = context.WithCancel(context.Background())
	return m
}

// Open starts etcd and waits until it has elected itself. Its errors say what is
// wrong with the directory and what to do.
func (m *Member) Open(ctx context.Context) error {
	if err := m.preflight(); err != nil {
		return err
	}
	listener, err := m.listen()
	if err != nil {
		return err
	}
	if err := m.start(ctx); err != nil {
		if listener != nil {
			_ = listener.Close()
		}
		return err
	}
	if listener != nil {
		m.serve(listener)
	}
	return nil
}

// start runs embed.StartEtcd on a goroutine of its own, because etcd answers
// broken files by panicking or exiting: the logger turns both into the end of
// the goroutine (see fatalHook).
func (m *Member) start(ctx context.Context) error {
	shrinkWAL()
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
		etcd, err := embed.StartEtcd(m.config())
		if err != nil {
			err = m.broken(err)
		}
		out = outcome{etcd, err}
	}()

	// StartEtcd cannot be interrupted; it takes milliseconds, or fails.
	var out outcome
	select {
	case out = <-started:
	case <-m.failed:
		return m.failure
	}
	if out.err != nil {
		return out.err
	}
	m.etcd = out.etcd
	m.client = v3client.New(m.etcd.Server)
	select {
	case <-m.etcd.Server.ReadyNotify():
		return nil
	case <-m.failed:
		return errors.Join(m.failure, m.Close(context.WithoutCancel(ctx)))
	case <-ctx.Done():
		return errors.Join(yr.Wrap("start etcd", yr.Interrupted, ctx.Err()), m.Close(context.WithoutCancel(ctx)))
	}
}

func (m *Member) config() *embed.Config {
	c := embed.NewConfig()
	c.Name = "yr"
	c.Dir = m.options.Dir
	c.TickMs, c.ElectionMs = tickMs, electionMs
	c.InitialElectionTickAdvance = true
	c.UnsafeNoFsync = !m.options.Fsync
	c.AutoCompactionMode = embed.CompactorModeRevision
	c.AutoCompactionRetention = strconv.FormatInt(m.options.CompactRevisions, 10)
	c.QuotaBackendBytes = m.options.QuotaBytes
	c.SnapshotCount, c.SnapshotCatchUpEntries = snapshotEvery, catchUpEntries
	c.MaxRequestBytes = maxRequestBytes
	c.EnableGRPCGateway = false
	c.AuthToken = ""
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(m.logger())

	// A single voter has nobody to listen for. Its peer URL is only a name, kept
	// in the data directory; growing to three voters replaces it.
	self := url.URL{Scheme: "unix", Host: "yr-single-voter"}
	c.ListenPeerUrls, c.AdvertisePeerUrls = nil, []url.URL{self}
	c.ListenClientUrls, c.AdvertiseClientUrls = nil, []url.URL{self}
	c.InitialCluster = c.Name + "=" + self.String()
	return c
}

// SocketPath is where etcdctl finds this member, "" if nowhere.
func (m *Member) SocketPath() string {
	if m.options.SocketDir == "" {
		return ""
	}
	return filepath.Join(m.options.SocketDir, "etcd.sock")
}

func (m *Member) listen() (*net.UnixListener, error) {
	path := m.SocketPath()
	if path == "" {
		return nil, nil
	}
	if len(path) > MaxSocketPath {
		return nil, yr.E("etcd socket", yr.ParamInvalid, "the path %q has %d bytes, at most %d work; use a shorter directory", path, len(path), MaxSocketPath)
	}
	// The caller holds the directory's lock, so a socket that exists is a dead one's.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, yr.Wrap("etcd socket", yr.DiskFailed, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, yr.Wrap("etcd socket", yr.DiskFailed, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(yr.Wrap("etcd socket", yr.DiskFailed, err), l.Close())
	}
	return l, nil
}

func (m *Member) serve(l *net.UnixListener) {
	m.server = v3rpc.Server(m.etcd.Server, nil, nil)
	m.serving = make(chan struct{})
	go func() {
		defer close(m.serving)
		if err := m.server.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			m.options.Log.Warn().Err(err).Msg("the etcd socket is closed; etcdctl cannot reach it")
		}
	}()
}

// Close stops etcd and waits for its goroutines, at most until ctx ends. It may
// be called twice. An etcd that has given up cannot be stopped: it is left as it
// is, and its locks go with the process.
func (m *Member) Close(ctx context.Context) error {
	if m.etcd == nil {
		return nil
	}
	m.closing.Store(true)
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		if m.server != nil {
			m.server.Stop()
			<-m.serving
		}
		if m.Err() == nil {
			_ = m.client.Close()
			m.etcd.Close()
		}
	}()
	select {
	case <-closed:
		m.etcd = nil
		m.end()
		return nil
	case <-m.failed: // it gave up while it was being stopped
		return nil
	case <-ctx.Done():
		return yr.Wrap("stop etcd", yr.Internal, ctx.Err())
	}
}

// Failed is closed when etcd has given up.
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

// Identity is a random name of the data directory, made on first use. It tells a
// restarted daemon from another one with the same node id.
func (m *Member) Identity() (string, error) {
	path := filepath.Join(m.options.Dir, "identity")
	if b, err := os.ReadFile(path); err == nil && len(strings.TrimSpace(string(b))) > 0 {
		return strings.TrimSpace(string(b)), nil
	}
	raw := make([]byte, 8)
	_, _ = rand.Read(raw) // never fails
	id := hex.EncodeToString(raw)
	temporary := path + ".new"
	if err := os.WriteFile(temporary, []byte(id+"\n"), 0o600); err != nil {
		return "", m.broken(err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return "", m.broken(err)
	}
	return id, nil
}
