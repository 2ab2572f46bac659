package peer

import (
	"errors"
	"io"
	"sync/atomic"
	"time"

	"yr/pkg/wire"
)

// The receiving half of a link: one goroutine reads frames and gives them to the
// Handler, one writes acknowledgements.

const (
	// readFirst and readMost bound a read: it starts small, because a node may have
	// a thousand peers that say little, and grows when reads fill it.
	readFirst = 16 << 10
	readMost  = 256 << 10
	// ackEvery is how much may arrive before it is acknowledged without delay.
	ackEvery = 256 << 10
)

// An inbound is one connection on which a link receives.
type inbound struct {
	l    *Link
	sock *socket
	dead atomic.Bool // nothing more of it is delivered

	heard    atomic.Int64  // as of Peers.now
	busy     atomic.Bool   // the Handler is at work: silence is our own doing
	received atomic.Uint64 // a copy of the link's, to acknowledge
	armed    atomic.Bool   // the delayed acknowledgement is on its way
	delay    *time.Timer
	now      chan struct{} // cap 1: acknowledge at once
	done     chan struct{} // closed when serve returns
}

// acceptLink serves an authenticated connection on which a peer sends its frames.
// It returns when the connection has ended.
func (p *Peers) acceptLink(g *guest, t *transcript) error {
	sock, peer := g.sock, g.who
	if p.opt.Handler == nil {
		err := refuse(refusedUnknown, "node %q takes no links", p.opt.Node)
		return errors.Join(err, p.answer(sock, t, p.own(0), 0, err))
	}
	own := p.own(0)
	err := p.checkFence(peer.node, peer.incarnation)
	if err == nil && own.incarnation == 0 {
		err = refuse(refusedEarly, "node %q has not joined the cluster yet", p.opt.Node)
	}
	if err != nil {
		return errors.Join(err, p.answer(sock, t, own, 0, err))
	}
	in := &inbound{sock: sock, now: make(chan struct{}, 1), done: make(chan struct{})}
	in.l = p.Link(peer.node, "")
	received, own, err := in.l.accept(in, peer)
	if aerr := p.answer(sock, t, own, received, err); err != nil || aerr != nil {
		in.l.retire(in)
		return errors.Join(err, aerr)
	}
	in.l.setAddress(peer.address)
	in.l.retry() // it lives: no need to wait for the next attempt to reach it
	err = in.serve()
	in.l.retire(in)
	return err
}

