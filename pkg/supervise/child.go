package supervise

import (
	"fmt"
	"net"
	"os"
	"sort"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// sendTimeout bounds how long Keep and Drop wait for a parent that does not read.
const sendTimeout = time.Second

// Child is the daemon's side: what it inherited and what the parent should hold.
// All methods are safe for concurrent use.
type Child struct {
	conn     *net.UnixConn // nil: nobody supervises this process
	restarts int
	gone     chan struct{}
	done     chan struct{} // closed when the reader has ended

	mu        sync.Mutex
	inherited map[string]*os.File // not yet taken with File
}

// Inherit takes over what the parent handed down, and becomes a subreaper. In a
// process that nobody supervises it returns a Child that holds nothing, whose
// Keep does nothing and whose parent is never gone.
func Inherit() (*Child, error) {
	if err := BecomeSubreaper(); err != nil {
		return nil, err
	}
	c := &Child{gone: make(chan struct{}), done: make(chan struct{}), inherited: map[string]*os.File{}}
	number, supervised := os.LookupEnv(envSocket)
	if !supervised {
		close(c.done)
		return c, nil
	}
	_ = os.Unsetenv(envSocket)
	fd, err := strconv.Atoi(number)
	if err != nil {
		return nil, fmt.Errorf("%s=%q is not a descriptor number", envSocket, number)
	}
	unix.CloseOnExec(fd)
	if c.conn, err = unixConn(os.NewFile(uintptr(fd), "supervise")); err != nil {
		return nil, fmt.Errorf("inherit from the parent: %w", err)
	}
	if err := c.takeOver(); err != nil {
		c.closeInherited()
		_ = c.conn.Close()
		return nil, fmt.Errorf("inherit from the parent: %w", err)
	}
	go c.watch()
	return c, nil
}

func (c *Child) takeOver() error {
	for {
		pk, err := receive(c.conn)
		if err != nil {
			return err
		}
		switch pk.verb {
		case "have":
			if pk.file != nil {
				c.inherited[pk.arg] = pk.file
			}
		case "begin":
			c.restarts, err = strconv.Atoi(pk.arg)
			return err
		}
	}
}

// watch waits for the end of the parent, which never speaks after begin.
func (c *Child) watch() {
	defer close(c.done)
	for {
		pk, err := receive(c.conn)
		if pk.file != nil {
			_ = pk.file.Close()
		}
		if err != nil {
			close(c.gone)
			return
		}
	}
}

// Supervised reports whether this process has a parent that would restart it.
func (c *Child) Supervised() bool { return c.conn != nil }

// Restarts says how often the daemon has crashed and been started again.
func (c *Child) Restarts() int { return c.restarts }

// ParentGone is closed when the parent has died, or when the Child is closed.
func (c *Child) ParentGone() <-chan struct{} { return c.gone }

// Names lists what was inherited and not yet taken, in order.
func (c *Child) Names() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	names := make([]string, 0, len(c.inherited))
	for name := range c.inherited {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// File hands over the inherited file of that name; the caller owns it. The
// parent still holds its own until Drop.
func (c *Child) File(name string) (*os.File, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f, ok := c.inherited[name]
	delete(c.inherited, name)
	return f, ok
}

// Listener returns the inherited listening socket of that name.
func (c *Child) Listener(name string) (net.Listener, bool, error) {
	f, ok := c.File(name)
	if !ok {
		return nil, false, nil
	}
	defer func() { _ = f.Close() }()
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, false, fmt.Errorf("inherited socket %s: %w", name, err)
	}
	return ln, true, nil
}

// Listen returns the inherited listener of that name, or opens one and has the
// parent keep it. A Unix socket's file is not removed when the listener is
// closed: the parent's copy still answers there.
func (c *Child) Listen(name, network, address string) (net.Listener, error) {
	ln, ok, err := c.Listener(name)
	if ok || err != nil {
		return ln, err
	}
	ln, err = net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	if u, ok := ln.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	if err := c.keepListener(name, ln); err != nil {
		_ = ln.Close()
		return nil, err
	}
	return ln, nil
}

func (c *Child) keepListener(name string, ln net.Listener) error {
	filer, ok := ln.(interface{ File() (*os.File, error) })
	if !ok {
		return fmt.Errorf("listener %s has no descriptor", name)
	}
	f, err := filer.File()
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return c.Keep(name, f)
}

// Keep asks the parent to hold a duplicate of f, replacing what it held under
// that name. The caller keeps f. Names must not contain spaces.
func (c *Child) Keep(name string, f *os.File) error {
	return c.tell(packet{"keep", name, f})
}

// Drop asks the parent to close what it holds under that name.
func (c *Child) Drop(name string) error { return c.tell(packet{verb: "drop", arg: name}) }

func (c *Child) tell(p packet) error {
	if c.conn == nil {
		return nil
	}
	_ = c.conn.SetWriteDeadline(time.Now().Add(sendTimeout))
	if err := send(c.conn, p); err != nil {
		return fmt.Errorf("tell the parent to %s %s: %w", p.verb, p.arg, err)
	}
	return nil
}

// Close lets go of the parent and of everything inherited and not taken.
func (c *Child) Close() error {
	c.closeInherited()
	if c.conn == nil {
		return nil
	}
	err := c.conn.Close()
	<-c.done
	return err
}

func (c *Child) closeInherited() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, f := range c.inherited {
		_ = f.Close()
		delete(c.inherited, name)
	}
}
