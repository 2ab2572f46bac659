package wire

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
)

func TestNextSplitsFrames(t *testing.T) {
	b := AppendEmpty(nil, Ping, 7)
	b = AppendBytes(b, Get, 1, 9, []byte("abc"))
	h, body, rest, err := Next(b)
	require.NoError(t, err)
	require.Equal(t, Header{Type: Ping, Corr: 7}, h)
	require.Empty(t, body)
	h, body, rest, err = Next(rest)
	require.NoError(t, err)
	require.Equal(t, Header{Length: 3, Type: Get, Flags: 1, Corr: 9}, h)
	require.Equal(t, "abc", string(body))
	require.Empty(t, rest)
}

func TestNextWaitsForWholeFrames(t *testing.T) {
	b := AppendBytes(nil, Get, 0, 0, []byte("abc"))
	for n := range b {
		_, _, _, err := Next(b[:n])
		require.ErrorIs(t, err, ErrShort, "%d of %d bytes", n, len(b))
	}
}

func TestNextRefusesOversizedFrames(t *testing.T) {
	b := make([]byte, HeaderLen)
	le.PutUint32(b, MaxBody+1)
	_, _, _, err := Next(b)
	require.Equal(t, yr.FrameMalformed, yr.CodeOf(err))
	require.ErrorContains(t, err, "limit")
}

func TestHelloSettlesTheVersion(t *testing.T) {
	for _, c := range []struct {
		name           string
		oldest, newest uint16
		version        uint16
		code           yr.Code
	}{
		{"the same", Version, Version, Version, yr.OK},
		{"one up", Version, Version + 1, Version, yr.OK},
		{"a range around ours", 0, Version + 5, Version, yr.OK},
		{"too new", Version + 1, Version + 2, 0, yr.VersionMismatch},
		{"too old", 0, OldestVersion - 1, 0, yr.VersionMismatch},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := AppendHello(nil, c.oldest, c.newest, &wirepb.Hello{Prefix: "abcdefghijkl"})
			_, body, _, err := Next(b)
			require.NoError(t, err)
			version, h, err := DecodeHello(body)
			require.Equal(t, c.code, yr.CodeOf(err), "%v", err)
			if err == nil {
				require.Equal(t, c.version, version)
				require.Equal(t, "abcdefghijkl", h.GetPrefix())
			}
		})
	}
	_, _, err := DecodeHello([]byte("GET / HTTP/1.1\r\n"))
	require.Equal(t, yr.FrameMalformed, yr.CodeOf(err))
}

func TestTailKeepsWhatItKnows(t *testing.T) {
	in := Tail{Tenant: "t", Deadline: 1 << 50, Trace: "00-a-b-01", Attempt: 2, IdempotencyKey: []byte("k"), Job: "job-1", Priority: 9}
	b := AppendTail(nil, &in)
	b = append(b, 100, 2, 0, 1, 2) // unknown and harmless
	var out Tail
	require.NoError(t, DecodeTail(b, &out))
	require.Equal(t, in, out)
	b = append(b, 200, 0, 0) // unknown and binding
	require.Equal(t, yr.FrameMalformed, yr.CodeOf(DecodeTail(b, &out)))
}

func drawIDs(t *rapid.T, label string) IDs {
	var p IDs
	for range rapid.IntRange(0, 3).Draw(t, label) {
		id := yr.Prefix([]byte("0123456789ab")).ID(rapid.Uint64Range(0, 1<<44-1).Draw(t, "seq"))
		p = append(p, id[:]...)
	}
	return p
}

