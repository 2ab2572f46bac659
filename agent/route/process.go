package route

import (
	"maps"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"yr/agent/launch"
	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
	"yr/scheduler"
)

// The life of a worker process: room is found for it, it is started, it connects,
// it is ended or ends, and what it leaves behind is dealt with.

// startPoolWorker starts a process for a pool if the node has room for it.
func (r *Router) startPoolWorker(p *pool, caller *Session) error {
	w := &worker{pool: p, job: p.job, concurrency: p.concurrency}
	if err := r.start(w, p.need, p.options, "pool", caller); err != nil {
		return err
	}
	p.starting++
	p.job.workers++
	return nil
}

// hirePoolWorker hires a worker for a pool on a node that the leader named.
func (r *Router) hirePoolWorker(p *pool, node yr.Node, id yr.ID) {
	w := &worker{id: id, pool: p, job: p.job, concurrency: p.concurrency}
	r.startAt(node, w, p.need, p.options)
	p.starting++
	p.job.workers++
}

// startAt hires w on a node.
func (r *Router) startAt(node yr.Node, w *worker, need yr.Resources, o *wirepb.Options) {
	w.born, w.defined = r.now, make(map[uint32]bool)
	r.hireAt(node, w, need, o)
	r.workers[w.id] = w
	r.counters.workersStarted.Add(1)
}

// start reserves what w needs and launches it. The error says what is short.
func (r *Router) start(w *worker, need yr.Resources, o *wirepb.Options, note string, caller *Session) error {
	if r.closing {
		return yr.E("start worker", yr.ScheduleCancelled, "the node is shutting down")
	}
	if w.id.IsZero() {
		w.id = r.opt.Tag.NewID()
	}
	w.token = yr.NewID().String() + yr.NewID().String()
	w.born = r.now
	w.defined = make(map[uint32]bool)
	if err := r.reserve(w, need, o); err != nil {
		switch {
		case w.guest == nil && r.elsewhere(w, need, o):
		case caller.waits() && r.stuck() && r.overcommit(w, need):
		default:
			return err
		}
	}
	r.workers[w.id] = w
	r.counters.workersStarted.Add(1)
	if w.host == nil {
		r.launch(w, o, note)
	}
	return nil
}

// launch starts the process of a worker on this node.
func (r *Router) launch(w *worker, o *wirepb.Options, note string) {
	r.opt.Launcher.Start(launch.Spec{
		Worker: w.id, Token: w.token, Job: w.job.id,
		Language: w.job.language, Interpreter: w.job.interpreter,
		Env: r.environment(w, o), Dir: w.job.dir, CodePaths: w.job.codePaths, Note: note,
	})
}

// reserve takes resources for work that a session wants, if need be from idle
// workers of other pools.
func (r *Router) reserve(w *worker, need yr.Resources, o *wirepb.Options) error {
	if len(r.workers) >= r.opt.MaxWorkers {
		return yr.E("start worker", yr.ResourceNotEnough, "this node runs %d worker processes, the most it may", r.opt.MaxWorkers)
	}
	for {
		wait, err := r.place(w, need, o)
		if err != nil || !wait.short {
			return err
		}
		// What an idle worker holds comes back when its process is gone.
		coming := r.free.Clone()
		coming.Add(r.leaving)
		if _, enough := coming.Fits(need); enough || !r.endIdle(w.pool) {
			return yr.E("schedule", yr.ResourceNotEnough, "%s", wait.reason)
		}
	}
}

// waits reports whether a session is a worker that waits inside a task.
func (s *Session) waits() bool {
	return s != nil && !s.closed && s.worker != nil && !s.worker.blockedAt.IsZero()
}

// stuck reports whether everything that runs on this node waits for something
// else: nothing will be released until one more piece of work is done.
func (r *Router) stuck() bool {
	for _, w := range r.workers {
		starting := !w.connected()
		if starting || w.ending != "" || w.inflight.len() > 0 && w.blockedAt.IsZero() {
			return false
		}
	}
	return true
}

// overcommit takes resources that are not there for work that everything else
// waits for: nested calls deeper than the node's memory would otherwise wait for
// each other for ever. Cards and custom resources may be real, so they are never
// taken twice.
func (r *Router) overcommit(w *worker, need yr.Resources) bool {
	for k, v := range need {
		if k != yr.CPU && k != yr.Memory && r.free[k] < v {
			return false
		}
	}
	w.plan = scheduler.Plan{Node: r.opt.Node, Take: need}
	r.node.Take(w.plan)
	return true
}

