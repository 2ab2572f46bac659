// Package route decides where each call runs and when its objects are ready.
//
// It is the node's one state machine: sessions, jobs, calls, pools of workers,
// instances and the object table change only here, under one lock. A session's
// reader takes the lock once for a whole chunk of frames (see agent/session), so
// the lock costs little; in exchange there is no order of locks to get wrong, and
// every decision sees the whole node. Nothing that waits (disk, etcd, a process, a
// socket) happens under it: such work is started here and reports back.
package route

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"yr/agent/launch"
	"yr/pkg/yr"
	"yr/scheduler"
	"yr/store"
)

// The stated limits and times of the router. docs/limits.md repeats them.
const (
	// creditDriver and creditWorker are the unfinished calls that a session may
	// have. A worker needs few: what it waits for runs elsewhere.
	creditDriver = 32768
	creditWorker = 16384
	// inlineBudget is the total size of live inline puts of one session; past it
	// the SDK uses slabs, whose exhaustion is an error in the caller.
	inlineBudget = 64 << 20

	// window is how much estimated work a worker is sent ahead of the task that it
	// runs: enough to hide two socket wakes, too little to keep work from others.
	window = 2 * time.Millisecond
	// maxAhead bounds the tasks at one worker whatever they take.
	maxAhead = 1024
	// packing is the backlog below which waking a second worker is not worth it.
	packing = 300 * time.Microsecond
	// blockedPatience is how long a blocked worker's share must be free before a
	// new process is started for it; idle workers get it at once.
	blockedPatience = time.Millisecond
	// recallAfter is how long a task may keep others waiting behind it in a worker
	// before they are called back.
	recallAfter = 20 * time.Millisecond
	// startFailures is how many workers of a pool may die in a row before they
	// have connected, until its calls fail with the reason.
	startFailures = 3

	tickBusy = 10 * time.Millisecond
	tickIdle = 250 * time.Millisecond
)

// DefaultMaxWorkers bounds the worker processes of a node. Calls past it wait.
const DefaultMaxWorkers = 2000

// Launcher starts and ends worker processes. It never blocks; OnStarted and
// OnExit of its options are wired to Router.WorkerStarted and WorkerExited.
type Launcher interface {
	Start(launch.Spec)
	Kill(worker yr.ID)
	Warm(language, interpreter string, env map[string]string)
}

// Registry keeps the names of named instances, unique in a cluster. Its methods
// may block; the router calls them outside its lock.
type Registry interface {
	// Claim creates the record if the name is free, else returns the existing one.
	Claim(ctx context.Context, tenant yr.Tenant, namespace, name string, record []byte) (existing []byte, claimed bool, err error)
	Find(ctx context.Context, tenant yr.Tenant, namespace, name string) (record []byte, ok bool, err error)
	// Drop removes the record if it is still this one.
	Drop(ctx context.Context, tenant yr.Tenant, namespace, name string, record []byte) error
}

// Options configure a Router. All fields but Cluster, Tag, MaxWorkers, Devices and Now are needed.
type Options struct {
	Node       yr.Node
	NodeIP     string
	Version    string
	LogDir     string
	Resources  yr.Resources // what this node offers
	Labels     map[string][]string
	Devices    map[string][]int // accelerators by resource name, "GPU/<model>/count" -> card ids
	Store      *store.Store
	Disk       *store.Disk // for objects that memory has no room for; nil: none
	Launcher   Launcher
	Registry   Registry
	Keeper     Keeper              // nil: nothing outlives its home
	Cluster    Cluster             // nil: there are no other nodes, and never will be
	Tag        yr.Tag              // of this node, in the IDs that are made here
	Sign       func(string) string // proves that this node said it, across restarts
	Log        zerolog.Logger
	Remember   func(yr.Node) // marks that this node has to do with another one, for a restart; must not block, may be nil
	Grace      time.Duration // for shutdown hooks that name no time of their own
	MaxWorkers int           // 0: DefaultMaxWorkers
	Now        func() time.Time
}

// Router is the state machine. New, Open, Close; everything else in between.
type Router struct {
	opt Options

	mu        sync.Mutex
	now       time.Time // of the current turn
	sessions  map[yr.Prefix]*Session
	jobs      map[yr.Job]*job
	calls     map[yr.ID]*call
	names     *store.Names[waiter]
	functions uint32 // last number given to a function
	pools     map[poolKey]*pool
	workers   map[yr.ID]*worker
	instances map[yr.ID]*instance
	creating  []*instance // wait for resources, in order
	node      scheduler.Node
	free      yr.Resources // node.Available
	leaving   yr.Resources // of pool workers that are being ended
	named     map[nameKey]*instance
	registry  registryQueue
	deadlines deadlines
	outgoing  []byte     // scratch: a frame for a link
	dirty     []*Session // have frames queued in this turn
	hungry    bool       // resources or a worker became free: look at what waits
	recovery  *recovery  // after a restart, until sessions are back
	closing   bool
	isolated  bool      // the leader does not hear of this node
	ended     graveyard // why things ended, for `yr why`

	neighbours map[yr.Node]*neighbour
	tagged     map[yr.Tag]*neighbour
	foreigners map[yr.ID]*instance    // stand-ins for instances of other nodes
	loans      map[yr.ID]*loan        // references that this node has at others
	spread     map[yr.ID][]*neighbour // who may have copies of objects here
	bringing   map[yr.ID]bool         // transfers under way
	lending    lending
	spill      spill
	applicants []applicant
	taken      []yr.ID               // workers hired here, for the leader to know
	cache      *store.Holder[waiter] // keeps copies of other nodes' objects

	counters struct {
		calls, retries, failures, puts, workersStarted, workersLost, brought atomic.Uint64
	}

	cancel context.CancelFunc
	wg     sync.WaitGroup
	ctx    context.Context //nolint:containedctx // the life of background registry calls
	wake   chan struct{}
}

