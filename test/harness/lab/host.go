package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Host is one machine of a lab: a network of its own. Files, memory and process
// numbers are the real machine's.
type Host struct {
	Name    string // of its namespace, for `ip netns exec`
	Address string

	lab   *Lab
	index int
	mac   string
	port  string  // its end of the cable at the switch
	tun   *tunnel // made for the first slow line; the lab's mu guards it
}

func newHost(l *Lab, index int) *Host {
	return &Host{
		Name:    fmt.Sprintf("%s-%d", l.name, index),
		Address: fmt.Sprintf("10.22.0.%d", index),
		lab:     l,
		index:   index,
		mac:     fmt.Sprintf("02:22:00:00:00:%02x", index),
		port:    fmt.Sprintf("port%d", index),
	}
}

// connect gives the host its address and tells it where all others are, so that
// nothing depends on ARP.
func (h *Host) connect() error {
	commands := []string{"link set lo up", "link set eth0 up", "addr add " + h.Address + "/24 dev eth0"}
	for _, other := range h.lab.Hosts {
		if other != h {
			commands = append(commands, h.neighbour(other, other.mac))
		}
	}
	return ip(h.Name, commands...)
}

// Do runs f on a thread that is on this host: sockets that it makes and processes
// that it starts belong there.
func (h *Host) Do(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- h.onThread(f) }()
	return <-done
}

func (h *Host) onThread(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if unix.Gettid() == os.Getpid() {
		// The main thread stands for the whole process in /proc, and must not be seen on a host.
		return h.Do(f)
	}
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	there, err := os.Open(namespacePath(h.Name))
	if err != nil {
		return err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter %s: %w", h.Name, err)
	}
	defer func() {
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) != nil {
			runtime.LockOSThread() // one lock too many: the thread ends with the goroutine
		}
	}()
	return f()
}

// Start starts a command on this host.
func (h *Host) Start(command *exec.Cmd) error { return h.Do(command.Start) }

// Listen listens on this host, on a free port.
func (h *Host) Listen() (ln net.Listener, err error) {
	err = h.Do(func() error {
		ln, err = net.Listen("tcp", net.JoinHostPort(h.Address, "0"))
		return err
	})
	return ln, err
}

// Dial connects from this host.
func (h *Host) Dial(ctx context.Context, address string) (conn net.Conn, err error) {
	err = h.Do(func() error {
		// An address in digits needs no resolver, and one address needs no second goroutine, which would be elsewhere.
		var d net.Dialer
		conn, err = d.DialContext(ctx, "tcp4", address)
		return err
	})
	return conn, err
}

// Processes are the processes that run on this host.
func (h *Host) Processes() (pids []int) {
	here, err := os.Stat(namespacePath(h.Name))
	if err != nil {
		return nil
	}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if there, err := os.Stat(filepath.Join("/proc", e.Name(), "ns", "net")); err == nil && os.SameFile(here, there) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// PowerOff ends every process of the host at one moment: none sees another one die.
func (h *Host) PowerOff() {
	h.Pause()
	eventually(func() bool {
		pids := h.Processes()
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		return len(pids) == 0
	})
}

// Pause stops every process of the host, as a machine that swaps or is moved; Resume lets them go on.
func (h *Host) Pause() { h.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (h *Host) Resume() { h.signal(syscall.SIGCONT) }

func (h *Host) signal(s syscall.Signal) {
	for _, pid := range h.Processes() {
		_ = syscall.Kill(pid, s)
	}
}

// Traffic is what went over a host's cable, in bytes with all headers.
type Traffic struct{ Sent, Received uint64 }

// Minus is the traffic since an earlier one.
func (t Traffic) Minus(earlier Traffic) Traffic {
	return Traffic{Sent: t.Sent - earlier.Sent, Received: t.Received - earlier.Received}
}

// Traffic reads the counters of the host's cable.
func (h *Host) Traffic() (t Traffic, err error) {
	err = h.Do(func() error {
		// thread-self: plain /proc/net shows the network of the process, whichever thread asks.
		all, err := os.ReadFile("/proc/thread-self/net/dev")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(all)) {
			name, counters, found := strings.Cut(strings.TrimSpace(line), ":")
			if columns := strings.Fields(counters); found && name == "eth0" && len(columns) > 8 {
				t.Received, _ = strconv.ParseUint(columns[0], 10, 64)
				t.Sent, _ = strconv.ParseUint(columns[8], 10, 64)
				return nil
			}
		}
		return fmt.Errorf("%s has no eth0", h.Name)
	})
	return t, err
}
