package route

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"yr/pkg/yr"
	"yr/store"
)

// Views for lists and `yr why`: plain copies, taken under the lock.

func itoa(n int) string { return strconv.Itoa(n) }

func floats(r yr.Resources) map[string]float64 {
	m := make(map[string]float64, len(r))
	for k, v := range r {
		m[k] = v.Float()
	}
	return m
}

// Capacity and Available are what the node offers, and what of it is free.
func (r *Router) Capacity() (capacity, available yr.Resources) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.opt.Resources.Clone(), r.free.Clone()
}

// Store shows the node's shared memory.
func (r *Router) Store() yr.StoreView {
	v := r.opt.Store.Stats()
	r.mu.Lock()
	defer r.mu.Unlock()
	stats := r.names.Stats()
	v.Objects, v.Inline = stats.Names, stats.Inline
	return v
}

// Workers is the number of worker processes.
func (r *Router) Workers() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.workers)
}

// Instances lists instances and the workers of stateless pools.
func (r *Router) Instances() []yr.InstanceView {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []yr.InstanceView
	for _, in := range r.instances {
		list = append(list, r.instanceView(in))
	}
	for _, w := range r.workers {
		pooled := w.pool != nil && w.host == nil || w.guest != nil && w.guest.instance.IsZero()
		if pooled { // a worker is listed by the node that runs it, an instance by its home
			list = append(list, r.workerView(w))
		}
	}
	slices.SortFunc(list, func(a, b yr.InstanceView) int { return slices.Compare(a.ID[:], b.ID[:]) })
	return list
}

func (r *Router) instanceView(in *instance) yr.InstanceView {
	v := yr.InstanceView{
		ID: in.id, Name: in.options.GetName(), Namespace: in.options.GetNamespace(), Class: in.class,
		Job: in.job.id, Tenant: in.job.tenant, Node: r.opt.Node, State: in.state.String(), Detached: in.detached(),
		Resources: floats(in.need), Pending: in.pending, Restarts: in.restarts, Since: in.since, Reason: in.reason,
	}
	if w := in.worker; w != nil {
		v.PID, v.Worker = w.pid, w.id.String()
		if w.host != nil {
			v.Node = w.host.node
		}
		v.Pending += w.inflight.len()
		if !w.blockedAt.IsZero() && v.Reason == "" {
			v.Reason = "it waits inside a method"
		}
	}
	return v
}

func (r *Router) workerView(w *worker) yr.InstanceView {
	v := yr.InstanceView{
		ID: w.id, Worker: w.id.String(), Job: w.job.id, Tenant: w.job.tenant, Node: r.opt.Node, PID: w.pid,
		Resources: floats(w.plan.Take), Pending: w.inflight.len(), Since: w.born,
	}
	switch {
	case w.ending != "":
		v.State, v.Reason = yr.StateExiting.String(), w.ending
	case !w.connected():
		v.State, v.Reason = yr.StateCreating.String(), "its process is starting"
	default:
		v.State = yr.StateRunning.String()
		if c := w.current(); c != nil {
			v.Reason = "runs " + c.name()
			if !w.blockedAt.IsZero() {
				v.Reason += ", which waits"
			}
		} else {
			v.Reason = "idle"
		}
	}
	return v
}

// Calls lists the calls that have not ended.
func (r *Router) Calls() []yr.CallView {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]yr.CallView, 0, len(r.calls))
	for _, c := range r.calls {
		list = append(list, r.callView(c))
	}
	slices.SortFunc(list, func(a, b yr.CallView) int { return slices.Compare(a.ID[:], b.ID[:]) })
	return list
}

func (r *Router) callView(c *call) yr.CallView {
	v := yr.CallView{
		ID: c.id, Function: c.name(), Job: c.job.id, Node: r.opt.Node, State: c.state.String(),
		Attempt: int(c.attempt), Since: c.since, Reason: r.reason(c),
	}
	if w := c.worker; w != nil {
		v.Worker = w.id.String()
		if w.host != nil {
			v.Node = w.host.node
		}
	}
	return v
}

