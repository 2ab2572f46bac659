// Package session is one SDK connection: bytes in, whole frames out to a
// handler; frames from anyone queued and written together.
//
// It knows frames, not what they mean. Two rules keep the node alive whatever a
// client does: nobody who queues a frame ever waits for this socket (what it does
// not take at once is written by a goroutine of its own), and a reader hands over
// every whole frame that it has in one go, so that the handler takes its lock
// once for hundreds of them.
package session

import (
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"yr/pkg/wire"
	"yr/pkg/yr"
)

const (
	// readBuffer is what one read may bring: 64 KiB hold some 600 calls, a
	// fraction of a millisecond of work under the handler's lock.
	readBuffer = 64 << 10
	// keepBuffer is the largest write buffer that a connection keeps between writes.
	keepBuffer = 512 << 10
	// WriteAt is how much is worth a write before a turn is over.
	WriteAt = 256 << 10
	// lastWords is how long a peer that does not read may take for its last frames.
	lastWords = time.Second
	// HighWater is the queue above which a connection says that it is full.
	HighWater = 4 << 20
)

// Handler receives what a connection reads.
type Handler interface {
	// Frames is given one or more whole frames, by the reader's goroutine. The
	// bytes are good until it returns. An error ends the connection.
	Frames(frames []byte) error
}

// Conn is one connection. Queue, Flush and Close may be called by anybody.
type Conn struct {
	nc  *net.UnixConn
	raw syscall.RawConn

	mu      sync.Mutex
	drained sync.Cond
	out     []byte // frames not written yet
	spare   []byte // the other buffer, empty
	rest    int    // bytes in the hands of the writing goroutine
	writing bool   // somebody writes; whoever queues need not
	closed  bool

	wg sync.WaitGroup // goroutines that work for this connection; begun while it is open
}

// New wraps an accepted connection.
func New(nc *net.UnixConn) (*Conn, error) {
	raw, err := nc.SyscallConn()
	if err != nil {
		return nil, err
	}
	c := &Conn{nc: nc, raw: raw}
	c.drained.L = &c.mu
	return c, nil
}

// Peer is who stands at the other end, as the kernel says.
func (c *Conn) Peer() (pid int, uid uint32, err error) {
	var cred *unix.Ucred
	cerr := c.raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(cerr, err); err != nil {
		return 0, 0, err
	}
	return int(cred.Pid), cred.Uid, nil
}

// ReadFirst reads the opening frame, and the descriptor that came with it (-1
// if none did). It is called once, before Serve.
func (c *Conn) ReadFirst() (h wire.Header, body []byte, fd int, err error) {
	fd = -1
	var buf []byte
	chunk := make([]byte, 4096)
	oob := make([]byte, unix.CmsgSpace(4))
	for {
		h, body, rest, nerr := wire.Next(buf)
		if nerr == nil {
			if len(rest) > 0 {
				return h, nil, fd, yr.E("hello", yr.FrameMalformed, "%d bytes follow the opening frame; a client waits for the answer before it goes on", len(rest))
			}
			return h, body, fd, nil
		}
		if !errors.Is(nerr, wire.ErrShort) {
			return h, nil, fd, nerr
		}
		n, oobn, _, _, rerr := c.nc.ReadMsgUnix(chunk, oob)
		if oobn > 0 {
			fd = firstDescriptor(fd, oob[:oobn])
		}
		if rerr != nil {
			return h, nil, fd, rerr
		}
		if n == 0 {
			return h, nil, fd, io.EOF
		}
		buf = append(buf, chunk[:n]...)
	}
}

// firstDescriptor returns fd, or if it is -1 the first descriptor of a control
// message, and closes the others.
func firstDescriptor(fd int, oob []byte) int {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fd
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, f := range fds {
			if fd < 0 {
				fd = f
				unix.CloseOnExec(fd)
				continue
			}
			_ = unix.Close(f)
		}
	}
	return fd
}

// Serve reads until the connection ends and gives the frames to h. It returns
// nil when the peer closed in between two frames.
func (c *Conn) Serve(h Handler) error {
	buf := make([]byte, readBuffer)
	start, end := 0, 0
	for {
		n, err := c.nc.Read(buf[end:])
		if n > 0 {
			end += n
			used, ferr := whole(buf[start:end])
			if used > 0 {
				if err := h.Frames(buf[start : start+used]); err != nil {
					return err
				}
				start += used
			}
			if ferr != nil {
				return ferr
			}
			if start == end {
				start, end = 0, 0
				if len(buf) > 16*readBuffer { // one large frame should not be kept for ever
					buf = make([]byte, readBuffer)
				}
			} else if len(buf)-end < readBuffer/2 {
				buf, start, end = makeRoom(buf, start, end)
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) && start == end {
				return nil
			}
			return err
		}
	}
}

// whole measures the frames at the front of b that are complete.
//
// hot: once per frame.
func whole(b []byte) (int, error) {
	used := 0
	for {
		_, _, rest, err := wire.Next(b[used:])
		if err != nil {
			if errors.Is(err, wire.ErrShort) {
				err = nil
			}
			return used, err
		}
		used = len(b) - len(rest)
	}
}

