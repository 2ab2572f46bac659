package store

// Segment sizes. Few of them, so that a freed segment is likely to fit the next
// lease and its warm pages are used again.

import "math/bits"

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30

	// Granule is the alignment of every blob: a cache line, and what numpy wants.
	Granule = 64

	// MinSlab is the smallest segment and the first one a session is given.
	MinSlab = 1 * mib
	// MaxSlab is the largest segment that is leased ahead of need; a larger blob
	// gets a segment of its own.
	MaxSlab = 64 * mib

	pageSize = 4 * kib
)

// class rounds size up to a segment size: from 1 MiB on four steps to each doubling
// (1, 1.25, 1.5, 1.75, 2, 2.5 ... MiB), so that at most a fifth of a segment made
// for one blob is empty. An array of a power of two is a little larger with its head.
func class(size uint64) uint64 {
	if size <= MinSlab {
		return MinSlab
	}
	doubling := uint64(1) << bits.Len64(size-1) // smallest power of two >= size
	return roundUp(size, doubling/8)
}

// roundUp rounds size up to a multiple of step, a power of two.
func roundUp(size, step uint64) uint64 { return (size + step - 1) &^ (step - 1) }

// roundDown is the other direction.
func roundDown(size, step uint64) uint64 { return size &^ (step - 1) }
