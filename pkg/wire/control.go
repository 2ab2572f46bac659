package wire

import (
	"strings"

	"google.golang.org/protobuf/proto"

	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
)

// AppendMessage appends a rare frame: a protobuf message as the body.
func AppendMessage(dst []byte, t Type, corr uint64, m proto.Message) []byte {
	dst, at := begin(dst, t, 0, corr)
	dst, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(dst, m)
	if err != nil {
		// Only invalid UTF-8 in a string field can do this, and our strings were
		// decoded by the same library or come from StatusOf: it is a bug here.
		panic("wire: " + err.Error())
	}
	return finish(dst, at)
}

// DecodeMessage reads the body of a rare frame into m.
func DecodeMessage(t Type, b []byte, m proto.Message) error {
	if err := proto.Unmarshal(b, m); err != nil {
		return malformed("frame type %d does not hold a %s: %v", t, m.ProtoReflect().Descriptor().Name(), err)
	}
	return nil
}

// AppendHello appends the opening frame.
func AppendHello(dst []byte, oldest, newest uint16, h *wirepb.Hello) []byte {
	dst, at := begin(dst, Hello, 0, 0)
	dst = le.AppendUint32(dst, Magic)
	dst = le.AppendUint16(dst, oldest)
	dst = le.AppendUint16(dst, newest)
	dst, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(dst, h)
	if err != nil {
		panic("wire: " + err.Error())
	}
	return finish(dst, at)
}

// DecodeHello reads the opening frame and settles the version: the newest that
// both sides speak.
func DecodeHello(b []byte) (version uint16, h *wirepb.Hello, err error) {
	if len(b) < 8 || le.Uint32(b) != Magic {
		return 0, nil, malformed("this is not a yr session: the opening frame does not start with YRW1")
	}
	oldest, newest := le.Uint16(b[4:]), le.Uint16(b[6:])
	version = min(newest, Version)
	if version < max(oldest, OldestVersion) {
		return 0, nil, yr.E("hello", yr.VersionMismatch,
			"the client speaks protocol versions %d to %d and this node %d to %d; install the same yr version on both sides",
			oldest, newest, OldestVersion, Version)
	}
	h = &wirepb.Hello{}
	if err := DecodeMessage(Hello, b[8:], h); err != nil {
		return 0, nil, err
	}
	return version, h, nil
}

// StatusOf turns an error into its wire form. Its text may quote bytes that a peer
// sent, so it is made valid UTF-8.
func StatusOf(err error) *wirepb.Status {
	if err == nil {
		return &wirepb.Status{}
	}
	return &wirepb.Status{Code: int32(yr.CodeOf(err)), Message: strings.ToValidUTF8(err.Error(), "?")}
}
