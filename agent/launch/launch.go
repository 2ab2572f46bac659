// Package launch turns "I need a worker" into a process.
//
// Python workers are forked from a template: a warm, single-threaded interpreter
// that has imported the SDK and no user code, one for each (interpreter,
// exec-time environment). DESIGN.md tells why each worker is nevertheless a
// child of the daemon, and why its exit status is exact.
package launch

import (
	"context"
	"errors"
	"maps"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"yr/pkg/yr"
)

// Time limits. A template imports the SDK, which on a cold disk takes seconds;
// a fork takes milliseconds, so ten seconds mean that it hangs.
const (
	startTimeout = 30 * time.Second
	forkTimeout  = 10 * time.Second

	startTries   = 3                      // of an interpreter that a signal kills while it starts
	preloadTime  = 5 * time.Second        // an interpreter that dies sooner may have died of what it preloaded
	firstBackoff = 100 * time.Millisecond // between two tries to start a template
	lastBackoff  = 10 * time.Second

	idleTemplate = 2 * time.Minute // a template for a special environment ends after this
	maxTemplates = 16              // further ones end as soon as their queue is empty
	maxBatch     = 16              // workers forked for one message: the first waits for the last
)

// Options say where workers connect and write. They are immutable after New.
type Options struct {
	Socket string // where workers open their session
	SDKDir string // directory that holds the worker side of the Python SDK (the parent of "yr")
	LogDir string // runtime-<worker>.out and .err
	RunDir string // <worker>.json while a worker lives
	Log    zerolog.Logger

	// Env is what templates inherit, as in os.Environ; nil means the daemon's own.
	Env []string

	// DefaultInterpreter runs Python for a Spec that names no interpreter. If it is
	// empty, $YR_PYTHON is used, else the first python3 on $PATH that can import the SDK.
	DefaultInterpreter string

	// OnStarted is called once for each Start (before Close): with the pid, or with an *yr.Error.
	// OnExit is called once for each worker that OnStarted gave a pid, or that was
	// adopted, and never before OnStarted. Both are called without any lock held,
	// from the launcher's goroutines; they must not block.
	OnStarted func(worker yr.ID, pid int, err error)
	OnExit    func(Exit)

	// StartTimeout and ForkTimeout bound how long a template may take to come up and
	// to answer; zero means 30 s and 10 s.
	StartTimeout, ForkTimeout time.Duration
}

// Spec describes one worker.
type Spec struct {
	Worker      yr.ID
	Token       string // proves to the agent that this process is the worker it asked for
	Job         yr.Job
	Language    string // "python"; empty means python
	Interpreter string // path or name of the program; empty means the default
	Env         map[string]string
	Dir         string   // working directory; LogDir if it cannot be entered
	CodePaths   []string // where modules are looked for first, first first
	Note        string   // for people: "pool", "instance <id>"
}

// Survivor is a worker that an earlier daemon started and that still runs.
type Survivor struct {
	Worker yr.ID
	PID    int
	Job    yr.Job
	Note   string
}

// Launcher starts, watches and ends workers. Its methods are safe for
// concurrent use, and all but Open, Close and Survivors return at once.
type Launcher struct {
	opt      Options
	runtimes map[string]runtime // by language
	oom      *oomCounter
	ctx      context.Context // ends when Close begins
	cancel   context.CancelFunc
	running  sync.WaitGroup // goroutines of templates and workers

	mu        sync.Mutex
	closed    bool
	templates map[string]*template // by origin key
	pids      map[int]bool         // of templates: these are reaped by their owner
	workers   map[yr.ID]*worker    // from Start or Adopt to the exit
	byPID     map[int]*worker      // those that run
	unnamed   int                  // children being made whose pid is not known here yet
}

// New returns a launcher that has done nothing yet.
func New(opt Options) *Launcher {
	if opt.StartTimeout == 0 {
		opt.StartTimeout = startTimeout
	}
	if opt.ForkTimeout == 0 {
		opt.ForkTimeout = forkTimeout
	}
	if opt.Env == nil {
		opt.Env = os.Environ()
	}
	return &Launcher{
		opt:       opt,
		runtimes:  map[string]runtime{"python": newPython(opt)},
		templates: map[string]*template{},
		pids:      map[int]bool{},
		workers:   map[yr.ID]*worker{},
		byPID:     map[int]*worker{},
	}
}

