package route

import (
	"slices"
	"time"

	"yr/pkg/wire"
	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
	"yr/store"
)

// Workers that this node runs for others. It finds the room and starts the
// process; then it passes frames on, and sees to it that values which a task
// needs are in this node's memory before the worker hears of the task.

// guest is what is particular about such a worker.
type guest struct {
	from     *neighbour // the hirer; nil: it is gone
	number   uint32     // the worker's name on the link
	instance yr.ID      // zero: it runs stateless calls
	create   []byte
	options  *wirepb.Options

	hire    *wirepb.Hire // what it was hired with, for a hirer that forgets
	sent    answers      // its last results, likewise
	last    uint64       // the last delivery that it was given
	built   bool         // of an instance: its constructor has run
	resumed bool         // this node's daemon was restarted while it ran
	wanted  bool         // its hirer asked for it after that, and was not answered yet

	tasks  []guestTask  // passed on and not answered, oldest first
	held   []*heldFrame // frames for the worker that wait for values, in order
	deaf   bool         // it has said BLOCKED or YIELD and drops tasks until YIELDED
	joined bool
}

// guestTask is a task that the worker has and did not answer.
type guestTask struct {
	number uint64
	call   *call // its id and depth, for the calls that it makes
	values []*store.Name[waiter]
}

// heldFrame is a frame on its way to a guest.
type heldFrame struct {
	w      *worker
	header wire.Header
	body   []byte
	depth  uint32
	values []wire.Value          // of a task
	names  []*store.Name[waiter] // by value; nil where it is inline. Held.
	define *wirepb.Function      // of a definition whose code is an object
	waits  int
}

// relay takes a RELAY frame: for a guest, or from a hired worker.
//
// hot: once per task and once per result that cross nodes.
func (n *neighbour) relay(flags uint8, body []byte) error {
	number, depth, frames, err := wire.DecodeRelay(body)
	if err != nil {
		return err
	}
	if flags&wire.FromWorker != 0 {
		return n.fromWorker(number, frames)
	}
	w := n.guests[number]
	if w == nil || w.session == nil || w.ending != "" {
		return nil // it has ended, and the hirer is being told
	}
	h, inner, _, err := wire.Next(frames)
	if err != nil {
		return err
	}
	f := &heldFrame{w: w, header: h, depth: depth}
	g := w.guest
	if len(g.held) == 0 && !needsValues(h, inner) { // nothing to wait for: no copy
		f.body = inner
		return n.r.pass(f)
	}
	f.body = slices.Clone(inner)
	g.held = append(g.held, f)
	if err := n.gather(f); err != nil {
		return err
	}
	n.r.passHeld(g)
	return nil
}

// needsValues reports whether a frame may speak of bytes that are not here.
func needsValues(h wire.Header, body []byte) bool {
	switch h.Type {
	case wire.TaskType:
		return wire.TaskValues(body) > 0
	case wire.Define:
		return true
	}
	return false
}

// gather finds out which values of a frame are not here and has them brought in.
func (n *neighbour) gather(f *heldFrame) error {
	switch f.header.Type {
	case wire.TaskType:
		_, values, _, err := wire.DecodeTask(f.body)
		if err != nil {
			return err
		}
		f.values = values
		f.names = make([]*store.Name[waiter], len(values))
		for i := range values {
			if values[i].Kind == wire.Away {
				f.names[i] = n.need(f, values[i].Source())
			}
		}
	case wire.Define:
		m := &wirepb.Function{}
		if err := wire.DecodeMessage(f.header.Type, f.body, m); err != nil {
			return err
		}
		away := wire.Value{Kind: wire.Away, Data: m.GetCodeValue().GetAway()}
		if source, ok := away.MaybeSource(); ok {
			f.define = m
			f.names = []*store.Name[waiter]{n.need(f, source)}
		}
	}
	return nil
}

// need holds an object whose bytes a frame waits for, and has them brought in.
func (n *neighbour) need(f *heldFrame, source wire.Source) *store.Name[waiter] {
	r := n.r
	name := r.copyOf(source)
	r.names.Hold(name)
	f.waits += r.bringFor(name, waiter{frame: f})
	return name
}

// valueHere is told that a value which a held frame waited for is here, or lost.
func (r *Router) valueHere(f *heldFrame, name *store.Name[waiter]) {
	f.waits--
	f.waits += r.bringFor(name, waiter{frame: f})
	r.passHeld(f.w.guest)
}

// passHeld passes on the frames at the front that wait for nothing any more.
func (r *Router) passHeld(g *guest) {
	for len(g.held) > 0 && g.held[0].waits == 0 {
		f := g.held[0]
		g.held = g.held[1:]
		if err := r.pass(f); err != nil {
			r.opt.Log.Error().Err(err).Msg("a frame for a guest could not be passed on")
		}
	}
}

