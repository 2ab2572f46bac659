package launch

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// oomCounter watches how often the kernel's out-of-memory killer has struck in
// the memory cgroup of this process, or in the machine if there is none to see.
type oomCounter struct {
	path string // a file with a line "oom_kill <n>"; empty: none

	mu   sync.Mutex
	last uint64
}

func newOOMCounter() *oomCounter {
	for _, path := range append(cgroupFiles(), "/proc/vmstat") {
		c := &oomCounter{path: path}
		if n, ok := c.read(); ok {
			c.last = n
			return c
		}
	}
	return &oomCounter{}
}

// cgroupFiles lists where the counter may be: version 2, then version 1, each at
// our own path and (in a container that does not see it) at the root.
func cgroupFiles() []string {
	const root = "/sys/fs/cgroup"
	var v1, v2 []string
	lines, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(lines)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		switch {
		case parts[1] == "":
			v2 = append(v2, filepath.Join(root, parts[2], "memory.events"), root+"/memory.events")
		case strings.Contains(","+parts[1]+",", ",memory,"):
			v1 = append(v1, filepath.Join(root, "memory", parts[2], "memory.oom_control"), root+"/memory/memory.oom_control")
		}
	}
	return append(v2, v1...)
}

// moved reports whether the killer has struck since the last call.
func (c *oomCounter) moved() bool {
	n, ok := c.read()
	if !ok {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.last
	c.last = n
	return n > before
}

func (c *oomCounter) read() (uint64, bool) {
	if c.path == "" {
		return 0, false
	}
	body, err := os.ReadFile(c.path)
	if err != nil {
		return 0, false
	}
	for lines := bufio.NewScanner(bytes.NewReader(body)); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "oom_kill "); ok {
			n, err := strconv.ParseUint(value, 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
