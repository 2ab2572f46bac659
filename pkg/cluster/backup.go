package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/datadir"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"yr/pkg/yr"
)

// A backup is etcd's own: the database, padded to whole pages, and its SHA-256.
// `etcdutl snapshot status` reads it.
const (
	pageBytes = 512
	sumBytes  = sha256.Size
)

// Backup writes a consistent copy of the registry that holds everything
// acknowledged before. Any member can be asked; a majority is needed.
func (m *Member) Backup(ctx context.Context, w io.Writer) error {
	if _, err := m.read(ctx, "back up the registry", "\x00"); err != nil { // waits until this member has it all
		return err
	}
	return m.Salvage(ctx, w)
}

// Salvage is Backup without a majority: it writes what this member has, which may
// lack what the others have acknowledged since they were last heard.
func (m *Member) Salvage(ctx context.Context, w io.Writer) error {
	e, err := m.usable(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.life, cancel)()
	r, err := e.client.Snapshot(ctx)
	if err != nil {
		return m.requestError("back up the registry", err)
	}
	defer r.Close()
	if _, err := io.Copy(w, r); err != nil {
		return m.requestError("back up the registry", err)
	}
	return nil
}

// Restore makes dir, which must be empty or absent, the directory of a single
// voter that holds a backup. It belongs to a new cluster, so that members of the
// lost one that turn up later cannot mix with it; it is grown like any other. A
// Restore that is interrupted leaves dir as it was.
func Restore(ctx context.Context, r io.Reader, dir string) (err error) {
	work := filepath.Join(dir, "restoring")
	defer func() {
		if err != nil {
			err = errors.Join(yr.Wrap("restore the registry", yr.DiskFailed, err), os.RemoveAll(work))
		}
	}()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.RemoveAll(work); err != nil { // of a Restore that was killed
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return yr.E("restore the registry", yr.AlreadyRunning, "%s is not empty; move it away, or choose another values.data_dir", dir)
	}
	if err := os.MkdirAll(datadir.ToSnapDir(work), 0o700); err != nil {
		return err
	}
	if err := copyDatabase(ctx, r, datadir.ToBackendFileName(work)); err != nil {
		return err
	}
	if err := refound(work); err != nil {
		return err
	}
	if err := errors.Join(syncDir(datadir.ToSnapDir(work)), syncDir(datadir.ToMemberDir(work))); err != nil {
		return err
	}
	if err := os.Rename(datadir.ToMemberDir(work), datadir.ToMemberDir(dir)); err != nil {
		return err
	}
	return errors.Join(os.Remove(work), syncDir(dir))
}

// copyDatabase takes the database out of a backup and checks it.
func copyDatabase(ctx context.Context, r io.Reader, path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := io.Copy(f, reader{ctx, r})
	if err != nil {
		return err
	}
	if size <= sumBytes || size%pageBytes != sumBytes {
		return yr.E("restore the registry", yr.ParamInvalid, "%d bytes are no complete backup", size)
	}
	size -= sumBytes
	want := make([]byte, sumBytes)
	if _, err := f.ReadAt(want, size); err != nil {
		return err
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, size)); err != nil {
		return err
	}
	if !bytes.Equal(sum.Sum(nil), want) {
		return yr.E("restore the registry", yr.ParamInvalid, "the backup is damaged: its checksum does not fit")
	}
	return errors.Join(f.Truncate(size), f.Sync())
}

// reader ends with ctx.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(b)
}

// refound makes the database in dir that of a new cluster with one voter, and
// writes the log with which such a cluster begins.
func refound(dir string) error {
	shrinkWAL()
	p := lonePlan()
	urls, err := types.NewURLsMap(p.cluster)
	if err != nil {
		return err
	}
	cluster, err := membership.NewClusterFromURLsMap(zap.NewNop(), p.token, urls)
	if err != nil {
		return err
	}
	voter := cluster.MemberByName(p.name)
	const index, term = 1, 1 // of the one entry in the log: the voter joins
	if err := replaceMembers(datadir.ToBackendFileName(dir), voter, index, term); err != nil {
		return err
	}

	metadata, err := proto.Marshal(&etcdserverpb.Metadata{NodeID: proto.Uint64(uint64(voter.ID)), ClusterID: proto.Uint64(uint64(cluster.ID()))})
	if err != nil {
		return err
	}
	log, err := wal.Create(zap.NewNop(), datadir.ToWALDir(dir), metadata)
	if err != nil {
		return err
	}
	member, err := json.Marshal(voter)
	if err != nil {
		return errors.Join(err, log.Close())
	}
	change, err := proto.Marshal(&raftpb.ConfChange{Type: raftpb.ConfChangeAddNode.Enum(), NodeId: proto.Uint64(uint64(voter.ID)), Context: member})
	if err != nil {
		return errors.Join(err, log.Close())
	}
	entry := &raftpb.Entry{Type: raftpb.EntryConfChange.Enum(), Term: proto.Uint64(term), Index: proto.Uint64(index), Data: change}
	state := &raftpb.HardState{Term: proto.Uint64(term), Vote: proto.Uint64(uint64(voter.ID)), Commit: proto.Uint64(index)}
	snapshot := &walpb.Snapshot{Index: proto.Uint64(index), Term: proto.Uint64(term), ConfState: &raftpb.ConfState{Voters: []uint64{uint64(voter.ID)}}}
	return errors.Join(log.Save(state, []*raftpb.Entry{entry}), log.SaveSnapshot(snapshot), log.Sync(), log.Close())
}

// replaceMembers makes voter the only member that a database knows, and forgets
// how far the lost cluster's log had been applied.
func replaceMembers(path string, voter *membership.Member, index, term uint64) (err error) {
	if err := checkDatabase(path); err != nil {
		return err
	}
	db := backend.NewDefaultBackend(zap.NewNop(), path)
	defer func() { err = errors.Join(err, db.Close()) }()
	members := schema.NewMembershipBackend(zap.NewNop(), db)
	members.MustCreateBackendBuckets()
	if err := members.TrimMembershipFromBackend(); err != nil {
		return err
	}
	members.MustSaveMemberToBackend(voter)
	tx := db.BatchTx()
	tx.LockOutsideApply()
	schema.UnsafeUpdateConsistentIndexForce(tx, index, term)
	tx.Unlock()
	db.ForceCommit()
	return nil
}

// checkDatabase finds what would make etcd's backend panic.
func checkDatabase(path string) error {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		return yr.E("restore the registry", yr.ParamInvalid, "the backup holds no database: %v", err)
	}
	defer db.Close()
	return db.View(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{schema.Key.Name(), schema.Meta.Name()} {
			if tx.Bucket(name) == nil {
				return yr.E("restore the registry", yr.ParamInvalid, "the backup is not of etcd: it has no %s", name)
			}
		}
		for err := range tx.Check() {
			return fmt.Errorf("the backup is damaged: %w", err)
		}
		return nil
	})
}
