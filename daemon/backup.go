package daemon

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"yr/pkg/cluster"
	"yr/pkg/session"
	"yr/pkg/yr"
)

// A backup is a tar archive of what the masters keep for good: the registry, the
// records, and the identity under which the master that begins again from it is
// known. Objects and running work are in nobody's backup.
const (
	backupFormat   = "yr-backup-1" // the first entry: empty, its name is the format
	backupRegistry = "registry"
	backupRecords  = "records"
	backupIdentity = "identity"
	backupEnd      = "end" // the last entry: what has it is whole
)

// tarBlock is what the length of an archive is a multiple of.
const tarBlock = 512

// writeBackup writes a backup. Its parts are staged in the data directory, because
// an archive says how long they are before it holds them.
func (d *Daemon) writeBackup(ctx context.Context, w io.Writer) error {
	m := d.masters
	dir, err := os.MkdirTemp(d.plan.Settings.DataDir, ".backup-")
	if err != nil {
		return yr.Wrap("back up", yr.DiskFailed, err)
	}
	defer os.RemoveAll(dir)
	registry, records := filepath.Join(dir, backupRegistry), filepath.Join(dir, backupRecords)
	// The records first: what the registry then says of them is not older than they are.
	if err := stage(records, func(f io.Writer) error { return m.records.Backup(ctx, f) }); err != nil {
		return err
	}
	if err := stage(registry, func(f io.Writer) error { return m.cluster.Member().Backup(ctx, f) }); err != nil {
		return err
	}
	archive := tar.NewWriter(w)
	if err := archive.WriteHeader(&tar.Header{Name: backupFormat, Mode: 0o600, ModTime: time.Now()}); err != nil {
		return err
	}
	for _, path := range []string{registry, records, filepath.Join(d.plan.Settings.DataDir, backupIdentity)} {
		if err := archiveFile(archive, path); err != nil {
			return yr.Wrap("back up", yr.DiskFailed, err)
		}
	}
	if err := archive.WriteHeader(&tar.Header{Name: backupEnd, Mode: 0o600, ModTime: time.Now()}); err != nil {
		return err
	}
	return archive.Close()
}

func stage(path string, write func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return yr.Wrap("back up", yr.DiskFailed, err)
	}
	return errors.Join(write(f), f.Close())
}

func archiveFile(archive *tar.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if err := archive.WriteHeader(&tar.Header{Name: filepath.Base(path), Mode: 0o600, Size: st.Size(), ModTime: st.ModTime()}); err != nil {
		return err
	}
	_, err = io.Copy(archive, f)
	return err
}

// restored is a backup that lies in the data directory, to begin from.
type restored struct {
	path    string
	records string // unpacked
}

// unpackBackup prepares the data directory from a backup that was put there. It may
// be interrupted and begun again. nil: there is none.
func (d *Daemon) unpackBackup(ctx context.Context) (*restored, error) {
	dir := d.plan.Settings.DataDir
	path := session.RestoreFile(dir)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // nothing to restore is the usual case
	}
	if err != nil {
		return nil, yr.Wrap("restore", yr.DiskFailed, err)
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || st.Size()%tarBlock != 0 {
		return nil, yr.E("restore", yr.ParamInvalid, "the backup %s is cut short", path)
	}
	archive := tar.NewReader(f)
	if h, err := archive.Next(); err != nil || h.Name != backupFormat {
		return nil, yr.E("restore", yr.ParamInvalid, "%s is not a backup of this version of yr", path)
	}
	r := &restored{path: path, records: filepath.Join(dir, ".restore-records")}
	for {
		h, err := archive.Next()
		switch {
		case err != nil:
			return nil, yr.E("restore", yr.ParamInvalid, "the backup %s is cut short or damaged: %v", path, err)
		case h.Name == backupEnd:
			return r, nil
		}
		if err := r.unpack(ctx, dir, h.Name, archive); err != nil {
			return nil, fmt.Errorf("restore %s: %w", h.Name, err)
		}
	}
}

func (r *restored) unpack(ctx context.Context, dir, name string, from io.Reader) error {
	switch name {
	case backupRegistry:
		etcd := filepath.Join(dir, "etcd")
		if _, err := os.Stat(etcd); err == nil { // of an earlier try
			return nil
		}
		return cluster.Restore(ctx, from, etcd)
	case backupRecords:
		if err := os.RemoveAll(r.records); err != nil {
			return err
		}
		return stage(r.records, func(to io.Writer) error {
			_, err := io.Copy(to, from)
			return err
		})
	case backupIdentity:
		text, err := io.ReadAll(io.LimitReader(from, 1<<10))
		if err != nil {
			return err
		}
		return session.WriteAtomic(filepath.Join(dir, backupIdentity), text, 0o600)
	}
	return nil // of a later version
}

// finish puts the records into the group, which this node alone leads, and removes
// the backup: it is begun from once.
func (r *restored) finish(ctx context.Context, m *masters) error {
	f, err := os.Open(r.records)
	if err != nil {
		return yr.Wrap("restore", yr.DiskFailed, err)
	}
	defer f.Close()
	if err := m.records.Restore(ctx, f); err != nil {
		return err
	}
	return errors.Join(os.Remove(r.path), os.Remove(r.records))
}
