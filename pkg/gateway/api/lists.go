package api

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"yr/pkg/gateway/answer"
	"yr/pkg/gateway/ask"
	"yr/pkg/gateway/fanout"
	"yr/pkg/yr"
)

// A list is one of this node's, joined with those of the other nodes.
type list[V any] struct {
	path    string // where the other nodes have theirs
	own     []V
	compare func(a, b V) int
}

// instances lists instances of users' classes, with ?all=1 stateless workers
// too; ?job=, ?tenant=, ?state= and ?node=, where they run, filter.
func (a *API) instances(w http.ResponseWriter, r *http.Request) {
	all, err := answer.Flag(r.URL.Query(), "all")
	if err != nil {
		answer.Fail(w, err)
		return
	}
	serve(a, w, r, list[yr.InstanceView]{
		"/yr/v1/instances", a.selected(r.URL.Query(), func(v yr.InstanceView) bool { return all || v.Class != "" }), byInstance,
	})
}

// workers lists everything that has a process: instances and stateless workers.
func (a *API) workers(w http.ResponseWriter, r *http.Request) {
	serve(a, w, r, list[yr.InstanceView]{
		"/yr/v1/workers", a.selected(r.URL.Query(), func(v yr.InstanceView) bool { return v.PID > 0 }), byInstance,
	})
}

func (a *API) selected(query url.Values, want func(yr.InstanceView) bool) []yr.InstanceView {
	job, tenant, state, node := query.Get("job"), query.Get("tenant"), query.Get("state"), query.Get("node")
	views := a.placedInstances()
	views = slices.DeleteFunc(views, func(v yr.InstanceView) bool {
		return !want(v) || differs(job, string(v.Job)) || differs(tenant, string(v.Tenant)) || differs(state, v.State) || differs(node, string(v.Node))
	})
	slices.SortFunc(views, byInstance)
	return views
}

func (a *API) placedInstances() []yr.InstanceView {
	views := slices.Clone(a.options.Source.Instances())
	for i := range views {
		views[i].Node = cmp.Or(views[i].Node, a.self())
	}
	return views
}

// calls lists calls that have not ended, the oldest first; ?job=, ?state= and
// ?node= filter.
func (a *API) calls(w http.ResponseWriter, r *http.Request) {
	serve(a, w, r, a.ownCalls(r.URL.Query()))
}

func (a *API) ownCalls(query url.Values) list[yr.CallView] {
	job, state, node := query.Get("job"), query.Get("state"), query.Get("node")
	views := slices.Clone(a.options.Source.Calls())
	for i := range views {
		views[i].Node = cmp.Or(views[i].Node, a.self())
	}
	views = slices.DeleteFunc(views, func(v yr.CallView) bool {
		return differs(job, string(v.Job)) || differs(state, v.State) || differs(node, string(v.Node))
	})
	oldest := func(a, b yr.CallView) int { return cmp.Or(a.Since.Compare(b.Since), compareIDs(a.ID, b.ID)) }
	slices.SortFunc(views, oldest)
	return list[yr.CallView]{"/yr/v1/calls", views, oldest}
}

// objects lists objects that somebody refers to; ?job=, ?state= and ?node=, where
// they are at home, filter.
func (a *API) objects(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	job, state, node := query.Get("job"), query.Get("state"), query.Get("node")
	views := slices.Clone(a.options.Source.Objects())
	for i := range views {
		views[i].Node = cmp.Or(views[i].Node, a.self())
	}
	views = slices.DeleteFunc(views, func(v yr.ObjectView) bool {
		return differs(job, string(v.Job)) || differs(state, v.State) || differs(node, string(v.Node))
	})
	byID := func(a, b yr.ObjectView) int { return cmp.Or(compareIDs(a.ID, b.ID), cmp.Compare(a.Node, b.Node)) }
	slices.SortFunc(views, byID)
	serve(a, w, r, list[yr.ObjectView]{"/yr/v1/objects", views, byID})
}

