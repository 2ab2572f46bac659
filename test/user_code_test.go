package test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"yr/test/harness"
)

// warmUp brings a cluster to the state in which footprints are compared.
const warmUp = `
@yr.invoke
def f(x):
    return x

yr.init()
assert yr.get(f.invoke(1)) == 1
`

// What users' programs do wrong. Each must end in a typed error that says what
// to do, and leave nothing in the daemon.
var userFaults = []struct{ name, program string }{
	{"an exception with pickle support keeps its class", `
class Broke(ValueError):
    pass

@yr.invoke
def f():
    raise Broke("money is gone")

with fails(Broke, "money is gone", "Traceback"):
    yr.get(f.invoke())
with fails(yr.exception.YRInvokeError, "money is gone"):
    yr.get(f.invoke())
`},
	{"an exception without pickle support keeps its text", `
@yr.invoke
def f():
    class Odd(Exception):
        def __reduce__(self):
            raise TypeError("never")
    raise Odd("seven")

with fails(RuntimeError, "Odd", "seven"):
    yr.get(f.invoke())
`},
	{"arguments that do not fit the signature", `
@yr.invoke
def f(a, b=2):
    return a

for wrong in (lambda: f.invoke(), lambda: f.invoke(1, 2, 3), lambda: f.invoke(1, c=3), lambda: f.invoke(1, a=1)):
    with fails(TypeError):
        wrong()
`},
	{"arguments that cannot be pickled", `
import threading

@yr.invoke
def f(a):
    return a

with fails(TypeError, "pickle"):
    f.invoke(threading.Lock())
`},
	{"a result that cannot be pickled", `
@yr.invoke
def f():
    import threading
    return threading.Lock()

with fails(RuntimeError, "cannot be serialised", "_thread.lock"):
    yr.get(f.invoke())
`},
	{"sys.exit", `
@yr.invoke
def f():
    sys.exit(3)

with fails(RuntimeError, "SystemExit"):
    yr.get(f.invoke())
`},
	{"os._exit", `
@yr.invoke
def f():
    os._exit(3)

with fails(RuntimeError, "exit code 3"):
    yr.get(f.invoke())
`},
	{"a segfault", `
@yr.invoke
def f():
    import ctypes
    ctypes.string_at(0)

with fails(RuntimeError, "SIGSEGV"):
    yr.get(f.invoke())
`},
	{"a worker killed with -9", `
@yr.invoke
def f():
    os.kill(os.getpid(), 9)

with fails(RuntimeError, "SIGKILL"):
    yr.get(f.invoke())
`},
	{"an instance killed with -9", `
@yr.instance
class C:
    def pid(self):
        return os.getpid()

c = C.invoke()
os.kill(yr.get(c.pid.invoke()), 9)
with fails(RuntimeError):
    while True:
        yr.get(c.pid.invoke())
`},
	{"a constructor that raises", `
@yr.instance
class C:
    def __init__(self):
        raise ValueError("no such file")

    def m(self):
        return 1

with fails(RuntimeError, "no such file"):
    yr.get(C.invoke().m.invoke())
`},
	{"a function that never returns and is cancelled", `
@yr.invoke
def f():
    say("running")
    while True:
        time.sleep(1)

r = f.invoke()
with fails(TimeoutError, within=3):
    yr.get(r, timeout=1)
yr.cancel(r)
with fails(RuntimeError, "cancelled"):
    yr.get(r)
`},
	{"get with a timeout", `
@yr.invoke
def f():
    time.sleep(60)

with fails(TimeoutError, "4005", within=2):
    yr.get(f.invoke(), timeout=1)
for wrong in (0, -2):
    with fails(ValueError, "timeout"):
        yr.get(yr.put(1), timeout=wrong)
`},
	{"use after finalize", `
@yr.invoke
def f():
    return 1

r = f.invoke()
yr.get(r)
yr.finalize()
with fails(RuntimeError, "runtime not enable"):
    f.invoke()
with fails(RuntimeError):
    yr.get(r, timeout=2)
with fails(RuntimeError):
    yr.put(1)
yr.init()
assert yr.get(f.invoke()) == 1
`},
	{"init twice", `
with fails(RuntimeError, "yr.init cannot be called twice"):
    yr.init()
`},
	{"terminate twice", `
@yr.instance
class C:
    def m(self):
        return 1

c = C.invoke()
assert yr.get(c.m.invoke()) == 1
c.terminate()
with contextlib.suppress(RuntimeError):
    c.terminate()
with fails(RuntimeError):
    yr.get(c.m.invoke())
`},
	{"resources that no node has", `
@yr.invoke
def f():
    return 1

o = yr.InvokeOptions()
o.custom_resources = {"ssd": 5}
with fails(RuntimeError, "ssd", "1006"):
    yr.get(f.options(o).invoke())
big = yr.InvokeOptions(cpu=16000, memory=128)
with fails(RuntimeError, "CPU", "16000"):
    yr.get(f.options(big).invoke())
with fails(ValueError, "cpu"):
    f.options(yr.InvokeOptions(cpu=1, memory=128)).invoke()
`},
	{"a function that cannot be loaded", `
class Trap:
    def __reduce__(self):
        return (eval, ("1/0",))

trap = Trap()

@yr.invoke
def f():
    return trap

with fails((RuntimeError, ZeroDivisionError)):
    yr.get(f.invoke())
`},
	{"put of nothing and of a reference", `
with fails(ValueError):
    yr.put(None)
with fails(TypeError):
    yr.put(yr.put(1))
`},
	{"get of what is no reference", `
with fails(TypeError, "obj_refs"):
    yr.get([1])
with fails(TypeError, "obj_refs"):
    yr.get(3)
`},
	{"a failed dependency", `
@yr.invoke
def bad():
    raise KeyError("lost")

@yr.invoke
def use(x):
    return x

with fails(RuntimeError, "lost"):
    yr.get(use.invoke(bad.invoke()))
`},
	{"f waits for g on one core", `
@yr.invoke
def g(x):
    return x + 1

@yr.invoke
def f(x):
    return yr.get(g.invoke(x)) + 1

whole = yr.InvokeOptions(cpu=4000, memory=128)
g.options(whole)
f.options(whole)
assert yr.get(f.invoke(1)) == 3
`},
	{"recursive Fibonacci deeper than the cores", `
@yr.invoke
def fib(n):
    if n < 2:
        return n
    return sum(yr.get([fib.invoke(n - 1), fib.invoke(n - 2)]))

assert yr.get(fib.invoke(9)) == 34
`},
	{"init in a thread that ends", `
import threading

yr.finalize()
t = threading.Thread(target=yr.init)
t.start()
t.join()

@yr.invoke
def f(x):
    return x

assert yr.get([f.invoke(i) for i in range(10)]) == list(range(10))
`},
	{"workers share no random stream", `
@yr.invoke
def draw(_):
    import random
    import numpy
    return os.getpid(), random.random(), numpy.random.random(), numpy.random.default_rng().random()

drawn = yr.get([draw.invoke(i) for i in range(64)])
for column in (1, 2, 3):
    assert len({d[column] for d in drawn}) == len(drawn), column
`},
	{"state of a function that raised does not leak", `
@yr.invoke
def mark(fail):
    first = not hasattr(sys, "marked")
    sys.marked = True
    if fail:
        raise ValueError
    return first

with fails(ValueError):
    yr.get(mark.invoke(True))
assert yr.get(mark.invoke(False))
`},
}

func TestUserFaults(t *testing.T) {
	c := harness.Start(t)
	c.Run(warmUp)
	before := c.Settled()
	for _, f := range userFaults {
		t.Run(f.name, func(t *testing.T) {
			c := c.For(t)
			require.Contains(t, c.Run("yr.init()\n"+f.program+"\nsay('ok')\n"), "ok")
			c.MustReturnTo(before)
		})
	}
}
