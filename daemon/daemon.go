// Package daemon wires a node together: which parts there are, in what order
// they open and close, and how they know of each other. Nothing is decided here.
//
// Reading Open from top to bottom shows the whole machine.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"yr/agent"
	"yr/agent/launch"
	"yr/master/client"
	"yr/pkg/devices"
	"yr/pkg/durable"
	"yr/pkg/gateway"
	"yr/pkg/gateway/api"
	"yr/pkg/peer"
	"yr/pkg/session"
	"yr/pkg/supervise"
	"yr/pkg/telemetry"
	"yr/pkg/yr"
	python "yr/sdk/python"
	"yr/store"
)

// Options say what to be and who watches.
type Options struct {
	Plan  *session.Plan
	Child *supervise.Child
}

// Daemon is one node. Its parts are set by Open and closed in reverse order.
type Daemon struct {
	plan  *session.Plan
	child *supervise.Child
	born  time.Time

	warnings []string
	timing   []session.Step
	closers  []closer // of what is open, oldest first

	peers     *peer.Peers
	masters   *masters // nil: this node is none
	client    *client.Client
	records   *durable.Client
	agent     *agent.Agent
	agentOpen chan struct{} // closed when agent is there
	file      *session.File

	failOnce sync.Once
	failed   chan struct{} // closed when a part gave up for good
	failure  error         // why; written before

	running sync.WaitGroup
	done    chan struct{} // closed by shut
	once    sync.Once
}

type closer struct {
	name  string
	close func(context.Context) error
}

// New makes a daemon that has opened nothing.
func New(o Options) *Daemon {
	return &Daemon{plan: o.Plan, child: o.Child, born: time.Now(), done: make(chan struct{}), agentOpen: make(chan struct{}), failed: make(chan struct{})}
}

