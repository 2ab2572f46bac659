package route

import (
	"context"
	"maps"
	"slices"
	"time"

	"yr/agent/launch"
	"yr/pkg/wire"
	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
	"yr/scheduler"
)

// Workers on other nodes. A node that is full hires a worker process elsewhere:
// the other node finds the room, starts the process and relays frames; which task
// the worker gets, and what becomes of it, is decided here as for any other
// worker. So there is one queue for a pool and one mailbox for an instance,
// wherever their workers are.

// send queues a frame for the worker, wherever it is.
func (w *worker) send(add func(dst []byte) []byte) { w.sendDepth(0, add) }

// sendDepth is send for a task that is nested in so many calls.
//
// hot: once per delivered task.
func (w *worker) sendDepth(depth int, add func(dst []byte) []byte) {
	if w.host == nil {
		w.session.queue(add)
		return
	}
	w.host.queue(func(dst []byte) []byte {
		return wire.AppendRelay(dst, 0, w.hire, uint32(depth), add) //nolint:gosec // bounded by the calls there can be
	})
}

// connected reports whether the worker can be sent frames.
func (w *worker) connected() bool {
	if w.host != nil {
		return w.joined
	}
	return w.session != nil && !w.session.closed
}

// elsewhere hires a worker on another node that has room, as far as is known
// here. It asks two of them and takes the better one.
func (r *Router) elsewhere(w *worker, need yr.Resources, o *wirepb.Options) bool {
	if r.opt.Cluster == nil {
		return false
	}
	_, request := r.request(need, o, w.job)
	var state scheduler.State
	for _, c := range r.opt.Cluster.Sample() {
		if !r.current(&c) {
			continue
		}
		one := scheduler.State{Nodes: []scheduler.Node{c.Node}}
		if scheduler.Place(&one, request).Verdict != scheduler.Placed {
			continue
		}
		if state.Nodes = append(state.Nodes, c.Node); len(state.Nodes) == 2 {
			break
		}
	}
	if len(state.Nodes) == 0 {
		return false
	}
	plan := scheduler.Place(&state, request)
	if plan.Verdict != scheduler.Placed {
		return false
	}
	r.hireAt(plan.Node, w, need, o)
	return true
}

// current corrects what was heard of a node by what happened since: workers were
// hired there, or it refused one.
func (r *Router) current(c *Candidate) bool {
	n := r.neighbours[c.ID]
	if n == nil {
		return true
	}
	if n.silent() {
		return false
	}
	if n.fullAt.After(c.Heard) {
		if r.now.Sub(n.fullAt) > patience {
			return true
		}
		if n.full == nil {
			return false
		}
		c.Available = n.full.Clone()
	} else {
		c.Available = c.Available.Clone()
	}
	for _, w := range n.hires {
		if w.born.After(c.Heard) && !w.born.Before(n.fullAt) {
			c.Available.Sub(w.hiredFor)
		}
	}
	return true
}

// patience is how long a node that refused a worker is believed to be full if
// nothing is heard of it.
const patience = 2 * time.Second

// hireAt asks a node for a worker.
func (r *Router) hireAt(node yr.Node, w *worker, need yr.Resources, o *wirepb.Options) {
	n := r.neighbour(node)
	n.last++
	w.host, w.hire, w.hiredFor = n, n.last, need
	n.hires[w.hire] = w
	w.job.nodes[n] = struct{}{}
	m := &wirepb.Hire{
		Number: w.hire, WorkerId: w.id[:], Job: r.info(w.job), Options: o, Need: amounts(need),
		Concurrency: uint32(w.concurrency), Note: "pool", //nolint:gosec // 1 to 1000
	}
	if in := w.in; in != nil {
		m.InstanceId, m.Create, m.Note = in.id[:], in.message, "instance "+in.id.String()
	}
	n.queue(func(dst []byte) []byte { return wire.AppendMessage(dst, wire.Hire, 0, m) })
}

func amounts(need yr.Resources) map[string]int64 {
	m := make(map[string]int64, len(need))
	for k, v := range need {
		m[k] = int64(v)
	}
	return m
}

func resources(m map[string]int64) yr.Resources {
	need := make(yr.Resources, len(m))
	for k, v := range m {
		need[k] = yr.Milli(v)
	}
	return need
}

// hired takes the answer to HIRE.
func (n *neighbour) hired(m *wirepb.Hired) error {
	r, w := n.r, n.hires[m.GetNumber()]
	if w == nil {
		if m.GetStatus().GetCode() == 0 { // nobody waited for it any longer
			d := &wirepb.Dismiss{Number: m.GetNumber(), Reason: "it came too late"}
			n.queue(func(dst []byte) []byte { return wire.AppendMessage(dst, wire.Dismiss, 0, d) })
		}
		return nil
	}
	if code := yr.Code(m.GetStatus().GetCode()); code != yr.OK {
		r.refused(w, yr.E("hire", code, "%s", m.GetStatus().GetMessage()), resources(m.GetAvailable()))
		return nil
	}
	w.pid = int(m.GetPid())
	if w.ending == "" {
		r.joined(w)
	}
	return nil
}

// tickHire gives up a node that does not answer: somebody else may have room.
func (r *Router) tickHire(w *worker) time.Duration {
	if !w.everJoined && r.now.Sub(w.born) > hirePatience && r.now.Sub(w.host.link.Heard()) > hirePatience {
		r.refused(w, yr.E("hire", yr.ResourceNotEnough, "node %s does not answer", w.host.node), nil)
	}
	return tickBusy
}

// hirePatience is how long a node may say nothing at all before work that it was
// to take is given to others.
const hirePatience = 2 * time.Second

