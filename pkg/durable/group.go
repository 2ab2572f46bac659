package durable

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"
	"github.com/rs/zerolog"

	"yr/pkg/yr"
)

// DefaultHeartbeat is after how long without its leader a voter asks for an
// election. It is long enough for a machine that stalls for a moment, and short
// enough that a failover ends within two seconds.
const DefaultHeartbeat = 600 * time.Millisecond

// Options say what voter to open.
type Options struct {
	Dir     string  // everything durable of this voter, made with mode 0700
	Group   uint32  // part of every key and of every connection
	Node    yr.Node // the voter's name, for ever
	Address string  // where the other voters' Dial reaches Listener

	// Listener and Dial carry the connections between voters. They may be nil for a
	// voter that stays alone. The Group closes the listener.
	Listener net.Listener
	Dial     func(ctx context.Context, address string) (net.Conn, error)

	// Bootstrap makes a group with this one voter, if Dir has none yet. Without it a
	// new voter waits for a leader's AddVoter.
	Bootstrap bool

	Heartbeat time.Duration // 0: DefaultHeartbeat
	Clock     Clock         // nil: SystemClock
	Fault     Fault         // for tests
	Log       zerolog.Logger

	// For tests.
	files    types.VFS // of the log; nil: the kernel's
	trailing uint64    // log entries that stay after a snapshot; 0: minTrailing and more
	segment  int       // bytes of a log segment; 0: segmentBytes
}

// Group is a voter of a Raft group. It answers as a Store while it leads; else
// with a NotLeaderError.
type Group struct {
	options Options

	lock      *os.File
	log       *guardedLog
	blobs     *blobs
	streams   *streams
	transport *raft.NetworkTransport
	fsm       *fsm
	hub       *hub
	raft      *raft.Raft
	snapshots *snapshots
	queue     *queue
	reads     reads
	fetch     *fetcher

	life   context.Context // ends when Close begins or the voter fails
	end    context.CancelFunc
	wg     crew
	notify chan bool // from Raft: leading or not

	upkeep sync.Mutex // one Backup or Restore at a time

	leading atomic.Pointer[leadership]
	alone   atomic.Bool // this is the only voter
	change  atomic.Pointer[chan struct{}]

	failOnce sync.Once
	failure  error
	failed   chan struct{}
	opened   atomic.Bool // fail stops the voter; before, Open does
	stopping sync.Once
	stopped  chan struct{} // Raft answers no more
	closing  sync.Once
	closeErr error
}

// New makes a closed Group.
func New(o Options) *Group {
	if o.Heartbeat == 0 {
		o.Heartbeat = DefaultHeartbeat
	}
	if o.Clock == nil {
		o.Clock = SystemClock{}
	}
	if o.files == nil {
		o.files = logFiles{FS: fs.New(), fault: o.Fault}
	}
	if o.segment == 0 {
		o.segment = segmentBytes
	}
	if o.Address == "" {
		o.Address = string(o.Node)
	}
	g := &Group{options: o, failed: make(chan struct{}), stopped: make(chan struct{}), notify: make(chan bool, 16)}
	change := make(chan struct{})
	g.change.Store(&change)
	return g
}

// Open starts the voter. One that is alone leads when Open returns; others find
// or elect a leader later. On error nothing is left running.
func (g *Group) Open(ctx context.Context) (err error) {
	g.life, g.end = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			_ = g.Close(ctx)
		}
	}()
	if g.lock, err = lockDir(g.options.Dir); err != nil {
		return g.openError(err)
	}
	if err := g.openDisk(); err != nil {
		return g.openError(err)
	}
	if err := g.startRaft(); err != nil {
		return g.openError(err)
	}
	g.opened.Store(true)
	if err := g.Err(); err != nil {
		return err
	}
	if !g.alone.Load() {
		return nil
	}
	return g.takeOver(ctx)
}

func (g *Group) openError(err error) error {
	var known *yr.Error
	if errors.As(err, &known) {
		return err
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return &yr.Error{Op: "open records", Code: yr.AlreadyRunning, Msg: g.options.Dir + " belongs to a live daemon", Err: err}
	}
	return diskError("open records in "+g.options.Dir, err)
}

