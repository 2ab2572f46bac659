// Package scheduler is the HTTP interface of openYuanrong's function master:
// /global-scheduler/..., /instance-manager/... and the health probes. Scripts and
// `yr status` poll it. docs/http.md lists the routes and their shapes.
package scheduler

import (
	"net/http"
	"os"
	"strconv"
	"time"

	"yr/pkg/gateway/answer"
	"yr/pkg/yr"
)

// Source is what the views are made of: the agent of this node.
type Source interface {
	Node() yr.NodeView
	Instances() []yr.InstanceView
}

// Options of the interface.
type Options struct {
	Source        Source
	Nodes         func() ([]yr.NodeView, error) // all live nodes; nil: only this one
	MasterAddress string                        // ip:port of this interface
	MetaStore     string                        // ip:port[,...] of etcd; "" while it listens on no port
	// Cordon stops or resumes placing work on a node; nil: not offered.
	Cordon func(node yr.Node, cordoned bool) error
	Now    func() time.Time
}

// Scheduler answers the routes.
type Scheduler struct {
	options Options
}

// New makes a Scheduler.
func New(o Options) *Scheduler {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Scheduler{options: o}
}

// HealthPaths are answered without a token.
var HealthPaths = []string{
	"/global-scheduler/healthy", "/local-scheduler/healthy", "/function-agent/healthy",
	"/health", "/health/live", "/health/ready",
}

// Register adds the routes to mux.
func (s *Scheduler) Register(mux *http.ServeMux) {
	for _, path := range HealthPaths {
		mux.HandleFunc("GET "+path, s.healthy)
	}
	mux.HandleFunc("GET /global-scheduler/masterinfo", s.masterInfo)
	mux.HandleFunc("GET /global-scheduler/queryagentcount", s.agentCount)
	mux.HandleFunc("GET /global-scheduler/resources", s.resources)
	mux.HandleFunc("POST /global-scheduler/resources", s.resources)
	mux.HandleFunc("GET /global-scheduler/queryagents", s.agents)
	mux.HandleFunc("GET /global-scheduler/scheduling_queue", s.queue)
	mux.HandleFunc("POST /global-scheduler/node/localschedulingstatus", s.cordon(true))
	mux.HandleFunc("DELETE /global-scheduler/node/localschedulingstatus", s.cordon(false))
	mux.HandleFunc("POST /global-scheduler/evictagent", notOffered("draining a node is not offered by this version; cordon it (POST /global-scheduler/node/localschedulingstatus?node_id=...), wait for its calls to end, and stop it"))
	mux.HandleFunc("GET /instance-manager/queryinstances", s.instances)
	mux.HandleFunc("GET /instance-manager/query-tenant-instances", s.tenantInstances)
	mux.HandleFunc("GET /instance-manager/named-ins", s.namedInstances)
	mux.HandleFunc("GET /instance-manager/query-debug-instances", notOffered("debug instances are not offered by this version; GET /instance-manager/queryinstances lists all"))
	mux.HandleFunc("GET /resource-group/rgroup", notOffered("resource groups are not offered by this version; ask for resources in the options of functions and instances"))
}

// healthy answers 200 once the gateway serves, which is after the agent does.
// Upstream demands the headers Node-ID and PID; here they may be left out, but if
// they are sent they must be this node's.
func (s *Scheduler) healthy(w http.ResponseWriter, r *http.Request) {
	node, pid := s.options.Source.Node().ID, strconv.Itoa(os.Getpid())
	if h := r.Header.Get("Node-ID"); h != "" && h != string(node) {
		answer.Fail(w, yr.E("health", yr.ParamInvalid, "this is node %q, not %.80q", node, h))
		return
	}
	if h := r.Header.Get("PID"); h != "" && h != pid {
		answer.Fail(w, yr.E("health", yr.ParamInvalid, "this is process %s, not %.20q", pid, h))
		return
	}
	answer.JSON(w, map[string]string{"status": "ok", "node": string(node)})
}

// MasterInfo is what a joining node and `yr status` learn first.
type MasterInfo struct {
	MasterAddress    string   `json:"master_address"`
	MetaStoreAddress string   `json:"meta_store_address"`
	ScheduleTopo     Topology `json:"schedule_topo"`
}

// Topology lists the nodes.
type Topology struct {
	Members []TopologyMember `json:"members"`
}

// TopologyMember is one node.
type TopologyMember struct {
	Name    string `json:"name"`
	Address string `json:"address"`
}

func (s *Scheduler) masterInfo(w http.ResponseWriter, _ *http.Request) {
	nodes, err := s.nodes()
	if err != nil {
		answer.Fail(w, err)
		return
	}
	info := MasterInfo{MasterAddress: s.options.MasterAddress, MetaStoreAddress: s.options.MetaStore}
	for _, n := range nodes {
		info.ScheduleTopo.Members = append(info.ScheduleTopo.Members, TopologyMember{string(n.ID), n.Address})
	}
	answer.JSON(w, info)
}

func (s *Scheduler) agentCount(w http.ResponseWriter, _ *http.Request) {
	nodes, err := s.nodes()
	if err != nil {
		answer.Fail(w, err)
		return
	}
	ready := 0
	for _, n := range nodes {
		if n.State != "lost" {
			ready++
		}
	}
	answer.JSON(w, ready)
}

func (s *Scheduler) nodes() ([]yr.NodeView, error) {
	if s.options.Nodes == nil {
		return []yr.NodeView{s.options.Source.Node()}, nil
	}
	return s.options.Nodes()
}

func (s *Scheduler) cordon(cordoned bool) http.HandlerFunc {
	status := "normal"
	if cordoned {
		status = "evicting"
	}
	return func(w http.ResponseWriter, r *http.Request) {
		if s.options.Cordon == nil {
			answer.NotOffered(w, "this daemon cannot cordon nodes; ask the master")
			return
		}
		node := r.URL.Query().Get("node_id")
		if node == "" {
			answer.Fail(w, yr.E("cordon", yr.ParamInvalid, "say which node: ?node_id=..."))
			return
		}
		if err := s.options.Cordon(yr.Node(node), cordoned); err != nil {
			answer.Fail(w, err)
			return
		}
		answer.JSON(w, map[string]string{"status": status, "message": "success"})
	}
}

func notOffered(what string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { answer.NotOffered(w, what) }
}
