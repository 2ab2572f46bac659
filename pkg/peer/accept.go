package peer

import (
	"container/list"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// One port serves nodes and HTTP. The first byte of a connection tells: TLS, a
// node's preamble, or else HTTP. Inside TLS the negotiated protocol tells.

// The first bytes that mean something.
const (
	firstTLS  = 0x16 // a TLS handshake record
	firstPeer = 'Y'  // of Preamble
)

// Split accepts on ln. Connections of nodes are served here; the returned
// listener yields all others, as they are: *net.TCPConn, or *tls.Conn after its
// handshake when TLS is configured (plain HTTP is then told so and refused).
// ln yields *net.TCPConn; anything else is passed on unseen. A connection that
// says nothing for as long as a handshake may take is closed, an HTTP client's too.
// Closing the listener closes ln.
func (p *Peers) Split(ln net.Listener) net.Listener {
	s := &split{Listener: ln, others: make(chan net.Conn), done: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		_ = s.Close()
		return s
	}
	p.splits = append(p.splits, s)
	p.wg.Go(func() { p.accept(s) })
	return s
}

// split is the listener for what is no node.
type split struct {
	net.Listener
	others chan net.Conn
	done   chan struct{}
	once   sync.Once
}

// Accept implements net.Listener.
func (s *split) Accept() (net.Conn, error) {
	select {
	case c := <-s.others:
		return c, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (s *split) Close() (err error) {
	s.once.Do(func() {
		close(s.done)
		err = s.Listener.Close()
	})
	return err
}

// give passes a connection on.
func (s *split) give(c net.Conn) {
	select {
	case s.others <- c:
	case <-s.done:
		_ = c.Close()
	}
}

// The pauses after a failed accept: it fails when descriptors run out, and they come back.
const (
	acceptPause     = 5 * time.Millisecond
	acceptPauseMost = time.Second
)

func (p *Peers) accept(s *split) {
	pause := acceptPause
	for {
		conn, err := s.Listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			p.opt.Log.Error().Err(err).Msg("cannot accept a connection")
			select {
			case <-time.After(pause):
			case <-s.done:
				return
			}
			pause = min(2*pause, acceptPauseMost)
			continue
		}
		pause = acceptPause
		tcp, ok := conn.(*net.TCPConn)
		if !ok {
			p.wg.Go(func() { s.give(conn) })
			continue
		}
		st := p.strangers.add(tcp)
		if st == nil { // closed
			_ = tcp.Close()
			continue
		}
		p.wg.Go(func() { p.sort(s, st) })
	}
}

// sort finds out what a connection is, within the time for that.
func (p *Peers) sort(s *split, st *stranger) {
	tcp := st.tcp
	_ = tcp.SetDeadline(time.Now().Add(p.pace.handshake))
	first, err := peek(tcp)
	if err != nil {
		p.strangers.remove(st)
		_ = tcp.Close()
		return
	}
	switch {
	case first == firstTLS && p.opt.TLS != nil:
		p.sortTLS(s, st)
	case first == firstPeer:
		if sock, err := plainSocket(tcp); err == nil {
			p.host(st, sock)
		}
	case first == firstTLS:
		p.hangUp(st, "This port does not speak TLS: use http.")
	case p.opt.TLS != nil:
		p.hangUp(st, "This port speaks TLS: use https.")
	default:
		p.passOn(s, st, tcp)
	}
}

// sortTLS is sort for a connection that begins with a TLS handshake.
func (p *Peers) sortTLS(s *split, st *stranger) {
	var tc *tls.Conn
	cfg, err := p.opt.TLS.Server()
	var sock *socket
	if err == nil {
		cfg = cfg.Clone()
		cfg.NextProtos = []string{alpn, "http/1.1"}
		sock, err = tlsSocket(st.tcp, func(c net.Conn) *tls.Conn { tc = tls.Server(c, cfg); return tc })
	}
	if err == nil {
		err = tc.HandshakeContext(p.ctx)
	}
	if err == nil && tc.ConnectionState().NegotiatedProtocol != alpn {
		p.passOn(s, st, tc)
		return
	}
	if err != nil {
		p.noisy.Debug().Err(err).Stringer("from", st.tcp.RemoteAddr()).Msg("a TLS handshake failed")
		p.strangers.remove(st)
		_ = st.tcp.Close()
		return
	}
	p.host(st, sock)
}

// hangUp says why before it closes a connection. It reads what is still coming:
// closing over unread bytes would take the answer back.
func (p *Peers) hangUp(st *stranger, why string) {
	_, _ = io.WriteString(st.tcp, "HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\n\r\n"+why+"\n")
	_ = st.tcp.CloseWrite()
	_, _ = io.Copy(io.Discard, io.LimitReader(st.tcp, 64<<10))
	p.strangers.remove(st)
	_ = st.tcp.Close()
}

// passOn gives a connection that is no node's to the returned listener. It counts
// as a stranger until somebody takes it.
func (p *Peers) passOn(s *split, st *stranger, conn net.Conn) {
	_ = st.tcp.SetDeadline(time.Time{})
	s.give(conn)
	p.strangers.remove(st)
}

// peek looks at the first byte of a connection without taking it.
func peek(tcp *net.TCPConn) (first byte, err error) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0, err
	}
	var b [1]byte
	var n int
	rerr := raw.Read(func(fd uintptr) bool {
		for {
			n, _, err = unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
			if !errors.Is(err, unix.EINTR) {
				return !errors.Is(err, unix.EAGAIN)
			}
		}
	})
	if err = errors.Join(rerr, err); err == nil && n == 0 {
		err = io.EOF
	}
	return b[0], err
}

