package scheduler

import (
	"context"
	"net/http"
	"slices"
	"strconv"

	"yr/pkg/gateway/answer"
	"yr/pkg/yr"
)

// instance is an instance as openYuanrong's tools know it. Times and durations
// are strings of decimal digits, as there.
type instance struct {
	InstanceID     string             `json:"instanceID"`
	Name           string             `json:"name,omitempty"`
	Namespace      string             `json:"namespace,omitempty"`
	Function       string             `json:"function"`
	RuntimeID      string             `json:"runtimeID"`
	InstanceStatus instanceStatus     `json:"instanceStatus"`
	Resources      map[string]float64 `json:"resources,omitempty"`
	StartTime      string             `json:"startTime"` // seconds since the Unix epoch
	JobID          string             `json:"jobID"`
	TenantID       string             `json:"tenantID"`
	FunctionProxy  string             `json:"functionProxyID"` // the node
	PID            int                `json:"pid,omitempty"`
	Restarts       int                `json:"restarted"`
}

type instanceStatus struct {
	Code yr.InstanceState `json:"code"`
	Name string           `json:"name"`
	Msg  string           `json:"msg,omitempty"`
}

type instanceList struct {
	Count      int        `json:"count"` // before the page was cut
	Instances  []instance `json:"instances"`
	TenantID   string     `json:"tenantID,omitempty"`
	InstanceID string     `json:"instanceID,omitempty"`
	NodeID     string     `json:"nodeID,omitempty"`
	Page       int        `json:"page,omitempty"`
	PageSize   int        `json:"pageSize,omitempty"`

	Unreachable []answer.Unreachable `json:"unreachable,omitempty"` // nodes whose instances are missing here
}

// queued is an instance that waits for resources.
type queued struct {
	InstanceID     string             `json:"instanceID"`
	RequestID      string             `json:"requestID"`
	Resources      map[string]float64 `json:"resources"`
	EnqueueTimeMs  string             `json:"enqueueTimeMs"`
	WaitDurationMs string             `json:"waitDurationMs"`
	Reason         string             `json:"reason,omitempty"`
}

// maxInstances bounds how many instances of the cluster a view looks through.
const maxInstances = 100_000

func (s *Scheduler) queue(w http.ResponseWriter, r *http.Request) {
	now := s.options.Now()
	waiting := []queued{}
	views, missed := s.sorted(r.Context(), func(v yr.InstanceView) bool { return v.State == "new" || v.State == "scheduling" })
	for _, v := range views {
		waiting = append(waiting, queued{
			InstanceID: v.ID.String(), RequestID: v.ID.String(), Resources: v.Resources,
			EnqueueTimeMs:  strconv.FormatInt(v.Since.UnixMilli(), 10),
			WaitDurationMs: strconv.FormatInt(max(0, now.Sub(v.Since).Milliseconds()), 10),
			Reason:         v.Reason,
		})
		if len(waiting) == answer.MaxLimit {
			break
		}
	}
	answer.JSON(w, struct {
		Count         int      `json:"count"`
		InstanceInfos []queued `json:"instanceInfos"`

		Unreachable []answer.Unreachable `json:"unreachable,omitempty"`
	}{len(waiting), waiting, missed})
}

func (s *Scheduler) instances(w http.ResponseWriter, r *http.Request) {
	s.list(w, r, instanceList{}, func(yr.InstanceView) bool { return true })
}

func (s *Scheduler) namedInstances(w http.ResponseWriter, r *http.Request) {
	s.list(w, r, instanceList{}, func(v yr.InstanceView) bool { return v.Name != "" })
}

// tenantInstances needs ?tenant_id=; the system tenant "0" is upstream's way to
// see everything and is not offered: the token opens /queryinstances.
func (s *Scheduler) tenantInstances(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	list := instanceList{TenantID: query.Get("tenant_id"), InstanceID: query.Get("instance_id"), NodeID: query.Get("node_id")}
	if list.TenantID == "" {
		answer.Fail(w, yr.E("query instances", yr.ParamInvalid, "say whose: ?tenant_id=default"))
		return
	}
	s.list(w, r, list, func(v yr.InstanceView) bool {
		return string(v.Tenant) == list.TenantID &&
			(list.InstanceID == "" || v.ID.String() == list.InstanceID) &&
			(list.NodeID == "" || string(v.Node) == list.NodeID)
	})
}

// list answers with the page that ?page= (from 1) and ?page_size= ask for.
func (s *Scheduler) list(w http.ResponseWriter, r *http.Request, list instanceList, want func(yr.InstanceView) bool) {
	query := r.URL.Query()
	size, err := answer.Number(query, "page_size", answer.DefaultLimit, 1, answer.MaxLimit)
	if err != nil {
		answer.Fail(w, err)
		return
	}
	page, err := answer.Number(query, "page", 1, 1, 1<<30)
	if err != nil {
		answer.Fail(w, err)
		return
	}
	views, missed := s.sorted(r.Context(), want)
	list.Count, list.Instances, list.Unreachable = len(views), []instance{}, missed
	if query.Has("page") || query.Has("page_size") {
		list.Page, list.PageSize = page, size
	}
	from := min((page-1)*size, len(views))
	for _, v := range views[from:min(from+size, len(views))] {
		list.Instances = append(list.Instances, instanceOf(v))
	}
	answer.JSON(w, list)
}

// sorted lists the instances of all nodes, and the nodes that did not say theirs.
func (s *Scheduler) sorted(ctx context.Context, want func(yr.InstanceView) bool) ([]yr.InstanceView, []answer.Unreachable) {
	var page answer.Page[yr.InstanceView]
	if s.options.Instances != nil {
		page = s.options.Instances(ctx, maxInstances)
	} else {
		page.Items = slices.Clone(s.options.Source.Instances())
		slices.SortFunc(page.Items, func(a, b yr.InstanceView) int { return slices.Compare(a.ID[:], b.ID[:]) })
	}
	return slices.DeleteFunc(page.Items, func(v yr.InstanceView) bool { return !want(v) }), page.Unreachable
}

func instanceOf(v yr.InstanceView) instance {
	return instance{
		InstanceID: v.ID.String(), Name: v.Name, Namespace: v.Namespace, Function: v.Class, RuntimeID: v.Worker,
		InstanceStatus: instanceStatus{Code: stateOf(v.State), Name: v.State, Msg: v.Reason},
		Resources:      v.Resources, StartTime: strconv.FormatInt(v.Since.Unix(), 10),
		JobID: string(v.Job), TenantID: string(v.Tenant), FunctionProxy: string(v.Node), PID: v.PID, Restarts: v.Restarts,
	}
}

// stateOf is the number of a state's name; names that are not upstream's states
// (of stateless workers: idle, busy) count as running.
func stateOf(name string) yr.InstanceState {
	for s := yr.StateNew; s <= yr.StatePaused; s++ {
		if s.String() == name {
			return s
		}
	}
	return yr.StateRunning
}
