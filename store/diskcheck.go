package store

import (
	"fmt"
	"os"
	"path/filepath"
)

// Check verifies that books and directory agree, in time proportional to the
// number of blobs.
func (d *Disk) Check() error {
	d.sweeping.Lock()
	defer d.sweeping.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	var sum DiskStats
	onDisk := make(map[string]bool)
	count := func(file *spillFile) {
		sum.Files++
		sum.Used += file.cost
		onDisk[filepath.Base(d.path(file.number))] = file.f != nil || !file.writing // else it is being made
	}
	for number, file := range d.files {
		if file.number != number {
			return fmt.Errorf("spill file %d is filed under %d", file.number, number)
		}
		count(file)
		taken := uint64(0)
		for offset, p := range file.records {
			sum.Blobs++
			sum.Live += p.length
			taken += p.span
			if uint64(offset) < p.start || uint64(offset)+p.length > p.start+p.span || p.start+p.span > file.end {
				return fmt.Errorf("blob at %d of spill file %d lies badly", offset, number)
			}
		}
		if taken > file.cost {
			return fmt.Errorf("spill file %d counts for %d bytes, its blobs take %d", number, file.cost, taken)
		}
	}
	for _, w := range d.waste {
		if w.whole {
			count(w.file)
		}
	}
	sum.Capacity, sum.Written, sum.Read = d.stats.Capacity, d.stats.Written, d.stats.Read
	if sum != d.stats {
		return fmt.Errorf("counted %+v, have %+v", d.stats, sum)
	}
	return d.checkDir(onDisk)
}

// checkDir compares the directory with the files that there should be: true if for sure.
func (d *Disk) checkDir(want map[string]bool) error {
	entries, err := os.ReadDir(d.opt.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		_, known := want[e.Name()]
		if _, ours := fileNumber(e.Name()); ours && !known {
			return fmt.Errorf("spill file %s is in no book", e.Name())
		}
		delete(want, e.Name())
	}
	for name, made := range want {
		if made {
			return fmt.Errorf("spill file %s is gone", name)
		}
	}
	return nil
}
