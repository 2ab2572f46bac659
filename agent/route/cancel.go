package route

import (
	"time"

	"yr/pkg/wire"
	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
)

// Cancelled calls and passed deadlines: the two ways in which a call ends before
// its function does.

// cancelCalls takes a CANCEL frame. Calls that have ended, and calls of others,
// are left alone.
func (s *Session) cancelCalls(m *wirepb.Cancel) {
	for _, raw := range m.GetIds() {
		id, err := yr.ParseID(string(raw))
		if err != nil {
			continue
		}
		if s.node != nil && m.GetRecursive() && s.r.calls[id] == nil { // of a task that a guest runs
			for _, child := range s.r.children(id) {
				s.r.cancelCall(child, m.GetForce(), true)
			}
		}
		if c := s.r.calls[id]; c != nil && (s.node != nil || c.job == s.job) {
			s.r.cancelCall(c, m.GetForce(), m.GetRecursive())
		}
	}
}

func (r *Router) cancelCall(c *call, force, recursive bool) {
	if recursive {
		for _, child := range r.children(c.id) {
			r.cancelCall(child, force, true)
		}
		switch {
		case c.at != nil:
			c.at.cancel(c.id, force, true)
		case c.worker != nil && c.worker.host != nil:
			c.worker.host.cancel(c.id, force, true)
		}
	}
	if c.state == callEnded {
		return
	}
	cause := yr.E("get "+c.id.String(), yr.Internal, "invalid get obj, the obj has been cancelled. %s was cancelled while it was %s", c.name(), c.state)
	if c.state != callRunning {
		if c.in == nil || !force {
			r.fail(c, cause)
		}
		return
	}
	if c.in != nil || !force {
		return
	}
	r.stop(c, cause)
}

// cancel passes a cancellation on to the node that runs a call, or what it called.
func (n *neighbour) cancel(id yr.ID, force, recursive bool) {
	m := &wirepb.Cancel{Ids: [][]byte{id[:]}, Force: force, Recursive: recursive}
	n.queue(func(dst []byte) []byte { return wire.AppendMessage(dst, wire.Cancel, 0, m) })
}

// children are the calls that the function running as id has made.
func (r *Router) children(id yr.ID) []*call {
	var list []*call
	for _, c := range r.calls {
		if c.parent == id {
			list = append(list, c)
		}
	}
	return list
}

// stop ends a running call for its caller. The process that runs it is killed if
// it runs nothing else; tasks behind it in the same worker run elsewhere.
func (r *Router) stop(c *call, cause error) {
	w, at := c.worker, c.at
	if at != nil {
		delete(at.calls, c.id)
		at.cancel(c.id, true, false)
	}
	r.fail(c, cause)
	if w == nil {
		return
	}
	if w.concurrency > 1 || w.in != nil {
		return
	}
	if started, ok := w.started(); ok && started < c.delivery {
		r.recall(w) // it had not begun: the worker lives on
		return
	}
	r.endWorker(w, "its task was stopped: "+cause.Error())
}

// expireGrain is how precisely deadlines are kept: a call ends at most this much
// (and a tick) after its deadline.
const expireGrain = 50 * time.Millisecond

// grains is a time in units of expireGrain, also for dates that are too far away
// to be counted in nanoseconds.
func grains(t time.Time) int64 { return t.UnixMilli() / expireGrain.Milliseconds() }

// deadlines holds the calls that have one, in buckets of expireGrain, so that
// adding and removing cost nothing worth measuring.
type deadlines struct {
	buckets map[int64]*call // heads of doubly linked lists
	passed  int64           // every bucket up to here has been looked at
}

func (d *deadlines) init() { d.buckets = make(map[int64]*call) }

func (d *deadlines) empty() bool { return len(d.buckets) == 0 }

// add is hot: once per call that has a deadline.
func (d *deadlines) add(c *call) {
	c.bucket = grains(c.deadline) + 1
	if c.bucket <= d.passed {
		c.bucket = d.passed + 1
	}
	head := d.buckets[c.bucket]
	c.nextExpiry = head
	if head != nil {
		head.prevExpiry = c
	}
	d.buckets[c.bucket] = c
}

// remove is hot: once per call that had a deadline.
func (d *deadlines) remove(c *call) {
	if c.bucket == 0 {
		return
	}
	if c.nextExpiry != nil {
		c.nextExpiry.prevExpiry = c.prevExpiry
	}
	switch {
	case c.prevExpiry != nil:
		c.prevExpiry.nextExpiry = c.nextExpiry
	case c.nextExpiry != nil:
		d.buckets[c.bucket] = c.nextExpiry
	default:
		delete(d.buckets, c.bucket)
	}
	c.bucket, c.nextExpiry, c.prevExpiry = 0, nil, nil
}

// expire ends the calls whose deadline has passed.
func (r *Router) expire() {
	d := &r.deadlines
	now := grains(r.now)
	if now <= d.passed {
		return
	}
	for b := range d.buckets {
		if b > now {
			continue
		}
		for c := d.buckets[b]; c != nil; c = d.buckets[b] {
			r.deadlines.remove(c)
			cause := yr.E("call "+c.name(), yr.DeadlineExceeded,
				"its deadline passed while it was %s (%s); give it more time or find out with `yr why %s` what it waits for",
				c.state, r.now.Sub(c.since).Round(time.Millisecond), c.id)
			if c.state == callRunning {
				r.stop(c, cause)
			} else {
				r.fail(c, cause)
			}
		}
	}
	d.passed = now
}
