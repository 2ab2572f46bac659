package route

import (
	"bytes"
	"os"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"yr/agent/launch"
	"yr/pkg/wire"
	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
	"yr/scheduler"
	"yr/store"
)

// What a restarted daemon does. It has its segments (the parent kept them) and
// nothing else; the processes that survived tell it the rest. Workers come back
// with what they run and their last results, drivers with the objects that they
// hold and the calls that they wait for. Until they are back, or resumeWindow has
// passed, nothing is delivered: a call that is already running somewhere must not
// be given to somebody else.

// resumeWindow is how long sessions of before the restart may take to come back.
const resumeWindow = 5 * time.Second

// recovery is the state of a restart that is not over.
type recovery struct {
	until   time.Time
	workers map[yr.ID]launch.Survivor // still expected
	drivers map[yr.ID]bool            // sessions still expected
	nodes   map[yr.Node]bool          // that had to do with this one, and have not told it what
	holder  *store.Holder[waiter]     // keeps what they told, until those who need it are back
	results map[yr.ID]recovered       // of calls whose caller is not back
	running map[yr.ID]*worker         // tasks that workers said they run
	wanted  map[yr.ID]wantedBy        // by whom workers are wanted that are not back yet
	after   []func()                  // questions that cannot be answered before
}

type recovered struct {
	values []wire.Value
	worker *Session
}

// Recover tells a router, before Open, that it takes over from one that crashed:
// which workers still run, which sessions were connected, and with which other nodes
// it had to do.
func (r *Router) Recover(workers []launch.Survivor, sessions []yr.ID, nodes []yr.Node) {
	rec := &recovery{
		until:   r.opt.Now().Add(resumeWindow),
		workers: make(map[yr.ID]launch.Survivor),
		drivers: make(map[yr.ID]bool),
		nodes:   make(map[yr.Node]bool),
		wanted:  make(map[yr.ID]wantedBy),
		holder:  r.names.Join(yr.NewID(), ""),
		results: make(map[yr.ID]recovered),
		running: make(map[yr.ID]*worker),
	}
	for _, w := range workers {
		rec.workers[w.Worker] = w
	}
	for _, id := range sessions {
		rec.drivers[id] = true
	}
	for _, node := range nodes {
		rec.nodes[node] = true
	}
	// Workers remember function numbers of the daemon before; start beyond them.
	r.functions = uint32(r.opt.Now().Unix()&0x7ff) << 20
	r.recovery = rec
	r.names.BeginRecovery()
}

// recover ends the restart when everybody is back or out of time.
func (r *Router) recover() {
	rec := r.recovery
	if rec == nil || (len(rec.workers) > 0 || len(rec.drivers) > 0 || len(rec.nodes) > 0 || r.announcing()) && r.now.Before(rec.until) {
		return
	}
	r.recovery = nil
	for id := range rec.workers {
		r.opt.Launcher.Kill(id)
		if by, ok := rec.wanted[id]; ok {
			by.node.lostGuest(by.number)
		}
	}
	r.unearth()
	r.names.EndRecovery(func(n *store.Name[waiter]) {
		if r.loans[n.ID] != nil {
			return // another node has it, or is being asked
		}
		v := errorValue(yr.E("object "+n.ID.String(), yr.ObjectNotFound, "it was lost when the node's daemon was restarted; make it again"))
		if err := r.set(n, yr.ID{}, &v); err != nil {
			r.opt.Log.Error().Err(err).Stringer("object", n.ID).Msg("a lost object could not be marked")
		}
	})
	r.opt.Store.EndRecovery()
	rec.holder.End()
	for node := range rec.nodes { // too late: they are met as strangers
		r.opt.Log.Warn().Str("node", string(node)).Msg("a node did not come back in time after the restart of this node's daemon")
	}
	for _, in := range r.instances {
		r.buildHired(in)
		if in.state == yr.StateSuspend {
			r.failInstance(in, yr.StateFatal, errorValue(yr.E("instance "+in.id.String(), yr.InstanceExited, "it was lost when the node's daemon was restarted")))
			continue
		}
		r.pump(in)
	}
	driven := make(map[*job]bool)
	for _, s := range r.sessions {
		if s.role != yr.RoleWorker {
			driven[s.job] = true
		}
	}
	for _, w := range r.workers {
		if w.guest != nil && !w.guest.joined {
			r.endWorker(w, "nobody wanted it any more after a restart of the node's daemon")
		}
	}
	for _, j := range r.jobs {
		if !driven[j] && j.home == nil {
			r.endJob(j, "its driver did not come back after a restart of the node's daemon")
		}
	}
	for _, f := range rec.after {
		f()
	}
	r.opt.Log.Info().Int("lost_workers", len(rec.workers)).Int("lost_drivers", len(rec.drivers)).Msg("recovered from a restart")
	r.hungry = true
}

