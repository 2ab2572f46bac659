package route

import (
	"math"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"yr/pkg/wire"
	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
	"yr/scheduler"
)

// instance is user code with state and a mailbox, placed on a worker of its own.
type instance struct {
	r          *Router
	id         yr.ID
	job        *job
	options    *wirepb.Options
	message    []byte // the Create, as the worker gets it back when it resumes
	class      string
	code       *code
	descriptor []byte
	need       yr.Resources
	ordered    bool

	state      yr.InstanceState
	since      time.Time
	reason     string // why it waits, or why it ended
	worker     *worker
	lastWorker yr.ID     // names its log files when it has ended
	ctor       *call     // the constructor's arguments
	ctorNo     uint64    // its delivery number, while it runs
	foreign    *foreign  // it is at home on another node
	boundTo    *instance // the named instance that already existed
	failure    wire.Value
	restarts   int
	starts     int // workers in a row that ended before they connected
	estimate   time.Duration

	lanes    map[yr.Prefix]*lane   // ordered: calls by caller
	loose    fifo                  // unordered: ready calls
	pending  int                   // calls not sent to the worker
	watchers map[*Session]struct{} // are told what becomes of it; nil once it has ended
	killers  []reply
	startAt  time.Time            // not before: starts have failed
	asking   bool                 // the leader was asked where it can be placed
	askAt    time.Time            // not before
	expires  time.Time            // scheduling must have succeeded by then; zero: any time
	killAt   time.Time            // grace ends
	keep     *wirepb.KeptInstance // it outlives its home; nil: it does not
	claims   int                  // names taken from instances that were gone
	kept     bool                 // of another node: it comes back if that is lost
	record   []byte               // what the registry holds for its name
}

// reply is a request that is answered later.
type reply struct {
	session *Session
	corr    uint64
}

// maxTold bounds the code and arguments that a worker keeps of its own instance.
const maxTold = 1 << 20

// create takes a CREATE frame.
func (s *Session) create(m *wirepb.Create) error {
	r := s.r
	id, err := yr.ParseID(string(m.GetInstanceId()))
	if err != nil {
		return yr.Wrap("create "+m.GetName(), yr.ParamInvalid, err)
	}
	if old := r.instances[id]; old != nil {
		if r.recovery == nil || old.job != s.job {
			return yr.E("create "+m.GetName(), yr.ParamInvalid, "there is an instance %s already", id)
		}
		if !r.unbuilt(old) { // sent again after a restart, and its worker was quicker to come back
			return s.bindNumber(m.GetNumber(), old)
		}
	}
	c, err := s.job.code(r, m.GetCodeId(), m.GetName(), m.GetCode(), m.GetCodeObject())
	if err != nil {
		return err
	}
	o := m.GetOptions()
	if o == nil {
		o = &wirepb.Options{}
	}
	if o.Namespace == "" {
		o.Namespace = s.job.namespace
	}
	in := &instance{
		r: r, id: id, job: s.job, options: o, class: m.GetName(), code: c, descriptor: m.GetDescriptor_(),
		need: needOf(o), ordered: o.GetOrdered(), state: yr.StateNew, since: r.now,
		lanes: make(map[yr.Prefix]*lane), watchers: map[*Session]struct{}{s: {}},
	}
	told := &wirepb.Create{
		InstanceId: m.GetInstanceId(), CodeId: m.GetCodeId(), Name: m.GetName(), Language: m.GetLanguage(),
		Options: o, Descriptor_: m.GetDescriptor_(),
	}
	if o.GetRecoverRetryTimes() > 0 && len(m.GetDeps()) == 0 && len(m.GetCodeObject()) == 0 && len(c.blob)+len(m.GetArgs()) <= maxTold {
		told.Code, told.Args = c.blob, m.GetArgs() // the worker gives it back to a daemon that was restarted
	}
	in.message, err = proto.Marshal(told)
	if err != nil {
		return yr.Wrap("create "+m.GetName(), yr.ParamInvalid, err)
	}
	if ms := o.GetScheduleTimeoutMs(); ms >= 0 {
		in.expires = r.now.Add(milliseconds(ms))
	}
	packed := make(wire.IDs, 0, len(m.GetDeps())*yr.IDLen)
	for _, d := range m.GetDeps() {
		if len(d) != yr.IDLen {
			return yr.E("create "+m.GetName(), yr.ParamInvalid, "a dependency of %d bytes is no identifier", len(d))
		}
		packed = append(packed, d...)
	}
	if int(m.GetNvals()) > packed.Len() {
		return yr.E("create "+m.GetName(), yr.ParamInvalid, "%d values but %d dependencies", m.GetNvals(), packed.Len())
	}
	in.ctor = &call{id: id, caller: s, in: in, job: s.job, deps: packed, nvals: int(m.GetNvals()), args: m.GetArgs(), argsBlob: m.GetArgsBlob(), since: r.now}
	if err := s.number(m.GetNumber(), target{in: in}); err != nil {
		return err
	}
	r.instances[id] = in
	s.job.instances[in] = struct{}{}
	r.mayKeep(in, m)
	if o.GetName() != "" {
		r.claim(in)
		return nil
	}
	r.hold(in.ctor)
	return nil
}

