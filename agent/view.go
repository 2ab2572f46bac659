package agent

import "yr/pkg/yr"

// What lists, `yr why` and the HTTP interface ask of a node.

// Node shows this machine.
func (a *Agent) Node() yr.NodeView {
	capacity, available := a.router.Capacity()
	v := yr.NodeView{
		ID: a.opt.Node, Address: a.opt.Address, Master: a.opt.Master, State: "ready",
		Capacity: map[string]float64{}, Available: map[string]float64{}, Labels: map[string]string{},
		Workers: a.router.Workers(), Store: a.router.Store(), Started: a.started,
	}
	for k, n := range capacity {
		v.Capacity[k], v.Available[k] = n.Float(), available[k].Float()
	}
	for k, values := range a.opt.Labels {
		if len(values) > 0 {
			v.Labels[k] = values[0]
		}
	}
	return v
}

// Instances lists instances and the workers of stateless pools.
func (a *Agent) Instances() []yr.InstanceView { return a.router.Instances() }

// Calls lists the calls that have not ended.
func (a *Agent) Calls() []yr.CallView { return a.router.Calls() }

// Objects lists the objects that somebody refers to.
func (a *Agent) Objects() []yr.ObjectView { return a.router.Objects() }

// Why explains what something waits for, or why it ended.
func (a *Agent) Why(id string) (yr.Explanation, bool) { return a.router.Why(id) }

// Counters are sizes and totals for metrics and leak checks.
func (a *Agent) Counters() map[string]uint64 { return a.router.Counters() }

// Check verifies the invariants of the router and the store.
func (a *Agent) Check() error {
	if err := a.router.Check(); err != nil {
		return err
	}
	return a.opt.Store.Check()
}