// Open opens every part. On error, and on ctx's end, what was opened stays for shut.
func (d *Daemon) Open(ctx context.Context) error {
	p, s := d.plan, &d.plan.Settings
	d.step("daemon process")

	logs := telemetry.NewLogs(telemetry.LogOptions{
		Dir: p.Dir.Logs(), Node: s.NodeID, Level: s.LogLevel,
		MaxSizeMiB: s.Log.MaxSizeMB, MaxFiles: s.Log.MaxFiles, MaxAgeDays: s.Log.MaxDays,
		Compress: s.Log.Compress, Stderr: s.Log.Stderr,
	})
	if err := d.open(ctx, "logs", logs); err != nil {
		return err
	}

	// Sockets first: whoever connects while the rest opens waits in the backlog.
	if err := p.Dir.MakeSocketDir(); err != nil {
		return err
	}
	sockets, err := d.listen()
	if err != nil {
		return err
	}
	d.step("sockets")
	if err := d.openPeers(ctx, logs); err != nil {
		return err
	}
	sockets.split(d.peers)

	// The launcher next: a template takes longer to warm than all the rest to open.
	sdk, err := python.Extract(filepath.Join(s.DataDir, "sdk"))
	if err != nil {
		return yr.Wrap("unpack the Python SDK", yr.DiskFailed, err)
	}
	launcher := launch.New(launch.Options{
		Socket: p.Dir.Socket(), SDKDir: sdk, LogDir: p.Dir.Logs(), RunDir: p.Dir.Workers(),
		Env: workerEnv(os.Environ(), s), Log: logs.For("function_agent"),
		OnStarted: func(worker yr.ID, pid int, err error) { d.agent.WorkerStarted(worker, pid, err) },
		OnExit:    func(e launch.Exit) { d.agent.WorkerExited(e) },
	})
	if err := d.open(ctx, "launcher", launcher); err != nil {
		return err
	}
	if program := os.Getenv("YR_PYTHON"); program != "" { // said to be used, so there is no doubt what to warm
		launcher.Warm("python", program, nil)
	}
	d.step("launcher")

	// The cluster: the masters' registry and records, then this node's place in it.
	cards := d.findDevices(ctx)
	if p.Master {
		if err := d.openMaster(ctx, logs); err != nil {
			return err
		}
	}
	if err := d.join(ctx, logs); err != nil {
		return err
	}
	d.step("cluster")

	// Shared memory; after a crash the parent still holds every segment.
	if s.StoreCapacity == 0 {
		s.StoreCapacity = store.DefaultCapacity(uint64(s.Resources[yr.Memory].Float()))
	}
	objects := store.New(store.Options{
		Capacity: s.StoreCapacity, Keep: d.child.Keep, Drop: d.drop, Log: logs.For("ds_worker"),
	})
	if err := d.open(ctx, "store", objects); err != nil {
		return err
	}
	if err := d.adopt(objects); err != nil {
		return err
	}
	disk, err := d.openSpill(ctx, logs)
	if err != nil {
		return err
	}
	d.step("store")

	// The agent: sessions, calls, workers.
	d.agent = agent.New(agent.Options{
		Node: s.NodeID, NodeIP: s.LocalIP, Address: address(s.HostIP, s.Ports.Bus), Version: p.Version, Token: s.Token, Master: p.Master,
		LogDir: p.Dir.Logs(), RunDir: p.Dir.Run(), Listener: sockets.sessions,
		Store: objects, Disk: disk, Registry: d.client.Names(), Launcher: launcher,
		Client: d.client, Peers: d.peers, Records: d.records,
		Resources: s.Resources, Labels: s.Labels, Devices: cards,
		Grace: s.Grace, Restarted: d.child.Restarts() > 0,
		Log: logs.For("function_proxy"),
	})
	if err := d.open(ctx, "agent", d.agent); err != nil {
		return err
	}
	close(d.agentOpen)
	d.peers.Renew(d.client.Incarnation()) // from here on links may bring work
	d.client.Kick()
	d.step("agent")

	// The front doors.
	front := gateway.New(gateway.Options{
		Source: d.agent, Cluster: commands{d}, Unix: sockets.api, TCP: sockets.tcp(),
		Token: s.Token, TokenFile: filepath.Join(s.DataDir, "token"), Insecure: s.Insecure,
		Endpoint:  api.Endpoint{Socket: p.Dir.Socket(), Node: s.NodeID, Version: p.Version, BootID: bootID()},
		LogDir:    p.Dir.Logs(),
		WorkerDir: p.Dir.Workers(),
		Peers:     d.peers.Listen("http"),
		Dial: func(ctx context.Context, address string) (net.Conn, error) {
			return d.peers.Dial(ctx, address, "http")
		},
		Config:        func() any { return publicConfig(p.Dir.Config()) },
		MasterAddress: masterAddress(p),
		Metrics:       telemetry.NewMetrics(d.agent),
		Log:           logs.For("frontend"),
	})
	if err := d.open(ctx, "gateway", front); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return d.announce()
}

// findDevices adds the machine's accelerators to what this node offers.
func (d *Daemon) findDevices(ctx context.Context) devices.Cards {
	s := &d.plan.Settings
	cards, err := devices.Find(ctx, devices.Local(), devices.Options{GPUs: s.GPUs, NPUs: s.NPUs})
	if err != nil {
		d.warn("%v", err)
	}
	s.Resources.Add(cards.Resources())
	return cards
}

// adopt gives the store the segments that a crashed daemon left with the parent.
func (d *Daemon) adopt(objects *store.Store) error {
	for _, name := range d.child.Names() {
		if !strings.HasPrefix(name, "seg-") {
			continue
		}
		f, ok := d.child.File(name)
		if !ok {
			continue
		}
		if err := objects.Adopt(name, f); err != nil {
			logf("segment %s is given up: %v", name, err)
			d.drop(name)
		}
	}
	return nil
}

// drop lets the parent forget a segment. If it cannot be told it has died, and
// this daemon is about to end.
func (d *Daemon) drop(name string) { _ = d.child.Drop(name) }

