package durable

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
)

// Backup writes the whole group, as of one revision, with its large values. Any
// voter can do it; only the leader's includes everything that was acknowledged
// before the call.
func (g *Group) Backup(ctx context.Context, w io.Writer) error {
	g.upkeep.Lock()
	defer g.upkeep.Unlock()
	defer g.blobs.freeze()()
	dir := filepath.Join(g.options.Dir, "backup")
	if err := os.RemoveAll(dir); err != nil {
		return diskError("back up", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := g.checkpointForBackup(dir); err != nil {
		return err
	}
	m, values, err := g.inspect(dir)
	if err != nil {
		return err
	}
	h := headerOf(g.options.Group, m)
	if err := h.add(tablesPart, dir, anyFile); err != nil {
		return diskError("back up", err)
	}
	for _, of := range values {
		if !g.blobs.has(of) {
			if _, err := g.large(ctx, of); err != nil {
				return err
			}
		}
	}
	needed := make(map[string]bool, len(values))
	for _, of := range values {
		needed[of.String()] = true
	}
	if err := h.add(blobsPart, g.blobs.dir, func(name string) bool { return needed[name] }); err != nil {
		return diskError("back up", err)
	}
	if err := writeStream(writerOf{ctx, w}, &h); err != nil {
		return diskError("back up", err)
	}
	return nil
}

// checkpointForBackup links the tables as they are into dir.
func (g *Group) checkpointForBackup(dir string) error {
	done, err := g.fsm.view()
	if err != nil {
		return err
	}
	defer done()
	if err := g.fsm.flush(); err != nil {
		return err
	}
	if err := g.fsm.m.db.Checkpoint(dir); err != nil {
		return diskError("back up", err)
	}
	return nil
}

// inspect reads where other tables of this group are, and lists the large values of
// their records.
func (g *Group) inspect(dir string) (m meta, values []sum, err error) {
	db, err := openTables(dir, tableOptions{fs: diskFS(nil), memTable: memTableBytes})
	if err != nil {
		return m, nil, diskError("open tables", err)
	}
	defer func() {
		if e := db.Close(); err == nil {
			err = e
		}
	}()
	if m, _, err = load(db, g.fsm.m.keys.meta(), decodeMeta); err != nil {
		return m, nil, err
	}
	err = newMachine(db, g.options.Group).blobs(db, func(of sum, _ blobState) error {
		values = append(values, of)
		return nil
	})
	return m, values, err
}

// writerOf is a writer that ends with a context.
type writerOf struct {
	ctx context.Context
	w   io.Writer
}

func (w writerOf) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.w.Write(p)
}

// Restore replaces the state of the whole group, on all its voters, with that of a
// backup of the same group number. Only the leader can do it. Revisions and leases
// go on from whichever were higher, so that no number is given twice; watches end
// with ErrCompacted, and proposals that are under way with ErrUnknown.
func (g *Group) Restore(ctx context.Context, r io.Reader) error {
	l := g.leading.Load()
	if l == nil {
		return g.notLeader()
	}
	g.upkeep.Lock()
	defer g.upkeep.Unlock()
	dir := filepath.Join(g.options.Dir, "restore")
	if err := os.RemoveAll(dir); err != nil {
		return diskError("restore", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if _, err := unpack(r, g.options.Group, dir); err != nil {
		return err
	}
	id := l.pins.take()
	defer l.pins.release(id)
	if err := g.adoptBlobs(ctx, dir, pin{l.term, id}); err != nil {
		return err
	}
	h, err := g.renumber(filepath.Join(dir, tablesPart))
	if err != nil {
		return err
	}
	if err := h.add(tablesPart, filepath.Join(dir, tablesPart), anyFile); err != nil {
		return diskError("restore", err)
	}
	return g.install(ctx, h)
}

// adoptBlobs puts the large values of a backup on a majority's disks.
func (g *Group) adoptBlobs(ctx context.Context, dir string, p pin) error {
	files, err := os.ReadDir(filepath.Join(dir, blobsPart))
	if err != nil {
		return diskError("restore", err)
	}
	for _, f := range files {
		of, ok := parseSum(f.Name())
		if !ok {
			return detail(ErrFormat, "a backup has a large value named %q", f.Name())
		}
		value, err := os.ReadFile(filepath.Join(dir, blobsPart, f.Name()))
		if err != nil {
			return diskError("restore", err)
		}
		if err := verify(of, value); err != nil {
			return err
		}
		o := op{writes: []write{{Write: Write{Value: value}, large: true, sum: of}}}
		if err := g.store(ctx, &o, p); err != nil {
			return err
		}
	}
	return nil
}

// beyond is how far ahead of the log restored tables are numbered: further than
// entries can be added before Raft numbers the restored snapshot itself.
const beyond = 1 << 20

// renumber makes the tables of a backup newer than everything this group has done,
// so that each voter prefers them to its own.
func (g *Group) renumber(dir string) (*streamHeader, error) {
	db, err := openTables(dir, tableOptions{fs: diskFS(nil), memTable: memTableBytes})
	if err != nil {
		return nil, diskError("restore", err)
	}
	keys := g.fsm.m.keys
	m, _, err := load(db, keys.meta(), decodeMeta) // nothing: of a group that was never written to
	if err == nil {
		done, e := g.fsm.view()
		if e != nil {
			err = e
		} else {
			now, _, e := load(g.fsm.m.db, keys.meta(), decodeMeta)
			done()
			m.follow(now)
			m.index, m.term, err = max(g.raft.LastIndex(), m.index)+beyond, g.raft.CurrentTerm(), e
		}
	}
	if err == nil {
		err = db.Set(keys.meta(), m.encode(), pebble.NoSync)
	}
	if err == nil {
		lower, upper := keys.bounds(tableHistory)
		err = db.DeleteRange(lower, upper, pebble.NoSync)
	}
	if err == nil {
		err = db.Flush()
	}
	if e := db.Close(); err == nil {
		err = e
	}
	h := headerOf(g.options.Group, m)
	return &h, err
}

// follow makes m go on from the numbers of another state. What lies between was
// never history of these tables, so history begins anew.
func (m *meta) follow(other meta) {
	m.revision = max(m.revision, other.revision) + 1
	m.compacted, m.mark, m.young = m.revision, m.revision, 0
	m.lease = max(m.lease, other.lease)
	m.now = max(m.now, other.now)
	m.tickets = max(m.tickets, other.tickets)
}

// install gives the stream to Raft, which gives it to the others.
func (g *Group) install(ctx context.Context, h *streamHeader) error {
	size, err := h.size()
	if err != nil {
		return diskError("restore", err)
	}
	out, in := io.Pipe()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_ = in.CloseWithError(writeStream(in, h))
	}()
	defer func() {
		_ = out.Close()
		<-sent
	}()
	timeout := blobTimeout
	if until, ok := ctx.Deadline(); ok {
		timeout = time.Until(until)
	}
	if err := g.raft.Restore(&raft.SnapshotMeta{Version: raft.SnapshotVersionMax, Index: h.Index, Term: h.Term, Size: size}, out, timeout); err != nil {
		return detail(ErrUnknown, "the restore was begun: %v", err)
	}
	return g.Err()
}
