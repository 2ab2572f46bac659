package durable

import (
	"path/filepath"
	"sync"

	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"
)

// lossyDisk is a file system for the log on which nothing is kept that was not
// synced: crash drops it, or a part of it.
type lossyDisk struct {
	logFiles
	mu      sync.Mutex
	crashed int // how often; files opened before write nothing any more
	dropped int // bytes
}

func newLossyDisk(fault Fault) *lossyDisk {
	return &lossyDisk{logFiles: logFiles{FS: fs.New(), fault: fault}}
}

// crash makes the files that are open now those of a dead process.
func (d *lossyDisk) crash() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.crashed++
}

func (d *lossyDisk) Create(dir, name string, size uint64) (types.WritableFile, error) {
	f, err := d.FS.Create(dir, name, size)
	return d.wrap(f, filepath.Join(dir, name)), err
}

func (d *lossyDisk) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := d.FS.OpenWriter(dir, name)
	return d.wrap(f, filepath.Join(dir, name)), err
}

func (d *lossyDisk) wrap(f types.WritableFile, path string) types.WritableFile {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &lossyFile{WritableFile: f, disk: d, path: path, life: d.crashed}
}

type lossyFile struct {
	types.WritableFile
	disk    *lossyDisk
	path    string
	life    int
	pending []pendingWrite
}

type pendingWrite struct {
	at   int64
	data []byte
}

func (f *lossyFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.disk.fault.check("write", f.path); err != nil {
		return 0, err
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.pending = append(f.pending, pendingWrite{off, append([]byte(nil), p...)})
	return len(p), nil
}

// ReadAt sees what was written, synced or not.
func (f *lossyFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.WritableFile.ReadAt(p, off)
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	for _, w := range f.pending {
		from, to := max(off, w.at), min(off+int64(len(p)), w.at+int64(len(w.data)))
		if from < to {
			copy(p[from-off:to-off], w.data[from-w.at:to-w.at])
			n = max(n, int(to-off))
		}
	}
	if n == len(p) {
		err = nil
	}
	return n, err
}

func (f *lossyFile) Sync() error {
	if err := f.disk.fault.check("sync", f.path); err != nil {
		return err
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.life != f.disk.crashed {
		// The process is dead: half of the first write may have reached the disk.
		for i, w := range f.pending {
			f.disk.dropped += len(w.data)
			if i == 0 {
				_, _ = f.WritableFile.WriteAt(w.data[:len(w.data)/2], w.at)
			}
		}
		f.pending = nil
		return errDead
	}
	for _, w := range f.pending {
		if _, err := f.WritableFile.WriteAt(w.data, w.at); err != nil {
			return err
		}
	}
	f.pending = nil
	return f.WritableFile.Sync()
}

type deadError struct{}

func (deadError) Error() string { return "the process is dead" }

var errDead error = deadError{}
