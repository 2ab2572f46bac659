package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"yr/pkg/session"
	"yr/pkg/yr"
)

// apiTimeout bounds one question to the daemon.
const apiTimeout = 2 * time.Second

// API asks a daemon over its Unix socket, which only its user can open.
type API struct {
	client *http.Client
	f      *session.File
}

// NewAPI returns a client of the session's daemon. It connects when it is asked.
func NewAPI(f *session.File) *API {
	dialer := &net.Dialer{Timeout: apiTimeout}
	return &API{f: f, client: &http.Client{
		Timeout: apiTimeout,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dialer.DialContext(ctx, "unix", f.APISocket)
			},
		},
	}}
}

// Healthy asks whether the daemon answers.
func (a *API) Healthy(ctx context.Context) error {
	_, err := a.raw(ctx, "/health")
	return err
}

// Get asks for path and decodes the JSON answer.
func (a *API) Get(ctx context.Context, path string, answer any) error {
	body, err := a.raw(ctx, path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return yr.E("ask the daemon", yr.Communication, "GET %s was not answered in JSON: %v", path, err)
	}
	return nil
}

// problem is how the daemon answers when it cannot.
type problem struct {
	Code    yr.Code `json:"code"`
	Message string  `json:"message"`
}

func (a *API) raw(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://yr"+path, nil)
	if err != nil {
		return nil, err
	}
	res, err := a.client.Do(req)
	if err != nil {
		var ne net.Error
		if errors.As(err, &ne) && ne.Timeout() {
			return nil, yr.E("ask the daemon", yr.Communication, "no answer within %v; it may be restarting: try again, and see %s", apiTimeout, a.f.Dir.DaemonLog())
		}
		return nil, yr.E("ask the daemon", yr.InitConnection, "%v; see %s", errors.Unwrap(err), a.f.Dir.DaemonLog())
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, 256<<20))
	if err != nil {
		return nil, err
	}
	if res.StatusCode/100 != 2 {
		var p problem
		if json.Unmarshal(body, &p) == nil && p.Message != "" {
			return nil, &yr.Error{Op: "ask the daemon", Code: p.Code, Msg: p.Message}
		}
		return nil, fmt.Errorf("ask the daemon: GET %s: %s", path, res.Status)
	}
	return body, nil
}

func compactJSON(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }
