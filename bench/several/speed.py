# The driver of make bench-nodes; it runs on node a. For every line on its standard input it measures one round and prints
# it as a JSON object: microseconds and megabytes a second. Its argument is the address of an echo on node b.
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
        return np.full(SIZE, seed % 251, dtype=np.uint8)


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


def tcp_echo():
    host, port = sys.argv[1].split(":")
    with socket.create_connection((host, int(port))) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def call():
            s.sendall(b"x" * 64)
            left = 64
            while left:
                left -= len(s.recv(left))

        return p50(call)


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
    made = instance.make.invoke(seed)
    yr.wait(made, timeout=60)
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
    say(json.dumps({
        "tcp echo, us": tcp_echo(),
        "local call, us": p50(lambda: yr.get(here.echo.invoke(1))),
        "remote call, us": p50(lambda: yr.get(there.echo.invoke(1))),
        "local calls/s": pipelined(here),
        "remote calls/s": pipelined(there),
        "local instance, ms": created("a"),
        "remote instance, ms": created("b"),
        "remote get, MB/s": fetched(there, round),
    }))
