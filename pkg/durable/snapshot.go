package durable

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/hashicorp/raft"
)

// snapshots is where Raft keeps them. A voter's own snapshot is a Pebble
// checkpoint, links to table files that are there anyway, and is turned into a
// stream only when a follower needs it. A received one is kept as the stream.
//
//	<dir>/<id>/snapshot.json   written last: a directory without it is rubbish
//	<dir>/<id>/tables/         the checkpoint, or
//	<dir>/<id>/stream          the stream
//
// The newest is kept, older ones until nobody reads them.
type snapshots struct {
	dir   string
	group uint32
	fault Fault

	mu     sync.Mutex // protects what follows
	open   map[string]int
	serial uint64
}

// snapshotRecord is snapshot.json.
type snapshotRecord struct {
	Version int               `json:"version"`
	Raft    raft.SnapshotMeta `json:"raft"`
	State   streamHeader      `json:"state"` // without Files
}

const snapshotVersion = 1

func openSnapshots(dir string, group uint32, fault Fault) (*snapshots, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s := &snapshots{dir: dir, group: group, fault: fault, open: make(map[string]int)}
	return s, s.reap()
}

// List implements raft.SnapshotStore.
func (s *snapshots) List() ([]*raft.SnapshotMeta, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.newest()
	if err != nil || r == nil {
		return nil, err
	}
	return []*raft.SnapshotMeta{&r.Raft}, nil
}

// newest finds the snapshot with the highest index, nil if there is none. mu is held.
func (s *snapshots) newest() (best *snapshotRecord, err error) {
	dirs, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	for _, d := range dirs {
		r, err := s.record(d.Name())
		if missing(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if best == nil || r.Raft.Index > best.Raft.Index || r.Raft.Index == best.Raft.Index && r.Raft.ID > best.Raft.ID {
			best = r
		}
	}
	return best, nil
}

func (s *snapshots) record(id string) (*snapshotRecord, error) {
	b, err := os.ReadFile(filepath.Join(s.dir, id, "snapshot.json"))
	if err != nil {
		return nil, err
	}
	var r snapshotRecord
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, detail(ErrFormat, "snapshot %s: %v", id, err)
	}
	if r.Version != snapshotVersion {
		return nil, detail(ErrFormat, "snapshot %s has version %d, this program reads %d", id, r.Version, snapshotVersion)
	}
	return &r, nil
}

