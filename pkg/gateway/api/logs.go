package api

import (
	"cmp"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"

	"yr/pkg/gateway/answer"
	"yr/pkg/gateway/logs"
	"yr/pkg/yr"
)

// log streams what a worker printed, as text. The id is that of a worker, an
// instance (or its name) or a call; ended ones too, while `yr why` knows them.
// ?stream=out|err, ?tail=N lines, ?follow=1 until the worker has ended. A log of
// another node is passed through as it comes.
func (a *API) log(w http.ResponseWriter, r *http.Request) {
	request, err := a.logRequest(r)
	if err != nil {
		answer.Fail(w, err)
		return
	}
	at, err := a.locate(r, r.PathValue("id"))
	if err != nil {
		answer.Fail(w, err)
		return
	}
	request.Worker = at.Worker
	local, _ := answer.Flag(r.URL.Query(), "local")
	if at.Node != a.self() && !local && !a.options.Fan.Alone() {
		a.passLog(w, r, at)
		return
	}
	controller := http.NewResponseController(w)
	logHeader(w, at)
	err = a.logs.Copy(r.Context(), w, request, func() { _ = controller.Flush() })
	a.finishLog(r, at, err)
}

// passLog streams a log from the node where it lies.
func (a *API) passLog(w http.ResponseWriter, r *http.Request, at place) {
	n, ok := a.options.Fan.Node(r.Context(), at.Node)
	if !ok {
		answer.Fail(w, yr.E("logs", yr.ObjectNotFound, "worker %s ran on node %s, which has left; its log lies there, in the logs directory of its session", at.Worker, at.Node))
		return
	}
	query := r.URL.Query()
	query.Set("local", "1")
	resp, err := a.options.Fan.At(n).Stream(r.Context(), http.MethodGet, "/yr/v1/logs/"+url.PathEscape(at.Worker), query)
	if err != nil {
		if notThere(err) != nil {
			err = yr.E("logs", yr.CodeOf(err), "the log of worker %s lies on node %s (%s): %v", at.Worker, n.ID, n.Address, err)
		}
		answer.Fail(w, err)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	logHeader(w, at)
	_, err = io.Copy(flushing{w, http.NewResponseController(w)}, resp.Body)
	a.finishLog(r, at, err)
}

func logHeader(w http.ResponseWriter, at place) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Yr-Worker", at.Worker)
	w.Header().Set("X-Yr-Node", string(at.Node))
}

// finishLog breaks the stream off when it could not be read to its end: the
// status is sent, and this is how HTTP says "incomplete".
func (a *API) finishLog(r *http.Request, at place, err error) {
	if err == nil || r.Context().Err() != nil {
		return
	}
	a.options.Log.Warn().Err(err).Str("worker", at.Worker).Str("node", string(at.Node)).Msg("a log could not be read to its end")
	panic(http.ErrAbortHandler)
}

// flushing sends on at once what a followed log has.
type flushing struct {
	http.ResponseWriter
	controller *http.ResponseController
}

// Write implements io.Writer.
func (f flushing) Write(p []byte) (int, error) {
	n, err := f.ResponseWriter.Write(p)
	return n, errors.Join(err, f.controller.Flush())
}

func (a *API) logRequest(r *http.Request) (logs.Request, error) {
	query := r.URL.Query()
	request := logs.Request{Stream: logs.Stream(query.Get("stream"))}
	if request.Stream != logs.Both && request.Stream != logs.Out && request.Stream != logs.Err {
		return request, yr.E("logs", yr.ParamInvalid, "?stream=%.40q is neither out nor err", string(request.Stream))
	}
	var err error
	if request.Follow, err = answer.Flag(query, "follow"); err != nil {
		return request, err
	}
	request.Tail, err = answer.Number(query, "tail", -1, 0, logs.MaxTail)
	return request, err
}

// worker finds the worker whose files belong to id, as far as this node knows.
func (a *API) worker(id string) (place, error) {
	for _, v := range a.options.Source.Instances() {
		if v.ID.String() == id || v.Worker == id || (v.Name != "" && v.Name == id) {
			if worker := workerOf(v); worker != "" {
				return a.placed(worker, v.Node), nil
			}
			return place{}, yr.E("logs", yr.ResourceNotEnough, "instance %s has no process yet: it is %s; ask again when it runs, or use `yr why %s`", id, v.State, id)
		}
	}
	for _, v := range a.options.Source.Calls() {
		if v.ID.String() == id {
			if v.Worker != "" {
				return a.placed(v.Worker, v.Node), nil
			}
			return place{}, yr.E("logs", yr.ResourceNotEnough, "call %s has no worker yet: it is %s; use `yr why %s`", id, v.State, id)
		}
	}
	if a.logs.Exists(id) {
		return place{id, a.self()}, nil // of a worker that has ended
	}
	if e, ok := a.options.Source.Why(id); ok && e.Worker != "" {
		return a.placed(e.Worker, e.Node), nil // of an instance or a call that has ended
	}
	return place{}, unknown("logs", id)
}

// placed is the place of a worker on a node; files that are here are here,
// whatever the node's view says.
func (a *API) placed(worker string, node yr.Node) place {
	if a.logs.Exists(worker) {
		node = ""
	}
	return place{worker, cmp.Or(node, a.self())}
}

// alive reports whether a worker of this node may still print. The views list an
// instance at its home, so the launcher's files know more of who runs here.
func (a *API) alive(worker string) bool {
	if a.options.WorkerDir != "" {
		_, err := os.Lstat(filepath.Join(a.options.WorkerDir, worker+".json"))
		return err == nil
	}
	for _, v := range a.options.Source.Instances() {
		if workerOf(v) == worker {
			return true
		}
	}
	return false
}

// workerOf names the worker of a view; a stateless worker is its own.
func workerOf(v yr.InstanceView) string {
	if v.Worker != "" {
		return v.Worker
	}
	if v.PID > 0 {
		return v.ID.String()
	}
	return ""
}
