package api

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"yr/pkg/gateway/answer"
	"yr/pkg/gateway/ask"
	"yr/pkg/gateway/fanout"
	"yr/pkg/yr"
)

// why explains what an id waits for, or why it ended, wherever in the cluster it is.
func (a *API) why(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	own := func() (yr.Explanation, error) {
		e, ok := a.options.Source.Why(id)
		if !ok {
			return e, unknown("why", id)
		}
		e.Node = cmp.Or(e.Node, a.self())
		return e, nil
	}
	e, err := find(a, r, id, "/yr/v1/why/", own)
	if n, ok := a.options.Fan.Node(r.Context(), yr.Node(id)); ok && !r.URL.Query().Has("local") {
		e, err = explainNode(n, e, err), nil
	}
	if err != nil {
		answer.Fail(w, err)
		return
	}
	answer.JSON(w, e)
}

// explainNode joins what the cluster knows of a node, whether it gets work above
// all, with what the node says of itself, if it answers.
func explainNode(n yr.NodeView, own yr.Explanation, silent error) yr.Explanation {
	e := yr.Explanation{ID: string(n.ID), Kind: "node", Node: own.Node, State: n.State, Reason: n.Reason, Trail: own.Trail}
	switch {
	case silent != nil && e.Reason == "":
		e.Reason = "it does not say more itself: " + silent.Error()
	case silent == nil && e.Reason == "":
		e.Reason = own.Reason
	case silent == nil && own.Reason != "":
		e.Trail = append([]string{own.Reason}, e.Trail...)
	}
	return e
}

// place is where a log is: the worker whose files they are, and its node.
type place struct {
	Worker string  `json:"worker"`
	Node   yr.Node `json:"node"`
}

// workerOfID answers which worker's log belongs to an id, and where it lies.
func (a *API) workerOfID(w http.ResponseWriter, r *http.Request) {
	p, err := a.locate(r, r.PathValue("id"))
	if err != nil {
		answer.Fail(w, err)
		return
	}
	answer.JSON(w, p)
}

func (a *API) locate(r *http.Request, id string) (place, error) {
	return find(a, r, id, "/yr/v1/worker/", func() (place, error) { return a.worker(id) })
}

// find asks this node for something about an id, and if it has nothing the
// others: first the one where the id was born, then all at once. ?local=1 asks
// this node only.
func find[V any](a *API, r *http.Request, id, path string, own func() (V, error)) (V, error) {
	var none V
	local, err := answer.Flag(r.URL.Query(), "local")
	if err != nil {
		return none, err
	}
	mine, err := own()
	if err == nil || local || a.options.Fan.Alone() || notThere(err) != nil {
		return mine, err
	}
	ctx := r.Context()
	path += url.PathEscape(id)
	question := func(ctx context.Context, at *ask.Asker) (v V, err error) {
		err = at.Get(ctx, path, url.Values{"local": {"1"}}, &v)
		return v, err
	}
	// The home of an id, and a node itself, know best.
	likely, ok := a.options.Fan.Home(ctx, id)
	if !ok {
		likely, ok = a.options.Fan.Node(ctx, yr.Node(id))
	}
	others, missed := a.options.Fan.Others(ctx)
	if ok {
		first := slices.DeleteFunc(slices.Clone(others), func(n yr.NodeView) bool { return n.ID != likely.ID })
		others = slices.DeleteFunc(others, func(n yr.NodeView) bool { return n.ID == likely.ID })
		found, silent := ask1(ctx, a.options.Fan, first, question)
		if found != nil {
			return *found, nil
		}
		missed = append(missed, silent...)
	}
	found, silent := ask1(ctx, a.options.Fan, others, question)
	if found != nil {
		return *found, nil
	}
	return none, withMissed(err, append(missed, silent...))
}

// ask1 asks nodes at once and returns the first that knows, and who was silent.
func ask1[V any](ctx context.Context, fan *fanout.Fan, nodes []yr.NodeView,
	question func(context.Context, *ask.Asker) (V, error),
) (found *V, silent []answer.Unreachable) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type maybe struct {
		value V
		known bool
	}
	silent = fanout.Each(ctx, fan, nodes, func(ctx context.Context, at *ask.Asker) (maybe, error) {
		v, err := question(ctx, at)
		return maybe{v, err == nil}, notThere(err)
	}, func(_ yr.NodeView, m maybe) {
		if m.known && found == nil {
			found = &m.value
			cancel() // the others need not answer
		}
	})
	return found, silent
}

// notThere drops the error by which a node says that it knows nothing of an id.
func notThere(err error) error {
	if code := yr.CodeOf(err); code == yr.ObjectNotFound || code == yr.InstanceNotFound {
		return nil
	}
	return err
}

// withMissed adds to "nothing is called so" which nodes might know better.
func withMissed(err error, missed []answer.Unreachable) error {
	if len(missed) == 0 {
		return err
	}
	var e *yr.Error
	if !errors.As(err, &e) {
		return err
	}
	const show = 5
	names := make([]string, 0, show+1)
	for i, m := range missed {
		if i == show {
			names = append(names, "and others")
			break
		}
		names = append(names, strings.TrimSpace(string(m.Node)+" ("+m.Reason+")"))
	}
	return yr.E(e.Op, e.Code, "%s; not every node answered: %s", e.Msg, strings.Join(names, ", "))
}
