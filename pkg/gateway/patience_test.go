package gateway_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"yr/pkg/gateway"
	"yr/pkg/yr"
)

// pipes is a listener whose connections are pipes in memory, for which
// testing/synctest can fake the time.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	select {
	case <-p.closed:
	default:
		close(p.closed)
	}
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial() net.Conn {
	here, there := net.Pipe()
	p.conns <- there
	return here
}

func inBubble(t *testing.T, test func(t *testing.T, dir string, listener *pipes)) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		listener := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		source := &node{instances: []yr.InstanceView{{ID: id(1), Class: "C", Worker: "w1", PID: 5}}}
		g := gateway.New(gateway.Options{Source: source, TCP: []net.Listener{listener}, Token: token, LogDir: dir})
		require.NoError(t, g.Open(t.Context()))
		test(t, dir, listener)
		require.NoError(t, g.Close(context.Background()))
	})
}

const followRequest = "GET /yr/v1/logs/w1?follow=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token + "\r\n\r\n"

func TestAFollowedLogMayBeSilent(t *testing.T) {
	inBubble(t, func(t *testing.T, dir string, listener *pipes) {
		c := listener.dial()
		defer func() { _ = c.Close() }()
		_, err := io.WriteString(c, followRequest)
		require.NoError(t, err)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err)
		lines := bufio.NewReader(resp.Body)
		for range 3 {
			time.Sleep(10 * time.Minute) // faked
			f, err := os.OpenFile(filepath.Join(dir, "runtime-w1.out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			require.NoError(t, err)
			_, err = f.WriteString("line\n")
			require.NoError(t, err)
			require.NoError(t, f.Close())
			line, err := lines.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "line\n", line)
		}
	})
}

func TestClientsThatDoNotReadAreCutOff(t *testing.T) {
	inBubble(t, func(t *testing.T, dir string, listener *pipes) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "runtime-w1.out"), make([]byte, 1<<20), 0o600))
		c := listener.dial()
		defer func() { _ = c.Close() }()
		_, err := io.WriteString(c, followRequest)
		require.NoError(t, err)
		time.Sleep(2 * time.Minute) // faked
		_, err = io.Copy(io.Discard, c)
		require.NoError(t, err, "the server has closed")
	})
}

func TestClientsThatDoNotAskAreCutOff(t *testing.T) {
	inBubble(t, func(t *testing.T, _ string, listener *pipes) {
		c := listener.dial()
		defer func() { _ = c.Close() }()
		began := time.Now()
		_, err := io.WriteString(c, "GET /yr/v1/endpoint HT")
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, c)
		require.NoError(t, err)
		require.Less(t, time.Since(began), time.Minute)
	})
}
