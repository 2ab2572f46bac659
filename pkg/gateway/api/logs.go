package api

import (
	"errors"
	"net/http"

	"yr/pkg/gateway/answer"
	"yr/pkg/gateway/logs"
	"yr/pkg/yr"
)

// log streams what a worker printed, as text. The id is that of a worker, an
// instance (or its name) or a call; ended ones too, while `yr why` knows them.
// ?stream=out|err, ?tail=N lines, ?follow=1 until the worker has ended.
func (a *API) log(w http.ResponseWriter, r *http.Request) {
	request, err := a.logRequest(r)
	if err != nil {
		answer.Fail(w, err)
		return
	}
	controller := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Yr-Worker", request.Worker)
	err = a.logs.Copy(r.Context(), w, request, func() { _ = controller.Flush() })
	if err != nil && !errors.Is(err, r.Context().Err()) {
		// The status is sent; breaking the stream off is how HTTP says "incomplete".
		a.options.Log.Warn().Err(err).Str("worker", request.Worker).Msg("a log could not be read to its end")
		panic(http.ErrAbortHandler)
	}
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
	if request.Tail, err = answer.Number(query, "tail", -1, 0, logs.MaxTail); err != nil {
		return request, err
	}
	request.Worker, err = a.worker(r.PathValue("id"))
	return request, err
}

// worker finds the worker whose files belong to id.
func (a *API) worker(id string) (string, error) {
	for _, v := range a.options.Source.Instances() {
		if v.ID.String() == id || v.Worker == id || (v.Name != "" && v.Name == id) {
			if worker := workerOf(v); worker != "" {
				return worker, nil
			}
			return "", yr.E("logs", yr.ObjectNotFound, "instance %s has no process yet: it is %s; ask again when it runs, or use `yr why %s`", id, v.State, id)
		}
	}
	for _, v := range a.options.Source.Calls() {
		if v.ID.String() == id {
			if v.Worker != "" {
				return v.Worker, nil
			}
			return "", yr.E("logs", yr.ObjectNotFound, "call %s has no worker yet: it is %s; use `yr why %s`", id, v.State, id)
		}
	}
	if a.logs.Exists(id) {
		return id, nil // of a worker that has ended
	}
	if e, ok := a.options.Source.Why(id); ok && e.Worker != "" {
		return e.Worker, nil // of an instance or a call that has ended
	}
	return "", unknown("logs", id)
}

// alive reports whether a worker is still listed.
func (a *API) alive(worker string) bool {
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
