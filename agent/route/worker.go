package route

import (
	"fmt"
	"os"
	"time"

	"yr/agent/launch"
	"yr/pkg/wire"
	"yr/pkg/yr"
	"yr/scheduler"
	"yr/store"
)

// worker is a process that hosts user code: for a pool, or for one instance.
type worker struct {
	id          yr.ID
	token       string
	job         *job
	pool        *pool     // or
	in          *instance // the instance it hosts
	concurrency int
	plan        scheduler.Plan // what it took from the node, until it is gone

	// A worker that another node runs for this one: session is nil.
	host     *neighbour
	hire     uint32       // its number on the link
	hiredFor yr.Resources // what it takes there
	joined   bool         // it has connected there
	guest    *guest       // or: what this node knows of a worker that it runs for another one

	pid     int
	session *Session // nil: not connected yet, or no more
	home    yr.ID    // the session that it is, or was
	page    *os.File // progress page; nil if it sent none
	born    time.Time

	inflight   ring
	next       uint64          // last delivery number
	backlog    time.Duration   // estimated time of what is in flight
	lastFn     *function       // of the last result
	busySince  time.Time       // when the head of inflight began, as far as we know
	defined    map[uint32]bool // functions it was sent
	blockedAt  time.Time       // zero: not blocked
	cpuLent    yr.Milli        // its CPU share that is in use by others
	noYield    bool
	recalled   bool    // RECALL sent, YIELD not seen
	endCode    yr.Code // what calls of its instance end with; 0: InstanceExited
	retiring   bool    // takes no more tasks, ends when its results are in
	ending     string  // killed or told to end by us: why
	idleSince  time.Time
	exit       *launch.Exit
	everJoined bool
	unbuilt    bool // resumed, and nobody told it to build its instance

	lastStarted uint64 // hired, and gone: the last delivery that it began
	startKnown  bool
	leftAt      time.Time
}

// delivery is a task at a worker.
type delivery struct {
	call *call
	est  time.Duration
	done bool
}

// ring is the tasks in flight at a worker, by delivery number.
type ring struct {
	first uint64 // delivery number of list[0]
	list  []delivery
	n     int // not done
}

func (q *ring) len() int { return q.n }

func (q *ring) push(number uint64, d delivery) {
	if len(q.list) == 0 {
		q.first = number
	}
	q.list = append(q.list, d)
	q.n++
}

// take marks a delivery as done and returns it.
func (q *ring) take(number uint64) (delivery, bool) {
	if number < q.first || number >= q.first+uint64(len(q.list)) {
		return delivery{}, false
	}
	d := &q.list[number-q.first]
	if d.done {
		return delivery{}, false
	}
	got := *d
	d.done, d.call = true, nil
	q.n--
	k := 0
	for k < len(q.list) && q.list[k].done {
		k++
	}
	q.first += uint64(k)
	if k == len(q.list) {
		q.list = q.list[:0]
	} else {
		q.list = q.list[k:]
	}
	return got, true
}

// after takes everything beyond a delivery number, in order.
func (q *ring) after(number uint64) []delivery {
	var got []delivery
	for i := range q.list {
		if d := &q.list[i]; !d.done && q.first+uint64(i) > number {
			got = append(got, *d)
			d.done, d.call = true, nil
			q.n--
		}
	}
	if q.n == 0 {
		q.list = q.list[:0]
	}
	return got
}

// open reports whether the worker may be sent tasks at all.
func (w *worker) open() bool {
	return w.connected() && !w.retiring && w.ending == "" && !w.recalled && (w.blockedAt.IsZero() || w.noYield)
}

// takes reports whether one more task of this estimate may be sent now. Nothing
// is queued behind a task that has run for long, whatever its estimate was.
func (w *worker) takes(est time.Duration, now time.Time) bool {
	n := w.inflight.len()
	if n < w.concurrency {
		return true
	}
	if w.pool != nil && now.Sub(w.busySince) > recallAfter/2 {
		return false
	}
	return est > 0 && n < maxAhead && w.backlog+est <= window*time.Duration(w.concurrency)
}

// current is the call that the worker runs, as far as order tells.
func (w *worker) current() *call {
	if w.guest != nil {
		return w.guest.current()
	}
	for i := range w.inflight.list {
		if c := w.inflight.list[i].call; c != nil {
			return c
		}
	}
	return nil
}

