// Package agent is a node's daemon as SDKs see it: it accepts their sessions,
// checks who they are, and hands them to the router.
//
// The work is in three packages: agent/session moves bytes, agent/route decides,
// agent/launch starts processes. DESIGN.md tells why they are cut this way.
package agent

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"yr/agent/launch"
	"yr/agent/route"
	"yr/agent/session"
	"yr/master/client"
	"yr/pkg/durable"
	"yr/pkg/peer"
	"yr/pkg/wire"
	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
	"yr/store"
)

const (
	// DefaultHelloTimeout is how long a connection may take to say who it is.
	DefaultHelloTimeout = 10 * time.Second
	// DefaultMaxSessions bounds the sessions of a node; one more is refused with a reason.
	DefaultMaxSessions = 10_000
	// DefaultGrace is the time of shutdown hooks that name none.
	DefaultGrace = 30 * time.Second
)

// Options configure an Agent.
type Options struct {
	Node      yr.Node
	NodeIP    string
	Address   string // host:port where others reach this node
	Version   string
	Token     string // of the cluster; signs session tokens
	LogDir    string // logs of workers
	RunDir    string // files about live sessions, for a restart
	Master    bool
	Listener  *net.UnixListener
	Store     *store.Store
	Registry  route.Registry
	Client    *client.Client // of the leader; opened. nil, with Peers: there are no other nodes
	Peers     *peer.Peers
	Records   durable.Store // for what outlives this node; nil: nothing does
	Resources yr.Resources
	Labels    map[string][]string
	Devices   map[string][]int
	Disk      *store.Disk      // opened; for objects that memory has no room for; nil: they stay
	Restarted bool             // a daemon of this node crashed and this one takes over
	Launcher  *launch.Launcher // opened; its OnStarted and OnExit call WorkerStarted and WorkerExited
	Log       zerolog.Logger

	Grace        time.Duration // 0: DefaultGrace
	HelloTimeout time.Duration // 0: DefaultHelloTimeout
	MaxSessions  int           // 0: DefaultMaxSessions
}

// Agent serves sessions. New, Open, Close.
type Agent struct {
	opt      Options
	router   *route.Router
	sessions sessionFiles
	started  time.Time
	end      context.CancelFunc // of what Open began in the background; nil: nothing

	mu     sync.Mutex
	conns  map[*session.Conn]struct{}
	closed bool
	wg     sync.WaitGroup
}

// New returns an agent that does nothing until Open.
func New(opt Options) *Agent {
	if opt.Grace == 0 {
		opt.Grace = DefaultGrace
	}
	if opt.HelloTimeout == 0 {
		opt.HelloTimeout = DefaultHelloTimeout
	}
	if opt.MaxSessions == 0 {
		opt.MaxSessions = DefaultMaxSessions
	}
	a := &Agent{opt: opt, conns: make(map[*session.Conn]struct{})}
	var cluster route.Cluster
	var tag yr.Tag
	if opt.Client != nil {
		cluster = &others{own: opt.Node, client: opt.Client, peers: opt.Peers}
		tag = opt.Client.Tag()
	}
	var kept route.Keeper
	if opt.Records != nil {
		kept = keeper{opt.Records}
	}
	a.router = route.New(route.Options{
		Keeper:  kept,
		Cluster: cluster, Tag: tag, Node: opt.Node, NodeIP: opt.NodeIP, Version: opt.Version, LogDir: opt.LogDir,
		Resources: opt.Resources, Labels: opt.Labels, Devices: opt.Devices,
		Store: opt.Store, Disk: opt.Disk, Launcher: opt.Launcher, Registry: opt.Registry, Sign: a.sign,
		Remember: func(node yr.Node) { a.sessions.remember(node) },
		Log:      opt.Log, Grace: opt.Grace,
	})
	return a
}

// Open starts accepting sessions. After a crash it first finds out who survived.
func (a *Agent) Open(ctx context.Context) error {
	a.started = time.Now()
	if err := a.sessions.open(a.opt.RunDir); err != nil {
		return err
	}
	survivors := a.opt.Launcher.Survivors()
	if a.opt.Restarted {
		for _, s := range survivors {
			if err := a.opt.Launcher.Adopt(s.Worker, s.PID); err != nil {
				a.opt.Log.Warn().Err(err).Stringer("worker", s.Worker).Msg("a worker of before the restart could not be adopted")
			}
		}
		a.router.Recover(survivors, a.sessions.alive(), a.sessions.nodes())
	}
	if err := a.router.Open(ctx); err != nil {
		return err
	}
	a.wg.Add(1)
	go a.accept()
	if a.opt.Records != nil && !a.opt.Restarted {
		life, end := context.WithCancel(context.Background())
		a.end = end
		a.wg.Go(func() { a.reviveOwn(life) })
	}
	return nil
}

// Close ends all sessions and workers. ctx bounds the time for shutdown hooks.
func (a *Agent) Close(ctx context.Context) error {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	if a.end != nil {
		a.end()
	}
	_ = a.opt.Listener.SetDeadline(time.Now()) // the socket itself belongs to the parent
	err := a.router.Close(ctx)
	a.mu.Lock()
	for c := range a.conns {
		c.Last(nil) // why it ends may still be on its way
	}
	a.mu.Unlock()
	a.wg.Wait()
	a.sessions.close()
	return err
}

// WorkerStarted and WorkerExited are what the launcher tells.
func (a *Agent) WorkerStarted(worker yr.ID, pid int, err error) {
	a.router.WorkerStarted(worker, pid, err)
}

