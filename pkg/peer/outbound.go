package peer

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"

	"yr/pkg/wire"
	"yr/pkg/yr"
)

// The sending half of a link: one goroutine connects, again and again, and reads
// the acknowledgements; whoever calls Flush writes.

// An outbound is one connection on which a link sends.
type outbound struct {
	sock  *socket
	heard atomic.Int64 // as of Peers.now
	why   error        // why we gave it up; guarded by the link's mu
}

// ackLen is an acknowledgement: how many bytes of the stream the peer has, u64.
const ackLen = 8

// pingFrame is the header of an empty frame of type 0. It is no part of the stream.
var pingFrame = make([]byte, wire.HeaderLen)

// run keeps the link connected until it is closed.
func (l *Link) run() {
	pause := l.p.pace.backoff
	for l.ctx.Err() == nil {
		if l.idle() {
			select {
			case <-l.kick:
			case <-l.ctx.Done():
			}
			continue
		}
		begun := time.Now()
		progress, err := l.connect()
		if l.ctx.Err() != nil {
			return
		}
		l.note(err)
		if progress || time.Since(begun) > l.p.pace.backoffMost {
			pause = l.p.pace.backoff
		}
		timer := time.NewTimer(pause/2 + rand.N(pause)) //nolint:gosec // jitter, not a secret
		select {
		case <-timer.C:
		case <-l.kick:
		case <-l.ctx.Done():
		}
		timer.Stop()
		pause = min(pause*2, l.p.pace.backoffMost)
	}
}

// idle says that there is nobody to connect to, or that we are nobody.
func (l *Link) idle() bool {
	return l.Address() == "" || l.p.opt.Handler == nil || l.p.own(0).incarnation == 0
}

// note keeps why there is no connection, and logs it when that is news.
func (l *Link) note(err error) {
	text := "the connection ended"
	var op *net.OpError
	switch {
	case errors.As(err, &op) && op.Source != nil:
		text += ": " + op.Err.Error() // without our port, which is a new one each time
	case err != nil && !errors.Is(err, io.EOF):
		text = err.Error()
	}
	l.mu.Lock()
	news := text != l.trouble
	l.trouble = text
	l.mu.Unlock()
	if news {
		l.p.opt.Log.Warn().Str("peer", string(l.node)).Str("why", text).Msg("no connection to a node; trying again")
	}
}

// connect makes one connection and serves it until it ends. progress says that
// the peer acknowledged something new on it.
func (l *Link) connect() (progress bool, err error) {
	own := l.ownIdentity()
	sock, welcome, err := l.p.dial(l.ctx, l.Address(), protocolLink, l.node, own)
	if err != nil {
		return false, err
	}
	defer sock.drop()
	sock.neverWait()
	out := &outbound{sock: sock}
	out.heard.Store(l.p.now())

	l.handling.Lock()
	err = l.meet(own, identityOf(welcome))
	if err == nil {
		err = l.install(out, welcome.received, own)
	}
	l.handling.Unlock()
	if err != nil {
		return false, err
	}
	l.heard.Store(l.p.now())
	l.Flush()
	err = l.readAcks(out)
	l.mu.Lock()
	if l.out == out {
		l.out = nil
	}
	progress = l.backlog.acked > welcome.received
	if out.why != nil {
		err = out.why
	}
	l.mu.Unlock()
	return progress, err
}

// install makes a connection the one on which the link sends, from the first byte
// that the peer does not have.
func (l *Link) install(out *outbound, received uint64, own identity) error {
	l.mu.Lock()
	if l.closed || !l.met || l.own != own { // meanwhile fenced, renewed or reset
		l.mu.Unlock()
		return refuse(refusedEarly, "the link to node %q has just started over", l.node)
	}
	if !l.backlog.rewind(received, l.writing) {
		end, acked := l.backlog.end, l.backlog.acked
		l.mu.Unlock()
		err := malformed("node %q says that it has %d bytes of the link; %d were sent, %d acknowledged", l.node, received, end, acked)
		l.reset(err)
		return err
	}
	if l.out != nil {
		l.out.sock.drop()
	}
	l.out, l.trouble = out, ""
	l.announceRoom()
	l.mu.Unlock()
	return nil
}

