package route

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"yr/pkg/wire"
	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
)

// Named instances: one for each (tenant, namespace, name) in the cluster. The
// registry decides; this node remembers what it decided.

type nameKey struct {
	tenant    yr.Tenant
	namespace string
	name      string
}

func (in *instance) nameKey() nameKey {
	return nameKey{in.job.tenant, in.options.GetNamespace(), in.options.GetName()}
}

// nameRecord is what the registry holds for a name.
type nameRecord struct {
	V        int     `json:"v"`
	Instance yr.ID   `json:"instance"`
	Node     yr.Node `json:"node"`
}

// claim finds out whether the instance may have its name. Whoever asks second
// gets the first one's instance.
func (r *Router) claim(in *instance) {
	key := in.nameKey()
	if first := r.named[key]; first != nil {
		r.bindTo(in, first)
		return
	}
	if err := r.infeasible(in.need, in.options, in.job); err != nil { // do not take a name for something that can never run
		r.failInstance(in, yr.StateScheduleFailed, errorValue(err))
		return
	}
	r.named[key] = in
	in.set(yr.StateNew, "its name is being claimed")
	record, err := json.Marshal(nameRecord{V: 1, Instance: in.id, Node: r.opt.Node})
	if err != nil {
		panic("route: " + err.Error()) // a struct of strings
	}
	r.registry.add(func() {
		holder, err := r.claimRecord(key, in.id, record)
		r.turn(func() {
			switch {
			case err == nil && holder.Node != "":
				delete(r.named, key)
				if in.state == yr.StateNew {
					r.bindElsewhere(in, key, holder)
				}
			case in.state != yr.StateNew: // it was killed meanwhile
				in.record = record
				r.forgetName(in)
			case err != nil:
				r.failInstance(in, yr.StateFatal, errorValue(yr.Wrap("create "+in.label(), yr.Internal, err)))
			default:
				in.record = record
				r.hold(in.ctor)
			}
		})
	})
}

// claimRecord takes the name in the registry. A record of this node for an
// instance that it does not have is left over from a crash and is replaced; so is
// one for this instance on a node that it has outlived.
func (r *Router) claimRecord(key nameKey, own yr.ID, record []byte) (elsewhere nameRecord, err error) {
	for range 3 {
		old, claimed, err := r.opt.Registry.Claim(r.ctx, key.tenant, key.namespace, key.name, record)
		if err != nil || claimed {
			return nameRecord{}, err
		}
		var holder nameRecord
		if err := json.Unmarshal(old, &holder); err == nil && holder.Node != r.opt.Node && holder.Instance != own && !r.nodeGone(r.ctx, holder) {
			if r.opt.Cluster == nil {
				return nameRecord{}, yr.E("claim", yr.InstanceDuplicated, "the name is taken by instance %s on node %s", holder.Instance, holder.Node)
			}
			return holder, nil
		}
		if err := r.opt.Registry.Drop(r.ctx, key.tenant, key.namespace, key.name, old); err != nil {
			return nameRecord{}, err
		}
	}
	return nameRecord{}, yr.E("claim", yr.InstanceDuplicated, "others keep taking the name; try again")
}

// maxClaims bounds how often a name is taken from instances that are gone.
const maxClaims = 3

// bindElsewhere makes in a handle of the instance on another node that has its name.
func (r *Router) bindElsewhere(in *instance, key nameKey, holder nameRecord) {
	in.set(yr.StateNew, "the instance that has its name is asked for, on node "+string(holder.Node))
	record, err := json.Marshal(holder)
	if err != nil {
		panic("route: " + err.Error()) // a struct of strings
	}
	r.findAt(holder.Node, key, func(id yr.ID, f *wirepb.Found, err error) {
		switch {
		case in.state != yr.StateNew:
		case id.IsZero() && err == nil && in.claims < maxClaims: // that node does not know it: its name is free
			in.claims++
			r.registry.add(func() { _ = r.opt.Registry.Drop(r.ctx, key.tenant, key.namespace, key.name, record) })
			r.claim(in)
		case id.IsZero():
			r.failInstance(in, yr.StateFatal, errorValue(yr.E("create "+in.label(), yr.InstanceDuplicated,
				"the name is taken by instance %s on node %s, which does not answer for it; try again", holder.Instance, holder.Node)))
		default:
			first := r.foreignInstance(id, in.job)
			first.descriptor = f.GetDescriptor_()
			r.bindTo(in, first)
		}
	})
}

// bindTo makes in a second handle of the instance that has its name. Calls that
// were sent meanwhile go there, in the order in which they were sent.
func (r *Router) bindTo(in, first *instance) {
	in.boundTo = first
	delete(in.job.instances, in)
	delete(r.instances, in.id)
	var moved []*call
	for _, c := range r.calls {
		if c.in == in {
			moved = append(moved, c)
		}
	}
	slices.SortFunc(moved, func(a, b *call) int { return slices.Compare(a.id[:], b.id[:]) })
	for _, c := range moved {
		c.in = first
		if first.foreign != nil {
			c.waiting = 0
			r.forward(c, c.resent)
			continue
		}
		first.enter(c)
		if c.waiting == 0 {
			r.callReady(c)
		}
	}
	for s := range in.watchers {
		first.watch(s)
		e := &wirepb.InstanceEvent{InstanceId: in.id[:], State: uint32(first.state), BoundTo: first.id[:], Descriptor_: first.descriptor} //nolint:gosec // 0 to 13
		s.queue(func(dst []byte) []byte { return wire.AppendMessage(dst, wire.Instance, 0, e) })
	}
	in.watchers = nil
}

