package store

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Check verifies every invariant of the store: counters against what they count,
// states against lists, blobs against occupancy, and the capacity. Time is
// proportional to the number of segments and blobs.
func (s *Store) Check() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var charged, leased, live, warm, dying uint64
	objects := 0
	for number, g := range s.segments {
		if g.number != number {
			return fmt.Errorf("segment %d is filed under %d", g.number, number)
		}
		if err := s.checkSegment(g); err != nil {
			return fmt.Errorf("segment %s: %w", g.name(), err)
		}
		charged += g.charge
		live += g.live
		objects += len(g.lengths)
		if g.lessee != nil {
			leased += g.size
		}
	}
	for _, g := range s.free {
		warm += g.charge
	}
	for _, g := range s.doomed {
		dying += g.charge
	}
	charged += dying + s.burying
	switch {
	case charged != s.charged || leased != s.leased || live != s.live || warm != s.warm || objects != s.objects:
		return fmt.Errorf("counted charged %d leased %d live %d warm %d objects %d, have %d %d %d %d %d",
			s.charged, s.leased, s.live, s.warm, s.objects, charged, leased, live, warm, objects)
	case dying != s.dying:
		return fmt.Errorf("counted %d dying bytes, have %d", s.dying, dying)
	case s.charged-s.dying-s.burying > max(s.opt.Capacity, s.inherited):
		return fmt.Errorf("%d bytes charged, the capacity is %d", s.charged-s.dying-s.burying, s.opt.Capacity)
	}
	return s.checkHolders()
}

func (s *Store) checkSegment(g *segment) error {
	free := slices.Contains(s.free, g)
	switch {
	case g.lessee != nil && (g.lessee != g.writer || g.adopted || g.charge != g.size):
		return fmt.Errorf("leased, with another writer, unclaimed or punched (charge %d)", g.charge)
	case g.writer != nil && g.writer != s.own && s.holders[g.writer.id] != g.writer:
		return fmt.Errorf("its writer %s is gone", g.writer.id)
	case free != (g.lessee == nil && !g.adopted && !g.punching && g.live == 0):
		return fmt.Errorf("in the free list: %v, leased %v, adopted %v, live %d", free, g.lessee != nil, g.adopted, g.live)
	case free && g.charge != g.size:
		return fmt.Errorf("free and not whole: charge %d", g.charge)
	case len(g.reserved) > 0 && g.lessee != s.own:
		return fmt.Errorf("%d blobs are being written, by nobody", len(g.reserved))
	case g.lessee == s.own && g.live == 0 && len(g.reserved) == 0:
		return errors.New("the daemon's, and nothing is in it")
	}
	return g.checkBlobs()
}

func (g *segment) checkBlobs() error {
	lengths := maps.Clone(g.lengths)
	maps.Copy(lengths, g.reserved)
	if len(lengths) != len(g.lengths)+len(g.reserved) {
		return errors.New("a blob is both live and reserved")
	}
	var end, live, granules uint64
	for _, offset := range slices.Sorted(maps.Keys(lengths)) {
		length := lengths[offset]
		if offset%Granule != 0 || length == 0 || offset+length > g.size || offset < end {
			return fmt.Errorf("blob at %d of %d bytes lies badly", offset, length)
		}
		end = roundUp(offset+length, Granule)
		live += g.lengths[offset]
		granules += (end - offset) / Granule
		if !g.taken.all(offset/Granule, end/Granule) {
			return fmt.Errorf("blob at %d of %d bytes is not marked", offset, length)
		}
	}
	if live != g.live {
		return fmt.Errorf("counted %d live bytes, have %d", g.live, live)
	}
	if marked := g.taken.count(); marked != granules {
		return fmt.Errorf("%d granules marked, blobs have %d", marked, granules)
	}
	return nil
}

func (s *Store) checkHolders() error {
	holders := maps.Clone(s.holders)
	holders[s.own.id] = s.own
	for id, h := range holders {
		var leased uint64
		for g := range h.segments {
			if g.writer != h || s.segments[g.number] != g {
				return fmt.Errorf("holder %s lists segment %s, which is not its own", id, g.name())
			}
			if g.lessee == h {
				leased += g.size
			}
		}
		if h.id != id || leased != h.leased {
			return fmt.Errorf("holder %s counts %d leased bytes, has %d", id, h.leased, leased)
		}
	}
	return nil
}

// all reports whether every granule in [first, end) is taken.
func (o occupancy) all(first, end uint64) bool {
	for ; first < end; first++ {
		if !o.any(first, first+1) {
			return false
		}
	}
	return true
}

// count is the number of taken granules.
func (o occupancy) count() uint64 {
	var n uint64
	o.runs(func(offset, end uint64) { n += (end - offset) / Granule })
	return n
}
