// Package client asks a gateway: the command line over the Unix socket, tests and
// other nodes over TCP.
//
//	c := client.Unix("/tmp/yr_sessions/latest/run/api.sock")
//	defer c.Close()
//	instances, err := c.Instances(ctx, client.Filter{State: "running"})
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"yr/pkg/gateway/answer"
	"yr/pkg/gateway/api"
	"yr/pkg/gateway/scheduler"
	"yr/pkg/yr"
)

const (
	// DefaultTimeout bounds a request whose context has no deadline. Logs that are
	// followed have none.
	DefaultTimeout = 10 * time.Second
	// maxAnswer is the longest answer that is read; pages are far shorter.
	maxAnswer = 256 << 20
)

// Client asks one gateway. It is safe for concurrent use.
type Client struct {
	base  string
	token string
	http  *http.Client
	where string // for messages
}

// Unix makes a client of the gateway behind a Unix socket.
func Unix(path string) *Client {
	dialer := &net.Dialer{}
	return &Client{base: "http://yr", where: path, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		},
		DisableCompression: true,
	}}}
}

// TCP makes a client of the gateway at an address, host:port. Proxies of the
// environment are not used: a cluster talks to itself.
func TCP(address, token string) *Client {
	return &Client{base: "http://" + address, token: token, where: address,
		http: &http.Client{Transport: &http.Transport{Proxy: nil, DisableCompression: true}}}
}

// Close gives idle connections back.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Filter chooses entries of a list. Empty fields choose all.
type Filter struct {
	Job    yr.Job
	Tenant yr.Tenant // of instances and workers
	State  string
	Offset int
	Limit  int // 0: answer.DefaultLimit
}

func (f Filter) query() url.Values {
	q := url.Values{}
	for name, value := range map[string]string{"job": string(f.Job), "tenant": string(f.Tenant), "state": f.State} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if f.Offset != 0 {
		q.Set("offset", strconv.Itoa(f.Offset))
	}
	if f.Limit != 0 {
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	return q
}

// Endpoint says where the node's Unix socket is.
func (c *Client) Endpoint(ctx context.Context) (e api.Endpoint, err error) {
	return e, c.get(ctx, "/yr/v1/endpoint", nil, &e)
}

// Nodes lists the machines of the cluster.
func (c *Client) Nodes(ctx context.Context) ([]yr.NodeView, error) {
	var page answer.Page[yr.NodeView]
	err := c.get(ctx, "/yr/v1/nodes", Filter{Limit: answer.MaxLimit}.query(), &page)
	return page.Items, err
}

// Instances lists instances of users' classes.
func (c *Client) Instances(ctx context.Context, f Filter) (page answer.Page[yr.InstanceView], err error) {
	return page, c.get(ctx, "/yr/v1/instances", f.query(), &page)
}

// Workers lists everything that has a process.
func (c *Client) Workers(ctx context.Context, f Filter) (page answer.Page[yr.InstanceView], err error) {
	return page, c.get(ctx, "/yr/v1/workers", f.query(), &page)
}

// Calls lists calls that have not ended, the oldest first.
func (c *Client) Calls(ctx context.Context, f Filter) (page answer.Page[yr.CallView], err error) {
	return page, c.get(ctx, "/yr/v1/calls", f.query(), &page)
}

// Objects lists objects that somebody refers to.
func (c *Client) Objects(ctx context.Context, f Filter) (page answer.Page[yr.ObjectView], err error) {
	return page, c.get(ctx, "/yr/v1/objects", f.query(), &page)
}

// Why explains what an id waits for, or why it ended.
func (c *Client) Why(ctx context.Context, id string) (e yr.Explanation, err error) {
	return e, c.get(ctx, "/yr/v1/why/"+url.PathEscape(id), nil, &e)
}

// Counters are the agent's counters.
func (c *Client) Counters(ctx context.Context) (counters map[string]uint64, err error) {
	return counters, c.get(ctx, "/yr/v1/counters", nil, &counters)
}

// DebugCounters are the agent's counters and what the daemon's process holds:
// goroutines, fds, segments, workers, objects.
func (c *Client) DebugCounters(ctx context.Context) (counters map[string]uint64, err error) {
	return counters, c.get(ctx, "/yr/v1/debug/counters", nil, &counters)
}

// GC makes the daemon collect garbage and give memory back.
func (c *Client) GC(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, "/yr/v1/debug/gc", nil, nil)
}