// WorkerExited is documented at WorkerStarted.
func (a *Agent) WorkerExited(e launch.Exit) { a.router.WorkerExited(e) }

// sign proves that a text comes from this node; the proof outlives the daemon.
func (a *Agent) sign(text string) string {
	m := hmac.New(sha256.New, []byte(a.opt.Token))
	m.Write([]byte(text))
	return hex.EncodeToString(m.Sum(nil)[:16])
}

func (a *Agent) accept() {
	defer a.wg.Done()
	for {
		nc, err := a.opt.Listener.AcceptUnix()
		if err != nil {
			a.mu.Lock()
			closed := a.closed
			a.mu.Unlock()
			if closed || errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of descriptors, most likely: let some go before trying again.
			a.opt.Log.Warn().Err(err).Msg("a session could not be accepted")
			time.Sleep(50 * time.Millisecond)
			continue
		}
		c, err := session.New(nc)
		if err != nil {
			_ = nc.Close()
			continue
		}
		a.mu.Lock()
		if a.closed {
			a.mu.Unlock()
			c.Close()
			return
		}
		a.conns[c] = struct{}{}
		full := len(a.conns) > a.opt.MaxSessions
		a.mu.Unlock()
		a.wg.Go(func() {
			_ = nc.SetReadDeadline(time.Now().Add(a.opt.HelloTimeout))
			a.serve(c, full, func() { _ = nc.SetReadDeadline(time.Time{}) })
			c.Wait()
			a.mu.Lock()
			delete(a.conns, c)
			a.mu.Unlock()
		})
	}
}

// refuse tells the peer why, and closes.
func (a *Agent) refuse(c *session.Conn, err error) {
	a.opt.Log.Debug().Err(err).Msg("session refused")
	c.Last(wire.AppendMessage(nil, wire.Reject, 0, wire.StatusOf(err)))
}

// serve takes one connection from its first frame to its end. A node that is full
// reads that frame too: a peer that is cut off while it writes would miss the reason.
func (a *Agent) serve(c *session.Conn, full bool, opened func()) {
	h, body, fd, err := c.ReadFirst()
	if err != nil {
		closeFD(fd)
		if yr.CodeOf(err) == yr.FrameMalformed {
			a.refuse(c, err)
			return
		}
		c.Close()
		return
	}
	pid, err := a.admit(c)
	if err == nil && full {
		err = yr.E("session", yr.RateLimited, "this node serves %d sessions, the most it may; close some", a.opt.MaxSessions)
	}
	if err != nil {
		closeFD(fd)
		a.refuse(c, err)
		return
	}
	if h.Type == wire.Map {
		closeFD(fd)
		a.mapSegment(c, body)
		return
	}
	if h.Type != wire.Hello {
		closeFD(fd)
		a.refuse(c, yr.E("session", yr.FrameMalformed, "the first frame is of type %d; a session opens with HELLO", h.Type))
		return
	}
	version, hello, err := wire.DecodeHello(body)
	if err == nil {
		err = a.authorize(hello)
	}
	if err != nil {
		closeFD(fd)
		a.refuse(c, err)
		return
	}
	opened()
	s, err := a.router.Join(route.Peer{Conn: c, Version: version, PID: pid, Page: fd}, hello)
	if err != nil {
		a.refuse(c, err)
		return
	}
	var forget func()
	if role := yr.Role(hello.GetRole()); role != yr.RoleWorker { //nolint:gosec // Join checked it
		forget = a.watch(s, pid)
	}
	err = c.Serve(s)
	if forget != nil {
		forget()
	}
	if err != nil && yr.CodeOf(err) == yr.FrameMalformed {
		a.refuse(c, err)
	}
	a.router.Leave(s, err)
}

// admit lets in processes of the daemon's own user, and root.
func (a *Agent) admit(c *session.Conn) (pid int, err error) {
	pid, uid, err := c.Peer()
	if err != nil {
		return 0, yr.Wrap("session", yr.Unauthorized, err)
	}
	if own := uint32(os.Getuid()); uid != own && uid != 0 { //nolint:gosec // user ids fit
		return 0, yr.E("session", yr.Unauthorized, "user %d may not use a node of user %d; run the program as that user", uid, own)
	}
	return pid, nil
}

// authorize checks a cluster token, if one was given: the kernel has vouched for
// the user already, but a wrong token means the wrong cluster.
func (a *Agent) authorize(h *wirepb.Hello) error {
	if h.GetRole() == uint32(yr.RoleWorker) || h.GetToken() == "" {
		return nil
	}
	if subtle.ConstantTimeCompare([]byte(h.GetToken()), []byte(a.opt.Token)) != 1 {
		return yr.E("hello", yr.Unauthorized, "the token is not this cluster's; `yr start --master` printed it, and the file `token` in the data directory holds it")
	}
	return nil
}

// mapSegment answers a MAP frame with a descriptor.
func (a *Agent) mapSegment(c *session.Conn, body []byte) {
	defer c.Close()
	m := &wirepb.MapRequest{}
	err := wire.DecodeMessage(wire.Map, body, m)
	var f *os.File
	if err == nil {
		f, err = a.router.MapSegment(m)
	}
	answer := wire.AppendMessage(nil, wire.Mapped, 0, wire.StatusOf(err))
	if err != nil {
		c.Last(answer)
		return
	}
	defer f.Close()
	if err := c.SendDescriptor(answer, int(f.Fd())); err != nil {
		a.opt.Log.Debug().Err(err).Msg("a segment's descriptor was not taken")
	}
}
