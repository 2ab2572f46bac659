package store

import (
	"fmt"
	"os"

	"yr/pkg/yr"
)

// Segment is one memfd and what the store knows of it. It is in exactly one of
// four states, told by its fields (Store.mu guards all of them):
//
//	leased    lessee set: only that session publishes; never punched
//	returning adopted set: came back after a restart, a session may still claim it
//	draining  live blobs and no lessee: freed pages are punched out
//	free      none of these: in Store.free, its pages kept for the next lessee
type segment struct {
	number     uint32
	generation uint32
	size       uint64
	charge     uint64 // bytes counted against the capacity: size less what was punched
	file       *os.File

	lessee  *holder
	adopted bool

	// writer is the live session that was the last lessee and may still have the
	// segment mapped for writing: nobody else is given it before that session ends.
	writer  *holder
	foreign bool // adopted and never claimed: its writers are unknown, it is never leased again

	taken    occupancy
	lengths  map[uint64]uint64 // live blobs: offset -> length
	live     uint64            // their bytes
	freed    bool              // a blob went since the last punch
	punching bool              // the janitor works on it outside the lock

	// For blobs that the daemon writes, see reserve.go.
	reserved map[uint64]uint64 // not live yet: offset -> length
	bump     uint64            // nothing was reserved behind it since the segment was empty
	loose    uint64            // no gap is larger
	mapped   []byte            // the segment, writable; nil: not mapped
	faulted  uint64            // bytes from the start whose pages are in the page tables
}

// holder is a session as far as leases go.
type holder struct {
	id       yr.ID
	segments map[*segment]struct{} // leased to it, or with it as the writer
	leased   uint64                // bytes leased to it now
}

func (g *segment) lease() Lease {
	return Lease{Segment: g.number, Generation: g.generation, Size: g.size}
}

// name is how the parent process calls the descriptor that it keeps.
func (g *segment) name() string {
	return fmt.Sprintf("seg-%d-%d-%d", g.number, g.generation, g.size)
}

// parseName is the inverse of name.
func parseName(name string) (number, generation uint32, size uint64, err error) {
	var canonical segment
	if _, err = fmt.Sscanf(name, "seg-%d-%d-%d", &canonical.number, &canonical.generation, &canonical.size); err != nil {
		return 0, 0, 0, fmt.Errorf("segment name %q: %w", name, err)
	}
	if canonical.name() != name || canonical.size == 0 || canonical.size > 1<<47 || canonical.generation == 0 {
		return 0, 0, 0, fmt.Errorf("segment name %q is not seg-<number>-<generation>-<size>", name)
	}
	return canonical.number, canonical.generation, canonical.size, nil
}

// add makes the blob live; the caller has checked bounds and alignment.
func (g *segment) add(p yr.Place) bool {
	g.open()
	if !g.taken.take(p.Offset, p.Length) {
		return false
	}
	g.lengths[p.Offset] = p.Length
	g.live += p.Length
	return true
}

// open makes what keeps the books, when the first blob comes.
func (g *segment) open() {
	if g.taken == nil {
		g.taken = newOccupancy(g.size)
		g.lengths = make(map[uint64]uint64)
		g.reserved = make(map[uint64]uint64)
	}
}

// remove is the inverse of add; it reports whether exactly p was live.
func (g *segment) remove(p yr.Place) bool {
	if length, ok := g.lengths[p.Offset]; !ok || length != p.Length {
		return false
	}
	delete(g.lengths, p.Offset)
	g.taken.give(p.Offset, p.Length)
	g.live -= p.Length
	return true
}

// has reports whether exactly p is live.
func (g *segment) has(p yr.Place) bool {
	length, ok := g.lengths[p.Offset]
	return ok && length == p.Length
}

// check says what is wrong with a place in this segment, whoever publishes it.
func (g *segment) check(p yr.Place) string {
	switch {
	case p.Length == 0:
		return "a blob has at least one byte"
	case p.Offset%Granule != 0:
		return fmt.Sprintf("offset %d is not a multiple of %d", p.Offset, Granule)
	case p.Offset > g.size || p.Length > g.size-p.Offset:
		return fmt.Sprintf("it ends behind the segment's %d bytes", g.size)
	}
	return ""
}
