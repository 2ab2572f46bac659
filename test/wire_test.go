package test

import (
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/pkg/wire"
	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
	"yr/test/harness"
)

// hello is what a driver of this release says first; one in Go, for which no template is warmed.
func hello(edit ...func(*wirepb.Hello)) *wirepb.Hello {
	h := &wirepb.Hello{
		Role: uint32(yr.RoleDriver), Prefix: yr.NewPrefix().String(), Language: "go", LanguageVersion: "1.26",
		SdkVersion: "test", Pid: int64(os.Getpid()), Job: string(yr.NewJob()),
	}
	for _, e := range edit {
		e(h)
	}
	return h
}

// exchange opens a connection to the session socket, writes first and, once that
// is answered, then, and returns the frames that come back before the agent closes.
func exchange(t *testing.T, c *harness.Cluster, first, then []byte) (types []wire.Type, last []byte) {
	t.Helper()
	conn, err := net.Dial("unix", c.Session.Socket)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(15*time.Second)))
	_, err = conn.Write(first)
	require.NoError(t, err)
	for {
		var head [wire.HeaderLen]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the agent neither answers nor closes")
			return types, last
		}
		body := make([]byte, binary.LittleEndian.Uint32(head[:]))
		_, err := io.ReadFull(conn, body)
		require.NoError(t, err)
		types, last = append(types, wire.Type(head[4])), body
		if len(types) == 1 && then != nil {
			_, err = conn.Write(then)
			require.NoError(t, err)
		}
	}
}

// mustRefuse expects that the agent ends the connection with a REJECT of that code (0: any).
func mustRefuse(t *testing.T, c *harness.Cluster, first, then []byte, code yr.Code, mention string) {
	t.Helper()
	types, last := exchange(t, c, first, then)
	require.NotEmpty(t, types, "closed without a reason")
	require.Equal(t, wire.Reject, types[len(types)-1], "%v", types)
	got, text := refusal(t, last)
	require.NotEmpty(t, text)
	require.NotZero(t, got)
	if code != 0 {
		require.Equal(t, code, got, text)
	}
	require.Contains(t, text, mention)
}

func refusal(t *testing.T, body []byte) (yr.Code, string) {
	t.Helper()
	var s wirepb.Status
	require.NoError(t, wire.DecodeMessage(wire.Reject, body, &s))
	return yr.Code(s.GetCode()), s.GetMessage()
}

