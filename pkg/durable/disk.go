package durable

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
	"golang.org/x/sys/unix"
)

// Fault is asked before the disk is: "write", "sync", "create", "rename" or "remove"
// of a file. An error it returns is taken as the disk's. It exists for tests.
type Fault func(op, path string) error

func (f Fault) check(op, path string) error {
	if f == nil {
		return nil
	}
	return f(op, path)
}

const (
	// segmentBytes is the size of a log segment. It is allocated ahead, so that a
	// sync writes no file size.
	segmentBytes = 16 << 20
	// Pebble takes what it needs, up to these: 1 MiB when idle. The memtables count
	// against the cache, so a cache that is not several times as large caches nothing.
	memTableBytes = 8 << 20
	cacheBytes    = 48 << 20
)

// logFiles is the log's file system: the kernel's, with fdatasync, and faults.
type logFiles struct {
	*fs.FS
	fault Fault
}

type logFile struct {
	types.WritableFile
	fault Fault
	path  string
}

func (l logFiles) Create(dir, name string, size uint64) (types.WritableFile, error) {
	path := filepath.Join(dir, name)
	if err := l.fault.check("create", path); err != nil {
		return nil, err
	}
	f, err := l.FS.Create(dir, name, size)
	return logFile{f, l.fault, path}, err
}

func (l logFiles) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := l.FS.OpenWriter(dir, name)
	return logFile{f, l.fault, filepath.Join(dir, name)}, err
}

func (f logFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fault.check("write", f.path); err != nil {
		return 0, err
	}
	return f.WritableFile.WriteAt(p, off)
}

func (f logFile) Sync() error {
	if err := f.fault.check("sync", f.path); err != nil {
		return err
	}
	return f.WritableFile.Sync()
}

// openLog opens the Raft log and what Raft must not forget: term and vote.
func openLog(dir string, files types.VFS, segmentSize int, log hclog.Logger) (*guardedLog, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	meta := &metadb.BoltMetaDB{}
	w, err := wal.Open(dir, wal.WithMetaStore(meta), wal.WithSegmentFiler(segment.NewFiler(dir, files)), wal.WithSegmentSize(segmentSize), wal.WithLogger(log))
	if err != nil {
		return nil, errors.Join(err, meta.Close())
	}
	return &guardedLog{WAL: w, meta: meta}, nil
}

// guardedLog is the log as Raft sees it. The first failure is final: a log whose
// sync failed has unknown contents, so nothing is written or acknowledged after it.
//
// Raft panics where it cannot go on without its disk. Once it runs, such a call
// ends its goroutine instead of returning, and the voter is shut down from outside.
type guardedLog struct {
	*wal.WAL
	meta    *metadb.BoltMetaDB
	fault   Fault
	running atomic.Bool
	broken  atomic.Pointer[error]
	failed  func(error)
}

// Close closes the log and, which the log itself leaves open, its meta data.
func (l *guardedLog) Close() error { return errors.Join(l.WAL.Close(), l.meta.Close()) }

func (l *guardedLog) fail(op string, err error) error {
	err = diskError(op, err)
	if l.broken.CompareAndSwap(nil, &err) {
		l.failed(err)
	}
	return *l.broken.Load()
}

func (l *guardedLog) err() error {
	if p := l.broken.Load(); p != nil {
		return *p
	}
	return nil
}

// leave ends the goroutine of a call that Raft would answer with a panic.
func (l *guardedLog) leave(err error) error {
	if err != nil && l.running.Load() {
		runtime.Goexit()
	}
	return err
}

func (l *guardedLog) StoreLog(entry *raft.Log) error { return l.StoreLogs([]*raft.Log{entry}) }

func (l *guardedLog) StoreLogs(entries []*raft.Log) error {
	if err := l.err(); err != nil {
		return err
	}
	if err := l.WAL.StoreLogs(entries); err != nil {
		return l.fail("write the log", err)
	}
	return nil
}

