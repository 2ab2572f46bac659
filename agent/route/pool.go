package route

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"yr/pkg/wire"
	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
	"yr/scheduler"
)

// code is a serialised function or class, kept once however often it is defined.
type code struct {
	id     []byte
	name   string
	blob   []byte
	object yr.ID // instead of blob: the object that holds it; held as long as the job
}

// function is something that can be called: code with options, in one job.
type function struct {
	number      uint32 // in TASK frames, unique on this node
	code        *code
	name        string
	initializer []byte
	pool        *pool
	retries     uint32
	estimate    time.Duration // moving average of one call's time; 0: not known yet
}

// poolKey says which calls may share workers: everything of the options that
// shapes a process or its place.
type poolKey struct {
	job  yr.Job
	spec string
}

// pool is the workers of one specification and the calls that wait for them.
type pool struct {
	key         poolKey
	job         *job
	options     *wirepb.Options
	need        yr.Resources
	concurrency int
	max         int // workers; 0: no cap

	queue    queue
	workers  []*worker // connected ones
	last     *worker   // had the last call; most likely to take the next
	starting int
	failures int   // workers in a row that ended before they connected
	failure  error // of the last of them
	never    error // no node can ever hold a worker of this pool
	reason   string
	stalled  bool      // it could not grow; nothing has changed since
	asking   bool      // the leader was asked where it may grow
	askAt    time.Time // not before
	startAt  time.Time // not before: starts have failed
}

// define takes a DEFINE frame: the function gets its number in this session.
func (s *Session) define(m *wirepb.Function) error {
	r := s.r
	if s.job.pools == nil { // the job is over and forgotten: the function takes a number, and no calls
		return s.number(m.GetNumber(), target{fn: &function{code: &code{}, name: m.GetName(), pool: &pool{job: s.job}}})
	}
	c, err := s.job.code(r, m.GetCodeId(), m.GetName(), m.GetCode(), m.GetCodeObject())
	if err != nil {
		return err
	}
	p, err := r.poolOf(s.job, m.GetOptions())
	if err != nil {
		return err
	}
	r.functions++
	f := &function{
		number: r.functions, code: c, name: m.GetName(), initializer: m.GetInitializer(),
		pool: p, retries: m.GetOptions().GetRetryTimes(),
	}
	return s.number(m.GetNumber(), target{fn: f})
}

// maxTargets bounds the numbers of one session.
const maxTargets = 1 << 20

// number remembers what a session's number stands for.
func (s *Session) number(n uint32, t target) error {
	if n == 0 || n > maxTargets {
		return yr.E("define", yr.ParamInvalid, "number %d is outside 1 to %d", n, maxTargets)
	}
	for int(n) >= len(s.targets) {
		s.targets = append(s.targets, target{})
	}
	s.targets[n] = t
	return nil
}

// code finds or keeps a piece of code.
func (j *job) code(r *Router, id []byte, name string, blob, object []byte) (*code, error) {
	if c := j.codes[string(id)]; c != nil {
		return c, nil
	}
	c := &code{id: id, name: name, blob: blob}
	if len(object) > 0 {
		oid, err := yr.ParseID(string(object))
		if err != nil {
			return nil, yr.Wrap("define "+name, yr.ParamInvalid, err)
		}
		n := r.names.Get(oid)
		if n == nil {
			return nil, yr.E("define "+name, yr.ObjectNotFound, "the object %s that holds its code does not exist", oid)
		}
		r.names.Hold(n)
		c.object = oid
	}
	j.codes[string(id)] = c
	return c, nil
}

// definition is the DEFINE frame for a worker.
func (r *Router) definition(c *code, number uint32, initializer []byte, w *worker) *wirepb.Function {
	m := &wirepb.Function{Number: number, CodeId: c.id, Name: c.name, Code: c.blob, Initializer: initializer}
	if c.object.IsZero() {
		return m
	}
	n := r.names.Get(c.object)
	if n == nil {
		return m // the worker reports that the code is empty
	}
	if w.host != nil {
		m.CodeValue = &wirepb.Value{}
		if v := r.valueFor(w.host, n); v.Kind == wire.Away {
			m.CodeValue.Away = v.Data
		} else {
			m.CodeValue.Inline = v.Data
		}
		return m
	}
	v := r.wireValue(n)
	m.CodeValue = &wirepb.Value{Inline: v.Data, Segment: v.Place.Segment, Generation: v.Place.Generation, Offset: v.Place.Offset, Length: v.Place.Length}
	return m
}

// needOf is what a worker with these options takes from a node.
func needOf(o *wirepb.Options) yr.Resources {
	need := yr.Resources{}
	if v := o.GetCpu(); v > 0 {
		need[yr.CPU] = yr.Amount(v)
	}
	if v := o.GetMemory(); v > 0 {
		need[yr.Memory] = yr.Amount(v)
	}
	for k, v := range o.GetCustomResources() {
		if v > 0 {
			need[k] = yr.Amount(v)
		}
	}
	return need
}

