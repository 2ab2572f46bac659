// Package gateway is the daemon's HTTP server. Behind it stand the front doors,
// one package each; in front of them it checks who asks, and bounds what they ask.
//
// The same routes are served on three kinds of listeners. On the Unix socket the
// kernel says who asks: the daemon's user or root. On TCP every request carries
// the cluster's token, except for health and for finding the Unix socket and the
// masters. Other nodes have proved who they are before their connection gets here.
package gateway

import (
	"context"
	"errors"
	"log"
	"net"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"

	"yr/pkg/gateway/answer"
	"yr/pkg/gateway/api"
	"yr/pkg/gateway/fanout"
	"yr/pkg/gateway/scheduler"
	"yr/pkg/yr"
)

// The bounds of a request. A slow or hostile client costs at most one connection.
const (
	maxHeaderBytes    = 32 << 10
	maxBodyBytes      = 1 << 20
	maxConnections    = 1024 // of each listener; more wait to be accepted
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 30 * time.Second
	writeTimeout      = 60 * time.Second // of each write to TCP
	idleTimeout       = 2 * time.Minute
	maxScrapes        = 4 // of /metrics at a time
)

// Options of a Gateway.
type Options struct {
	Source api.Source     // the agent
	Unix   net.Listener   // api.sock; nil: none
	TCP    []net.Listener // each serves everything but /debug/pprof

	Cluster Cluster // nil: this node is alone
	// Peers yields the connections that other nodes make with their Dial. Who is at
	// the other end is known, so no token is asked for. Where there is none, nodes
	// ask each other on TCP, with the token. Both or neither are set.
	Peers net.Listener
	Dial  func(ctx context.Context, address string) (net.Conn, error)

	Token     string // of the cluster; may be empty only with Insecure
	TokenFile string // where a person finds it, for the message of 401
	Insecure  bool   // TCP asks for no token

	Endpoint api.Endpoint
	LogDir   string
	// WorkerDir holds a file WORKER.json for each worker of this node that lives.
	WorkerDir string
	Config    func() any // the merged configuration without secrets, for GET /yr/v1/config

	MasterAddress string // ip:port of the function master's port; "" where there is none
	MetaStore     string // ip:port of etcd; "" while it listens on no port

	Metrics prometheus.Gatherer // for /metrics; nil: not offered
	Log     zerolog.Logger
}

// Cluster is what a node of several can be asked to do; the daemon implements it.
type Cluster = api.Cluster

// Gateway serves the front doors.
type Gateway struct {
	options Options
	fan     *fanout.Fan
	servers []*http.Server
	stop    context.CancelFunc // ends followed logs
	serving sync.WaitGroup
}

// New makes a closed Gateway.
func New(o Options) *Gateway {
	if o.Cluster != nil {
		o.Cluster = informed{o.Cluster, o.Source}
	}
	return &Gateway{options: o}
}

// Open begins to serve. The listeners belong to the Gateway from now on, also
// when Open fails.
func (g *Gateway) Open(context.Context) error {
	o := g.options
	if len(o.TCP) > 0 && o.Token == "" && !o.Insecure {
		g.closeListeners()
		return yr.E("gateway", yr.ParamInvalid, "TCP needs the cluster's token; start with --insecure to do without")
	}
	life, stop := context.WithCancel(context.Background())
	g.stop = stop
	g.fan = fanout.New(fanout.Options{
		Self: o.Source.Node().ID, Nodes: g.nodes(), Dial: o.Dial, Token: g.tokenForNodes(),
	})
	routes := g.routes()
	if o.Unix != nil {
		local := http.NewServeMux()
		local.Handle("/", jsonErrors(routes))
		registerProfiles(local)
		g.serve(life, o.Unix, samePeer(local), true)
	}
	for _, l := range o.TCP {
		g.serve(life, l, withToken(o, withWriteTimeout(jsonErrors(routes))), false)
	}
	if o.Peers != nil {
		g.serve(life, o.Peers, withWriteTimeout(jsonErrors(routes)), false)
	}
	return nil
}

// nodes is how the nodes of the cluster are listed; nil: this one is alone.
func (g *Gateway) nodes() func(context.Context) ([]yr.NodeView, error) {
	if g.options.Cluster == nil {
		return nil
	}
	return g.options.Cluster.Nodes
}

// informed knows this node better than the leader does, whose news of it are a
// report old, or none yet.
type informed struct {
	Cluster
	source api.Source
}

// Nodes implements Cluster.
func (i informed) Nodes(ctx context.Context) ([]yr.NodeView, error) {
	nodes, err := i.Cluster.Nodes(ctx)
	own := i.source.Node()
	for at := range nodes {
		if n := &nodes[at]; n.ID == own.ID {
			n.Capacity, n.Available, n.Workers, n.Store = own.Capacity, own.Available, own.Workers, own.Store
			if n.State == "ready" {
				n.Reason = ""
			}
		}
	}
	return nodes, err
}

