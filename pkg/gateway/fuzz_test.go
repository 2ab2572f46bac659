package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/pkg/gateway"
	"yr/pkg/yr"
)

// Whatever bytes a stranger sends, the gateway answers or closes, never shows
// what the token protects, and lives on.
func FuzzStranger(f *testing.F) {
	for _, seed := range []string{
		"GET /yr/v1/nodes HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /yr/v1/endpoint HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /yr/v1/endpoint/../nodes HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET //yr/v1/nodes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \r\n\r\n",
		"GET http://x/yr/v1/nodes HTTP/1.0\r\n\r\n",
		"POST /yr/v1/debug/gc HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
		"GET /global-scheduler/healthy HTTP/1.1\r\nHost: x\r\nNode-ID: \xff\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(f, err)
	const secret = "only-with-the-token"
	source := &node{view: yr.NodeView{ID: "n1", Address: secret}}
	g := gateway.New(gateway.Options{Source: source, TCP: []net.Listener{l}, Token: token})
	require.NoError(f, g.Open(f.Context()))
	f.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = g.Close(ctx)
	})
	f.Fuzz(func(t *testing.T, request []byte) {
		if bytes.Contains(request, []byte(token)) {
			return
		}
		c, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		defer func() { _ = c.Close() }()
		_, _ = c.Write(request)
		_ = c.(*net.TCPConn).CloseWrite()
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		answered, _ := io.ReadAll(c)
		require.NotContains(t, string(answered), secret)
		resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(answered)), nil)
		if err != nil {
			return
		}
		body, _ := io.ReadAll(resp.Body)
		if resp.Header.Get("Content-Type") == "application/json" && len(body) > 0 {
			require.True(t, json.Valid(body), "%s", body)
		}
	})
}