// forgetName frees the name for others at once; the registry follows.
func (r *Router) forgetName(in *instance) {
	if in.options.GetName() == "" {
		return
	}
	key := in.nameKey()
	if r.named[key] == in {
		delete(r.named, key)
	}
	if record := in.record; record != nil {
		in.record = nil
		r.registry.add(func() {
			if err := r.opt.Registry.Drop(r.ctx, key.tenant, key.namespace, key.name, record); err != nil {
				r.opt.Log.Warn().Err(err).Str("name", key.name).Msg("the name of an ended instance could not be dropped; the next claim will replace it")
			}
		})
	}
}

// lookup takes a LOOKUP frame. An instance whose constructor still runs is not
// found yet; the SDK asks again.
func (s *Session) lookup(corr uint64, m *wirepb.Lookup) {
	namespace := m.GetNamespace()
	if namespace == "" && s.node == nil {
		namespace = s.job.namespace
	}
	key := nameKey{yr.Tenant(m.GetTenant()), m.GetNamespace(), m.GetName()}
	if s.node == nil {
		key = nameKey{s.job.tenant, namespace, m.GetName()}
	}
	answer := func(f *wirepb.Found) {
		s.queue(func(dst []byte) []byte { return wire.AppendMessage(dst, wire.Found, corr, f) })
	}
	f := &wirepb.Found{}
	in := s.r.named[key]
	if in != nil && (in.state == yr.StateRunning || s.node != nil && !in.state.Ended()) {
		f = &wirepb.Found{
			Found: in.state == yr.StateRunning, InstanceId: in.id[:], Descriptor_: in.descriptor, Language: in.job.language,
			State: uint32(in.state), Ordered: in.ordered, //nolint:gosec // 0 to 13
		}
	}
	if rec := s.r.recovery; in == nil && s.node != nil && rec != nil { // it may be on its way back
		rec.after = append(rec.after, func() { s.lookup(corr, m) })
		return
	}
	if in != nil || s.node != nil || s.r.alone() {
		answer(f)
		return
	}
	s.r.findElsewhere(key, func(f *wirepb.Found) { answer(f) })
}

// registryQueue runs registry work in order, one piece at a time: a name that was
// dropped before it was claimed again must reach the registry in that order.
type registryQueue struct {
	mu     sync.Mutex
	more   sync.Cond
	work   []func()
	closed bool
	done   chan struct{} // closed when the queue has stopped
}

func (q *registryQueue) open() {
	q.more.L = &q.mu
	q.done = make(chan struct{})
}

func (q *registryQueue) add(f func()) {
	q.mu.Lock()
	q.work = append(q.work, f)
	q.mu.Unlock()
	q.more.Signal()
}

// close stops the queue when all of it is done, or ctx ends.
func (q *registryQueue) close(ctx context.Context) {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.more.Broadcast()
	select {
	case <-q.done:
	case <-ctx.Done():
	}
}

func (r *Router) runRegistry() {
	defer r.wg.Done()
	q := &r.registry
	defer close(q.done)
	for {
		q.mu.Lock()
		for len(q.work) == 0 && !q.closed {
			q.more.Wait()
		}
		if len(q.work) == 0 {
			q.mu.Unlock()
			return
		}
		f := q.work[0]
		q.work = q.work[1:]
		q.mu.Unlock()
		f()
	}
}

// graveyard remembers why things ended, the last maxGraves of them.
type graveyard struct {
	byID  map[string]yr.Explanation
	order []string
}

const (
	maxGraves = 4096
	maxReason = 1024 // bytes of a remembered reason
)

func (g *graveyard) add(e yr.Explanation) {
	e.Reason = e.Reason[:min(len(e.Reason), maxReason)]
	if g.byID == nil {
		g.byID = make(map[string]yr.Explanation)
	}
	if _, again := g.byID[e.ID]; !again {
		g.order = append(g.order, e.ID)
	}
	g.byID[e.ID] = e
	if len(g.order) > maxGraves {
		delete(g.byID, g.order[0])
		g.order = g.order[1:]
	}
}

func (g *graveyard) find(id string) (yr.Explanation, bool) {
	e, ok := g.byID[id]
	return e, ok
}

func (g *graveyard) call(c *call, v wire.Value) {
	reason := "the function raised an exception"
	if !v.Serialized {
		reason = string(v.Data)
	}
	e := yr.Explanation{ID: c.id.String(), Kind: "call", State: "failed", Reason: c.name() + ": " + reason}
	if c.worker != nil {
		e.Worker = c.worker.id.String()
	}
	g.add(e)
}

func (g *graveyard) instance(in *instance) {
	e := yr.Explanation{
		ID: in.id.String(), Kind: "instance", State: in.state.String(),
		Reason: in.reason, Trail: []string{"class " + in.class, "since " + in.since.Format(time.RFC3339)},
	}
	if !in.lastWorker.IsZero() {
		e.Worker = in.lastWorker.String()
	}
	g.add(e)
}
