// Package api is yr's own HTTP interface, /yr/v1/...: what the command line and
// scripts ask a node. docs/http.md lists the routes.
package api

import (
	"cmp"
	"net/http"
	"slices"

	"github.com/rs/zerolog"

	"yr/pkg/gateway/answer"
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
	Nodes    func() ([]yr.NodeView, error) // all live nodes; nil: only this one
	Endpoint Endpoint
	LogDir   string
	Config   func() any // the merged configuration, without secrets; nil: not offered
	Log      zerolog.Logger
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
	mux.HandleFunc("GET /yr/v1/instances", a.instances)
	mux.HandleFunc("GET /yr/v1/workers", a.workers)
	mux.HandleFunc("GET /yr/v1/calls", a.calls)
	mux.HandleFunc("GET /yr/v1/objects", a.objects)
	mux.HandleFunc("GET /yr/v1/why/{id}", a.why)
	mux.HandleFunc("GET /yr/v1/logs/{id}", a.log)
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
	if a.options.Nodes == nil {
		page(w, r, []yr.NodeView{a.options.Source.Node()})
		return
	}
	nodes, err := a.options.Nodes()
	if err != nil {
		answer.Fail(w, err)
		return
	}
	page(w, r, nodes)
}

// instances lists instances of users' classes; ?job=, ?tenant= and ?state= filter.
func (a *API) instances(w http.ResponseWriter, r *http.Request) {
	page(w, r, a.selected(r, func(v yr.InstanceView) bool { return v.Class != "" }))
}

// workers lists everything that has a process: instances and stateless workers.
func (a *API) workers(w http.ResponseWriter, r *http.Request) {
	page(w, r, a.selected(r, func(v yr.InstanceView) bool { return v.PID > 0 }))
}

func (a *API) selected(r *http.Request, want func(yr.InstanceView) bool) []yr.InstanceView {
	query := r.URL.Query()
	job, tenant, state := query.Get("job"), query.Get("tenant"), query.Get("state")
	views := slices.DeleteFunc(slices.Clone(a.options.Source.Instances()), func(v yr.InstanceView) bool {
		return !want(v) || differs(job, string(v.Job)) || differs(tenant, string(v.Tenant)) || differs(state, v.State)
	})
	slices.SortFunc(views, func(a, b yr.InstanceView) int { return compareIDs(a.ID, b.ID) })
	return views
}

// calls lists calls that have not ended, the oldest first; ?job= and ?state= filter.
func (a *API) calls(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	job, state := query.Get("job"), query.Get("state")
	views := slices.DeleteFunc(slices.Clone(a.options.Source.Calls()), func(v yr.CallView) bool {
		return differs(job, string(v.Job)) || differs(state, v.State)
	})
	slices.SortFunc(views, func(a, b yr.CallView) int {
		return cmp.Or(a.Since.Compare(b.Since), compareIDs(a.ID, b.ID))
	})
	page(w, r, views)
}

// objects lists objects that somebody refers to; ?job= and ?state= filter.
func (a *API) objects(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	job, state := query.Get("job"), query.Get("state")
	views := slices.DeleteFunc(slices.Clone(a.options.Source.Objects()), func(v yr.ObjectView) bool {
		return differs(job, string(v.Job)) || differs(state, v.State)
	})
	slices.SortFunc(views, func(a, b yr.ObjectView) int { return compareIDs(a.ID, b.ID) })
	page(w, r, views)
}

func (a *API) why(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	explanation, ok := a.options.Source.Why(id)
	if !ok {
		answer.Fail(w, unknown("why", id))
		return
	}
	answer.JSON(w, explanation)
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

func differs(wanted, got string) bool { return wanted != "" && wanted != got }

func compareIDs(a, b yr.ID) int { return slices.Compare(a[:], b[:]) }

func unknown(op, id string) error {
	return yr.E(op, yr.ObjectNotFound, "nothing here is called %.80q; `yr list instances`, `yr list calls` and `yr list objects` show what is", id)
}