// started is the last delivery that the worker began, read from its progress page.
func (w *worker) started() (uint64, bool) {
	if w.host != nil {
		return w.lastStarted, w.startKnown
	}
	if w.page == nil {
		return 0, false
	}
	var b [8]byte
	if n, err := w.page.ReadAt(b[:], 0); err != nil || n < 8 {
		return 0, false
	}
	var v uint64
	for i := 7; i >= 0; i-- {
		v = v<<8 | uint64(b[i])
	}
	return v, true
}

// deliver sends a call to a worker.
//
// hot: once per call.
func (r *Router) deliver(w *worker, c *call) {
	w.next++
	c.state, c.worker, c.delivery = callRunning, w, w.next
	est := c.estimate()
	if w.inflight.len() == 0 {
		w.busySince = r.now
	}
	w.inflight.push(w.next, delivery{call: c, est: est})
	w.backlog += est
	t := wire.Task{ID: c.id, NVals: c.nvals, Returns: c.returns, Method: c.method, Args: c.args}
	if c.fn != nil {
		t.Target = c.fn.number
		if !w.defined[t.Target] {
			w.defined[t.Target] = true
			m := r.definition(c.fn.code, t.Target, c.fn.initializer, w)
			w.send(func(dst []byte) []byte { return wire.AppendMessage(dst, wire.Define, 0, m) })
		}
	}
	var flags uint8
	if c.argsBlob {
		flags = wire.ArgsBlob
	}
	w.sendDepth(c.depth, func(dst []byte) []byte {
		dst, at := wire.AppendTask(dst, flags, c.delivery, &t)
		for i := range c.nvals {
			dst = r.appendDependency(dst, c.deps.At(i), w)
		}
		tail := wire.Tail{Attempt: c.attempt, Trace: c.trace}
		if !c.deadline.IsZero() {
			tail.Deadline = uint64(c.deadline.UnixMicro())
		}
		return wire.EndTask(dst, at, &t, &tail)
	})
}

// appendDependency appends the value of a dependency; the call holds it.
func (r *Router) appendDependency(dst []byte, id yr.ID, w *worker) []byte {
	var v wire.Value
	if n := r.names.Get(id); n != nil && n.State != store.Pending {
		if w.host != nil {
			v = r.valueFor(w.host, n)
		} else {
			v = r.wireValue(n)
		}
	} else {
		v = errorValue(yr.E("argument "+id.String(), yr.ObjectNotFound, "it was lost when the node's daemon was restarted"))
	}
	return wire.AppendValue(dst, &v, true)
}

// estimate is how long the call is thought to run; unknown counts as the window,
// so that nothing is queued behind it.
func (c *call) estimate() time.Duration {
	if c.fn != nil && c.fn.estimate > 0 {
		return c.fn.estimate
	}
	if c.in != nil && c.in.estimate > 0 {
		return c.in.estimate
	}
	return window
}

// result takes a RESULT frame of a worker.
//
// hot: once per call.
func (s *Session) result(number uint64, body []byte) error {
	id, values, _, err := wire.DecodeResult(body, s.scratch[:0])
	if err != nil {
		return err
	}
	s.scratch = values[:0]
	w := s.worker
	switch {
	case w == nil:
		return yr.E("result", yr.FrameMalformed, "this session is not a worker")
	case w.guest != nil:
		s.r.guestResult(w, number, id, values)
	default:
		s.r.result(w, number, id, values, s)
	}
	return nil
}

// result takes the outcome of a task. maker is whose memory the values lie in.
//
// hot: once per call.
func (r *Router) result(w *worker, number uint64, id yr.ID, values []wire.Value, maker *Session) {
	d, ok := w.inflight.take(number)
	if !ok {
		if !r.recoveredResult(w, id, values, maker) {
			r.discard(id, values, maker) // the task was given back, or this is a repetition
		}
		return
	}
	w.backlog -= d.est
	c := d.call
	w.lastFn = nil
	if c != nil {
		w.lastFn = c.fn
	}
	if w.in != nil && w.in.constructing(number) {
		r.constructed(w.in, values)
		return
	}
	if c == nil || c.state != callRunning || c.worker != w {
		r.discard(id, values, maker)
		return
	}
	failed := len(values) == 1 && values[0].Kind == wire.Failed
	if failed && r.retry(c) {
		return
	}
	r.complete(c, values, maker)
}

