package store

// Who writes where: leases given, returned, claimed again after a restart.

import (
	"errors"
	"fmt"
	"math/bits"
	"os"

	"golang.org/x/sys/unix"

	"yr/pkg/yr"
)

// Lease gives a session a segment in which size bytes fit. wish is what would be
// welcome, up to MaxSlab; 0 leaves it to the store: as much again as the session
// has. Short memory makes it less than that, never less than size. The error has
// code StoreFull.
//
// It may make a memfd and call Keep (some 20 us). When memory is tight it gives
// back pages of free segments first: 30 us a megabyte beyond the first WarmHigh.
func (s *Store) Lease(id yr.ID, size, wish uint64) (Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return Lease{}, yr.E("lease", yr.Finalized, "the store is closed")
	}
	if size == 0 || size > 1<<46 {
		return Lease{}, yr.E("lease", yr.ParamInvalid, "asked for %d bytes", size)
	}
	h := s.holder(id)
	for _, want := range wants(h, size, wish) {
		g, err := s.segment(h, want)
		if err != nil {
			s.forget(h)
			return Lease{}, err
		}
		if g != nil {
			s.let(g, h)
			s.warn()
			return g.lease(), nil
		}
	}
	s.forget(h)
	signal(s.short)
	return Lease{}, s.full("lease "+bytes(size)+" of shared memory", size)
}

// wants are the sizes to try, from welcome to just enough.
func wants(h *holder, size, wish uint64) []uint64 {
	if wish == 0 {
		wish = 1 << (bits.Len64(h.leased+MinSlab) - 1) // 1, 2, 4, 8 ... MiB: few sizes, used again often
	}
	least := class(size)
	var sizes []uint64
	for want := class(max(size, min(wish, MaxSlab))); want > least; want = class(want / 2) {
		sizes = append(sizes, want)
	}
	sizes = append(sizes, least)
	if exact := roundUp(size, 64*kib); exact < least && size > MinSlab {
		sizes = append(sizes, exact)
	}
	return sizes
}

// segment finds or makes one of exactly this size; nil if there is no room.
func (s *Store) segment(h *holder, size uint64) (*segment, error) {
	for i := len(s.free) - 1; i >= 0; i-- { // the youngest is the warmest
		g := s.free[i]
		if g.size == size && (g.writer == nil || g.writer == h) {
			return s.reuse(i), nil
		}
	}
	if !s.makeRoom(size) {
		return nil, nil // no room
	}
	return s.create(size)
}

func (s *Store) create(size uint64) (*segment, error) {
	number := s.last + 1
	for number == 0 || s.segments[number] != nil {
		number++ // numbers wrap around after 2^32 leases
	}
	g := &segment{number: number, generation: s.epoch, size: size, charge: size}
	f, err := newMemfd(g.name(), size)
	if err != nil {
		if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
			return nil, &yr.Error{
				Op: "lease " + bytes(size) + " of shared memory", Code: yr.StoreFull, Err: err,
				Msg: fmt.Sprintf("%d segments are open and the system gives no more; raise the daemon's limit on open files (ulimit -n)", len(s.segments)),
			}
		}
		return nil, yr.Wrap("lease", yr.Internal, err)
	}
	g.file = f
	s.last = number
	s.segments[number] = g
	s.charged += size
	s.keep(g)
	return g, nil
}

// reuse takes a free segment for its next lessee, under a new generation.
func (s *Store) reuse(i int) *segment {
	g := s.unfree(i)
	old := g.name()
	g.generation++
	if g.generation == 0 {
		g.generation = 1
	}
	g.taken, g.lengths, g.reserved = nil, nil, nil
	s.keep(g)
	s.drop(old)
	return g
}

func (s *Store) keep(g *segment) {
	if s.opt.Keep == nil {
		return
	}
	if err := s.opt.Keep(g.name(), g.file); err != nil {
		s.opt.Log.Warn().Err(err).Str("segment", g.name()).Msg("the parent does not keep this segment; a crash of the daemon would lose it")
	}
}

