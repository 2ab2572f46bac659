package route

import (
	"slices"
	"time"

	"yr/pkg/wire"
	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
	"yr/scheduler"
	"yr/store"
)

// What two nodes do when the daemon of one of them was restarted. Its processes
// and its memory survived, its knowledge did not; the other tells it what they
// share, as drivers and workers do on the node itself: workers hired by either,
// references and where the bytes are, instances bound and calls under way. Until
// then nothing is said to it that it could not understand.
//
// If it does not ask to be told (it was down for too long, or started afresh),
// what they shared is lost.

// suspend keeps everything that concerns n as it is until it says whether it
// remembers its processes.
func (n *neighbour) suspend() {
	n.limbo = true
	n.link.met, n.link.early = false, nil // for its former life; what is queued from now on waits
	for _, w := range n.hires {
		w.joined = false
	}
	requests := n.requests
	n.requests = make(map[uint64]func(wire.Header, []byte, error))
	for _, answer := range requests {
		answer(wire.Header{}, nil, yr.E("node "+string(n.node), yr.Communication, "the daemon of node %s was restarted; try again", n.node))
	}
}

// reunite tells the restarted daemon of n everything that it had to do with this node.
func (n *neighbour) reunite() {
	r := n.r
	n.limbo = false
	held := n.link.early
	n.link.early = nil
	n.link.meet()

	for _, j := range r.jobs {
		if j.home == n {
			info := r.info(j)
			n.queue(func(dst []byte) []byte { return wire.AppendMessage(dst, wire.JobKept, 0, info) })
		}
	}
	for _, w := range n.guests {
		n.tellKept(w)
	}
	for _, w := range n.hires {
		m := &wirepb.WantedWorker{Number: w.hire, WorkerId: w.id[:]}
		n.queue(func(dst []byte) []byte { return wire.AppendMessage(dst, wire.Wanted, 0, m) })
	}
	n.tellHeld()
	n.askAgain()
	n.bindAgain()
	for _, j := range r.jobs {
		if _, ok := j.nodes[n]; ok && j.ended {
			m := &wirepb.JobEnd{Job: string(j.id), Reason: "its job has ended"}
			n.queue(func(dst []byte) []byte { return wire.AppendMessage(dst, wire.JobEnd, 0, m) })
		}
	}
	n.queue(func(dst []byte) []byte { return append(wire.AppendEmpty(dst, wire.Reunited, 0), held...) })
}

// tellKept tells of a worker that this node runs for n, and its last results.
func (n *neighbour) tellKept(w *worker) {
	g := w.guest
	m := &wirepb.KeptWorker{Hire: g.hire, Joined: g.joined, Pid: int64(w.pid), Last: g.last, InstanceState: uint32(yr.StateRunning)}
	if !g.instance.IsZero() && !g.built {
		m.InstanceState = uint32(yr.StateCreating)
	}
	for _, t := range g.tasks {
		if t.call != nil {
			m.Running = append(m.Running, slices.Clone(t.call.id[:]))
		}
	}
	n.queue(func(dst []byte) []byte { return wire.AppendMessage(dst, wire.Kept, 0, m) })
	for _, a := range g.sent.list {
		n.queue(func(dst []byte) []byte {
			return wire.AppendRelay(dst, wire.FromWorker, g.number, 0, func(dst []byte) []byte { return append(dst, a.frame...) })
		})
	}
}

// tellHeld tells n of the references that it has here, and where its own objects'
// bytes are.
func (n *neighbour) tellHeld() {
	n.peer.holder.Each(func(name *store.Name[waiter], _ uint32) bool {
		if name.State != store.Pending {
			v := withContains(n.r.valueFor(n, name), name)
			n.queue(func(dst []byte) []byte { return wire.AppendObject(dst, wire.ObjectType, 0, name.ID, &v) })
		}
		return true
	})
}

