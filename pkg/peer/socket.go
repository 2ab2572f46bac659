package peer

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A socket is a TCP connection that can be written without waiting, inside TLS
// too: TLS records that the kernel does not take at once are kept in a spill, and
// nothing more is encrypted until they are written.
type socket struct {
	net.Conn // what the peer's bytes are read from: TCP, or TLS over it
	tcp      *net.TCPConn
	raw      syscall.RawConn
	low      int64   // bytes that must have come before a read is woken; of the reading goroutine
	sender   *sender // of the goroutine that may call try; TLS sends through the spill
	spill    *spill  // nil without TLS
}

// plainSocket is a connection without TLS.
func plainSocket(tcp *net.TCPConn) (*socket, error) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &socket{Conn: tcp, tcp: tcp, raw: raw, sender: newSender(raw)}, nil
}

// tlsSocket is a connection inside TLS; handshake makes the TLS side of it.
func tlsSocket(tcp *net.TCPConn, begin func(net.Conn) *tls.Conn) (*socket, error) {
	s, err := plainSocket(tcp)
	if err != nil {
		return nil, err
	}
	s.spill = &spill{TCPConn: tcp, sender: s.sender}
	s.Conn = begin(s.spill)
	return s, nil
}

// tlsChunk is what is encrypted before the kernel is asked whether it takes it.
const tlsChunk = 64 << 10

// neverWait prepares a socket for try.
func (s *socket) neverWait() {
	if s.spill != nil {
		s.spill.mu.Lock()
		s.spill.eager = true
		s.spill.mu.Unlock()
	}
}

// try writes what can be written without waiting, and says how much that was. One
// goroutine at a time calls it.
//
// hot: once per flush.
func (s *socket) try(b []byte) (int, error) {
	if s.spill == nil {
		return s.sender.send(b)
	}
	if free, err := s.spill.tryFlush(); err != nil || !free {
		return 0, err
	}
	return s.Write(b[:min(len(b), tlsChunk)])
}

// write writes some of b, waiting for the peer if it must.
func (s *socket) write(b []byte) (int, error) {
	if s.spill == nil {
		return s.Write(b)
	}
	if err := s.spill.flush(); err != nil {
		return 0, err
	}
	n, err := s.Write(b[:min(len(b), tlsChunk)])
	if err == nil {
		err = s.spill.flush()
	}
	return n, err
}

// wakeAt makes the kernel wake the reader only when n bytes have come, or the end.
// Inside TLS nobody knows how many bytes that would be, and nothing is changed.
func (s *socket) wakeAt(n int64) error {
	if s.spill != nil || s.low == n {
		return nil
	}
	var err error
	cerr := s.raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT, int(n))
	})
	s.low = n
	return errors.Join(cerr, err)
}

// drop ends the connection at once; what the kernel still holds is not sent.
func (s *socket) drop() {
	_ = s.tcp.SetLinger(0)
	_ = s.tcp.Close()
}

// A sender writes without waiting. It keeps what a call of the raw connection
// needs, so that a write allocates nothing; one goroutine at a time uses it.
type sender struct {
	raw syscall.RawConn
	do  func(fd uintptr) bool // attempt, bound once
	b   []byte
	n   int
	err error
}

func newSender(raw syscall.RawConn) *sender {
	s := &sender{raw: raw}
	s.do = s.attempt
	return s
}

// send says how much of b the kernel took.
func (s *sender) send(b []byte) (int, error) {
	s.b, s.n, s.err = b, 0, nil
	err := s.raw.Write(s.do)
	s.b = nil
	if err == nil {
		err = s.err
	}
	return s.n, err
}

// attempt always says that it is done, so the raw connection does not wait.
func (s *sender) attempt(fd uintptr) bool {
	for s.n < len(s.b) {
		k, err := unix.SendmsgN(int(fd), s.b[s.n:], nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch {
		case err == nil:
			s.n += k
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return true
		default:
			s.err = err
			return true
		}
	}
	return true
}

// A spill is what TLS writes into. In eager mode it keeps what the kernel does not
// take; whoever writes next, or flush, sends that first.
type spill struct {
	*net.TCPConn

	mu       sync.Mutex
	sender   *sender
	eager    bool
	flushing bool // flush has some of it in its hands
	held     []byte
}

// Write implements net.Conn.
func (s *spill) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.eager {
		return s.TCPConn.Write(b)
	}
	n := 0
	if len(s.held) == 0 && !s.flushing {
		var err error
		if n, err = s.sender.send(b); err != nil {
			return n, err
		}
	}
	s.held = append(s.held, b[n:]...)
	return len(b), nil
}

// tryFlush says whether nothing is held any more.
func (s *spill) tryFlush() (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flushing {
		return false, nil
	}
	if len(s.held) == 0 {
		return true, nil
	}
	n, err := s.sender.send(s.held)
	s.held = s.held[:copy(s.held, s.held[n:])]
	return len(s.held) == 0, err
}

// flush writes everything that is held.
func (s *spill) flush() error {
	for {
		s.mu.Lock()
		b := s.held
		s.held = nil
		s.flushing = len(b) > 0
		s.mu.Unlock()
		if len(b) == 0 {
			return nil
		}
		if _, err := s.TCPConn.Write(b); err != nil {
			return err
		}
	}
}
