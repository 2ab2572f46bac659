package route

import (
	"errors"

	"yr/agent/session"
	"yr/pkg/wire"
	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
	"yr/store"
)

// Session is one connection as the router sees it: what it may call, what it
// holds and what it waits for. Guarded by Router.mu.
type Session struct {
	r    *Router
	conn conn
	sock *session.Conn // conn, if that is an SDK's: frames are appended to its buffer in place
	link *linkConn     // conn, if that is a node's
	node *neighbour    // role node

	id      yr.ID // prefix with sequence 0
	prefix  yr.Prefix
	role    yr.Role
	pid     int
	command string
	job     *job
	holder  *store.Holder[waiter]
	targets []target // by number; 0 is unused
	worker  *worker  // role worker

	unfinished int // calls of this session that have not ended
	queued     bool
	closed     bool
	full       bool   // the connection's queue is above its high water
	late       []late // what a full connection could not take yet
	freed      []yr.Place
	evicts     bool // answers EVICT
	announcing bool // resuming, ANNOUNCED not seen yet

	scratch []wire.Value // reused by the reader
}

// target is what a CALL's number stands for.
type target struct {
	fn *function
	in *instance
}

// waiter is who wants to know when an object has its value, or its bytes are here:
// a call, a session, a frame for a guest, or a result for a session.
type waiter struct {
	call    *call
	session *Session
	frame   *heldFrame
	result  *awaited
}

// ID names the session.
func (s *Session) ID() yr.ID { return s.id }

// Frames handles a chunk of whole frames in one turn of the router.
//
// hot: once per read.
func (s *Session) Frames(frames []byte) error {
	var err error
	var wait bool
	s.r.turn(func() {
		err = s.handle(frames)
		// A worker is never made to wait: its results are what frees others.
		wait = s.full && s.role != yr.RoleWorker
	})
	if wait && err == nil {
		s.conn.WaitRoom()
	}
	return err
}

// handle goes through the frames of a chunk; the lock is held.
func (s *Session) handle(frames []byte) error {
	var done int
	for len(frames) > 0 && !s.closed {
		h, body, rest, err := wire.Next(frames)
		if err != nil {
			return err // the connection counted whole frames, so this cannot be
		}
		frames = rest
		if h.Type == wire.ResultType {
			done++
		}
		if err := s.frame(h, body); err != nil {
			s.reject(err)
			return err
		}
	}
	if w := s.worker; w != nil && w.guest == nil && done > 0 {
		s.r.settled(w, done)
	}
	return nil
}

// frame handles one frame. An error is the peer's mistake and ends the session.
//
// hot: once per frame.
func (s *Session) frame(h wire.Header, body []byte) error {
	r := s.r
	switch h.Type {
	case wire.CallType:
		return s.call(h.Flags, body)
	case wire.ResultType:
		return s.result(h.Corr, body)
	case wire.PutType:
		return s.put(h.Flags, body)
	case wire.Retain, wire.Release:
		return s.count(h.Type, body)
	case wire.Get:
		return s.get(body)
	case wire.Blocked:
		after, err := wire.DecodeBlocked(body)
		switch w := s.worker; {
		case err != nil || w == nil:
		case w.guest != nil:
			r.guestBlocked(w, after)
		default:
			r.blocked(w, after)
		}
		return err
	case wire.Unblocked:
		switch w := s.worker; {
		case w == nil:
		case w.guest != nil:
			r.guestUnblocked(w)
		default:
			r.unblocked(w)
		}
		return nil
	case wire.Yield:
		after, reason, err := wire.DecodeYield(body)
		switch w := s.worker; {
		case err != nil || w == nil:
		case w.guest != nil:
			r.guestYielded(w, after, reason)
		default:
			r.yielded(w, after, reason)
		}
		return err
	case wire.Lease:
		return s.lease(h.Corr, body)
	case wire.Return:
		segment, generation, err := wire.DecodeReturn(body)
		if err != nil {
			return err
		}
		if err := r.opt.Store.Return(s.id, segment, generation); err != nil {
			// The lease went with a daemon that was restarted; then there is nothing to return.
			r.opt.Log.Debug().Err(err).Stringer("session", s.id).Msg("a slab was returned that is not leased")
		}
		return nil
	case wire.Ping:
		s.queue(func(dst []byte) []byte { return wire.AppendEmpty(dst, wire.Pong, h.Corr) })
		return nil
	case wire.Pong:
		return nil
	case wire.Announced:
		s.announced()
		return nil
	case wire.Evicted:
		return s.evicted(h.Corr, body)
	}
	return s.control(h, body)
}

