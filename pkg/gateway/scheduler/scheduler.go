// Package scheduler is the HTTP interface of openYuanrong's function master:
// /global-scheduler/..., /instance-manager/... and the health probes. Scripts and
// `yr status` poll it. docs/http.md lists the routes and their shapes.
package scheduler

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"slices"
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
	MasterAddress string // ip:port of this interface; "" where this node is no master
	MetaStore     string // ip:port[,...] of etcd; "" while it listens on no port

	// Of several nodes; nil: there is only this one.
	Nodes     func(context.Context) ([]yr.NodeView, error)
	Instances func(ctx context.Context, most int) answer.Page[yr.InstanceView]
	Cordon    func(ctx context.Context, node yr.Node, cordoned bool) error
	Evict     func(ctx context.Context, node yr.Node, grace time.Duration) error

	Now func() time.Time
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
	mux.HandleFunc("POST /global-scheduler/evictagent", s.evict)
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
	Masters          []string `json:"masters"` // where to join: the leader first
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

type strangerKey struct{}

// Stranger marks a request that has proved nothing: it learns where the masters
// are, which is what it needs in order to join, and no more.
func Stranger(ctx context.Context) context.Context {
	return context.WithValue(ctx, strangerKey{}, true)
}

// PublicPath is answered without a token, in part.
const PublicPath = "/global-scheduler/masterinfo"

func (s *Scheduler) masterInfo(w http.ResponseWriter, r *http.Request) {
	nodes, err := s.nodes(r.Context())
	if err != nil {
		answer.Fail(w, err)
		return
	}
	info := MasterInfo{MasterAddress: s.options.MasterAddress, MetaStoreAddress: s.options.MetaStore, Masters: []string{}}
	for _, n := range nodes {
		if n.Leader {
			info.Masters = slices.Insert(info.Masters, 0, s.joinAddress(n))
		} else if n.Master && n.State != "lost" {
			info.Masters = append(info.Masters, s.joinAddress(n))
		}
	}
	if info.MasterAddress == "" && len(info.Masters) > 0 {
		info.MasterAddress = info.Masters[0]
	}
	if r.Context().Value(strangerKey{}) == nil {
		for _, n := range nodes {
			info.ScheduleTopo.Members = append(info.ScheduleTopo.Members, TopologyMember{string(n.ID), n.Address})
		}
	}
	answer.JSON(w, info)
}

// joinAddress is where a master is joined: this one on the port that is meant
// for it, the others on the port that every node has.
func (s *Scheduler) joinAddress(n yr.NodeView) string {
	if s.options.MasterAddress != "" && n.ID == s.options.Source.Node().ID {
		return s.options.MasterAddress
	}
	return n.Address
}

func (s *Scheduler) agentCount(w http.ResponseWriter, r *http.Request) {
	nodes, err := s.nodes(r.Context())
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

func (s *Scheduler) nodes(ctx context.Context) ([]yr.NodeView, error) {
	if s.options.Nodes == nil {
		return []yr.NodeView{s.options.Source.Node()}, nil
	}
	return s.options.Nodes(ctx)
}

// The time that evictagent gives, in seconds.
const (
	defaultEvict = 30
	maxEvict     = 6000
)

// evict empties a node: what runs there may end by itself for a while, and is
// then ended. It answers when that is done.
func (s *Scheduler) evict(w http.ResponseWriter, r *http.Request) {
	if s.options.Evict == nil {
		answer.NotOffered(w, "this daemon is a cluster of its own; there is no other node to which its work could go")
		return
	}
	var body struct {
		AgentID    string   `json:"agentID"`
		TimeoutSec *float64 `json:"timeoutSec"`
	}
	err := json.NewDecoder(r.Body).Decode(&body)
	seconds := float64(defaultEvict)
	if body.TimeoutSec != nil {
		seconds = *body.TimeoutSec
	}
	if err != nil || body.AgentID == "" || seconds < 0 || seconds > maxEvict {
		answer.Fail(w, yr.E("evict", yr.ParamInvalid, `send {"agentID":"NODE","timeoutSec":30}, with at most %d seconds`, maxEvict))
		return
	}
	if err := s.options.Evict(r.Context(), yr.Node(body.AgentID), time.Duration(seconds*float64(time.Second))); err != nil {
		answer.Fail(w, err)
		return
	}
	answer.JSON(w, map[string]any{"code": 0, "agentID": body.AgentID, "message": "success"})
}

func (s *Scheduler) cordon(cordoned bool) http.HandlerFunc {
	status := "normal"
	if cordoned {
		status = "evicting"
	}
	return func(w http.ResponseWriter, r *http.Request) {
		if s.options.Cordon == nil {
			answer.NotOffered(w, "this daemon is a cluster of its own; work has nowhere else to go")
			return
		}
		node := r.URL.Query().Get("node_id")
		if node == "" {
			answer.Fail(w, yr.E("cordon", yr.ParamInvalid, "say which node: ?node_id=..."))
			return
		}
		if err := s.options.Cordon(r.Context(), yr.Node(node), cordoned); err != nil {
			answer.Fail(w, err)
			return
		}
		answer.JSON(w, map[string]string{"status": status, "message": "success"})
	}
}

func notOffered(what string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { answer.NotOffered(w, what) }
}
