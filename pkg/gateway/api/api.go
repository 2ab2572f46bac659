// Package api is yr's own HTTP interface, /yr/v1/...: what the command line and
// scripts ask a node. docs/http.md lists the routes.
package api

import (
	"net/http"

	"github.com/rs/zerolog"

	"yr/pkg/gateway/answer"
	"yr/pkg/gateway/fanout"
	"yr/pkg/gateway/logs"
	"yr/pkg/telemetry"
	"yr/pkg/yr"
)

// Source is where the answers come from: the agent of this node. The views are
// copies; every method returns soon and may be called by many at once.
type Source interface {
	Node() yr.NodeView
	Instances() []yr.InstanceView
	Calls() []yr.CallView
	Objects() []yr.ObjectView
	Why(id string) (yr.Explanation, bool)
	Counters() map[string]uint64
}

// Endpoint tells an SDK that knows only host and port where this node's Unix
// socket is. It uses the socket if boot_id is its own machine's.
type Endpoint struct {
	Socket  string  `json:"socket"`
	Node    yr.Node `json:"node"`
	Version string  `json:"version"`
	BootID  string  `json:"boot_id"`
}

// Options of the API.
type Options struct {
	Source   Source
	Cluster  Cluster     // nil: this node is alone
	Fan      *fanout.Fan // asks the other nodes
	Endpoint Endpoint
	LogDir   string
	// WorkerDir holds a file WORKER.json for each worker that lives; "": the ones
	// that are listed live.
	WorkerDir string
	Config    func() any // the merged configuration, without secrets; nil: not offered
	Log       zerolog.Logger
}

// API answers the routes.
type API struct {
	options Options
	logs    logs.Reader
}

// New makes an API.
func New(o Options) *API {
	a := &API{options: o}
	a.logs = logs.Reader{Dir: o.LogDir, Alive: a.alive}
	return a
}

// Register adds the routes to mux.
func (a *API) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /yr/v1/endpoint", a.endpoint)
	mux.HandleFunc("GET /yr/v1/nodes", a.nodes)
	a.registerCluster(mux)
	mux.HandleFunc("GET /yr/v1/instances", a.instances)
	mux.HandleFunc("GET /yr/v1/workers", a.workers)
	mux.HandleFunc("GET /yr/v1/calls", a.calls)
	mux.HandleFunc("GET /yr/v1/objects", a.objects)
	mux.HandleFunc("GET /yr/v1/why/{id}", a.why)
	mux.HandleFunc("GET /yr/v1/logs/{id}", a.log)
	mux.HandleFunc("GET /yr/v1/worker/{id}", a.workerOfID)
	mux.HandleFunc("GET /yr/v1/counters", a.counters)
	mux.HandleFunc("GET /yr/v1/config", a.config)
	mux.HandleFunc("GET /yr/v1/debug/counters", a.debugCounters)
	mux.HandleFunc("POST /yr/v1/debug/gc", a.debugGC)
	mux.HandleFunc("GET /yr/v1/debug/loglevel", a.logLevel)
	mux.HandleFunc("POST /yr/v1/debug/loglevel", a.setLogLevel)
}

func (a *API) endpoint(w http.ResponseWriter, _ *http.Request) {
	answer.JSON(w, a.options.Endpoint)
}

func (a *API) nodes(w http.ResponseWriter, r *http.Request) {
	if a.options.Cluster == nil {
		page(w, r, []yr.NodeView{a.options.Source.Node()})
		return
	}
	nodes, err := a.options.Cluster.Nodes(r.Context())
	if err != nil {
		answer.Fail(w, err)
		return
	}
	page(w, r, nodes)
}

func (a *API) counters(w http.ResponseWriter, _ *http.Request) {
	answer.JSON(w, a.options.Source.Counters())
}

func (a *API) config(w http.ResponseWriter, _ *http.Request) {
	if a.options.Config == nil {
		answer.NotOffered(w, "this daemon does not show its configuration; use `yr config dump`")
		return
	}
	answer.JSON(w, a.options.Config())
}

func (a *API) logLevel(w http.ResponseWriter, _ *http.Request) {
	answer.JSON(w, map[string]string{"level": telemetry.Level()})
}

// setLogLevel changes the level of the daemon's logs: ?level=DEBUG.
func (a *API) setLogLevel(w http.ResponseWriter, r *http.Request) {
	before := telemetry.Level()
	level := r.URL.Query().Get("level")
	if level == "" {
		answer.Fail(w, yr.E("log level", yr.ParamInvalid, "say which: ?level=DEBUG, INFO, WARN or ERROR"))
		return
	}
	if err := telemetry.SetLevel(level); err != nil {
		answer.Fail(w, err)
		return
	}
	a.options.Log.Info().Str("before", before).Str("now", telemetry.Level()).Msg("log level changed")
	a.logLevel(w, r)
}

func page[T any](w http.ResponseWriter, r *http.Request, all []T) {
	part, err := answer.Cut(r.URL.Query(), all)
	if err != nil {
		answer.Fail(w, err)
		return
	}
	answer.JSON(w, part)
}

func unknown(op, id string) error {
	return yr.E(op, yr.ObjectNotFound, "nothing here is called %.80q; `yr list instances`, `yr list calls` and `yr list objects` show what is", id)
}
