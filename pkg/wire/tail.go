package wire

import "yr/pkg/yr"

// The tags of the tail.
const (
	tagTenant         = 1
	tagDeadline       = 2
	tagTrace          = 3
	tagAttempt        = 4
	tagIdempotencyKey = 5
	tagJob            = 6
	tagPriority       = 7
	tagMustKnow       = 128 // an unknown tag from here on is refused
)

// Tail holds the optional fields that may follow any body. The zero Tail is the
// empty one.
type Tail struct {
	Tenant         string
	Deadline       uint64 // microseconds since the Unix epoch, 0: none
	Trace          string // W3C traceparent
	Attempt        uint32
	IdempotencyKey []byte
	Job            string
	Priority       uint32
}

// AppendTail appends the fields of t that are set, in tag order.
//
// hot: once per delivered task.
func AppendTail(dst []byte, t *Tail) []byte {
	if t.Tenant != "" {
		dst = appendTag(dst, tagTenant, len(t.Tenant))
		dst = append(dst, t.Tenant...)
	}
	if t.Deadline != 0 {
		dst = appendTag(dst, tagDeadline, 8)
		dst = le.AppendUint64(dst, t.Deadline)
	}
	if t.Trace != "" {
		dst = appendTag(dst, tagTrace, len(t.Trace))
		dst = append(dst, t.Trace...)
	}
	if t.Attempt != 0 {
		dst = appendTag(dst, tagAttempt, 4)
		dst = le.AppendUint32(dst, t.Attempt)
	}
	if len(t.IdempotencyKey) != 0 {
		dst = appendTag(dst, tagIdempotencyKey, len(t.IdempotencyKey))
		dst = append(dst, t.IdempotencyKey...)
	}
	if t.Job != "" {
		dst = appendTag(dst, tagJob, len(t.Job))
		dst = append(dst, t.Job...)
	}
	if t.Priority != 0 {
		dst = appendTag(dst, tagPriority, 4)
		dst = le.AppendUint32(dst, t.Priority)
	}
	return dst
}

func appendTag(dst []byte, tag byte, size int) []byte {
	return le.AppendUint16(append(dst, tag), uint16(size)) //nolint:gosec // fields are bounded by their makers
}

// DecodeTail reads what follows a body.
//
// hot: once per call.
func DecodeTail(b []byte, t *Tail) error {
	for len(b) > 0 {
		if len(b) < 3 {
			return malformed("the tail is cut short")
		}
		tag, size := b[0], int(le.Uint16(b[1:]))
		if len(b) < 3+size {
			return malformed("field %d of the tail is cut short: %d bytes of %d", tag, len(b)-3, size)
		}
		v := b[3 : 3+size]
		b = b[3+size:]
		switch tag {
		case tagDeadline:
			if size != 8 {
				return malformed("a deadline has 8 bytes, not %d", size)
			}
			t.Deadline = le.Uint64(v)
		case tagAttempt, tagPriority:
			if size != 4 {
				return malformed("field %d of the tail has 4 bytes, not %d", tag, size)
			}
			if tag == tagAttempt {
				t.Attempt = le.Uint32(v)
			} else {
				t.Priority = le.Uint32(v)
			}
		case tagTenant:
			t.Tenant = string(v)
		case tagTrace:
			t.Trace = string(v)
		case tagIdempotencyKey:
			t.IdempotencyKey = v
		case tagJob:
			t.Job = string(v)
		default:
			if tag >= tagMustKnow {
				return yr.E("wire", yr.FrameMalformed, "field %d of the tail is unknown and may not be ignored; the peer is newer", tag)
			}
		}
	}
	return nil
}