// New returns a router that does nothing until Open.
func New(opt Options) *Router {
	if opt.MaxWorkers == 0 {
		opt.MaxWorkers = DefaultMaxWorkers
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	r := &Router{
		opt:       opt,
		sessions:  make(map[yr.Prefix]*Session),
		jobs:      make(map[yr.Job]*job),
		calls:     make(map[yr.ID]*call),
		pools:     make(map[poolKey]*pool),
		workers:   make(map[yr.ID]*worker),
		instances: make(map[yr.ID]*instance),
		node:      nodeOf(&opt),
		leaving:   yr.Resources{},
		named:     make(map[nameKey]*instance),
		wake:      make(chan struct{}, 1),
	}
	r.free = r.node.Available
	r.neighbours = make(map[yr.Node]*neighbour)
	r.tagged = make(map[yr.Tag]*neighbour)
	r.foreigners = make(map[yr.ID]*instance)
	r.loans = make(map[yr.ID]*loan)
	r.spread = make(map[yr.ID][]*neighbour)
	r.bringing = make(map[yr.ID]bool)
	r.spill.init()
	r.lending.open = make(map[uint64]bool)
	r.names = store.NewNames(r.freed)
	r.cache = r.names.Join(yr.NewID(), "")
	r.deadlines.init()
	return r
}

// Open starts the clock.
func (r *Router) Open(context.Context) error {
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.openSpill()
	r.registry.open()
	r.wg.Add(2)
	go r.run()
	go r.runRegistry()
	return nil
}

// Close ends every job, gives workers a moment for their shutdown hooks and
// returns when the router is at rest. The launcher kills what is left.
func (r *Router) Close(ctx context.Context) error {
	r.turn(func() {
		r.closing = true
		for _, j := range r.jobs {
			r.endJob(j, "the node is shutting down")
		}
		for _, in := range r.instances {
			r.endInstance(in, yr.StateExited, yr.E("shutdown", yr.InstanceExited, "the node is shutting down"))
		}
		for _, w := range r.workers {
			if w.guest != nil {
				r.endWorker(w, "the node is shutting down")
			}
		}
	})
	r.awaitWorkers(ctx)
	r.turn(func() {
		for _, s := range r.sessions {
			s.reject(yr.E("session", yr.Communication, "the node is shutting down"))
		}
	})
	r.registry.close(ctx)
	r.cancel()
	r.wg.Wait()
	return nil
}

// awaitWorkers waits until every worker is gone or ctx ends.
func (r *Router) awaitWorkers(ctx context.Context) {
	t := time.NewTicker(5 * time.Millisecond)
	defer t.Stop()
	for {
		r.mu.Lock()
		n := len(r.workers)
		r.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// turn runs f under the lock, then does what follows from it: work for idle
// workers, and writes to every session that was sent something.
func (r *Router) turn(f func()) {
	r.mu.Lock()
	r.now = r.opt.Now()
	f()
	r.feed()
	dirty := r.dirty
	r.dirty = nil
	for _, s := range dirty {
		s.seal()
	}
	r.mu.Unlock()
	for _, s := range dirty {
		s.conn.Flush()
	}
}

// feed gives freed capacity to what waits for it.
func (r *Router) feed() {
	for range 4 { // feeding can free more (an idle worker ended); bounded all the same
		if !r.hungry {
			return
		}
		r.hungry = false
		r.placeInstances()
		r.serveApplicants()
		for _, p := range r.pools {
			p.stalled = false
			if p.queue.len() > 0 {
				r.dispatch(p)
			}
		}
	}
}

// run is the clock: deadlines, idle workers, recalls.
func (r *Router) run() {
	defer r.wg.Done()
	t := time.NewTimer(tickIdle)
	defer t.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-r.opt.Store.Short():
			r.turn(r.reclaim)
		case <-r.wake:
		case <-t.C:
		}
		var next time.Duration
		r.turn(func() { next = r.tick() })
		t.Reset(next)
	}
}

// tick does what time alone brings about and says when to come back.
func (r *Router) tick() time.Duration {
	r.expire()
	r.recover()
	if r.isolated {
		r.endCutOff()
	}
	next := tickIdle
	if len(r.applicants) > 0 {
		r.serveApplicants()
	}
	if len(r.creating) > 0 || len(r.applicants) > 0 || r.recovery != nil || !r.deadlines.empty() {
		next = tickBusy
	}
	for _, w := range r.workers {
		next = min(next, r.tickWorker(w))
	}
	for _, p := range r.pools {
		if p.queue.len() > 0 {
			next = min(next, tickBusy)
			p.stalled = false
			r.dispatch(p)
		}
	}
	r.tickInstances()
	return min(next, r.tickSpill())
}

// soon makes the clock tick without delay, for work that begins in an idle time.
func (r *Router) soon() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}
