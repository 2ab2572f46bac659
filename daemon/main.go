package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"yr/pkg/cluster"
	"yr/pkg/session"
	"yr/pkg/supervise"
	"yr/pkg/yr"
)

// startAttempts is how often a daemon may crash before it has ever been ready;
// after that it is restarted for ever.
const startAttempts = 3

// closeTimeout bounds an orderly end. The parent's grace is a little longer.
const closeTimeout = 30 * time.Second

// Main is the life of a daemon process: open, say so, run until told to stop,
// close. It returns the exit status, which tells the parent what to do. A panic
// ends the process with its stack in yr_daemon.log, and the parent restarts it.
func Main(planPath string) int {
	debug.SetTraceback("all")
	supervise.SetName("yr")
	ctx, cancel := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer cancel()
	signal.Ignore(unix.SIGHUP, unix.SIGPIPE)

	child, err := supervise.Inherit()
	if err != nil {
		logf("%v", err)
		return 1
	}
	defer func() { _ = child.Close() }()
	starter := takeStarter(child)
	plan, err := session.ReadPlan(planPath)
	if err == nil && starter.waiting() && child.Restarts() >= startAttempts {
		err = yr.E("start", yr.Internal, "the daemon crashed %d times before it was ready", child.Restarts())
	}
	if err != nil {
		starter.failed(err)
		return supervise.ExitGiveUp
	}
	d := New(Options{Plan: plan, Child: child})
	ended := d.ended(ctx)
	if err := d.Open(ended); err != nil {
		if child.Restarts() > 0 && ended.Err() == nil && !starter.waiting() {
			logf("cannot start again: %v", err)
			return 1 // it ran before, so it may run again: what it left stays for the next try
		}
		_ = d.shut() // why it could not start matters more
		if errors.Is(err, context.Canceled) && ended.Err() != nil {
			return 0
		}
		logf("cannot start: %v", err)
		starter.failed(err)
		return supervise.ExitGiveUp
	}
	logf("ready after %v, session %s, restarts %d", time.Since(d.born).Round(time.Millisecond), plan.Dir.Path, child.Restarts())
	starter.ready(d)

	status := 0
	select {
	case <-ended.Done():
		logf("stopping: %v", context.Cause(ended))
	case <-d.Failed():
		logf("a part of the daemon failed: %v", d.Err())
		if !errors.Is(d.Err(), cluster.ErrRemoved) {
			return 1 // as after a crash: the parent tries again, and processes and memory are there when it succeeds
		}
		status = supervise.ExitGiveUp
	}
	if err := d.shut(); err != nil {
		logf("while stopping: %v", err)
	}
	return status
}

// starter is the pipe to the start command, nil once it has been told, and in a
// restarted daemon.
type starter struct {
	file  *os.File
	child *supervise.Child
}

func takeStarter(child *supervise.Child) *starter {
	f, _ := child.File("starter")
	return &starter{file: f, child: child}
}

// waiting reports whether a start command still waits for its greeting.
func (s *starter) waiting() bool { return s.file != nil }

func (s *starter) failed(err error) {
	s.tell(session.Greeting{Code: yr.CodeOf(err), Error: err.Error()})
}

func (s *starter) ready(d *Daemon) {
	s.tell(session.Greeting{Ready: true, Warnings: d.warnings, Timing: d.timing})
}

func (s *starter) tell(g session.Greeting) {
	if s.file == nil {
		return
	}
	line, _ := json.Marshal(g)
	_, _ = s.file.Write(append(line, '\n')) // the start command may have gone; then nobody wants to know
	_ = s.file.Close()
	_ = s.child.Drop("starter")
	s.file = nil
}

// logf writes to the daemon log, which is this process's standard error.
func logf(format string, args ...any) {
	_, _ = fmt.Fprintf(os.Stderr, "%s daemon[%d] %s\n", time.Now().Format("2006-01-02T15:04:05.000Z07:00"), os.Getpid(), fmt.Sprintf(format, args...))
}