func (s *Store) drop(name string) {
	if s.opt.Drop != nil {
		s.opt.Drop(name)
	}
}

// let makes h the lessee.
func (s *Store) let(g *segment, h *holder) {
	if g.writer != nil {
		delete(g.writer.segments, g)
	}
	g.lessee, g.writer = h, h
	h.segments[g] = struct{}{}
	h.leased += g.size
	s.leased += g.size
}

// unlet takes the lease away; h stays the writer until it ends.
func (s *Store) unlet(g *segment) {
	g.lessee.leased -= g.size
	s.leased -= g.size
	g.lessee = nil
	g.freed = true // also what was never written to is to be given back
	s.settle(g)
}

// Return ends a lease. Live blobs in the segment live on.
func (s *Store) Return(id yr.ID, number, generation uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.segments[number]
	if g == nil || g.generation != generation || g.lessee == nil || g.lessee.id != id {
		return leaseError("return", number, generation, yr.ParamInvalid, "it is not leased to session "+id.String())
	}
	s.unlet(g)
	return nil
}

// Relet is for a session that resumes after a restart of the daemon and still
// holds this lease. Repeating it is no error.
func (s *Store) Relet(id yr.ID, number, generation uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.segments[number]
	switch {
	case g == nil || g.generation != generation:
		return leaseError("keep", number, generation, yr.ObjectNotFound, "it is gone")
	case g.lessee != nil && g.lessee.id == id:
		return nil
	case g.lessee != nil:
		return leaseError("keep", number, generation, yr.ParamInvalid, "it is leased to session "+g.lessee.id.String())
	case !g.adopted:
		return leaseError("keep", number, generation, yr.ObjectNotFound, "it has reverted to the store")
	}
	g.adopted = false
	s.let(g, s.holder(id))
	return nil
}

// EndHolder ends a session's leases: what is empty is kept warm for others, what
// is not belongs to the store until its last blob is gone.
func (s *Store) EndHolder(id yr.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.holders[id]
	if h == nil {
		return
	}
	delete(s.holders, id)
	for g := range h.segments {
		g.writer = nil
		if g.lessee != nil {
			s.unlet(g)
		}
	}
	h.segments = nil
}

// Adopt takes back a segment that the parent kept while the daemon was restarted.
// It has no lessee and nothing in it until sessions Relet and Announce. The store
// owns f from here on, also if it refuses it.
func (s *Store) Adopt(name string, f *os.File) error {
	err := s.adopt(name, f)
	if err != nil {
		_ = f.Close()
	}
	return err
}