// listeners are the sockets of a node.
type listeners struct {
	sessions *net.UnixListener // SDKs
	api      net.Listener      // the yr commands
	master   net.Listener      // views of the cluster over HTTP
	bus      net.Listener      // where an SDK that knows only an address begins
}

// split takes what other nodes say out of what comes over TCP; HTTP is left.
func (l *listeners) split(peers *peer.Peers) {
	l.bus = peers.Split(l.bus)
	if l.master != nil {
		l.master = peers.Split(l.master)
	}
}

func (l listeners) tcp() []net.Listener {
	if l.master == nil {
		return []net.Listener{l.bus}
	}
	return []net.Listener{l.bus, l.master}
}

func (d *Daemon) listen() (l listeners, err error) {
	p, ports := d.plan, &d.plan.Settings.Ports
	sessions, err := d.listenUnix("sessions", p.Dir.Socket())
	if err != nil {
		return l, err
	}
	l.sessions = sessions.(*net.UnixListener)
	if l.api, err = d.listenUnix("api", p.Dir.APISocket()); err != nil {
		return l, err
	}
	if l.bus, err = d.listenTCP(port{"bus", "values.function_proxy.grpc_listen_port", &ports.Bus}); err != nil {
		return l, err
	}
	if p.Master {
		l.master, err = d.listenTCP(port{"master", "values.function_master.global_scheduler_port", &ports.Master})
	}
	return l, err
}

// announce tells the world where this node is: session.json, the master info
// line, the link to the newest session.
func (d *Daemon) announce() error {
	p := d.plan
	d.file = describe(p, d.child.Restarts(), d.born)
	if err := session.WriteAtomic(filepath.Join(p.Dir.Prefix, session.MasterInfo), []byte(d.file.MasterInfo), 0o644); err != nil {
		return err
	}
	if err := p.Dir.Link(p.Settings.NodeID); err != nil {
		return err
	}
	d.step("ready")
	return d.file.Write()
}

// shut closes everything, oldest last, ends every descendant, and removes what
// must not outlive the daemon.
func (d *Daemon) shut() (err error) {
	d.once.Do(func() {
		close(d.done)
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		for i := len(d.closers) - 1; i >= 0; i-- {
			c := d.closers[i]
			if cerr := c.close(ctx); cerr != nil {
				err = errors.Join(err, yr.Wrap("close "+c.name, yr.Internal, cerr))
			}
		}
		d.running.Wait()
		supervise.EndDescendants(closeTimeout)
		file := d.file
		if file == nil {
			file = describe(d.plan, d.child.Restarts(), d.born)
		}
		d.plan.Dir.Clean(file)
		if d.plan.Temporary && d.file != nil {
			d.plan.Dir.Remove() // a start that failed leaves its logs
		}
	})
	return err
}

// Failed is closed when a part of the daemon can go on no longer.
func (d *Daemon) Failed() <-chan struct{} { return d.failed }

// Err is why.
func (d *Daemon) Err() error { return d.failure }

// fail says that the daemon cannot go on; the first reason counts.
func (d *Daemon) fail(cause error) {
	d.failOnce.Do(func() {
		d.failure = cause
		close(d.failed)
	})
}

// A component has the life that every part has.
type component interface {
	Open(context.Context) error
	Close(context.Context) error
}

// open opens a part, which is closed by shut even if opening failed half-way.
func (d *Daemon) open(ctx context.Context, name string, c component) error {
	d.closers = append(d.closers, closer{name, c.Close})
	return c.Open(ctx)
}

func (d *Daemon) step(name string) {
	d.timing = append(d.timing, session.Step{Name: name, At: time.Since(d.plan.Begun)})
}

func (d *Daemon) warn(format string, args ...any) {
	w := fmt.Sprintf(format, args...)
	d.warnings = append(d.warnings, w)
	logf("warning: %s", w)
}