// environment is what the worker finds in its environment.
func (r *Router) environment(w *worker, o *wirepb.Options) map[string]string {
	env := maps.Clone(w.job.env)
	if env == nil {
		env = make(map[string]string)
	}
	maps.Copy(env, o.GetEnvVars())
	id := w.id
	switch {
	case w.in != nil:
		id = w.in.id
	case w.guest != nil && !w.guest.instance.IsZero():
		id = w.guest.instance
	}
	env["INSTANCE_ID"] = id.String()
	env["YR_RUNTIME_ID"] = "runtime-" + w.id.String()
	env["YR_JOB_ID"] = string(w.job.id)
	env["YR_TENANT_ID"] = string(w.job.tenant)
	env["NODE_ID"] = string(r.opt.Node)
	env["HOST_IP"] = r.opt.NodeIP
	maps.Copy(env, scheduler.VisibleDevices(w.plan.Devices, env))
	return env
}

// release gives back what the worker took.
func (r *Router) release(w *worker) {
	r.node.Give(w.plan)
	if w.ending != "" && w.leaves() {
		r.leaving.Sub(w.plan.Take)
	}
	if w.cpuLent != 0 {
		r.free[yr.CPU] -= w.cpuLent
		w.cpuLent = 0
	}
	w.plan = scheduler.Plan{}
	r.hungry = true
	r.kick()
}

// assign is asked for the worker that a HELLO names.
func (r *Router) assign(h *wirepb.Hello) (*worker, error) {
	id, err := yr.ParseID(string(h.GetWorkerId()))
	if err != nil {
		return nil, yr.Wrap("hello", yr.ParamInvalid, err)
	}
	w := r.workers[id]
	if w == nil || w.ending != "" {
		return nil, yr.E("hello", yr.InstanceExited, "worker %s is not wanted any more", id)
	}
	if w.token != h.GetToken() {
		return nil, yr.E("hello", yr.Unauthorized, "the token is not the one that worker %s was started with", id)
	}
	if w.everJoined {
		return nil, yr.E("hello", yr.Unauthorized, "worker %s has connected already; a token is good for one session", id)
	}
	return w, nil
}

// assignment tells the worker what it is.
func (w *worker) assignment(node yr.Node) *wirepb.WorkerAssignment {
	a := &wirepb.WorkerAssignment{
		Job: string(w.job.id), Tenant: string(w.job.tenant), Namespace: w.job.namespace,
		Concurrency: uint32(w.concurrency), Node: string(node), CodePaths: w.job.codePaths, //nolint:gosec // 1 to 1000
	}
	switch {
	case w.in != nil:
		a.InstanceId = w.in.id[:]
		a.Create = w.in.message
		a.Options = w.in.options
	case w.guest != nil:
		a.Create, a.Options = w.guest.create, w.guest.options
		a.Hire = w.guest.number
		if n := w.guest.from; n != nil {
			a.Hirer, a.HirerTag = string(n.node), n.tag.String()
		}
		if !w.guest.instance.IsZero() {
			a.InstanceId = w.guest.instance[:]
		}
	default:
		a.Options = w.pool.options
	}
	return a
}

// join connects a worker to its session.
func (r *Router) join(w *worker, s *Session, page *os.File) {
	w.session, w.home, s.worker, w.page = s, s.id, w, page
	r.joined(w)
}

// joined is told that a worker has connected, here or on the node that runs it.
func (r *Router) joined(w *worker) {
	w.everJoined, w.joined = true, true
	w.idleSince = r.now
	if w.guest != nil {
		r.guestJoined(w)
		return
	}
	if p := w.pool; p != nil {
		p.starting--
		p.failures, p.failure = 0, nil
		p.workers = append(p.workers, w)
		r.dispatch(p)
		return
	}
	r.construct(w.in)
}

// endIdle ends the worker that has been idle longest, to make room, and reports
// whether there was one. A pool's own idle workers are never in its way.
func (r *Router) endIdle(except *pool) bool {
	var idle *worker
	for _, w := range r.workers {
		idleGuest := w.guest != nil && w.guest.joined && w.guest.idle() && w.session != nil && w.ending == ""
		if !idleGuest && (w.pool == nil || w.host != nil || w.pool == except || w.inflight.len() > 0 || !w.open() || w.pool.queue.len() > 0) {
			continue
		}
		if idle == nil || w.idleSince.Before(idle.idleSince) {
			idle = w
		}
	}
	if idle == nil {
		return false
	}
	r.endWorker(idle, "others needed its room")
	return true
}

// leaves reports whether the room of a worker that is being ended counts as on
// its way: an instance may take its time.
func (w *worker) leaves() bool { return w.pool != nil || w.guest != nil && w.guest.instance.IsZero() }

