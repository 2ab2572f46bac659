package scheduler

import (
	"net/http"
	"strings"

	"yr/pkg/gateway/answer"
	"yr/pkg/yr"
)

// Resources is the answer of /global-scheduler/resources.
type Resources struct {
	Resource Unit `json:"resource"`
}

// Unit is what the cluster, or one node as a fragment of it, has to offer.
type Unit struct {
	ID          string            `json:"id"`
	OwnerID     string            `json:"ownerId"`
	Capacity    Amounts           `json:"capacity"`
	Allocatable Amounts           `json:"allocatable"`
	ActualUse   Amounts           `json:"actualUse"`
	NodeLabels  map[string]string `json:"nodeLabels"`
	Fragment    map[string]Unit   `json:"fragment,omitempty"`
}

// Amounts are resources by name.
type Amounts struct {
	Resources map[string]Amount `json:"resources"`
}

// Amount is one scalar resource; limit is its capacity.
type Amount struct {
	Scalar Scalar `json:"scalar"`
}

// Scalar is a number of a resource's unit.
type Scalar struct {
	Value float64 `json:"value"`
	Limit float64 `json:"limit"`
}

// clusterUnit names the unit that sums up all nodes.
const clusterUnit = "InnerDomainScheduler"

// resources answers GET and POST; the header Type chooses the encoding.
func (s *Scheduler) resources(w http.ResponseWriter, r *http.Request) {
	if kind := r.Header.Get("Type"); kind != "" && !strings.EqualFold(kind, "json") {
		answer.Write(w, http.StatusUnsupportedMediaType, answer.Error{Code: yr.ParamInvalid,
			Message: "resources are offered as JSON only; send the header `Type: json`, or none"})
		return
	}
	nodes, err := s.nodes(r.Context())
	if err != nil {
		answer.Fail(w, err)
		return
	}
	answer.JSON(w, Resources{clusterOf(nodes)})
}

func clusterOf(nodes []yr.NodeView) Unit {
	capacity, available := map[string]float64{}, map[string]float64{}
	all := Unit{ID: clusterUnit, OwnerID: clusterUnit, NodeLabels: map[string]string{}, Fragment: map[string]Unit{}}
	for _, n := range nodes {
		if n.State == "lost" {
			continue // nothing of it is to be had
		}
		for name, v := range n.Capacity {
			capacity[name] += v
		}
		for name, v := range n.Available {
			available[name] += v
		}
		fragment := Unit{ID: string(n.ID), OwnerID: string(n.ID), NodeLabels: n.Labels}
		if fragment.NodeLabels == nil {
			fragment.NodeLabels = map[string]string{}
		}
		fragment.fill(n.Capacity, n.Available)
		all.Fragment[fragment.ID] = fragment
	}
	all.fill(capacity, available)
	return all
}

// fill sets the amounts. What a blocked worker has lent and not got back yet can
// make available negative; nothing negative is shown.
func (u *Unit) fill(capacity, available map[string]float64) {
	used := make(map[string]float64, len(capacity))
	shown := make(map[string]float64, len(capacity))
	for name, whole := range capacity {
		shown[name] = max(0, available[name])
		used[name] = whole - available[name]
	}
	u.Capacity = amounts(capacity, capacity)
	u.Allocatable = amounts(shown, capacity)
	u.ActualUse = amounts(used, capacity)
}

func amounts(values, limits map[string]float64) Amounts {
	a := Amounts{Resources: make(map[string]Amount, len(values))}
	for name, v := range values {
		a.Resources[name] = Amount{Scalar{Value: v, Limit: limits[name]}}
	}
	return a
}

// agent is a node as scripts know it.
type agent struct {
	AgentID  string             `json:"agentID"`
	NodeID   string             `json:"nodeID"`
	Address  string             `json:"address"`
	Status   string             `json:"status"`
	Capacity map[string]float64 `json:"capacity"`
}

func (s *Scheduler) agents(w http.ResponseWriter, r *http.Request) {
	nodes, err := s.nodes(r.Context())
	if err != nil {
		answer.Fail(w, err)
		return
	}
	list := make([]agent, len(nodes))
	for i, n := range nodes {
		list[i] = agent{AgentID: string(n.ID), NodeID: string(n.ID), Address: n.Address, Status: n.State, Capacity: n.Capacity}
	}
	answer.JSON(w, struct {
		Count  int     `json:"count"`
		Agents []agent `json:"agents"`
	}{len(list), list})
}