// readAcks reads what the peer has, until the connection ends.
func (l *Link) readAcks(out *outbound) error {
	buf := make([]byte, 64*ackLen)
	have := 0
	for {
		n, err := out.sock.Read(buf[have:])
		if n > 0 {
			now := l.p.now()
			out.heard.Store(now)
			l.heard.Store(now)
			have += n
			if whole := have - have%ackLen; whole > 0 {
				if err := l.acknowledged(out, le.Uint64(buf[whole-ackLen:])); err != nil {
					return err
				}
				have = copy(buf, buf[whole:have])
			}
		}
		if err != nil {
			return err
		}
	}
}

func (l *Link) acknowledged(out *outbound, upTo uint64) error {
	l.mu.Lock()
	if l.out != out {
		l.mu.Unlock()
		return io.EOF
	}
	ok := l.backlog.ack(upTo, l.writing)
	end := l.backlog.end
	l.announceRoom()
	l.mu.Unlock()
	if !ok {
		err := malformed("node %q acknowledges %d bytes of a link on which %d were sent", l.node, upTo, end)
		l.reset(err)
		return err
	}
	return nil
}

// Flush writes what is queued as far as the connection takes it at once; the
// remainder is written by a goroutine, or when there is a connection. It never
// waits.
//
// hot: once per turn.
func (l *Link) Flush() {
	l.mu.Lock()
	if l.writing || l.out == nil || l.backlog.unsent() == 0 {
		l.mu.Unlock()
		return
	}
	l.writing = true
	l.writeNow()
}

// writeNow writes without waiting until everything is written or the connection
// is full. mu is held and writing is set; writeNow gives up both.
func (l *Link) writeNow() {
	for l.out != nil && l.backlog.unsent() > 0 {
		out, from, batch := l.out, l.backlog.sent, l.backlog.next()
		l.mu.Unlock()
		n, err := out.sock.try(batch)
		l.mu.Lock()
		if l.out != out { // replaced meanwhile: what was written here does not count
			continue
		}
		l.backlog.wrote(from+uint64(n), true) //nolint:gosec // n is not negative
		if err != nil {
			l.lose(out)
			continue
		}
		if n < len(batch) {
			l.p.wg.Go(func() { l.drain(out) })
			l.mu.Unlock()
			return
		}
	}
	l.written()
}

// drain goes on writing where the connection was full. It owns writing.
func (l *Link) drain(out *outbound) {
	l.mu.Lock()
	for l.out == out && l.backlog.unsent() > 0 {
		from, batch := l.backlog.sent, l.backlog.next()
		l.mu.Unlock()
		n, err := out.sock.write(batch)
		l.mu.Lock()
		if l.out != out {
			break
		}
		l.backlog.wrote(from+uint64(n), true) //nolint:gosec // n is not negative
		if err != nil {
			l.lose(out)
		}
	}
	l.writeNow() // a connection that came meanwhile has nobody else to write to it
}

// written gives up writing, and mu.
func (l *Link) written() {
	l.writing = false
	l.backlog.trim(false)
	l.mu.Unlock()
}

// lose gives up a connection that cannot be written; mu is held.
func (l *Link) lose(out *outbound) {
	out.sock.drop() // ends readAcks
	if l.out == out {
		l.out = nil
	}
}

// ping shows the peer that we live, unless data does.
func (l *Link) ping(out *outbound, awake bool) {
	if awake && l.p.silent(out.heard.Load()) {
		l.mu.Lock()
		out.why = yr.E("peer", yr.Communication, "nothing heard from it for %v", l.p.pace.silence)
		l.lose(out)
		l.mu.Unlock()
		return
	}
	l.mu.Lock()
	if l.out != out || l.writing || l.backlog.unsent() > 0 {
		l.mu.Unlock()
		return
	}
	l.writing = true
	l.mu.Unlock()
	n, err := out.sock.try(pingFrame)
	l.mu.Lock()
	if err != nil || n > 0 && n < len(pingFrame) { // half a ping: the stream is out of step
		l.lose(out)
	}
	l.writeNow()
}

// errLink is a link's connection that must end without a fault of the peer.
var errLink = yr.E("peer", yr.Communication, "the connection was replaced")
