package peer

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"yr/pkg/yr"
)

const (
	// inlineMost is the largest answer that is written together with its header.
	inlineMost = 32 << 10
	// sendMost is how much is sent between two looks at the clock.
	sendMost = 4 << 20
	// copySize is how much is read and encrypted at a time.
	copySize = 256 << 10
)

var copyBuffers = sync.Pool{New: func() any { b := make([]byte, copySize); return &b }}

// acceptBulk serves a connection on which a peer asks for bytes.
func (p *Peers) acceptBulk(g *guest, t *transcript) error {
	own := p.own(0)
	var err error
	switch {
	case p.opt.Source == nil:
		err = refuse(refusedUnknown, "node %q serves no bytes", p.opt.Node)
	case own.incarnation == 0:
		err = refuse(refusedEarly, "node %q has not joined the cluster yet", p.opt.Node)
	}
	if aerr := p.answer(g.sock, t, own, 0, err); err != nil || aerr != nil {
		return errors.Join(err, aerr)
	}
	for {
		// The asking side closes idle connections first.
		_ = g.sock.SetReadDeadline(time.Now().Add(2 * p.pace.idle))
		request, from, err := readRequest(g.sock)
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return nil
			}
			return err
		}
		if err := p.serveRequest(g.sock, request, from); err != nil {
			return err
		}
	}
}

// readRequest reads one request.
func readRequest(r io.Reader) (request []byte, from uint64, err error) {
	var h [requestHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, 0, err
	}
	n := int(le.Uint16(h[:]))
	if n > MaxRequest {
		return nil, 0, malformed("a request of %d bytes is over the limit of %d", n, MaxRequest)
	}
	request = make([]byte, n)
	_, err = io.ReadFull(r, request)
	return request, le.Uint64(h[2:]), err
}

// serveRequest answers one request. Its error is the connection's.
func (p *Peers) serveRequest(sock *socket, request []byte, from uint64) error {
	f, offset, length, release, err := p.opt.Source.Open(request)
	if err == nil && release != nil {
		defer release()
	}
	if err == nil && (length < 0 || from > uint64(length)) {
		err = yr.E("peer: fetch", yr.ParamInvalid, "byte %d of %d was asked for", from, length)
	}
	_ = sock.SetWriteDeadline(time.Now().Add(p.pace.stall))
	if err != nil {
		_, err = sock.Write(errorAnswer(err))
		return err
	}
	h := make([]byte, answerHeader, answerHeader+inlineMost)
	le.PutUint64(h[8:], uint64(length))                //nolint:gosec // not negative
	at, rest := offset+int64(from), length-int64(from) //nolint:gosec // within length
	if rest <= inlineMost {
		h = h[:answerHeader+rest]
		if err := readAt(f, h[answerHeader:], at); err != nil {
			return err
		}
		_, err := sock.Write(h)
		return err
	}
	if sock.spill == nil {
		return p.sendFile(sock, h, f, at, rest)
	}
	if _, err := sock.Write(h); err != nil {
		return err
	}
	return p.copyFile(sock, f, at, rest)
}

// errorAnswer carries a Source's error with its public code.
func errorAnswer(err error) []byte {
	op, msg := "peer: fetch", err.Error()
	var e *yr.Error
	if errors.As(err, &e) {
		op, msg = e.Op, e.Msg
		if e.Err != nil {
			msg += ": " + e.Err.Error()
		}
	}
	text := printable(op, maxText/4) + "\x00" + printable(msg, maxText/2)
	b := make([]byte, answerHeader, answerHeader+len(text))
	b[0] = answerError
	le.PutUint16(b[2:], uint16(len(text)))             //nolint:gosec // below maxText
	le.PutUint32(b[4:], uint32(int32(yr.CodeOf(err)))) //nolint:gosec // a code is 32 bits
	return append(b, text...)
}

// readAt fills b from the file, or says that the file is shorter than promised.
func readAt(f *os.File, b []byte, at int64) error {
	if len(b) == 0 {
		return nil
	}
	if _, err := f.ReadAt(b, at); err != nil {
		return yr.Wrap("peer: read what was asked for", yr.DiskFailed, err)
	}
	return nil
}

// sendFile lets the kernel send from the file's pages. The offset is given with
// each call: the file's own is shared with everybody who has it open.
func (p *Peers) sendFile(sock *socket, header []byte, f *os.File, at, n int64) error {
	file, err := f.SyscallConn()
	if err != nil {
		return err
	}
	if err := sendMore(sock, header); err != nil {
		return err
	}
	for n > 0 {
		_ = sock.SetWriteDeadline(time.Now().Add(p.pace.stall))
		sent, err := sendPart(sock, file, at, min(n, sendMost))
		if err != nil {
			return err
		}
		at += sent
		n -= sent
	}
	return nil
}

// sendMore writes a header that the kernel holds back until bytes follow.
func sendMore(sock *socket, header []byte) error {
	var err error
	werr := sock.raw.Write(func(fd uintptr) bool {
		for len(header) > 0 {
			var n int
			n, err = unix.SendmsgN(int(fd), header, nil, nil, unix.MSG_MORE|unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
			switch {
			case errors.Is(err, unix.EINTR):
			case errors.Is(err, unix.EAGAIN):
				return false
			case err != nil:
				return true
			default:
				header = header[n:]
			}
		}
		return true
	})
	return errors.Join(werr, err)
}

// sendPart sends up to n bytes and says how many it were, at least one.
func sendPart(sock *socket, file syscallFile, at, n int64) (sent int64, err error) {
	ferr := file.Control(func(from uintptr) {
		werr := sock.raw.Write(func(to uintptr) bool {
			for sent < n {
				place := at + sent
				var k int
				k, err = unix.Sendfile(int(to), int(from), &place, int(n-sent))
				switch {
				case errors.Is(err, unix.EINTR):
				case errors.Is(err, unix.EAGAIN):
					err = nil
					return false
				case err != nil:
					return true
				case k == 0:
					err = yr.E("peer: send", yr.DiskFailed, "the file ends %d bytes before what was promised", n-sent)
					return true
				default:
					sent += int64(k)
				}
			}
			return true
		})
		err = errors.Join(err, werr)
	})
	return sent, errors.Join(err, ferr)
}

type syscallFile interface {
	Control(func(fd uintptr)) error
}

// copyFile sends through TLS.
func (p *Peers) copyFile(sock *socket, f *os.File, at, n int64) error {
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	for n > 0 {
		_ = sock.SetWriteDeadline(time.Now().Add(p.pace.stall))
		part := (*buf)[:min(n, copySize)]
		if err := readAt(f, part, at); err != nil {
			return err
		}
		if _, err := sock.Write(part); err != nil {
			return err
		}
		at += int64(len(part))
		n -= int64(len(part))
	}
	return nil
}
