package test

import (
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/test/harness"
)

// measure prints how many calls a second a driver makes, over and over.
const measure = `
@yr.invoke
def f(x):
    return x

yr.init()
yr.get([f.invoke(i) for i in range(1000)])
for _ in range(1000):
    began = time.monotonic()
    yr.get([f.invoke(i) for i in range(1000)])
    say("rate", int(1000 / (time.monotonic() - began)))
`

// flood sends calls and never reads a result.
const flood = `
@yr.invoke
def f(x):
    return bytes(1000)

yr.init()
yr.get(f.invoke(0))
say("flooding")
held = []
while True:
    held.append(f.invoke(1))
`

func rates(p *harness.Program, n int) (rates []int) {
	for line := range strings.Lines(p.Lines("rate ", n)) {
		rate, _ := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, "rate ")))
		rates = append(rates, rate)
	}
	return rates
}

func best(of []int) (top int) {
	for _, v := range of {
		top = max(top, v)
	}
	return top
}

func TestStoppedDriverDoesNotSlowAnotherOne(t *testing.T) {
	c := harness.Start(t)
	stopped := c.Python(flood)
	stopped.Says("flooding")
	stopped.Signal(syscall.SIGSTOP)

	alone := harness.Start(t)
	want := best(rates(alone.Python(measure), 20))
	alone.Stop()
	got := best(rates(c.Python(measure), 20))
	require.Greater(t, got, want/2, "calls a second beside a stopped driver; alone %d", want)
}

func TestInvokesWhoseResultsNobodyReads(t *testing.T) {
	c := harness.Start(t)
	c.Run(warmUp)
	before := c.Settled()
	c.Run(`
@yr.invoke
def f(x):
    return x

yr.init()
last = None
for i in range(900_000):
    last = f.invoke(i)
assert yr.get(last) == 899_999
kept = [f.invoke(i) for i in range(100_000)]
assert yr.get(kept[-1]) == 99_999
`)
	c.MustReturnTo(before)
}

func TestDriverKilledGivesEverythingBack(t *testing.T) {
	c := harness.Start(t)
	c.Run(warmUp)
	before := c.Settled()
	p := c.Python(`
@yr.invoke
def f():
    say("in f", os.getpid())
    time.sleep(1000)

@yr.instance
class C:
    def m(self):
        return bytes(10_000_000)

yr.init()
kept = [yr.put(bytes(1_000_000)), C.invoke().m.invoke()]
yr.get(kept)
calls = [f.invoke() for _ in range(10)]
say("busy")
time.sleep(1000)
`)
	p.Says("busy")
	p.Signal(syscall.SIGKILL)
	require.Equal(t, syscall.SIGKILL, p.Wait().Signal)
	c.MustReturnTo(before)
}

func TestForkedChildrenDoNotKeepADeadDriverAlive(t *testing.T) {
	c := harness.Start(t)
	c.Run(warmUp)
	before := c.Settled()
	p := c.Python(`
import multiprocessing

@yr.invoke
def f(x):
    return x

def child():
    assert not yr.is_initialized()
    say("child", os.getpid())
    time.sleep(1000)

yr.init()
kept = yr.put(bytes(1_000_000))
assert yr.get(f.invoke(1)) == 1
process = multiprocessing.get_context("fork").Process(target=child)
process.start()
assert yr.get(f.invoke(2)) == 2
say("ready")
time.sleep(1000)
`)
	child, err := strconv.Atoi(strings.Fields(p.Says("child"))[1])
	require.NoError(t, err)
	p.Says("ready")
	p.Signal(syscall.SIGKILL)
	c.MustReturnTo(before)
	require.NoError(t, syscall.Kill(child, syscall.SIGKILL), "it is nobody's business but the user's")
}

func TestForkedChildMayInitialiseItself(t *testing.T) {
	c := harness.Start(t)
	require.Contains(t, c.Run(`
import multiprocessing

@yr.invoke
def f(x):
    return x + 1

def child():
    yr.init()
    assert yr.get(f.invoke(1)) == 2
    yr.finalize()

yr.init()
assert yr.get(f.invoke(2)) == 3
process = multiprocessing.get_context("fork").Process(target=child)
process.start()
process.join()
assert process.exitcode == 0, process.exitcode
assert yr.get(f.invoke(3)) == 4
say("ok")
`), "ok")
}

func TestWorkersKilledWhileTheyWork(t *testing.T) {
	c := harness.Start(t)
	p := c.Python(`
@yr.invoke
def f(x):
    return os.getpid()

f.options(yr.InvokeOptions(retry_times=100))
yr.init()
pids = set()
end = time.monotonic() + 3
while time.monotonic() < end:
    seen = set(yr.get([f.invoke(i) for i in range(200)]))
    for pid in seen - pids:
        os.kill(pid, 9)
    pids |= seen
assert len(pids) > 3, pids
say("ok")
`)
	r := p.Wait()
	require.Zero(t, r.Code, r)
}

func TestDaemonChildKilled(t *testing.T) {
	c := harness.Start(t)
	p := c.Python(`
@yr.invoke
def slow(x):
    time.sleep(4)
    return x

@yr.invoke
def f(x):
    return x

@yr.instance
class Counter:
    def __init__(self):
        self.n = 0

    def add(self):
        self.n += 1
        return self.n

yr.init()
counter = Counter.invoke()
assert yr.get(counter.add.invoke()) == 1
big = yr.put(bytes(range(256)) * 40_000)
small = yr.put({"a": 1})
running = slow.invoke(7)
say("kill")
with contextlib.suppress(RuntimeError):
    assert yr.get(running, timeout=20) == 7
assert bytes(yr.get(big)[:3]) == b"\x00\x01\x02"
assert yr.get(small) == {"a": 1}
assert yr.get(f.invoke(3)) == 3
assert yr.get(counter.add.invoke()) == 2
say("survived")
`)
	p.Says("kill")
	was := c.Child()
	require.NoError(t, syscall.Kill(was, syscall.SIGKILL))
	r := p.Wait()
	require.Zero(t, r.Code, r)
	require.Contains(t, r.Out, "survived")
	c.Restarted(was)
	harness.Eventually(t, "nothing left of the driver", func() (bool, string) {
		f, err := c.Footprint()
		if err != nil {
			return false, err.Error()
		}
		return f["sessions"]+f["objects"]+f["calls"]+f["workers"] == 0, "leftovers"
	})
}

func TestParentKilledUnderADriver(t *testing.T) {
	c := harness.Start(t)
	p := c.Python(`
@yr.invoke
def f():
    time.sleep(1000)

yr.init()
r = f.invoke()
say("ready")
with fails(RuntimeError, within=60):
    yr.get(r)
say("ended")
`)
	p.Says("ready")
	began := time.Now()
	require.NoError(t, syscall.Kill(c.Parent(), syscall.SIGKILL))
	r := p.Wait()
	require.Zero(t, r.Code, r)
	require.Contains(t, r.Out, "ended")
	require.Less(t, time.Since(began), 15*time.Second)
}

func TestTemporaryClusterEndsWithItsProgram(t *testing.T) {
	c := harness.New(t)
	p := c.Python(`
@yr.invoke
def f():
    return 1

yr.init()
assert yr.get(f.invoke()) == 1
say("ready")
time.sleep(1000)
`)
	p.Says("ready")
	p.Signal(syscall.SIGKILL)
	c.Gone()
}
