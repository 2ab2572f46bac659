package peer

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"yr/pkg/yr"
)

// The handshake, two round trips:
//
//	node that dials                      node that accepts
//	YRP1, hello: who, for what, nonce
//	                                     challenge: version, nonce
//	proof: MAC over all so far
//	                                     welcome: who, MAC over all so far
//
// The key of the MACs is derived from the cluster's token, which is never sent.
// A MAC covers every byte that both have sent, hence both nonces, both names, the
// protocol and the versions, and says which side made it: a recorded handshake, or
// one's own reflected, proves nothing. Inside TLS it covers the session's exported
// key as well, so that nobody in the middle can pass it on. The node that dials
// proves itself first: scanning a port earns nothing to guess the token with.

// secret is the key of the proofs.
type secret []byte

func deriveSecret(token string) (secret, error) {
	return hkdf.Key(sha256.New, []byte(token), nil, "yr peer handshake 1", sha256.Size)
}

// transcript is what both ends have said.
type transcript struct {
	key  secret
	said []byte
}

func (t *transcript) add(b []byte) { t.said = append(t.said, b...) }

// The two sides of a proof.
const (
	sideDialer   = "yr dialer\x00"
	sideAcceptor = "yr acceptor\x00"
)

// proof is the MAC of one side over everything said.
func (t *transcript) proof(side string) (mac [macLen]byte) {
	h := hmac.New(sha256.New, t.key)
	h.Write([]byte(side))
	sum := sha256.Sum256(t.said)
	h.Write(sum[:])
	h.Sum(mac[:0])
	return mac
}

// check compares a peer's proof with what it must be, in constant time.
func (t *transcript) check(side string, got [macLen]byte) bool {
	want := t.proof(side)
	return hmac.Equal(want[:], got[:])
}

// binding is the part of a transcript that ties it to a TLS session; nil without TLS.
func binding(conn net.Conn) ([]byte, error) {
	tc, ok := conn.(*tls.Conn)
	if !ok {
		return nil, nil
	}
	state := tc.ConnectionState()
	if len(state.PeerCertificates) == 0 {
		return nil, refuse(refusedPlain, "the other end showed no certificate; give every node one (yr cert)")
	}
	return state.ExportKeyingMaterial("EXPORTER-yr-peer", nil, 32)
}

// identity is who one end of a connection is.
type identity struct {
	node        yr.Node
	address     string
	software    string
	incarnation uint64
	generation  uint64 // of a link, within the incarnation
	boot        [bootLen]byte
}

func (id *identity) fill(m *message) {
	m.node, m.address, m.software = id.node, id.address, id.software
	m.incarnation, m.generation, m.boot = id.incarnation, id.generation, id.boot
}

func identityOf(m *message) identity {
	return identity{node: m.node, address: m.address, software: m.software,
		incarnation: m.incarnation, generation: m.generation, boot: m.boot}
}

// speaks is the range of protocol versions of a build.
type speaks struct{ oldest, newest uint64 }

// common is the newest version that both speak, 0 if there is none.
func (s speaks) common(o speaks) uint64 {
	if v := min(s.newest, o.newest); v >= max(s.oldest, o.oldest) {
		return v
	}
	return 0
}

// greet is the dialing side. It returns the authenticated answer: a welcome, or
// the typed error of a refusal.
func (p *Peers) greet(conn net.Conn, own identity, protocol string, expect yr.Node) (*message, error) {
	bound, err := binding(conn)
	if err != nil {
		return nil, err
	}
	hello := message{kind: kindHello, oldest: p.speaks.oldest, newest: p.speaks.newest, protocol: protocol, expect: expect}
	own.fill(&hello)
	_, _ = rand.Read(hello.nonce[:]) // never fails on Linux
	t := transcript{key: p.secret, said: bound}
	opening := append([]byte(Preamble), hello.encode()...)
	t.add(opening)
	if _, err := conn.Write(opening); err != nil {
		return nil, err
	}
	challenge, raw, err := read(conn, kindChallenge)
	if err != nil {
		return nil, notAPeer(err)
	}
	if challenge.kind == kindWelcome {
		return nil, refusal(challenge)
	}
	t.add(raw)
	proof := sealed((&message{kind: kindProof}).encode(), t.proof(sideDialer))
	t.add(proof)
	if _, err := conn.Write(proof); err != nil {
		return nil, err
	}
	answer, raw, err := read(conn, kindWelcome)
	if err != nil {
		return nil, notAPeer(err)
	}
	if answer.reason == refusedToken { // whoever does not have our token cannot prove it either
		return nil, refusal(answer)
	}
	t.add(unsealed(raw))
	if !t.check(sideAcceptor, answer.mac) {
		return nil, refuse(refusedToken, "node %q at %v does not know this cluster's token", answer.node, conn.RemoteAddr())
	}
	if answer.reason != welcomed {
		return nil, refusal(answer)
	}
	return answer, p.checkAnswer(answer, expect)
}