// askAgain asks n for every reference that this node had there, and tells it where
// in its memory the bytes of this node's objects are.
func (n *neighbour) askAgain() {
	r := n.r
	var list []yr.ID
	for id, l := range r.loans {
		if l.from != n {
			continue
		}
		list = append(list, id)
		name := r.names.Get(id)
		if name == nil || name.State != store.Ready || name.Value.Source == nil || name.Value.Source.Node != n.node || name.Value.Source.Place.Length == 0 {
			continue
		}
		v := withContains(wire.Value{Kind: wire.Placed, Place: name.Value.Source.Place}, name)
		n.queue(func(dst []byte) []byte { return wire.AppendObject(dst, wire.PutType, wire.Announce, id, &v) })
	}
	for _, id := range list {
		l := r.loans[id]
		if l.lent {
			l.lent = false
			r.lending.asked++
			l.number = r.lending.asked
			r.lending.open[l.number] = true
		}
		n.queue(func(dst []byte) []byte { return wire.AppendIDs(dst, wire.Borrow, 0, []yr.ID{id}) })
	}
}

// bindAgain binds the instances that live on n, and sends their calls again, in order.
func (n *neighbour) bindAgain() {
	for _, in := range n.instances {
		m := &wirepb.Bind{Number: in.foreign.number, InstanceId: in.id[:]}
		n.queue(func(dst []byte) []byte { return wire.AppendMessage(dst, wire.Bind, 0, m) })
	}
	calls := make([]*call, 0, len(n.calls))
	for _, c := range n.calls {
		calls = append(calls, c)
	}
	sortCalls(calls)
	for _, c := range calls {
		n.r.forward(c, true)
	}
}

// sortCalls puts calls of each caller into the order in which they were made.
func sortCalls(calls []*call) {
	slices.SortFunc(calls, func(a, b *call) int { return slices.Compare(a.id[:], b.id[:]) })
}

// resend sends a forwarded call again, on behalf of a caller that was restarted.
func (n *neighbour) resend(c *call) { n.r.forward(c, true) }

// The restarted side.

// remember leaves a mark that this node has to do with n, for a restarted daemon.
func (r *Router) remember(n *neighbour) {
	if r.opt.Remember != nil {
		r.opt.Remember(n.node)
	}
}

// reunited is told that a node has said everything, or has nothing to say.
func (r *Router) reunited(n *neighbour) {
	if rec := r.recovery; rec != nil {
		delete(rec.nodes, n.node)
		r.soon()
	}
}

// announced takes a PUT frame of a node: where in this node's memory the bytes are
// of an object that this node keeps for it.
func (n *neighbour) announced(flags uint8, body []byte) error {
	if flags&wire.Announce == 0 || n.r.recovery == nil {
		return nil
	}
	return n.peer.put(flags, body)
}

// lentBefore takes a reference that this node had at another one before the restart.
func (r *Router) lentBefore(n *neighbour, id yr.ID, v *wire.Value) error {
	name := r.names.Expect(id)
	if err := r.recovery.holder.Retain(id, 1); err != nil {
		return err
	}
	r.loans[id] = &loan{from: n, lent: true}
	if name.State != store.Pending {
		return nil
	}
	if err := r.names.Set(name, r.located(n, v), ids(v.Contains)); err != nil {
		return err
	}
	r.serve(name)
	return nil
}

// jobKept takes a job of this node that another one does something for.
func (n *neighbour) jobKept(m *wirepb.JobInfo) error {
	r := n.r
	if r.recovery == nil {
		return nil
	}
	j := r.ownJob(m)
	j.nodes[n] = struct{}{}
	return nil
}

// ownJob is the job of this node that another one speaks of.
func (r *Router) ownJob(m *wirepb.JobInfo) *job {
	if j := r.jobs[yr.Job(m.GetJob())]; j != nil {
		return j
	}
	return r.newJob(&wirepb.Hello{
		Job: m.GetJob(), Tenant: m.GetTenant(), Namespace: m.GetNamespace(), Language: m.GetLanguage(),
		Interpreter: m.GetInterpreter(), CodePaths: m.GetCodePaths(), WorkingDir: m.GetWorkingDir(),
		EnvVars: m.GetEnvVars(), RecycleMs: m.GetRecycleMs(), MaxWorkers: m.GetMaxWorkers(),
	})
}