// Open makes this process the subreaper of its descendants, and the directories.
// Its context is not kept.
func (l *Launcher) Open(context.Context) error {
	for _, dir := range []string{l.opt.LogDir, l.opt.RunDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // logs may be read by everybody
			return yr.Wrap("open launcher", yr.Internal, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return yr.Wrap("become subreaper", yr.Internal, err)
	}
	l.oom = newOOMCounter()
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.running.Go(l.sweep)
	return nil
}

// Close kills every worker and template and waits until they are gone. Whoever
// wants workers to end gracefully has asked them before.
func (l *Launcher) Close(ctx context.Context) error {
	l.mu.Lock()
	if l.closed || l.cancel == nil {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	groups := make([]int, 0, len(l.byPID))
	for pid, w := range l.byPID {
		groups = append(groups, pid)
		w.kill()
	}
	l.mu.Unlock()
	l.cancel() // templates end and fail what they had not started
	done := make(chan struct{})
	go func() {
		l.running.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		return yr.Wrap("close launcher", yr.Internal, context.Cause(ctx))
	}
	return awaitOrphans(ctx, groups)
}

// Start asks for a worker. It never blocks; OnStarted tells how it went.
func (l *Launcher) Start(spec Spec) {
	w := &worker{spec: spec}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, twice := l.workers[spec.Worker]; twice {
		l.refuse(w, yr.E("start worker", yr.ParamInvalid, "worker %s is already there", spec.Worker))
		return
	}
	t, err := l.templateFor(spec)
	if err != nil {
		l.refuse(w, err)
		return
	}
	w.template = t
	l.workers[spec.Worker] = w
	t.queue = append(t.queue, w)
	t.poke()
}

// Warm starts a template ahead of need.
func (l *Launcher) Warm(language, interpreter string, env map[string]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t, err := l.templateFor(Spec{Language: language, Interpreter: interpreter, Env: maps.Clone(env)})
	if err != nil {
		l.opt.Log.Debug().Err(err).Msg("nothing to warm")
		return
	}
	t.poke()
}

// Kill ends a worker's whole process group with SIGKILL. One that is not there
// any more is ignored; one that is still waiting to start is not started.
func (l *Launcher) Kill(id yr.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.workers[id]
	if w == nil {
		return
	}
	w.killed = true
	switch {
	case w.pid != 0:
		w.kill()
	case w.template.forget(w):
		delete(l.workers, id)
		l.refuse(w, yr.E("start worker", yr.ScheduleCancelled, "worker %s was killed before it started", id))
	}
}

// Adopt watches a worker that an earlier daemon started.
func (l *Launcher) Adopt(id yr.ID, pid int) error {
	const op = "adopt worker"
	w := &worker{spec: Spec{Worker: id}, pid: pid}
	if err := w.open(); err != nil {
		return yr.Wrap(op, yr.InstanceNotFound, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		w.release()
		return yr.Wrap(op, yr.Finalized, errClosed)
	}
	if _, twice := l.workers[id]; twice {
		w.release()
		return yr.E(op, yr.ParamInvalid, "worker %s is already there", id)
	}
	l.workers[id] = w
	l.byPID[pid] = w
	l.running.Go(func() { l.watch(w) })
	return nil
}

var errClosed = errors.New("the launcher is closed")

// templateFor returns the template whose workers fit spec, new if need be. l.mu is held.
func (l *Launcher) templateFor(spec Spec) (*template, error) {
	if l.closed || l.ctx == nil {
		return nil, yr.Wrap("start worker", yr.Finalized, errClosed)
	}
	language := spec.Language
	if language == "" {
		language = "python"
	}
	r, ok := l.runtimes[language]
	if !ok {
		return nil, yr.E("start worker", yr.ParamInvalid, "this node runs no %s workers (it runs python)", language)
	}
	o := r.origin(spec)
	if t := l.templates[o.key]; t != nil {
		return t, nil
	}
	t := newTemplate(l, r, o)
	t.transient = len(l.templates) >= maxTemplates
	l.templates[o.key] = t
	l.running.Go(t.run)
	return t, nil
}

// refuse tells, from another goroutine because callers hold locks, that w will not
// start. l.mu is held.
func (l *Launcher) refuse(w *worker, err error) {
	if !l.closed {
		l.running.Go(func() { l.opt.OnStarted(w.spec.Worker, 0, err) })
	}
}