// unbuilt clears the way for an instance that is created again after a restart,
// if the one that its worker came back with was never built.
func (r *Router) unbuilt(in *instance) bool {
	if w := in.worker; w != nil && !in.state.Ended() {
		if !w.unbuilt {
			return false
		}
		w.unbuilt = false
		in.set(yr.StateExited, "it is made again")
		r.endWorker(w, in.reason)
	}
	delete(r.instances, in.id)
	delete(in.job.instances, in)
	return true
}

// milliseconds is a time that a peer named; one that is too long to be counted is
// as long as can be.
func milliseconds(ms int64) time.Duration {
	return time.Duration(min(ms, math.MaxInt64/int64(time.Millisecond))) * time.Millisecond
}

// hold awaits the constructor's arguments; the instance is placed when they are there.
func (r *Router) hold(c *call) {
	c.in.set(yr.StateScheduling, "it waits for its arguments")
	r.submit(c)
}

// ctorReady places an instance whose arguments are there, or goes on with it if
// they had to be brought to the node where it is.
func (r *Router) ctorReady(in *instance) {
	if in.state == yr.StateCreating && in.worker != nil && in.worker.everJoined {
		r.construct(in)
		return
	}
	in.set(yr.StateScheduling, "it waits for resources")
	r.creating = append(r.creating, in)
	r.placeInstances()
}

// placeInstances starts workers for instances, first come first served; one that
// does not fit does not hold up a smaller one behind it.
func (r *Router) placeInstances() {
	if r.recovery != nil {
		return
	}
	waiting := r.creating
	r.creating = nil
	for _, in := range waiting {
		if in.state != yr.StateScheduling {
			continue
		}
		if r.isolated && in.keep != nil {
			in.reason = "its node has lost touch with the cluster, which may make it anew elsewhere"
			r.creating = append(r.creating, in)
			continue
		}
		if r.now.Before(in.startAt) {
			r.creating = append(r.creating, in)
			continue
		}
		w := &worker{in: in, job: in.job, concurrency: max(1, int(in.options.GetConcurrency()))}
		err := r.start(w, in.need, in.options, "instance "+in.id.String(), in.ctor.caller)
		if err == nil {
			r.placed(in, w)
			continue
		}
		code := yr.CodeOf(err)
		if !r.alone() && (code == yr.ResourceNotEnough || code == yr.ResourceConfigError) {
			in.reason = err.Error()
			r.creating = append(r.creating, in)
			r.askForInstance(in)
			continue
		}
		if code != yr.ResourceNotEnough {
			r.failInstance(in, yr.StateScheduleFailed, errorValue(yr.Wrap("create "+in.class, yr.CodeOf(err), err)))
			continue
		}
		in.reason = err.Error()
		r.creating = append(r.creating, in)
	}
}

// askForInstance has the leader look for a node that can host the instance.
func (r *Router) askForInstance(in *instance) {
	if r.now.Before(in.askAt) {
		return
	}
	_, request := r.request(in.need, in.options, in.job)
	r.ask(&in.asking, request, func(id yr.ID, plan scheduler.Plan, err error) {
		in.askAt = r.now.Add(askAgain)
		switch {
		case in.state != yr.StateScheduling:
		case err != nil:
			in.reason += "; the leader could not be asked for another node: " + messageOf(err)
		case plan.Verdict == scheduler.Placed && plan.Node != r.opt.Node:
			w := &worker{in: in, job: in.job, concurrency: max(1, int(in.options.GetConcurrency()))}
			w.id = id
			r.startAt(plan.Node, w, in.need, in.options)
			r.placed(in, w)
		case plan.Verdict == scheduler.Never:
			r.failInstance(in, yr.StateScheduleFailed, errorValue(yr.E("create "+in.class, plan.Code, "%s", plan.Reason)))
		case plan.Verdict == scheduler.Wait:
			in.reason = plan.Reason
		}
	})
}