// kept takes a worker that another node runs for this one.
func (n *neighbour) kept(m *wirepb.KeptWorker) error {
	r, h := n.r, m.GetHire()
	id, err := yr.ParseID(string(h.GetWorkerId()))
	if err != nil {
		return yr.Wrap("kept worker", yr.ParamInvalid, err)
	}
	if r.recovery == nil {
		d := &wirepb.Dismiss{Number: h.GetNumber(), Reason: "the node that hired it has forgotten it"}
		n.queue(func(dst []byte) []byte { return wire.AppendMessage(dst, wire.Dismiss, 0, d) })
		return nil
	}
	j := r.ownJob(h.GetJob())
	if j.home == nil && h.GetJob().GetHome() != r.opt.Tag.String() {
		if tag, err := yr.ParseTag(h.GetJob().GetHome()); err == nil {
			j.home = r.tagged[tag]
		}
	}
	j.nodes[n] = struct{}{}
	w := &worker{
		id: id, job: j, host: n, hire: h.GetNumber(), hiredFor: resources(h.GetNeed()), joined: m.GetJoined(),
		everJoined: m.GetJoined(), pid: int(m.GetPid()), concurrency: max(1, int(h.GetConcurrency())), next: m.GetLast(),
		defined: make(map[uint32]bool), born: r.now, idleSince: r.now, busySince: r.now,
	}
	w.plan = scheduler.Plan{}
	n.hires[w.hire] = w
	n.last = max(n.last, w.hire)
	r.workers[id] = w
	state := &wirepb.WorkerState{Running: m.GetRunning(), LastDelivery: m.GetLast(), InstanceState: m.GetInstanceState()}
	a := &wirepb.WorkerAssignment{Options: h.GetOptions(), InstanceId: h.GetInstanceId(), Create: h.GetCreate()}
	if len(h.GetInstanceId()) == 0 {
		p, err := r.poolOf(j, h.GetOptions())
		if err != nil {
			return err
		}
		w.pool = p
		j.workers++
		if w.joined {
			p.workers = append(p.workers, w)
		} else {
			p.starting++
		}
		r.claimRunning(w, state)
		return nil
	}
	hosted, create, err := readInstance(a)
	if err != nil {
		return yr.Wrap("kept worker", yr.ParamInvalid, err)
	}
	r.resumeInstance(w, hosted, a, create, state)
	w.in.need = w.hiredFor
	return nil
}

// wanted takes a worker that this node ran for another one: it may be back already.
func (n *neighbour) wanted(m *wirepb.WantedWorker) error {
	r := n.r
	id, err := yr.ParseID(string(m.GetWorkerId()))
	if err != nil {
		return yr.Wrap("wanted worker", yr.ParamInvalid, err)
	}
	if w := r.workers[id]; w != nil && w.guest != nil {
		w.guest.from, w.guest.wanted = n, true
		n.guests[m.GetNumber()] = w
		r.guestReturned(w)
		return nil
	}
	if rec := r.recovery; rec != nil {
		if _, coming := rec.workers[id]; coming {
			rec.wanted[id] = wantedBy{n, m.GetNumber()}
			return nil
		}
	}
	n.lostGuest(m.GetNumber())
	return nil
}

// wantedBy is who wants a worker, and what he calls it.
type wantedBy struct {
	node   *neighbour
	number uint32
}

// lostGuest tells a hirer that its worker did not come back.
func (n *neighbour) lostGuest(number uint32) {
	gone := &wirepb.Gone{Number: number, Text: "it did not survive a crash of the daemon of node " + string(n.r.opt.Node)}
	n.queue(func(dst []byte) []byte { return wire.AppendMessage(dst, wire.Gone, 0, gone) })
}

