package store

import "math/bits"

// Occupancy says which granules of a segment belong to live blobs: one bit each,
// in chunks of 1 MiB of the segment. A chunk is nil while it is empty, and is the
// shared full chunk while a single blob covers all of it, so that a segment of a
// gigabyte with one blob costs a thousand pointers and not two megabytes.
type occupancy []*chunk

const (
	chunkSpan     = 1 * mib
	chunkGranules = chunkSpan / Granule
)

type chunk [chunkGranules / 64]uint64

// full is never written to.
var full = func() *chunk {
	c := new(chunk)
	for i := range c {
		c[i] = ^uint64(0)
	}
	return c
}()

func newOccupancy(size uint64) occupancy {
	return make(occupancy, (size+chunkSpan-1)/chunkSpan)
}

// take marks the granules of [offset, offset+length) and reports whether all of
// them were free; if not, nothing changes.
//
// hot: every blob that is published.
func (o occupancy) take(offset, length uint64) bool {
	first, end := offset/Granule, (offset+length+Granule-1)/Granule
	if o.any(first, end) {
		return false
	}
	o.fill(first, end, true)
	return true
}

// give clears the granules of a blob that take marked.
//
// hot: every blob that is freed.
func (o occupancy) give(offset, length uint64) {
	o.fill(offset/Granule, (offset+length+Granule-1)/Granule, false)
}

// any reports whether a granule in [first, end) is taken.
func (o occupancy) any(first, end uint64) bool {
	for first < end {
		c, from, to := span(first, end)
		switch o[c] {
		case nil:
		case full:
			return true
		default:
			if o[c].any(from, to) {
				return true
			}
		}
		first += to - from
	}
	return false
}

func (o occupancy) fill(first, end uint64, taken bool) {
	for first < end {
		c, from, to := span(first, end)
		switch {
		case to-from == chunkGranules && taken:
			o[c] = full
		case to-from == chunkGranules:
			o[c] = nil
		default:
			if o[c] == nil {
				o[c] = new(chunk)
			}
			o[c].fill(from, to, taken)
		}
		first += to - from
	}
}

// span cuts the part of [first, end) that lies in first's chunk: the chunk, and
// the granules inside it.
func span(first, end uint64) (c, from, to uint64) {
	c, from = first/chunkGranules, first%chunkGranules
	return c, from, min(chunkGranules, from+end-first)
}

func (c *chunk) any(from, to uint64) bool {
	for from < to {
		word, mask, n := wordMask(from, to)
		if c[word]&mask != 0 {
			return true
		}
		from += n
	}
	return false
}

func (c *chunk) fill(from, to uint64, taken bool) {
	for from < to {
		word, mask, n := wordMask(from, to)
		if taken {
			c[word] |= mask
		} else {
			c[word] &^= mask
		}
		from += n
	}
}

// wordMask cuts the part of [from, to) that lies in from's word.
func wordMask(from, to uint64) (word, mask, n uint64) {
	word, bit := from/64, from%64
	n = min(64-bit, to-from)
	mask = ^uint64(0) >> (64 - n) << bit
	return word, mask, n
}

// gaps calls f with every maximal run of whole pages that no live blob touches,
// in order, for a segment of the given size.
func (o occupancy) gaps(size uint64, f func(offset, length uint64)) {
	start := uint64(0)
	o.runs(func(offset, end uint64) {
		gap(start, offset, f)
		start = end
	})
	gap(start, size, f)
}

func gap(start, end uint64, f func(offset, length uint64)) {
	start, end = roundUp(start, pageSize), roundDown(end, pageSize)
	if start < end {
		f(start, end-start)
	}
}

// runs calls f with every run of taken granules as bytes, in order; a run may be
// reported in adjoining pieces.
func (o occupancy) runs(f func(offset, end uint64)) {
	for i, c := range o {
		base := uint64(i) * chunkSpan
		switch c {
		case nil:
		case full:
			f(base, base+chunkSpan)
		default:
			c.runs(base, f)
		}
	}
}

func (c *chunk) runs(base uint64, f func(offset, end uint64)) {
	for word, w := range c {
		at := uint64(0)
		for w != 0 {
			skip := uint64(bits.TrailingZeros64(w)) //nolint:gosec // 0 to 64
			w >>= skip
			n := uint64(bits.TrailingZeros64(^w)) //nolint:gosec // as above
			at += skip
			start := base + (uint64(word)*64+at)*Granule
			f(start, start+n*Granule)
			at += n
			w >>= n // a shift by 64 leaves 0
		}
	}
}
