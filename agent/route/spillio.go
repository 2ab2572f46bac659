package route

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"yr/pkg/yr"
	"yr/store"
)

// The disk's side of spilling: objects written, read back, and found again after a
// restart. Goroutines of the router wait for the disk; nothing here does.

const (
	// diskThreads is how many objects are written at a time, and how many read.
	diskThreads = 4
	// diskPause is how long nothing is written after the disk was full or failed.
	diskPause = time.Second
	// shedBytes is how much room on a full disk is made at a time.
	shedBytes = 64 << 20
)

// spillIO is guarded by Router.mu, but for the counters.
type spillIO struct {
	writes   []*move
	writers  int
	restores []*restoring
	readers  int
	pumping  bool      // room is being made for restores
	paused   time.Time // nothing is written before, but swaps if the disk is only full
	full     bool      // that is the trouble
	trouble  string    // why not

	spilled, restored, writeErrors, readErrors atomic.Uint64
}

// restoring is an object that is wanted in memory again.
type restoring struct {
	n     *store.Name[waiter] // held
	id    yr.ID
	spot  store.Spot
	until time.Time // zero: its turn has not come
	done  func(place yr.Place, err error)
}

// openSpill forgets what an earlier daemon left on disk, unless this one takes over.
func (r *Router) openSpill() {
	if r.opt.Disk != nil && r.recovery == nil {
		r.opt.Disk.EndRecovery()
	}
}

// unearth gives objects that came back without a value, after a restart, the bytes
// that they have on disk. It is called while unknown objects may still be named.
func (r *Router) unearth() {
	if r.opt.Disk == nil {
		return
	}
	for {
		type find struct {
			n      *store.Name[waiter]
			spot   store.Spot
			inside []yr.ID
		}
		var found []find
		r.names.Each(func(n *store.Name[waiter]) bool {
			if n.State == store.Pending {
				if spot, inside, ok := r.opt.Disk.Find(n.ID); ok {
					found = append(found, find{n, spot, inside})
				}
			}
			return true
		})
		if len(found) == 0 {
			break
		}
		for _, f := range found {
			v := store.Value{Kind: store.Away, Source: &store.Source{Spot: f.spot, Size: f.spot.Length}}
			if err := r.names.Set(f.n, v, f.inside); err != nil { // names further objects
				r.opt.Log.Error().Err(err).Msg("a spilled object could not be named")
				continue
			}
			r.serve(f.n)
		}
	}
	r.opt.Disk.EndRecovery()
}

func (r *Router) mayWrite() bool {
	s := &r.spill.io
	return r.opt.Disk != nil && (!r.now.Before(s.paused) || s.full && s.pumping)
}

// toDisk has the bytes of an object written.
func (r *Router) toDisk(m *move) {
	s := &r.spill.io
	m.writing = true
	r.names.Hold(m.e.n)
	s.writes = append(s.writes, m)
	if s.writers < diskThreads {
		s.writers++
		r.background(r.writeAll)
	}
}

// writeAll writes until nothing is left to be written.
func (r *Router) writeAll(ctx context.Context) {
	var m *move
	var spot store.Spot
	var err error
	for {
		var inside []yr.ID
		r.turn(func() {
			s := &r.spill.io
			if m != nil {
				r.written(m, spot, err)
			}
			m = nil
			for len(s.writes) > 0 && m == nil {
				m = s.writes[0]
				s.writes = s.writes[1:]
				if m.over { // wanted again before it was begun
					m.e.move = nil
					r.names.Unhold(m.e.n)
					m = nil
				}
			}
			if m == nil {
				s.writers--
				return
			}
			inside = slices.Clone(m.e.n.Contains)
		})
		if m == nil {
			return
		}
		spot, err = r.write(ctx, m, inside)
	}
}

func (r *Router) write(ctx context.Context, m *move, inside []yr.ID) (store.Spot, error) {
	f, offset, err := r.opt.Store.Section(m.place)
	if err != nil {
		return store.Spot{}, err
	}
	defer f.Close()
	put := r.opt.Disk.Put
	if m.swap {
		put = r.opt.Disk.Swap
	}
	return put(ctx, m.id, inside, io.NewSectionReader(f, offset, int64(m.place.Length))) //nolint:gosec // below 2^46
}

// written takes the outcome of a write.
func (r *Router) written(m *move, spot store.Spot, err error) {
	s, e := &r.spill.io, m.e
	r.names.Unhold(e.n) // it may be gone now
	e.move = nil
	if err != nil {
		r.diskTrouble(m, err)
		return
	}
	if !r.now.Before(s.paused) {
		s.trouble = ""
	}
	s.spilled.Add(spot.Length)
	if e.gone || e.n.Value.Kind != store.Shared || e.n.Value.Place != m.place || e.n.Value.Source != nil {
		r.stay(m)
		r.opt.Disk.Delete(spot)
		return
	}
	source := &store.Source{Spot: spot, Size: spot.Length}
	if !m.over {
		r.depart(m, source)
		return
	}
	// Somebody wanted it meanwhile. It stays, and next time leaves for nothing.
	if err := r.names.Move(e.n, store.Value{Kind: store.Shared, Place: m.place, Source: source}); err != nil {
		r.opt.Log.Error().Err(err).Msg("an object on disk could not be noted")
		r.opt.Disk.Delete(spot)
		return
	}
	r.track(e.n)
}

// diskTrouble is told that an object could not be written: it stays, and nothing
// is written for a while.
func (r *Router) diskTrouble(m *move, err error) {
	s := &r.spill.io
	r.stay(m)
	if r.ctx.Err() != nil {
		return
	}
	s.writeErrors.Add(1)
	s.paused = r.now.Add(diskPause)
	if s.trouble == "" {
		r.opt.Log.Warn().Err(err).Msg("objects cannot be moved to disk; shared memory may run full")
	}
	s.trouble, s.full = err.Error(), yr.CodeOf(err) == yr.DiskFull
	if s.full && r.shed() {
		s.paused = r.now
	}
}

