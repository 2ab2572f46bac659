// Package launch turns "I need a worker" into a process.
//
// Python workers are forked from a template: a warm, single-threaded interpreter
// that has imported the SDK and no user code, one for each (interpreter,
// exec-time environment). DESIGN.md tells why each worker is nevertheless a
// child of the daemon, and why its exit status is exact.
package launch

import (
	"context"
	"syscall"
	
	"github.com/rs/zerolog"
	"yr/pkg/yr"
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

	// OnStarted is called once for each Start: with the pid, or with an *yr.Error.
	// OnExit is called once for each worker that OnStarted gave a pid, or that was
	// adopted, and never before OnStarted. Both are called without any lock held,
	// from the launcher's goroutines; they must not block.
	OnStarted func(worker yr.ID, pid int, err error)
	OnExit    func(Exit)
}

// Spec describes one worker.
type Spec struct {
	Worker      yr.ID
	Token       string // proves to the agent that this process is the worker it asked for
	Job         yr.Job
	Language    string // "python"; empty means python
	Interpreter string // path or name of the program; empty means the default
	Env         map[string]string
	Dir         string   // working directory; ignored if it does not exist
	CodePaths   []string // where modules are looked for first, first first
	Note        string   // for people: "pool", "instance <id>"
}

// Exit says how a worker ended.
type Exit struct {
	Worker  yr.ID
	PID     int
	Code    int            // exit code, -1 if a signal ended it or Unknown
	Signal  syscall.Signal // 0 if it exited by itself
	Unknown bool           // an adopted worker: its status went to another process
	Text    string         // "exit code 3", "killed by SIGKILL"
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
	opt Options
}

// New returns a launcher that has done nothing yet.
func New(opt Options) *Launcher { return &Launcher{opt: opt} }

// Open makes this process the reaper of its descendants and LogDir and RunDir exist.
func (l *Launcher) Open(context.Context) error { return nil }

// Close kills every worker and template and waits until they are gone.
func (l *Launcher) Close(context.Context) error { return nil }

// Start asks for a worker. It never blocks; OnStarted tells how it went.
func (l *Launcher) Start(Spec) {}

// Kill ends a worker's whole process group with SIGKILL. Unknown workers are ignored.
func (l *Launcher) Kill(worker yr.ID) {}

// Adopt watches a worker that an earlier daemon started.
func (l *Launcher) Adopt(worker yr.ID, pid int) error { return nil }

// Survivors lists the workers of an earlier daemon that still run, and removes
// the files of those that do not.
func (l *Launcher) Survivors() []Survivor { return nil }

// Warm starts a template ahead of need.
func (l *Launcher) Warm(language, interpreter string, env map[string]string) {}