// settled closes the books on a chunk of results: how long the calls took, and
// what the worker does next.
func (r *Router) settled(w *worker, results int) {
	if w.inflight.len() == 0 {
		w.idleSince = r.now
	}
	took := r.now.Sub(w.busySince) / time.Duration(results)
	w.busySince = r.now
	if w.pool != nil {
		if f := w.lastFn; f != nil {
			f.estimate = average(f.estimate, took)
		}
		if w.retiring && w.inflight.len() == 0 {
			r.endWorker(w, "it ran a function that raised")
			return
		}
		if w.pool.queue.len() > 0 {
			r.dispatch(w.pool)
		} else if w.inflight.len() == 0 {
			r.hungry = r.hungry || r.starved()
		}
		return
	}
	w.in.estimate = average(w.in.estimate, took)
	r.pump(w.in)
}

// average is an exponentially weighted moving average that trusts its first sample.
func average(old, sample time.Duration) time.Duration {
	sample = max(sample, 100*time.Nanosecond)
	if old == 0 {
		return sample
	}
	return (old*3 + sample) / 4
}

// blocked is told that a worker waits inside a task.
func (r *Router) blocked(w *worker, after uint64) {
	w.blockedAt = r.now
	w.noYield = after == wire.NoYield
	if !w.noYield {
		r.takeBack(w, after)
	}
	if r.starved() {
		r.soon()
	}
}

// takeBack returns every task beyond a delivery to its queue.
func (r *Router) takeBack(w *worker, after uint64) {
	w.send(func(dst []byte) []byte { return wire.AppendEmpty(dst, wire.Yielded, 0) })
	r.requeueAll(w, w.inflight.after(after))
}

// requeueAll sends deliveries back, first in front.
func (r *Router) requeueAll(w *worker, list []delivery) {
	for i := len(list) - 1; i >= 0; i-- {
		w.backlog -= list[i].est
		if c := list[i].call; c != nil && c.state == callRunning && c.worker == w {
			r.requeue(c)
		}
	}
}

// lend gives the CPU share of a blocked worker to others.
func (r *Router) lend(w *worker) {
	w.cpuLent = w.plan.Take[yr.CPU]
	r.free[yr.CPU] += w.cpuLent
	r.hungry = true
}

func (r *Router) unblocked(w *worker) {
	w.blockedAt = time.Time{}
	w.noYield = false
	w.busySince = r.now
	if w.cpuLent != 0 {
		r.free[yr.CPU] -= w.cpuLent // below zero while others still use it
		w.cpuLent = 0
	}
}

// recall asks a worker for the tasks that it has not started.
func (r *Router) recall(w *worker) {
	if w.recalled || w.in != nil || w.concurrency > 1 || !w.connected() {
		return
	}
	w.recalled = true
	w.send(func(dst []byte) []byte { return wire.AppendEmpty(dst, wire.Recall, 0) })
}

// yielded takes the answer to RECALL, or the farewell of a worker.
func (r *Router) yielded(w *worker, after uint64, reason uint8) {
	if w.in != nil {
		return
	}
	w.recalled = false
	r.takeBack(w, after)
	if reason == wire.YieldRetiring {
		w.retiring = true
		if w.inflight.len() == 0 {
			r.endWorker(w, "it ran a function that raised")
		}
	}
}

// tickWorker does what time brings about for one worker and says when to look
// again.
func (r *Router) tickWorker(w *worker) time.Duration {
	if w.guest != nil {
		return r.tickGuest(w)
	}
	if w.host != nil && !w.joined {
		return r.tickHire(w)
	}
	if w.host == nil && w.session == nil {
		if w.everJoined && w.exit == nil && r.now.Sub(w.leftAt) > hangUp {
			r.endWorker(w, "it closed its connection")
		}
		return tickBusy
	}
	if !w.blockedAt.IsZero() {
		if w.cpuLent == 0 && r.now.Sub(w.blockedAt) >= blockedPatience {
			r.lend(w)
		}
		if w.cpuLent == 0 && r.starved() {
			return blockedPatience
		}
		return tickBusy
	}
	n := w.inflight.len()
	if n == 0 {
		if w.pool != nil && w.open() && r.now.Sub(w.idleSince) >= w.pool.job.recycle {
			r.endWorker(w, fmt.Sprintf("it was idle for %s", w.pool.job.recycle))
		}
		return tickIdle
	}
	if n > w.concurrency && w.pool != nil && r.now.Sub(w.busySince) > recallAfter {
		r.recall(w)
	}
	return tickBusy
}

// starved reports whether anything waits for resources.
func (r *Router) starved() bool {
	if len(r.creating) > 0 || len(r.applicants) > 0 {
		return true
	}
	for _, p := range r.pools {
		if p.queue.len() > 0 {
			return true
		}
	}
	return false
}

// hangUp is how long a worker may live without a connection before it is killed.
const hangUp = time.Second
