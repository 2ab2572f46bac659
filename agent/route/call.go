package route

import (
	"math"
	"time"

	"yr/pkg/wire"
	"yr/pkg/yr"
	"yr/store"
)

type callState uint8

const (
	callWaiting callState = iota // for its dependencies
	callQueued                   // for a worker
	callRunning                  // sent to a worker
	callEnded
)

func (s callState) String() string {
	return [...]string{"waiting", "queued", "running", "ended"}[s]
}

// call is one request on its way. Its bytes are a copy: retries need them after
// the frame is gone.
type call struct {
	id       yr.ID
	caller   *Session // gets the RESULT; nil once it is gone
	job      *job
	fn       *function // or
	in       *instance
	deps     wire.IDs
	held     wire.IDs // those of deps that the object table keeps alive for this call
	method   []byte
	args     []byte
	nvals    int
	returns  uint8
	argsBlob bool

	state    callState
	resent   bool // by a session that resumes: its instance's home may know it
	boxed    bool // in the mailbox of its instance
	waiting  int  // dependencies without a value
	depth    int  // how many calls it is nested in
	parent   yr.ID
	attempt  uint32
	retries  uint32 // attempts left after a failure
	trace    string
	worker   *worker    // while running
	at       *neighbour // while running: the home of the instance, if that is another node
	delivery uint64
	since    time.Time

	deadline               time.Time
	bucket                 int64
	nextExpiry, prevExpiry *call
}

// name is what people call the thing that is called.
func (c *call) name() string {
	if c.fn != nil {
		return c.fn.name
	}
	return c.in.class + "." + string(c.method)
}

// call takes a CALL frame.
//
// hot: once per call.
func (s *Session) call(flags uint8, body []byte) error {
	var m wire.Call
	if err := wire.DecodeCall(body, &m); err != nil {
		return err
	}
	if m.ID.Prefix() != s.prefix && s.node == nil {
		return yr.E("call", yr.ParamInvalid, "call %s was not made by this session (%s)", m.ID, s.prefix)
	}
	if m.Target == 0 || int(m.Target) >= len(s.targets) {
		return yr.E("call "+m.ID.String(), yr.InvokeUsage, "number %d was not defined in this session", m.Target)
	}
	if s.unfinished >= 2*creditDriver && s.node == nil {
		return yr.E("call "+m.ID.String(), yr.RateLimited, "%d calls of this session have not ended; it was told to have at most %d", s.unfinished, creditDriver)
	}
	r := s.r
	t := s.targets[m.Target]
	if s.node != nil && t.in == nil {
		return yr.E("call "+m.ID.String(), yr.InvokeUsage, "number %d is no instance; a node calls instances only", m.Target)
	}
	c := &call{
		id: m.ID, caller: s, job: s.job, fn: t.fn, in: t.in,
		nvals: m.NVals, returns: m.Returns, argsBlob: flags&wire.ArgsBlob != 0,
		since: r.now, resent: flags&wire.Resent != 0,
	}
	if known := r.calls[m.ID]; known != nil {
		if flags&wire.Resent == 0 {
			return yr.E("call "+m.ID.String(), yr.ParamInvalid, "the call is under way already; a session uses an id once")
		}
		if known.caller != s {
			known.caller = s
			s.unfinished++
		}
		if f := known.in; f != nil && f.foreign != nil && known.at != nil {
			known.at.resend(known)
		}
		return nil
	}
	if s.node != nil {
		c.job = t.in.real().job
	}
	if s.node != nil && flags&wire.Resent != 0 {
		if frame := s.node.sent.find(m.ID); frame != nil {
			s.queue(func(dst []byte) []byte { return append(dst, frame...) })
			return nil
		}
	}
	c.own(&m)
	if len(m.Tail) > 0 {
		var tail wire.Tail
		if err := wire.DecodeTail(m.Tail, &tail); err != nil {
			return err
		}
		c.trace, c.attempt = tail.Trace, tail.Attempt
		if tail.Deadline != 0 {
			c.deadline = time.UnixMicro(int64(min(tail.Deadline, math.MaxInt64)))
		}
	}
	if c.fn != nil {
		c.retries = c.fn.retries
	}
	if w := s.worker; w != nil {
		if p := w.current(); p != nil {
			c.parent, c.depth = p.id, p.depth+1
		}
	}
	for k := range int(c.returns) {
		if _, err := s.holder.Claim(c.id.Return(k)); err != nil {
			return err
		}
	}
	s.unfinished++
	r.calls[c.id] = c
	if !c.deadline.IsZero() {
		r.deadlines.add(c)
	}
	r.counters.calls.Add(1)
	if flags&wire.Resent != 0 && r.recovered(c) {
		return nil
	}
	r.submit(c)
	return nil
}

