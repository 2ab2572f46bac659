package durable

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Every connection between two voters begins with 6 bytes: 'Y', what it is for, and
// the group's number (4 bytes). Then either Raft's own protocol follows, or one
// exchange about a large value.
const (
	forRaft = 'r'
	forPush = 'p' // here is a value: sum(32) term(8) pin(8) size(8) bytes; answer: status(1)
	forPull = 'g' // give me a value: sum(32); answer: status(1) size(8) bytes
	forLag  = 'i' // how far are you? answer: the index of the last applied entry (8)
)

const (
	statusOK      = 0
	statusFailed  = 1
	statusMissing = 2
)

const (
	dialTimeout = 2 * time.Second
	// blobTimeout bounds the exchange of one value of MaxValue over a slow link.
	blobTimeout = 2 * time.Minute
)

// streams gives Raft its connections out of the owner's listener and dialer, and
// serves those that are about large values.
type streams struct {
	group    uint32
	address  string
	listener net.Listener // nil: a voter without others
	dial     func(ctx context.Context, address string) (net.Conn, error)
	blobs    *blobs
	applied  func() uint64 // the last log entry that this voter's tables have

	life   context.Context
	end    context.CancelFunc
	raft   chan net.Conn
	served sync.WaitGroup

	mu    sync.Mutex // protects conns
	conns map[net.Conn]struct{}
}

func newStreams(o *Options, b *blobs, applied func() uint64) *streams {
	s := &streams{group: o.Group, address: o.Address, listener: o.Listener, dial: o.Dial, blobs: b, applied: applied, raft: make(chan net.Conn), conns: make(map[net.Conn]struct{})}
	s.life, s.end = context.WithCancel(context.Background())
	if s.listener != nil {
		s.served.Go(s.accept)
	}
	return s
}

func (s *streams) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || s.life.Err() != nil {
				return
			}
			select { // out of descriptors, perhaps: not for ever
			case <-time.After(10 * time.Millisecond):
				continue
			case <-s.life.Done():
				return
			}
		}
		s.served.Go(func() { s.serve(conn) })
	}
}

// serve reads what a connection is for. Raft's are handed over, others served here.
func (s *streams) serve(conn net.Conn) {
	if !s.track(conn) {
		return
	}
	_ = conn.SetReadDeadline(time.Now().Add(dialTimeout))
	var hello [6]byte
	if _, err := io.ReadFull(conn, hello[:]); err != nil || hello[0] != 'Y' || binary.BigEndian.Uint32(hello[2:]) != s.group {
		s.drop(conn)
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	if hello[1] == forRaft {
		select {
		case s.raft <- trackedConn{conn, s}:
		case <-s.life.Done():
			s.drop(conn)
		}
		return
	}
	defer s.drop(conn)
	_ = conn.SetDeadline(time.Now().Add(blobTimeout))
	switch hello[1] {
	case forPush:
		_, _ = conn.Write([]byte{s.receive(conn)})
	case forPull:
		s.give(conn)
	case forLag:
		_, _ = conn.Write(be(nil, s.applied()))
	}
}

// receive keeps a value that the leader pushes.
func (s *streams) receive(conn net.Conn) byte {
	var head [sha256.Size + 24]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return statusFailed
	}
	r := &reader{b: head[:]}
	of, p, size := r.sum(), pin{r.u64(), r.u64()}, r.u64()
	if size > MaxValue {
		return statusFailed
	}
	value := make([]byte, size)
	if _, err := io.ReadFull(conn, value); err != nil || verify(of, value) != nil {
		return statusFailed
	}
	if s.blobs.put(of, value, p) != nil {
		return statusFailed
	}
	return statusOK
}

// give sends a value that another voter lacks.
func (s *streams) give(conn net.Conn) {
	var of sum
	if _, err := io.ReadFull(conn, of[:]); err != nil {
		return
	}
	value, err := s.blobs.read(of)
	if err != nil {
		status := byte(statusFailed)
		if missing(err) {
			status = statusMissing
		}
		_, _ = conn.Write([]byte{status})
		return
	}
	head := be([]byte{statusOK}, uint64(len(value)))
	_, _ = (&net.Buffers{head, value}).WriteTo(conn)
}

// trackedConn is a connection of Raft, which close ends too.
type trackedConn struct {
	net.Conn
	of *streams
}

func (c trackedConn) Close() error {
	c.of.untrack(c.Conn)
	return c.Conn.Close()
}

// track registers a connection so that close ends it; false: too late.
func (s *streams) track(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life.Err() != nil {
		_ = conn.Close()
		return false
	}
	s.conns[conn] = struct{}{}
	return true
}

func (s *streams) untrack(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
}

func (s *streams) drop(conn net.Conn) {
	_ = conn.Close()
	s.untrack(conn)
}

