package store

// How much memory there is: the machine's, and what the memory cgroups (v1 and
// v2, with all their parents) allow this process. A store that grows past either
// is not told so by an error but by the OOM killer.

import (
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// system is where the kernel's files are; tests point it elsewhere.
type system struct{ root string }

var host = system{root: "/"}

// DefaultCapacity is the size of the shared memory of a node with memoryMiB of
// memory (values.memory_num): a third of it, and at most half of what the memory
// cgroup and the machine can give now, because workers need memory too.
func DefaultCapacity(memoryMiB uint64) uint64 { return host.defaultCapacity(memoryMiB) }

// CgroupLimit is the memory limit of this process's cgroup or a parent of it.
func CgroupLimit() (bytes uint64, ok bool) { return host.cgroupLimit() }

// Headroom is how many more bytes this process tree may use before the memory
// cgroup or the machine is full, less a reserve for everyone else.
func Headroom() (bytes uint64, ok bool) { return host.headroom() }

func (y system) defaultCapacity(memoryMiB uint64) uint64 {
	capacity := memoryMiB * mib / 3
	if free, ok := y.headroom(); ok {
		capacity = min(capacity, free/2)
	}
	if limit, ok := y.cgroupLimit(); ok {
		capacity = min(capacity, limit/2)
	}
	return max(roundDown(capacity, mib), MinSlab)
}

func (y system) cgroupLimit() (uint64, bool) {
	limit := uint64(math.MaxUint64)
	for _, g := range y.cgroups() {
		limit = min(limit, g.limit)
	}
	return limit, limit != math.MaxUint64
}

func (y system) headroom() (uint64, bool) {
	total, available, known := y.meminfo()
	free := uint64(math.MaxUint64)
	if known {
		free = less(available, reserve(total))
	}
	for _, g := range y.cgroups() {
		free = min(free, less(g.limit, g.used+reserve(g.limit)))
	}
	return free, free != math.MaxUint64
}

// reserve is what the store leaves to the rest of a memory of this size.
func reserve(total uint64) uint64 { return min(max(total/16, 16*mib), 512*mib) }

func less(a, b uint64) uint64 {
	if a < b {
		return 0
	}
	return a - b
}

// meminfo reads MemTotal and MemAvailable.
func (y system) meminfo() (total, available uint64, ok bool) {
	fields := y.numbers("proc/meminfo")
	total, available = fields["MemTotal:"]*kib, fields["MemAvailable:"]*kib
	return total, available, available > 0
}

// cgroup is one level of the hierarchy that has a limit.
type cgroup struct{ limit, used uint64 }

// cgroups are the memory cgroups with a limit that this process is in, from its
// own upwards.
func (y system) cgroups() []cgroup {
	var found []cgroup
	for _, line := range y.lines("proc/self/cgroup") { // "4:memory:/path" or "0::/path"
		parts := strings.SplitN(line, ":", 3)
		if len(parts) != 3 {
			continue
		}
		switch {
		case parts[1] == "" && parts[0] == "0":
			found = append(found, y.walk("cgroup2", "", parts[2], y.version2)...)
		case contains(parts[1], "memory"):
			found = append(found, y.walk("cgroup", "memory", parts[2], y.version1)...)
		}
	}
	return found
}

// walk visits the cgroup at path and its parents. In a container the path may be
// the host's while only the container's own part is mounted: then the mount's
// root is our cgroup.
func (y system) walk(fstype, controller, path string, read func(dir string) (cgroup, bool)) []cgroup {
	mount, root := y.mount(fstype, controller)
	if mount == "" {
		return nil
	}
	rel, inside := strings.CutPrefix(path, strings.TrimSuffix(root, "/"))
	dir := filepath.Join(mount, rel)
	if _, err := os.Stat(filepath.Join(y.root, dir)); err != nil || !inside {
		dir = mount
	}
	var found []cgroup
	for {
		if g, ok := read(dir); ok {
			found = append(found, g)
		}
		if dir == mount || len(dir) <= len(mount) {
			return found
		}
		dir = filepath.Dir(dir)
	}
}

// mount finds where a cgroup hierarchy is mounted, and which cgroup is its root.
func (y system) mount(fstype, controller string) (point, root string) {
	for _, line := range y.lines("proc/self/mountinfo") {
		// 36 35 98:0 /root /point options shared:1 - type source superoptions
		before, after, ok := strings.Cut(line, " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 || right[0] != fstype {
			continue
		}
		if controller == "" || contains(right[2], controller) {
			return left[4], left[3]
		}
	}
	return "", ""
}

func (y system) version1(dir string) (cgroup, bool) {
	limit, ok := y.number(filepath.Join(dir, "memory.limit_in_bytes"))
	if !ok || limit >= 1<<62 { // "unlimited" is the largest multiple of a page
		return cgroup{}, false
	}
	used, _ := y.number(filepath.Join(dir, "memory.usage_in_bytes"))
	stat := y.numbers(filepath.Join(dir, "memory.stat"))
	return cgroup{limit, less(used, stat["total_inactive_file"]+stat["total_active_file"])}, true
}

func (y system) version2(dir string) (cgroup, bool) {
	limit, ok := y.number(filepath.Join(dir, "memory.max"))
	if !ok { // "max", or the root, which has no such file
		return cgroup{}, false
	}
	used, _ := y.number(filepath.Join(dir, "memory.current"))
	stat := y.numbers(filepath.Join(dir, "memory.stat"))
	return cgroup{limit, less(used, stat["inactive_file"]+stat["active_file"])}, true
}

func (y system) read(name string) string {
	b, _ := os.ReadFile(filepath.Join(y.root, name)) // absent: as if empty
	return string(b)
}

func (y system) lines(name string) []string { return strings.Split(y.read(name), "\n") }

func (y system) number(name string) (uint64, bool) {
	n, err := strconv.ParseUint(strings.TrimSpace(y.read(name)), 10, 64)
	return n, err == nil
}

// numbers reads lines of "name number ...".
func (y system) numbers(name string) map[string]uint64 {
	fields := make(map[string]uint64)
	for _, line := range y.lines(name) {
		if parts := strings.Fields(line); len(parts) >= 2 {
			if n, err := strconv.ParseUint(parts[1], 10, 64); err == nil {
				fields[parts[0]] = n
			}
		}
	}
	return fields
}

// contains reports whether a comma-separated list has this entry.
func contains(list, entry string) bool {
	for part := range strings.SplitSeq(list, ",") {
		if part == entry {
			return true
		}
	}
	return false
}