// own copies what aliases the frame: one allocation for all of it.
func (c *call) own(m *wire.Call) {
	nd, nm := len(m.Deps), len(m.Method)
	b := make([]byte, nd+nm+len(m.Args))
	copy(b, m.Deps)
	copy(b[nd:], m.Method)
	copy(b[nd+nm:], m.Args)
	c.deps, c.method, c.args = wire.IDs(b[:nd:nd]), b[nd:nd+nm:nd+nm], b[nd+nm:]
}

// submit holds the dependencies and goes on when they have their values.
func (r *Router) submit(c *call) {
	if c.in != nil {
		c.in = c.in.real()
		if c.in.foreign == nil {
			c.in.enter(c)
		}
	}
	if s := c.caller; s != nil && s.role != yr.RoleWorker && s.node == nil && s.job.ended {
		r.fail(c, yr.E("call "+c.name(), yr.ScheduleCancelled, "its job has ended: this session has said goodbye"))
		return
	}
	var broken *store.Name[waiter]
	var missing yr.ID
	c.held = c.deps
	for i := range c.deps.Len() {
		n := r.names.Get(c.deps.At(i))
		if n == nil {
			n = r.borrow(c.deps.At(i))
		}
		if n == nil {
			missing = c.deps.At(i)
			c.held = c.deps[:i*yr.IDLen]
			break
		}
		r.names.Hold(n)
		switch n.State {
		case store.Pending:
			n.Waiters = append(n.Waiters, waiter{call: c})
			c.waiting++
		case store.Failed:
			broken = n
		case store.Ready:
		}
	}
	switch {
	case missing.IsZero() && c.in != nil && c.in.foreign != nil:
		if c.in.state.Ended() {
			r.failCall(c.in, c)
			return
		}
		c.waiting = 0 // its home sees to the arguments
		r.forward(c, c.resent)
	case !missing.IsZero():
		r.fail(c, yr.E("call "+c.name(), yr.ObjectNotFound,
			"its argument %s does not exist: it was released, or its job has ended; keep the reference until the call was made", missing))
	case broken != nil:
		r.failDependency(c, broken)
	case c.waiting == 0:
		r.ready(c)
	}
}

// dependencyReady is told that n has its value.
func (r *Router) dependencyReady(c *call, n *store.Name[waiter]) {
	if c.state == callEnded || c.state == callRunning { // running: since before a restart
		return
	}
	c.waiting--
	if n.State == store.Failed {
		r.failDependency(c, n)
		return
	}
	if c.waiting == 0 {
		r.ready(c)
	}
}

// ready sends a call whose dependencies are there on its way.
func (r *Router) ready(c *call) {
	if c.in != nil {
		if c == c.in.ctor {
			r.ctorReady(c.in)
		} else {
			r.callReady(c)
		}
		return
	}
	c.state = callQueued
	c.fn.pool.queue.push(c)
	r.dispatch(c.fn.pool)
}

// complete gives the results of a call to everyone who wants them. maker is the
// worker's session, whose slabs hold what is in shared memory.
//
// hot: once per call.
func (r *Router) complete(c *call, values []wire.Value, maker *Session) {
	if c.in != nil && c == c.in.ctor { // its arguments failed; the worker's own answer goes to constructed
		r.failInstance(c.in, yr.StateFatal, values[0])
		return
	}
	failed := len(values) == 1 && values[0].Kind == wire.Failed
	if !failed && len(values) != int(c.returns) {
		r.discard(c.id, values, maker)
		values = []wire.Value{errorValue(yr.E("call "+c.name(), yr.Internal, "the worker returned %d values, %d were asked for", len(values), c.returns))}
		failed = true
	}
	for k := range int(c.returns) {
		v := &values[0]
		if !failed {
			v = &values[k]
		}
		n := r.names.Get(c.id.Return(k))
		if n == nil || n.State != store.Pending { // nobody refers to it any more
			if v.Kind == wire.Placed || v.Kind == wire.Away || maker != nil && maker.node != nil {
				r.discard(c.id.Return(k), values[k:k+1], maker)
				*v = wire.Value{}
			}
			continue
		}
		var err error
		if maker != nil {
			err = r.setBy(maker, n, v)
		} else {
			err = r.set(n, yr.ID{}, v)
		}
		if err != nil {
			*v = errorValue(err)
			_ = r.set(n, yr.ID{}, v) // an error value has no place that could be refused
		}
	}
	if failed {
		r.counters.failures.Add(1)
		r.ended.call(c, values[0])
	}
	if s := c.caller; s != nil {
		switch {
		case s.node != nil:
			r.resultForNode(s, c, values)
		case !s.evicts && r.whenHere(s, c): // an old SDK does not know that a value can be elsewhere
		case s.full:
			s.late = append(s.late, late{id: c.id, returns: c.returns})
		default:
			s.queue(func(dst []byte) []byte { return wire.AppendResult(dst, 0, c.id, values) })
		}
	}
	r.end(c)
}

