"""The workloads, in the order in which they are run and shown."""

from __future__ import annotations

import itertools
import os
import resource
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any, Callable

from . import bodies, floors, processes
from .target import WIDE, Target
from .workload import Bar, Figure, Round, Size, Workload, at_least, at_most, share_of_floor

BATCH = 1000
SMALL = 1024
LARGE = 100_000_000
INSTANCES = 100


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of all lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _one_by_one(target: Target, call: Callable[[], Any], size: Size) -> Iterator[Round]:
    """Round trips of a call, each awaited before the next, beside round trips of the echo."""
    count, clock = size.of(1000), time.perf_counter
    with floors.Echo() as echo:
        while True:
            target.get([call() for _ in range(10)])
            echo_trips = echo.round_trips(count)
            trips = []
            for _ in range(count):
                began = clock()
                target.get(call())
                trips.append(clock() - began)
            yield {
                "p50": statistics.median(trips) * 1e6,
                "p50.floor": statistics.median(echo_trips) * 1e6,
                "p99": percentile(trips, 0.99) * 1e6,
                "p99.floor": percentile(echo_trips, 0.99) * 1e6,
            }


def _in_batches(
    target: Target, call: Callable[[], Any], size: Size, collect: Callable[[list[Any]], Any]
) -> Iterator[Round]:
    """Batches of calls, all references kept until the round ends, beside batches of echoed frames; with the CPU that a
    call costs in the driver, in the daemon and in the workers."""
    batches = size.of(20)
    with floors.Echo() as echo:
        while True:
            # In turns with a peer, the workers of the last round may have been let go: have them back before it counts.
            target.get([call() for _ in range(BATCH)])
            floor = echo.batched(BATCH, batches)
            groups = target.processes()
            before = {role: processes.cpu_seconds(pids) for role, pids in groups.items()}
            own, kept = _own_cpu(), []
            began = time.perf_counter()
            for _ in range(batches):
                refs = [call() for _ in range(BATCH)]
                collect(refs)
                kept.append(refs)
            elapsed, own = time.perf_counter() - began, _own_cpu() - own
            calls = batches * BATCH
            values = {"rate": calls / elapsed, "rate.floor": floor, "driver": own / calls * 1e6}
            for role, pids in groups.items():
                values[role] = (processes.cpu_seconds(pids) - before[role]) / calls * 1e6
            yield values


def _own_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def call_sync(target: Target, size: Size) -> Iterator[Round]:
    """A stateless function, called and awaited one by one."""
    yield from _one_by_one(target, target.function(bodies.small), size)


def call_async(target: Target, size: Size) -> Iterator[Round]:
    """A stateless function from one driver: batches of calls whose values are fetched; the references are kept."""
    yield from _in_batches(target, target.function(bodies.small), size, target.get)


def call_with_deadline(target: Target, size: Size) -> Iterator[Round]:
    """As ``call_async``, and every call has a deadline a minute away that the node watches."""
    call = target.function_with_deadline(bodies.small, 60)
    if call is None:
        yield from ({} for _ in itertools.repeat(None))
    else:
        yield from _in_batches(target, call, size, target.get)


def call_and_forget(target: Target, size: Size) -> Iterator[Round]:
    """A stateless function whose references are dropped at once. The round ends when the last call's value is there."""
    call, count = target.function(bodies.small), size.of(20 * BATCH)
    while True:
        target.get([call() for _ in range(BATCH)])
        began = time.perf_counter()
        for _ in range(count - 1):
            call()
        target.get(call())
        yield {"rate": count / (time.perf_counter() - began)}


def instance_sync(target: Target, size: Size) -> Iterator[Round]:
    """A method of an instance, called and awaited one by one."""
    handle = target.instance(bodies.Echo)
    try:
        yield from _one_by_one(target, target.method(handle, "ping"), size)
    finally:
        target.retire(handle)


def instance_async(target: Target, size: Size) -> Iterator[Round]:
    """A method of one instance from one driver, in batches."""
    handle = target.instance(bodies.Echo)
    try:
        yield from _in_batches(target, target.method(handle, "ping"), size, target.get)
    finally:
        target.retire(handle)