// openDisk opens all that is on disk and checks that it fits together.
func (g *Group) openDisk() error {
	o := &g.options
	log, err := openLog(filepath.Join(o.Dir, "log"), o.files, o.segment, raftLog(o.Log))
	if err != nil {
		return err
	}
	log.fault, log.failed = o.Fault, g.fail
	g.log = log
	if g.blobs, err = openBlobs(filepath.Join(o.Dir, "blobs"), o.Fault); err != nil {
		return err
	}
	if g.snapshots, err = openSnapshots(filepath.Join(o.Dir, "snapshots"), o.Group, o.Fault); err != nil {
		return err
	}
	g.fsm = &fsm{
		dir: o.Dir, group: o.Group, fault: o.Fault, blobs: g.blobs, full: make(chan struct{}, 1), down: make(chan struct{}),
		failed: g.fail, restored: g.stateReplaced, voters: g.votersChanged,
	}
	if err := g.fsm.open(g.snapshots); err != nil {
		return err
	}
	g.fetch = newFetcher(g)
	g.hub = newHub(g.fsm.m, g.fsm.view)
	g.fsm.m.changed = g.hub.publish
	g.fsm.m.settled = func(named map[sum]bool) {
		g.fsm.named = named
		g.fetch.want(named)
	}
	g.fsm.m.due = func() {
		if l := g.leading.Load(); l != nil {
			notify(l.due)
		}
	}
	term, err := g.log.CurrentTerm()
	if err != nil {
		return err
	}
	if err := g.blobs.adopt(term, g.fsm.held); err != nil {
		return err
	}
	return g.fetch.wantMissing()
}

func (g *Group) startRaft() error {
	o := &g.options
	config := raft.DefaultConfig()
	config.LocalID = raft.ServerID(o.Node)
	config.Logger = raftLog(o.Log)
	config.HeartbeatTimeout, config.ElectionTimeout = o.Heartbeat, o.Heartbeat
	config.LeaderLeaseTimeout = o.Heartbeat * 4 / 5
	config.CommitTimeout = min(50*time.Millisecond, o.Heartbeat/4)
	config.MaxAppendEntries = appendEntries
	config.TrailingLogs = minTrailing
	config.SnapshotInterval, config.SnapshotThreshold = time.Hour, 1<<40 // snapshotter decides
	config.NotifyCh = g.notify
	config.ShutdownOnRemove = false
	config.NoSnapshotRestoreOnStart = true // the tables are durable themselves
	config.NoLegacyTelemetry = true

	g.streams = newStreams(o, g.blobs, func() uint64 { return g.fsm.m.index.Load() })
	g.transport = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: g.streams, MaxPool: 3, Timeout: max(2*time.Second, 4*o.Heartbeat), Logger: config.Logger,
		// No pipelining: when Raft 1.8 gives a pipeline up while it is full, its sender
		// waits for ever. Entries are batches here, and a follower that is behind gets
		// up to appendEntries of them at once.
		MaxRPCsInFlight: 1,
	})
	servers, err := g.configured(config)
	if err != nil {
		return err
	}
	g.votersChanged(servers)
	if g.raft, err = raft.NewRaft(config, g.fsm, g.log, g.log, g.snapshots, g.transport); err != nil {
		return err
	}
	g.log.running.Store(true)
	g.queue = newQueue()
	for _, run := range []func(){g.followLeadership, g.propose, g.complete, g.snapshot, g.fetch.run} {
		g.wg.Go(run)
	}
	return nil
}

// configured makes the group if it is to be made here, and reads who votes.
func (g *Group) configured(config *raft.Config) (raft.Configuration, error) {
	exists, err := raft.HasExistingState(g.log, g.log, g.snapshots)
	if err != nil {
		return raft.Configuration{}, err
	}
	if !exists {
		if !g.options.Bootstrap {
			return raft.Configuration{}, nil
		}
		first := raft.Configuration{Servers: []raft.Server{{ID: config.LocalID, Address: raft.ServerAddress(g.options.Address)}}}
		return first, raft.BootstrapCluster(config, g.log, g.log, g.snapshots, g.transport, first)
	}
	return lastConfiguration(g.log, g.snapshots)
}

