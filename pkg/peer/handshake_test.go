package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/pkg/yr"
)

// dialRPC makes a stream and closes it.
func dialRPC(n *node, address string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := n.Dial(ctx, address, "rpc")
	if err == nil {
		_ = c.Close()
	}
	return err
}

func TestRefusalsAreTyped(t *testing.T) {
	secure := certificates(t)
	for _, row := range []struct {
		name  string
		dials []option
		hosts []option
		self  yr.Node
		speak speaks // of the dialing side
		err   error
		code  yr.Code
		text  string
	}{
		{name: "another token", dials: []option{token("other")}, err: ErrToken, code: yr.Unauthorized, text: `does not accept the token of node "guest"`},
		{name: "a later version", speak: speaks{Version + 1, Version + 2}, err: ErrVersion, code: yr.VersionMismatch, text: "speaks versions 2 to 3"},
		{name: "the same node id", self: "host", err: ErrSameNode, code: yr.AlreadyRunning, text: "values.node_id"},
		{name: "TLS to a node without", dials: []option{withTLS(secure)}, err: ErrTLS, code: yr.InitConnection},
		{name: "no TLS to a node with", hosts: []option{withTLS(secure)}, err: ErrTLS, code: yr.InitConnection, text: "speaks TLS only"},
		{name: "another authority", dials: []option{withTLS(certificates(t))}, hosts: []option{withTLS(secure)}, code: yr.Unauthorized},
		{name: "no certificate", dials: []option{withTLS(nameless{secure})}, hosts: []option{withTLS(secure)}, err: ErrTLS, code: yr.InitConnection, text: "showed no certificate"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if row.self == "" {
				row.self = "guest"
			}
			host := start(t, "host", row.hosts...)
			host.Listen("rpc")
			guest := prepare(t, row.self, row.dials...)
			if row.speak.newest != 0 {
				guest.speaks = row.speak
			}
			guest.open()
			err := dialRPC(guest, host.address)
			require.Error(t, err)
			if row.err != nil {
				require.ErrorIs(t, err, row.err)
			}
			require.Equal(t, row.code, yr.CodeOf(err), "%v", err)
			require.ErrorContains(t, err, row.text)
		})
	}
}

// nameless is TLS whose clients show no certificate.
type nameless struct{ TLS }

func (n nameless) Client() (*tls.Config, error) {
	cfg, err := n.TLS.Client()
	cfg.Certificates = nil
	return cfg, err
}

func TestNodesOneVersionApartWorkTogether(t *testing.T) {
	old, young := prepare(t, "old"), prepare(t, "young")
	old.speaks, young.speaks = speaks{6, 7}, speaks{7, 8}
	old.open()
	young.open()
	oy, yo := join(old, young)
	say(oy, "from the old")
	say(yo, "from the young")
	young.expect("old", "from the old")
	old.expect("young", "from the young")
}

func TestAProtocolThatNobodyServes(t *testing.T) {
	a, b := start(t, "a"), start(t, "b")
	err := dialRPC(a, b.address)
	require.ErrorIs(t, err, ErrProtocol)
	require.ErrorContains(t, err, `node "b" does not serve "rpc"`)
}

func TestANodeMayDialItself(t *testing.T) {
	a := start(t, "a")
	a.Listen("rpc")
	require.NoError(t, dialRPC(a, a.address))
}

func TestAnotherNodeAtAnAddress(t *testing.T) {
	a, b := start(t, "a"), start(t, "b")
	l := a.Link("c", b.address)
	eventually(t, "the link says who answers", func() bool { return l.View().Reason != "" })
	require.Contains(t, l.View().Reason, `node "b" answers where "c" was expected`)
	_, err := a.Fetch(t.Context(), "c", b.address, nil, nil)
	require.ErrorIs(t, err, ErrOtherNode)
}

func TestAnImpostorIsNotBelieved(t *testing.T) {
	// It answers every challenge, but does not know the token.
	impostor := prepare(t, "b", token("guessed"))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.ReadFull(c, make([]byte, len(Preamble)))
		_, raw, _ := read(c, kindHello)
		tr := &transcript{key: impostor.secret, said: append([]byte(Preamble), raw...)}
		challenge := (&message{kind: kindChallenge, newest: Version, nonce: [nonceLen]byte{1}}).encode()
		tr.add(challenge)
		_, _ = c.Write(challenge)
		_, raw, _ = read(c, kindProof)
		tr.add(raw)
		_ = impostor.answer(c, tr, impostor.own(0), 0, nil)
	}()
	a := start(t, "a")
	err = dialRPC(a, ln.Addr().String())
	require.ErrorIs(t, err, ErrToken)
	require.ErrorContains(t, err, "does not know this cluster's token")
}

func TestARecordedHandshakeProvesNothing(t *testing.T) {
	b := start(t, "b")
	x := newProxy(t, b.address)
	x.recs = true
	a := start(t, "a")
	b.Listen("rpc")
	require.NoError(t, dialRPC(a, x.address()))
	x.mu.Lock()
	record := bytes.Clone(x.record)
	x.mu.Unlock()

	c, err := net.Dial("tcp", b.address)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	_, err = c.Write(record)
	require.NoError(t, err)
	_, _, err = read(c, kindChallenge)
	require.NoError(t, err)
	m, _, err := read(c, kindWelcome)
	require.NoError(t, err)
	require.Equal(t, refusedToken, m.reason, "the proof was for another challenge")
	require.Zero(t, m.mac, "a refusal of a stranger proves nothing either")
}