func (l *guardedLog) DeleteRange(from, to uint64) error {
	if err := l.err(); err != nil {
		return err
	}
	if err := l.WAL.DeleteRange(from, to); err != nil {
		return l.fail("truncate the log", err)
	}
	return nil
}

func (l *guardedLog) GetLog(index uint64, entry *raft.Log) error {
	err := l.WAL.GetLog(index, entry)
	if err == nil {
		return nil
	}
	if errors.Is(err, raft.ErrLogNotFound) {
		first, e1 := l.FirstIndex()
		last, e2 := l.LastIndex()
		if e1 == nil && e2 == nil && (index < first || index > last) {
			return err // Raft asks in order to learn this
		}
	}
	return l.leave(l.fail("read the log", fmt.Errorf("entry %d: %w", index, err)))
}

func (l *guardedLog) Set(key, value []byte) error {
	return l.remember(func() error { return l.WAL.Set(key, value) })
}

func (l *guardedLog) SetUint64(key []byte, value uint64) error {
	return l.remember(func() error { return l.WAL.SetUint64(key, value) })
}

// CurrentTerm is the term that Raft last wrote.
func (l *guardedLog) CurrentTerm() (uint64, error) { return l.GetUint64([]byte("CurrentTerm")) }

func (l *guardedLog) remember(set func() error) error {
	err := l.err()
	if err == nil {
		if err = l.fault.check("sync", "wal-meta.db"); err == nil {
			err = set()
		}
		if err != nil {
			err = l.fail("write term or vote", err)
		}
	}
	return l.leave(err)
}

// tableOptions say where the tables are and who is told that they broke.
type tableOptions struct {
	fs       vfs.FS
	memTable uint64
	broken   func(error)
}

// openTables opens Pebble. Its own log is off: the Raft log is what tables are made from.
func openTables(dir string, o tableOptions) (*pebble.DB, error) {
	if o.broken == nil {
		o.broken = func(error) {}
	}
	cache := pebble.NewCache(cacheBytes)
	defer cache.Unref()
	options := &pebble.Options{
		FS: o.fs, Cache: cache, DisableWAL: true, Logger: tableLog{o.broken},
		FormatMajorVersion: pebble.FormatTableFormatV6,
		MemTableSize:       o.memTable, MemTableStopWritesThreshold: 4,
		MaxOpenFiles:               256,
		CompactionConcurrencyRange: func() (int, int) { return 1, 1 },
		EventListener:              &pebble.EventListener{BackgroundError: o.broken},
	}
	options.Levels[0].FilterPolicy = bloom.FilterPolicy(10)
	return pebble.Open(dir, options)
}

// diskFS is the file system of the tables.
func diskFS(fault Fault) vfs.FS {
	if fault == nil {
		return vfs.Default
	}
	return errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpCreate, errorfs.OpLink:
			return fault("create", op.Path)
		case errorfs.OpFileWrite, errorfs.OpFileWriteAt:
			return fault("write", op.Path)
		case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
			return fault("sync", op.Path)
		case errorfs.OpRename:
			return fault("rename", op.Path)
		default:
			return nil
		}
	}))
}

// tableLog hears what Pebble says. Pebble ends the process when its manifest cannot
// be written; here that ends the goroutine and the voter.
type tableLog struct{ broken func(error) }

func (tableLog) Infof(string, ...any)  {}
func (tableLog) Errorf(string, ...any) {}
func (l tableLog) Fatalf(format string, args ...any) {
	l.broken(fmt.Errorf(format, args...))
	runtime.Goexit()
}

// lockDir makes dir this process's.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// writeDurably makes a file that is whole or not there, whatever happens.
func writeDurably(path string, fault Fault, write func(io.Writer) error) (err error) {
	dir, name := filepath.Split(path)
	f, err := os.CreateTemp(dir, name+".tmp-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err := fault.check("write", path); err != nil {
		return err
	}
	if err := write(f); err != nil {
		return err
	}
	if err := fault.check("sync", path); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := fault.check("rename", path); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return d.Sync()
}
