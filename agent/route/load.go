package route

import (
	"slices"

	"yr/pkg/yr"
	"yr/scheduler"
)

// What the leader is told of this node, and what it may ask of it.

// Load is what is free here, and whether anything of a user is.
type Load struct {
	Available yr.Resources
	Devices   []scheduler.Device
	Workers   int
	Pending   int     // calls that wait for room
	Taken     []yr.ID // workers hired here since the last Load
	Empty     bool
}

// Load is asked for before each report. Workers hired meanwhile are told once.
func (r *Router) Load() Load {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := Load{Available: r.free.Clone(), Devices: slices.Clone(r.node.Devices), Workers: len(r.workers), Taken: r.taken}
	r.taken = nil
	for _, p := range r.pools {
		l.Pending += p.queue.len()
	}
	l.Pending += len(r.creating)
	l.Empty = len(r.workers) == 0 && len(r.instances) == 0 && len(r.calls) == 0 && !r.driven()
	return l
}

// driven reports whether a driver is connected.
func (r *Router) driven() bool {
	for _, s := range r.sessions {
		if s.role != yr.RoleWorker {
			return true
		}
	}
	return false
}

// Drain keeps new work away from this node (cordoned), or no longer. draining: what
// is idle here ends. end: what still runs is ended too; what can be recovered is
// recovered elsewhere by whoever owns it.
func (r *Router) Drain(cordoned, draining, end bool) {
	r.turn(func() {
		r.node.Cordoned = cordoned || draining
		r.hungry = true
		if !draining {
			return
		}
		for _, w := range r.workers {
			switch {
			case w.guest != nil && (end || w.guest.idle()), w.pool != nil && w.host == nil && (end || w.inflight.len() == 0),
				w.in != nil && w.host == nil && end:
				w.endCode = yr.InstanceEvicted
				r.endWorker(w, "its node is being drained")
			}
		}
	})
}

// idle reports whether a guest is a worker of a pool with nothing to do.
func (g *guest) idle() bool { return g.instance.IsZero() && g.current() == nil }