// pass gives a frame to the worker.
//
// hot: once per task that comes from another node.
func (r *Router) pass(f *heldFrame) error {
	w := f.w
	g := w.guest
	if w.session == nil {
		r.letGoNames(f.names)
		return nil
	}
	switch f.header.Type {
	case wire.TaskType:
		if g.deaf { // the worker would drop it, and the hirer has it back already
			r.letGoNames(f.names)
			return nil
		}
		return r.passTask(f)
	case wire.Define:
		if f.define != nil {
			f.define.CodeValue = r.placeMessage(f.names[0])
			w.session.queue(func(dst []byte) []byte { return wire.AppendMessage(dst, wire.Define, 0, f.define) })
			r.codeHeld(w, f.names[0])
			return nil
		}
	case wire.Yielded:
		g.deaf = false
	case wire.Shutdown:
		w.ending = "its instance was told to end"
	}
	w.session.queue(func(dst []byte) []byte {
		return wire.AppendBytes(dst, f.header.Type, f.header.Flags, f.header.Corr, f.body)
	})
	return nil
}

// codeHeld keeps an object that holds code as long as the worker lives.
func (r *Router) codeHeld(w *worker, name *store.Name[waiter]) {
	w.guest.tasks = append(w.guest.tasks, guestTask{values: []*store.Name[waiter]{name}})
}

func (r *Router) passTask(f *heldFrame) error {
	w := f.w
	t := guestTask{number: f.header.Corr, call: &call{id: wire.TaskID(f.body), depth: int(f.depth)}, values: f.names}
	w.guest.tasks = append(w.guest.tasks, t)
	w.guest.last = t.number
	w.inflight.n++ // only counted: the hirer keeps the deliveries
	if f.names == nil {
		w.session.queue(func(dst []byte) []byte {
			return wire.AppendBytes(dst, wire.TaskType, f.header.Flags, f.header.Corr, f.body)
		})
		return nil
	}
	task, values, tail, err := wire.DecodeTask(f.body)
	if err != nil {
		return err
	}
	w.session.queue(func(dst []byte) []byte {
		dst, at := wire.AppendTask(dst, f.header.Flags, f.header.Corr, &task)
		for i := range values {
			v := values[i]
			if name := f.names[i]; name != nil {
				v = r.hereOrError(name)
			}
			dst = wire.AppendValue(dst, &v, true)
		}
		return wire.EndTaskRaw(dst, at, &task, tail)
	})
	return nil
}

// hereOrError is the value of a name that was brought in, or could not be.
func (r *Router) hereOrError(n *store.Name[waiter]) wire.Value {
	if n.State != store.Pending && n.Value.Kind != store.Away {
		return r.wireValue(n)
	}
	return errorValue(yr.E("argument "+n.ID.String(), yr.ObjectNotFound, "its bytes could not be brought to the node that runs the call"))
}

func (r *Router) placeMessage(n *store.Name[waiter]) *wirepb.Value {
	v := r.hereOrError(n)
	if v.Kind != wire.Placed {
		return &wirepb.Value{Inline: v.Data}
	}
	return &wirepb.Value{Segment: v.Place.Segment, Generation: v.Place.Generation, Offset: v.Place.Offset, Length: v.Place.Length}
}

func (r *Router) letGoNames(names []*store.Name[waiter]) {
	for _, n := range names {
		if n != nil {
			r.unholdCopy(n)
		}
	}
}

// current is the task that the guest runs, as far as order tells.
func (g *guest) current() *call {
	for i := range g.tasks {
		if c := g.tasks[i].call; c != nil {
			return c
		}
	}
	return nil
}

// take forgets a task that was answered or given back.
func (g *guest) take(number uint64) (guestTask, bool) {
	for i := range g.tasks {
		if t := g.tasks[i]; t.call != nil && t.number == number {
			g.tasks = slices.Delete(g.tasks, i, i+1)
			return t, true
		}
	}
	return guestTask{}, false
}

// forget takes out a task whose delivery number is not known: of before a restart.
func (g *guest) forget(id yr.ID) {
	g.tasks = slices.DeleteFunc(g.tasks, func(t guestTask) bool { return t.number == 0 && t.call != nil && t.call.id == id })
}

// guestBack gives up every task beyond a delivery: the hirer has them again.
func (r *Router) guestBack(w *worker, after uint64) {
	g := w.guest
	for i := len(g.tasks) - 1; i >= 0; i-- {
		if t := g.tasks[i]; t.call != nil && t.number > after {
			g.tasks = slices.Delete(g.tasks, i, i+1)
			w.inflight.n--
			r.letGoNames(t.values)
		}
	}
	g.deaf = true
}

// toHirer passes on a frame of the worker, once every reference that this node
// has asked for until now is really held: the hirer may drop what kept them alive.
func (r *Router) toHirer(w *worker, inner func(dst []byte) []byte) {
	g := w.guest
	r.whenLent(func() {
		if g.from != nil {
			g.from.queue(func(dst []byte) []byte { return wire.AppendRelay(dst, wire.FromWorker, g.number, 0, inner) })
		}
	})
}

