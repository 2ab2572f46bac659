package wire

import "yr/pkg/yr"

// Kind tells the three forms of a Value apart.
type Kind uint8

// The kinds of a Value.
const (
	Inline Kind = 0
	Placed Kind = 1
	Failed Kind = 2
	Away   Kind = 3 // the bytes are on another node, or on disk: Source says where to ask
)

// Value is one object as it travels: its bytes, its place in shared memory, or
// the error that stands for it.
type Value struct {
	Kind       Kind
	Serialized bool // Failed: Data is an SDK-serialised exception, else UTF-8 text
	Code       yr.Code
	Data       []byte // Inline: the bytes; Failed: the payload
	Place      yr.Place
	Contains   IDs // objects that live as long as this one
}

// IDs is a packed list of identifiers, aliasing the frame it came in.
type IDs []byte

// Len is the number of identifiers.
func (p IDs) Len() int { return len(p) / yr.IDLen }

// At returns the i-th identifier.
func (p IDs) At(i int) yr.ID { return yr.ID(p[i*yr.IDLen : (i+1)*yr.IDLen]) }

const valueHead = 8
const placeLen = 24

// AppendValue appends the encoding of v without its Contains list when bare is set
// (values inside a TASK carry none).
//
// hot: once per result.
func AppendValue(dst []byte, v *Value, bare bool) []byte {
	var flags byte
	if v.Serialized {
		flags = 1
	}
	contains := v.Contains
	if bare {
		contains = nil
	}
	dst = append(dst, byte(v.Kind), flags)
	dst = le.AppendUint16(dst, uint16(contains.Len())) //nolint:gosec // decoded lists are bounded by MaxRefs
	switch v.Kind {
	case Placed:
		dst = le.AppendUint32(dst, 0)
		dst = AppendPlace(dst, v.Place)
	case Failed:
		dst = le.AppendUint32(dst, uint32(len(v.Data))) //nolint:gosec // bounded by MaxBody
		dst = le.AppendUint32(dst, uint32(v.Code))      //nolint:gosec // two's complement on purpose
		dst = append(dst, v.Data...)
	default:
		dst = le.AppendUint32(dst, uint32(len(v.Data))) //nolint:gosec // bounded by MaxBody
		dst = append(dst, v.Data...)
	}
	return append(dst, contains...)
}

// AppendPlace appends the 24 bytes of a place.
func AppendPlace(dst []byte, p yr.Place) []byte {
	dst = le.AppendUint32(dst, p.Segment)
	dst = le.AppendUint32(dst, p.Generation)
	dst = le.AppendUint64(dst, p.Offset)
	return le.AppendUint64(dst, p.Length)
}

func decodePlace(b []byte) yr.Place {
	return yr.Place{Segment: le.Uint32(b), Generation: le.Uint32(b[4:]), Offset: le.Uint64(b[8:]), Length: le.Uint64(b[16:])}
}

// decodeValue reads one value and returns what follows it.
//
// hot: once per result.
func decodeValue(b []byte, v *Value) ([]byte, error) {
	if len(b) < valueHead {
		return nil, malformed("a value is cut short: %d bytes, want at least %d", len(b), valueHead)
	}
	v.Kind, v.Serialized = Kind(b[0]), b[1]&1 != 0
	contains, n := int(le.Uint16(b[2:])), int(le.Uint32(b[4:]))
	b = b[valueHead:]
	switch v.Kind {
	case Inline:
	case Away:
		if n != sourceLen {
			return nil, malformed("a source has %d bytes, not %d", sourceLen, n)
		}
	case Placed:
		if len(b) < placeLen {
			return nil, malformed("a place is cut short: %d bytes, want %d", len(b), placeLen)
		}
		v.Place, b, n = decodePlace(b), b[placeLen:], 0
	case Failed:
		if len(b) < 4 {
			return nil, malformed("an error value is cut short")
		}
		v.Code, b = yr.Code(le.Uint32(b)), b[4:] //nolint:gosec // two's complement on purpose
	default:
		return nil, malformed("unknown kind %d of a value", v.Kind)
	}
	if len(b) < n+contains*yr.IDLen {
		return nil, malformed("a value of %d bytes and %d references is cut short at %d bytes", n, contains, len(b))
	}
	v.Data, b = b[:n:n], b[n:]
	v.Contains = IDs(b[: contains*yr.IDLen : contains*yr.IDLen])
	return b[contains*yr.IDLen:], nil
}
