package durable

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
)

// fsm is the state machine as Raft sees it: it owns the tables on disk, feeds
// entries to the machine, and makes and restores snapshots.
//
// After the first failure it applies nothing more, answers every proposal with
// that failure, and the voter is shut down from outside: Raft would panic.
type fsm struct {
	dir   string // holds tables/, and parts of snapshots for a while
	group uint32
	fault Fault
	m     *machine
	blobs *blobs

	failed   func(error)
	restored func() // the tables are others now
	voters   func(raft.Configuration)

	broken atomic.Pointer[error]
	down   chan struct{} // closed when broken is set
	reads  sync.RWMutex  // held for reading while the tables are read, for writing to replace or close them
	closed bool          // protected by reads

	bytes   atomic.Int64 // of entries applied since the last snapshot
	entries atomic.Int64
	full    chan struct{} // a snapshot is due
	named   map[sum]bool  // of the entry that is being applied
}

const (
	// A snapshot is due after this much log.
	snapshotBytes   = 64 << 20
	snapshotEntries = 32 << 10
)

func (f *fsm) tables() string { return filepath.Join(f.dir, "tables") }

// open opens the tables, or first makes them from the newest snapshot if they lack
// what it has: a voter may end between receiving a snapshot and restoring it.
func (f *fsm) open(from *snapshots) error {
	for _, rubbish := range []string{"restoring", "checkpoint", "backup", "restore"} {
		if err := os.RemoveAll(filepath.Join(f.dir, rubbish)); err != nil {
			return err
		}
	}
	db, err := f.openDB()
	if err != nil {
		return err
	}
	f.m = newMachine(db, f.group)
	if err := f.m.load(); err != nil {
		_ = db.Close()
		return err
	}
	from.mu.Lock()
	newest, err := from.newest()
	from.mu.Unlock()
	if err != nil || newest == nil || newest.State.Index <= f.m.meta.index {
		return err
	}
	_, stream, err := from.Open(newest.Raft.ID)
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	return f.replace(stream)
}

func (f *fsm) openDB() (*pebble.DB, error) {
	return openTables(f.tables(), tableOptions{
		fs: diskFS(f.fault), memTable: memTableBytes,
		broken: func(err error) { _ = f.fail("write the tables", err) },
	})
}

func (f *fsm) fail(op string, err error) error {
	err = diskError(op, err)
	if f.broken.CompareAndSwap(nil, &err) {
		close(f.down)
		f.failed(err)
	}
	return *f.broken.Load()
}

// view guards reading the tables. done must be called.
func (f *fsm) view() (done func(), err error) {
	f.reads.RLock()
	if f.closed {
		f.reads.RUnlock()
		return nil, ErrClosed
	}
	if p := f.broken.Load(); p != nil {
		f.reads.RUnlock()
		return nil, detail(ErrFailed, "%v", *p)
	}
	return f.reads.RUnlock, nil
}

// close ends the use of the tables. What was not flushed is made from the log again.
func (f *fsm) close() error {
	f.reads.Lock()
	defer f.reads.Unlock()
	if f.closed || f.m == nil {
		return nil
	}
	f.closed = true
	if f.broken.Load() == nil {
		return f.m.db.Close()
	}
	// Pebble may wait for ever for a disk that does not answer. It then keeps its lock,
	// and only another process can open the tables again.
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = f.m.db.Close()
	}()
	select {
	case <-ended:
	case <-time.After(closeTimeout):
	}
	return nil
}

// closeTimeout bounds the wait for tables that broke.
const closeTimeout = time.Second

// StoreConfiguration implements raft.ConfigurationStore.
func (f *fsm) StoreConfiguration(_ uint64, c raft.Configuration) { f.voters(c) }

// Apply implements raft.FSM. It returns []outcome or an error.
func (f *fsm) Apply(l *raft.Log) any {
	if p := f.broken.Load(); p != nil {
		return *p
	}
	if l.Index <= f.m.meta.index {
		return nil // the tables were ahead of the snapshot that Raft began with
	}
	e, err := decodeEntry(l.Data)
	if err != nil {
		return f.fail("apply the log", err)
	}
	f.named = nil
	outcomes, err := f.m.apply(l.Index, l.Term, e)
	if err == nil {
		err = f.blobs.settle(l.Term, e.pins, f.named, f.held)
	}
	if err != nil {
		return f.fail("apply the log", err)
	}
	f.entries.Add(1)
	if f.bytes.Add(int64(len(l.Data))) > snapshotBytes || f.entries.Load() > snapshotEntries {
		notify(f.full)
	}
	return outcomes
}

// held says whether a record has a large value.
func (f *fsm) held(of sum) (bool, error) {
	_, ok, err := load(f.m.db, f.m.keys.blob(of), decodeBlob)
	return ok, err
}

// Snapshot implements raft.FSM. The tables are durable up to here when it returns:
// the log before may then be truncated.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	done, err := f.view()
	if err != nil {
		return nil, err
	}
	defer done()
	dir := filepath.Join(f.dir, "checkpoint")
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := f.flush(); err != nil {
		return nil, err
	}
	if err := f.m.db.Checkpoint(dir); err != nil {
		return nil, diskError("write a snapshot", err)
	}
	f.bytes.Store(0)
	f.entries.Store(0)
	return &checkpoint{dir: dir, state: headerOf(f.group, f.m.meta)}, nil
}

// flush makes the tables durable. Pebble tries for ever if it fails; then the voter stops.
func (f *fsm) flush() error {
	flushed, err := f.m.db.AsyncFlush()
	if err != nil {
		return f.fail("write the tables", err)
	}
	select {
	case <-flushed:
		return nil
	case <-f.down:
		return *f.broken.Load()
	}
}

// checkpoint is a snapshot that Raft has not stored yet. There is one at a time.
type checkpoint struct {
	dir   string
	state streamHeader
}

func (c *checkpoint) Persist(to raft.SnapshotSink) error {
	s, ok := to.(*sink)
	if !ok {
		return detail(ErrFormat, "a snapshot is stored in a %T", to)
	}
	return s.adopt(c.dir, c.state)
}

func (c *checkpoint) Release() { _ = os.RemoveAll(c.dir) }

// Restore implements raft.FSM. It reports no error: Raft would panic.
func (f *fsm) Restore(stream io.ReadCloser) error {
	defer func() { _ = stream.Close() }()
	if f.broken.Load() != nil {
		return nil
	}
	if err := f.replace(stream); err != nil {
		_ = f.fail("restore a snapshot", err)
		return nil
	}
	f.restored()
	return nil
}

// replace puts the tables of a stream in the place of ours.
func (f *fsm) replace(stream io.Reader) error {
	dir := filepath.Join(f.dir, "restoring")
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if _, err := unpack(stream, f.group, dir); err != nil {
		return err
	}
	f.reads.Lock()
	defer f.reads.Unlock()
	if f.closed {
		return ErrClosed
	}
	if err := f.m.db.Close(); err != nil {
		return err
	}
	// Between these two the tables are gone, and open makes them again.
	if err := os.RemoveAll(f.tables()); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(dir, tablesPart), f.tables()); err != nil {
		return err
	}
	if err := syncDir(f.dir); err != nil {
		return err
	}
	db, err := f.openDB()
	if err != nil {
		return err
	}
	f.m.db = db
	return errors.Join(f.m.load(), os.RemoveAll(dir))
}
