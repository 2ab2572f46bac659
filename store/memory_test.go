package store

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"yr/pkg/yr"
)

const (
	v1mount  = "31 24 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
	v2mount  = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
	docker1  = "31 24 0:27 /docker/abc /sys/fs/cgroup/memory ro,relatime master:9 - cgroup cgroup rw,memory\n"
	meminfo  = "MemTotal:       16777216 kB\nMemFree:         100 kB\nMemAvailable:    8388608 kB\n"
	unlimit1 = "9223372036854771712\n"
)

// machine is a fake root directory.
func machine(t *testing.T, files map[string]string) system {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o750))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	return system{root}
}

func TestMemoryOfTheMachine(t *testing.T) {
	const none = ^uint64(0)
	cases := []struct {
		name     string
		files    map[string]string
		limit    uint64 // MiB
		headroom uint64
		capacity uint64 // DefaultCapacity(16 GiB)
	}{
		{"nothing known", nil, none, none, 5461},
		{"no cgroup", map[string]string{"proc/meminfo": meminfo}, none, 8192 - 512, 3840},
		{
			"version 2, container", map[string]string{
				"proc/meminfo": meminfo, "proc/self/cgroup": "0::/\n", "proc/self/mountinfo": v2mount,
				"sys/fs/cgroup/memory.max": "536870912\n", "sys/fs/cgroup/memory.current": "104857600\n",
				"sys/fs/cgroup/memory.stat": "anon 5\nfile 900\ninactive_file 41943040\nactive_file 10485760\n",
			}, 512, 512 - 50 - 32, 215,
		},
		{
			"version 2, the parent is tighter", map[string]string{
				"proc/meminfo": meminfo, "proc/self/cgroup": "0::/user/job\n", "proc/self/mountinfo": v2mount,
				"sys/fs/cgroup/user/job/memory.max": "max\n", "sys/fs/cgroup/user/job/memory.current": "0\n",
				"sys/fs/cgroup/user/memory.max": "1073741824\n", "sys/fs/cgroup/user/memory.current": "0\n",
			}, 1024, 1024 - 64, 480,
		},
		{
			"version 1", map[string]string{
				"proc/meminfo": meminfo, "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/job\n0::/\n", "proc/self/mountinfo": v1mount,
				"sys/fs/cgroup/memory/memory.limit_in_bytes":     unlimit1,
				"sys/fs/cgroup/memory/job/memory.limit_in_bytes": "536870912\n", "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "209715200\n",
				"sys/fs/cgroup/memory/job/memory.stat": "inactive_file 1\ntotal_inactive_file 104857600\ntotal_active_file 0\n",
			}, 512, 512 - 100 - 32, 190,
		},
		{
			"version 1, container that sees the host's path", map[string]string{
				"proc/meminfo": meminfo, "proc/self/cgroup": "4:memory:/docker/abc\n", "proc/self/mountinfo": docker1,
				"sys/fs/cgroup/memory/memory.limit_in_bytes": "268435456\n", "sys/fs/cgroup/memory/memory.usage_in_bytes": "0\n",
			}, 256, 256 - 16, 120,
		},
		{
			"more used than allowed", map[string]string{
				"proc/meminfo": meminfo, "proc/self/cgroup": "0::/\n", "proc/self/mountinfo": v2mount,
				"sys/fs/cgroup/memory.max": "104857600\n", "sys/fs/cgroup/memory.current": "209715200\n",
			}, 100, 0, 1,
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			y := machine(t, c.files)
			inMiB := func(n uint64, ok bool) uint64 {
				if !ok {
					return none
				}
				return n / mib
			}
			require.Equal(t, c.limit, inMiB(y.cgroupLimit()), "limit")
			require.Equal(t, c.headroom, inMiB(y.headroom()), "headroom")
			require.Equal(t, c.capacity, y.defaultCapacity(16384)/mib, "capacity")
		})
	}
}

func TestDefaultCapacityIsAThird(t *testing.T) {
	y := machine(t, map[string]string{"proc/meminfo": meminfo})
	require.Equal(t, uint64(341*mib), y.defaultCapacity(1024))
}

func FuzzMemoryOfTheMachine(f *testing.F) {
	f.Add("4:memory:/../..\n0::/x\n", v1mount+v2mount, "5 6 7\nMemAvailable: x kB")
	f.Fuzz(func(t *testing.T, cgroups, mounts, mem string) {
		y := machine(t, map[string]string{"proc/self/cgroup": cgroups, "proc/self/mountinfo": mounts, "proc/meminfo": mem})
		require.GreaterOrEqual(t, y.defaultCapacity(3), uint64(MinSlab))
	})
}

func FuzzParseName(f *testing.F) {
	f.Add("seg-1-2-1048576")
	f.Add("seg-0-0-0")
	f.Add("seg-+1-2-3 ")
	f.Fuzz(func(t *testing.T, name string) {
		number, generation, size, err := parseName(name)
		if err == nil {
			g := segment{number: number, generation: generation, size: size}
			require.Equal(t, name, g.name())
		}
	})
}

