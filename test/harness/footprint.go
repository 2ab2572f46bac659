package harness

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A Process is one that a test's cluster has started, directly or not.
type Process struct {
	PID     int
	Command string
}

func (p Process) String() string { return fmt.Sprintf("%d (%s)", p.PID, p.Command) }

// Processes lists the live processes of the cluster and of the test's programs.
func (c *Cluster) Processes() (all []Process) {
	entries, _ := os.ReadDir("/proc")
	mark := []byte(marker + "=" + c.name)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		environ, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if err != nil || !slices.ContainsFunc(bytes.Split(environ, []byte{0}), func(v []byte) bool { return bytes.Equal(v, mark) }) {
			continue
		}
		command, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if len(command) == 0 {
			continue // a zombie: somebody will reap it, or the parent is shown
		}
		all = append(all, Process{pid, strings.TrimSpace(strings.ReplaceAll(string(command), "\x00", " "))})
	}
	return all
}

// Find returns the newest process of the cluster that is called name, 0 if there is none.
func (c *Cluster) Find(name string) (pid int) {
	for _, p := range c.Processes() {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.PID))
		if strings.TrimSpace(string(comm)) == name {
			pid = max(pid, p.PID)
		}
	}
	return pid
}

// A Footprint is what the daemon holds: its API's debug counters.
type Footprint map[string]uint64

// held are the counters that must come back to where they were once a program
// has ended. Segments may stay warm, so descriptors are counted without them.
var held = []string{"sessions", "jobs", "calls", "workers", "instances", "objects", "store_live_bytes", "inline_bytes", "goroutines", "fds"}

// Footprint asks the daemon for its counters.
func (c *Cluster) Footprint() (Footprint, error) {
	api := c.API()
	defer api.Close()
	f, err := api.DebugCounters(c.t.Context())
	if err != nil {
		return nil, err
	}
	f["fds"] -= min(f["segments"], f["fds"])
	return f, nil
}

// Settled waits until no program and no worker is left and the counters stand
// still, and returns them.
func (c *Cluster) Settled() Footprint {
	c.t.Helper()
	var last Footprint
	same := 0
	Eventually(c.t, "an idle daemon", func() (bool, string) {
		f, err := c.Footprint()
		if err != nil {
			return false, err.Error()
		}
		if f["sessions"]+f["workers"] == 0 && last != nil && f["goroutines"] == last["goroutines"] && f["fds"] == last["fds"] {
			same++
		} else {
			same = 0
		}
		last = f
		return same >= 20, fmt.Sprint(f)
	})
	return last
}

// MustReturnTo waits until the daemon holds no more than it did before.
func (c *Cluster) MustReturnTo(before Footprint) {
	c.t.Helper()
	if more, ok := c.returned(before, nil); !ok {
		c.t.Fatalf("not everything was given back within %v; now: %s", Patience, more)
	}
}

// returned waits until the daemon holds no more than it did before, and says what it still does.
//
// Slack is for what may stay between nodes: connections for bytes are kept for the next ones.
func (c *Cluster) returned(before Footprint, slack Footprint) (more string, ok bool) {
	return within(Patience, func() (bool, string) {
		now, err := c.Footprint()
		if err != nil {
			return false, err.Error()
		}
		var more []string
		for _, name := range held {
			if now[name] > before[name]+slack[name] {
				more = append(more, fmt.Sprintf("%s %d, was %d", name, now[name], before[name]))
			}
		}
		return len(more) == 0, strings.Join(more, "; ")
	})
}
