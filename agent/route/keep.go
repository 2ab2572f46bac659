package route

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
)

// Detached instances that are to be recovered outlive the node where they are at
// home: what they were made of is kept in the records, and when that node is lost
// the leader's node makes them anew, under the same id and name. An instance of a
// job needs no such thing: its home is where its maker is, and ends with it.

// Keeper keeps instances beyond the life of this node. Its methods may wait.
type Keeper interface {
	Keep(ctx context.Context, id yr.ID, record []byte) error
	Drop(ctx context.Context, id yr.ID) error
	// Find is the record of an instance, if it is kept.
	Find(ctx context.Context, id yr.ID) (record []byte, ok bool, err error)
}

// maxKept bounds a record; it is far below what records may hold.
const maxKept = 1 << 20

// mayKeep makes the record of an instance that outlives its home. One whose
// constructor takes objects cannot be made anew when those are gone.
func (r *Router) mayKeep(in *instance, m *wirepb.Create) {
	if r.opt.Keeper == nil || !in.detached() || in.options.GetRecoverRetryTimes() == 0 || len(m.GetDeps()) > 0 || len(m.GetCodeObject()) > 0 {
		return
	}
	full := proto.Clone(m).(*wirepb.Create) //nolint:forcetypeassert // a clone
	full.Options, full.Number = in.options, 0
	if len(full.GetCode()) == 0 {
		full.Code = in.code.blob
	}
	in.keep = &wirepb.KeptInstance{Node: string(r.opt.Node), Create: full, Job: r.info(in.job)}
}

// keepRecord writes the record of an instance that runs, or of one that was
// restarted.
func (r *Router) keepRecord(in *instance) {
	if in.keep == nil {
		return
	}
	in.keep.Restarts = uint32(in.restarts) //nolint:gosec // few
	b, err := proto.Marshal(in.keep)
	if err != nil || len(b) > maxKept {
		r.opt.Log.Warn().Err(err).Stringer("instance", in.id).Int("bytes", len(b)).Msg("a detached instance is too large to be kept; it is lost with its node")
		in.keep = nil
		return
	}
	id := in.id
	r.registry.add(func() {
		if err := r.opt.Keeper.Keep(r.ctx, id, b); err != nil {
			r.opt.Log.Warn().Err(err).Stringer("instance", id).Msg("a detached instance could not be kept; it is lost if its node is")
		}
	})
}

// dropRecord forgets an instance that has ended for good.
func (r *Router) dropRecord(in *instance) {
	if in.keep == nil || r.closing {
		return // a node that goes leaves them to the others
	}
	in.keep = nil
	id := in.id
	r.registry.add(func() {
		if err := r.opt.Keeper.Drop(r.ctx, id); err != nil {
			r.opt.Log.Warn().Err(err).Stringer("instance", id).Msg("the record of an ended instance could not be dropped")
		}
	})
}

// recall finds the record of an instance that came back after a restart of this
// node's daemon.
func (r *Router) recallRecord(in *instance) {
	if r.opt.Keeper == nil || !in.detached() || in.options.GetRecoverRetryTimes() == 0 {
		return
	}
	r.registry.add(func() {
		record, ok, err := r.opt.Keeper.Find(r.ctx, in.id)
		m := &wirepb.KeptInstance{}
		if err != nil || !ok || proto.Unmarshal(record, m) != nil {
			return
		}
		r.turn(func() {
			if !in.state.Ended() {
				in.keep = m
			}
		})
	})
}

// surrender ends an instance that was made anew on another node, because the
// cluster had given this one up. Its record and its name are the other one's now.
func (r *Router) surrender(in *instance) {
	if in.keep == nil {
		return
	}
	in.keep, in.record = nil, nil
	r.failInstance(in, yr.StateExited, errorValue(yr.E("instance "+in.label(), yr.InstanceExited,
		"its node, %s, was given up by the cluster for a while, and it was made anew on another; get it again by its name", r.opt.Node)))
}

