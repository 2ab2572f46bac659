package api

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"yr/pkg/gateway/answer"
	"yr/pkg/yr"
)

// Cluster is what a node of several can be asked to do. Every method may be
// called by many at once, and returns when ctx ends.
type Cluster interface {
	// Nodes lists all nodes; those that were lost lately too. The leader among the
	// masters is marked.
	Nodes(ctx context.Context) ([]yr.NodeView, error)
	// SetCordoned stops or resumes placing new work on a node. What runs there goes on.
	SetCordoned(ctx context.Context, node yr.Node, cordoned bool) error
	// Drain cordons a node and waits until nothing runs there. After timeout it
	// returns DeadlineExceeded; the node then stays cordoned.
	Drain(ctx context.Context, node yr.Node, timeout time.Duration) error
	// Evict cordons a node and ends what runs there, or moves what can be recovered.
	Evict(ctx context.Context, node yr.Node) error
	// Leave says goodbye for this node, so that nobody waits for it to be missed.
	Leave(ctx context.Context) error

	// The rest is called on the leader only.

	// Masters lists the masters. One is added by starting it.
	Masters(ctx context.Context) ([]MasterView, error)
	// RemoveMaster takes a master's vote away, whether it lives or not.
	RemoveMaster(ctx context.Context, node yr.Node) error
	// Backup writes the durable state of the cluster.
	Backup(ctx context.Context, w io.Writer) error
}

// MasterView shows a master.
type MasterView struct {
	Node    yr.Node `json:"node"`
	Address string  `json:"address"`
	Leader  bool    `json:"leader"`
	State   string  `json:"state"`            // "ready", "joining", "lost"
	Reason  string  `json:"reason,omitempty"` // of a state other than ready
}

// The times that a caller may choose for draining and evicting.
const (
	DefaultDrain = 10 * time.Minute
	DefaultGrace = 30 * time.Second
	MaxDrain     = 24 * time.Hour
)

func (a *API) registerCluster(mux *http.ServeMux) {
	mux.HandleFunc("POST /yr/v1/nodes/{node}/cordon", a.cordon(true))
	mux.HandleFunc("DELETE /yr/v1/nodes/{node}/cordon", a.cordon(false))
	mux.HandleFunc("POST /yr/v1/nodes/{node}/drain", a.several(a.drain))
	mux.HandleFunc("POST /yr/v1/nodes/{node}/evict", a.several(a.evict))
	mux.HandleFunc("POST /yr/v1/leave", a.several(a.leave))
	mux.HandleFunc("GET /yr/v1/masters", a.atLeader(a.masters))
	mux.HandleFunc("DELETE /yr/v1/masters/{node}", a.atLeader(a.removeMaster))
	mux.HandleFunc("GET /yr/v1/backup", a.atLeader(a.backup))
}

// several answers 501 where this node is alone.
func (a *API) several(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if a.options.Cluster == nil {
			answer.NotOffered(w, "this node is a cluster of its own, which has no other nodes")
			return
		}
		next(w, r)
	}
}

// atLeader passes a request on to the leader, unless this node is the leader.
// ?local=1 marks one that was passed on; it goes no further.
func (a *API) atLeader(next http.HandlerFunc) http.HandlerFunc {
	return a.several(func(w http.ResponseWriter, r *http.Request) {
		local, err := answer.Flag(r.URL.Query(), "local")
		if err != nil {
			answer.Fail(w, err)
			return
		}
		if local {
			next(w, r)
			return
		}
		nodes, err := a.options.Cluster.Nodes(r.Context())
		if err != nil {
			answer.Fail(w, err)
			return
		}
		at := slices.IndexFunc(nodes, func(n yr.NodeView) bool { return n.Leader })
		switch {
		case at < 0:
			answer.Fail(w, yr.E("find the leader", yr.Communication, "the masters have no leader at the moment; ask again in a few seconds"))
		case nodes[at].ID == a.self():
			next(w, r)
		default:
			a.pass(w, r, nodes[at])
		}
	})
}

// pass puts the same request to another node and passes its answer on.
func (a *API) pass(w http.ResponseWriter, r *http.Request, n yr.NodeView) {
	query := r.URL.Query()
	query.Set("local", "1")
	resp, err := a.options.Fan.At(n).Stream(r.Context(), r.Method, r.URL.EscapedPath(), query)
	if err != nil {
		answer.Fail(w, err)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
	if _, err := io.Copy(flushing{w, http.NewResponseController(w)}, resp.Body); err != nil {
		panic(http.ErrAbortHandler) // the status is sent
	}
}

func (a *API) cordon(cordoned bool) http.HandlerFunc {
	return a.several(func(w http.ResponseWriter, r *http.Request) {
		node := yr.Node(r.PathValue("node"))
		if err := a.options.Cluster.SetCordoned(r.Context(), node, cordoned); err != nil {
			answer.Fail(w, err)
			return
		}
		answer.JSON(w, struct {
			Node     yr.Node `json:"node"`
			Cordoned bool    `json:"cordoned"`
		}{node, cordoned})
	})
}

func (a *API) leave(w http.ResponseWriter, r *http.Request) {
	a.done(w, a.options.Cluster.Leave(r.Context()))
}

func (a *API) masters(w http.ResponseWriter, r *http.Request) {
	masters, err := a.options.Cluster.Masters(r.Context())
	if err != nil {
		answer.Fail(w, err)
		return
	}
	page(w, r, masters)
}

func (a *API) removeMaster(w http.ResponseWriter, r *http.Request) {
	a.done(w, a.options.Cluster.RemoveMaster(r.Context(), yr.Node(r.PathValue("node"))))
}

func (a *API) done(w http.ResponseWriter, err error) {
	if err != nil {
		answer.Fail(w, err)
		return
	}
	answer.JSON(w, map[string]bool{"done": true})
}

// backup streams the backup. One that could not be written to its end breaks off.
func (a *API) backup(w http.ResponseWriter, r *http.Request) {
	out := &lateHeader{w: w}
	err := a.options.Cluster.Backup(r.Context(), out)
	switch {
	case err == nil:
		out.begin()
	case !out.begun:
		answer.Fail(w, err)
	default:
		a.options.Log.Warn().Err(err).Msg("a backup could not be written to its end")
		panic(http.ErrAbortHandler)
	}
}

// lateHeader says that a backup follows only when one does, so that an error can
// still be told before.
type lateHeader struct {
	w     http.ResponseWriter
	begun bool
}

func (l *lateHeader) begin() {
	if !l.begun {
		l.begun = true
		l.w.Header().Set("Content-Type", "application/octet-stream")
		l.w.WriteHeader(http.StatusOK)
	}
}

// Write implements io.Writer.
func (l *lateHeader) Write(p []byte) (int, error) {
	l.begin()
	return l.w.Write(p)
}

// wait reads a duration parameter: "90s", or a number of seconds.
func wait(query url.Values, name string, otherwise time.Duration) (time.Duration, error) {
	text := strings.TrimSpace(query.Get(name))
	if text == "" {
		return otherwise, nil
	}
	d, err := time.ParseDuration(text)
	if seconds, serr := strconv.ParseFloat(text, 64); serr == nil {
		d, err = time.Duration(seconds*float64(time.Second)), nil
	}
	if err != nil || d < 0 || d > MaxDrain {
		return 0, yr.E("request", yr.ParamInvalid, "?%s=%.40q is not a time from 0s to %v, such as 90s", name, text, MaxDrain)
	}
	return d, nil
}
