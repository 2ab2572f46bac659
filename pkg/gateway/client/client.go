// Package client asks a gateway: the command line over the Unix socket, tests and
// other nodes over TCP.
//
//	c := client.Unix("/tmp/yr_sessions/latest/run/api.sock")
//	defer c.Close()
//	instances, err := c.Instances(ctx, client.Filter{State: "running"})
package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"yr/pkg/gateway/answer"
	"yr/pkg/gateway/api"
	"yr/pkg/gateway/ask"
	"yr/pkg/gateway/scheduler"
	"yr/pkg/yr"
)

// Client asks one gateway. It is safe for concurrent use.
type Client struct{ at *ask.Asker }

// Unix makes a client of the gateway behind a Unix socket.
func Unix(path string) *Client { return &Client{ask.Unix(path)} }

// TCP makes a client of the gateway at an address, host:port. Proxies of the
// environment are not used: a cluster talks to itself.
func TCP(address, token string) *Client { return &Client{ask.TCP(address, token, nil)} }

// TLS makes a client of a gateway that serves mutual TLS.
func TLS(address, token string, secure *tls.Config) *Client {
	return &Client{ask.TCP(address, token, secure)}
}

// Close gives idle connections back.
func (c *Client) Close() { c.at.Close() }

// Filter chooses entries of a list. Empty fields choose all.
type Filter struct {
	Job    yr.Job
	Tenant yr.Tenant // of instances and workers
	State  string
	Node   yr.Node // where they run, of objects where they are at home
	Offset int
	Limit  int // 0: answer.DefaultLimit
}

func (f Filter) query() url.Values {
	q := url.Values{}
	for name, value := range map[string]string{"job": string(f.Job), "tenant": string(f.Tenant), "state": f.State, "node": string(f.Node)} {
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
	return e, c.at.Get(ctx, "/yr/v1/endpoint", nil, &e)
}

// Nodes lists the machines of the cluster.
func (c *Client) Nodes(ctx context.Context) ([]yr.NodeView, error) {
	var page answer.Page[yr.NodeView]
	err := c.at.Get(ctx, "/yr/v1/nodes", Filter{Limit: answer.MaxLimit}.query(), &page)
	return page.Items, err
}

// Instances lists instances of users' classes.
func (c *Client) Instances(ctx context.Context, f Filter) (page answer.Page[yr.InstanceView], err error) {
	return page, c.at.Get(ctx, "/yr/v1/instances", f.query(), &page)
}

// Workers lists everything that has a process.
func (c *Client) Workers(ctx context.Context, f Filter) (page answer.Page[yr.InstanceView], err error) {
	return page, c.at.Get(ctx, "/yr/v1/workers", f.query(), &page)
}

// Calls lists calls that have not ended, the oldest first.
func (c *Client) Calls(ctx context.Context, f Filter) (page answer.Page[yr.CallView], err error) {
	return page, c.at.Get(ctx, "/yr/v1/calls", f.query(), &page)
}

// Objects lists objects that somebody refers to.
func (c *Client) Objects(ctx context.Context, f Filter) (page answer.Page[yr.ObjectView], err error) {
	return page, c.at.Get(ctx, "/yr/v1/objects", f.query(), &page)
}

// Why explains what an id waits for, or why it ended.
func (c *Client) Why(ctx context.Context, id string) (e yr.Explanation, err error) {
	return e, c.at.Get(ctx, "/yr/v1/why/"+url.PathEscape(id), nil, &e)
}

// Counters are the agent's counters.
func (c *Client) Counters(ctx context.Context) (counters map[string]uint64, err error) {
	return counters, c.at.Get(ctx, "/yr/v1/counters", nil, &counters)
}

// DebugCounters are the agent's counters and what the daemon's process holds:
// goroutines, fds, segments, workers, objects.
func (c *Client) DebugCounters(ctx context.Context) (counters map[string]uint64, err error) {
	return counters, c.at.Get(ctx, "/yr/v1/debug/counters", nil, &counters)
}

// GC makes the daemon collect garbage and give memory back.
func (c *Client) GC(ctx context.Context) error {
	return c.at.Do(ctx, http.MethodPost, "/yr/v1/debug/gc", nil, nil)
}

// Config is the daemon's merged configuration as JSON.
func (c *Client) Config(ctx context.Context) (raw json.RawMessage, err error) {
	return raw, c.at.Get(ctx, "/yr/v1/config", nil, &raw)
}

// SetLogLevel changes the level of the daemon's logs.
func (c *Client) SetLogLevel(ctx context.Context, level string) error {
	return c.at.Do(ctx, http.MethodPost, "/yr/v1/debug/loglevel", url.Values{"level": {level}}, nil)
}

// MasterInfo is what `yr status` shows of the master.
func (c *Client) MasterInfo(ctx context.Context) (info scheduler.MasterInfo, err error) {
	return info, c.at.Get(ctx, "/global-scheduler/masterinfo", nil, &info)
}

// AgentCount is the number of live nodes.
func (c *Client) AgentCount(ctx context.Context) (n int, err error) {
	return n, c.at.Get(ctx, "/global-scheduler/queryagentcount", nil, &n)
}

// Resources is what the cluster and each node have to offer.
func (c *Client) Resources(ctx context.Context) (r scheduler.Resources, err error) {
	return r, c.at.Get(ctx, "/global-scheduler/resources", nil, &r)
}

// Healthy checks that the daemon serves.
func (c *Client) Healthy(ctx context.Context) error {
	return c.at.Get(ctx, "/global-scheduler/healthy", nil, nil)
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
	resp, err := c.at.Stream(ctx, http.MethodGet, "/yr/v1/logs/"+url.PathEscape(id), q)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	_, err = io.Copy(w, resp.Body)
	if err != nil && ctx.Err() == nil {
		return yr.E("logs", yr.Communication, "the log of worker %s broke off: node %s is no longer reached (%v)",
			resp.Header.Get("X-Yr-Worker"), resp.Header.Get("X-Yr-Node"), err)
	}
	return nil
}
