package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"time"

	"yr/pkg/gateway/answer"
	"yr/pkg/yr"
)

// Progress is a line of the answer of drain and evict, one each second: what
// still runs on the node. The last line is Done, or has the error.
type Progress struct {
	Node      yr.Node       `json:"node"`
	Instances int           `json:"instances"`
	Calls     int           `json:"calls"`
	Reason    string        `json:"reason,omitempty"` // why the numbers are too low
	Done      bool          `json:"done,omitempty"`
	Error     *answer.Error `json:"error,omitempty"`
}

// progressInterval is how often what still runs is counted.
const progressInterval = time.Second

// Evict ends what runs on a node, after it had some time to end by itself.
func Evict(ctx context.Context, c Cluster, node yr.Node, grace time.Duration) error {
	if grace > 0 {
		err := c.Drain(ctx, node, grace)
		if yr.CodeOf(err) != yr.DeadlineExceeded {
			return err
		}
	}
	return c.Evict(ctx, node)
}

// drain empties a node: ?timeout= is how long it may take.
func (a *API) drain(w http.ResponseWriter, r *http.Request) {
	timeout, err := wait(r.URL.Query(), "timeout", DefaultDrain)
	if err != nil {
		answer.Fail(w, err)
		return
	}
	a.whileEmptying(w, r, func(ctx context.Context, node yr.Node) error {
		return a.options.Cluster.Drain(ctx, node, timeout)
	})
}

// evict empties a node at once, after ?grace=.
func (a *API) evict(w http.ResponseWriter, r *http.Request) {
	grace, err := wait(r.URL.Query(), "grace", DefaultGrace)
	if err != nil {
		answer.Fail(w, err)
		return
	}
	a.whileEmptying(w, r, func(ctx context.Context, node yr.Node) error {
		return Evict(ctx, a.options.Cluster, node, grace)
	})
}

// whileEmptying tells what still runs on a node until do has emptied it. A client
// that goes away ends the waiting; the node stays cordoned.
func (a *API) whileEmptying(w http.ResponseWriter, r *http.Request, do func(context.Context, yr.Node) error) {
	node := yr.Node(r.PathValue("node"))
	view, err := a.nodeView(r.Context(), node)
	if err != nil {
		answer.Fail(w, err)
		return
	}
	ended := make(chan error, 1)
	go func() { ended <- do(r.Context(), node) }()
	controller := http.NewResponseController(w)
	lines := json.NewEncoder(w)
	lines.SetEscapeHTML(false)
	begun := false
	tell := func(p Progress) {
		if !begun {
			begun = true
			w.Header().Set("Content-Type", "application/x-ndjson")
		}
		_ = lines.Encode(p) // a client that has gone cancels the context
		_ = controller.Flush()
	}
	ticks := time.NewTicker(progressInterval)
	defer ticks.Stop()
	for {
		select {
		case err := <-ended:
			switch {
			case err == nil:
				tell(Progress{Node: node, Done: true})
			case !begun:
				answer.Fail(w, err)
			default:
				left := a.running(r.Context(), view)
				left.Error = &answer.Error{Code: yr.CodeOf(err), Message: err.Error()}
				tell(left)
			}
			return
		case <-ticks.C:
			tell(a.running(r.Context(), view))
		}
	}
}

func (a *API) nodeView(ctx context.Context, node yr.Node) (yr.NodeView, error) {
	nodes, err := a.options.Cluster.Nodes(ctx)
	if err != nil {
		return yr.NodeView{}, err
	}
	at := slices.IndexFunc(nodes, func(n yr.NodeView) bool { return n.ID == node })
	if at < 0 {
		return yr.NodeView{}, yr.E("find node", yr.ParamInvalid, "there is no node %.80q; `yr nodes` lists them", node)
	}
	return nodes[at], nil
}

// maxCounted bounds how many instances are looked at for a line of progress.
const maxCounted = 1000

// running counts what runs on a node: instances that have a process, and calls.
// All nodes are asked, since an instance is listed by its home.
func (a *API) running(ctx context.Context, n yr.NodeView) Progress {
	p := Progress{Node: n.ID}
	query := url.Values{"node": {string(n.ID)}}
	others, missed := a.options.Fan.Others(ctx)
	instances := gather(ctx, a.options.Fan, list[yr.InstanceView]{
		"/yr/v1/instances", a.selected(query, func(v yr.InstanceView) bool { return v.Class != "" }), byInstance,
	}, others, missed, query, 0, maxCounted)
	for _, v := range instances.Items {
		if v.PID > 0 {
			p.Instances++
		}
	}
	calls := gather(ctx, a.options.Fan, a.ownCalls(query), others, nil, query, 0, 1)
	p.Calls = calls.Total
	if missed := instances.Unreachable; len(missed) > 0 {
		p.Reason = missed[0].Reason
	}
	return p
}