// shed makes room on disk at the cost of what is in memory as well.
func (r *Router) shed() bool {
	var shed uint64
	l := &r.spill.elsewhere
	for range min(l.Len(), lookAt) {
		if shed >= shedBytes {
			break
		}
		e := l.Back().Value.(*resident) //nolint:forcetypeassert // as in choose
		l.MoveToFront(e.at)
		source := e.n.Value.Source
		if e.move != nil || e.n.Value.Kind != store.Shared || source.Node != "" {
			continue
		}
		if r.names.Move(e.n, store.Value{Kind: store.Shared, Place: e.n.Value.Place}) == nil {
			r.track(e.n)
			r.opt.Disk.Delete(source.Spot)
			shed += source.Size
		}
	}
	return shed > 0
}

// noteSpill adds to the error of a full store why nothing leaves it.
func (r *Router) noteSpill(err error) error {
	if why := r.spill.io.trouble; why != "" && yr.CodeOf(err) == yr.StoreFull {
		return &yr.Error{Op: err.Error() + "; nothing can be moved to disk", Code: yr.StoreFull, Msg: why}
	}
	return err
}

// restore reads an object back from disk. done is called in a later turn, with a
// live place or with an error: StoreFull if there was no room for long, DiskFailed
// if the bytes are lost. The caller holds n.
func (r *Router) restore(n *store.Name[waiter], done func(place yr.Place, err error)) {
	s := &r.spill.io
	s.restores = append(s.restores, &restoring{n: n, id: n.ID, spot: n.Value.Source.Spot, done: done})
	r.soon() // not now: who waits for it is known when the caller is done
}

// pumpRestores starts reading what there is room for.
func (r *Router) pumpRestores() {
	s := &r.spill.io
	if s.pumping {
		return
	}
	s.pumping = true
	defer func() { s.pumping = false }()
	r.unfavour()
	for s.readers < diskThreads {
		i := r.nextRestore()
		if i < 0 {
			return
		}
		t := s.restores[i]
		if t.until.IsZero() {
			t.until = r.now.Add(roomPatience)
		}
		room, err := r.opt.Store.Reserve(t.spot.Length)
		if yr.CodeOf(err) == yr.StoreFull {
			r.makeRoom(t.spot.Length)
			room, err = r.opt.Store.Reserve(t.spot.Length)
		}
		if yr.CodeOf(err) == yr.StoreFull && r.now.Before(t.until) {
			return
		}
		s.restores = slices.Delete(s.restores, i, i+1)
		s.readers++
		r.background(func(ctx context.Context) { r.read(ctx, t, room, err) })
		r.makeRoom(0) // for the next one, while this one is read
	}
}

// read ends a restore, with what came of reserving room for it.
func (r *Router) read(ctx context.Context, t *restoring, room *store.Reservation, err error) {
	op := "restore object " + t.id.String()
	if err == nil && r.opt.Disk == nil {
		err = yr.E(op, yr.DiskFailed, "this node has no disk for objects any more")
	}
	if err == nil {
		err = r.opt.Disk.Get(ctx, t.spot, room.Bytes())
	}
	if err == nil {
		err = room.Publish()
	}
	var place yr.Place
	if err == nil {
		place = room.Place
	} else if room != nil {
		room.Discard()
	}
	tight := r.opt.Disk != nil && r.opt.Disk.Tight()
	r.turn(func() {
		s := &r.spill.io
		s.readers--
		if err == nil {
			s.restored.Add(place.Length)
		} else {
			s.readErrors.Add(1)
			if yr.CodeOf(err) == yr.DiskFailed && r.opt.Disk != nil {
				r.opt.Disk.Delete(t.spot) // what cannot be read is no use
			}
		}
		t.done(place, yr.Wrap(op, yr.Internal, r.noteSpill(err)))
		if tight { // the room of what was swapped in is for the next one
			r.shed()
		}
		r.pumpRestores()
	})
}

// spillCounters are what this file has done, for Counters.
func (r *Router) spillCounters() map[string]uint64 {
	s := &r.spill.io
	m := map[string]uint64{
		"spilled_bytes_total": s.spilled.Load(), "restored_bytes_total": s.restored.Load(),
		"spill_errors_total": s.writeErrors.Load(), "restore_errors_total": s.readErrors.Load(),
	}
	if r.opt.Disk != nil {
		d := r.opt.Disk.Stats()
		m["disk_used_bytes"], m["disk_objects"] = d.Used, uint64(d.Blobs) //nolint:gosec // never negative
	}
	return m
}

// checkSpill verifies the books of what may leave memory; Check calls it.
func (r *Router) checkSpill() error {
	s := &r.spill
	var leaving uint64
	for n, e := range s.in {
		if e.n != n || e.gone || r.names.Get(n.ID) != n {
			return fmt.Errorf("object %s is tracked and gone", n.ID)
		}
		if want := n.Value.Source != nil; n.Value.Kind == store.Shared && want != (e.list == &s.elsewhere) {
			return fmt.Errorf("object %s is in the wrong list", n.ID)
		}
		if e.move != nil && !e.move.over {
			leaving += e.move.place.Length
		}
	}
	for _, t := range s.settling {
		leaving += t.bytes
	}
	if leaving != s.leaving {
		return fmt.Errorf("%d bytes count as leaving, %d do", s.leaving, leaving)
	}
	if n := s.elsewhere.Len() + s.onlyHere.Len(); n != len(s.in) {
		return fmt.Errorf("%d objects in lists, %d tracked", n, len(s.in))
	}
	return nil
}
