package durable

import "encoding/binary"

// reader takes bytes apart. After the first mistake everything it returns is
// zero and ok is false, so that a decoder checks once, at its end. What it
// returns lies in the bytes it reads.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) fail() { r.b, r.bad = nil, true }

func (r *reader) byte() byte {
	if len(r.b) < 1 {
		r.fail()
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

// length reads a count of things that take at least one byte each.
func (r *reader) length(most int) int {
	n := r.uvarint()
	if n > uint64(min(most, len(r.b))) { //nolint:gosec // lengths
		r.fail()
		return 0
	}
	return int(n) //nolint:gosec // bounded by most
}

func (r *reader) u64() uint64 {
	if len(r.b) < 8 {
		r.fail()
		return 0
	}
	v := binary.BigEndian.Uint64(r.b)
	r.b = r.b[8:]
	return v
}

func (r *reader) take(n int) []byte {
	if n < 0 || len(r.b) < n {
		r.fail()
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes(most int) []byte { return r.take(r.length(most)) }

func (r *reader) sum() (s sum) {
	copy(s[:], r.take(len(s)))
	return s
}

// ok says that everything was read and nothing was wrong.
func (r *reader) ok() bool { return !r.bad && len(r.b) == 0 }

func appendBytes[T ~string | ~[]byte](dst []byte, b T) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}
