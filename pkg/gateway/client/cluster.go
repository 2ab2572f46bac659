package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"yr/pkg/gateway/answer"
	"yr/pkg/gateway/api"
	"yr/pkg/yr"
)

// mastersTimeout bounds a change of the masters, who may be electing a leader.
const mastersTimeout = time.Minute

// SetCordoned stops or resumes placing new work on a node.
func (c *Client) SetCordoned(ctx context.Context, node yr.Node, cordoned bool) error {
	method := http.MethodPost
	if !cordoned {
		method = http.MethodDelete
	}
	return c.at.Do(ctx, method, ofNode("nodes", node)+"/cordon", nil, nil)
}

// Drain cordons a node and waits until nothing runs there. progress is told about
// once a second what does.
func (c *Client) Drain(ctx context.Context, node yr.Node, timeout time.Duration, progress func(api.Progress)) error {
	return c.empty(ctx, ofNode("nodes", node)+"/drain", url.Values{"timeout": {timeout.String()}}, progress)
}

// Evict cordons a node, waits for the grace, and ends what still runs there.
func (c *Client) Evict(ctx context.Context, node yr.Node, grace time.Duration, progress func(api.Progress)) error {
	return c.empty(ctx, ofNode("nodes", node)+"/evict", url.Values{"grace": {grace.String()}}, progress)
}

// empty follows the lines of a node that is being emptied.
func (c *Client) empty(ctx context.Context, path string, q url.Values, progress func(api.Progress)) error {
	resp, err := c.at.Stream(ctx, http.MethodPost, path, q)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	for lines := json.NewDecoder(resp.Body); ; {
		var p api.Progress
		err := lines.Decode(&p)
		switch {
		case err != nil && ctx.Err() != nil:
			return yr.E("drain", yr.Interrupted, "interrupted; the node stays cordoned, and `yr uncordon` takes that back")
		case errors.Is(err, io.EOF):
			return yr.E("drain", yr.Communication, "the daemon ended before the node was empty")
		case err != nil:
			return yr.Wrap("drain", yr.Communication, err)
		case p.Error != nil:
			return &yr.Error{Op: "the daemon says", Code: p.Error.Code, Msg: p.Error.Message}
		case p.Done:
			return nil
		}
		progress(p)
	}
}

// Leave lets the node that is asked say goodbye to its cluster.
func (c *Client) Leave(ctx context.Context) error {
	return c.at.Do(ctx, http.MethodPost, "/yr/v1/leave", nil, nil)
}

// Masters lists the masters.
func (c *Client) Masters(ctx context.Context) (page answer.Page[api.MasterView], err error) {
	return page, c.at.Get(ctx, "/yr/v1/masters", nil, &page)
}

// RemoveMaster takes a master's vote away, whether it lives or not.
func (c *Client) RemoveMaster(ctx context.Context, node yr.Node) error {
	ctx, cancel := context.WithTimeout(ctx, mastersTimeout)
	defer cancel()
	return c.at.Do(ctx, http.MethodDelete, ofNode("masters", node), nil, nil)
}

// Backup copies the durable state of the cluster to w. What is written when it
// fails is no backup.
func (c *Client) Backup(ctx context.Context, w io.Writer) (int64, error) {
	resp, err := c.at.Stream(ctx, http.MethodGet, "/yr/v1/backup", nil)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	n, err := io.Copy(w, resp.Body)
	if err != nil {
		return n, yr.Wrap("backup", yr.Communication, err)
	}
	return n, nil
}

func ofNode(what string, node yr.Node) string {
	return "/yr/v1/" + what + "/" + url.PathEscape(string(node))
}
