package peer

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	grpcpeer "google.golang.org/grpc/peer"

	"yr/pkg/yr"
)

func TestStreamsKnowWhoIsAtTheOtherEnd(t *testing.T) {
	for _, row := range []struct {
		name string
		opts []option
	}{{"plain", nil}, {"TLS", []option{withTLS(certificates(t))}}} {
		t.Run(row.name, func(t *testing.T) {
			a, b := start(t, "a", append(row.opts, incarnation(3))...), start(t, "b", append(row.opts, incarnation(4))...)
			l := b.Listen("echo")
			require.Equal(t, b.address, l.Addr().String())
			c, err := a.Dial(t.Context(), b.address, "echo")
			require.NoError(t, err)
			d, err := l.Accept()
			require.NoError(t, err)
			require.Equal(t, Addr{"b", 4, b.address}, c.RemoteAddr())
			require.Equal(t, Addr{"a", 3, a.address}, d.RemoteAddr())
			_, err = c.Write([]byte("hello\n"))
			require.NoError(t, err)
			line, err := bufio.NewReader(d).ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "hello\n", line)
			require.NoError(t, c.Close())
			_, err = d.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
			require.NoError(t, d.Close())
			eventually(t, "it is counted no more", func() bool { return len(b.guestList()) == 0 })
		})
	}
}

// identified answers health checks and notes who asks.
type identified struct {
	*health.Server
	from chan yr.Node
}

func (s *identified) Check(ctx context.Context, r *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	p, _ := grpcpeer.FromContext(ctx)
	s.from <- p.Addr.(Addr).Node
	return s.Server.Check(ctx, r)
}

func TestGRPCRunsOverAStream(t *testing.T) {
	a, b := start(t, "a"), start(t, "b")
	server := grpc.NewServer()
	service := &identified{health.NewServer(), make(chan yr.Node, 1)}
	healthpb.RegisterHealthServer(server, service)
	l := b.Listen("rpc")
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///"+b.address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return a.Dial(ctx, address, "rpc") }))
	require.NoError(t, err)
	answer, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, answer.GetStatus())
	require.Equal(t, yr.Node("a"), <-service.from, "handlers see the authenticated node")
	require.NoError(t, conn.Close())
	server.Stop()
	require.NoError(t, <-served)
}

func TestStreamsThatNobodyTakesAreBounded(t *testing.T) {
	a, b := start(t, "a"), start(t, "b")
	l := b.Listen("rpc")
	for range streamQueue {
		c, err := a.Dial(t.Context(), b.address, "rpc")
		require.NoError(t, err)
		defer c.Close()
	}
	eventually(t, "all of them wait", func() bool { return len(l.(*listener).queue) == streamQueue })
	require.ErrorIs(t, dialRPC(a, b.address), ErrBusy)
}

func TestASecondListenTakesOver(t *testing.T) {
	a, b := start(t, "a"), start(t, "b")
	first := b.Listen("rpc")
	second := b.Listen("rpc")
	_, err := first.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
	require.NoError(t, first.Close())
	require.NoError(t, dialRPC(a, b.address))
	c, err := second.Accept()
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.NoError(t, second.Close())
	require.ErrorIs(t, dialRPC(a, b.address), ErrProtocol)
	_, err = b.Listen("link").Accept()
	require.ErrorIs(t, err, net.ErrClosed, "links are not for others")
}

func TestOnePortServesNodesAndHTTP(t *testing.T) {
	for _, row := range []struct {
		name   string
		secure TLS
		scheme string
	}{{"plain", nil, "http"}, {"TLS", certificates(t), "https"}} {
		t.Run(row.name, func(t *testing.T) {
			b := start(t, "b", withTLS(row.secure))
			server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, "hello")
			}), ReadHeaderTimeout: patience}
			served := make(chan error, 1)
			go func() { served <- server.Serve(b.others) }()
			client := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // what is tested is the port
			answer, err := client.Get(row.scheme + "://" + b.address + "/path")
			require.NoError(t, err)
			body, err := io.ReadAll(answer.Body)
			require.NoError(t, err)
			require.NoError(t, answer.Body.Close())
			require.Equal(t, "hello", string(body))

			other := map[string]string{"http": "https", "https": "http"}[row.scheme]
			answer, err = client.Get(other + "://" + b.address + "/path")
			if err == nil {
				require.Equal(t, http.StatusBadRequest, answer.StatusCode)
				body, err = io.ReadAll(answer.Body)
				require.NoError(t, err)
				require.NoError(t, answer.Body.Close())
				require.Contains(t, string(body), "use https")
			} else {
				require.ErrorContains(t, err, "server gave HTTP response to HTTPS client")
			}
			client.CloseIdleConnections()

			a := start(t, "a", withTLS(row.secure))
			join(a, b)
			require.NoError(t, server.Close())
			require.ErrorIs(t, <-served, http.ErrServerClosed)
		})
	}
}

func TestCloseEndsEverythingAndLeaksNothing(t *testing.T) {
	before := descriptors(t)
	live := certificates(t)
	for range 3 {
		a := start(t, "a", withTLS(live), source(newMemory(t, noise(1, 1<<20))))
		b := start(t, "b", withTLS(live))
		l := a.Listen("rpc")
		ab, _ := join(a, b)
		say(ab, "x")
		b.expect("a", "x")
		_, err := fetch(b, a, "x")
		require.NoError(t, err)
		c, err := b.Dial(t.Context(), a.address, "rpc")
		require.NoError(t, err)
		d, err := l.Accept()
		require.NoError(t, err)
		a.stop()
		b.stop()
		_, err = c.Read(make([]byte, 1))
		require.Error(t, err, "a dialed stream ends with its Peers")
		_, err = d.Read(make([]byte, 1))
		require.Error(t, err, "an accepted one too")
		_, err = a.others.Accept()
		require.ErrorIs(t, err, net.ErrClosed)
		require.ErrorIs(t, ab.WaitRoom(t.Context()), ErrClosed)
		require.Equal(t, yr.Communication, yr.CodeOf(dialRPC(a, b.address)))
		_ = c.Close()
		_ = d.Close()
		a.Link("late", b.address)
		_, err = fetch(a, b, "x")
		require.Error(t, err)
	}
	eventually(t, "all descriptors are closed", func() bool { return descriptors(t) <= before+3 }) // the memory of the three rounds
}

func descriptors(t testing.TB) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(all)
}

func TestClosingWhileConnectingDoesNotWait(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	require.NoError(t, err)
	defer ln.Close()
	a := prepare(t, "a")
	a.pace.dial = time.Hour
	a.open()
	a.Link("silent", ln.Addr().String())
	c, err := ln.Accept()
	require.NoError(t, err)
	defer c.Close()
	a.stop()
}
