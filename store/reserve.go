package store

// Blobs that the daemon writes itself: bytes fetched from another node, bytes read
// back from disk. The daemon is then a lessee like a session (Store.own), with its
// allocator here: large blobs have a segment each, small ones share slabs, and a
// segment that becomes empty is free for anybody.
//
// A segment that the daemon has mapped stays mapped as long as it exists, whoever
// leases it next: mapping a gigabyte anew costs more than writing it.

import (
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"yr/pkg/yr"
)

const (
	// ownFrom is the size from which a blob has a segment of its own.
	ownFrom = 1 * mib
	// ownSlab is the largest slab for the daemon's small blobs.
	ownSlab = 16 * mib
	// populateFrom is the size from which pages are mapped ahead of who writes
	// them, populateStep how much at a time: some 300 us.
	populateFrom = 4 * mib
	populateStep = 1 * mib
)

// Reservation is room for one blob that the daemon writes. It is ended by Publish
// or Discard; only one goroutine uses it at a time.
type Reservation struct {
	// Place is where the blob will be, and is live from Publish on.
	Place yr.Place

	s     *Store
	g     *segment
	bytes []byte
	ended bool
	ahead *ahead
}

// Reserve makes room for a blob of size bytes that the daemon will write. Like
// Lease it never waits for anybody, and fails with code StoreFull; whoever tries
// again sees to it that there will be room.
func (s *Store) Reserve(size uint64) (*Reservation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	op := "reserve " + bytes(size) + " of shared memory"
	if s.closed {
		return nil, yr.E(op, yr.Finalized, "the store is closed")
	}
	if size == 0 || size > 1<<46 {
		return nil, yr.E(op, yr.ParamInvalid, "a blob has at least one byte, and at most 64 TiB")
	}
	g, offset, err := s.gap(size)
	if err == nil && g == nil {
		err = s.full(op, size)
	}
	if err != nil {
		return nil, err
	}
	if err := g.mapWritable(); err != nil {
		s.vacate(g)
		return nil, yr.Wrap(op, yr.Internal, err)
	}
	p := yr.Place{Segment: g.number, Generation: g.generation, Offset: offset, Length: size}
	g.reserve(p)
	end := offset + size
	r := &Reservation{Place: p, s: s, g: g, bytes: g.mapped[offset:end:end]}
	if cold := roundDown(max(offset, g.faulted), pageSize); size >= populateFrom && cold < end {
		r.ahead = populate(g.mapped[cold:end])
	}
	return r, nil
}

// Bytes is the blob's memory, to be written until Publish or Discard.
func (r *Reservation) Bytes() []byte { return r.bytes }

// Publish makes the blob live; Free gives it back.
func (r *Reservation) Publish() error { return r.end(true) }

// Discard gives the room back; after Publish it does nothing.
func (r *Reservation) Discard() { _ = r.end(false) }

func (r *Reservation) end(publish bool) error {
	r.ahead.end()
	r.bytes = nil
	s, g := r.s, r.g
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.ended:
		return yr.E(placeOp(r.Place), yr.ParamInvalid, "the reservation has ended before")
	case s.closed:
		return yr.E(placeOp(r.Place), yr.Finalized, "the store is closed")
	}
	r.ended = true
	delete(g.reserved, r.Place.Offset)
	if !publish {
		g.taken.give(r.Place.Offset, r.Place.Length)
		s.vacate(g)
		return nil
	}
	g.faulted = max(g.faulted, r.Place.Offset+r.Place.Length)
	g.lengths[r.Place.Offset] = r.Place.Length
	g.live += r.Place.Length
	s.live += r.Place.Length
	s.objects++
	return nil
}

// Section opens a live blob for reading from a file, as sendfile does: it is length
// bytes at offset. The caller closes f, and sees to it that the blob stays live
// until then.
func (s *Store) Section(p yr.Place) (f *os.File, offset int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.segments[p.Segment]
	if g == nil || g.generation != p.Generation || !g.has(p) {
		return nil, 0, gone(p)
	}
	f, err = readOnly(g.file)
	return f, int64(p.Offset), yr.Wrap(placeOp(p), yr.Internal, err) //nolint:gosec // below 2^63
}

