package telemetry

import (
	"crypto/rand"
	"encoding/hex"

	"yr/pkg/yr"
)

// Trace is a W3C trace context (https://www.w3.org/TR/trace-context/): which
// trace a call belongs to, and which span caused it.
type Trace struct {
	TraceID [16]byte
	SpanID  [8]byte
	Sampled bool
}

// traceLen is the length of a version 00 traceparent.
const traceLen = 55

// NewTrace begins a trace with random identifiers.
func NewTrace(sampled bool) Trace {
	t := Trace{Sampled: sampled}
	_, _ = rand.Read(t.TraceID[:]) // never fails
	_, _ = rand.Read(t.SpanID[:])
	return t
}

// Child is a new span of the same trace.
func (t Trace) Child() Trace {
	_, _ = rand.Read(t.SpanID[:])
	return t
}

// ParseTrace reads a traceparent header. As the standard asks, it accepts later
// versions by their first four fields, and refuses zero identifiers, upper-case
// digits and version ff.
func ParseTrace(s string) (Trace, error) {
	var t Trace
	var version, flags [1]byte
	shaped := len(s) >= traceLen && s[2] == '-' && s[35] == '-' && s[52] == '-'
	if !shaped ||
		!unhex(version[:], s[0:2]) || !unhex(t.TraceID[:], s[3:35]) || !unhex(t.SpanID[:], s[36:52]) || !unhex(flags[:], s[53:55]) ||
		version[0] == 0xff ||
		(version[0] == 0 && len(s) != traceLen) || (len(s) > traceLen && s[traceLen] != '-') ||
		t.TraceID == [16]byte{} || t.SpanID == [8]byte{} {
		return Trace{}, yr.E("trace context", yr.ParamInvalid, "%.80q is not a W3C traceparent (00-<32 hex digits>-<16 hex digits>-<2 hex digits>)", s)
	}
	t.Sampled = flags[0]&1 == 1
	return t, nil
}

// String is the traceparent header, version 00.
func (t Trace) String() string {
	out := make([]byte, 0, traceLen)
	out = append(out, "00-"...)
	out = hex.AppendEncode(out, t.TraceID[:])
	out = append(out, '-')
	out = hex.AppendEncode(out, t.SpanID[:])
	if t.Sampled {
		return string(append(out, "-01"...))
	}
	return string(append(out, "-00"...))
}

// unhex decodes lower-case hexadecimal digits.
func unhex(dst []byte, s string) bool {
	for i := range len(s) {
		if s[i] >= 'A' && s[i] <= 'F' {
			return false
		}
	}
	_, err := hex.Decode(dst, []byte(s))
	return err == nil
}