// poolOf finds or makes the pool for these options.
func (r *Router) poolOf(j *job, o *wirepb.Options) (*pool, error) {
	spec, err := json.Marshal([]any{
		o.GetCpu(), o.GetMemory(), o.GetCustomResources(), o.GetConcurrency(), o.GetEnvVars(), o.GetRuntimeEnv(),
		o.GetLabels(), o.GetMaxInstances(), o.GetPriority(), o.GetCustomExtensions(),
	}) // maps are written in the order of their keys
	if err != nil {
		return nil, yr.Wrap("define", yr.ParamInvalid, err)
	}
	key := poolKey{j.id, string(spec)}
	if p := r.pools[key]; p != nil {
		return p, nil
	}
	p := &pool{
		key: key, job: j, options: o, need: needOf(o),
		concurrency: max(1, int(o.GetConcurrency())), max: max(0, int(o.GetMaxInstances())),
	}
	if r.alone() || scheduler.Validate(p.need) != nil {
		p.never = r.infeasible(p.need, o, j)
	}
	r.pools[key] = p
	j.pools[p] = struct{}{}
	return p, nil
}

// dispatch gives queued calls to workers, then starts workers for the rest.
//
// hot: once per call.
func (r *Router) dispatch(p *pool) {
	if p.never != nil {
		if p.never = r.infeasible(p.need, p.options, p.job); p.never != nil { // a node may have joined
			r.failQueue(p, p.never)
			return
		}
	}
	if r.recovery != nil {
		return // the workers of before the restart are coming back
	}
	for c := p.queue.peek(); c != nil; c = p.queue.peek() {
		w := p.pick(c, r.now)
		if w == nil {
			r.grow(p)
			return
		}
		p.queue.pop()
		if r.here(c, w) {
			r.deliver(w, c)
		} else {
			c.state = callWaiting // for its arguments to be brought here
		}
	}
}

// failQueue ends everything that waits for a worker.
func (r *Router) failQueue(p *pool, cause error) {
	for c := p.queue.peek(); c != nil; c = p.queue.peek() {
		r.fail(c, cause)
	}
}

// pick chooses the worker for a call: the one that had the last call while its
// backlog is too short to be worth a second wake, else an idle one, else the one
// with the least backlog that may still be sent more.
//
// hot: once per call.
func (p *pool) pick(c *call, now time.Time) *worker {
	est := c.fn.estimate
	if w := p.last; w != nil && w.open() && est > 0 && w.backlog+est <= packing && w.takes(est, now) {
		return w
	}
	var best *worker
	for _, w := range p.workers {
		if !w.open() || !w.takes(est, now) {
			continue
		}
		if best == nil || w.backlog < best.backlog {
			best = w
		}
	}
	if best != nil {
		p.last = best
	}
	return best
}

// grow starts workers for calls that no worker can take now.
func (r *Router) grow(p *pool) {
	if p.stalled {
		return
	}
	p.stalled = true
	if r.now.Before(p.startAt) {
		p.reason = "workers could not be started, trying again: " + p.failure.Error()
		return
	}
	want := p.wanted()
	for p.starting < want {
		if p.max > 0 && p.starting+len(p.workers) >= p.max {
			p.reason = fmt.Sprintf("all %d workers that max_instances allows are busy", p.max)
			return
		}
		if most := p.job.maxWorkers; most > 0 && p.job.workers >= most {
			p.reason = fmt.Sprintf("all %d workers that max_task_instance_num allows are busy", most)
			return
		}
		if err := r.startPoolWorker(p, p.queue.peek().caller); err != nil {
			p.reason = err.Error()
			if yr.CodeOf(err) == yr.ScheduleCancelled {
				return
			}
			r.askForPool(p)
			return
		}
		p.reason = "a worker is starting"
	}
	p.stalled = false
}

// askForPool has the leader look for a node where the pool may grow.
func (r *Router) askForPool(p *pool) {
	if r.alone() || r.now.Before(p.askAt) {
		return
	}
	_, request := r.request(p.need, p.options, p.job)
	r.ask(&p.asking, request, func(id yr.ID, plan scheduler.Plan, err error) {
		p.askAt = r.now.Add(askAgain)
		head := p.queue.peek()
		switch {
		case err != nil:
			p.reason += "; the leader could not be asked for another node: " + messageOf(err)
		case head == nil:
		case plan.Verdict == scheduler.Placed && plan.Node != r.opt.Node:
			r.hirePoolWorker(p, plan.Node, id)
		case plan.Verdict == scheduler.Never:
			r.failQueue(p, yr.E("schedule", plan.Code, "%s", plan.Reason))
		case plan.Verdict == scheduler.Wait:
			p.reason = plan.Reason
		}
	})
}

