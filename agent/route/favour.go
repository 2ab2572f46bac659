package route

import (
	"time"

	"yr/pkg/yr"
	"yr/store"
)

// Which restores come first, when more is wanted than memory holds. Arguments are
// brought in for some calls at a time, all that each of them needs, and stay until
// it is delivered. Otherwise the arguments of many calls would push each other out
// for ever, and no call would ever have all of its own.

const (
	// favourShare of the store is for the arguments of favoured calls.
	favourShare = 2
	// favourLasts bounds how long arguments wait for a worker that does not come.
	favourLasts = 10 * time.Second
)

// favoured are the calls whose arguments stay in memory. Guarded by Router.mu.
type favoured struct {
	calls  map[*call]favour
	pinned map[yr.ID]int // arguments of these calls
	bytes  uint64
}

type favour struct {
	bytes uint64
	until time.Time
	args  []yr.ID
}

// favour has the arguments of a call stay in memory until it is delivered, if there
// is room for that. At least one call is always favoured.
func (r *Router) favour(c *call) bool {
	f := &r.spill.favoured
	if _, ok := f.calls[c]; ok {
		return true
	}
	size := uint64(0)
	r.eachArgument(c, func(n *store.Name[waiter]) { size += n.Size() })
	if len(f.calls) > 0 && f.bytes+size > r.opt.Store.Stats().Capacity/favourShare {
		return false
	}
	v := favour{bytes: size, until: r.now.Add(favourLasts)}
	r.eachArgument(c, func(n *store.Name[waiter]) {
		v.args = append(v.args, n.ID)
		f.pinned[n.ID]++
		r.use(n)
	})
	f.calls[c] = v
	f.bytes += size
	return true
}

// unfavour lets go of the arguments of calls that were delivered, or have ended.
func (r *Router) unfavour() {
	f := &r.spill.favoured
	for c, v := range f.calls {
		waits := c.state == callWaiting || c.state == callQueued
		if waits && (c.waiting > 0 || r.now.Before(v.until)) {
			continue
		}
		delete(f.calls, c)
		f.bytes -= v.bytes
		for _, id := range v.args {
			if f.pinned[id]--; f.pinned[id] == 0 {
				delete(f.pinned, id)
			}
		}
	}
}

// eachArgument calls f with every object of some size that a call takes by value.
func (r *Router) eachArgument(c *call, f func(*store.Name[waiter])) {
	for i := range min(c.nvals, c.deps.Len()) {
		if n := r.names.Get(c.deps.At(i)); n != nil && n.State == store.Ready && n.Size() >= evictFrom {
			f(n)
		}
	}
}

// nextRestore is the position of the restore that comes next, -1 if none may: what
// sessions and guests wait for, in order, and what calls do that are favoured.
func (r *Router) nextRestore() int {
	restores := r.spill.io.restores
	for i := range min(len(restores), lookAt) {
		if r.mayRestore(restores[i].n) {
			return i
		}
	}
	return -1
}

func (r *Router) mayRestore(n *store.Name[waiter]) bool {
	for _, w := range n.Waiters {
		if w.call == nil || r.favour(w.call) {
			return true
		}
	}
	return len(n.Waiters) == 0
}