// AllInstances lists the instances and stateless workers of all nodes, at most
// so many, in the order of their ids, and how many there are.
func (a *API) AllInstances(ctx context.Context, most int) answer.Page[yr.InstanceView] {
	own := a.selected(nil, func(yr.InstanceView) bool { return true })
	others, missed := a.options.Fan.Others(ctx)
	l := list[yr.InstanceView]{"/yr/v1/instances", own, byInstance}
	return gather(ctx, a.options.Fan, l, others, missed, url.Values{"all": {"1"}}, 0, most)
}

// serve answers with the page of the whole list, or with ?local=1 of this node's.
func serve[V any](a *API, w http.ResponseWriter, r *http.Request, l list[V]) {
	query := r.URL.Query()
	offset, limit, err := answer.Window(query)
	if err != nil {
		answer.Fail(w, err)
		return
	}
	local, err := answer.Flag(query, "local")
	if err != nil {
		answer.Fail(w, err)
		return
	}
	if local || a.options.Fan.Alone() {
		page(w, r, l.own)
		return
	}
	if only := yr.Node(query.Get("node")); only != "" {
		if _, ok := a.options.Fan.Node(r.Context(), only); !ok {
			answer.Fail(w, yr.E("list", yr.ParamInvalid, "there is no node %.80q; `yr nodes` lists them", only))
			return
		}
	}
	others, missed := a.options.Fan.Others(r.Context())
	answer.JSON(w, gather(r.Context(), a.options.Fan, l, others, missed, query, offset, limit))
}

// gather joins the lists of the others with this node's. Every list is sorted, so
// that the first offset+limit entries of each are enough; no more are kept.
func gather[V any](ctx context.Context, fan *fanout.Fan, l list[V], others []yr.NodeView, missed []answer.Unreachable,
	query url.Values, offset, limit int,
) answer.Page[V] {
	need := offset + limit
	items, total := l.own[:min(need, len(l.own)):len(l.own)], len(l.own)
	question := func(ctx context.Context, at *ask.Asker) (answer.Page[V], error) {
		return first[V](ctx, at, l.path, query, need)
	}
	missed = append(missed, fanout.Each(ctx, fan, others, question, func(_ yr.NodeView, p answer.Page[V]) {
		total += p.Total
		items = append(slices.Clip(items), p.Items...)
		slices.SortFunc(items, l.compare)
		items = items[:min(need, len(items))]
	})...)
	p := answer.Slice(items, total, offset, limit)
	p.Unreachable = missed
	return p
}

// first fetches the first entries of a node's own list, page by page.
func first[V any](ctx context.Context, at *ask.Asker, path string, query url.Values, need int) (whole answer.Page[V], err error) {
	q := url.Values{"local": {"1"}}
	for _, name := range []string{"job", "tenant", "state", "node", "all"} {
		if query.Has(name) {
			q.Set(name, query.Get(name))
		}
	}
	for len(whole.Items) < need {
		q.Set("offset", strconv.Itoa(len(whole.Items)))
		q.Set("limit", strconv.Itoa(min(need-len(whole.Items), answer.MaxLimit)))
		var p answer.Page[V]
		if err := at.Get(ctx, path, q, &p); err != nil {
			return whole, err
		}
		whole.Items, whole.Total = append(whole.Items, p.Items...), p.Total
		if len(p.Items) == 0 || len(whole.Items) >= p.Total {
			break
		}
	}
	return whole, nil
}

func (a *API) self() yr.Node { return a.options.Source.Node().ID }

func differs(wanted, got string) bool { return wanted != "" && wanted != got }

func compareIDs(a, b yr.ID) int { return slices.Compare(a[:], b[:]) }

// byInstance orders by ID; the node tells two views of one instance, at its home
// and where it runs.
func byInstance(a, b yr.InstanceView) int {
	return cmp.Or(compareIDs(a.ID, b.ID), cmp.Compare(a.Node, b.Node))
}