func TestOnesOwnProofReflectedProvesNothing(t *testing.T) {
	tr := &transcript{key: secret("k"), said: []byte("the same words")}
	require.False(t, tr.check(sideAcceptor, tr.proof(sideDialer)))
	require.True(t, tr.check(sideAcceptor, tr.proof(sideAcceptor)))
}

// A stranger that opens like this is shut out, and nothing else happens.
func TestHostileOpenings(t *testing.T) {
	b := start(t, "b")
	hello := (&message{kind: kindHello, oldest: 1, newest: 1, node: "a", protocol: "link", incarnation: 1}).encode()
	long := bytes.Repeat([]byte("x"), 1<<20)
	for _, row := range []struct {
		name string
		say  []byte
	}{
		{"nothing", nil},
		{"a preamble and nothing", []byte(Preamble)},
		{"another preamble", []byte("YRP9")},
		{"garbage after the preamble", append([]byte(Preamble), long...)},
		{"a huge length", append([]byte(Preamble), 0xff, 0xff, byte(kindHello), 1, 2, 3)},
		{"half a hello", append([]byte(Preamble), hello[:len(hello)/2]...)},
		{"a welcome first", append([]byte(Preamble), (&message{kind: kindWelcome}).encode()...)},
		{"a name with a line feed", append([]byte(Preamble), (&message{kind: kindHello, oldest: 1, newest: 1, node: "a\nb"}).encode()...)},
		{"a field that is too long for its message", append([]byte(Preamble), 4, 0, byte(kindHello), byte(tagNode), 0xff, 0, 1)},
		{"no name", append([]byte(Preamble), (&message{kind: kindHello, oldest: 1, newest: 1}).encode()...)},
	} {
		t.Run(row.name, func(t *testing.T) {
			c, err := net.Dial("tcp", b.address)
			require.NoError(t, err)
			defer c.Close()
			_, _ = c.Write(row.say)
			require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
			_, err = io.Copy(io.Discard, c)
			var late net.Error
			require.False(t, errors.As(err, &late) && late.Timeout(), "it must be hung up on within the time for handshakes")
		})
	}
	a := start(t, "a")
	join(a, b)
}

func TestTenThousandStrangersDoNotKeepAPeerOut(t *testing.T) {
	b := prepare(t, "b")
	b.pace = defaultPace // each may dawdle for 5 s
	b.open()
	a := start(t, "a")
	const all, atATime = 10_000, 1_000
	held := make([]net.Conn, 0, atATime)
	hangUp := func() {
		for _, c := range held {
			_ = c.(*net.TCPConn).SetLinger(0) // leave no port in TIME_WAIT
			_ = c.Close()
		}
		held = held[:0]
	}
	defer hangUp()
	for i := range all {
		if len(held) == atATime {
			hangUp()
		}
		c, err := net.Dial("tcp", b.address)
		require.NoError(t, err)
		if i%2 == 0 {
			_, _ = c.Write([]byte(Preamble))
		}
		held = append(held, c)
		if i == all/2 {
			join(a, b) // in the middle of it
		}
	}
	b.strangers.mu.Lock()
	waiting := b.strangers.order.Len()
	b.strangers.mu.Unlock()
	require.LessOrEqual(t, waiting, MaxStrangers)
	b.Listen("rpc")
	require.NoError(t, dialRPC(a, b.address))
}

func TestOneNodeMayNotTakeAllConnections(t *testing.T) {
	a, b := start(t, "a"), start(t, "b")
	l := b.Listen("rpc")
	for range MaxConnections {
		c, err := a.Dial(t.Context(), b.address, "rpc")
		require.NoError(t, err)
		defer c.Close()
		_, err = l.Accept()
		require.NoError(t, err)
	}
	err := dialRPC(a, b.address)
	require.ErrorIs(t, err, ErrBusy)
	require.Equal(t, yr.RateLimited, yr.CodeOf(err))
}

func TestOptionsAreChecked(t *testing.T) {
	for _, opt := range []Options{
		{Node: "a"},
		{Token: "t"},
		{Token: "t", Node: "a\n"},
		{Token: "t", Node: "a", Address: "x\x00"},
	} {
		p := New(opt)
		require.Equal(t, yr.ParamInvalid, yr.CodeOf(p.Open(t.Context())))
		require.NoError(t, p.Close(t.Context()))
	}
}

func FuzzMessage(f *testing.F) {
	full := message{kind: kindHello, oldest: 1, newest: 2, software: "0.1", node: "n", address: "h:1", incarnation: 3,
		generation: 4, boot: [bootLen]byte{1}, protocol: "link", expect: "m", nonce: [nonceLen]byte{2}, received: 9}
	f.Add(full.encode())
	f.Add(sealed((&message{kind: kindWelcome, reason: refusedBusy, text: "too many"}).encode(), [macLen]byte{3}))
	f.Add([]byte{3, 0, 1, 99, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		m, raw, err := read(r, kindHello)
		if err != nil {
			return
		}
		require.Equal(t, b[:len(raw)], raw, "what was read is what stood there")
		require.Len(t, b, len(raw)+r.Len(), "not a byte more is taken")
		mac := m.mac
		m.mac = [macLen]byte{}
		again, _, err := read(bytes.NewReader(sealed(m.encode(), mac)), m.kind)
		require.NoError(t, err)
		m.mac = mac
		require.Equal(t, m, again)
	})
}
