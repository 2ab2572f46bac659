# The driver of make bench-nodes; it runs on node a. For every line on its standard input it measures one round and
# prints it as a JSON object: microseconds and megabytes a second. Its arguments are the
# address of node b and the ports of two echoes there: one that keeps to a core of its own, one that does not.
import json
import socket
import statistics

import numpy as np

CALLS = 1000
SIZE = 100_000_000


@yr.instance
class Echo:
    def echo(self, x):
        return x

    def make(self, seed):
        return [yr.put(np.full(SIZE, seed % 251, dtype=np.uint8))]  # a result would travel to the caller by itself


@yr.invoke
def double(x):
    return 2 * x


def on(node):
    return yr.InvokeOptions(cpu=300, memory=128, custom_resources={node: 1})


def p50(call):
    took = []
    for _ in range(CALLS):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e6


def tcp_echo(port):
    with socket.create_connection((sys.argv[1], port)) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def call():
            s.sendall(b"x" * 64)
            left = 64
            while left:
                left -= len(s.recv(left))

        return p50(call)


def tcp_echo_apart():
    """The same with a core for each side, as two machines have: the echo stays on the last one."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        return tcp_echo(int(sys.argv[2]))
    finally:
        os.sched_setaffinity(0, cores)


def pipelined(instance):
    began = time.perf_counter()
    yr.get([instance.echo.invoke(1) for _ in range(10 * CALLS)])
    return 10 * CALLS / (time.perf_counter() - began)


def created(node):
    began = time.perf_counter()
    instance = Echo.options(on(node)).invoke()
    yr.get(instance.echo.invoke(1))
    took = time.perf_counter() - began
    instance.terminate()
    return took * 1e3


def fetched(instance, seed):
    made = yr.get(instance.make.invoke(seed), timeout=60)[0]
    began = time.perf_counter()
    value = yr.get(made, timeout=60)
    took = time.perf_counter() - began
    assert value[0] == value[-1] == seed % 251
    return SIZE / took / 1e6


yr.init()
here, there = (Echo.options(on(node)).invoke() for node in "ab")
yr.get([here.echo.invoke(1), there.echo.invoke(1)])
say("ready")
for round, _ in enumerate(sys.stdin):
    say(
        json.dumps(
            {
                "tcp echo, us": tcp_echo(int(sys.argv[3])),
                "tcp echo apart, us": tcp_echo_apart(),
                "local call, us": p50(lambda: yr.get(here.echo.invoke(1))),
                "remote call, us": p50(lambda: yr.get(there.echo.invoke(1))),
                "local calls/s": pipelined(here),
                "remote calls/s": pipelined(there),
                "local instance, ms": created("a"),
                "remote instance, ms": created("b"),
                "remote get, MB/s": fetched(there, round),
            }
        )
    )