// guestResult passes on what a task returned. Values in shared memory, and what
// they refer to, stay here, held for the hirer until it releases them.
//
// hot: once per task that came from another node.
func (r *Router) guestResult(w *worker, number uint64, id yr.ID, values []wire.Value) {
	g := w.guest
	t, ok := g.take(number)
	if !ok && g.resumed {
		g.forget(id)
	}
	if !ok && !g.resumed || g.from == nil {
		r.discard(id, values, w.session)
		return
	}
	if ok {
		w.inflight.n--
	}
	if id == g.instance {
		g.built = true
	}
	if w.inflight.n == 0 {
		w.idleSince = r.now
		r.hungry = r.hungry || r.starved()
	}
	for k := range values {
		r.keepFor(g.from, id.Return(k), w.session, &values[k])
	}
	frame := wire.AppendResult(nil, number, id, values)
	g.sent.add(id, frame)
	r.toHirer(w, func(dst []byte) []byte { return append(dst, frame...) })
	r.letGoNames(t.values)
}

// keepFor publishes a value under its name on behalf of another node, and makes
// of it what that node is told.
func (r *Router) keepFor(n *neighbour, id yr.ID, maker *Session, v *wire.Value) {
	if v.Kind != wire.Placed && v.Contains.Len() == 0 {
		return
	}
	name := r.names.Expect(id)
	if name.State != store.Pending { // the same task ran here before, and its first result is still held
		if v.Kind == wire.Placed && v.Place != name.Value.Place {
			r.discard(id, []wire.Value{*v}, maker)
		}
		*v = withContains(r.valueFor(n, name), name)
		return
	}
	r.names.Hold(name)
	if err := r.set(name, maker.id, v); err != nil {
		*v = errorValue(err)
		_ = r.set(name, yr.ID{}, v)
	}
	if err := n.peer.holder.Retain(id, 1); err != nil {
		r.opt.Log.Error().Err(err).Msg("a value could not be kept for another node")
	}
	*v = withContains(r.valueFor(n, name), name)
	r.names.Unhold(name)
}

// guestBlocked, guestUnblocked and guestYielded do here what concerns this node's
// CPU, and tell the hirer, which decides about the tasks.
func (r *Router) guestBlocked(w *worker, after uint64) {
	w.blockedAt = r.now
	w.noYield = after == wire.NoYield
	if !w.noYield {
		r.guestBack(w, after)
	}
	r.toHirer(w, func(dst []byte) []byte { return wire.AppendU64(dst, wire.Blocked, after, -1) })
	if r.starved() {
		r.soon()
	}
}

func (r *Router) guestUnblocked(w *worker) {
	r.unblocked(w)
	r.toHirer(w, func(dst []byte) []byte { return wire.AppendEmpty(dst, wire.Unblocked, 0) })
}

func (r *Router) guestYielded(w *worker, after uint64, reason uint8) {
	r.guestBack(w, after)
	r.toHirer(w, func(dst []byte) []byte { return wire.AppendU64(dst, wire.Yield, after, int(reason)) })
}

// tickGuest does what time brings about for a guest.
func (r *Router) tickGuest(w *worker) time.Duration {
	g := w.guest
	switch {
	case w.session == nil:
		if w.everJoined && w.exit == nil && r.now.Sub(w.leftAt) > hangUp {
			r.endWorker(w, "it closed its connection")
		}
		return tickBusy
	case g.from == nil:
		r.endWorker(w, "the node that hired it is gone")
	case !w.blockedAt.IsZero():
		if w.cpuLent == 0 && r.now.Sub(w.blockedAt) >= blockedPatience {
			r.lend(w)
		}
		return tickBusy
	}
	return tickIdle
}

// left is told that the guest's connection ended: nobody will take what is held.
func (g *guest) left(r *Router) {
	held := g.held
	g.held = nil
	for _, f := range held {
		r.letGoNames(f.names)
	}
}

// guestGone buries a guest and tells the hirer how far it had come.
func (r *Router) guestGone(w *worker, text string, started uint64, known bool) {
	g := w.guest
	g.left(r)
	for _, t := range g.tasks {
		r.letGoNames(t.values)
	}
	g.tasks = nil
	if !g.options.GetDetached() {
		w.job.workers--
	}
	if n := g.from; n != nil {
		delete(n.guests, g.number)
		if !g.joined {
			n.refuse(g.number, yr.E("start worker", yr.WorkerLost, "worker %s ended before it could connect: %s; see %s/runtime-%s.err on node %s", w.id, text, r.opt.LogDir, w.id, r.opt.Node))
		} else {
			m := &wirepb.Gone{Number: g.number, Text: text + " (node " + string(r.opt.Node) + ")", Started: started, Known: known, Code: int32(w.endCode)}
			r.whenLent(func() {
				n.queue(func(dst []byte) []byte { return wire.AppendMessage(dst, wire.Gone, 0, m) })
			})
		}
	}
	r.jobMayEnd(w.job)
	r.hungry = true
}
