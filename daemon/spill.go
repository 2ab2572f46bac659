package daemon

import (
	"context"
	"path/filepath"

	"yr/pkg/telemetry"
	"yr/store"
)

// openSpill opens the disk for objects that shared memory has no room for; nil if
// it is not wanted.
func (d *Daemon) openSpill(ctx context.Context, logs *telemetry.Logs) (*store.Disk, error) {
	s := &d.plan.Settings
	if !s.Spill.On {
		return nil, nil //nolint:nilnil // no disk is no error
	}
	dir := s.Spill.Dir
	if dir == "" {
		dir = s.DataDir
	}
	disk := store.NewDisk(store.DiskOptions{
		Dir:      filepath.Join(dir, "datasystem_spill_data", string(s.NodeID)), // nodes of one machine may share dir
		Capacity: s.Spill.Limit, FileSize: s.Spill.FileSize, Log: logs.For("ds_worker"),
	})
	return disk, d.open(ctx, "spill directory", disk)
}