// buildHired goes on with an instance whose hired worker was never told to build
// it, or whose order to do so was lost.
func (r *Router) buildHired(in *instance) {
	w := in.worker
	if w == nil || w.host == nil || !w.unbuilt || in.state != yr.StateCreating {
		return
	}
	w.unbuilt, in.ctorNo = false, 0
	switch {
	case in.ctor == nil || in.ctor.waiting > 0:
		r.failInstance(in, yr.StateFatal, errorValue(yr.E("create "+in.class, yr.InstanceExited,
			"the node's daemon was restarted before its constructor had begun; create it again")))
	case w.joined: // otherwise when it connects
		r.construct(in)
	}
}

func (r *Router) announcing() bool {
	for _, s := range r.sessions {
		if s.announcing {
			return true
		}
	}
	return false
}

// announced is told that a resuming session has said all that it holds.
func (s *Session) announced() {
	s.announcing = false
	if w := s.worker; w != nil && w.guest != nil {
		s.r.guestReturned(w)
		return
	}
	if w := s.worker; w != nil && w.unbuilt {
		w.unbuilt = false
		switch in := w.in; {
		case in.state != yr.StateCreating:
		case in.ctor != nil && in.ctor.waiting == 0:
			s.r.construct(in)
		default: // nor was its result among those sent again
			s.r.failInstance(w.in, yr.StateFatal, errorValue(yr.E("create "+w.in.class, yr.InstanceExited,
				"the node's daemon was restarted before its constructor had begun; create it again")))
		}
	}
	s.r.soon()
}

// resumes reports whether a driver continues a session of before the restart.
func (r *Router) resumes(s *Session, h *wirepb.Hello) bool {
	if r.recovery == nil || h.GetResumeToken() == "" {
		return false
	}
	id, err := r.verify(h.GetResumeToken())
	if err != nil || id != s.id {
		return false
	}
	delete(r.recovery.drivers, s.id)
	return true
}

// adoptJob fills in what only the driver knows of a job that workers spoke of first.
func (r *Router) adoptJob(j *job, h *wirepb.Hello) {
	fresh := r.newJob(h)
	j.namespace, j.recycle, j.maxWorkers = fresh.namespace, fresh.recycle, fresh.maxWorkers
	j.language, j.interpreter, j.codePaths, j.dir, j.env = fresh.language, fresh.interpreter, fresh.codePaths, fresh.dir, fresh.env
	r.jobs[j.id] = j
}

// resumeWorker rebuilds a worker from what it says it is.
func (r *Router) resumeWorker(s *Session, h *wirepb.Hello) (*worker, error) {
	id, err := yr.ParseID(string(h.GetWorkerId()))
	if err != nil {
		return nil, yr.Wrap("resume", yr.ParamInvalid, err)
	}
	if sid, err := r.verify(h.GetResumeToken()); err != nil || sid != s.id {
		return nil, yr.E("resume", yr.Unauthorized, "the session token is not one of this node")
	}
	if w := r.workers[id]; w != nil && w.ending == "" { // this daemon knows it: only the connection broke
		if w.home != s.id {
			return nil, yr.E("resume", yr.Unauthorized, "worker %s is another session", id)
		}
		return w, nil
	}
	if r.recovery == nil {
		return nil, yr.E("resume", yr.InstanceExited, "worker %s is not wanted any more", id)
	}
	survivor, ok := r.recovery.workers[id]
	if !ok {
		return nil, yr.E("resume", yr.InstanceExited, "worker %s is not wanted any more", id)
	}
	a, m, err := readAssignment(h.GetWorker())
	if err != nil {
		return nil, yr.Wrap("resume", yr.ParamInvalid, err)
	}
	j := r.jobs[yr.Job(a.GetJob())]
	if j == nil {
		j = r.newJob(&wirepb.Hello{
			Job: a.GetJob(), Tenant: a.GetTenant(), Namespace: a.GetNamespace(),
			Language: h.GetLanguage(), Interpreter: h.GetInterpreter(), CodePaths: a.GetCodePaths(),
		})
	}
	hosted, _ := yr.ParseID(string(a.GetInstanceId()))
	if in := r.instances[hosted]; in != nil && in.worker != nil {
		return nil, yr.E("resume", yr.ParamInvalid, "instance %s is hosted by another worker", hosted)
	}
	var p *pool
	if a.GetHirer() != "" {
		return r.resumeGuest(s, id, survivor.PID, j, a, h.GetWorker()), nil
	}
	if m == nil {
		if p, err = r.poolOf(j, a.GetOptions()); err != nil {
			return nil, err
		}
	}
	delete(r.recovery.workers, id)
	w := &worker{
		id: id, home: s.id, job: j, pool: p, pid: survivor.PID, concurrency: max(1, int(a.GetConcurrency())),
		defined: make(map[uint32]bool), everJoined: true, next: h.GetWorker().GetLastDelivery(), born: r.now,
	}
	// Which cards it had is not known any more: they count as free until it ends.
	w.plan = scheduler.Plan{Node: r.opt.Node, Take: needOf(a.GetOptions())}
	r.node.Take(w.plan)
	r.workers[id] = w
	if m != nil {
		r.resumeInstance(w, hosted, a, m, h.GetWorker())
		return w, nil
	}
	j.workers++
	r.claimRunning(w, h.GetWorker())
	return w, nil
}