def many_to_many(target: Target, size: Size) -> Iterator[Round]:
    """As many calling instances as cores, each calling its own instance in batches. All calls together a second."""
    cores = os.cpu_count() or 1
    callees = [target.instance(bodies.Echo) for _ in range(cores)]
    callers = [target.instance(bodies.Caller) for _ in range(cores)]
    runs = [target.method(caller, "run") for caller in callers]
    batches, kind = size.of(10), type(target)
    try:
        while True:
            began = time.perf_counter()
            done = target.get([run(kind, callee, BATCH, batches) for run, callee in zip(runs, callees)])
            yield {"rate": sum(done) / (time.perf_counter() - began)}
    finally:
        for handle in callers + callees:
            target.retire(handle)


def put_small(target: Target, size: Size) -> Iterator[Round]:
    """Puts of 1 KiB, one after the other without waiting. The round ends when a worker has consumed the last one."""
    consume, count, value, put = target.function(bodies.length), size.of(20 * BATCH), os.urandom(SMALL), target.put
    while True:
        kept = []
        target.get(consume(value))
        began = time.perf_counter()
        for _ in range(count):
            kept.append(put(value))
        target.get(consume(kept[-1]))
        yield {"rate": count / (time.perf_counter() - began)}


def get_small(target: Target, size: Size) -> Iterator[Round]:
    """Distinct objects of 1 KiB, put by another process: fetched in one batch, then again, being already here."""
    make, count, get = target.function(bodies.make_objects), size.of(5 * BATCH), target.get
    while True:
        refs = get(make(type(target), count, SMALL))
        began = time.perf_counter()
        get(refs)
        first = time.perf_counter() - began
        began = time.perf_counter()
        get(refs)
        again = time.perf_counter() - began
        singles = refs[:1000]
        began = time.perf_counter()
        for ref in singles:
            get(ref)
        single = time.perf_counter() - began
        yield {"distinct": count / first, "local": count / again, "single": len(singles) / single}


def put_large(target: Target, size: Size) -> Iterator[Round]:
    """Puts of 100 MB into pages that nobody has used (everything put before is kept), and into pages used before."""
    copy, kept = floors.Copy(LARGE), []  # type: floors.Copy, List[Any]
    value = bytes(copy.source)
    while True:
        floor = LARGE / 1e9 / statistics.median(copy.seconds() for _ in range(3))
        began = time.perf_counter()
        kept.append(target.put(value))
        first = time.perf_counter() - began
        again = []
        for _ in range(3):
            reference = target.put(value)
            del reference  # its pages are used before, by now and in every later turn
            began = time.perf_counter()
            reference = target.put(value)
            again.append(time.perf_counter() - began)
            del reference
        yield {
            "first": LARGE / 1e9 / first,
            "again": LARGE / 1e9 / statistics.median(again),
            "first.floor": floor,
            "again.floor": floor,
        }


def get_large(target: Target, size: Size) -> Iterator[Round]:
    """Values of 1 MB and 100 MB made by a worker and ready on the node: how long ``get`` takes to show them."""
    make = target.function(bodies.blob)
    settle = target.function(bodies.length)
    while True:
        values = {}
        for key, length in (("mb1", 1_000_000), ("mb100", LARGE)):
            reference = make(length)
            target.get(settle(reference))
            began = time.perf_counter()
            view = target.get(reference)
            values[key] = (time.perf_counter() - began) * 1e6
            if len(view) != length:
                raise AssertionError(f"{length} bytes were made, {len(view)} came")
        yield values


def create_one(target: Target, size: Size) -> Iterator[Round]:
    """An instance, created, called once and awaited, then the next."""
    count = size.of(20, 3)
    while True:
        times, handles = [], []
        for _ in range(count):
            began = time.perf_counter()
            handle = target.instance(bodies.Echo)
            target.get(target.method(handle, "ping")())
            times.append(time.perf_counter() - began)
            handles.append(handle)
        for handle in handles:
            target.retire(handle)
        yield {"p50": statistics.median(times) * 1e3, "p50.floor": floors.fork(20) * 1e3}


def create_many(target: Target, size: Size) -> Iterator[Round]:
    """100 instances created at once, each called once; until all values are there."""
    count = size.of(INSTANCES, 10)
    while True:
        began = time.perf_counter()
        handles = [target.instance(bodies.Echo) for _ in range(count)]
        target.get([target.method(handle, "ping")() for handle in handles])
        elapsed = time.perf_counter() - began
        for handle in handles:
            target.retire(handle)
        yield {"rate": count / elapsed}


def start(target: Target, size: Size) -> Iterator[Round]:
    """A node from nothing to ready, and a fresh program from its first line to its first value."""
    while True:
        yield target.fresh()