// connect opens a connection for one purpose.
func (s *streams) connect(ctx context.Context, address string, purpose byte) (net.Conn, error) {
	if s.life.Err() != nil {
		return nil, net.ErrClosed
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var conn net.Conn
	switch {
	case address == s.address:
		here, there := net.Pipe() // Raft talks to itself to take over at once
		s.served.Go(func() { s.serve(there) })
		conn = here
	case s.dial == nil:
		return nil, fmt.Errorf("this voter was opened without a way to reach %s", address)
	default:
		var err error
		if conn, err = s.dial(ctx, address); err != nil {
			return nil, err
		}
	}
	hello := binary.BigEndian.AppendUint32([]byte{'Y', purpose}, s.group)
	_ = conn.SetWriteDeadline(time.Now().Add(dialTimeout))
	if _, err := conn.Write(hello); err != nil {
		_ = conn.Close()
		return nil, err
	}
	_ = conn.SetWriteDeadline(time.Time{})
	return conn, nil
}

// push gives a value to another voter and returns when it is on its disk.
func (s *streams) push(ctx context.Context, address string, of sum, value []byte, p pin) error {
	conn, done, err := s.exchange(ctx, address, forPush)
	if err != nil {
		return err
	}
	defer done()
	head := be(be(be(append([]byte(nil), of[:]...), p.term), p.id), uint64(len(value)))
	if _, err := (&net.Buffers{head, value}).WriteTo(conn); err != nil {
		return err
	}
	var status [1]byte
	if _, err := io.ReadFull(conn, status[:]); err != nil {
		return err
	}
	if status[0] != statusOK {
		return fmt.Errorf("%s could not store it", address)
	}
	return nil
}

// pull gets a value from another voter, proven. fs.ErrNotExist: it has none.
func (s *streams) pull(ctx context.Context, address string, of sum) ([]byte, error) {
	conn, done, err := s.exchange(ctx, address, forPull)
	if err != nil {
		return nil, err
	}
	defer done()
	if _, err := conn.Write(of[:]); err != nil {
		return nil, err
	}
	var head [9]byte
	if _, err := io.ReadFull(conn, head[:1]); err != nil {
		return nil, err
	}
	switch head[0] {
	case statusOK:
	case statusMissing:
		return nil, fs.ErrNotExist
	default:
		return nil, fmt.Errorf("%s could not read it", address)
	}
	if _, err := io.ReadFull(conn, head[1:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint64(head[1:])
	if size > MaxValue {
		return nil, fmt.Errorf("%s sends %d bytes", address, size)
	}
	value := make([]byte, size)
	if _, err := io.ReadFull(conn, value); err != nil {
		return nil, err
	}
	return value, verify(of, value)
}

// progress asks another member how much of the log it has applied.
func (s *streams) progress(ctx context.Context, address string) (uint64, error) {
	conn, done, err := s.exchange(ctx, address, forLag)
	if err != nil {
		return 0, err
	}
	defer done()
	_ = conn.SetDeadline(time.Now().Add(dialTimeout))
	var at [8]byte
	_, err = io.ReadFull(conn, at[:])
	return binary.BigEndian.Uint64(at[:]), err
}

// exchange opens a connection that ends with ctx or the voter.
func (s *streams) exchange(ctx context.Context, address string, purpose byte) (net.Conn, func(), error) {
	conn, err := s.connect(ctx, address, purpose)
	if err != nil {
		return nil, nil, err
	}
	if !s.track(conn) {
		return nil, nil, ErrClosed
	}
	_ = conn.SetDeadline(time.Now().Add(blobTimeout))
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	return conn, func() { stop(); s.drop(conn) }, nil
}

// Dial implements raft.StreamLayer.
func (s *streams) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(s.life, timeout)
	defer cancel()
	conn, err := s.connect(ctx, string(address), forRaft)
	if err != nil {
		return nil, err
	}
	if !s.track(conn) {
		return nil, net.ErrClosed
	}
	return trackedConn{conn, s}, nil
}

// Accept implements net.Listener for Raft.
func (s *streams) Accept() (net.Conn, error) {
	select {
	case conn := <-s.raft:
		return conn, nil
	case <-s.life.Done():
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener: it ends everything that is open here.
func (s *streams) Close() error {
	s.mu.Lock()
	s.end()
	for conn := range s.conns {
		_ = conn.Close()
	}
	s.mu.Unlock()
	var err error
	if s.listener != nil {
		err = s.listener.Close()
	}
	s.served.Wait()
	return err
}

// Addr implements net.Listener.
func (s *streams) Addr() net.Addr { return address(s.address) }

// address is where others reach a voter, as its owner writes it.
type address string

func (address) Network() string  { return "yr" }
func (a address) String() string { return string(a) }