func drawValue(t *rapid.T) Value {
	v := Value{Kind: Kind(rapid.ByteRange(0, 2).Draw(t, "kind")), Contains: drawIDs(t, "contains")}
	switch v.Kind {
	case Placed:
		v.Place = yr.Place{Segment: rapid.Uint32().Draw(t, "segment"), Generation: 1, Offset: rapid.Uint64().Draw(t, "offset"), Length: 9}
	case Failed:
		v.Code, v.Serialized = yr.Code(rapid.Int32().Draw(t, "code")), rapid.Bool().Draw(t, "serialized")
		v.Data = rapid.SliceOf(rapid.Byte()).Draw(t, "payload")
	case Inline:
		v.Data = rapid.SliceOf(rapid.Byte()).Draw(t, "data")
	}
	return v
}

func requireSameValue(t require.TestingT, want, got Value) {
	require.Equal(t, want.Kind, got.Kind)
	require.Equal(t, want.Code, got.Code)
	require.Equal(t, want.Place, got.Place)
	require.Equal(t, want.Serialized, got.Serialized)
	require.True(t, bytes.Equal(want.Data, got.Data))
	require.True(t, bytes.Equal(want.Contains, got.Contains))
}

func TestCallsAndTasksAndResultsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		deps := drawIDs(t, "deps")
		in := Call{
			ID: yr.NewPrefix().ID(1), Target: rapid.Uint32().Draw(t, "target"), Returns: 3, Deps: deps,
			NVals: rapid.IntRange(0, deps.Len()).Draw(t, "nvals"), Method: []byte("add"), Args: rapid.SliceOf(rapid.Byte()).Draw(t, "args"),
		}
		_, body, _, err := Next(AppendCall(nil, 0, &in))
		require.NoError(t, err)
		var out Call
		require.NoError(t, DecodeCall(body, &out))
		require.Equal(t, in.ID, out.ID)
		require.Equal(t, in.NVals, out.NVals)
		require.True(t, bytes.Equal(in.Args, out.Args) && bytes.Equal(in.Deps, out.Deps) && bytes.Equal(in.Method, out.Method))

		value := drawValue(t)
		task := Task{ID: in.ID, Target: 4, NVals: 1, Returns: 2, Method: []byte("m"), Args: in.Args}
		b, at := AppendTask(nil, Construct, 77, &task)
		b = EndTask(AppendValue(b, &value, true), at, &task, &Tail{Attempt: 1})
		h, body, _, err := Next(b)
		require.NoError(t, err)
		require.Equal(t, uint64(77), h.Corr)
		got, values, tail, err := DecodeTask(body)
		require.NoError(t, err)
		require.Equal(t, task.ID, got.ID)
		require.Len(t, values, 1)
		bare := value
		bare.Contains = nil
		requireSameValue(t, bare, values[0])
		var decoded Tail
		require.NoError(t, DecodeTail(tail, &decoded))
		require.Equal(t, uint32(1), decoded.Attempt)

		want := []Value{value, drawValue(t)}
		_, body, _, err = Next(AppendResult(nil, 5, in.ID, want))
		require.NoError(t, err)
		id, values, _, err := DecodeResult(body, nil)
		require.NoError(t, err)
		require.Equal(t, in.ID, id)
		for i := range want {
			requireSameValue(t, want[i], values[i])
		}
	})
}

// vector is one row of testdata/wire: a frame, byte for byte.
type vector struct {
	Name string `json:"name"`
	Type Type   `json:"type"`
	Hex  string `json:"hex"`
}

// TestVectors decodes every frame that an SDK wrote down and encodes it again to
// the same bytes.
func TestVectors(t *testing.T) {
	files, err := filepath.Glob("../../testdata/wire/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files, "the vectors are gone")
	seen := 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		var list []vector
		require.NoError(t, json.Unmarshal(data, &list), file)
		for _, v := range list {
			t.Run(v.Name, func(t *testing.T) {
				want, err := hex.DecodeString(v.Hex)
				require.NoError(t, err)
				got, known := recode(t, want)
				if known {
					seen++
					require.Equal(t, v.Hex, hex.EncodeToString(got))
				}
			})
		}
	}
	require.Greater(t, seen, 10, "too few vectors are of types with a fixed layout")
}