def idle_memory(target: Target, size: Size) -> Iterator[Round]:
    """Memory of every process of an idle node that has run a function and holds an instance, by role; MiB."""
    handle = target.instance(bodies.Echo)
    target.get(target.method(handle, "ping")())
    target.get([target.function(bodies.small)() for _ in range(10)])
    try:
        while True:
            time.sleep(0.5)  # not a wait for a condition: the node is to be seen idle
            values = {}
            for role, pids in target.processes().items():
                shares = [processes.memory(pid) for pid in pids]
                values[f"{role} count"] = float(len(pids))
                for kind in ("private", "shared", "pss"):
                    values[f"{role} {kind}"] = statistics.mean([share[kind] for share in shares] or [0.0])
                    values[f"{role} {kind} together"] = sum(share[kind] for share in shares)
            values["all pss"] = sum(values[f"{role} pss together"] for role in target.processes())
            yield values
    finally:
        target.retire(handle)


ECHO, BATCHED, MEMCPY, FORK = "Unix-socket echo", "batched echo", "memcpy", "fork"

_TRIP = (Figure("p50", "p50", "us", ECHO, at_most(80, 3.2), peer_bar=5), Figure("p99", "p99", "us", ECHO))
_CPU = (
    Figure("driver", "driver CPU a call", "us", "", at_most(6)),
    Figure("daemon", "daemon CPU a call", "us"),
    Figure("worker", "worker CPU a call", "us"),
)


def _rate(bar: Bar, floor: str = "", peer: float = 0) -> Figure:
    return Figure("rate", "rate", "/s", floor, bar, higher_is_better=True, peer_bar=peer)


WORKLOADS = (
    Workload("call-sync", 0, call_sync, _TRIP, "function, one by one"),
    Workload("instance-sync", 0, instance_sync, _TRIP, "method, one by one"),
    Workload("call-async", 0, call_async, (_rate(at_least(150000), BATCHED, 10), *_CPU), "function, batches of 1000"),
    Workload(
        "call-deadline", 0, call_with_deadline, (_rate(at_least(150_000), BATCHED), *_CPU), "with a deadline each"
    ),
    Workload("call-forget", 0, call_and_forget, (_rate(at_least(150_000), "", 10),), "function, references dropped"),
    Workload(
        "instance-async", 0, instance_async, (_rate(at_least(150000), BATCHED, 10), *_CPU), "method, batches of 1000"
    ),
    Workload("many-to-many", 0, many_to_many, (_rate(at_least(100_000), "", 10),), "n instances call n instances"),
    Workload("put-small", 0, put_small, (_rate(at_least(150_000)),), "put 1 KiB, pipelined"),
    Workload(
        "get-small",
        0,
        get_small,
        (
            Figure("distinct", "distinct, batched", "/s", "", at_least(150_000), True),
            Figure("local", "already local, batched", "/s", "", at_least(300_000), True),
            Figure("single", "already local, one by one", "/s", "", None, True),
        ),
        "get 1 KiB",
    ),
    Workload(
        "put-large",
        0,
        put_large,
        (
            Figure("first", "first use of pages", "GB/s", MEMCPY, share_of_floor(0.3), True),
            Figure("again", "pages used before", "GB/s", MEMCPY, share_of_floor(0.8), True),
        ),
        "put 100 MB",
    ),
    Workload(
        "get-large", 0, get_large, (Figure("mb1", "1 MB", "us"), Figure("mb100", "100 MB", "us")), "get as a view"
    ),
    Workload(
        "create-one",
        WIDE,
        create_one,
        (Figure("p50", "to first result, p50", "ms", FORK, at_most(15), peer_bar=5),),
        "one instance",
    ),
    Workload("create-many", WIDE, create_many, (_rate(at_least(100), "", 5),), "100 instances at once"),
    Workload(
        "start",
        None,
        start,
        (Figure("start", "node ready", "ms", "", at_most(200)), Figure("first result", "to first result", "ms")),
        "from nothing",
    ),
    Workload(
        "memory",
        0,
        idle_memory,
        (
            Figure("daemon private together", "daemon, private", "MiB", "", at_most(60)),
            Figure("daemon shared", "daemon, shared", "MiB"),
            Figure("parent private", "parent, private", "MiB"),
            Figure("template private", "template, private", "MiB"),
            Figure("template shared", "template, shared", "MiB"),
            Figure("worker private", "worker, private", "MiB"),
            Figure("worker shared", "worker, shared", "MiB"),
            Figure("all pss", "everything, proportional", "MiB"),
        ),
        "idle",
    ),
)
"""Every workload. A figure without a bar is information."""