// rerun runs one test of this binary again in another environment, in which
// childEnv is set.
func rerun(t *testing.T, test string, cmd ...string) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	args := append(cmd, self, "-test.run", "^"+test+"$", "-test.v")
	c := exec.Command(args[0], args[1:]...)
	c.Env = append(os.Environ(), childEnv+"=1")
	out, err := c.CombinedOutput()
	require.NoError(t, err, "%s\n%s", strings.Join(c.Args, " "), out)
	require.Contains(t, string(out), "--- PASS: "+test)
}

const childEnv = "YR_STORE_TEST_CHILD"

// exhaust leases until the store is full and touches every page, the way a client
// does; it returns what it got.
func exhaust(t *testing.T, capacity uint64) uint64 {
	t.Helper()
	s := New(Options{Capacity: capacity, Log: zerolog.Nop()})
	require.NoError(t, s.Open(context.Background()))
	defer func() { require.NoError(t, s.Close(context.Background())) }()
	var got uint64
	for {
		l, err := s.Lease(alice, 8*mib, 0)
		if err != nil {
			code(t, yr.StoreFull, err)
			t.Log(err)
			require.NoError(t, s.Check())
			return got
		}
		f, err := s.File(l.Segment, l.Generation, true, alice)
		require.NoError(t, err)
		m, err := unix.Mmap(int(f.Fd()), 0, int(l.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED) //nolint:gosec // a few MiB
		require.NoError(t, err)
		for i := 0; i < len(m); i += pageSize {
			m[i] = 1
		}
		require.NoError(t, unix.Munmap(m))
		require.NoError(t, f.Close())
		got += l.Size
	}
}

func TestStoreFillsWithASmallDevShm(t *testing.T) {
	if os.Getenv(childEnv) != "" {
		var fs unix.Statfs_t
		require.NoError(t, unix.Statfs("/dev/shm", &fs))
		require.Equal(t, uint64(64*mib), fs.Blocks*uint64(fs.Bsize), "the test's own /dev/shm") //nolint:gosec // a block is not that large
		require.GreaterOrEqual(t, exhaust(t, 160*mib), uint64(150*mib))
		return
	}
	mount := "mount -t tmpfs -o size=64m tmpfs /dev/shm"
	if out, err := exec.Command("unshare", "-m", "sh", "-c", mount).CombinedOutput(); err != nil {
		t.Skipf("no private mounts here: %v: %s", err, out)
	}
	rerun(t, t.Name(), "unshare", "-m", "sh", "-c", mount+` && exec "$0" "$@"`)
}

// TestStoreStopsBelowTheCgroupLimit asks, in a cgroup of 512 MiB, for a store
// that is larger, and lives to see StoreFull.
func TestStoreStopsBelowTheCgroupLimit(t *testing.T) {
	if os.Getenv(childEnv) != "" {
		limit, ok := CgroupLimit()
		require.True(t, ok)
		require.Equal(t, uint64(512*mib), limit)
		require.LessOrEqual(t, DefaultCapacity(1<<20), limit/2)
		got := exhaust(t, 4*gib)
		require.Less(t, got, limit)
		require.GreaterOrEqual(t, got, limit/2, "most of it can be used")
		return
	}
	procs := memoryCgroup(t, 512*mib)
	rerun(t, t.Name(), "sh", "-c", fmt.Sprintf(`echo $$ > %s && exec "$0" "$@"`, procs))
}

// memoryCgroup makes one below ours with a limit, for the length of the test, and
// returns the file that takes its members.
func memoryCgroup(t *testing.T, limit uint64) (procs string) {
	t.Helper()
	kinds := []struct{ fstype, controller, limit, swap string }{
		{"cgroup", "memory", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"},
		{"cgroup2", "", "memory.max", "memory.swap.max"},
	}
	for _, k := range kinds {
		mount, _ := host.mount(k.fstype, k.controller)
		if mount == "" {
			continue
		}
		for _, line := range host.lines("proc/self/cgroup") {
			parts := strings.SplitN(line, ":", 3)
			if len(parts) != 3 || parts[1] != k.controller {
				continue
			}
			dir := filepath.Join(mount, parts[2], fmt.Sprintf("yr-store-test-%d", os.Getpid()))
			if os.Mkdir(dir, 0o750) != nil {
				continue
			}
			t.Cleanup(func() {
				require.Eventually(t, func() bool { return unix.Rmdir(dir) == nil }, waitFor, poll)
			})
			if os.WriteFile(filepath.Join(dir, k.limit), fmt.Append(nil, limit), 0) == nil {
				_ = os.WriteFile(filepath.Join(dir, k.swap), []byte("0"), 0) // no swap accounting: no swap
				return filepath.Join(dir, "cgroup.procs")
			}
		}
	}
	t.Skip("no memory cgroup can be made here")
	return ""
}