// Revive makes an instance anew whose home was lost. This node is its home from now on.
func (r *Router) Revive(record []byte) error {
	m := &wirepb.KeptInstance{}
	if err := proto.Unmarshal(record, m); err != nil {
		return yr.Wrap("revive instance", yr.Internal, err)
	}
	create := m.GetCreate()
	id, err := yr.ParseID(string(create.GetInstanceId()))
	if err != nil {
		return yr.Wrap("revive instance", yr.Internal, err)
	}
	r.turn(func() {
		if r.instances[id] != nil {
			return
		}
		j := r.ownJob(m.GetJob())
		j.ended = j.ended || !r.isDriven(j) // its driver is gone, or somewhere else
		in := &instance{
			r: r, id: id, job: j, options: create.GetOptions(), class: create.GetName(), descriptor: create.GetDescriptor_(),
			need: needOf(create.GetOptions()), ordered: create.GetOptions().GetOrdered(), state: yr.StateNew, since: r.now,
			lanes: make(map[yr.Prefix]*lane), watchers: make(map[*Session]struct{}), restarts: int(m.GetRestarts()) + 1,
			code: &code{id: create.GetCodeId(), name: create.GetName(), blob: create.GetCode()},
		}
		if in.message, err = proto.Marshal(&wirepb.Create{
			InstanceId: create.GetInstanceId(), CodeId: create.GetCodeId(), Name: create.GetName(), Language: create.GetLanguage(),
			Options: in.options, Descriptor_: create.GetDescriptor_(),
		}); err != nil {
			return
		}
		in.keep = m
		in.keep.Node = string(r.opt.Node)
		in.ctor = &call{id: id, in: in, job: j, args: create.GetArgs(), since: r.now}
		r.instances[id] = in
		j.instances[in] = struct{}{}
		r.keepRecord(in) // whoever looks for it finds it here
		r.opt.Log.Info().Stringer("instance", id).Str("lost", m.GetNode()).Msg("an instance of a lost node is made anew")
		if in.options.GetName() != "" {
			r.claim(in)
			return
		}
		r.hold(in.ctor)
	})
	return yr.Wrap("revive instance", yr.Internal, err)
}

// How long callers of a kept instance wait for it when its home is lost, and how
// often they look.
const (
	seekPatience = 15 * time.Second
	seekEvery    = 200 * time.Millisecond
)

// seek looks for an instance that is not where its id says: it was made anew on
// another node. Its calls wait meanwhile, and those without an answer are sent again.
func (r *Router) seek(in *instance, cause error) {
	if r.opt.Keeper == nil {
		r.foreignLost(in, cause)
		return
	}
	lost := yr.Node("")
	if h := in.foreign.home; h != nil {
		lost = h.node
	}
	in.foreign.home = nil
	r.foreigners[in.id] = in
	in.set(yr.StateSuspend, "it is looked for: "+messageOf(cause))
	r.background(func(ctx context.Context) {
		node := r.findKept(ctx, in.id, lost)
		r.turn(func() {
			switch {
			case in.state.Ended():
			case node == "" || node == r.opt.Node:
				r.foreignLost(in, cause)
			default:
				r.bindAt(r.neighbour(node), in)
			}
		})
	})
}

// findKept asks the records where an instance is at home now.
func (r *Router) findKept(ctx context.Context, id yr.ID, lost yr.Node) yr.Node {
	ctx, cancel := context.WithTimeout(ctx, seekPatience)
	defer cancel()
	t := time.NewTicker(seekEvery)
	defer t.Stop()
	for {
		record, ok, err := r.opt.Keeper.Find(ctx, id)
		m := &wirepb.KeptInstance{}
		if err == nil && ok && proto.Unmarshal(record, m) == nil && yr.Node(m.GetNode()) != lost {
			return yr.Node(m.GetNode())
		}
		if err == nil && !ok {
			return ""
		}
		select {
		case <-ctx.Done():
			return ""
		case <-t.C:
		}
	}
}

// suspendForeign keeps an instance whose home was lost, and the calls that it owes
// an answer, if it will come back.
func (r *Router) suspendForeign(in *instance, calls map[yr.ID]*call, cause error) bool {
	if !in.kept || in.state.Ended() {
		return false
	}
	var owed []*call
	for id, c := range calls {
		if c.in == in && c.state == callRunning {
			c.at = nil
			owed = append(owed, c)
			delete(calls, id)
		}
	}
	sortCalls(owed)
	in.foreign.parked = append(owed, in.foreign.parked...)
	r.seek(in, cause)
	return true
}
