package peer

import (
	"errors"
	"io"
	"sync"
	"testing"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"yr/pkg/wire"
)

// A peer that knows the token and breaks the protocol harms its own link only.
func TestHostilePeersOnALink(t *testing.T) {
	ping := func(n int) []byte { return wire.AppendBytes(nil, 0, 0, 0, make([]byte, n)) }
	for _, row := range []struct {
		name string
		say  []byte
	}{
		{"a frame over the limit", []byte{0, 0, 0, 0xff, byte(testFrame), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
		{"a ping with a body", ping(3)},
		{"the same behind a good frame", append(wire.AppendBytes(nil, testFrame, 0, 0, []byte("good")), ping(3)...)},
	} {
		t.Run(row.name, func(t *testing.T) {
			b := start(t, "b")
			evil := start(t, "a")
			eb, _ := join(evil, b)
			eventually(t, "connected", func() bool { return eb.View().Sending })
			eb.mu.Lock()
			out := eb.out
			eb.mu.Unlock()
			_, err := out.sock.write(row.say)
			require.NoError(t, err)
			b.met("a", 2)
			evil.met("b", 2)
			eventually(t, "it works again", func() bool { return eb.View().Sending })
			say(eb, "fine")
			b.expect("a", "fine")
		})
	}
}

func TestAPeerThatConfirmsWhatWasNeverSent(t *testing.T) {
	b := start(t, "b")
	evil := start(t, "a")
	_, be := join(evil, b)
	eventually(t, "connected", func() bool { return be.View().Sending })
	eb := evil.met("b", 1)
	eventually(t, "it is heard", func() bool { return eb.View().Receiving })
	eb.mu.Lock()
	in := eb.in
	eb.mu.Unlock()
	_, err := in.sock.write([]byte{1, 0, 0, 0, 0, 0, 0, 1})
	require.NoError(t, err)
	b.met("a", 2)
	evil.met("b", 2)
}

// gather is a Handler that keeps the frames of a link.
type gather struct {
	mu    sync.Mutex
	bytes []byte
}

func (g *gather) Met(*Link, bool) {}

func (g *gather) Frames(_ *Link, b []byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.bytes = append(g.bytes, b...)
	return nil
}

// FuzzInbound gives a link's reader any bytes, in two pieces cut anywhere: what the
// Handler gets is whole frames without pings, in order, all of them up to the
// first byte that cannot be.
func FuzzInbound(f *testing.F) {
	frame := func(n int) []byte { return wire.AppendBytes(nil, testFrame, 0, 0, make([]byte, n)) }
	f.Add(frame(3), uint16(5))
	f.Add(append(append(frame(0), pingFrame...), frame(9)...), uint16(17))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, uint16(1))
	f.Fuzz(func(t *testing.T, b []byte, cut uint16) {
		g := &gather{}
		p := New(Options{Node: "b", Handler: g, Log: zerolog.Nop()})
		p.pace = quick
		l := newLink(p, "a")
		ours, theirs := tcpPair(t)
		sock, err := plainSocket(ours)
		require.NoError(t, err)
		in := &inbound{l: l, sock: sock, now: make(chan struct{}, 1), done: make(chan struct{})}
		in.heard.Store(p.now())
		l.in = in
		p.wg.Go(func() {
			k := min(int(cut), len(b))
			_, _ = theirs.Write(b[:k])
			_, _ = theirs.Write(b[k:])
			_ = theirs.CloseWrite()
			_, _ = io.Copy(io.Discard, theirs)
			_ = theirs.Close()
		})
		_ = in.serve()
		l.retire(in)
		p.wg.Wait()

		var want []byte
		var bad bool
		for rest := b; ; {
			h, _, next, err := wire.Next(rest)
			bad = err != nil && !errors.Is(err, wire.ErrShort) || err == nil && h.Type == 0 && h.Length > 0
			if bad || err != nil {
				break
			}
			if h.Type != 0 {
				want = append(want, rest[:len(rest)-len(next)]...)
			}
			rest = next
		}
		if bad { // the frames just before it may be dropped with it
			require.LessOrEqual(t, len(g.bytes), len(want))
			require.Equal(t, string(want[:len(g.bytes)]), string(g.bytes))
			require.Positive(t, l.generation)
			return
		}
		require.Equal(t, string(want), string(g.bytes))
	})
}

func FuzzBacklog(f *testing.F) {
	f.Add([]byte{10, 200, 3, 1, 250, 7, 90})
	f.Fuzz(func(t *testing.T, steps []byte) {
		var b backlog
		var all []byte // the whole stream
		for i, s := range steps {
			switch n := uint64(s>>3) * uint64(s>>3) * 37; s & 7 {
			case 0, 1, 2:
				body := make([]byte, n)
				for k := range body {
					body[k] = byte(i + k)
				}
				b.push(func(dst []byte) []byte { return append(dst, body...) })
				all = append(all, body...)
			case 3, 4, 5: // written, at once or in part
				if b.unsent() > 0 {
					part := b.next()
					require.Equal(t, all[b.sent:][:len(part)], part)
					b.wrote(b.sent+min(uint64(len(part)), n+1), false)
				}
			case 6:
				require.True(t, b.ack(b.acked+min(n, b.sent-b.acked), false))
			case 7:
				require.True(t, b.rewind(b.acked+min(n, b.sent-b.acked), false))
				b.relax()
			}
			require.Equal(t, uint64(len(all)), b.end)
			require.LessOrEqual(t, b.acked, b.sent)
		}
		for b.unsent() > 0 {
			part := b.next()
			require.Equal(t, all[b.sent:][:len(part)], part)
			b.wrote(b.sent+uint64(len(part)), false)
		}
		require.False(t, b.ack(b.end+1, false))
		require.True(t, b.ack(b.end, false))
		require.Zero(t, b.unacked())
		b.relax()
	})
}
