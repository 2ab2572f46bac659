package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"yr/test/harness"
)

// aSmallStore is 64 MiB of shared memory.
var aSmallStore = []string{"-s", "values.shared_memory_num=64"}

func TestStoreFull(t *testing.T) {
	c := harness.Start(t, aSmallStore...)
	c.Run(warmUp)
	before := c.Settled()
	c.Run(`
yr.init()
held = []
with fails(RuntimeError, "4202", "failed to put object"):
    for _ in range(100):
        held.append(yr.put(bytes(8 << 20)))
assert len(held) >= 4, len(held)
@yr.invoke
def big(n):
    return bytes(n)

with fails(RuntimeError, "4202"):
    yr.get(big.invoke(100 << 20))
assert all(bytes(yr.get(r)[:1]) == b"\0" for r in held), "what was there is untouched"
held.clear()
for _ in range(20):
    assert len(yr.get(yr.put(bytes(8 << 20)))) == 8 << 20
`)
	c.MustReturnTo(before)
}

func TestPutAndDropReusesMemory(t *testing.T) {
	c := harness.Start(t, aSmallStore...)
	c.Run(`
yr.init()
for i in range(400):
    value = yr.get(yr.put(bytes([i % 256]) * (1 << 20)))
    assert value[0] == value[-1] == i % 256
`)
}

func TestViewPinsItsObject(t *testing.T) {
	c := harness.Start(t, aSmallStore...)
	c.Run(`
import numpy

yr.init()
r = yr.put(numpy.full(1 << 20, 7, dtype=numpy.uint8))
view = yr.get(r)
del r
for i in range(100):
    yr.put(numpy.full(1 << 20, i, dtype=numpy.uint8))
assert (view == 7).all()
with fails(ValueError, "read-only"):
    view[0] = 1
`)
}

// A client that writes to, or cuts, what it was given must harm nobody else.
func TestClientCannotSpoilSharedMemory(t *testing.T) {
	c := harness.Start(t)
	c.Run(warmUp)
	before, was := c.Settled(), c.Child()
	c.Run(`
import ctypes

yr.init()
size = 8 << 20
r = yr.put(b"\x07" * size)

@yr.invoke
def attack(value):
    """Try everything that one can do to the descriptors and mappings of this process."""
    done = []
    for name in os.listdir("/proc/self/fd"):
        path = "/proc/self/fd/" + name
        with contextlib.suppress(OSError):
            if "memfd:" not in os.readlink(path) or "progress" in os.readlink(path):
                continue
            for how in (os.O_RDWR, os.O_WRONLY):
                with contextlib.suppress(OSError):
                    fd = os.open(path, how)
                    done.append("opened for writing")
                    os.pwrite(fd, b"\x00" * 4096, 0)
            for length in (0, 1 << 40):
                with contextlib.suppress(OSError):
                    os.ftruncate(int(name), length)
                    done.append("truncated")
    return done

@yr.invoke
def scribble(value):
    view = memoryview(value)
    import numpy
    place = numpy.frombuffer(view, dtype=numpy.uint8).ctypes.data
    ctypes.memset(place, 0, 4096)

say(yr.get(attack.invoke(r)))
with fails(RuntimeError, "SIGSEGV"):
    yr.get(scribble.invoke(r))
assert bytes(yr.get(r)) == b"\x07" * size
`)
	require.Equal(t, was, c.Child(), "the daemon crashed")
	c.MustReturnTo(before)
}

// memoryGroup makes a memory cgroup of so many MiB; the test is skipped where that is not allowed.
func memoryGroup(t *testing.T, mib int) (join string) {
	for _, g := range []struct{ dir, limit, swap string }{
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"},
		{"/sys/fs/cgroup", "memory.max", "memory.swap.max"},
	} {
		dir := filepath.Join(g.dir, "yr-test-"+strconv.Itoa(os.Getpid()))
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		t.Cleanup(func() {
			harness.Eventually(t, "an empty cgroup", func() (bool, string) { err := os.Remove(dir); return err == nil, fmt.Sprint(err) })
		})
		if err := os.WriteFile(filepath.Join(dir, g.limit), []byte(strconv.Itoa(mib<<20)), 0o600); err != nil {
			continue
		}
		return filepath.Join(dir, "cgroup.procs")
	}
	t.Skip("no memory cgroup can be made here (it takes root)")
	return ""
}

const useMemory = `
import numpy

@yr.invoke
def total(a):
    return int(a.sum())

yr.init()
for i in range(30):
    assert yr.get(total.invoke(yr.put(numpy.full(4 << 20, 1, dtype=numpy.uint8)))) == 4 << 20
held = []
with fails(RuntimeError, "4202"):
    while True:
        held.append(yr.put(numpy.full(4 << 20, 1, dtype=numpy.uint8)))
say("ok", len(held))
`

func TestSmallMemoryGroup(t *testing.T) {
	procs := memoryGroup(t, 512)
	inside := func(argv ...string) []string {
		return append([]string{"sh", "-c", `echo $$ > "$0" && exec "$@"`, procs}, argv...)
	}
	c := harness.New(t)
	r := c.Command(inside(harness.Binary(t), "--log-dir-prefix", c.Prefix, "start", "--master")...).Wait()
	require.Zero(t, r.Code, r)
	c.Attach()
	was := c.Child()
	r = c.Command(inside(harness.Python(t), c.Driver(useMemory))...).Wait()
	require.Zero(t, r.Code, r)
	require.Contains(t, r.Out, "ok")
	require.Equal(t, was, c.Child(), "the daemon was killed")
}

func TestSmallSharedMemoryMount(t *testing.T) {
	if os.Getuid() != 0 || exec.Command("unshare", "-m", "true").Run() != nil {
		t.Skip("mount namespaces take root")
	}
	c := harness.New(t)
	script := strings.Join([]string{
		"mount -t tmpfs -o size=64m none /dev/shm",
		fmt.Sprintf("exec %s --log-dir-prefix %s start --master -s values.memory_num=2048", harness.Binary(t), c.Prefix),
	}, " && ")
	r := c.Command("unshare", "-m", "sh", "-c", script).Wait()
	require.Zero(t, r.Code, r)
	c.Attach()
	require.Contains(t, c.Run(`
import numpy

@yr.invoke
def total(a):
    return int(a.sum())

yr.init()
big = yr.put(numpy.full(200 << 20, 1, dtype=numpy.uint8))
assert yr.get(total.invoke(big)) == 200 << 20
say("ok")
`), "ok")
}
