package peer

import (
	"context"
	"errors"
	"net"
	"sync"

	"yr/pkg/yr"
)

// Streams carry other protocols, each by its name, over authenticated connections
// of their own.

// streamQueue is how many accepted streams wait for Accept.
const streamQueue = 64

// Dial makes an authenticated connection for a protocol to whoever is at address.
// The refusals of this package are typed: errors.Is(err, ErrToken) and so on.
// The connection's RemoteAddr is an Addr.
func (p *Peers) Dial(ctx context.Context, address, protocol string) (net.Conn, error) {
	sock, welcome, err := p.dial(ctx, address, protocol, "", p.own(0))
	if err != nil {
		return nil, err
	}
	c := &streamConn{Conn: sock.Conn, who: addrOf(identityOf(welcome))}
	stop := context.AfterFunc(p.ctx, func() { _ = sock.tcp.Close() })
	c.release = func() { stop() }
	return c, nil
}

// Listen returns the listener for a protocol's connections. There is one for each
// protocol; a second call takes over from the first listener, which is closed.
// The connections' RemoteAddr is an Addr.
func (p *Peers) Listen(protocol string) net.Listener {
	l := &listener{p: p, protocol: protocol, queue: make(chan net.Conn, streamQueue), done: make(chan struct{})}
	p.mu.Lock()
	old := p.streams[protocol]
	closed := p.closed || protocol == protocolLink || protocol == protocolBulk
	if !closed {
		p.streams[protocol] = l
	}
	p.mu.Unlock()
	if closed {
		_ = l.Close()
	} else if old != nil {
		_ = old.Close()
	}
	return l
}

// Addr is the authenticated other end of a stream.
type Addr struct {
	Node        yr.Node
	Incarnation uint64 // 0: not a member yet
	Address     string // host:port at which the node is reached
}

func addrOf(id identity) Addr {
	return Addr{Node: id.node, Incarnation: id.incarnation, Address: id.address}
}

// Network implements net.Addr.
func (a Addr) Network() string { return "yr" }

func (a Addr) String() string { return a.Address }

// listener is the streams of one protocol.
type listener struct {
	p        *Peers
	protocol string
	queue    chan net.Conn

	mu     sync.Mutex // orders offers against Close
	closed bool
	done   chan struct{}
}

// offer queues an accepted stream; it says whether there was room.
func (l *listener) offer(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	select {
	case l.queue <- c:
		return true
	default:
		return false
	}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.done)
	}
	l.mu.Unlock()
	l.p.mu.Lock()
	if l.p.streams[l.protocol] == l {
		delete(l.p.streams, l.protocol)
	}
	l.p.mu.Unlock()
	for {
		select {
		case c := <-l.queue:
			_ = c.Close()
		default:
			return nil
		}
	}
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr {
	return addrOf(l.p.own(0))
}

// acceptStream gives an authenticated connection to the listener of its protocol.
func (p *Peers) acceptStream(g *guest, t *transcript, protocol string) error {
	p.mu.Lock()
	l := p.streams[protocol]
	p.mu.Unlock()
	var err error
	switch {
	case l == nil:
		err = refuse(refusedUnknown, "node %q does not serve %q", p.opt.Node, protocol)
	case len(l.queue) == cap(l.queue):
		err = refuse(refusedBusy, "%d connections for %q wait at node %q", streamQueue, protocol, p.opt.Node)
	}
	if aerr := p.answer(g.sock, t, p.own(0), 0, err); err != nil || aerr != nil {
		p.dismiss(g)
		return errors.Join(err, aerr)
	}
	c := &streamConn{Conn: g.sock.Conn, who: addrOf(g.who), release: func() { p.dismiss(g) }}
	if !l.offer(c) {
		return c.Close()
	}
	return nil
}

// streamConn is a connection that knows who is at its other end.
type streamConn struct {
	net.Conn
	who     Addr
	release func()
}

// RemoteAddr implements net.Conn; it is an Addr.
func (c *streamConn) RemoteAddr() net.Addr { return c.who }

// Close implements net.Conn.
func (c *streamConn) Close() error {
	err := c.Conn.Close()
	c.release()
	return err
}