// recode decodes one frame and encodes it again.
func recode(t *testing.T, frame []byte) ([]byte, bool) {
	h, body, rest, err := Next(frame)
	require.NoError(t, err)
	require.Empty(t, rest)
	switch h.Type {
	case CallType:
		var c Call
		require.NoError(t, DecodeCall(body, &c))
		return AppendCall(nil, h.Flags, &c), true
	case TaskType:
		task, values, tail, err := DecodeTask(body)
		require.NoError(t, err)
		var fields Tail
		require.NoError(t, DecodeTail(tail, &fields))
		b, at := AppendTask(nil, h.Flags, h.Corr, &task)
		for i := range values {
			b = AppendValue(b, &values[i], true)
		}
		return EndTask(b, at, &task, &fields), true
	case ResultType:
		id, values, _, err := DecodeResult(body, nil)
		require.NoError(t, err)
		return AppendResult(nil, h.Corr, id, values), true
	case PutType, ObjectType:
		var v Value
		id, _, err := DecodeObject(body, &v)
		require.NoError(t, err)
		return AppendObject(nil, h.Type, h.Flags, id, &v), true
	case Retain, Release, Get, Evict, Evicted:
		p, err := DecodeIDs(body)
		require.NoError(t, err)
		list := make([]yr.ID, p.Len())
		for i := range list {
			list[i] = p.At(i)
		}
		return AppendIDs(nil, h.Type, h.Corr, list), true
	case Freed:
		places, err := DecodeFreed(body)
		require.NoError(t, err)
		return AppendFreed(nil, places), true
	case Blocked:
		after, err := DecodeBlocked(body)
		require.NoError(t, err)
		return AppendU64(nil, h.Type, after, -1), true
	case Yield:
		after, reason, err := DecodeYield(body)
		require.NoError(t, err)
		return AppendU64(nil, h.Type, after, int(reason)), true
	case Return:
		segment, generation, err := DecodeReturn(body)
		require.NoError(t, err)
		return AppendReturn(nil, segment, generation), true
	}
	return nil, false
}

// FuzzDecoders feeds every decoder bytes from outside: an error or a value, never
// a panic, and never a slice beyond the input.
func FuzzDecoders(f *testing.F) {
	f.Add(AppendEmpty(nil, Ping, 1))
	f.Add(AppendCall(nil, 0, &Call{ID: yr.NewID(), Args: []byte("x")}))
	f.Add(AppendResult(nil, 1, yr.NewID(), []Value{{Data: []byte("x")}, {Kind: Placed}, {Kind: Failed, Code: 2002}}))
	f.Add(AppendHello(nil, 1, 1, &wirepb.Hello{Prefix: "abcdefghijkl"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, body, _, err := Next(b)
		if err != nil {
			require.True(t, errors.Is(err, ErrShort) || yr.CodeOf(err) == yr.FrameMalformed)
			return
		}
		require.Len(t, body, int(h.Length))
		var c Call
		if DecodeCall(body, &c) == nil {
			require.LessOrEqual(t, c.NVals, c.Deps.Len())
			_ = DecodeTail(c.Tail, &Tail{})
		}
		_, _, _, _ = DecodeTask(body)
		_, _, _, _ = DecodeResult(body, nil)
		_, _, _ = DecodeObject(body, &Value{})
		_, _ = DecodeIDs(body)
		_, _ = DecodeFreed(body)
		_, _ = DecodeBlocked(body)
		_, _, _ = DecodeYield(body)
		_, _, _ = DecodeReturn(body)
		_, _, _ = DecodeHello(body)
	})
}

func BenchmarkDecodeCall(b *testing.B) {
	_, body, _, _ := Next(AppendCall(nil, 0, &Call{ID: yr.NewID(), Target: 1, Returns: 1, Args: make([]byte, 32)}))
	var c Call
	b.ReportAllocs()
	for b.Loop() {
		if err := DecodeCall(body, &c); err != nil {
			b.Fatal(err)
		}
	}
}
