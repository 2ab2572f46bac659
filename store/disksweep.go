package store

// The sweeper gives back what spilled objects leave behind: blocks of files that
// hold others still, and whole files.

import (
	"context"
	"errors"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// discard leaves a file to the sweeper.
func (d *Disk) discard(file *spillFile) {
	if i := slices.Index(d.idle, file); i >= 0 {
		d.idle = slices.Delete(d.idle, i, i+1)
	}
	delete(d.files, file.number)
	d.waste = append(d.waste, waste{file: file, whole: true})
	signal(d.kick)
}

func (d *Disk) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.kick:
			d.sweep()
		}
	}
}

// sweep gives back what is due.
func (d *Disk) sweep() {
	for d.sweepOne() {
	}
}

func (d *Disk) sweepOne() bool {
	d.sweeping.Lock()
	defer d.sweeping.Unlock()
	d.mu.Lock()
	if len(d.waste) == 0 {
		d.waste = nil
		d.mu.Unlock()
		return false
	}
	w := d.waste[0]
	d.waste = d.waste[1:]
	able := d.punches && d.files[w.file.number] == w.file
	d.mu.Unlock()
	switch {
	case w.whole:
		d.unlink(w.file)
	case able: // else it goes with its file
		d.punch(w.file, w.record)
	}
	return true
}

func (d *Disk) unlink(file *spillFile) {
	if file.f != nil {
		_ = file.f.Close()
	}
	if err := os.Remove(d.path(file.number)); err != nil {
		d.opt.Log.Warn().Err(err).Msg("a spill file is not removed")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stats.Used -= file.cost
	d.stats.Files--
}

// punch gives the blocks of one record back, but for its head: whoever walks the
// file needs that.
func (d *Disk) punch(file *spillFile, p recordPlace) {
	f, err := os.OpenFile(d.path(file.number), os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt([]byte{byte(recordDeleted)}, int64(p.start)+4) //nolint:gosec // below 2^63
		if err == nil && p.span > p.head {
			err = punch(f, p.start+p.head, p.span-p.head)
		}
		_ = f.Close()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.punches = d.punches && !errors.Is(err, unix.EOPNOTSUPP)
		d.opt.Log.Warn().Err(err).Str("dir", d.opt.Dir).Msg("the space of a spilled object is not given back before that of its file")
		return
	}
	file.cost -= p.span - p.head
	d.stats.Used -= p.span - p.head
}