// accept meets the peer and makes in the connection that the link reads from.
func (l *Link) accept(in *inbound, peer identity) (received uint64, own identity, err error) {
	l.handling.Lock()
	defer l.handling.Unlock()
	own = l.ownIdentity()
	if err := l.meet(own, peer); err != nil {
		return 0, own, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || !l.met || l.own != own { // meanwhile fenced, renewed or reset
		return 0, own, refuse(refusedEarly, "the link to node %q has just started over", l.node)
	}
	if l.in != nil {
		l.in.end()
	}
	l.in = in
	in.received.Store(l.received)
	now := l.p.now()
	in.heard.Store(now)
	l.heard.Store(now)
	return l.received, own, nil
}

// retire takes a connection that has ended off the link.
func (l *Link) retire(in *inbound) {
	in.end()
	l.mu.Lock()
	if l.in == in {
		l.in = nil
	}
	l.mu.Unlock()
}

// end closes the connection; nothing more is delivered from it.
func (in *inbound) end() {
	in.dead.Store(true)
	in.sock.drop()
}

// serve reads until the connection ends.
func (in *inbound) serve() error {
	in.sock.neverWait()
	in.delay = time.NewTimer(time.Hour)
	in.delay.Stop()
	in.l.p.wg.Go(in.acknowledge)
	defer close(in.done)
	buf := make([]byte, readFirst)
	start, end := 0, 0
	for {
		n, err := in.sock.Read(buf[end:])
		if n > 0 {
			now := in.l.p.now()
			in.heard.Store(now)
			in.l.heard.Store(now)
			filled := end+n == len(buf)
			end += n
			used, derr := in.deliver(buf[start:end])
			start += used
			if derr != nil {
				return derr
			}
			buf, start, end = arrange(buf, start, end, filled)
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

// arrange makes room behind an unfinished frame, and a larger buffer when reads
// fill this one or a frame does not fit.
func arrange(buf []byte, start, end int, filled bool) (arranged []byte, first, last int) {
	size := len(buf)
	if filled && size < readMost {
		size *= 2
	}
	if size > readMost { // held one large frame
		size = readMost
	}
	if end-start >= wire.HeaderLen { // its length was found to be within bounds
		size = max(size, wire.HeaderLen+int(le.Uint32(buf[start:])))
	}
	to := buf
	switch {
	case size != len(buf):
		to = make([]byte, size)
	case start == 0, len(buf)-end >= size/2 && start != end:
		return buf, start, end
	}
	return to, 0, copy(to, buf[start:end])
}

// deliver gives the whole frames at the front of b to the Handler, without the
// pings in between them, and says how many bytes are done with.
//
// hot: once per read.
func (in *inbound) deliver(b []byte) (used int, err error) {
	begin := 0
	for {
		h, _, rest, err := wire.Next(b[used:])
		if errors.Is(err, wire.ErrShort) {
			return used, in.hand(b[begin:used])
		}
		if err != nil || h.Type == 0 && h.Length != 0 {
			if err == nil {
				err = malformed("node %q sends a ping of %d bytes", in.l.node, h.Length)
			}
			return used, in.violated(err)
		}
		if h.Type == 0 {
			if err := in.hand(b[begin:used]); err != nil {
				return used, err
			}
			begin = len(b) - len(rest)
		}
		used = len(b) - len(rest)
	}
}

// hand gives whole frames to the Handler.
func (in *inbound) hand(frames []byte) error {
	if len(frames) == 0 {
		return nil
	}
	l := in.l
	in.busy.Store(true)
	l.handling.Lock()
	if in.dead.Load() {
		l.handling.Unlock()
		return errLink
	}
	err := l.p.opt.Handler.Frames(l, frames)
	if err == nil {
		l.received += uint64(len(frames))
		in.received.Store(l.received)
	}
	l.handling.Unlock()
	in.heard.Store(l.p.now())
	in.busy.Store(false)
	if err != nil {
		return in.violated(err)
	}
	in.arm(len(frames))
	return nil
}

// violated starts the link over, unless this connection is no part of it any more.
func (in *inbound) violated(err error) error {
	if in.dead.Load() {
		return errLink
	}
	in.l.reset(err)
	return err
}

// arm sees to it that what has arrived will be acknowledged.
func (in *inbound) arm(n int) {
	if n >= ackEvery {
		in.ackNow()
		return
	}
	if in.armed.CompareAndSwap(false, true) {
		in.delay.Reset(in.l.p.pace.ack)
	}
}

func (in *inbound) ackNow() {
	select {
	case in.now <- struct{}{}:
	default:
	}
}

// acknowledge tells the sender what has arrived; repeated, it is a sign of life.
func (in *inbound) acknowledge() {
	var ack [ackLen]byte
	for {
		select {
		case <-in.done:
			in.delay.Stop()
			return
		case <-in.now:
		case <-in.delay.C:
			in.armed.Store(false)
		}
		le.PutUint64(ack[:], in.received.Load())
		if n, err := in.sock.write(ack[:]); err != nil || n < len(ack) {
			in.sock.drop() // ends serve, which closes done
		}
	}
}

// tick shows the sender that we live, and gives up a sender that is silent.
func (in *inbound) tick(awake bool) {
	if awake && !in.busy.Load() && in.l.p.silent(in.heard.Load()) {
		in.sock.drop()
		return
	}
	in.ackNow()
}