// endWorker kills a worker. What it still had is dealt with when it is gone.
func (r *Router) endWorker(w *worker, why string) {
	if w.ending != "" {
		return
	}
	w.ending = why
	if w.pool != nil {
		w.pool.without(w)
	}
	if w.leaves() {
		r.leaving.Add(w.plan.Take)
	}
	r.killProcess(w)
}

// WorkerStarted is told how a start went.
func (r *Router) WorkerStarted(id yr.ID, pid int, err error) {
	r.turn(func() {
		w := r.workers[id]
		if w == nil {
			return
		}
		if err != nil {
			r.workerGone(w, err)
			return
		}
		w.pid = pid
		if w.ending != "" {
			r.opt.Launcher.Kill(id) // it was ended before it had a process
		}
	})
}

// WorkerExited is told of the end of a process.
func (r *Router) WorkerExited(e launch.Exit) {
	r.turn(func() {
		if rec := r.recovery; rec != nil {
			delete(rec.workers, e.Worker) // nobody waits for it to come back
		}
		w := r.workers[e.Worker]
		if w == nil {
			return
		}
		w.exit = &e
		if w.session == nil {
			r.workerGone(w, nil)
		}
		// Otherwise its last results may still be in the socket: wait for its end.
	})
}

// workerLeft is told that a worker's connection ended.
func (r *Router) workerLeft(w *worker) {
	w.session = nil
	w.leftAt = r.now
	if w.pool != nil {
		w.pool.without(w)
	}
	if w.guest != nil {
		w.guest.left(r)
	}
	if w.exit != nil {
		r.workerGone(w, nil)
		return
	}
	r.soon()
}

// workerGone buries a worker: process and connection are gone, or it never started.
func (r *Router) workerGone(w *worker, cause error) {
	delete(r.workers, w.id)
	if s := w.session; s != nil {
		// Its start was reported as failed, and yet it has connected: its process is nobody's.
		w.session, s.worker = nil, nil
		s.reject(yr.E("session", yr.InstanceExited, "worker %s is not wanted any more", w.id))
	}
	if w.ending == "" {
		r.counters.workersLost.Add(1)
	}
	started, known := w.started()
	if w.page != nil {
		_ = w.page.Close()
	}
	r.release(w)
	text := w.fate(cause)
	if w.guest != nil {
		r.guestGone(w, text, started, known)
		return
	}
	list := append(r.resumedAt(w), w.inflight.after(0)...)
	if p := w.pool; p != nil {
		p.without(w)
		p.job.workers--
		if !w.everJoined {
			p.starting--
			r.neverJoined(p, w, text, cause)
		}
		for i := len(list) - 1; i >= 0; i-- {
			r.lost(w, list[i].call, !known || list[i].call != nil && list[i].call.delivery <= started, text)
		}
	} else {
		r.instanceWorkerGone(w, list, text, cause)
	}
	r.jobMayEnd(w.job)
	r.hungry = true
}

// lost decides about a call whose worker is gone.
func (r *Router) lost(w *worker, c *call, ran bool, text string) {
	if c == nil || c.state != callRunning || c.worker != w {
		return
	}
	if !ran {
		r.requeue(c) // never started: costs no attempt
		return
	}
	if r.retry(c) {
		return
	}
	r.fail(c, yr.E("call "+c.name(), yr.WorkerLost,
		"its worker ended while it ran (%s); see `yr logs %s`, or set retry_times if it may run twice", text, w.id))
}

// fate says in words why a worker ended.
func (w *worker) fate(cause error) string {
	switch {
	case w.ending != "":
		return w.ending
	case cause != nil:
		return cause.Error()
	case w.exit != nil:
		return w.exit.Text
	}
	return "unknown"
}

// neverJoined counts workers that ended before they connected, and gives the
// pool's calls the reason when it is no accident any more.
func (r *Router) neverJoined(p *pool, w *worker, text string, cause error) {
	if w.ending != "" {
		return
	}
	p.failures++
	if cause == nil {
		cause = yr.E("start worker", yr.WorkerLost, "it ended before it could connect: %s; see %s/runtime-%s.err", text, r.opt.LogDir, w.id)
	}
	p.failure = cause
	p.startAt = r.now.Add(startBackoff << (p.failures - 1))
	if p.failures < startFailures {
		return
	}
	p.failures = 0
	r.failQueue(p, p.failure)
}

// startBackoff is the pause after a start that failed; it doubles with each.
const startBackoff = 50 * time.Millisecond

// openPage accepts a progress page if it is what it should be.
func openPage(fd int) *os.File {
	if fd < 0 {
		return nil
	}
	var st unix.Stat_t
	_, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0) // only memory has seals: reading it never waits
	if err != nil || unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		_ = unix.Close(fd)
		return nil
	}
	return os.NewFile(uintptr(fd), "progress page")
}
