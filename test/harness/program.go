package harness

import (
	"bytes"
	_ "embed" // prelude.py
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A Result is how a program ended.
type Result struct {
	Command string
	Code    int // -1 if a signal ended it
	Signal  syscall.Signal
	Out     string
	Err     string
	Took    time.Duration
}

func (r Result) String() string {
	how := fmt.Sprintf("exit code %d", r.Code)
	if r.Signal != 0 {
		how = "killed by " + r.Signal.String()
	}
	return fmt.Sprintf("%s: %s after %v\n--- stdout\n%s--- stderr\n%s", r.Command, how, r.Took.Round(time.Millisecond), r.Out, r.Err)
}

// A Program runs on a cluster, beside the test.
type Program struct {
	c     *Cluster
	cmd   *exec.Cmd
	began time.Time
	in    io.WriteCloser
	out   buffer
	err   buffer
	ended chan struct{}
}

//go:embed prelude.py
var prelude string

// Python starts a driver whose program text is prelude.py and then source; it
// finds the cluster by itself.
func (c *Cluster) Python(source string, args ...string) *Program {
	c.t.Helper()
	return c.Command(append([]string{Python(c.t), c.Driver(source)}, args...)...)
}

// Driver writes the program of a driver to a file and returns its path.
func (c *Cluster) Driver(source string) string {
	c.t.Helper()
	dir, err := os.MkdirTemp(c.Prefix, "driver-")
	if err != nil {
		c.t.Fatal(err)
	}
	path := filepath.Join(dir, "driver.py")
	if err := os.WriteFile(path, []byte(prelude+"\n\n"+source), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return path
}

// Run runs a driver to its end, which must be exit code 0, and returns what it printed.
func (c *Cluster) Run(source string, args ...string) string {
	c.t.Helper()
	return c.Python(source, args...).MustEnd()
}

func (c *Cluster) start(cmd *exec.Cmd) *Program {
	c.t.Helper()
	p := &Program{c: c, cmd: cmd, began: time.Now(), ended: make(chan struct{})}
	cmd.Env, cmd.Dir = c.environ(), c.Prefix
	cmd.Stdout, cmd.Stderr = &p.out, &p.err
	var err error
	if p.in, err = cmd.StdinPipe(); err != nil {
		c.t.Fatal(err)
	}
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	start := cmd.Start
	if c.host != nil {
		start = func() error { return c.host.Start(cmd) }
	}
	if err := start(); err != nil {
		c.t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = cmd.Wait()
	}()
	c.t.Cleanup(func() {
		p.Signal(syscall.SIGKILL)
		<-p.ended
	})
	return p
}

// Tell writes a line to the program's standard input.
func (p *Program) Tell(line string) {
	p.c.t.Helper()
	if _, err := io.WriteString(p.in, line+"\n"); err != nil {
		p.c.t.Fatalf("tell %q: %v: %s", line, err, p.result())
	}
}

// MustEnd waits for the end of the program, which must be exit code 0, and returns what it printed.
func (p *Program) MustEnd() string {
	p.c.t.Helper()
	r := p.Wait()
	if r.Code != 0 {
		p.c.t.Fatal(r)
	}
	return r.Out
}

// Kill ends the program by SIGKILL and waits for that.
func (p *Program) Kill() {
	p.c.t.Helper()
	p.Signal(syscall.SIGKILL)
	if r := p.Wait(); r.Signal != syscall.SIGKILL {
		p.c.t.Fatal(r)
	}
}

// PID is the program's process.
func (p *Program) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal to the program, if it still runs.
func (p *Program) Signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// Says waits until the program has printed a line that contains text, and returns that line.
func (p *Program) Says(text string) string {
	p.c.t.Helper()
	var line string
	Eventually(p.c.t, fmt.Sprintf("%q from the program", text), func() (bool, string) {
		over := p.over()
		for l := range strings.Lines(p.out.String()) {
			if strings.Contains(l, text) && strings.HasSuffix(l, "\n") {
				line = strings.TrimSpace(l)
				return true, ""
			}
		}
		if over {
			p.c.t.Fatalf("it ended without saying %q: %s", text, p.result())
		}
		return false, p.out.String() + p.err.String()
	})
	return line
}

// Lines waits until the program has printed n lines that begin with start, and returns them.
func (p *Program) Lines(start string, n int) string {
	p.c.t.Helper()
	var found []string
	Eventually(p.c.t, fmt.Sprintf("%d lines %q from the program", n, start), func() (bool, string) {
		over := p.over()
		found = found[:0]
		for l := range strings.Lines(p.out.String()) {
			if strings.HasPrefix(l, start) && strings.HasSuffix(l, "\n") {
				found = append(found, l)
			}
		}
		if over && len(found) < n {
			p.c.t.Fatalf("it ended with %d of %d lines %q: %s", len(found), n, start, p.result())
		}
		return len(found) >= n, p.out.String() + p.err.String()
	})
	return strings.Join(found, "")
}

// Pause lets the program run for so many milliseconds and reports whether it still does.
func (p *Program) Pause(ms int) bool {
	select {
	case <-p.ended:
		return false
	case <-time.After(time.Duration(ms) * time.Millisecond):
		return true
	}
}

func (p *Program) over() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// Wait waits for the end of the program, for twice Patience at most.
func (p *Program) Wait() Result {
	p.c.t.Helper()
	return p.WaitFor(2 * Patience)
}

// WaitFor is Wait for a program that takes its time.
func (p *Program) WaitFor(most time.Duration) Result {
	p.c.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(most):
		p.Signal(syscall.SIGABRT) // faulthandler and Go print their stacks
		select {
		case <-p.ended:
		case <-time.After(time.Second):
			p.Signal(syscall.SIGKILL)
			<-p.ended
		}
		p.c.t.Errorf("did not end within %v: %s", most, p.result())
	}
	return p.result()
}

func (p *Program) result() Result {
	r := Result{Command: strings.Join(p.cmd.Args, " "), Out: p.out.String(), Err: p.err.String(), Took: time.Since(p.began), Code: -1}
	if s := p.cmd.ProcessState; s != nil {
		r.Code = s.ExitCode()
		if w, ok := s.Sys().(syscall.WaitStatus); ok && w.Signaled() {
			r.Signal = w.Signal()
		}
	}
	return r
}

// buffer is a bytes.Buffer that may be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
