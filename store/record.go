package store

// How a spilled blob lies in its file: a head that says what it is, then its bytes.
// A file is a row of such records, each from a multiple of blockSize, so that a
// daemon that comes back can walk it:
//
//	u32 magic, u8 state, u8 x 3 zero, 20 bytes id, u32 number of ids inside,
//	u64 length, u32 sum of the bytes, u32 sum of the head, the ids; zeros up to Granule
//
// All integers are little-endian, sums are CRC-32C. The sum of the head leaves out
// state and itself.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"yr/pkg/yr"
)

const (
	recordMagic = 0x31535259 // "YRS1"
	recordFixed = 48
	blockSize   = 4 * kib // what a file system gives back
	// maxInside bounds the ids of a head, as the wire does.
	maxInside = 65535
)

// recordState says how far a record came.
type recordState uint8

const (
	recordOpen    recordState = 1 // its bytes may be incomplete
	recordWhole   recordState = 2
	recordDeleted recordState = 3 // and its bytes were given back
)

// record is a head, decoded.
type record struct {
	state  recordState
	id     yr.ID
	inside []yr.ID
	length uint64
	sum    uint32
}

// headLen is where the bytes begin.
func (r *record) headLen() uint64 {
	return roundUp(recordFixed+uint64(len(r.inside))*yr.IDLen, Granule)
}

// span is what the record takes of its file.
func (r *record) span() uint64 { return roundUp(r.headLen()+r.length, blockSize) }

// place is where the record is if it begins at start.
func (r *record) place(start uint64) recordPlace {
	return recordPlace{start: start, head: min(roundUp(r.headLen(), blockSize), r.span()), span: r.span(), length: r.length}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (r *record) append(dst []byte) []byte {
	le := binary.LittleEndian
	at := len(dst)
	dst = le.AppendUint32(dst, recordMagic)
	dst = append(dst, byte(r.state), 0, 0, 0)
	dst = append(dst, r.id[:]...)
	dst = le.AppendUint32(dst, uint32(len(r.inside))) //nolint:gosec // at most maxInside
	dst = le.AppendUint64(dst, r.length)
	dst = le.AppendUint32(dst, r.sum)
	dst = le.AppendUint32(dst, 0)
	for _, id := range r.inside {
		dst = append(dst, id[:]...)
	}
	le.PutUint32(dst[at+44:], headSum(dst[at:]))
	return append(dst, make([]byte, int(r.headLen())-(len(dst)-at))...) //nolint:gosec // below 64
}

// headSum covers a head but for its state and the sum itself.
func headSum(head []byte) uint32 {
	sum := crc32.Update(0, castagnoli, head[:4])
	sum = crc32.Update(sum, castagnoli, head[8:44])
	return crc32.Update(sum, castagnoli, head[recordFixed:])
}

var errNoRecord = errors.New("there is no record here")

// decodeInside says how many ids follow the fixed part of a head.
func decodeInside(fixed []byte) (int, error) {
	if len(fixed) < recordFixed || binary.LittleEndian.Uint32(fixed) != recordMagic {
		return 0, errNoRecord
	}
	n := binary.LittleEndian.Uint32(fixed[28:])
	if n > maxInside {
		return 0, fmt.Errorf("a head with %d ids", n)
	}
	return int(n), nil
}

// decodeRecord reads a head; what follows it in b is left alone.
func decodeRecord(b []byte) (record, error) {
	n, err := decodeInside(b)
	if err != nil {
		return record{}, err
	}
	le := binary.LittleEndian
	end := recordFixed + n*yr.IDLen
	if len(b) < end {
		return record{}, fmt.Errorf("a head of %d bytes is cut short to %d", end, len(b))
	}
	if sum := headSum(b[:end]); sum != le.Uint32(b[44:]) {
		return record{}, errors.New("the sum of the head is wrong")
	}
	r := record{state: recordState(b[4]), id: yr.ID(b[8:28]), length: le.Uint64(b[32:]), sum: le.Uint32(b[40:])}
	if r.state < recordOpen || r.state > recordDeleted || r.length == 0 || r.length > 1<<46 {
		return record{}, fmt.Errorf("a head with state %d and length %d", r.state, r.length)
	}
	for ; n > 0; n-- {
		r.inside = append(r.inside, yr.ID(b[end-n*yr.IDLen:]))
	}
	return r, nil
}
