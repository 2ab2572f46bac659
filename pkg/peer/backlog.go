package peer

import "slices"

// A backlog is the bytes of a link that its peer has not acknowledged: sent ones,
// which may have to be sent again, and unsent ones. A byte's place in the stream is
// its sequence number. It is not safe for concurrent use, with one exception: the
// slice that next returned may be read while push appends.
type backlog struct {
	segments []segment // in order, without gaps; the last one is open
	acked    uint64    // what the peer has
	sent     uint64    // what was written to the present connection; never below acked but while a write is in progress
	end      uint64    // what was queued
	spare    [][]byte  // empty, to be used again
}

// A segment is a stretch of the stream.
type segment struct {
	from uint64 // place of the first byte
	buf  []byte
}

const (
	segmentFirst = 4 << 10 // of a link that says little
	segmentSize  = 64 << 10
	// segmentFull is when the next segment is begun: a frame that does not fit makes
	// append move the segment, so there should be room for a small one.
	segmentFull = segmentSize - 4<<10
	// sparesMost bounds what an idle link keeps.
	sparesMost = 16
	// writeMost is the largest single write.
	writeMost = 256 << 10
)

// push lets add append whole frames to the stream.
//
// hot: once per frame.
func (b *backlog) push(add func(dst []byte) []byte) {
	k := len(b.segments) - 1
	if k < 0 || len(b.segments[k].buf) >= segmentFull {
		b.segments = append(b.segments, segment{from: b.end, buf: b.empty(k < 0)})
		k++
	}
	s := &b.segments[k]
	s.buf = add(s.buf)
	b.end = s.from + uint64(len(s.buf))
}

// empty is a buffer for a new segment.
func (b *backlog) empty(first bool) []byte {
	if n := len(b.spare); n > 0 {
		buf := b.spare[n-1]
		b.spare = b.spare[:n-1]
		return buf
	}
	if first {
		return make([]byte, 0, segmentFirst)
	}
	return make([]byte, 0, segmentSize)
}

func (b *backlog) unsent() int  { return int(b.end - b.sent) }  //nolint:gosec // bounded by memory
func (b *backlog) unacked() int { return int(b.end - b.acked) } //nolint:gosec // bounded by memory

// next is what should be written next, a part of what is unsent.
func (b *backlog) next() []byte {
	k := b.find(b.sent)
	s := b.segments[k]
	rest := s.buf[b.sent-s.from:]
	return rest[:min(len(rest), writeMost)]
}

// find is the segment of a place that is below end.
func (b *backlog) find(place uint64) int {
	if k := len(b.segments) - 1; b.segments[k].from <= place {
		return k
	}
	k, found := slices.BinarySearchFunc(b.segments, place, func(s segment, place uint64) int {
		switch {
		case s.from < place:
			return -1
		case s.from > place:
			return 1
		}
		return 0
	})
	if !found {
		k--
	}
	return k
}

// wrote records that everything up to a place was written.
func (b *backlog) wrote(upTo uint64, writing bool) {
	b.sent = max(b.sent, upTo)
	b.trim(writing)
}

// ack records what the peer has. It says whether that is possible.
func (b *backlog) ack(upTo uint64, writing bool) bool {
	if upTo > b.end {
		return false
	}
	b.acked = max(b.acked, upTo)
	b.trim(writing)
	return true
}

// rewind begins to send again, after what the peer has: a new connection. It says
// whether that can be.
func (b *backlog) rewind(received uint64, writing bool) bool {
	if received < b.acked || received > b.end {
		return false
	}
	b.acked, b.sent = received, received
	b.trim(writing)
	return true
}

// trim gives up segments that are written and acknowledged. While a write is in
// progress it may be reading from any of them, so none is used again.
func (b *backlog) trim(writing bool) {
	done := min(b.acked, b.sent)
	n := 0
	for ; n < len(b.segments)-1 && b.segments[n+1].from <= done; n++ {
		if !writing {
			b.keep(b.segments[n].buf)
		}
	}
	if n > 0 {
		b.segments = slices.Delete(b.segments, 0, n)
	}
	if len(b.segments) == 1 && done == b.end && !writing {
		s := &b.segments[0]
		s.from = b.end
		if cap(s.buf) <= segmentSize {
			s.buf = s.buf[:0]
		} else {
			b.segments = b.segments[:0]
		}
	}
}

func (b *backlog) keep(buf []byte) {
	if cap(buf) == segmentSize && len(b.spare) < sparesMost {
		b.spare = append(b.spare, buf[:0])
	}
}

// relax gives back memory that an idle link does not need.
func (b *backlog) relax() {
	if b.end != b.acked {
		return
	}
	b.spare = nil
	if len(b.segments) == 1 && cap(b.segments[0].buf) > segmentFirst {
		b.segments = nil
	}
}