// askAgain is how long the leader's answer is good for.
const askAgain = 250 * time.Millisecond

// wanted is how many workers should be on their way for what is queued.
func (p *pool) wanted() int {
	head := p.queue.peek()
	if est := head.fn.estimate; est > 0 && est < window {
		// Short calls: they are queued only because workers have a window's work
		// ahead. One more at a time until that is no longer so.
		return 1
	}
	return min((p.queue.len()+p.concurrency-1)/p.concurrency, maxStarting)
}

// maxStarting is how many workers of one pool may be starting at once.
const maxStarting = 100

// queue holds calls by depth: deeper first, so that recursion runs depth first
// and needs as few blocked workers as possible; in order within a depth.
type queue struct {
	levels []fifo
	n      int
}

// maxDepth is the deepest level of its own; deeper calls share the last.
const maxDepth = 255

func (q *queue) len() int { return q.n }

func (q *queue) level(c *call) *fifo {
	d := min(c.depth, maxDepth)
	for len(q.levels) <= d {
		q.levels = append(q.levels, fifo{})
	}
	return &q.levels[d]
}

func (q *queue) push(c *call)  { q.level(c).push(c); q.n++ }
func (q *queue) unpop(c *call) { q.level(c).unpop(c); q.n++ }

// dropped accounts for a queued call that has ended.
func (q *queue) dropped(c *call) {
	q.level(c).dropped()
	q.n--
}

// peek is the call that is next, or nil.
func (q *queue) peek() *call {
	for d := len(q.levels) - 1; d >= 0; d-- {
		if c := q.levels[d].peek(); c != nil {
			return c
		}
	}
	return nil
}

func (q *queue) pop() *call {
	for d := len(q.levels) - 1; d >= 0; d-- {
		if c := q.levels[d].peek(); c != nil {
			q.levels[d].pop()
			q.n--
			return c
		}
	}
	return nil
}

// remove takes out a call that turned out to be running already.
func (q *queue) remove(c *call) {
	q.level(c).remove(c)
	q.n--
}

// fifo is a queue of calls in which ended ones are skipped, and swept out when
// they are too many: behind a call that waits for long, others come and expire.
type fifo struct {
	front []*call // put back, last first
	list  []*call
	head  int
	ended int // dropped since the last sweep
}

// sweepAt is how many ended calls are worth a sweep.
const sweepAt = 256

// dropped is told that a call in the list has ended.
func (f *fifo) dropped() {
	f.ended++
	if f.ended < sweepAt || 2*f.ended < len(f.front)+len(f.list)-f.head {
		return
	}
	f.ended = 0
	over := func(c *call) bool { return c.state == callEnded }
	f.front = slices.DeleteFunc(f.front, over)
	f.list = slices.DeleteFunc(slices.Delete(f.list, 0, f.head), over)
	f.head = 0
}

func (f *fifo) push(c *call)  { f.list = append(f.list, c) }
func (f *fifo) unpop(c *call) { f.front = append(f.front, c) }

func (f *fifo) peek() *call {
	for n := len(f.front); n > 0; n = len(f.front) {
		if f.front[n-1].state != callEnded {
			return f.front[n-1]
		}
		f.front = f.front[:n-1]
	}
	for f.head < len(f.list) {
		if c := f.list[f.head]; c.state != callEnded {
			return c
		}
		f.skip()
	}
	return nil
}

// remove takes out one call, wherever it is.
func (f *fifo) remove(c *call) {
	if i := slices.Index(f.front, c); i >= 0 {
		f.front = slices.Delete(f.front, i, i+1)
	}
	if i := slices.Index(f.list[f.head:], c); i >= 0 {
		f.list = slices.Delete(f.list, f.head+i, f.head+i+1)
	}
}

// pop removes what peek returned.
func (f *fifo) pop() {
	if n := len(f.front); n > 0 {
		f.front = f.front[:n-1]
		return
	}
	f.skip()
}

func (f *fifo) skip() {
	f.list[f.head] = nil
	f.head++
	switch {
	case f.head == len(f.list):
		f.list, f.head = f.list[:0], 0
		if cap(f.list) > 1<<16 {
			f.list = nil
		}
	case f.head > 1024 && f.head*2 > len(f.list):
		n := copy(f.list, f.list[f.head:])
		clear(f.list[n:])
		f.list, f.head = f.list[:n], 0
	}
}

// without removes a worker from the pool.
func (p *pool) without(w *worker) {
	if i := slices.Index(p.workers, w); i >= 0 {
		p.workers = slices.Delete(p.workers, i, i+1)
	}
	if p.last == w {
		p.last = nil
	}
}
