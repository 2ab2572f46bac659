package route

import (
	"maps"
	"slices"
	"strings"

	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
	"yr/scheduler"
)

// Placement is the scheduler's; this file is how the router asks it about this
// node, which is tried first. What does not fit here is hired elsewhere (hire.go).

// shortage says that a worker does not fit now, and why.
type shortage struct {
	short  bool
	reason string
}

// nodeOf is this node as the scheduler sees it.
func nodeOf(o *Options) scheduler.Node {
	n := scheduler.Node{ID: o.Node, Capacity: o.Resources, Available: o.Resources.Clone(), Labels: o.Labels}
	for _, name := range slices.Sorted(maps.Keys(o.Devices)) {
		typ, rest, _ := strings.Cut(name, "/")
		for _, id := range o.Devices[name] {
			n.Devices = append(n.Devices, scheduler.Device{Type: typ, Model: strings.TrimSuffix(rest, "/count"), ID: id, Free: yr.Amount(1)})
		}
	}
	return n
}

func (r *Router) request(need yr.Resources, o *wirepb.Options, j *job) (*scheduler.State, scheduler.Request) {
	return &scheduler.State{Nodes: []scheduler.Node{r.node}, Local: r.opt.Node},
		scheduler.Request{Need: need, Tenant: j.tenant, Priority: int(o.GetPriority())}
}

// place asks the scheduler for room for w and takes it.
func (r *Router) place(w *worker, need yr.Resources, o *wirepb.Options) (shortage, error) {
	plan := scheduler.Place(r.request(need, o, w.job))
	switch plan.Verdict {
	case scheduler.Placed:
		w.plan = plan
		r.node.Take(plan)
		r.kick()
		return shortage{}, nil
	case scheduler.Never:
		return shortage{}, yr.E("schedule", plan.Code, "%s", plan.Reason)
	case scheduler.Wait:
	}
	return shortage{true, plan.Reason}, nil
}

// alone reports whether there are no other nodes to pass work on to.
func (r *Router) alone() bool { return r.opt.Cluster == nil }

// kick has others hear soon of what is free here.
func (r *Router) kick() {
	if r.opt.Cluster != nil {
		r.opt.Cluster.Kick()
	}
}

// infeasible is why nothing can ever hold this, or nil. What does not fit here may
// fit on another node; the leader knows.
func (r *Router) infeasible(need yr.Resources, o *wirepb.Options, j *job) error {
	if !r.alone() {
		_, request := r.request(need, o, j)
		plan := scheduler.Place(&scheduler.State{Nodes: []scheduler.Node{r.node}}, request)
		if plan.Verdict == scheduler.Never && plan.Code == yr.ParamInvalid {
			return yr.E("schedule", plan.Code, "%s", plan.Reason)
		}
		return nil
	}
	plan := scheduler.Place(r.request(need, o, j))
	if plan.Verdict == scheduler.Never {
		return yr.E("schedule", plan.Code, "%s", plan.Reason)
	}
	return nil
}