// placed notes that the instance has a worker on its way.
func (r *Router) placed(in *instance, w *worker) {
	in.worker, in.lastWorker = w, w.id
	in.expires = time.Time{} // it was scheduled in time
	in.set(yr.StateCreating, "its worker is starting")
}

// tickInstances ends instances whose time to be scheduled, or to shut down, is over.
func (r *Router) tickInstances() {
	r.placeInstances()
	for _, in := range r.creating {
		if in.state == yr.StateScheduling && r.recovery == nil && !in.expires.IsZero() && r.now.After(in.expires) {
			r.failInstance(in, yr.StateScheduleFailed, errorValue(yr.E("create "+in.class, yr.ResourceNotEnough,
				"the instance cannot be scheduled within %d ms. The latest failure: %s", in.options.GetScheduleTimeoutMs(), in.reason)))
		}
	}
	for _, in := range r.instances {
		if !in.killAt.IsZero() && r.now.After(in.killAt) {
			in.killAt = time.Time{}
			if w := in.worker; w != nil {
				r.killProcess(w)
			}
		}
		if limit := in.options.GetIdleTimeoutS(); limit > 0 && in.state == yr.StateRunning && in.pending == 0 &&
			in.worker.inflight.len() == 0 && r.now.Sub(in.worker.idleSince) > time.Duration(limit)*time.Second {
			r.endInstance(in, yr.StateEvicted, yr.E("instance "+in.id.String(), yr.InstanceEvicted, "evicted after idle for more than %d seconds", limit))
		}
	}
}

// construct sends the constructor to a worker that has just connected.
func (r *Router) construct(in *instance) {
	w, c := in.worker, in.ctor
	if !r.here(c, w) {
		in.reason = "its arguments are being brought to its node"
		return
	}
	r.functions++
	m := r.definition(in.code, r.functions, nil, w)
	w.next++
	in.ctorNo = w.next
	w.busySince = r.now
	w.inflight.push(w.next, delivery{})
	t := wire.Task{ID: in.id, Target: r.functions, NVals: c.nvals, Args: c.args}
	flags := uint8(wire.Construct)
	if c.argsBlob {
		flags |= wire.ArgsBlob
	}
	in.reason = "its constructor is running"
	w.send(func(dst []byte) []byte { return wire.AppendMessage(dst, wire.Define, 0, m) })
	w.send(func(dst []byte) []byte {
		dst, at := wire.AppendTask(dst, flags, w.next, &t)
		for i := range c.nvals {
			dst = r.appendDependency(dst, c.deps.At(i), w)
		}
		return wire.EndTask(dst, at, &t, &wire.Tail{})
	})
}

func (in *instance) constructing(number uint64) bool { return in.ctorNo != 0 && number == in.ctorNo }

// constructed takes the outcome of the constructor.
func (r *Router) constructed(in *instance, values []wire.Value) {
	in.ctorNo = 0
	if len(values) == 1 && values[0].Kind == wire.Failed {
		v := values[0]
		v.Data = append([]byte(nil), v.Data...) // outlives the frame
		r.failInstance(in, yr.StateFatal, v)
		return
	}
	if in.state == yr.StateExiting {
		return
	}
	in.starts = 0
	in.set(yr.StateRunning, "")
	r.keepRecord(in)
	in.announce()
	if in.options.GetRecoverRetryTimes() == 0 {
		r.dropCtor(in)
	}
	r.pump(in)
}

// dropCtor lets go of the constructor's arguments.
func (r *Router) dropCtor(in *instance) {
	c := in.ctor
	in.ctor = nil
	if c == nil {
		return
	}
	c.state = callEnded // an argument that is still to come finds nobody waiting
	r.letGo(c)
}

// set changes the state.
func (in *instance) set(s yr.InstanceState, reason string) {
	in.state, in.reason, in.since = s, reason, in.r.now
}

// real is the instance behind a name that existed already.
func (in *instance) real() *instance {
	for in.boundTo != nil {
		in = in.boundTo
	}
	return in
}

// gone is the error of calls to an instance that has ended.
func (in *instance) gone() error {
	return yr.E("call "+in.class, yr.InstanceExited, "instance %s has ended: %s", in.label(), in.reason)
}

// label is what people call the instance.
func (in *instance) label() string {
	if n := in.options.GetName(); n != "" {
		return `"` + n + `"`
	}
	return in.id.String()
}

