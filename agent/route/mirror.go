package route

import (
	"yr/pkg/wire"
	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
)

// Jobs of other nodes. A job is at home where its driver is; a node that runs
// something for it keeps a mirror, and passes the end of the job on to the nodes
// where it had things done in its turn.

// mirror finds or makes the job that another node speaks of.
func (r *Router) mirror(from *neighbour, m *wirepb.JobInfo) *job {
	if j := r.jobs[yr.Job(m.GetJob())]; j != nil {
		if j.home != nil {
			j.ended = false // its home was lost from sight for a while, and goes on
		}
		return j
	}
	j := r.newJob(&wirepb.Hello{
		Job: m.GetJob(), Tenant: m.GetTenant(), Namespace: m.GetNamespace(), Language: m.GetLanguage(),
		Interpreter: m.GetInterpreter(), CodePaths: m.GetCodePaths(), WorkingDir: m.GetWorkingDir(),
		EnvVars: m.GetEnvVars(), RecycleMs: m.GetRecycleMs(), MaxWorkers: m.GetMaxWorkers(),
	})
	j.home = from
	if tag, err := yr.ParseTag(m.GetHome()); err == nil && r.tagged[tag] != nil {
		j.home = r.tagged[tag]
	}
	return j
}

// endElsewhere has other nodes end what they do for a job.
func (r *Router) endElsewhere(j *job, why string) {
	for n := range j.nodes {
		m := &wirepb.JobEnd{Job: string(j.id), Reason: why}
		n.queue(func(dst []byte) []byte { return wire.AppendMessage(dst, wire.JobEnd, 0, m) })
	}
}

// endJob takes a JOB_END frame.
func (n *neighbour) endJob(m *wirepb.JobEnd) error {
	r := n.r
	j := r.jobs[yr.Job(m.GetJob())]
	if j == nil || j.home == nil { // it is over, or its driver is here and somebody is mistaken
		n.endedJob(yr.Job(m.GetJob()))
		return nil
	}
	j.enders = append(j.enders, n)
	r.endJob(j, m.GetReason())
	r.jobMayEnd(j)
	return nil
}

func (n *neighbour) endedJob(id yr.Job) {
	m := &wirepb.JobEnd{Job: string(id)}
	n.queue(func(dst []byte) []byte { return wire.AppendMessage(dst, wire.JobEnded, 0, m) })
}

// jobEnded takes a JOB_ENDED frame.
func (n *neighbour) jobEnded(m *wirepb.JobEnd) error {
	if j := n.r.jobs[yr.Job(m.GetJob())]; j != nil {
		delete(j.nodes, n)
		n.r.jobMayEnd(j)
	}
	return nil
}