// reason says what a call waits for.
func (r *Router) reason(c *call) string {
	switch {
	case c.at != nil:
		return "it was sent to node " + string(c.at.node) + ", where its instance is"
	case c.state == callRunning && c.worker == nil:
		return "the node of its instance is being looked for"
	case c.state == callRunning:
		w := c.worker
		if cur := w.current(); cur != nil && cur != c && w.concurrency == 1 {
			return "it was sent to worker " + w.id.String() + ", which runs " + cur.id.String() + " before it"
		}
		if !w.blockedAt.IsZero() {
			return "it runs on worker " + w.id.String() + " and waits inside (see the calls it made)"
		}
		if w.host != nil {
			return "it runs on worker " + w.id.String() + " (pid " + itoa(w.pid) + " on node " + string(w.host.node) + ")"
		}
		return "it runs on worker " + w.id.String() + " (pid " + itoa(w.pid) + ")"
	case c.waiting > 0:
		for i := range c.deps.Len() {
			if n := r.names.Get(c.deps.At(i)); n != nil && n.State == store.Pending {
				return fmt.Sprintf("it waits for %d of its arguments, first %s", c.waiting, n.ID)
			}
		}
		return "it waits for its arguments"
	case r.recovery != nil:
		return "the node's daemon was restarted; workers are coming back"
	case c.in != nil:
		if c.in.state != yr.StateRunning {
			return "its instance is " + c.in.state.String() + ": " + c.in.reason
		}
		if c.in.worker == nil {
			return "its instance has no worker"
		}
		return fmt.Sprintf("its instance works on %d calls before it", c.in.pending+c.in.worker.inflight.len()-1)
	case c.fn.pool.reason != "":
		return c.fn.pool.reason
	}
	return "all workers are busy"
}

// maxListed bounds what one list of objects copies under the lock.
const maxListed = 100_000

// Objects lists the objects that somebody refers to, at most maxListed of them.
func (r *Router) Objects() []yr.ObjectView {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []yr.ObjectView
	r.names.Each(func(n *store.Name[waiter]) bool {
		list = append(list, objectView(n))
		return len(list) < maxListed
	})
	slices.SortFunc(list, func(a, b yr.ObjectView) int { return slices.Compare(a.ID[:], b.ID[:]) })
	return list
}

func objectView(n *store.Name[waiter]) yr.ObjectView {
	v := yr.ObjectView{
		ID: n.ID, Job: n.Job(), State: n.State.String(), Size: n.Size(),
		Refs: n.References(), Owner: n.Owner().String(), Contains: len(n.Contains),
	}
	if n.State == store.Ready {
		v.Where = "inline"
		if n.Value.Kind == store.Shared {
			v.Where = "shm"
		}
	}
	return v
}

// Why explains what a call, an instance, a worker or an object waits for, or why
// it ended.
func (r *Router) Why(id string) (yr.Explanation, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.ended.find(id); ok {
		return e, true
	}
	if id == string(r.opt.Node) {
		return yr.Explanation{ID: id, Kind: "node", State: "ready", Reason: fmt.Sprintf("it has %s free of %s", r.free, r.opt.Resources)}, true
	}
	for key, in := range r.named {
		if key.name == id {
			id = in.id.String()
		}
	}
	parsed, err := yr.ParseID(id)
	if err != nil {
		return yr.Explanation{}, false
	}
	if c := r.calls[parsed]; c != nil {
		return r.whyCall(c), true
	}
	if in := r.instances[parsed]; in != nil {
		v := r.instanceView(in)
		reason := v.Reason
		if reason == "" {
			reason = fmt.Sprintf("it runs on worker %s (pid %d)", v.Worker, v.PID)
		}
		return yr.Explanation{ID: id, Kind: "instance", State: v.State, Reason: reason, Trail: []string{fmt.Sprintf("%d calls pending", v.Pending)}}, true
	}
	if w := r.workers[parsed]; w != nil {
		v := r.workerView(w)
		return yr.Explanation{ID: id, Kind: "worker", State: v.State, Reason: v.Reason, Trail: []string{"job " + string(w.job.id)}}, true
	}
	if n := r.names.Get(parsed); n != nil {
		o := objectView(n)
		reason := fmt.Sprintf("%d bytes, %s, %d references, owned by session %s", o.Size, o.Where, o.Refs, o.Owner)
		if n.State == store.Pending {
			reason = "the call that makes it has not ended"
		}
		return yr.Explanation{ID: id, Kind: "object", State: o.State, Reason: reason}, true
	}
	return yr.Explanation{}, false
}

