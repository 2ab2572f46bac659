// Package lab makes hosts out of one machine: network namespaces joined by a
// switch, whose cables a test may cut, slow down and count the bytes of.
//
// The switch is a bridge in a namespace of its own, so nothing of a lab can be
// seen from the machine's network, and two labs can use the same addresses. All
// of it goes with the process that made it, however that ends (reaper.go).
package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// MaxHosts is how many hosts the lab's network has addresses for.
const MaxHosts = 200

// A Lab is a number of hosts that reach each other and nothing else.
type Lab struct {
	Hosts []*Host

	name   string // of the switch's namespace; the hosts' are name-1, name-2, ...
	reaper *reaper
	mu     sync.Mutex // one change of the slow lines at a time
}

var labs atomic.Int64

// Available says what stands in the way of making a lab here, nil if nothing does.
func Available() error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return errors.New("network namespaces need the ip command (iproute2)")
	}
	name := unique()
	if err := ip("", "netns add "+name, "netns del "+name); err != nil {
		return fmt.Errorf("network namespaces are not permitted here: %w", err)
	}
	return nil
}

// New makes a lab of n hosts with the addresses 10.22.0.1 to 10.22.0.n. Close it.
func New(n int) (*Lab, error) {
	if n < 1 || n > MaxHosts {
		return nil, fmt.Errorf("lab: %d hosts; there may be 1 to %d", n, MaxHosts)
	}
	l := &Lab{name: unique()}
	var err error
	if l.reaper, err = startReaper(); err != nil {
		return nil, err
	}
	if err := l.build(n); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Lab) build(n int) error {
	// Whatever the reaper is told comes before the deed: it may happen at any moment that it has to act.
	l.reaper.after("ip netns del " + l.name)
	if err := ip("", "netns add "+l.name); err != nil {
		return err
	}
	wiring := []string{"link add switch type bridge", "link set switch up"}
	for i := 1; i <= n; i++ {
		h := newHost(l, i)
		l.Hosts = append(l.Hosts, h)
		l.reaper.after(fmt.Sprintf(`for p in $(ip netns pids %[1]s); do kill -9 $p; done; ip netns del %[1]s`, h.Name))
		if err := ip("", "netns add "+h.Name); err != nil {
			return err
		}
		wiring = append(wiring,
			fmt.Sprintf("link add %s type veth peer name eth0 address %s netns %s", h.port, h.mac, h.Name),
			fmt.Sprintf("link set %s master switch up", h.port))
	}
	if err := ip(l.name, wiring...); err != nil {
		return err
	}
	for _, h := range l.Hosts {
		if err := h.connect(); err != nil {
			return err
		}
	}
	return nil
}

// Close kills everything that runs on the hosts and deletes them.
func (l *Lab) Close() error {
	l.mu.Lock()
	for _, h := range l.Hosts {
		h.fill()
	}
	l.mu.Unlock()
	return l.reaper.act()
}

// After has a shell command run when the lab is gone, also when this process was
// killed: to remove a directory, to take off a mount.
func (l *Lab) After(command string) { l.reaper.after(command) }

// unique is a name that no other lab of this machine has, short enough for a device.
func unique() string {
	return "yrlab" + strconv.FormatInt(int64(os.Getpid()), 36) + strconv.FormatInt(labs.Add(1), 36)
}

// ip runs commands of the ip program in a namespace ("" is the machine's own).
func ip(namespace string, commands ...string) error {
	arguments := []string{"-batch", "-"}
	if namespace != "" {
		arguments = append([]string{"-n", namespace}, arguments...)
	}
	run := exec.Command("ip", arguments...)
	run.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	if out, err := run.CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(commands, "; "), err, bytes.TrimSpace(out))
	}
	return nil
}

// namespacePath is where the ip program keeps a namespace.
func namespacePath(name string) string { return filepath.Join("/run/netns", name) }

// eventually waits up to a second for something that the kernel is about to do.
func eventually(done func() bool) bool {
	for deadline := time.Now().Add(time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}
