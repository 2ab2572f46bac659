package peer

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"yr/pkg/yr"
)

// Bulk bytes travel on connections of their own, so that they never stand in
// front of a frame. On such a connection requests and answers take turns:
//
//	request   u16 length | u64 from | request
//	answer    u8 status | u8 0 | u16 text length | u32 code | u64 length | text or bytes
//
// `length` is that of the whole, the bytes begin at `from`: after a broken
// connection the rest is asked for. There is no checksum of ours: inside TLS there
// is one, and without it the sender never touches the bytes (DESIGN.md).

const (
	requestHeader = 10
	answerHeader  = 16
)

// The states of an answer.
const (
	answerBytes = 0
	answerError = 1
)

// readWorth is how much should have come before a transfer is woken to read it:
// being woken less often was worth some throughput on two busy cores.
const readWorth = 1 << 20

// fetchAttempts is how many connections in a row may bring nothing.
const fetchAttempts = 4

// Fetch asks node, at address, for the bytes that request means to its Source, and
// reads them into the slice that room returns for their length. They arrive whole
// or Fetch fails: with the Source's own *yr.Error, with a typed refusal, or with
// code Communication when the connection broke and trying again did not help.
// A broken transfer goes on where it stopped. n is how many bytes are in the slice.
//
// At most MaxFetches transfers from one node run at a time, further ones wait.
// room is called at most once; its error is returned as it is.
func (p *Peers) Fetch(ctx context.Context, node yr.Node, address string, request []byte, room func(length int64) ([]byte, error)) (n int64, err error) {
	if len(request) > MaxRequest {
		return 0, yr.E("peer: fetch", yr.ParamInvalid, "a request of %d bytes is over the limit of %d", len(request), MaxRequest)
	}
	po, err := p.enter(ctx, poolKey{node, address})
	if err != nil {
		return 0, err
	}
	defer p.leave(po)
	t := &transfer{p: p, request: request, room: room, length: -1}
	for failures := 0; failures < fetchAttempts; {
		before := t.done
		var again bool
		if again, err = po.once(ctx, t); err == nil || t.final {
			return t.done, err
		}
		if ctx.Err() != nil || p.ctx.Err() != nil || refused(err) {
			break
		}
		if t.done > before {
			failures = 0
		} else if !again {
			failures++
		}
		if failures > 0 {
			p.rest(ctx, failures)
		}
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return t.done, yr.Wrap("peer: fetch from node "+string(node)+" at "+address, yr.Communication, err)
}

// refused says that trying again at once cannot help.
func refused(err error) bool {
	for _, e := range []error{ErrToken, ErrVersion, ErrFenced, ErrSameNode, ErrOtherNode, ErrProtocol, ErrTLS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// rest is the pause before another attempt.
func (p *Peers) rest(ctx context.Context, failures int) {
	pause := p.pace.backoff << failures
	timer := time.NewTimer(pause/2 + rand.N(pause)) //nolint:gosec // jitter, not a secret
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-p.ctx.Done():
	}
}

// A transfer is one Fetch, over as many connections as it takes.
type transfer struct {
	p       *Peers
	request []byte
	room    func(length int64) ([]byte, error)

	length int64 // -1: not known yet
	buf    []byte
	done   int64
	final  bool // its error is the answer, no fault of the connection
}

// run asks for the rest on a connection. clean says that the connection can be used
// again.
func (t *transfer) run(ctx context.Context, sock *socket) (clean bool, err error) {
	release := context.AfterFunc(ctx, func() { sock.drop() })
	defer func() {
		if !release() {
			clean, err = false, errors.Join(err, ctx.Err())
		}
	}()
	stall := t.p.pace.stall
	_ = sock.SetDeadline(time.Now().Add(stall))
	ask := make([]byte, requestHeader, requestHeader+len(t.request))
	le.PutUint16(ask, uint16(len(t.request))) //nolint:gosec // checked by Fetch
	le.PutUint64(ask[2:], uint64(t.done))     //nolint:gosec // not negative
	if _, err := sock.Write(append(ask, t.request...)); err != nil {
		return false, err
	}
	var h [answerHeader]byte
	if _, err := io.ReadFull(sock, h[:]); err != nil {
		return false, err
	}
	if h[0] != answerBytes {
		return t.failed(sock, h)
	}
	if err := t.prepare(le.Uint64(h[8:])); err != nil {
		t.final = true
		return false, err
	}
	for t.done < t.length {
		if err := sock.wakeAt(min(t.length-t.done, readWorth)); err != nil {
			return false, err
		}
		n, err := sock.Read(t.buf[t.done:t.length])
		t.done += int64(n)
		if err != nil && t.done < t.length {
			return false, err
		}
		_ = sock.SetReadDeadline(time.Now().Add(stall))
	}
	return true, sock.wakeAt(1)
}

// prepare gets the room for the bytes, or finds that they are the same as before.
func (t *transfer) prepare(length uint64) error {
	if length > 1<<62 {
		return malformed("a peer offers %d bytes", length)
	}
	n := int64(length)
	if t.length >= 0 {
		if n != t.length {
			return yr.E("peer: fetch", yr.Communication, "the bytes changed while they were read: %d of them now, %d before", n, t.length)
		}
		return nil
	}
	buf, err := t.room(n)
	if err != nil {
		return err
	}
	if int64(len(buf)) < n {
		return yr.E("peer: fetch", yr.Internal, "room for %d bytes where %d come", len(buf), n)
	}
	t.length, t.buf = n, buf
	return nil
}

// failed reads the Source's error.
func (t *transfer) failed(sock *socket, h [answerHeader]byte) (clean bool, err error) {
	text := make([]byte, le.Uint16(h[2:]))
	if len(text) > maxText {
		return false, malformed("an error text of %d bytes", len(text))
	}
	if _, err := io.ReadFull(sock, text); err != nil {
		return false, err
	}
	t.final = true
	op, msg, _ := strings.Cut(string(text), "\x00")
	return true, &yr.Error{Op: op, Code: yr.Code(int32(le.Uint32(h[4:]))), Msg: msg} //nolint:gosec // a code is 32 bits
}
