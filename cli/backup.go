package cli

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"yr/pkg/config"
	"yr/pkg/gateway/client"
	"yr/pkg/session"
	"yr/pkg/yr"
)

// Backup writes the durable state of the cluster to a file, which appears when it
// is whole and on disk; "-" is standard output.
func Backup(ctx context.Context, c *client.Client, path string, out *Output) error {
	if path == "-" {
		_, err := c.Backup(ctx, out.Out)
		return err
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".")
	if err != nil {
		return yr.E("backup", yr.ParamInvalid, "%v", err)
	}
	defer func() { _ = os.Remove(file.Name()) }()
	n, err := c.Backup(ctx, file)
	if err == nil && n == 0 {
		err = yr.E("backup", yr.Internal, "the leader sent nothing")
	}
	if err = errors.Join(err, syncClose(file, err)); err != nil {
		return err
	}
	if err := errors.Join(os.Rename(file.Name(), path), syncDir(filepath.Dir(path))); err != nil {
		return yr.Wrap("backup", yr.DiskFailed, err)
	}
	out.Printf("%s written, %s; it holds the cluster's state, so keep it as carefully as the token\n", path, size(uint64(n))) //nolint:gosec // a length
	return nil
}

// RestoreOptions say where a restored cluster will live.
type RestoreOptions struct {
	File   string
	Prefix string
	Config *config.Config
}

// Restore puts a backup into an empty data directory, from which the next
// `yr start --master` begins.
func Restore(opt RestoreOptions, out *Output) error {
	settings, err := opt.Config.Settings()
	if err != nil {
		return err
	}
	dataDir := settings.DataDir
	if dataDir == "" {
		dataDir = filepath.Join(opt.Prefix, "data")
	}
	from, err := os.Open(opt.File)
	if err != nil {
		return yr.E("restore", yr.ParamInvalid, "%v", err)
	}
	defer func() { _ = from.Close() }()
	if st, err := from.Stat(); err != nil || !st.Mode().IsRegular() || st.Size() == 0 {
		return yr.E("restore", yr.ParamInvalid, "%s is not a backup: it is empty, or no file", opt.File)
	}
	lock, err := lockData(dataDir)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	if err := emptyData(dataDir); err != nil {
		return err
	}
	if err := copyFile(from, session.RestoreFile(dataDir)); err != nil {
		return yr.Wrap("restore", yr.DiskFailed, err)
	}
	out.Printf("%s lies in %s; `yr start --master` on this data directory begins from it.\n"+
		"Give it the old token (--token-file), or tell the other nodes the new one.\n", opt.File, dataDir)
	return nil
}

// keptOverRestore are files of a data directory that do not say that a cluster
// has lived there: who the node is, and what is unpacked from the binary.
var keptOverRestore = []string{"LOCK", "node_id", "token", "sdk"}

func emptyData(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return yr.Wrap("restore", yr.DiskFailed, err)
	}
	for _, e := range entries {
		if !slices.Contains(keptOverRestore, e.Name()) {
			return yr.E("restore", yr.KeyExists,
				"the data directory %s is in use: it holds %s. Choose an empty one with -s 'values.data_dir=\"DIR\"', or move the old one away", dir, e.Name())
		}
	}
	return nil
}

// copyFile copies to a file that appears when it is whole and on disk.
func copyFile(from io.Reader, path string) error {
	to, err := os.CreateTemp(filepath.Dir(path), ".restore.")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(to.Name()) }()
	_, err = io.Copy(to, bufio.NewReaderSize(from, 1<<20))
	if err = errors.Join(err, syncClose(to, err)); err != nil {
		return err
	}
	return errors.Join(os.Rename(to.Name(), path), syncDir(filepath.Dir(path)))
}

// syncClose waits for the disk, unless what was written is of no use anyway.
func syncClose(f *os.File, failed error) error {
	if failed != nil {
		return f.Close()
	}
	return errors.Join(f.Sync(), f.Close())
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	if err := dir.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}
