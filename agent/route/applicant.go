package route

import (
	"slices"
	"time"

	"yr/pkg/wire"
	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
)

// How another node gets a worker here: it asks, room is found or waited for, and
// it is told what became of it.

// hire takes a HIRE frame.
func (n *neighbour) hire(m *wirepb.Hire) error {
	r := n.r
	id, err := yr.ParseID(string(m.GetWorkerId()))
	if err != nil {
		return yr.Wrap("hire", yr.ParamInvalid, err)
	}
	g, err := newGuest(n, m)
	if err != nil {
		return yr.Wrap("hire", yr.ParamInvalid, err)
	}
	if n.guests[g.number] != nil {
		return yr.E("hire", yr.ParamInvalid, "number %d is in use", g.number)
	}
	j := r.mirror(n, m.GetJob())
	w := &worker{id: id, job: j, guest: g, concurrency: max(1, int(m.GetConcurrency()))}
	err = yr.Wrap("hire", yr.ScheduleCancelled, r.mayHire(j))
	if err == nil {
		err = r.start(w, resources(m.GetNeed()), g.options, m.GetNote(), nil)
	}
	if yr.CodeOf(err) == yr.ResourceNotEnough && r.mayHire(j) == nil && r.fitsEmpty(resources(m.GetNeed())) {
		r.applicants = append(r.applicants, applicant{n, m, r.now.Add(applicantPatience)})
		return nil
	}
	n.engaged(w, err)
	return nil
}

// engaged settles what became of a hire.
func (n *neighbour) engaged(w *worker, err error) {
	r, g, j := n.r, w.guest, w.job
	if err != nil {
		n.refuse(g.number, err)
		r.jobMayEnd(j)
		return
	}
	n.guests[g.number] = w
	if len(r.taken) < maxTaken {
		r.taken = append(r.taken, w.id)
	}
	if !g.options.GetDetached() {
		j.workers++
	}
}

// applicant is a hire that waits a moment for room: idle workers are leaving, or
// somebody else is about to be done. It comes before this node's own queues, which
// would take whatever becomes free.
type applicant struct {
	from  *neighbour
	hire  *wirepb.Hire
	until time.Time
}

// applicantPatience is short: the hirer may find room on another node.
const applicantPatience = 300 * time.Millisecond

// serveApplicants gives room to hires that wait for it.
func (r *Router) serveApplicants() {
	waiting := r.applicants
	r.applicants = nil
	for _, a := range waiting {
		if a.from.r == nil || r.neighbours[a.from.node] != a.from {
			continue // its node is gone
		}
		if r.now.Before(a.until) {
			if err := a.from.hire(a.hire); err != nil {
				r.opt.Log.Error().Err(err).Msg("a hire that waited could not be read any more")
			}
			if k := len(r.applicants) - 1; k >= 0 && r.applicants[k].hire == a.hire {
				r.applicants[k].until = a.until
			}
			continue
		}
		a.from.refuse(a.hire.GetNumber(), yr.E("hire", yr.ResourceNotEnough, "it has no room now"))
	}
}

// fitsEmpty reports whether this node could hold so much if nothing ran here.
func (r *Router) fitsEmpty(need yr.Resources) bool {
	for k, v := range need {
		if r.opt.Resources[k] < v {
			return false
		}
	}
	return true
}

func newGuest(n *neighbour, m *wirepb.Hire) (g *guest, err error) {
	g = &guest{from: n, number: m.GetNumber(), create: m.GetCreate(), options: m.GetOptions(), hire: m}
	if g.options == nil {
		g.options = &wirepb.Options{}
	}
	if len(m.GetInstanceId()) > 0 {
		g.instance, err = yr.ParseID(string(m.GetInstanceId()))
	}
	return g, err
}

// maxTaken bounds what is told in one report.
const maxTaken = 4096

// mayHire says why this node takes no workers for others now.
func (r *Router) mayHire(j *job) error {
	switch {
	case j.ended:
		return yr.E("job "+string(j.id), yr.ScheduleCancelled, "it has ended")
	case r.recovery != nil:
		return yr.E("node", yr.ResourceNotEnough, "node %s recovers from a restart of its daemon", r.opt.Node)
	case r.node.Cordoned:
		return yr.E("node", yr.ResourceNotEnough, "node %s is cordoned", r.opt.Node)
	}
	return nil
}

// refuse tells the hirer why there will be no worker, and what this node has left.
func (n *neighbour) refuse(number uint32, cause error) {
	code := yr.CodeOf(cause)
	if code == yr.ResourceConfigError {
		code = yr.ResourceNotEnough // another node may hold it
	}
	m := &wirepb.Hired{
		Number: number, Available: amounts(n.r.free),
		Status: &wirepb.Status{Code: int32(code), Message: "node " + string(n.r.opt.Node) + ": " + messageOf(cause)},
	}
	n.queue(func(dst []byte) []byte { return wire.AppendMessage(dst, wire.Hired, 0, m) })
}

// guestJoined tells the hirer that its worker is there.
func (r *Router) guestJoined(w *worker) {
	g := w.guest
	g.joined = true
	if g.from == nil {
		return
	}
	m := &wirepb.Hired{Number: g.number, Pid: int64(w.pid), Status: wire.StatusOf(nil)}
	g.from.queue(func(dst []byte) []byte { return wire.AppendMessage(dst, wire.Hired, 0, m) })
}

// dismiss takes a DISMISS frame.
func (n *neighbour) dismiss(m *wirepb.Dismiss) error {
	waiting := len(n.r.applicants)
	n.r.applicants = slices.DeleteFunc(n.r.applicants, func(a applicant) bool {
		return a.from == n && a.hire.GetNumber() == m.GetNumber()
	})
	if len(n.r.applicants) < waiting {
		n.refuse(m.GetNumber(), yr.E("hire", yr.ScheduleCancelled, "%s", m.GetReason()))
	}
	if w := n.guests[m.GetNumber()]; w != nil {
		n.r.endWorker(w, m.GetReason())
	}
	return nil
}
