package store

// What a daemon finds in its spill directory after a restart. Objects live on as
// long as somebody refers to them, and those who do come back one by one: what they
// name is claimed by Find, the rest goes at EndRecovery.

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"yr/pkg/yr"
)

// foundBlob is a blob that nobody has claimed yet.
type foundBlob struct {
	spot   Spot
	inside []yr.ID
}

// Find claims a blob that was spilled before a restart.
func (d *Disk) Find(id yr.ID) (spot Spot, inside []yr.ID, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, ok := d.found[id]
	delete(d.found, id)
	return b.spot, b.inside, ok
}

// EndRecovery deletes what nobody claimed.
func (d *Disk) EndRecovery() {
	d.mu.Lock()
	left := d.found
	d.found = nil
	d.mu.Unlock()
	for _, b := range left {
		d.Delete(b.spot)
	}
}

// scan walks every file of the directory.
func (d *Disk) scan() error {
	entries, err := os.ReadDir(d.opt.Dir)
	if err != nil {
		return err
	}
	var stale []Spot
	for _, e := range entries {
		number, ok := fileNumber(e.Name())
		if !ok {
			continue
		}
		file := &spillFile{number: number, records: make(map[uint32]recordPlace)}
		err = walk(d.path(file.number), func(start uint64, r *record) {
			file.end = start + r.span()
			if r.state != recordWhole {
				file.cost += r.place(start).head
				return
			}
			file.cost += r.span()
			spot := Spot{File: file.number, Offset: uint32(start + r.headLen()), Sum: r.sum, Length: r.length} //nolint:gosec // walk says so
			file.records[spot.Offset] = r.place(start)
			if before, twice := d.found[r.id]; twice {
				stale = append(stale, before.spot)
			}
			d.found[r.id] = foundBlob{spot, r.inside}
			d.stats.Blobs++
			d.stats.Live += r.length
		})
		if err != nil {
			d.opt.Log.Warn().Err(err).Str("file", e.Name()).Msg("the end of a spill file is lost")
		}
		if err := os.Truncate(d.path(file.number), int64(file.end)); err != nil { //nolint:gosec // below 2^63
			return err
		}
		d.files[file.number] = file
		d.last = max(d.last, file.number)
		d.stats.Files++
		d.stats.Used += file.cost
		if len(file.records) == 0 {
			d.discard(file)
		}
	}
	for _, spot := range stale {
		d.Delete(spot)
	}
	return nil
}

// fileNumber reads the name of a spill file; other files are none of ours.
func fileNumber(name string) (uint32, bool) {
	hex, ok := strings.CutPrefix(name, spillPrefix)
	number, err := strconv.ParseUint(hex, 16, 32)
	return uint32(number), ok && err == nil && number > 0 && fmt.Sprintf("%08x", number) == hex
}

// walk calls f with every record of a file, up to the first that is not whole or
// deleted: that one was being written when the daemon ended, or the file is not
// what it was.
func walk(path string, f func(start uint64, r *record)) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	size := uint64(info.Size()) //nolint:gosec // never negative
	for start := uint64(0); start < min(size, 1<<31); {
		r, err := readRecord(file, start)
		if err != nil {
			return fmt.Errorf("at %d: %w", start, err)
		}
		if r.state == recordOpen {
			return nil
		}
		if r.state == recordWhole && start+r.headLen()+r.length > size {
			return fmt.Errorf("at %d: a blob of %d bytes is cut short", start, r.length)
		}
		f(start, &r)
		start += r.span()
	}
	return nil
}

// readRecord reads the head of a record.
func readRecord(file io.ReaderAt, start uint64) (record, error) {
	head := make([]byte, recordFixed)
	if _, err := file.ReadAt(head, int64(start)); err != nil { //nolint:gosec // below 2^63
		return record{}, err
	}
	n, err := decodeInside(head)
	if err != nil {
		return record{}, err
	}
	head = make([]byte, recordFixed+n*yr.IDLen)
	if _, err := file.ReadAt(head, int64(start)); err != nil && !errors.Is(err, io.EOF) { //nolint:gosec // as above
		return record{}, err
	}
	return decodeRecord(head)
}