func (s *Store) adopt(name string, f *os.File) error {
	number, generation, size, err := parseName(name)
	if err == nil {
		err = verifySealed(f, size)
	}
	if err != nil {
		return yr.Wrap("adopt "+name, yr.ParamInvalid, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.segments[number] != nil {
		return yr.E("adopt "+name, yr.ParamInvalid, "there is a segment %d already", number)
	}
	if s.recovered || s.closed {
		return yr.E("adopt "+name, yr.ParamInvalid, "recovery is over")
	}
	s.segments[number] = &segment{number: number, generation: generation, size: size, charge: size, file: f, adopted: true}
	s.last = max(s.last, number)
	s.charged += size
	s.inherited += size
	return nil
}

// EndRecovery says that no session will come back from before a restart: adopted
// segments that nobody claimed are the store's, and go when their last blob does.
func (s *Store) EndRecovery() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recovered = true
	for _, g := range s.segments {
		if g.adopted {
			g.adopted, g.foreign, g.freed = false, true, true
			s.settle(g)
		}
	}
}

func (s *Store) holder(id yr.ID) *holder {
	h := s.holders[id]
	if h == nil {
		h = &holder{id: id, segments: make(map[*segment]struct{})}
		s.holders[id] = h
	}
	return h
}

// forget drops a holder that got nothing, so that failed tries leave no trace.
func (s *Store) forget(h *holder) {
	if len(h.segments) == 0 {
		delete(s.holders, h.id)
	}
}

// settle finds the place of a segment whose lease or whose last blob went.
func (s *Store) settle(g *segment) {
	switch {
	case g.lessee != nil || g.adopted || g.punching:
	case g.live > 0:
		if g.freed {
			signal(s.kick)
		}
	case g.foreign || g.charge < g.size || g.size > s.opt.WarmHigh:
		s.doom(g)
	default:
		s.free = append(s.free, g)
		s.warm += g.charge
		if s.warm > s.opt.WarmHigh {
			signal(s.kick)
		}
		signal(s.room)
	}
}

// unfree takes a segment out of the free list.
func (s *Store) unfree(i int) *segment {
	g := s.free[i]
	s.free = append(s.free[:i], s.free[i+1:]...)
	s.warm -= g.charge
	s.idle = min(s.idle, s.warm)
	return g
}

// makeRoom sees to it that size more bytes fit, at the cost of free segments.
//
// Their capacity is lent out before the janitor has given their pages back, but
// no more than WarmHigh of it: pages in use stay below capacity + WarmHigh, and
// what is needed beyond that is given back here and now.
func (s *Store) makeRoom(size uint64) bool {
	if !s.fits(size) && s.ceiling < s.opt.Capacity {
		s.sample() // others may have given memory back since the last tick
	}
	if size > s.limit() || s.used() > s.limit()-size {
		return false
	}
	for !s.fits(size) {
		switch {
		case len(s.free) > 0 && s.dying < s.opt.WarmHigh:
			s.doom(s.unfree(0))
		case len(s.doomed) > 0:
			g := s.takeDoomed()
			s.destroy(g)
			s.buried(g)
		default:
			s.doom(s.unfree(0))
		}
	}
	return true
}

// fits reports whether size more bytes can be charged now.
func (s *Store) fits(size uint64) bool {
	return s.charged+size <= s.limit()+s.burying+min(s.dying, s.opt.WarmHigh)
}

// used is what is charged and cannot be evicted.
func (s *Store) used() uint64 { return s.charged - s.warm - s.dying - s.burying }

func (s *Store) limit() uint64 { return min(s.opt.Capacity, s.ceiling) }

// warn asks for slabs back before memory is gone: once, until there is room again.
func (s *Store) warn() {
	switch used := s.used(); {
	case used > s.limit()/8*7 && !s.warned:
		s.warned = true
		signal(s.short)
	case used < s.limit()/4*3:
		s.warned = false
	}
}

// Excess is how many bytes in use are more than there should be: memory is to have
// room for what comes next before somebody has to wait for it.
func (s *Store) Excess() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return less(s.used(), s.limit()/4*3)
}

// full is the error of who found no room.
func (s *Store) full(op string, size uint64) error {
	bound := ""
	if s.ceiling < s.opt.Capacity {
		bound = fmt.Sprintf(" (of %s configured; the memory limit of this machine or container leaves no more)", bytes(s.opt.Capacity))
	}
	if size > s.opt.Capacity {
		return yr.E(op, yr.StoreFull, "the capacity is %s, it can never fit; start with a larger values.shared_memory_num", bytes(s.opt.Capacity))
	}
	return yr.E(op, yr.StoreFull,
		"the capacity is %s%s, %s are in use by %d objects (%s) in %d segments; release references, or start with a larger values.shared_memory_num",
		bytes(s.limit()), bound, bytes(s.used()), s.objects, bytes(s.live), len(s.segments)-len(s.free))
}

func leaseError(op string, number, generation uint32, code yr.Code, wrong string) error {
	return yr.E(fmt.Sprintf("%s the lease of segment %d.%d", op, number, generation), code, "%s", wrong)
}

// signal wakes whoever receives, and remembers if nobody does yet.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// bytes is a size that a person can read.
func bytes(n uint64) string {
	switch {
	case n >= 10*gib:
		return fmt.Sprintf("%.1f GiB", float64(n)/gib)
	case n >= mib:
		return fmt.Sprintf("%.1f MiB", float64(n)/mib)
	}
	return fmt.Sprintf("%d bytes", n)
}
