// Package wire is the byte layout of the SDK connection: frames in, frames out.
//
// docs/wire.md is the layout written down; testdata/wire holds vectors that this
// package and every SDK encode and decode to the byte. The package does no I/O
// and keeps no state. Decoded structs alias the buffer they were decoded from:
// whoever keeps a part longer than the buffer copies it.
package wire

import (
	"encoding/binary"
	"errors"

	"yr/pkg/yr"
)

// Version is the protocol that this build speaks best. A peer one version up or
// down is welcome.
const Version = 1

// OldestVersion is the oldest protocol that this build still speaks.
const OldestVersion = 1

// Magic opens every HELLO: "YRW1" read as a little-endian u32.
const Magic = 0x31575259

// The stated limits of the layout. docs/wire.md lists them for SDK writers.
const (
	HeaderLen       = 16
	MaxBody         = 16 << 20
	MaxInlineResult = 64 << 10
	MaxInlinePut    = 4 << 10
	MaxMethod       = 1024
	MaxReturns      = 100
	MaxRefs         = 65535
)

// Type is the kind of a frame.
type Type uint8

// The frame types. Ranges 80-95 (streams) and 96-111 (keys) are reserved; 112-127
// are spoken between nodes only.
const (
	Hello      Type = 1
	Welcome    Type = 2
	Reject     Type = 3
	Goodbye    Type = 4
	Ping       Type = 5
	Pong       Type = 6
	CallType   Type = 16
	TaskType   Type = 17
	ResultType Type = 18
	PutType    Type = 19
	Retain     Type = 20
	Release    Type = 21
	Get        Type = 22
	ObjectType Type = 23
	Freed      Type = 24
	Blocked    Type = 32
	Unblocked  Type = 33
	Recall     Type = 34
	Yield      Type = 35
	Yielded    Type = 36
	Credit     Type = 37
	Define     Type = 48
	Create     Type = 49
	Bind       Type = 50
	Lookup     Type = 51
	Found      Type = 52
	Kill       Type = 53
	Done       Type = 54
	Cancel     Type = 55
	Instance   Type = 56
	Shutdown   Type = 57
	Lease      Type = 64
	Leased     Type = 65
	Return     Type = 66
	Reclaim    Type = 67
	Map        Type = 68
	Mapped     Type = 69
	Announced  Type = 70
	Evict      Type = 71
	Evicted    Type = 72

	// Between nodes.
	Greet    Type = 112
	Hire     Type = 113
	Hired    Type = 114
	Dismiss  Type = 115
	Gone     Type = 116
	Relay    Type = 117
	Borrow   Type = 118
	Lent     Type = 119
	Forget   Type = 120
	JobEnd   Type = 121
	JobEnded Type = 122
	Kept     Type = 123
	Wanted   Type = 124
	Resumed  Type = 125
	Reunited Type = 126
	JobKept  Type = 127
)

// Flags of CALL, TASK and PUT.
const (
	ArgsBlob  = 1 << 0 // CALL, TASK: the arguments are the value of the last value dependency
	Resent    = 1 << 1 // CALL: the session resumes and may have sent it before
	Construct = 1 << 1 // TASK: build the instance
	Announce  = 1 << 0 // PUT: a resuming session says what it holds
)

// Reasons of YIELD.
const (
	YieldRecalled = 1
	YieldRetiring = 2
)

// NoYield is the `after` of a BLOCKED frame by a worker that cannot give tasks back.
const NoYield = ^uint64(0)

// ErrShort says that the buffer does not hold a whole frame yet.
var ErrShort = errors.New("wire: incomplete frame")

// Header is what stands before every body.
type Header struct {
	Length uint32
	Type   Type
	Flags  uint8
	Corr   uint64
}

var le = binary.LittleEndian

func malformed(format string, args ...any) error {
	return yr.E("wire", yr.FrameMalformed, format, args...)
}

// Next splits the first frame off buf. It returns ErrShort until the frame is
// whole, and a typed error as soon as the header shows that it never will be.
//
// hot: once per frame.
func Next(buf []byte) (h Header, body, rest []byte, err error) {
	if len(buf) < HeaderLen {
		return h, nil, buf, ErrShort
	}
	h = Header{Length: le.Uint32(buf), Type: Type(buf[4]), Flags: buf[5], Corr: le.Uint64(buf[8:])}
	if h.Length > MaxBody && (h.Type != Relay || h.Length > MaxBody+relayHead+HeaderLen) {
		return h, nil, buf, malformed("a frame of %d bytes is over the limit of %d; send large values through shared memory", h.Length, MaxBody)
	}
	end := HeaderLen + int(h.Length)
	if len(buf) < end {
		return h, nil, buf, ErrShort
	}
	return h, buf[HeaderLen:end:end], buf[end:], nil
}

// begin appends a header whose length finish fills in.
func begin(dst []byte, t Type, flags uint8, corr uint64) ([]byte, int) {
	at := len(dst)
	dst = append(dst, 0, 0, 0, 0, byte(t), flags, 0, 0)
	return le.AppendUint64(dst, corr), at
}

func finish(dst []byte, at int) []byte {
	le.PutUint32(dst[at:], uint32(len(dst)-at-HeaderLen)) //nolint:gosec // bounded by MaxBody at the sender's limits
	return dst
}

// AppendEmpty appends a frame without a body.
func AppendEmpty(dst []byte, t Type, corr uint64) []byte {
	dst, at := begin(dst, t, 0, corr)
	return finish(dst, at)
}

// AppendBytes appends a frame with a ready-made body.
func AppendBytes(dst []byte, t Type, flags uint8, corr uint64, body []byte) []byte {
	dst, at := begin(dst, t, flags, corr)
	return finish(append(dst, body...), at)
}