// whyCall follows a call to what it waits for, and that to what it waits for.
func (r *Router) whyCall(c *call) yr.Explanation {
	e := yr.Explanation{ID: c.id.String(), Kind: "call", State: c.state.String(), Reason: r.reason(c)}
	e.Trail = append(e.Trail, c.name()+" of job "+string(c.job.id)+", for "+r.opt.Now().Sub(c.since).Round(time.Millisecond).String())
	seen := map[*call]bool{c: true}
	for next := r.blocker(c); next != nil && !seen[next] && len(e.Trail) < 16; next = r.blocker(next) {
		seen[next] = true
		e.Trail = append(e.Trail, next.id.String()+" ("+next.name()+") is "+next.state.String()+": "+r.reason(next))
	}
	return e
}

// blocker is the call that c waits for, if it is one.
func (r *Router) blocker(c *call) *call {
	switch {
	case c.waiting > 0:
		for i := range c.deps.Len() {
			if n := r.names.Get(c.deps.At(i)); n != nil && n.State == store.Pending {
				return r.calls[n.ID]
			}
		}
	case c.state == callRunning && c.worker == nil:
	case c.state == callRunning && !c.worker.blockedAt.IsZero():
		for _, child := range r.calls {
			if child.parent == c.id {
				return child
			}
		}
	case c.state == callRunning:
		if cur := c.worker.current(); cur != c {
			return cur
		}
	}
	return nil
}

// Counters are sizes and totals for metrics and for leak checks.
func (r *Router) Counters() map[string]uint64 {
	s := r.Store()
	r.mu.Lock()
	defer r.mu.Unlock()
	n := func(v int) uint64 { return uint64(v) } //nolint:gosec // lengths are not negative
	list := map[string]uint64{
		"sessions": n(len(r.sessions)), "jobs": n(len(r.jobs)), "calls": n(len(r.calls)), "pools": n(len(r.pools)),
		"workers": n(len(r.workers)), "instances": n(len(r.instances)), "objects": n(s.Objects),
		"segments": n(s.Segments), "store_live_bytes": s.Live, "store_leased_bytes": s.Leased, "inline_bytes": s.Inline,
		"calls_total": r.counters.calls.Load(), "puts_total": r.counters.puts.Load(),
		"retries_total": r.counters.retries.Load(), "failures_total": r.counters.failures.Load(),
		"fetched_bytes_total": r.counters.brought.Load(), "neighbours": n(len(r.neighbours)), "loans": n(len(r.loans)),
		"workers_started_total": r.counters.workersStarted.Load(), "workers_lost_total": r.counters.workersLost.Load(),
	}
	maps.Copy(list, r.spillCounters())
	return list
}

// Check verifies what must hold between turns; tests and `yr debug` call it.
func (r *Router) Check() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.names.Check(); err != nil {
		return err
	}
	used := yr.Resources{}
	var lent yr.Milli
	for _, w := range r.workers {
		used.Add(w.plan.Take)
		lent += w.cpuLent
	}
	for k, v := range r.opt.Resources {
		free := r.free[k]
		if k == yr.CPU {
			free -= lent
		}
		if free+used[k] != v {
			return fmt.Errorf("resource %s: %s free and %s used do not make %s", k, free, used[k], v)
		}
	}
	if err := r.checkSpill(); err != nil {
		return err
	}
	for id, c := range r.calls {
		if c.id != id || c.state == callEnded {
			return fmt.Errorf("call %s is %s and still listed", id, c.state)
		}
	}
	return nil
}
