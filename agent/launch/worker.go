package launch

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"yr/pkg/yr"
)

// Exit says how a worker ended.
type Exit struct {
	Worker  yr.ID
	PID     int
	Code    int            // exit code, -1 if a signal ended it or Unknown
	Signal  syscall.Signal // 0 if it exited by itself
	Unknown bool           // an adopted worker: its status went to another process
	Text    string         // "exit code 3", "killed by SIGKILL"
}

// A worker is a process that hosts user code, or will. Launcher.mu guards it;
// pidfd is closed by the goroutine that watches it.
type worker struct {
	spec     Spec
	template *template // nil if adopted
	pid      int       // 0 until it is forked
	pidfd    *os.File
	killed   bool // by us: no out-of-memory killer is suspected
	again    bool // a template died with its order unread
}

// open gets hold of the process: the descriptor stays true when the pid is used again.
func (w *worker) open() error {
	fd, err := unix.PidfdOpen(w.pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	w.pidfd = os.NewFile(uintptr(fd), "pidfd")
	return nil
}

func (w *worker) release() { _ = w.pidfd.Close() }

// kill ends the worker and all that it started. The pid cannot be another
// process's: we reap it, or (adopted) pidfd tells that it has not ended.
func (w *worker) kill() {
	if w.template == nil && w.ended() {
		return
	}
	killGroup(w.pid)
}

// killGroup kills the process group pid, and the process itself in case it has not made its group yet.
func killGroup(pid int) {
	_ = unix.Kill(-pid, unix.SIGKILL)
	_ = unix.Kill(pid, unix.SIGKILL)
}

func (w *worker) ended() (yes bool) {
	rc, err := w.pidfd.SyscallConn()
	if err != nil {
		return true
	}
	_ = rc.Control(func(fd uintptr) { yes = readable(fd) })
	return yes
}

// readable reports whether the process of a pidfd has ended.
func readable(fd uintptr) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // a descriptor is an int
	for {
		n, err := unix.Poll(poll, 0)
		if !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
}

// enter makes the forked workers of a batch known: pids are those of the first
// ones, err is why the others have none.
func (l *Launcher) enter(batch []*worker, pids []int, err error) {
	began := make([]error, len(batch))
	l.mu.Lock()
	l.unnamed -= len(batch)
	for i, w := range batch {
		switch {
		case i >= len(pids):
			began[i] = err
		default:
			w.pid = pids[i]
			began[i] = w.open()
		}
		if began[i] != nil {
			delete(l.workers, w.spec.Worker)
			continue
		}
		l.byPID[w.pid] = w
		if w.killed || l.closed {
			w.kill()
		}
	}
	l.mu.Unlock()
	for i, w := range batch {
		l.announce(w, began[i])
	}
}

// announce tells how a start went, then watches what has started.
func (l *Launcher) announce(w *worker, err error) {
	if err == nil {
		if err := l.writeRunFile(w); err != nil {
			l.opt.Log.Warn().Err(err).Msg("a restarted daemon will not find this worker")
		}
		l.opt.OnStarted(w.spec.Worker, w.pid, nil)
		l.running.Go(func() { l.watch(w) })
		return
	}
	if w.pid != 0 { // forked, but no descriptor left to watch it with; the sweep reaps it
		killGroup(w.pid)
		err = yr.E("watch worker", yr.ResourceNotEnough, "%v; raise the limit of open files (ulimit -n)", err)
	}
	l.opt.OnStarted(w.spec.Worker, 0, err)
}

// watch waits for the end of w, kills what it left behind in its group, and tells.
func (l *Launcher) watch(w *worker) {
	if rc, err := w.pidfd.SyscallConn(); err == nil {
		_ = rc.Read(readable)
	}
	l.mu.Lock()
	killed := w.killed || l.closed
	_ = unix.Kill(-w.pid, unix.SIGKILL) // its pid names this group until the next line reaps it
	exit := reap(w.pid)
	delete(l.workers, w.spec.Worker)
	delete(l.byPID, w.pid)
	w.release()
	l.mu.Unlock()

	exit.Worker = w.spec.Worker
	if moved := l.oom.moved(); moved && exit.Signal == unix.SIGKILL && !killed {
		exit.Text += " (possibly the kernel's out-of-memory killer)"
	}
	l.removeRunFile(w.spec.Worker)
	l.opt.OnExit(exit)
}

// reap collects the status of an ended process; it is unknown if pid is not our child.
func reap(pid int) Exit {
	var status unix.WaitStatus
	for {
		got, err := unix.Wait4(pid, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || got != pid {
			return Exit{PID: pid, Code: -1, Unknown: true, Text: "ended (its status is not known: the daemon was restarted)"}
		}
		break
	}
	exit := Exit{PID: pid, Code: status.ExitStatus(), Text: exitText(syscall.WaitStatus(status))}
	if status.Signaled() {
		exit.Code, exit.Signal = -1, status.Signal()
	}
	return exit
}

func exitText(status syscall.WaitStatus) string {
	if status.Signaled() {
		return "killed by " + unix.SignalName(status.Signal())
	}
	return fmt.Sprintf("exit code %d", status.ExitStatus())
}
