package route

import (
	"os"

	"google.golang.org/protobuf/proto"

	"yr/agent/session"
	"yr/pkg/wire"
	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
)

// Peer is what the agent knows of a process that says hello.
type Peer struct {
	Conn    *session.Conn
	Version uint16
	PID     int // as the kernel says
	Page    int // descriptor that came with HELLO, -1 if none; the router closes it
}

// Join makes a session of a HELLO and queues the WELCOME. The caller then serves
// the connection and calls Leave at its end.
func (r *Router) Join(p Peer, h *wirepb.Hello) (*Session, error) {
	page := openPage(p.Page)
	var s *Session
	var err error
	r.turn(func() { s, err = r.openSession(p, h, page) })
	if page != nil && (err != nil || s.role != yr.RoleWorker) {
		_ = page.Close()
	}
	return s, err
}

func (r *Router) openSession(p Peer, h *wirepb.Hello, page *os.File) (*Session, error) {
	if r.closing {
		return nil, yr.E("hello", yr.Communication, "the node is shutting down")
	}
	prefix := r.opt.Tag.NewPrefix()
	var err error
	if h.GetPrefix() != "" {
		if prefix, err = yr.ParsePrefix(h.GetPrefix()); err != nil {
			return nil, yr.Wrap("hello", yr.ParamInvalid, err)
		}
	}
	s := &Session{
		r: r, conn: p.Conn, sock: p.Conn, prefix: prefix, role: yr.Role(h.GetRole()), //nolint:gosec // checked below
		pid: p.PID, command: h.GetCommand(), evicts: h.GetEvicts(), targets: make([]target, 1),
	}
	s.id = s.prefix.ID(0)
	if old := r.sessions[s.prefix]; old != nil {
		if id, err := r.verify(h.GetResumeToken()); err != nil || id != s.id {
			return nil, yr.E("hello", yr.ParamInvalid, "the prefix %s belongs to another session", s.prefix)
		}
		r.leave(old, errLeft)
	}
	resumed := false
	var w *worker
	switch s.role {
	case yr.RoleDriver, yr.RoleData:
		if resumed = r.resumes(s, h); !resumed {
			if h.GetResumeToken() != "" {
				return nil, yr.E("hello", yr.Communication, "the session cannot be resumed: this daemon does not know it; start the program again")
			}
			if j := r.jobs[yr.Job(h.GetJob())]; j != nil && h.GetJob() != "" {
				return nil, yr.E("hello", yr.ParamInvalid, "job %s has a driver already; leave job_id empty to get a new one", j.id)
			}
		}
		s.job = r.jobs[yr.Job(h.GetJob())]
		if s.job == nil {
			s.job = r.newJob(h)
		} else {
			r.adoptJob(s.job, h)
		}
	case yr.RoleWorker:
		if h.GetResumeToken() != "" {
			w, err = r.resumeWorker(s, h)
			resumed = true
		} else {
			w, err = r.assign(h)
		}
		if err != nil {
			return nil, err
		}
		s.job = w.job
	default:
		return nil, yr.E("hello", yr.ParamInvalid, "unknown role %d", h.GetRole())
	}
	s.holder = r.names.Join(s.id, s.job.id)
	r.sessions[s.prefix] = s
	s.announcing = resumed
	for _, l := range h.GetLeases() {
		if err := r.opt.Store.Relet(s.id, l.GetSegment(), l.GetGeneration()); err != nil {
			r.opt.Log.Warn().Err(err).Stringer("session", s.id).Msg("a slab of a resuming session is lost")
		}
	}
	s.welcome(p.Version, w, resumed)
	if w != nil {
		if resumed {
			r.rejoin(w, s, page)
		} else {
			r.join(w, s, page)
		}
	}
	return s, nil
}

// welcome queues the WELCOME frame.
func (s *Session) welcome(version uint16, w *worker, resumed bool) {
	r := s.r
	m := &wirepb.Welcome{
		Version: uint32(version), Job: string(s.job.id), Node: string(r.opt.Node), NodeIp: r.opt.NodeIP,
		ResumeToken: r.resumeToken(s.id), Credit: creditDriver,
		InlinePutBudget: inlineBudget, InlinePutMax: wire.MaxInlinePut, InlineResultMax: wire.MaxInlineResult,
		ServerVersion: r.opt.Version, Resumed: resumed, LogDir: r.opt.LogDir,
		StoreCapacity: r.opt.Store.Stats().Capacity, Prefix: s.prefix.String(),
	}
	if w != nil {
		m.Credit = creditWorker
		if !resumed {
			b, err := proto.Marshal(w.assignment(r.opt.Node))
			if err != nil {
				panic("route: " + err.Error()) // its strings came out of protobuf messages
			}
			m.Assignment = b
		}
	}
	s.queue(func(dst []byte) []byte { return wire.AppendMessage(dst, wire.Welcome, 0, m) })
}