// makeRoom moves the unfinished frame to the front of a buffer that can hold it.
func makeRoom(buf []byte, start, end int) ([]byte, int, int) {
	need := readBuffer
	if end-start >= wire.HeaderLen {
		// Next refused lengths above MaxBody already.
		need = max(need, wire.HeaderLen+int(uint32(buf[start])|uint32(buf[start+1])<<8|uint32(buf[start+2])<<16|uint32(buf[start+3])<<24))
	}
	to := buf
	if len(buf) < need {
		to = make([]byte, need)
	}
	n := copy(to, buf[start:end])
	return to, 0, n
}

// Queue lets add append frames to what will be written, and returns the bytes
// that wait. It never waits itself; Flush starts the writing.
//
// hot: once per frame.
func (c *Conn) Queue(add func(dst []byte) []byte) (queued int) {
	c.mu.Lock()
	if !c.closed {
		// append grows a large slice by a quarter: an answer of some MB would be copied a dozen times.
		if n := len(c.out); n >= WriteAt && cap(c.out)-n < readBuffer+wire.HeaderLen {
			c.out = slices.Grow(c.out, n)
		}
		c.out = add(c.out)
	}
	queued = len(c.out) + c.rest
	c.mu.Unlock()
	return queued
}

// Flush writes what is queued as far as the socket takes it at once; the
// remainder is written by a goroutine. It never waits.
func (c *Conn) Flush() {
	c.mu.Lock()
	if c.writing || len(c.out) == 0 || c.closed {
		c.mu.Unlock()
		return
	}
	c.writing = true
	for len(c.out) > 0 && !c.closed {
		batch := c.take()
		c.mu.Unlock()
		n, err := c.tryWrite(batch)
		c.mu.Lock()
		if err != nil {
			c.fail()
			break
		}
		if n < len(batch) && !c.closed {
			c.rest = len(batch) - n
			c.wg.Go(func() { c.drain(batch, n) })
			c.mu.Unlock()
			return
		}
		c.give(batch)
	}
	c.writing = false
	c.drained.Broadcast() // Last may wait for this
	c.mu.Unlock()
}

// drain finishes a write that the socket did not take at once. It owns
// c.writing until everything queued meanwhile is written too.
func (c *Conn) drain(batch []byte, from int) {
	for {
		_, err := c.nc.Write(batch[from:])
		c.mu.Lock()
		c.rest = 0
		if err != nil {
			c.fail()
		}
		c.give(batch)
		if len(c.out) == 0 || c.closed {
			c.writing = false
			c.drained.Broadcast()
			c.mu.Unlock()
			return
		}
		batch, from = c.take(), 0
		c.rest = len(batch)
		if len(c.out)+c.rest <= HighWater {
			c.drained.Broadcast()
		}
		c.mu.Unlock()
	}
}

// take and give swap the two buffers; mu is held.
func (c *Conn) take() []byte {
	batch := c.out
	c.out, c.spare = c.spare[:0], nil
	return batch
}

func (c *Conn) give(batch []byte) {
	if cap(batch) <= keepBuffer && c.spare == nil {
		c.spare = batch[:0]
	}
}

// tryWrite writes without waiting and says how much the socket took.
func (c *Conn) tryWrite(b []byte) (n int, err error) {
	werr := c.raw.Write(func(fd uintptr) bool {
		for n < len(b) {
			var k int
			k, err = unix.SendmsgN(int(fd), b[n:], nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if errors.Is(err, unix.EAGAIN) {
				err = nil
				return true
			}
			if err != nil {
				return true
			}
			n += k
		}
		return true
	})
	return n, errors.Join(werr, err)
}

// WaitRoom waits until the queue is below HighWater or the connection has ended.
func (c *Conn) WaitRoom() {
	c.mu.Lock()
	for len(c.out)+c.rest > HighWater && !c.closed {
		c.drained.Wait()
	}
	c.mu.Unlock()
}

// SendDescriptor writes one frame with a descriptor attached, waiting if it must.
// It is for short-lived connections that carry nothing else.
func (c *Conn) SendDescriptor(frame []byte, fd int) error {
	_, _, err := c.nc.WriteMsgUnix(frame, unix.UnixRights(fd), nil)
	return err
}

// Go runs f in a goroutine that Wait waits for. f must return when the connection
// ends. On a connection that has ended it does nothing.
func (c *Conn) Go(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.wg.Go(f)
	}
}

// Wait returns when the connection has ended and nothing works for it any more.
func (c *Conn) Wait() {
	c.mu.Lock()
	for !c.closed {
		c.drained.Wait()
	}
	c.mu.Unlock()
	c.wg.Wait()
}

// Last queues frames and closes once everything is written, or after lastWords.
// It does not wait.
func (c *Conn) Last(frames []byte) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.out = append(c.out, frames...)
	c.mu.Unlock()
	c.Flush()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.writing {
		c.fail()
	}
	if c.closed {
		return
	}
	// The peer is not reading: give it a little time, then close all the same.
	_ = c.nc.SetWriteDeadline(time.Now().Add(lastWords))
	c.wg.Go(func() {
		c.mu.Lock()
		for c.writing && !c.closed {
			c.drained.Wait()
		}
		c.fail()
		c.mu.Unlock()
	})
}

// Close ends the connection; readers and writers return.
func (c *Conn) Close() {
	c.mu.Lock()
	c.fail()
	c.mu.Unlock()
}

// fail marks the connection dead; mu is held.
func (c *Conn) fail() {
	if c.closed {
		return
	}
	c.closed = true
	c.out, c.spare = nil, nil
	c.drained.Broadcast()
	_ = c.nc.Close()
}