// control handles the rare frames.
func (s *Session) control(h wire.Header, body []byte) error {
	switch h.Type {
	case wire.Define:
		m := &wirepb.Function{}
		if err := wire.DecodeMessage(h.Type, body, m); err != nil {
			return err
		}
		return s.define(m)
	case wire.Create:
		m := &wirepb.Create{}
		if err := wire.DecodeMessage(h.Type, body, m); err != nil {
			return err
		}
		return s.create(m)
	case wire.Bind:
		m := &wirepb.Bind{}
		if err := wire.DecodeMessage(h.Type, body, m); err != nil {
			return err
		}
		return s.bind(m)
	case wire.Lookup:
		m := &wirepb.Lookup{}
		if err := wire.DecodeMessage(h.Type, body, m); err != nil {
			return err
		}
		s.lookup(h.Corr, m)
		return nil
	case wire.Kill:
		m := &wirepb.Kill{}
		if err := wire.DecodeMessage(h.Type, body, m); err != nil {
			return err
		}
		s.kill(h.Corr, m)
		return nil
	case wire.Cancel:
		m := &wirepb.Cancel{}
		if err := wire.DecodeMessage(h.Type, body, m); err != nil {
			return err
		}
		s.cancelCalls(m)
		return nil
	case wire.Goodbye:
		s.sayGoodbye(h.Corr)
		return nil
	}
	return yr.E("session", yr.FrameMalformed, "frame type %d is not one that a %s may send", h.Type, s.role)
}

// queue adds frames to what this session will be sent at the end of the turn.
//
// hot: once per frame sent.
func (s *Session) queue(add func(dst []byte) []byte) {
	if s.closed {
		return
	}
	s.touch()
	n := s.append(add)
	if n <= session.WriteAt {
		return
	}
	s.conn.Flush() // never waits; a turn with a lot to say need not keep all of it
	if n > session.HighWater && !s.full {
		s.full = true
		s.conn.Go(s.awaitRoom)
	}
}

// append puts frames behind those that wait. add is called at once and never
// kept: that is what saves an allocation for every frame.
//
// hot: once per frame sent.
func (s *Session) append(add func(dst []byte) []byte) (queued int) {
	if s.sock != nil {
		return s.sock.Queue(add)
	}
	frames := add(s.r.outgoing[:0])
	if cap(frames) <= keepOutgoing {
		s.r.outgoing = frames
	}
	return s.link.queue(frames)
}

// keepOutgoing bounds the scratch buffer that is kept for the next frame.
const keepOutgoing = 256 << 10

// touch marks the session for writing at the end of the turn.
func (s *Session) touch() {
	if !s.queued {
		s.queued = true
		s.r.dirty = append(s.r.dirty, s)
	}
}

// seal ends the turn for this session: the lock is still held.
func (s *Session) seal() {
	s.queued = false
	if len(s.freed) > 0 {
		s.append(func(dst []byte) []byte { return wire.AppendFreed(dst, s.freed) })
		s.freed = s.freed[:0]
	}
}

// awaitRoom waits for a slow peer, then sends what it could not take.
func (s *Session) awaitRoom() {
	s.conn.WaitRoom()
	s.r.turn(func() {
		s.full = false
		waiting := s.late
		s.late = nil
		for i, l := range waiting {
			if s.full {
				s.late = append(s.late, waiting[i:]...)
				return
			}
			s.pushLate(l)
		}
	})
}

// done answers a request.
func (s *Session) done(corr uint64, err error) {
	s.queue(func(dst []byte) []byte { return wire.AppendMessage(dst, wire.Done, corr, wire.StatusOf(err)) })
}

// reject tells the peer why its session ends, and ends it.
func (s *Session) reject(err error) {
	if s.closed {
		return
	}
	s.closed = true
	s.conn.Last(wire.AppendMessage(nil, wire.Reject, 0, wire.StatusOf(err)))
}

// Leave ends the session: its connection is gone, or its process is.
func (r *Router) Leave(s *Session, cause error) {
	r.turn(func() { r.leave(s, cause) })
}

func (r *Router) leave(s *Session, cause error) {
	if r.sessions[s.prefix] != s {
		return
	}
	delete(r.sessions, s.prefix)
	s.closed = true
	s.conn.Close()
	if cause != nil && !errors.Is(cause, errLeft) {
		r.opt.Log.Debug().Err(cause).Stringer("session", s.id).Msg("session ended")
	}
	for _, c := range r.calls {
		if c.caller == s {
			c.caller = nil
		}
	}
	if s.worker != nil {
		r.workerLeft(s.worker)
	}
	for _, t := range s.targets {
		if t.in != nil {
			delete(t.in.real().watchers, s)
		}
	}
	r.leftSpill(s)
	s.holder.End()
	r.opt.Store.EndHolder(s.id)
	if s.role != yr.RoleWorker {
		r.endJob(s.job, "its driver is gone")
	}
	r.hungry = true
}

var errLeft = errors.New("the session said goodbye")