// readAssignment reads what a worker was told when it began. m is nil unless it
// hosts an instance.
func readAssignment(state *wirepb.WorkerState) (a *wirepb.WorkerAssignment, m *wirepb.Create, err error) {
	a = &wirepb.WorkerAssignment{}
	if err := proto.Unmarshal(state.GetAssignment(), a); err != nil {
		return nil, nil, err
	}
	if len(a.GetInstanceId()) == 0 {
		return a, nil, nil
	}
	if _, err := yr.ParseID(string(a.GetInstanceId())); err != nil {
		return nil, nil, err
	}
	m = &wirepb.Create{}
	return a, m, proto.Unmarshal(a.GetCreate(), m)
}

// readInstance reads which instance a worker was hired for.
func readInstance(a *wirepb.WorkerAssignment) (id yr.ID, m *wirepb.Create, err error) {
	if id, err = yr.ParseID(string(a.GetInstanceId())); err != nil {
		return id, nil, err
	}
	m = &wirepb.Create{}
	return id, m, proto.Unmarshal(a.GetCreate(), m)
}

// claimRunning notes what a worker said it runs. A call that was sent again
// already, and waits in a queue, is taken out of it.
func (r *Router) claimRunning(w *worker, state *wirepb.WorkerState) {
	for _, raw := range state.GetRunning() {
		id, err := yr.ParseID(string(raw))
		if err != nil {
			continue
		}
		if c := r.calls[id]; c != nil && c.state != callRunning {
			r.withdraw(c)
			c.state, c.worker = callRunning, w
			continue
		}
		r.recovery.running[id] = w
	}
}

// withdraw takes a call out of wherever it waits.
func (r *Router) withdraw(c *call) {
	if c.in != nil {
		c.in.withdraw(c)
		return
	}
	if c.state == callQueued {
		c.fn.pool.queue.remove(c)
	}
}

// resumeInstance rebuilds the instance that a worker hosts.
func (r *Router) resumeInstance(w *worker, id yr.ID, a *wirepb.WorkerAssignment, m *wirepb.Create, state *wirepb.WorkerState) {
	in := r.instances[id]
	if in == nil {
		in = &instance{r: r, id: id, lanes: make(map[yr.Prefix]*lane)}
		r.instances[id] = in
	} else {
		delete(in.job.instances, in) // of the job that asked for it first, see absent
	}
	in.job, in.options, in.class, in.descriptor = w.job, a.GetOptions(), m.GetName(), m.GetDescriptor_()
	in.message, in.ordered, in.need, in.worker = a.GetCreate(), a.GetOptions().GetOrdered(), w.plan.Take, w
	if in.code == nil { // else its driver was quicker to come back, and sent the CREATE again
		in.code = &code{id: m.GetCodeId(), name: m.GetName(), blob: m.GetCode()}
	}
	if in.ctor == nil && len(m.GetCode()) > 0 && in.options.GetRecoverRetryTimes() > 0 {
		in.ctor = &call{id: id, in: in, job: w.job, args: m.GetArgs(), since: r.now}
	}
	w.in = in
	w.job.instances[in] = struct{}{}
	if in.options.GetName() != "" {
		r.named[in.nameKey()] = in
	}
	in.set(yr.StateRunning, "")
	if yr.InstanceState(state.GetInstanceState()) != yr.StateRunning { //nolint:gosec // a small number
		in.set(yr.StateCreating, "its constructor is running")
		in.ctorNo = w.next
		w.unbuilt = !slices.ContainsFunc(state.GetRunning(), func(task []byte) bool { return string(task) == in.id.String() })
	}
	if in.state == yr.StateRunning && in.ctor != nil && in.options.GetRecoverRetryTimes() == 0 {
		r.dropCtor(in)
	}
	r.claimRunning(w, state)
	r.recallRecord(in)
	in.announce()
}

