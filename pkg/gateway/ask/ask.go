// Package ask puts one question to one gateway over HTTP: what comes back is a
// value, a stream, or the gateway's own typed error.
package ask

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"yr/pkg/gateway/answer"
	"yr/pkg/yr"
)

const (
	// DefaultTimeout bounds a question whose context has no deadline. Streams have none.
	DefaultTimeout = 10 * time.Second
	// maxAnswer is the longest answer that is read; pages are far shorter.
	maxAnswer = 256 << 20
)

// keepAlive finds out within seconds that the machine at the other end is gone,
// also while a followed log is silent.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3}

// Asker asks one gateway. It is safe for concurrent use.
type Asker struct {
	base  string
	token string
	where string // for messages
	http  *http.Client
}

// Dial connects to an address, host:port.
type Dial func(ctx context.Context, address string) (net.Conn, error)

// Unix makes an Asker of the gateway behind a Unix socket.
func Unix(path string) *Asker {
	dialer := &net.Dialer{}
	return &Asker{base: "http://yr", where: path, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		},
		DisableCompression: true,
	}}}
}

// TCP makes an Asker of the gateway at an address, host:port, which is asked over
// TLS if there is a configuration for it.
func TCP(address, token string, secure *tls.Config) *Asker {
	scheme := "http"
	if secure != nil {
		scheme = "https"
	}
	return &Asker{base: scheme + "://" + address, token: token, where: address, http: &http.Client{Transport: transport(nil, secure)}}
}

// Many is what the Askers of many gateways share: connections that are kept for
// the next question.
type Many struct {
	http  *http.Client
	token string
}

// NewMany makes a Many whose connections come from dial (nil: plain TCP).
func NewMany(dial Dial, token string) *Many {
	t := transport(dial, nil)
	t.MaxIdleConnsPerHost, t.MaxIdleConns, t.IdleConnTimeout = 2, 128, 30*time.Second
	return &Many{http: &http.Client{Transport: t}, token: token}
}

// At makes an Asker of the gateway at an address.
func (m *Many) At(address string) *Asker {
	return &Asker{base: "http://" + address, token: m.token, where: address, http: m.http}
}

// Close gives idle connections back.
func (m *Many) Close() { m.http.CloseIdleConnections() }

// transport never uses the proxies of the environment: a cluster talks to itself.
func transport(dial Dial, secure *tls.Config) *http.Transport {
	if dial == nil {
		dialer := &net.Dialer{KeepAliveConfig: keepAlive}
		dial = func(ctx context.Context, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", address)
		}
	}
	return &http.Transport{
		Proxy: nil, DisableCompression: true, TLSClientConfig: secure,
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) { return dial(ctx, address) },
	}
}

// Close gives idle connections back.
func (a *Asker) Close() { a.http.CloseIdleConnections() }

// Get asks for a value.
func (a *Asker) Get(ctx context.Context, path string, q url.Values, into any) error {
	return a.Do(ctx, http.MethodGet, path, q, into)
}

// Do asks for something to be done; into may be nil.
func (a *Asker) Do(ctx context.Context, method, path string, q url.Values, into any) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
	}
	resp, err := a.Stream(ctx, method, path, q)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return yr.Wrap("ask "+a.where, yr.Communication, err)
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(body, into); err != nil {
		return yr.E("ask "+a.where, yr.Communication, "the answer to %s is not what this yr expects (%v); is another program listening there, or another version of yr?", path, err)
	}
	return nil
}

// Stream returns the answer if it is a success, else its error as a *yr.Error.
// The caller closes the body; nothing but ctx bounds it.
func (a *Asker) Stream(ctx context.Context, method, path string, q url.Values) (*http.Response, error) {
	target := a.base + path
	if len(q) > 0 {
		target += "?" + q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, nil)
	if err != nil {
		return nil, yr.Wrap("ask "+a.where, yr.ParamInvalid, err)
	}
	if a.token != "" {
		req.Header.Set("Authorization", "Bearer "+a.token)
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return nil, a.unreachable(ctx, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	return nil, failure(resp)
}

func (a *Asker) unreachable(ctx context.Context, err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // the URL of a Unix socket means nothing to a person
	}
	var own *yr.Error
	if errors.As(err, &own) && ctx.Err() == nil {
		return own // of a Dial that knows better
	}
	code, msg := yr.InitConnection, "no daemon answers at "+a.where+"; `yr health` shows whether one runs"
	if ctx.Err() != nil {
		code, msg = yr.GetTimeout, "the daemon at "+a.where+" did not answer in time"
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