// gap finds room in a segment of the daemon's, leasing one if need be; nil if
// there is none.
func (s *Store) gap(size uint64) (*segment, uint64, error) {
	if size >= ownFrom {
		g, err := s.take(wants(s.own, size, size))
		return g, 0, err
	}
	slabs := uint64(0)
	for _, g := range s.slabs {
		if offset, ok := g.fit(size); ok {
			return g, offset, nil
		}
		slabs += g.size
	}
	g, err := s.take(wants(s.own, size, min(max(slabs, MinSlab), ownSlab))) // as much again as there is
	if g != nil {
		s.slabs = append(s.slabs, g)
	}
	return g, 0, err
}

// take leases the first segment that can be had to the daemon.
func (s *Store) take(sizes []uint64) (*segment, error) {
	for _, size := range sizes {
		g, err := s.segment(s.own, size)
		if err != nil || g == nil {
			if err != nil {
				return nil, err
			}
			continue
		}
		s.let(g, s.own)
		s.warn()
		g.loose, g.bump = g.size, 0
		return g, nil
	}
	return nil, nil // no room
}

// vacate gives a segment of the daemon's back if nothing is in it.
func (s *Store) vacate(g *segment) {
	if g.loose = g.size - g.live; g.live > 0 || len(g.reserved) > 0 {
		return
	}
	if i := slices.Index(s.slabs, g); i >= 0 {
		s.slabs = slices.Delete(s.slabs, i, i+1)
	}
	delete(s.own.segments, g)
	g.writer = nil // the daemon does not write where it has no lease
	s.unlet(g)
}

// reserve marks room that is not live yet.
func (g *segment) reserve(p yr.Place) {
	g.open()
	g.taken.take(p.Offset, p.Length)
	g.reserved[p.Offset] = p.Length
	g.bump = max(g.bump, roundUp(p.Offset+p.Length, Granule))
}

// fit finds a gap: behind everything, or else the first that is large enough.
//
// hot: every small blob that comes from another node.
func (g *segment) fit(size uint64) (offset uint64, ok bool) {
	switch {
	case size > g.loose:
		return 0, false
	case size <= g.size-g.bump:
		return g.bump, true
	}
	at, largest := uint64(0), uint64(0)
	look := func(start, end uint64) {
		if !ok && start-at >= size {
			offset, ok = at, true
		}
		largest = max(largest, start-at)
		at = end
	}
	g.taken.runs(look)
	look(g.size, g.size)
	if !ok {
		g.loose = largest // until something is freed
	}
	return offset, ok
}

// mapWritable maps the segment into the daemon, once.
func (g *segment) mapWritable() error {
	if g.mapped != nil {
		return nil
	}
	b, err := unix.Mmap(int(g.file.Fd()), 0, int(g.size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED) //nolint:gosec // below 2^47
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	g.mapped = b
	return nil
}

// unmap is for a segment that goes.
func (g *segment) unmap() {
	if g.mapped != nil {
		_ = unix.Munmap(g.mapped) // fails only for what Mmap did not return
		g.mapped = nil
	}
}

// ahead maps pages in order, while somebody else writes to them.
type ahead struct{ stop, stopped chan struct{} }

func populate(b []byte) *ahead {
	a := &ahead{stop: make(chan struct{}), stopped: make(chan struct{})}
	go func() {
		defer close(a.stopped)
		for len(b) > 0 {
			select {
			case <-a.stop:
				return
			default:
			}
			n := min(len(b), populateStep)
			if unix.Madvise(b[:n], unix.MADV_POPULATE_WRITE) != nil {
				return // before Linux 5.14; writing maps them as well
			}
			b = b[n:]
		}
	}()
	return a
}

// end returns when nobody maps pages any more: at most the time of one step.
func (a *ahead) end() {
	if a == nil {
		return
	}
	select {
	case <-a.stop:
	default:
		close(a.stop)
	}
	<-a.stopped
}