// Config is the daemon's merged configuration as JSON.
func (c *Client) Config(ctx context.Context) (raw json.RawMessage, err error) {
	return raw, c.get(ctx, "/yr/v1/config", nil, &raw)
}

// SetLogLevel changes the level of the daemon's logs.
func (c *Client) SetLogLevel(ctx context.Context, level string) error {
	return c.do(ctx, http.MethodPost, "/yr/v1/debug/loglevel", url.Values{"level": {level}}, nil)
}

// MasterInfo is what `yr status` shows of the master.
func (c *Client) MasterInfo(ctx context.Context) (info scheduler.MasterInfo, err error) {
	return info, c.get(ctx, "/global-scheduler/masterinfo", nil, &info)
}

// AgentCount is the number of live nodes.
func (c *Client) AgentCount(ctx context.Context) (n int, err error) {
	return n, c.get(ctx, "/global-scheduler/queryagentcount", nil, &n)
}

// Resources is what the cluster and each node have to offer.
func (c *Client) Resources(ctx context.Context) (r scheduler.Resources, err error) {
	return r, c.get(ctx, "/global-scheduler/resources", nil, &r)
}

// Healthy checks that the daemon serves.
func (c *Client) Healthy(ctx context.Context) error {
	return c.get(ctx, "/global-scheduler/healthy", nil, nil)
}

// LogOptions choose a part of a log.
type LogOptions struct {
	Follow bool
	Tail   int    // last lines of each file; negative: all
	Stream string // "out", "err"; "": both
}

// Logs copies what the worker of an instance, call or worker id printed to w.
// Following ends without an error when the worker has ended or ctx is cancelled.
func (c *Client) Logs(ctx context.Context, id string, o LogOptions, w io.Writer) error {
	q := url.Values{}
	if o.Follow {
		q.Set("follow", "1")
	}
	if o.Tail >= 0 {
		q.Set("tail", strconv.Itoa(o.Tail))
	}
	if o.Stream != "" {
		q.Set("stream", o.Stream)
	}
	resp, err := c.send(ctx, http.MethodGet, "/yr/v1/logs/"+url.PathEscape(id), q)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	_, err = io.Copy(w, resp.Body)
	if err != nil && ctx.Err() == nil {
		return yr.Wrap("logs", yr.Communication, err)
	}
	return nil
}

func (c *Client) get(ctx context.Context, path string, q url.Values, into any) error {
	return c.do(ctx, http.MethodGet, path, q, into)
}

func (c *Client) do(ctx context.Context, method, path string, q url.Values, into any) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
	}
	resp, err := c.send(ctx, method, path, q)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return yr.Wrap("ask "+c.where, yr.Communication, err)
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(body, into); err != nil {
		return yr.E("ask "+c.where, yr.Communication, "the answer to %s is not what this yr expects (%v); is another program listening there, or another version of yr?", path, err)
	}
	return nil
}

// send returns the answer if it is a success, else its error as a *yr.Error.
func (c *Client) send(ctx context.Context, method, path string, q url.Values) (*http.Response, error) {
	target := c.base + path
	if len(q) > 0 {
		target += "?" + q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, nil)
	if err != nil {
		return nil, yr.Wrap("ask "+c.where, yr.ParamInvalid, err)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	return nil, failure(resp)
}

func (c *Client) unreachable(ctx context.Context, err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // the URL of a Unix socket means nothing to a person
	}
	code, msg := yr.InitConnection, "no daemon answers at "+c.where+"; `yr health` shows whether one runs"
	if ctx.Err() != nil {
		code, msg = yr.GetTimeout, "the daemon at "+c.where+" did not answer in time"
		if errors.Is(ctx.Err(), context.Canceled) {
			code, msg = yr.Interrupted, "interrupted"
		}
	}
	return &yr.Error{Op: "ask the daemon", Code: code, Msg: msg, Err: err}
}

func failure(resp *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var e answer.Error
	if err := json.Unmarshal(body, &e); err != nil || e.Message == "" {
		return yr.E("ask the daemon", yr.Communication, "HTTP %s: %s", resp.Status, firstLine(body))
	}
	return &yr.Error{Op: "the daemon says", Code: e.Code, Msg: e.Message}
}

func firstLine(b []byte) string {
	line, _, _ := bytes.Cut(bytes.TrimSpace(b), []byte("\n"))
	if len(line) > 200 {
		line = line[:200]
	}
	return fmt.Sprintf("%q", line)
}
