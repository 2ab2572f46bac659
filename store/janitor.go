package store

// The janitor does what takes longer than a lock may be held: it gives pages
// back to the system and looks at how much memory there still is. It is one
// goroutine, owned by Open and Close.

import (
	"context"
	"time"

	"yr/pkg/yr"
)

func (s *Store) run(ctx context.Context) {
	ticks := s.opt.Ticks
	if ticks == nil {
		t := time.NewTicker(TrimEvery)
		defer t.Stop()
		ticks = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.kick:
			s.clean()
		case <-ticks:
			s.trim()
			s.clean()
			s.measure()
		}
	}
}

// clean does what is due now.
func (s *Store) clean() {
	s.mu.Lock()
	for s.warm > s.opt.WarmHigh {
		s.doom(s.unfree(0))
	}
	s.mu.Unlock()
	for s.bury() {
	}
	s.punchFreed()
}

// trim ends what nobody needed since the last tick, down to WarmLow.
func (s *Store) trim() {
	s.mu.Lock()
	defer s.mu.Unlock()
	needed := s.warm - s.idle
	for s.warm > needed+s.opt.WarmLow {
		s.doom(s.unfree(0))
	}
	s.idle = s.warm
}

// doom takes a segment out of the store and leaves its pages to the janitor. Its
// number means nothing from here on.
func (s *Store) doom(g *segment) {
	delete(s.segments, g.number)
	if g.writer != nil {
		delete(g.writer.segments, g)
		g.writer = nil
	}
	s.drop(g.name())
	s.doomed = append(s.doomed, g)
	s.dying += g.charge
	signal(s.kick)
}

// bury destroys one doomed segment, without the lock; false if there is none.
func (s *Store) bury() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.doomed) == 0 {
		return false
	}
	g := s.takeDoomed()
	s.burying = g.charge
	s.mu.Unlock()
	s.destroy(g)
	s.mu.Lock()
	s.burying = 0
	s.buried(g)
	return true
}

func (s *Store) takeDoomed() *segment {
	g := s.doomed[0]
	s.doomed = s.doomed[1:]
	s.dying -= g.charge
	return g
}

// buried counts what destroying g gave back.
func (s *Store) buried(g *segment) {
	s.charged -= g.charge
	signal(s.room)
}

// destroy gives back all pages, also those that a client still has mapped, and
// closes the file.
func (s *Store) destroy(g *segment) {
	if err := punch(g.file, 0, g.size); err != nil {
		s.opt.Log.Warn().Err(err).Str("segment", g.name()).Msg("pages not given back")
	}
	g.unmap()
	_ = g.file.Close()
}

// punchFreed gives back the pages between the live blobs of every segment that
// has no lessee any more. Nobody writes to those: an Announce of a blob that is
// not live there is refused.
func (s *Store) punchFreed() {
	for _, g := range s.draining() {
		s.mu.Lock()
		var holes []yr.Place
		g.taken.gaps(g.size, func(offset, length uint64) {
			holes = append(holes, yr.Place{Offset: offset, Length: length})
		})
		s.mu.Unlock()
		var punched uint64
		for _, hole := range holes {
			if err := punch(g.file, hole.Offset, hole.Length); err != nil {
				s.opt.Log.Warn().Err(err).Str("segment", g.name()).Msg("pages not given back")
				continue
			}
			punched += hole.Length
		}
		s.punched(g, g.size-punched)
	}
}

// draining marks and returns the segments that have something to punch.
func (s *Store) draining() []*segment {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []*segment
	for _, g := range s.segments {
		if g.lessee == nil && !g.adopted && g.live > 0 && g.freed {
			g.freed, g.punching = false, true
			found = append(found, g)
		}
	}
	return found
}

// punched counts what a segment still costs.
func (s *Store) punched(g *segment, charge uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g.punching = false
	s.charged -= g.charge - charge
	g.charge = charge
	s.settle(g)
	signal(s.room)
}

// measure samples, on the janitor's time, how much memory is left.
func (s *Store) measure() {
	free, ok := s.opt.Headroom()
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bound(free)
}

// sample is measure with the lock held.
func (s *Store) sample() {
	if free, ok := s.opt.Headroom(); ok {
		s.bound(free)
	}
}

// bound sets the ceiling: what has pages now, and what more may get some. A lease
// counts in full from the start, so a lessee that fills it later finds the memory.
func (s *Store) bound(free uint64) {
	if free >= s.opt.Capacity {
		s.ceiling = s.opt.Capacity
		return
	}
	present := uint64(0)
	for _, g := range s.segments {
		present += resident(g.file)
	}
	for _, g := range s.doomed {
		present += resident(g.file)
	}
	s.ceiling = min(s.opt.Capacity, present+free)
}
