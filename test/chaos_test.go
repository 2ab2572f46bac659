package test

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"yr/test/harness"
)

// work does a little of everything for some seconds. Every result must be right;
// a call may fail, but only with an error that says that something was lost.
const work = `
import threading

@yr.invoke
def double(x):
    return x * 2

@yr.invoke
def size(data):
    return len(data)

@yr.instance
class Tally:
    def __init__(self):
        self.n = 0

    def add(self, k):
        self.n += k
        return self.n

double.options(yr.InvokeOptions(retry_times=20))
size.options(yr.InvokeOptions(retry_times=20))
LOST = ("3001", "3002", "1007", "1003", "4299", "4306")
done, lost, wrong, why = [0], [0], [], {}
end = time.monotonic() + float(sys.argv[1])

def check(what, got, want):
    try:
        value = got()
    except RuntimeError as e:
        lost[0] += 1
        why[str(e)] = why.get(str(e), 0) + 1
        if not any(code in str(e) for code in LOST):
            wrong.append(f"{what}: {type(e).__name__}: {e}")
    else:
        done[0] += 1
        if value != want:
            wrong.append(f"{what}: {value!r}, want {want!r}")

def calls():
    i = 0
    while time.monotonic() < end and not wrong:
        refs = [(k, double.invoke(k)) for k in range(i, i + 100)]
        for k, r in refs:
            check("double", lambda: yr.get(r, timeout=30), 2 * k)
        i += 100

def objects():
    while time.monotonic() < end and not wrong:
        check("size", lambda: yr.get(size.invoke(yr.put(bytes(300_000))), timeout=30), 300_000)

def instances():
    while time.monotonic() < end and not wrong:
        tally = Tally.invoke()
        total = 0
        for k in range(20):
            total += k
            before = len(wrong), lost[0]
            check("tally", lambda: yr.get(tally.add.invoke(k), timeout=30), total)
            if (len(wrong), lost[0]) != before:
                break  # it has ended, or was called and nobody knows how far
        tally.terminate()

yr.init()
yr.get(double.invoke(1))
say("working")
threads = [threading.Thread(target=t) for t in (calls, objects, instances)]
for t in threads:
    t.start()
for t in threads:
    t.join()
say("done", done[0], "lost", lost[0], *sorted(why.items(), key=lambda i: -i[1])[:5])
assert not wrong, "\n".join(wrong[:5])
assert done[0] > 100
`

// survive kills a victim every now and then while a driver works.
func survive(t *testing.T, times int, victim func(*harness.Cluster) int) {
	c := harness.Start(t)
	kill := func() {
		if pid := victim(c); pid != 0 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	c.Run(warmUp)
	kill() // before the comparison begins: a first death opens logs and starts another daemon
	c.Run(warmUp)
	before := c.Settled()
	p := c.Python(work, "6")
	p.Says("working")
	for range times {
		kill()
		if !p.Pause(1000 / times * 5) {
			break
		}
	}
	r := p.Wait()
	require.Zero(t, r.Code, r)
	t.Log(r.Out)
	c.MustReturnTo(before)
}

func TestWorkGoesOnWhileTheDaemonDies(t *testing.T) {
	survive(t, 3, func(c *harness.Cluster) int { return c.Child() })
}

func TestWorkGoesOnWhileTemplatesDie(t *testing.T) {
	survive(t, 20, func(c *harness.Cluster) int { return c.Find("yr-template") })
}

func TestWorkGoesOnWhileWorkersDie(t *testing.T) {
	survive(t, 20, func(c *harness.Cluster) int { return c.Find("yr-worker") })
}