// lastConfiguration is the newest in the log or the snapshot, as Raft will find it.
func lastConfiguration(log *guardedLog, from *snapshots) (raft.Configuration, error) {
	last, err := log.LastIndex()
	if err != nil {
		return raft.Configuration{}, err
	}
	first, err := log.FirstIndex()
	if err != nil {
		return raft.Configuration{}, err
	}
	var found raft.Configuration
	metas, err := from.List()
	if err != nil {
		return found, err
	}
	for _, m := range metas {
		found = m.Configuration
	}
	for i := first; first > 0 && i <= last; i++ {
		var entry raft.Log
		if err := log.GetLog(i, &entry); err != nil {
			return found, err
		}
		if entry.Type == raft.LogConfiguration {
			found = raft.DecodeConfiguration(entry.Data)
		}
	}
	return found, nil
}

// Close ends the voter. Proposals that are under way are answered first, if a
// majority answers; else they end with ErrUnknown.
func (g *Group) Close(context.Context) error {
	g.closing.Do(func() { g.closeErr = g.close() })
	return g.closeErr
}

func (g *Group) close() error {
	g.stop()
	var errs []error
	if g.hub != nil {
		g.hub.close(ErrClosed)
	}
	if g.fsm != nil {
		errs = append(errs, g.fsm.close())
	}
	if g.log != nil {
		errs = append(errs, g.log.Close())
	}
	if g.lock != nil {
		errs = append(errs, g.lock.Close())
	}
	select {
	case <-g.failed:
		return nil // what a broken disk says further is no news
	default:
		return errors.Join(errs...)
	}
}

// stop ends leadership, then what asks Raft, then Raft. Raft answers not everything
// that it is asked while it shuts down, so whoever waits for it is waited for first:
// a leader that has lost the others notices within a heartbeat and says so. After a
// failure Raft may never answer, and what waits for it is left behind.
func (g *Group) stop() {
	g.stopping.Do(func() {
		defer close(g.stopped)
		if g.end != nil {
			g.end()
		}
		if g.raft != nil {
			g.stepDown()
		}
		g.wg.close()
		g.within(g.wg.Wait)
		if g.raft != nil {
			g.within(func() { _ = g.raft.Shutdown().Error() })
		}
		if g.transport != nil {
			_ = g.transport.Close() // closes the listener too, which may be closed already
		}
		g.within(g.wg.Wait)
	})
}

// within waits for f, after a failure only for a while.
func (g *Group) within(f func()) {
	if g.Err() == nil {
		f()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(2 * g.options.Heartbeat):
	}
}

// fail stops the voter for good: its disk cannot be trusted any more. It may be
// called from anywhere, also from Raft's goroutines, so it waits for nothing.
func (g *Group) fail(cause error) {
	g.failOnce.Do(func() {
		g.failure = &yr.Error{Op: "records", Code: yr.CodeOf(cause), Msg: "this voter has stopped: " + cause.Error(), Err: ErrFailed}
		g.options.Log.Error().Err(cause).Uint32("group", g.options.Group).Msg("records: this voter stops, its disk failed")
		close(g.failed)
		if g.opened.Load() {
			go g.stop() // Close waits for it
		}
	})
}

// Failed is closed when the voter has stopped because its disk failed; Err says why.
func (g *Group) Failed() <-chan struct{} { return g.failed }

// Err is why the voter has stopped, nil while it has not.
func (g *Group) Err() error {
	select {
	case <-g.failed:
		return g.failure
	default:
		return nil
	}
}

// ended is the error for requests to a voter that runs no more.
func (g *Group) ended() error {
	if err := g.Err(); err != nil {
		return err
	}
	return ErrClosed
}

// stateReplaced follows a restored snapshot.
func (g *Group) stateReplaced() {
	g.hub.reset(detail(ErrCompacted, "the state was replaced by a snapshot"))
	if err := g.fetch.wantMissing(); err != nil {
		g.fail(err)
	}
}

// Check verifies this voter's stored state, whether it leads or not: revisions in
// order, leases and ends entered where they belong, every large value present and
// as it was written. It reads everything and is meant for tests and for operators.
func (g *Group) Check(ctx context.Context) error {
	done, err := g.fsm.view()
	if err != nil {
		return err
	}
	defer done()
	return g.fsm.m.check(ctx, func(of sum, size int64) error {
		value, err := g.blobs.read(of)
		if missing(err) {
			return detail(ErrCorrupt, "check: the large value %v is missing on this voter", of)
		}
		if err == nil && int64(len(value)) != size {
			return detail(ErrCorrupt, "check: the large value %v has %d bytes, should have %d", of, len(value), size)
		}
		return err
	})
}