// A guest is an authenticated connection that a peer made to us.
type guest struct {
	sock *socket
	who  identity
	own  bool // a link or bulk connection: it ends when its incarnation is fenced
}

// host authenticates a connection of a node and serves it until it ends, or until
// it belongs to the listener of a stream.
func (p *Peers) host(st *stranger, sock *socket) {
	hello, t, err := p.examine(sock.Conn)
	p.strangers.remove(st)
	if err != nil {
		_ = sock.Close()
		if !errors.Is(err, io.EOF) {
			p.noisy.Warn().Err(err).Stringer("from", sock.RemoteAddr()).Msg("refused a connection")
		}
		return
	}
	g := &guest{sock: sock, who: identityOf(hello), own: hello.protocol == protocolLink || hello.protocol == protocolBulk}
	err = p.check(hello)
	if err == nil {
		err = p.admit(g)
	}
	if err != nil {
		_ = p.answer(sock, t, p.own(0), 0, err) // a peer that does not listen is not told
	} else {
		err = p.serve(g, t, hello.protocol)
	}
	if err != nil && !p.quiet(err) {
		p.opt.Log.Warn().Err(err).Str("peer", string(hello.node)).Str("protocol", hello.protocol).Msg("a connection of a peer ended")
	}
}

// serve does what an authenticated connection is for.
func (p *Peers) serve(g *guest, t *transcript, protocol string) (err error) {
	switch protocol {
	case protocolLink:
		err = p.acceptLink(g, t)
	case protocolBulk:
		err = p.acceptBulk(g, t)
	default: // dismissed when the stream is closed
		return p.acceptStream(g, t, protocol)
	}
	p.dismiss(g)
	return err
}

// quiet are ends of connections that are nobody's fault, or were logged.
func (p *Peers) quiet(err error) bool {
	return p.ctx.Err() != nil || errors.Is(err, errLink) || errors.Is(err, io.EOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, ErrNotReady)
}

// check looks at who wants to come in.
func (p *Peers) check(hello *message) error {
	switch {
	case hello.node == "":
		return malformed("a peer without a name")
	case hello.expect != "" && hello.expect != p.opt.Node:
		return refuse(refusedOther, "node %q answers where %q was expected; its address has a new owner", p.opt.Node, hello.expect)
	case hello.node == p.opt.Node && hello.boot != p.boot:
		return refuse(refusedSame, "another process calls itself %q; give each node its own id (values.node_id)", hello.node)
	}
	if hello.protocol == protocolLink || hello.protocol == protocolBulk {
		return p.checkFence(hello.node, hello.incarnation)
	}
	return nil
}

// admit counts a guest.
func (p *Peers) admit(g *guest) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || !p.opened {
		return refuse(refusedEarly, "node %q is starting or closing", p.opt.Node)
	}
	of := p.guests[g.who.node]
	if len(of) >= MaxConnections {
		return refuse(refusedBusy, "node %q has %d connections to node %q, the most it may", g.who.node, len(of), p.opt.Node)
	}
	if of == nil {
		of = make(map[*guest]struct{})
		p.guests[g.who.node] = of
	}
	of[g] = struct{}{}
	return nil
}

// dismiss is the inverse of admit. It closes the connection.
func (p *Peers) dismiss(g *guest) {
	_ = g.sock.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	of := p.guests[g.who.node]
	delete(of, g)
	if len(of) == 0 {
		delete(p.guests, g.who.node)
	}
}

// closeGuests ends the connections of some guests; those who serve them notice.
func (p *Peers) closeGuests(which func(*guest) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, of := range p.guests {
		for g := range of {
			if which(g) {
				_ = g.sock.tcp.Close()
			}
		}
	}
}

// A stranger is an accepted connection that has not said who it is.
type stranger struct{ tcp *net.TCPConn }

// strangers is all of them, the oldest first; no more than MaxStrangers.
type strangers struct {
	mu     sync.Mutex
	closed bool
	order  list.List
	index  map[*stranger]*list.Element
}

// add takes one in, at the cost of the oldest if there are too many.
func (s *strangers) add(tcp *net.TCPConn) *stranger {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	if s.order.Len() >= MaxStrangers {
		oldest := s.order.Front().Value.(*stranger)
		_ = oldest.tcp.Close()
		s.drop(oldest)
	}
	st := &stranger{tcp: tcp}
	s.index[st] = s.order.PushBack(st)
	return st
}

// remove takes one out who is no stranger any more, or gone.
func (s *strangers) remove(st *stranger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(st)
}

func (s *strangers) drop(st *stranger) {
	if e, ok := s.index[st]; ok {
		s.order.Remove(e)
		delete(s.index, st)
	}
}

// close ends all of them.
func (s *strangers) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for st := range s.index {
		_ = st.tcp.Close()
	}
}
