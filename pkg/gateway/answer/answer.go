// Package answer writes what every front door answers alike: JSON, errors with
// their public code, and pages of long lists.
package answer

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"yr/pkg/yr"
)

// Error is the body of every answer that is not a success.
type Error struct {
	Code    yr.Code `json:"code"`
	Message string  `json:"message"`
}

// JSON writes v with status 200. An error of writing means that the client has
// gone; nobody is left to be told.
func JSON(w http.ResponseWriter, v any) { Write(w, http.StatusOK, v) }

// Write writes v with a status.
func Write(w http.ResponseWriter, status int, v any) {
	body, err := encode(v)
	if err != nil {
		status = http.StatusInternalServerError
		body, _ = encode(Error{yr.Internal, "encode the answer: " + err.Error()})
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// encode leaves <, > and & as they are: the answers are read by people and
// programs, not put into pages.
func encode(v any) ([]byte, error) {
	var body bytes.Buffer
	e := json.NewEncoder(&body)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return body.Bytes(), err
}

// Fail writes err with the status that belongs to its code.
func Fail(w http.ResponseWriter, err error) {
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		Write(w, http.StatusRequestEntityTooLarge, Error{yr.ParamInvalid, "the request's body is too large: " + err.Error()})
		return
	}
	code := yr.CodeOf(err)
	Write(w, Status(code), Error{code, err.Error()})
}

// NotOffered says honestly that nothing stands behind a route yet.
func NotOffered(w http.ResponseWriter, what string) {
	Write(w, http.StatusNotImplemented, Error{yr.Internal, what})
}

// Status is the HTTP status of a public code.
func Status(code yr.Code) int {
	switch code {
	case yr.OK:
		return http.StatusOK
	case yr.ParamInvalid, yr.ResourceConfigError, yr.FrameMalformed, yr.VersionMismatch,
		yr.InvokeUsage, yr.CreateUsage, yr.KillUsage, yr.FunctionUsage, yr.InitUsage:
		return http.StatusBadRequest
	case yr.Unauthorized:
		return http.StatusUnauthorized
	case yr.InstanceNotFound, yr.ObjectNotFound:
		return http.StatusNotFound
	case yr.AlreadyRunning, yr.KeyExists, yr.InstanceDuplicated:
		return http.StatusConflict
	case yr.RateLimited:
		return http.StatusTooManyRequests
	case yr.ResourceNotEnough, yr.StoreFull, yr.Communication, yr.InitConnection:
		return http.StatusServiceUnavailable
	case yr.GetTimeout, yr.DeadlineExceeded:
		return http.StatusGatewayTimeout
	case yr.DiskFull:
		return http.StatusInsufficientStorage
	}
	return http.StatusInternalServerError
}

// How long a page is: DefaultLimit entries unless asked, at most MaxLimit.
const (
	DefaultLimit = 1000
	MaxLimit     = 10_000
)

// Page is a part of a list and how long the whole is.
type Page[T any] struct {
	Items  []T `json:"items"`
	Total  int `json:"total"` // before the page was cut, after filters
	Offset int `json:"offset"`
	Limit  int `json:"limit"`

	Unreachable []Unreachable `json:"unreachable,omitempty"` // whose things are missing here
}

// Unreachable is a node that was asked and did not answer.
type Unreachable struct {
	Node    yr.Node `json:"node"`
	Address string  `json:"address,omitempty"`
	Reason  string  `json:"reason"`
}

// Window reads ?limit= and ?offset=.
func Window(query url.Values) (offset, limit int, err error) {
	if limit, err = Number(query, "limit", DefaultLimit, 1, MaxLimit); err != nil {
		return 0, 0, err
	}
	offset, err = Number(query, "offset", 0, 0, 1<<31-1)
	return offset, limit, err
}

// Cut takes the page that ?limit= and ?offset= ask for.
func Cut[T any](query url.Values, all []T) (Page[T], error) {
	offset, limit, err := Window(query)
	if err != nil {
		return Page[T]{}, err
	}
	return Slice(all, len(all), offset, limit), nil
}

// Slice makes a page of the first entries of a list of total entries.
func Slice[T any](first []T, total, offset, limit int) Page[T] {
	from := min(offset, len(first))
	items := first[from:min(from+limit, len(first))]
	if len(items) == 0 {
		items = []T{} // [] in JSON, not null
	}
	return Page[T]{Items: items, Total: total, Offset: offset, Limit: limit}
}

// Number reads an integer parameter that lies within [low, high].
func Number(query url.Values, name string, otherwise, low, high int) (int, error) {
	text := query.Get(name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < low || n > high {
		return 0, yr.E("request", yr.ParamInvalid, "?%s=%.40q is not a number from %d to %d", name, text, low, high)
	}
	return n, nil
}

// Flag reads a boolean parameter: "1", "true" or nothing after the name is true.
func Flag(query url.Values, name string) (bool, error) {
	if !query.Has(name) {
		return false, nil
	}
	text := query.Get(name)
	if text == "" {
		return true, nil
	}
	on, err := strconv.ParseBool(text)
	if err != nil {
		return false, yr.E("request", yr.ParamInvalid, "?%s=%.40q is neither true nor false", name, text)
	}
	return on, nil
}