// reap removes all but the newest and those that are read.
func (s *snapshots) reap() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	keep, err := s.newest()
	if err != nil {
		return err
	}
	dirs, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, d := range dirs {
		if keep != nil && d.Name() == keep.Raft.ID || s.open[d.Name()] > 0 {
			continue
		}
		if err := os.RemoveAll(filepath.Join(s.dir, d.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (s *snapshots) hold(id string, by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[id] += by; s.open[id] == 0 {
		delete(s.open, id)
	}
}

// Open implements raft.SnapshotStore: the snapshot as a stream.
func (s *snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.hold(id, 1)
	r, stream, err := s.stream(id)
	if err != nil {
		s.hold(id, -1)
		return nil, nil, err
	}
	return &r.Raft, &openSnapshot{ReadCloser: stream, of: s, id: id}, nil
}

func (s *snapshots) stream(id string) (*snapshotRecord, io.ReadCloser, error) {
	r, err := s.record(id)
	if err != nil {
		return nil, nil, err
	}
	f, err := os.Open(filepath.Join(s.dir, id, "stream"))
	if err == nil {
		return r, f, nil
	}
	h := r.State
	if err := h.add(tablesPart, filepath.Join(s.dir, id, "tables"), anyFile); err != nil {
		return nil, nil, err
	}
	if r.Raft.Size, err = h.size(); err != nil {
		return nil, nil, err
	}
	out, in := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = in.CloseWithError(writeStream(in, &h))
	}()
	return r, pipeReader{out, done}, nil
}

// pipeReader waits, when closed, for the goroutine that writes.
type pipeReader struct {
	*io.PipeReader
	done chan struct{}
}

func (p pipeReader) Close() error {
	err := p.PipeReader.Close()
	<-p.done
	return err
}

func anyFile(string) bool { return true }

type openSnapshot struct {
	io.ReadCloser
	of   *snapshots
	id   string
	once sync.Once
}

func (o *openSnapshot) Close() error {
	err := o.ReadCloser.Close()
	o.once.Do(func() { o.of.hold(o.id, -1) })
	return err
}

// Create implements raft.SnapshotStore.
func (s *snapshots) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration, configurationIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	s.mu.Lock()
	s.serial++
	id := fmt.Sprintf("%020d-%010d-%d-%d", index, term, os.Getpid(), s.serial)
	s.mu.Unlock()
	dir := filepath.Join(s.dir, id)
	if err := s.fault.check("create", dir); err != nil {
		return nil, diskError("write a snapshot", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, diskError("write a snapshot", err)
	}
	s.hold(id, 1)
	return &sink{of: s, dir: dir, record: snapshotRecord{Version: snapshotVersion, Raft: raft.SnapshotMeta{
		Version: version, ID: id, Index: index, Term: term, Configuration: configuration, ConfigurationIndex: configurationIndex,
	}}}, nil
}

// sink receives a snapshot: either a stream by Write, or a checkpoint by adopt.
type sink struct {
	of     *snapshots
	dir    string
	record snapshotRecord
	file   *os.File // of the stream
	ended  bool
}

func (s *sink) ID() string { return s.record.Raft.ID }

func (s *sink) Write(p []byte) (int, error) {
	if s.file == nil {
		f, err := os.OpenFile(filepath.Join(s.dir, "stream"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if err != nil {
			return 0, diskError("write a snapshot", err)
		}
		s.file = f
	}
	if err := s.of.fault.check("write", s.file.Name()); err != nil {
		return 0, diskError("write a snapshot", err)
	}
	n, err := s.file.Write(p)
	s.record.Raft.Size += int64(n)
	return n, err
}

// adopt takes a checkpoint that lies on the same file system.
func (s *sink) adopt(checkpoint string, state streamHeader) error {
	s.record.State = state
	h := state
	if err := h.add(tablesPart, checkpoint, anyFile); err != nil {
		return err
	}
	size, err := h.size()
	if err != nil {
		return err
	}
	s.record.Raft.Size = size
	return os.Rename(checkpoint, filepath.Join(s.dir, "tables"))
}

// Close makes the snapshot count.
func (s *sink) Close() error {
	if s.ended {
		return nil
	}
	err := s.finish()
	if err != nil {
		return errors.Join(diskError("write a snapshot", err), s.Cancel())
	}
	s.end()
	return s.of.reap()
}

func (s *sink) finish() error {
	if s.file != nil {
		if err := s.of.fault.check("sync", s.file.Name()); err != nil {
			return err
		}
		if err := s.file.Sync(); err != nil {
			return err
		}
		if _, err := s.file.Seek(0, io.SeekStart); err != nil {
			return err
		}
		h, err := readStreamHeader(s.file)
		if err != nil {
			return err
		}
		h.Files = nil
		s.record.State = *h
	}
	b, err := json.Marshal(&s.record)
	if err != nil {
		return err
	}
	err = writeDurably(filepath.Join(s.dir, "snapshot.json"), s.of.fault, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
	if err != nil {
		return err
	}
	return syncDir(s.of.dir)
}

// Cancel removes what was written.
func (s *sink) Cancel() error {
	if s.ended {
		return nil
	}
	s.end()
	return os.RemoveAll(s.dir)
}

func (s *sink) end() {
	s.ended = true
	if s.file != nil {
		_ = s.file.Close()
	}
	s.of.hold(s.record.Raft.ID, -1)
}