// failInstance ends an instance that could not be made or cannot go on.
func (r *Router) failInstance(in *instance, state yr.InstanceState, v wire.Value) {
	if in.state.Ended() {
		return
	}
	in.failure = v
	reason := string(v.Data)
	if v.Serialized {
		reason = "its constructor raised an exception"
	}
	in.set(state, reason)
	r.forgetName(in)
	if w := in.worker; w != nil {
		r.endWorker(w, "its instance failed: "+reason)
	}
	r.failCalls(in)
	if in.worker == nil {
		r.bury(in)
	}
	in.announce()
}

// failCalls ends every call that is not at the worker.
func (r *Router) failCalls(in *instance) {
	for _, c := range r.calls {
		if c.in != in || c.state == callRunning {
			continue
		}
		r.failCall(in, c)
	}
}

// failCall ends one call of an instance that has failed or ended.
func (r *Router) failCall(in *instance, c *call) {
	if len(in.failure.Data) > 0 {
		r.complete(c, []wire.Value{in.failure}, nil)
		return
	}
	r.fail(c, in.gone())
}

// endInstance asks a living instance to end: its shutdown hook runs, and after
// the grace period its process is killed.
func (r *Router) endInstance(in *instance, _ yr.InstanceState, cause error) {
	in = in.real()
	if in.state.Ended() || in.state == yr.StateExiting {
		return
	}
	in.set(yr.StateExiting, cause.Error())
	r.forgetName(in)
	r.failCalls(in)
	w := in.worker
	if w == nil {
		r.buryAs(in, yr.StateExited)
		return
	}
	grace := r.opt.Grace
	if ms := in.options.GetGraceMs(); ms >= 0 {
		grace = milliseconds(ms)
	}
	if !w.connected() || grace == 0 || in.ctorNo != 0 {
		r.endWorker(w, cause.Error())
		return
	}
	w.ending = cause.Error()
	in.killAt = r.now.Add(grace)
	w.send(func(dst []byte) []byte {
		return wire.AppendMessage(dst, wire.Shutdown, 0, &wirepb.Shutdown{GraceMs: grace.Milliseconds(), Reason: wire.StatusOf(cause).GetMessage()})
	})
	r.soon()
}

// instanceWorkerGone decides what becomes of an instance whose process is gone.
func (r *Router) instanceWorkerGone(w *worker, list []delivery, text string, cause error) {
	in := w.in
	in.worker, in.ctorNo, in.killAt = nil, 0, time.Time{}
	if in.state.Ended() || in.state == yr.StateExiting {
		r.failDeliveries(in, w, list)
		if in.state == yr.StateExiting {
			r.buryAs(in, yr.StateExited)
		} else {
			r.bury(in)
		}
		return
	}
	if !w.everJoined {
		in.starts++
		if in.starts < startFailures {
			in.startAt = r.now.Add(startBackoff << (in.starts - 1))
			r.ctorReady(in)
			return
		}
		if cause == nil {
			cause = yr.E("create "+in.class, yr.WorkerLost, "its worker ended before it could connect: %s; see %s/runtime-%s.err", text, r.opt.LogDir, w.id)
		}
		r.failInstance(in, yr.StateFatal, errorValue(cause))
		return
	}
	if in.restarts < int(in.options.GetRecoverRetryTimes()) && in.ctor != nil && !in.job.ended {
		in.restarts++
		r.counters.retries.Add(1)
		r.requeueAll(w, list) // at least once: they may have run
		in.set(yr.StateFailed, "its process ended ("+text+"); restarting, attempt "+itoa(in.restarts))
		in.announce()
		r.ctorReady(in)
		return
	}
	code := yr.InstanceExited
	if w.endCode != yr.OK {
		code = w.endCode
	}
	in.failure = errorValue(yr.E("instance "+in.label(), code,
		"its process ended (%s); see `yr logs %s`, or set recover_retry_times to have it restarted", text, in.id))
	in.set(yr.StateFatal, string(in.failure.Data))
	r.failDeliveries(in, w, list)
	r.failCalls(in)
	r.forgetName(in)
	r.bury(in)
	in.announce()
}

func (r *Router) failDeliveries(in *instance, w *worker, list []delivery) {
	for _, d := range list {
		if c := d.call; c != nil && c.state == callRunning && c.worker == w {
			r.failCall(in, c)
		}
	}
}

func (r *Router) buryAs(in *instance, s yr.InstanceState) {
	in.set(s, in.reason)
	r.failCalls(in)
	r.bury(in)
	in.announce()
}

