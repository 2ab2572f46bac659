package route

import (
	"maps"
	"slices"
	"strings"

	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
	"yr/scheduler"
)

// Placement is the scheduler's; this file is how the router asks it. A node looks
// at itself only: what does not fit here will be passed on to others by them.

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
		return shortage{}, nil
	case scheduler.Never:
		return shortage{}, yr.E("schedule", plan.Code, "%s", plan.Reason)
	case scheduler.Wait:
	}
	return shortage{true, plan.Reason}, nil
}

// infeasible is why no node can ever hold this, or nil.
func (r *Router) infeasible(need yr.Resources, o *wirepb.Options, j *job) error {
	plan := scheduler.Place(r.request(need, o, j))
	if plan.Verdict == scheduler.Never {
		return yr.E("schedule", plan.Code, "%s", plan.Reason)
	}
	return nil
}
