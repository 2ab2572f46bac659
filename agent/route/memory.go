package route

import (
	"os"
	"strings"
	"time"

	"yr/pkg/wire"
	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
)

// Slabs: leases of shared memory, and the descriptors of segments.

// lease takes a LEASE frame. A store without room answers at once with the
// reason; sessions that hold empty slabs are asked to return them, so that the
// SDK's next try may succeed.
func (s *Session) lease(corr uint64, body []byte) error {
	m := &wirepb.LeaseRequest{}
	if err := wire.DecodeMessage(wire.Lease, body, m); err != nil {
		return err
	}
	l, err := s.r.opt.Store.Lease(s.id, m.GetSize(), m.GetWish())
	if err != nil {
		s.r.reclaim()
		s.r.makeRoom(m.GetSize())
		err = s.r.noteSpill(err)
	}
	answer := &wirepb.Lease{Status: wire.StatusOf(err), Segment: l.Segment, Generation: l.Generation, Size: l.Size}
	s.queue(func(dst []byte) []byte { return wire.AppendMessage(dst, wire.Leased, corr, answer) })
	return nil
}

// reclaim asks every session for the slabs that it does not use. One that does not
// read is left alone: asking it again and again would only fill its queue.
func (r *Router) reclaim() {
	for _, s := range r.sessions {
		if s.full {
			continue
		}
		s.queue(func(dst []byte) []byte { return wire.AppendEmpty(dst, wire.Reclaim, 0) })
	}
	r.makeRoom(0)
}

// MapSegment answers a MAP frame: the descriptor of a segment, for a session that
// proves itself by its resume token.
func (r *Router) MapSegment(m *wirepb.MapRequest) (*os.File, error) {
	id, err := r.verify(m.GetResumeToken())
	if err != nil {
		return nil, err
	}
	if !r.awaitSession(id) {
		return nil, yr.E("map", yr.Communication, "session %s is not connected", id)
	}
	return r.opt.Store.File(m.GetSegment(), m.GetGeneration(), m.GetWritable(), id)
}

// awaitSession waits, after a restart, for a session to come back.
func (r *Router) awaitSession(id yr.ID) bool {
	t := time.NewTicker(5 * time.Millisecond)
	defer t.Stop()
	for {
		r.mu.Lock()
		there, recovering := r.sessions[id.Prefix()] != nil, r.recovery != nil
		r.mu.Unlock()
		if there || !recovering {
			return there
		}
		select {
		case <-r.ctx.Done():
			return false
		case <-t.C:
		}
	}
}

// resumeToken names a session and proves, also to a restarted daemon, that this
// node made it.
func (r *Router) resumeToken(id yr.ID) string { return id.String() + "." + r.opt.Sign(id.String()) }

// verify reads a resume token.
func (r *Router) verify(token string) (yr.ID, error) {
	name, _, _ := strings.Cut(token, ".")
	id, err := yr.ParseID(name)
	if err != nil || r.resumeToken(id) != token {
		return yr.ID{}, yr.E("session", yr.Unauthorized, "the session token is not one of this node")
	}
	return id, nil
}