// bury forgets an instance that has ended and has no process any more.
func (r *Router) bury(in *instance) {
	if r.instances[in.id] != in {
		return
	}
	delete(r.instances, in.id)
	delete(in.job.instances, in)
	r.dropCtor(in)
	r.dropRecord(in)
	r.ended.instance(in)
	for _, k := range in.killers {
		k.session.done(k.corr, nil)
	}
	in.killers = nil
	r.jobMayEnd(in.job)
	r.hungry = true
}

// announce tells those who hold a handle what became of the instance.
func (in *instance) announce() {
	for s := range in.watchers {
		in.tell(s)
	}
	if in.state.Ended() {
		in.watchers = nil
	}
}

// tell sends one session the state of the instance.
func (in *instance) tell(s *Session) {
	e := &wirepb.InstanceEvent{InstanceId: in.id[:], State: uint32(in.state), Kept: in.keep != nil} //nolint:gosec // 0 to 13
	if len(in.failure.Data) > 0 {
		e.Status = &wirepb.Status{Code: int32(in.failure.Code)}
		if in.failure.Serialized {
			e.Error = in.failure.Data
		} else {
			e.Status.Message = strings.ToValidUTF8(string(in.failure.Data), "?")
		}
	} else if in.state.Ended() {
		e.Status = &wirepb.Status{Code: int32(yr.InstanceExited), Message: in.reason}
	}
	s.queue(func(dst []byte) []byte { return wire.AppendMessage(dst, wire.Instance, 0, e) })
}

// bind takes a BIND frame: a handle that came from somewhere else.
func (s *Session) bind(m *wirepb.Bind) error {
	id, err := yr.ParseID(string(m.GetInstanceId()))
	if err != nil {
		return yr.Wrap("bind", yr.ParamInvalid, err)
	}
	r := s.r
	in := s.instance(id)
	switch {
	case in != nil:
	case s.node != nil: // in a restart, it may be on its way back
		in = r.absent(id, &job{instances: make(map[*instance]struct{})})
	case r.abroad(id):
		in = r.foreignInstance(id, s.job)
	default:
		in = r.absent(id, s.job)
	}
	return s.bindNumber(m.GetNumber(), in)
}

// bindNumber gives a known instance a number and has the session told of it.
func (s *Session) bindNumber(number uint32, in *instance) error {
	if err := s.number(number, target{in: in}); err != nil {
		return err
	}
	in = in.real()
	in.watch(s)
	in.tell(s)
	return nil
}

// instance finds one that the session may know of: its tenant's.
func (s *Session) instance(id yr.ID) *instance {
	if in := s.r.instances[id]; in != nil && (s.node != nil || in.job.tenant == s.job.tenant) {
		return in
	}
	return nil
}

// watch has the session told what becomes of the instance.
func (in *instance) watch(s *Session) {
	if in.state.Ended() {
		return
	}
	if in.watchers == nil {
		in.watchers = make(map[*Session]struct{})
	}
	in.watchers[s] = struct{}{}
}

// buried stands for an instance that is not there any more.
func (r *Router) buried(id yr.ID, j *job) *instance {
	in := &instance{r: r, id: id, job: j, options: &wirepb.Options{}, class: "instance", state: yr.StateExited, lanes: map[yr.Prefix]*lane{}}
	in.reason = "it was terminated, or its job has ended"
	if e, ok := r.ended.find(id.String()); ok {
		in.reason = e.Reason
	}
	in.failure = errorValue(yr.E("call", yr.InstanceNotFound, "there is no instance %s: %s", id, in.reason))
	return in
}

// kill takes a KILL frame.
func (s *Session) kill(corr uint64, m *wirepb.Kill) {
	r := s.r
	id, err := yr.ParseID(string(m.GetInstanceId()))
	if err != nil {
		s.done(corr, yr.Wrap("kill", yr.ParamInvalid, err))
		return
	}
	in := s.instance(id)
	if in == nil {
		if _, ok := r.ended.find(id.String()); ok {
			s.done(corr, nil) // it has ended already, which is what was asked for
			return
		}
		if s.node == nil && r.abroad(id) {
			s.killForeign(id, corr, m)
			return
		}
		s.done(corr, yr.E("kill", yr.InstanceNotFound, "there is no instance %s on this node", id))
		return
	}
	in = in.real()
	if m.GetWait() {
		in.killers = append(in.killers, reply{s, corr})
	} else {
		s.done(corr, nil)
	}
	r.endInstance(in, yr.StateExited, yr.E("instance "+in.label(), yr.InstanceExited, "it was terminated"))
}
