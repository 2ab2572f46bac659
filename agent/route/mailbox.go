package route

import "yr/pkg/yr"

// The mailbox of an instance: its calls until its worker has them. An ordered one
// has a lane for each caller, of which only the head is ever delivered.

// lane keeps the calls of one caller in order.
type lane struct{ calls fifo }

// maxIdleLanes bounds what an instance remembers of callers with no calls under way.
const maxIdleLanes = 256

// enter takes a call into the mailbox. Whether its arguments are there is seen later.
func (in *instance) enter(c *call) {
	if c == in.ctor {
		return
	}
	in.box(c)
	if in.ordered {
		in.lane(c.id.Prefix()).calls.push(c)
	}
}

// box and unbox count what is in the mailbox.
func (in *instance) box(c *call) {
	c.boxed = true
	in.pending++
}

func (in *instance) unbox(c *call) {
	c.boxed = false
	in.pending--
}

func (in *instance) lane(caller yr.Prefix) *lane {
	l := in.lanes[caller]
	if l == nil {
		if len(in.lanes) >= maxIdleLanes {
			for p, old := range in.lanes {
				if old.calls.peek() == nil {
					delete(in.lanes, p)
				}
			}
		}
		l = &lane{}
		in.lanes[caller] = l
	}
	return l
}

// reenter puts a call back that a worker had and did not answer.
func (in *instance) reenter(c *call) {
	in.box(c)
	if in.ordered {
		in.lane(c.id.Prefix()).calls.unpop(c)
	} else {
		in.loose.unpop(c)
	}
}

// withdraw takes a call out of the mailbox that turned out to be running already.
func (in *instance) withdraw(c *call) {
	in.unbox(c)
	if in.ordered {
		in.lane(c.id.Prefix()).calls.remove(c)
	} else {
		in.loose.remove(c)
	}
}

// left accounts for a call that ended.
func (in *instance) left(c *call) {
	if !c.boxed {
		return
	}
	in.unbox(c)
	if !in.ordered {
		in.loose.dropped()
	} else if l := in.lanes[c.id.Prefix()]; l != nil {
		l.calls.dropped()
	}
}

// callReady takes a call whose arguments are there.
//
// hot: once per method call.
func (r *Router) callReady(c *call) {
	in := c.in
	c.state = callQueued
	if in.state.Ended() || in.state == yr.StateExiting {
		r.failCall(in, c)
		return
	}
	if in.ordered {
		r.pumpLane(in, in.lane(c.id.Prefix()))
		return
	}
	in.loose.push(c)
	r.pumpLoose(in)
}

// pump sends the worker what it may have now.
func (r *Router) pump(in *instance) {
	if !in.ordered {
		r.pumpLoose(in)
		return
	}
	if in.pending == 0 {
		return
	}
	for _, l := range in.lanes {
		r.pumpLane(in, l)
	}
}

func (r *Router) pumpLane(in *instance, l *lane) {
	for c := l.calls.peek(); c != nil && c.waiting == 0 && r.mayDeliver(in, c) && r.here(c, in.worker); c = l.calls.peek() {
		l.calls.pop()
		in.unbox(c)
		r.deliver(in.worker, c)
	}
}

func (r *Router) pumpLoose(in *instance) {
	for c := in.loose.peek(); c != nil && r.mayDeliver(in, c); c = in.loose.peek() {
		in.loose.pop()
		if !r.here(c, in.worker) {
			c.state = callWaiting // it comes back when its arguments are here
			continue
		}
		in.unbox(c)
		r.deliver(in.worker, c)
	}
}

func (r *Router) mayDeliver(in *instance, c *call) bool {
	return in.state == yr.StateRunning && r.recovery == nil && in.worker.open() && in.worker.takes(c.estimate(), r.now)
}