// discard gives back blobs that were never published.
func (r *Router) discard(id yr.ID, values []wire.Value, maker *Session) {
	if maker != nil && maker.node != nil {
		r.returnValues(maker.node, id, values)
		return
	}
	for i := range values {
		if values[i].Kind == wire.Placed && maker != nil && !maker.closed {
			maker.freed = append(maker.freed, values[i].Place)
			maker.touch()
		}
	}
}

// fail ends a call with a system error.
func (r *Router) fail(c *call, err error) {
	if c.state == callEnded {
		return
	}
	r.complete(c, []wire.Value{errorValue(err)}, nil)
}

// failDependency ends a call because an argument failed; the caller catches the
// first function's exception.
func (r *Router) failDependency(c *call, n *store.Name[waiter]) {
	v := r.wireValue(n)
	if !v.Serialized {
		v.Data = append([]byte("an argument ("+n.ID.String()+") failed: "), v.Data...)
	}
	v.Code = yr.DependencyFailed
	r.complete(c, []wire.Value{v}, nil)
}

// end forgets a call. Its entry at a worker, if it has one, stays there until the
// worker answers or dies.
func (r *Router) end(c *call) {
	queued := c.state == callQueued
	c.state = callEnded
	if queued && c.fn != nil {
		c.fn.pool.queue.dropped(c)
	}
	delete(r.calls, c.id)
	r.deadlines.remove(c)
	r.letGo(c)
	c.args = nil // queues forget ended calls late
	if c.caller != nil {
		c.caller.unfinished--
	}
	if c.in != nil {
		c.in.left(c)
	}
}

// disown leaves the caller without an answer.
func (c *call) disown() {
	if c.caller != nil {
		c.caller.unfinished--
		c.caller = nil
	}
}

// letGo gives up the arguments of a call.
func (r *Router) letGo(c *call) {
	held := c.held
	c.held = nil
	for i := range held.Len() {
		if n := r.names.Get(held.At(i)); n != nil {
			r.names.Unhold(n)
		}
	}
}

// requeue sends a call back to its queue, in front of what came later.
func (r *Router) requeue(c *call) {
	c.worker, c.delivery = nil, 0
	if c.in != nil {
		c.state = callWaiting
		c.in.reenter(c)
		return
	}
	c.state = callQueued
	c.fn.pool.queue.unpop(c)
	r.hungry = true
}

// retry runs a call again if it has attempts left.
func (r *Router) retry(c *call) bool {
	if c.fn == nil || c.retries == 0 || c.state != callRunning {
		return false
	}
	c.retries--
	c.attempt++
	r.counters.retries.Add(1)
	r.requeue(c)
	return true
}

// late is what a session's full connection could not take: a result, or an object
// that it asked for. The bytes stay in the object table meanwhile.
type late struct {
	id      yr.ID
	returns uint8
	object  bool
}

// pushLate sends it.
func (s *Session) pushLate(l late) {
	if l.object {
		s.push(l.id)
		return
	}
	values := s.scratch[:0]
	for k := range int(l.returns) {
		n := s.r.names.Get(l.id.Return(k))
		if n == nil {
			values = append(values, wire.Value{})
			continue
		}
		values = append(values, withContains(s.r.wireValue(n), n))
		if n.State == store.Failed {
			values = values[len(values)-1:]
			break
		}
	}
	s.queue(func(dst []byte) []byte { return wire.AppendResult(dst, 0, l.id, values) })
}