// silence is how long a node that is met may say nothing before it gets no new
// work: links have a sign of life every half second.
const silence = 1500 * time.Millisecond

// silent reports whether a node that should be there is not heard.
func (n *neighbour) silent() bool {
	return n.link.met && n.r.now.Sub(n.link.Heard()) > silence
}

// refused undoes a hire for which the other node had no room after all. Whoever
// needs the worker looks for room again, on that node only when it was heard of anew.
func (r *Router) refused(w *worker, cause error, available yr.Resources) {
	n := w.host
	delete(n.hires, w.hire)
	delete(r.workers, w.id)
	n.full, n.fullAt = available, r.now
	lack := yr.CodeOf(cause) == yr.ResourceNotEnough
	if p := w.pool; p != nil {
		p.starting--
		p.job.workers--
		p.reason = messageOf(cause)
		if !lack {
			r.neverJoined(p, w, messageOf(cause), cause)
		}
	} else if in := w.in; in.worker == w {
		in.worker = nil
		switch {
		case in.state == yr.StateExiting:
			r.buryAs(in, yr.StateExited)
		case in.state.Ended():
			r.bury(in)
		case lack:
			r.ctorReady(in)
		default:
			r.failInstance(in, yr.StateFatal, errorValue(cause))
		}
	}
	r.jobMayEnd(w.job)
	r.hungry = true
}

// gone takes the news that a hired worker has ended.
func (n *neighbour) gone(m *wirepb.Gone) error {
	if w := n.hires[m.GetNumber()]; w != nil {
		w.endCode = yr.Code(m.GetCode())
		n.r.hiredGone(w, m.GetText(), m.GetStarted(), m.GetKnown())
	}
	return nil
}

// hiredGone buries a hired worker.
func (r *Router) hiredGone(w *worker, text string, started uint64, known bool) {
	delete(w.host.hires, w.hire)
	w.exit = &launch.Exit{Worker: w.id, Text: text}
	w.lastStarted, w.startKnown = started, known
	w.joined = false
	r.workerGone(w, nil)
}

// killProcess ends the process of a worker, wherever it is.
func (r *Router) killProcess(w *worker) {
	if w.host == nil {
		r.opt.Launcher.Kill(w.id)
		return
	}
	m := &wirepb.Dismiss{Number: w.hire, Reason: w.ending}
	w.host.queue(func(dst []byte) []byte { return wire.AppendMessage(dst, wire.Dismiss, 0, m) })
}

// fromWorker takes a frame that a hired worker sent.
func (n *neighbour) fromWorker(number uint32, frames []byte) error {
	r, w := n.r, n.hires[number]
	h, body, _, err := wire.Next(frames)
	if err != nil {
		return err
	}
	if w == nil {
		return n.unwanted(h, body)
	}
	switch h.Type {
	case wire.ResultType:
		id, values, _, err := wire.DecodeResult(body, n.peer.scratch[:0])
		if err != nil {
			return err
		}
		n.peer.scratch = values[:0]
		r.admit(n, id, values, func(values []wire.Value) {
			if n.hires[number] != w {
				r.returnValues(n, id, values)
				return
			}
			r.result(w, h.Corr, id, values, n.peer)
			r.settled(w, 1)
		})
		return nil
	case wire.Blocked:
		after, err := wire.DecodeBlocked(body)
		if err == nil {
			r.blocked(w, after)
		}
		return err
	case wire.Unblocked:
		r.unblocked(w)
		return nil
	case wire.Yield:
		after, reason, err := wire.DecodeYield(body)
		if err == nil {
			r.yielded(w, after, reason)
		}
		return err
	}
	return yr.E("link", yr.FrameMalformed, "frame type %d is not one that a worker's node passes on", h.Type)
}

// unwanted gives back what a dismissed worker still returned.
func (n *neighbour) unwanted(h wire.Header, body []byte) error {
	if h.Type != wire.ResultType {
		return nil
	}
	id, values, _, err := wire.DecodeResult(body, nil)
	if err == nil {
		n.r.returnValues(n, id, values)
	}
	return err
}

// ask has the leader look for room for work that no node known here has room for.
// One question at a time for each asker: done runs in a turn.
func (r *Router) ask(asking *bool, request scheduler.Request, done func(id yr.ID, plan scheduler.Plan, err error)) {
	if *asking {
		return
	}
	*asking = true
	request.ID = r.opt.Tag.NewID() // becomes the worker's
	r.background(func(ctx context.Context) {
		plan, err := r.opt.Cluster.Schedule(ctx, request)
		r.turn(func() {
			*asking = false
			if n := r.neighbours[plan.Node]; err == nil && plan.Verdict == scheduler.Placed && n != nil && n.silent() {
				plan = scheduler.Plan{Verdict: scheduler.Wait, Reason: "node " + string(plan.Node) + " has room, but does not answer"}
			}
			done(request.ID, plan, err)
		})
	})
}

// info is what another node needs to know of a job.
func (r *Router) info(j *job) *wirepb.JobInfo {
	home := r.opt.Tag
	if j.home != nil {
		home = j.home.tag
	}
	return &wirepb.JobInfo{
		Job: string(j.id), Tenant: string(j.tenant), Namespace: j.namespace, Language: j.language, Interpreter: j.interpreter,
		CodePaths: slices.Clone(j.codePaths), WorkingDir: j.dir, EnvVars: maps.Clone(j.env),
		RecycleMs: j.recycle.Milliseconds(), MaxWorkers: int64(j.maxWorkers), Home: home.String(),
	}
}
