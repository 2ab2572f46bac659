package route

import (
	"time"

	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
)

// job is the lifetime tree of a driver: its sessions, pools, instances and objects.
type job struct {
	id         yr.Job
	tenant     yr.Tenant
	namespace  string
	recycle    time.Duration // idle time of a stateless worker
	maxWorkers int           // 0: no cap

	// How its workers are started; immutable.
	language    string
	interpreter string
	codePaths   []string
	dir         string
	env         map[string]string

	home   *neighbour              // where its driver is; nil: here
	nodes  map[*neighbour]struct{} // have something to do with it
	enders []*neighbour            // are told when it has ended here

	codes     map[string]*code
	pools     map[*pool]struct{}
	instances map[*instance]struct{}
	workers   int // of pools, also starting and ending ones
	ended     bool
	goodbyes  []reply // answered when everything is gone
}

const (
	defaultRecycle = 2 * time.Second
	maxRecycle     = 300 * time.Second
)

// newJob makes the job of a driver that says hello.
func (r *Router) newJob(h *wirepb.Hello) *job {
	id := yr.Job(h.GetJob())
	if id == "" {
		id = yr.NewJob()
	}
	tenant := yr.Tenant(h.GetTenant())
	if tenant == "" {
		tenant = yr.DefaultTenant
	}
	recycle := time.Duration(h.GetRecycleMs()) * time.Millisecond
	if recycle <= 0 {
		recycle = defaultRecycle
	}
	j := &job{
		id: id, tenant: tenant, namespace: h.GetNamespace(),
		recycle: min(recycle, maxRecycle), maxWorkers: max(0, int(h.GetMaxWorkers())),
		language: h.GetLanguage(), interpreter: h.GetInterpreter(), codePaths: h.GetCodePaths(),
		dir: h.GetWorkingDir(), env: h.GetEnvVars(),
		nodes:     make(map[*neighbour]struct{}),
		codes:     make(map[string]*code),
		pools:     make(map[*pool]struct{}),
		instances: make(map[*instance]struct{}),
	}
	r.jobs[id] = j
	if h.GetRole() == uint32(yr.RoleDriver) {
		r.opt.Launcher.Warm(j.language, j.interpreter, j.env) // its first call need not wait for an interpreter
	}
	return j
}

// sayGoodbye ends the job of a driver that finalises; the answer comes when its
// processes are gone.
func (s *Session) sayGoodbye(corr uint64) {
	j := s.job
	if s.role == yr.RoleWorker {
		s.done(corr, nil)
		return
	}
	j.goodbyes = append(j.goodbyes, reply{s, corr})
	s.r.endJob(j, "its driver has finished")
	s.r.jobMayEnd(j)
}

// endJob ends everything of a job that is not detached.
func (r *Router) endJob(j *job, why string) {
	if j.ended {
		return
	}
	j.ended = true
	cause := yr.E("job "+string(j.id), yr.ScheduleCancelled, "%s", why)
	for _, c := range r.calls {
		if c.job != j || c.in != nil && c.in.detached() {
			continue
		}
		if c.state == callRunning {
			if c.in != nil {
				continue // ends with its instance
			}
			c.disown() // its driver has said goodbye or is gone; others may wait for the result
		}
		r.fail(c, cause)
	}
	for p := range j.pools {
		for _, w := range r.workers {
			if w.pool == p {
				r.endWorker(w, "its job has ended: "+why)
			}
		}
	}
	for _, w := range r.workers {
		if w.job == j && w.guest != nil && !w.guest.options.GetDetached() {
			r.endWorker(w, "its job has ended: "+why)
		}
	}
	r.endElsewhere(j, why)
	for in := range j.instances {
		if !in.detached() {
			r.endInstance(in, yr.StateExited, yr.E("instance "+in.label(), yr.InstanceExited, "its job has ended: %s", why))
		}
	}
	r.jobMayEnd(j)
}

func (in *instance) detached() bool { return in.options.GetDetached() }

// jobMayEnd answers GOODBYE when only detached instances are left, and forgets
// the job when nothing is.
func (r *Router) jobMayEnd(j *job) {
	if !j.ended || j.workers > 0 || len(j.nodes) > 0 {
		return
	}
	for in := range j.instances {
		if !in.detached() {
			return
		}
	}
	for _, g := range j.goodbyes {
		g.session.done(g.corr, nil)
	}
	j.goodbyes = nil
	for _, n := range j.enders {
		n.endedJob(j.id)
	}
	j.enders = nil
	if len(j.instances) > 0 {
		return
	}
	for p := range j.pools {
		delete(r.pools, p.key)
	}
	j.pools = nil
	for _, c := range j.codes {
		if n := r.names.Get(c.object); n != nil && !c.object.IsZero() {
			r.names.Unhold(n)
		}
	}
	j.codes = make(map[string]*code)
	r.names.Collect() // rings of values that only kept each other alive
	if r.jobs[j.id] == j {
		delete(r.jobs, j.id)
	}
}