// tokenForNodes is what other nodes are sent. A Dial that proves who asks makes
// it needless, and it is not sent in the clear.
func (g *Gateway) tokenForNodes() string {
	if g.options.Dial != nil {
		return ""
	}
	return g.options.Token
}

// Close stops accepting, ends followed logs, and waits for requests in progress,
// at most until ctx ends. It may be called twice, and without Open.
func (g *Gateway) Close(ctx context.Context) error {
	if g.stop == nil {
		return nil
	}
	g.stop()
	var errs []error
	for _, s := range g.servers {
		if err := s.Shutdown(ctx); err != nil {
			errs = append(errs, s.Close())
		}
	}
	g.serving.Wait()
	g.fan.Close()
	return errors.Join(errs...)
}

func (g *Gateway) closeListeners() {
	if g.options.Unix != nil {
		_ = g.options.Unix.Close()
	}
	if g.options.Peers != nil {
		_ = g.options.Peers.Close()
	}
	for _, l := range g.options.TCP {
		_ = l.Close()
	}
}

// routes are what every listener serves.
func (g *Gateway) routes() *http.ServeMux {
	o := g.options
	mux := http.NewServeMux()
	own := api.New(api.Options{
		Source: o.Source, Cluster: o.Cluster, Fan: g.fan, Endpoint: o.Endpoint, LogDir: o.LogDir, WorkerDir: o.WorkerDir, Config: o.Config, Log: o.Log,
	})
	own.Register(mux)
	views := scheduler.Options{Source: o.Source, MasterAddress: o.MasterAddress, MetaStore: o.MetaStore, Nodes: g.nodes()}
	if o.Cluster != nil {
		views.Instances, views.Cordon = own.AllInstances, o.Cluster.SetCordoned
		views.Evict = func(ctx context.Context, node yr.Node, grace time.Duration) error {
			return api.Evict(ctx, o.Cluster, node, grace)
		}
	}
	scheduler.New(views).Register(mux)
	if o.Metrics != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(o.Metrics, promhttp.HandlerOpts{
			MaxRequestsInFlight: maxScrapes, ErrorLog: complaints(o.Log), ErrorHandling: promhttp.ContinueOnError,
		}))
	}
	return mux
}

func (g *Gateway) serve(life context.Context, l net.Listener, h http.Handler, local bool) {
	s := &http.Server{
		Handler:           http.MaxBytesHandler(h, maxBodyBytes),
		MaxHeaderBytes:    maxHeaderBytes,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
		ErrorLog:          complaints(g.options.Log),
		BaseContext:       func(net.Listener) context.Context { return life },
	}
	if local {
		s.ConnContext = rememberPeer
	}
	g.servers = append(g.servers, s)
	address := l.Addr().String()
	g.serving.Go(func() {
		if err := s.Serve(bound(l, maxConnections)); !errors.Is(err, http.ErrServerClosed) {
			g.options.Log.Error().Err(err).Str("address", address).Msg("the gateway serves this address no more")
		}
	})
}

// withWriteTimeout bounds how long a client may take to read each part of its answer.
func withWriteTimeout(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(&impatientWriter{w, http.NewResponseController(w)}, r)
	})
}

// impatientWriter gives every write writeTimeout, so that a followed log may be
// silent for as long as it likes but not its reader.
type impatientWriter struct {
	http.ResponseWriter
	controller *http.ResponseController
}

// Write implements http.ResponseWriter.
func (w *impatientWriter) Write(p []byte) (int, error) {
	_ = w.controller.SetWriteDeadline(time.Now().Add(writeTimeout))
	return w.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *impatientWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// jsonErrors answers unknown paths and methods as JSON, like every other error.
func jsonErrors(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		probe := statusOnly{header: w.Header()}
		h.ServeHTTP(&probe, r)
		message := "there is no route " + r.Method + " " + r.URL.Path + "; docs/http.md lists them"
		answer.Write(w, probe.status, answer.Error{Code: yr.ParamInvalid, Message: message})
	})
}

// statusOnly learns the status and headers of an answer and drops its body.
type statusOnly struct {
	header http.Header
	status int
}

// Header implements http.ResponseWriter.
func (s *statusOnly) Header() http.Header { return s.header }

// WriteHeader implements http.ResponseWriter.
func (s *statusOnly) WriteHeader(status int) { s.status = status }

// Write implements http.ResponseWriter.
func (s *statusOnly) Write(p []byte) (int, error) { return len(p), nil }

func registerProfiles(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
}

// complaints is where net/http says what clients did wrong.
func complaints(l zerolog.Logger) *log.Logger {
	return log.New(complaintWriter{l}, "", 0)
}

type complaintWriter struct{ log zerolog.Logger }

// Write implements io.Writer for one line of net/http's log.
func (c complaintWriter) Write(line []byte) (int, error) {
	c.log.Warn().Str("http", string(line)).Msg("a client misbehaved")
	return len(line), nil
}