// checkAnswer looks at who answered.
func (p *Peers) checkAnswer(m *message, expect yr.Node) error {
	if expect != "" && m.node != expect {
		return refuse(refusedOther, "node %q answers where %q was expected; its address has a new owner", m.node, expect)
	}
	if m.node == p.opt.Node && m.boot != p.boot {
		return refuse(refusedSame, "another process calls itself %q as this one does; give each node its own id (values.node_id)", m.node)
	}
	return nil
}

// notAPeer explains a connection that ended where an answer was due.
func notAPeer(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		e := yr.E("peer", yr.Communication, "the other end hung up during the handshake; it is no yr node, or one that uses TLS")
		e.Err = err
		return e
	}
	return err
}

// refusal is the error that a refusing message carries.
func refusal(m *message) error {
	text := m.text
	if text == "" {
		text = "refused"
	}
	return refuse(m.reason, "%s", text)
}

// examine is the accepting side up to the proof. It returns what the peer said of
// itself and the transcript that the answer must complete. An error was already
// told to the peer.
func (p *Peers) examine(conn net.Conn) (*message, *transcript, error) {
	bound, err := binding(conn)
	if err != nil {
		p.turnAway(conn, err)
		return nil, nil, err
	}
	t := &transcript{key: p.secret, said: bound}
	var preamble [len(Preamble)]byte
	if _, err := io.ReadFull(conn, preamble[:]); err != nil {
		return nil, nil, err
	}
	if string(preamble[:]) != Preamble {
		return nil, nil, malformed("a connection opens with %q, want %q", preamble[:], Preamble)
	}
	t.add(preamble[:])
	hello, raw, err := read(conn, kindHello)
	if err == nil && hello.kind != kindHello {
		err = malformed("a node that dials sends no welcome")
	}
	if err != nil {
		return nil, nil, err
	}
	t.add(raw)
	if _, secured := conn.(*tls.Conn); p.opt.TLS != nil && !secured {
		err := refuse(refusedPlain, "node %q speaks TLS only; configure certificates on every node or on none", p.opt.Node)
		p.turnAway(conn, err)
		return nil, nil, err
	}
	theirs := speaks{hello.oldest, hello.newest}
	version := p.speaks.common(theirs)
	if version == 0 {
		err := refuse(refusedVersion, "node %q (yr %s) speaks versions %d to %d of the protocol between nodes, node %q (yr %s) speaks %d to %d; upgrade the older one, one version at a time",
			hello.node, hello.software, theirs.oldest, theirs.newest, p.opt.Node, p.opt.Version, p.speaks.oldest, p.speaks.newest)
		p.turnAway(conn, err)
		return nil, nil, err
	}
	challenge := message{kind: kindChallenge, newest: version}
	_, _ = rand.Read(challenge.nonce[:]) // never fails on Linux
	b := challenge.encode()
	t.add(b)
	if _, err := conn.Write(b); err != nil {
		return nil, nil, err
	}
	proof, raw, err := read(conn, kindProof)
	if err != nil {
		return nil, nil, err
	}
	if proof.kind != kindProof || !t.check(sideDialer, proof.mac) {
		err := refuse(refusedToken, "node %q does not accept the token of node %q; give it the token of this cluster", p.opt.Node, hello.node)
		p.turnAway(conn, err)
		return nil, nil, err
	}
	t.add(raw)
	return hello, t, nil
}

// answer completes the handshake, with a welcome or a refusal that proves where it
// comes from.
func (p *Peers) answer(conn net.Conn, t *transcript, own identity, received uint64, refused error) error {
	m := message{kind: kindWelcome, received: received}
	own.fill(&m)
	if refused != nil {
		m.reason, m.text = reasonOf(refused), tellable(refused)
	}
	b := m.encode()
	t.add(b)
	_, err := conn.Write(sealed(b, t.proof(sideAcceptor)))
	if refused == nil {
		err = errors.Join(err, conn.SetDeadline(time.Time{})) // the time for strangers is over
	}
	return err
}

// turnAway refuses a stranger. The refusal proves nothing.
func (p *Peers) turnAway(conn net.Conn, err error) {
	m := message{kind: kindWelcome, node: p.opt.Node, software: p.opt.Version, reason: reasonOf(err), text: tellable(err)}
	_, _ = conn.Write(m.encode()) // a stranger that does not listen is not told
}

// tellable is an error's text as a message can carry it.
func tellable(err error) string {
	text := err.Error()
	var e *yr.Error
	if errors.As(err, &e) {
		text = e.Msg
	}
	return printable(text, maxText)
}

// printable cuts a text and takes out what does not belong into a log.
func printable(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	for len(s) > most {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}
