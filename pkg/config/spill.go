package config

import "path/filepath"

// Spill says whether and where objects that memory has no room for are kept on disk.
type Spill struct {
	On       bool
	Dir      string // absolute; empty: in the data directory
	Limit    uint64 // bytes; 0: as much as leaves a twentieth of the file system free
	FileSize uint64 // bytes
}

// spill reads values.ds_worker.spill and the arguments of ds_worker that the data
// system knows: a directory alone switches it on as well.
func (r *reader) spill() Spill {
	s := Spill{
		On:       r.truth("values", "ds_worker", "spill"),
		Dir:      r.text("ds_worker", "args", "spill_directory"),
		Limit:    uint64(r.atLeast(0, "ds_worker", "args", "spill_size_limit")),
		FileSize: uint64(r.atLeast(1, "ds_worker", "args", "spill_file_max_size_mb")) << 20,
	}
	if s.Dir != "" {
		s.On = true
		if !filepath.IsAbs(s.Dir) {
			r.fail(wrong([]string{"ds_worker", "args", "spill_directory"}, s.Dir, "an absolute path"))
		}
	}
	return s
}