// rejoin connects a resumed worker.
func (r *Router) rejoin(w *worker, s *Session, page *os.File) {
	w.session, s.worker = s, w
	w.idleSince, w.busySince = r.now, r.now
	r.hungry = true
	if page != nil {
		if w.page != nil {
			_ = w.page.Close()
		}
		w.page = page
	}
	switch {
	case w.guest != nil:
	case w.pool != nil:
		w.pool.workers = append(w.pool.workers, w)
	default:
		r.pump(w.in)
	}
}

// absent stands for an instance that a BIND names and nobody knows: it may be on
// its way back, or gone.
func (r *Router) absent(id yr.ID, j *job) *instance {
	_, ended := r.ended.find(id.String())
	if r.recovery == nil || ended || r.instances[id] != nil { // or it is another tenant's
		return r.buried(id, j)
	}
	in := &instance{r: r, id: id, job: j, options: &wirepb.Options{}, class: "instance", lanes: make(map[yr.Prefix]*lane), ordered: true}
	in.set(yr.StateSuspend, "its worker is coming back after a restart of the node's daemon")
	r.instances[id] = in
	j.instances[in] = struct{}{}
	return in
}

// announce takes an object that a resuming session still holds.
func (s *Session) announce(id yr.ID, v *wire.Value) error {
	r := s.r
	n, err := s.holder.Claim(id)
	if err != nil {
		return s.holder.Retain(id, 1) // another session made it
	}
	if n.State != store.Pending {
		return nil
	}
	if v.Kind == wire.Placed {
		if err := r.opt.Store.Announce(v.Place); err != nil {
			lost := errorValue(yr.Wrap("object "+id.String(), yr.ObjectNotFound, err))
			v = &lost
		}
	}
	if err := r.names.Set(n, ownValue(v), ids(v.Contains)); err != nil {
		return err
	}
	r.track(n)
	r.serve(n)
	return nil
}

// recovered settles a call that was sent again: its result is here, or a worker
// is running it.
func (r *Router) recovered(c *call) bool {
	rec := r.recovery
	if rec == nil {
		return false
	}
	if got, ok := rec.results[c.id]; ok {
		delete(rec.results, c.id)
		r.complete(c, got.values, got.worker)
		return true
	}
	if w := rec.running[c.id]; w != nil {
		delete(rec.running, c.id)
		c.state, c.worker = callRunning, w
		if c.in != nil {
			c.in = c.in.real()
		}
		for i := range c.deps.Len() {
			if n := r.names.Get(c.deps.At(i)); n != nil {
				r.names.Hold(n)
				c.held = append(c.held, c.deps[i*yr.IDLen:(i+1)*yr.IDLen]...)
			}
		}
		return true
	}
	return false
}

// recoveredResult takes a result whose delivery belongs to the daemon before.
func (r *Router) recoveredResult(w *worker, id yr.ID, values []wire.Value, s *Session) bool {
	if c := r.calls[id]; c != nil {
		ranHere := c.state == callRunning && c.worker == w && c.delivery == 0
		ranBefore := c.state != callRunning && r.recovery != nil // it was sent again, and is done already
		if ranHere || ranBefore {
			r.complete(c, values, s)
			return true
		}
	}
	if in := w.in; in != nil && in.worker == w && in.id == id && in.state == yr.StateCreating {
		r.constructed(in, values)
		return true
	}
	if r.recovery == nil {
		return false
	}
	r.keepResult(id, values, s)
	return true
}

// keepResult keeps the outcome of a call whose caller is not back yet.
func (r *Router) keepResult(id yr.ID, values []wire.Value, s *Session) {
	rec := r.recovery
	kept := make([]wire.Value, len(values))
	for i, v := range values {
		v.Data, v.Contains = bytes.Clone(v.Data), bytes.Clone(v.Contains)
		kept[i] = v
	}
	delete(rec.running, id)
	rec.results[id] = recovered{kept, s}
}

// resumedAt are the calls that a worker has run since before the restart, as
// deliveries that it started.
func (r *Router) resumedAt(w *worker) []delivery {
	var list []delivery
	for _, c := range r.calls {
		if c.state == callRunning && c.worker == w && c.delivery == 0 {
			list = append(list, delivery{call: c})
		}
	}
	return list
}