func TestConnectionsThatBreakTheRules(t *testing.T) {
	c := harness.Start(t)
	c.Run(warmUp)
	before := c.Settled()

	frame := func(kind wire.Type, body ...byte) []byte { return wire.AppendBytes(nil, kind, 0, 1, body) }
	long := binary.LittleEndian.AppendUint32(nil, wire.MaxBody+1)
	long = append(long, byte(wire.CallType), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)

	unasked := wire.AppendCall(wire.AppendHello(nil, 1, 1, hello()), 0, &wire.Call{ID: yr.NewID(), Returns: 1})
	opening := func(edit func(*wirepb.Hello)) []byte { return wire.AppendHello(nil, 1, 1, hello(edit)) }
	for name, row := range map[string]struct {
		first   []byte
		code    yr.Code
		mention string
	}{
		"another magic":           {frame(wire.Hello, 1, 2, 3, 4, 1, 0, 1, 0), yr.FrameMalformed, ""},
		"a version of the future": {wire.AppendHello(nil, 7, 9, hello()), yr.VersionMismatch, "7"},
		"not HELLO first":         {frame(wire.CallType), yr.FrameMalformed, "HELLO"},
		"HTTP":                    {[]byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"), yr.FrameMalformed, ""},
		"more than HELLO":         {unasked, yr.FrameMalformed, ""},
		"a wrong token":           {opening(func(h *wirepb.Hello) { h.Token = "wrong" }), yr.Unauthorized, "token"},
		"a worker nobody started": {opening(func(h *wirepb.Hello) {
			id := yr.NewID()
			h.Role, h.WorkerId = uint32(yr.RoleWorker), id[:]
		}), 0, "worker"},
		"a session nobody had":  {opening(func(h *wirepb.Hello) { h.ResumeToken = "stolen" }), 0, "resume"},
		"a prefix that is none": {opening(func(h *wirepb.Hello) { h.Prefix = "x" }), 0, "prefix"},
	} {
		t.Run(name, func(t *testing.T) { mustRefuse(t, c, row.first, nil, row.code, row.mention) })
	}

	elsewhere := yr.Place{Segment: 1 << 30, Generation: 7, Offset: 1 << 40, Length: 64}
	for name, row := range map[string]struct {
		then []byte
		code yr.Code
	}{
		"a frame too large":           {long, yr.FrameMalformed},
		"a call cut short":            {frame(wire.CallType, 1, 2, 3), yr.FrameMalformed},
		"a type that is none":         {frame(250, 1, 2, 3), yr.FrameMalformed},
		"a count beyond the frame":    {frame(wire.Get, 255, 255, 255, 255), yr.FrameMalformed},
		"broken protobuf":             {frame(wire.Define, 255, 255, 255), yr.FrameMalformed},
		"a frame only an agent sends": {frame(wire.TaskType, make([]byte, 64)...), yr.FrameMalformed},
		"a call of what is not there": {wire.AppendCall(nil, 0, &wire.Call{ID: yr.NewID(), Target: 99, Returns: 1}), 0},
		"a place that is not leased": {wire.AppendObject(nil, wire.PutType, 0, yr.NewID(),
			&wire.Value{Kind: wire.Placed, Place: elsewhere}), 0},
	} {
		t.Run(name, func(t *testing.T) {
			mustRefuse(t, c, wire.AppendHello(nil, wire.OldestVersion, wire.Version, hello()), row.then, row.code, "")
		})
	}
	require.Contains(t, c.Run(warmUp+"say('ok')"), "ok", "others are served as before")
	c.For(t).MustReturnTo(before)
}

func TestConnectionsThatEndInTheMiddle(t *testing.T) {
	c := harness.Start(t)
	c.Run(warmUp)
	before := c.Settled()
	whole := wire.AppendHello(nil, wire.OldestVersion, wire.Version, hello())
	whole = wire.AppendCall(whole, 0, &wire.Call{ID: yr.NewID(), Target: 1, Returns: 1, Args: make([]byte, 100)})
	for n := range whole {
		conn, err := net.Dial("unix", c.Session.Socket)
		require.NoError(t, err)
		_, _ = conn.Write(whole[:n])
		require.NoError(t, conn.Close())
	}
	c.MustReturnTo(before)
}

func TestNoise(t *testing.T) {
	c := harness.Start(t)
	c.Run(warmUp)
	before := c.Settled()
	was := c.Child()
	random := rand.New(rand.NewPCG(1, 2)) // a test repeats
	kinds := []wire.Type{
		wire.CallType, wire.ResultType, wire.PutType, wire.Retain, wire.Release, wire.Get, wire.Blocked, wire.Yield, wire.Define,
		wire.Create, wire.Bind, wire.Lookup, wire.Kill, wire.Cancel, wire.Lease, wire.Return, wire.Map, wire.Announced,
	}
	for range 300 {
		raw := wire.AppendHello(nil, wire.OldestVersion, wire.Version, hello())
		for range random.IntN(4) + 1 {
			body := make([]byte, random.IntN(200))
			for i := range body {
				body[i] = byte(random.Uint32() >> 24 & (random.Uint32() >> 28)) //nolint:gosec // mostly small numbers: they get further
			}
			raw = wire.AppendBytes(raw, kinds[random.IntN(len(kinds))], uint8(random.Uint32()), random.Uint64(), body) //nolint:gosec // any byte
		}
		conn, err := net.Dial("unix", c.Session.Socket)
		require.NoError(t, err)
		_, _ = conn.Write(raw)
		require.NoError(t, conn.Close())
	}
	require.Equal(t, was, c.Child(), "the daemon crashed")
	c.MustReturnTo(before)
	require.Contains(t, c.Run(warmUp+"say('ok')"), "ok")
}
