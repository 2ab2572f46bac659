package config

import (
	"bufio"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// Host is what can be found out about this machine.
type Host struct {
	Name      string // host name
	PID       int    // makes the default node_id unique
	IP        string
	Addresses []string // all that this machine has
	CPUs      int
	MemoryMB  int64 // what this process may use: the cgroup's limit, else the machine's memory
}

// Detect looks at this machine.
func Detect() Host {
	name, err := os.Hostname()
	if err != nil || name == "" {
		name = "node"
	}
	return Host{
		Name: name, PID: os.Getpid(), IP: outboundIP(), Addresses: interfaceIPs(),
		CPUs: runtime.NumCPU(), MemoryMB: memoryMB("/"),
	}
}

// tree is the layer of found-out values; an unknown one is absent.
func (h Host) tree() map[string]any {
	values := map[string]any{}
	if h.Name != "" {
		values["node_id"] = fmt.Sprintf("%s-%d", h.Name, h.PID)
	}
	if h.IP != "" {
		values["host_ip"] = h.IP
	}
	if h.CPUs > 0 {
		values["cpu_num"] = int64(h.CPUs) * 1000
	}
	if h.MemoryMB > 0 {
		values["memory_num"] = h.MemoryMB
	}
	return map[string]any{"values": values}
}

// outboundIP is the source address of a packet to the outside; without a route,
// the first address that is not loopback.
func outboundIP() string {
	if ip, err := RouteTo("8.8.8.8:80"); err == nil {
		return ip
	}
	for _, text := range interfaceIPs() {
		if ip := net.ParseIP(text); !ip.IsLoopback() && ip.To4() != nil {
			return text
		}
	}
	return "127.0.0.1"
}

// RouteTo is the address of this machine from which a packet to host:port would
// leave, and so the one at which that host can most likely reach it. Connecting a
// datagram socket sends nothing.
func RouteTo(address string) (string, error) {
	c, err := net.Dial("udp", address)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	a, ok := c.LocalAddr().(*net.UDPAddr)
	if !ok || a.IP.IsUnspecified() {
		return "", fmt.Errorf("no address of this machine leads to %s", address)
	}
	return a.IP.String(), nil
}

func interfaceIPs() []string {
	addresses, _ := net.InterfaceAddrs()
	var ips []string
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok {
			ips = append(ips, n.IP.String())
		}
	}
	return ips
}

// memoryMB is the smallest memory limit that holds for this process, in MB:
// every cgroup (v2 or v1) from its own up to the root, and the machine itself.
// root is "/" but in tests.
func memoryMB(root string) int64 {
	limit := int64(math.MaxInt64)
	for _, file := range limitFiles(root) {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		// v2 says "max" for no limit, v1 a number near 2^63: neither survives the minimum.
		if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && n > 0 {
			limit = min(limit, n)
		}
	}
	if total := memTotal(root); total > 0 {
		limit = min(limit, total)
	}
	if limit == math.MaxInt64 {
		return 0
	}
	return limit >> 20
}

func limitFiles(root string) []string {
	f, err := os.Open(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	var files []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		parts := strings.SplitN(lines.Text(), ":", 3)
		if len(parts) != 3 {
			continue
		}
		var base, file string
		switch {
		case parts[0] == "0" && parts[1] == "":
			base, file = "sys/fs/cgroup", "memory.max"
		case hasController(parts[1], "memory"):
			base, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		default:
			continue
		}
		// A container sees its own cgroup at the mount's root whatever path it is told.
		for dir := filepath.Clean("/" + parts[2]); ; dir = filepath.Dir(dir) {
			files = append(files, filepath.Join(root, base, dir, file))
			if dir == "/" {
				break
			}
		}
	}
	return files
}

func hasController(list, name string) bool {
	for _, c := range strings.Split(list, ",") {
		if c == name {
			return true
		}
	}
	return false
}

func memTotal(root string) int64 {
	f, err := os.Open(filepath.Join(root, "proc/meminfo"))
	if err != nil {
		return 0
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) >= 2 && fields[0] == "MemTotal:" {
			kb, _ := strconv.ParseInt(fields[1], 10, 64)
			return kb << 10
		}
	}
	return 0
}