// resumeGuest rebuilds a worker that runs for another node from what it says.
func (r *Router) resumeGuest(s *Session, id yr.ID, pid int, j *job, a *wirepb.WorkerAssignment, state *wirepb.WorkerState) *worker {
	n := r.neighbour(yr.Node(a.GetHirer()))
	if tag, err := yr.ParseTag(a.GetHirerTag()); err == nil && j.home == nil {
		r.tagged[tag], n.tag = n, tag
	}
	if j.home == nil && len(j.nodes) == 0 && !r.isDriven(j) {
		j.home = n
	}
	g, _ := newGuest(n, &wirepb.Hire{
		Number: a.GetHire(), WorkerId: slices.Clone(id[:]), Job: r.info(j), Options: a.GetOptions(), Create: a.GetCreate(),
		InstanceId: a.GetInstanceId(), Concurrency: a.GetConcurrency(), Need: amounts(needOf(a.GetOptions())), Note: "resumed",
	}) // its id was read before
	g.resumed, g.last = true, state.GetLastDelivery()
	g.built = yr.InstanceState(state.GetInstanceState()) == yr.StateRunning //nolint:gosec // a small number
	for _, raw := range state.GetRunning() {
		if task, err := yr.ParseID(string(raw)); err == nil {
			g.tasks = append(g.tasks, guestTask{call: &call{id: task}}) // its number is not known, and its answer names it
		}
	}
	w := &worker{
		id: id, home: s.id, job: j, guest: g, pid: pid, concurrency: max(1, int(a.GetConcurrency())),
		defined: make(map[uint32]bool), everJoined: true, born: r.now,
	}
	w.plan = scheduler.Plan{Node: r.opt.Node, Take: needOf(a.GetOptions())}
	r.node.Take(w.plan)
	r.workers[id] = w
	n.guests[g.number] = w
	if !g.options.GetDetached() {
		j.workers++
	}
	if by, ok := r.recovery.wanted[id]; ok {
		g.from, g.wanted = by.node, true
	}
	delete(r.recovery.workers, id)
	return w
}

func (r *Router) isDriven(j *job) bool {
	for _, s := range r.sessions {
		if s.job == j && s.role != yr.RoleWorker {
			return true
		}
	}
	return false
}

// guestReturned tells the hirer that its worker is back and what it is doing, once
// the worker has sent its last results again and the hirer has asked for it.
func (r *Router) guestReturned(w *worker) {
	g := w.guest
	if w.session == nil || w.session.announcing || g.from == nil || !g.wanted {
		return // told once, and not before it was asked: what comes later is no news
	}
	g.joined, g.wanted = true, false
	m := &wirepb.ResumedWorker{Number: g.number, Started: g.last}
	for _, t := range g.tasks {
		if t.call != nil {
			m.Running = append(m.Running, slices.Clone(t.call.id[:]))
		}
	}
	r.toHirerPlain(g, func(dst []byte) []byte { return wire.AppendMessage(dst, wire.Resumed, 0, m) })
}

// toHirerPlain sends the hirer a frame of this node's own, in order with what the
// worker sent.
func (r *Router) toHirerPlain(g *guest, add func(dst []byte) []byte) {
	r.whenLent(func() {
		if g.from != nil {
			g.from.queue(add)
		}
	})
}

// resumed takes the news that a hired worker has survived the restart of its
// node's daemon: what it neither runs nor has answered, it never got.
func (n *neighbour) resumed(m *wirepb.ResumedWorker) error {
	r, w := n.r, n.hires[m.GetNumber()]
	if w == nil {
		return nil
	}
	running := make(map[string]bool, len(m.GetRunning()))
	for _, id := range m.GetRunning() {
		running[string(id)] = true
	}
	if !w.everJoined {
		r.joined(w)
		return nil
	}
	w.joined = true
	w.recalled, w.blockedAt = false, time.Time{}
	var back []delivery
	for i := range w.inflight.list {
		d := &w.inflight.list[i]
		number := w.inflight.first + uint64(i)
		if d.done || d.call != nil && running[d.call.id.String()] || d.call == nil && w.in != nil && running[w.in.id.String()] {
			continue
		}
		if d.call == nil { // a constructor that never arrived: build it anew
			w.in.ctorNo = 0
		}
		if number <= m.GetStarted() && d.call != nil { // it ran, and its answer is lost
			r.lost(w, d.call, true, "the daemon of node "+string(n.node)+" was restarted")
			d.done, d.call = true, nil
			w.inflight.n--
			continue
		}
		back = append(back, *d)
		d.done, d.call = true, nil
		w.inflight.n--
	}
	r.requeueAll(w, back)
	switch {
	case w.pool != nil:
		r.dispatch(w.pool)
	case w.in != nil && w.in.state == yr.StateCreating && w.in.ctorNo == 0 && w.in.ctor != nil:
		r.construct(w.in)
	case w.in != nil:
		r.pump(w.in)
	}
	return nil
}
