package supervise

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"sort"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Parent starts a child, restarts it when it crashes, and keeps its descriptors.
type Parent struct {
	// Path is the program of the child, "/proc/self/exe" if empty: the very file
	// that this process runs, even if it has been replaced or deleted meanwhile.
	Path string
	Argv []string
	Env  []string
	// Kept is what the first child inherits, by name. Run owns the files.
	Kept map[string]*os.File
	// Grace is how long the child may take to end after SIGTERM; 0 is DefaultGrace.
	Grace time.Duration
	// Log receives one line for everything worth knowing.
	Log func(format string, args ...any)

	// The rest is owned by the goroutine that runs Run.
	pid      int
	conn     *net.UnixConn
	packets  chan packet // closed when the child's end is
	born     time.Time
	restarts int
	pause    time.Duration
}

// Run supervises until the child ends on purpose, gives up, or ctx ends (or
// SIGTERM or SIGINT comes), which stops the child first. It returns the exit
// status for the process. When it returns, no descendant is left.
func (p *Parent) Run(ctx context.Context) int {
	p.slim()
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	signal.Ignore(unix.SIGHUP, unix.SIGPIPE)
	defer signal.Stop(signals)
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	defer signal.Stop(children)

	status := p.loop(ctx, signals, children)
	if n := EndDescendants(killTimeout); n > 0 {
		p.Log("%d processes would not die", n)
	}
	for name, f := range p.Kept {
		_ = f.Close()
		delete(p.Kept, name)
	}
	return status
}

func (p *Parent) loop(ctx context.Context, signals, children <-chan os.Signal) int {
	var (
		restart = time.NewTimer(0) // fires at once: the first start
		kill    <-chan time.Time   // set while the child is asked to end
		ending  = ctx.Done()
	)
	defer restart.Stop()
	stop := func() (done bool) {
		ending = nil
		if p.pid == 0 {
			return true
		}
		if kill == nil {
			_ = unix.Kill(p.pid, unix.SIGTERM)
			kill = time.After(p.grace())
		}
		return false
	}
	for {
		select {
		case <-restart.C:
			if err := p.spawn(); err != nil {
				p.Log("cannot start the daemon: %v", err)
				restart.Reset(p.nextPause())
			}
		case pk, ok := <-p.packets:
			if !ok {
				p.packets = nil // the child closed its end; its exit follows
				continue
			}
			p.apply(pk)
		case <-ending:
			if stop() {
				return 0
			}
		case s := <-signals:
			p.Log("%s: stopping", unix.SignalName(s.(unix.Signal)))
			if stop() {
				return 0
			}
		case <-kill:
			p.Log("the daemon (pid %d) did not end within %v of SIGTERM; killing it", p.pid, p.grace())
			_ = unix.Kill(p.pid, unix.SIGKILL)
			kill = time.After(p.grace())
		case <-children:
			ws, ended := p.reap()
			if !ended {
				continue
			}
			p.drain()
			switch {
			case kill != nil:
				return 0
			case ws.Exited() && (ws.ExitStatus() == 0 || ws.ExitStatus() == ExitGiveUp):
				return ws.ExitStatus()
			}
			p.restarts++
			wait := p.nextPause()
			p.Log("the daemon %s; restart %d in %v", describe(ws), p.restarts, wait)
			restart.Reset(wait)
		}
	}
}

// spawn starts the child and tells it what it has.
func (p *Parent) spawn() error {
	conn, end, err := socketPair()
	if err != nil {
		return err
	}
	defer func() { _ = end.Close() }()
	p.born = time.Now()
	path := p.Path
	if path == "" {
		path = "/proc/self/exe"
	}
	pid, err := syscall.ForkExec(path, p.Argv, &syscall.ProcAttr{
		Env:   append(p.Env[:len(p.Env):len(p.Env)], fmt.Sprintf("%s=%d", envSocket, childSocket)),
		Files: []uintptr{0, 1, 2, end.Fd()},
	})
	if err != nil {
		_ = conn.Close()
		return fmt.Errorf("start %s: %w", path, err)
	}
	p.pid, p.conn = pid, conn
	p.hand()
	packets := make(chan packet)
	p.packets = packets
	go func() {
		defer close(packets)
		for {
			pk, err := receive(conn)
			if err != nil {
				return
			}
			packets <- pk
		}
	}()
	return nil
}

// hand gives the new child everything that is kept. A child that is already
// dead again is noticed by its exit, not here.
func (p *Parent) hand() {
	names := make([]string, 0, len(p.Kept))
	for name := range p.Kept {
		names = append(names, name)
	}
	sort.Strings(names)
	_ = p.conn.SetWriteDeadline(time.Now().Add(killTimeout))
	for _, name := range names {
		if err := send(p.conn, packet{"have", name, p.Kept[name]}); err != nil {
			p.Log("cannot hand over %s: %v", name, err)
		}
	}
	if err := send(p.conn, packet{verb: "begin", arg: fmt.Sprint(p.restarts)}); err != nil {
		p.Log("cannot greet the daemon: %v", err)
	}
}

func (p *Parent) apply(pk packet) {
	switch pk.verb {
	case "keep":
		if pk.file == nil {
			return
		}
		if old := p.Kept[pk.arg]; old != nil {
			_ = old.Close()
		}
		if p.Kept == nil {
			p.Kept = map[string]*os.File{}
		}
		p.Kept[pk.arg] = pk.file
		return
	case "drop":
		if f := p.Kept[pk.arg]; f != nil {
			_ = f.Close()
			delete(p.Kept, pk.arg)
		}
	}
	if pk.file != nil {
		_ = pk.file.Close()
	}
}

// drain applies what the dead child had still sent, then forgets it. Its end of
// the socket is closed unless a descendant inherited it, hence the deadline.
func (p *Parent) drain() {
	_ = p.conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	if p.packets != nil {
		for pk := range p.packets {
			p.apply(pk)
		}
	}
	_ = p.conn.Close()
	p.conn, p.packets, p.pid = nil, nil, 0
}

// reap collects every dead child, orphans included, and says how the daemon ended if it did.
func (p *Parent) reap() (daemon unix.WaitStatus, ended bool) {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return daemon, ended
		}
		if pid == p.pid {
			daemon, ended = ws, true
		}
	}
}

// nextPause is how long to wait before the next start: nothing after a healthy
// life, then doubling.
func (p *Parent) nextPause() time.Duration {
	if time.Since(p.born) >= healthyLife {
		p.pause = 0
	}
	wait := p.pause
	p.pause = min(max(2*p.pause, backoffFirst), backoffMost)
	return wait
}

func (p *Parent) grace() time.Duration {
	if p.Grace > 0 {
		return p.Grace
	}
	return DefaultGrace
}

// slim makes this process small, hard to kill for lack of memory, and the
// reaper of whatever its descendants leave.
func (p *Parent) slim() {
	debug.SetGCPercent(20)
	debug.SetMemoryLimit(8 << 20)
	debug.FreeOSMemory()
	SetName("yr-parent")
	if err := BecomeSubreaper(); err != nil {
		p.Log("%v", err)
	}
	// Lowering needs a privilege that a user's own cluster does not have.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-900"), 0)
}

func describe(ws unix.WaitStatus) string {
	if ws.Signaled() {
		return fmt.Sprintf("was killed by %s", unix.SignalName(ws.Signal()))
	}
	return fmt.Sprintf("ended with exit status %d", ws.ExitStatus())
}
