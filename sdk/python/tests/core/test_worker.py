"""A worker process, driven frame by frame: what it runs, in which order, and what it says."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
import threading

import cloudpickle
import pytest
from yr._core import control, serialization, wire
from yr._core.wire import Failure, Task
from yr.exception import remote_error

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the worker cannot import this module

WORKER = "worker0000000000000000"[:20]
MAIN = "from yr._worker.main import run; run({!r}, 'token', {!r})"


class Driven:
    """A worker and the agent's end of its session."""

    def __init__(self, agent, **assignment):
        agent.assignment = {"job": "job-00000001", **assignment}
        self.agent = agent
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN.format(WORKER, agent.path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.peer = agent.until(lambda: agent.peers and agent.peers[-1])
        self.delivery = 0
        self.numbers = 0
        self.ids = iter(range(1, 1 << 30))

    def define(self, function, **fields):
        self.numbers += 1
        blob = serialization.dumps_code(function)
        message = {"number": self.numbers, "code_id": hashlib.sha256(blob).digest()[:20], "name": "m.f", "code": blob}
        self.peer.send(wire.frame(wire.DEFINE, control.encode(control.FUNCTION, {**message, **fields})))
        return self.numbers

    def task(self, target, *args, method=b"", returns=1, flags=0, values=(), **kwargs):
        """Return a TASK frame and its delivery number."""
        self.delivery += 1
        id = b"caller000%011x" % next(self.ids)
        body = serialization.encode_simple_args(args, kwargs) if args or kwargs else b""
        return wire.task(Task(id, target, returns, list(values), method, body, {}), self.delivery, flags), self.delivery

    def run(self, target, *args, **kwargs):
        frame, delivery = self.task(target, *args, **kwargs)
        self.peer.send(frame)
        return delivery

    def outcome(self, delivery):
        """Wait for the RESULT of a delivery; return its values, or raise its error."""
        body = self.agent.until(lambda: self.results().get(delivery))
        _, values = wire.decode_result(body, 0, len(body))
        out = []
        for value, _ in values:
            if isinstance(value, Failure):
                raise remote_error(value.code, value.payload, value.serialized)
            out.append(serialization.decode(value))
        return out

    def call(self, target, *args, **kwargs):
        return self.outcome(self.run(target, *args, **kwargs))

    def results(self):
        return {corr: body for kind, _, corr, body in self.peer.frames if kind == wire.RESULT}

    def end(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def drive(agent):
    """Return a function that starts a worker with an assignment."""
    started = []

    def drive(**assignment):
        started.append(Driven(agent, **assignment))
        return started[-1]

    yield drive
    for worker in started:
        worker.end()


@pytest.fixture
def worker(drive):
    return drive()


INSTANCE = {"instance_id": b"instance000000000001"}


def test_hello_says_who_it_is(worker):
    hello = worker.peer.hello
    assert (hello["role"], hello["worker_id"].decode(), hello["token"]) == (2, WORKER, "token")
    assert hello["has_progress_page"]
    assert hello["language_version"].startswith("3.")


def test_functions_get_their_arguments_and_results_come_back(worker):
    add = worker.define(lambda a, b=10: a + b)
    assert worker.call(add, 1) == [11]
    assert worker.call(add, 1, b=2) == [3]
    assert worker.call(worker.define(lambda: None)) == [None]


def test_tasks_run_in_the_order_of_delivery(worker):
    seen = worker.define(_remember)
    frames = [worker.task(seen, k) for k in range(500)]
    worker.peer.send(*[frame for frame, _ in frames])
    assert worker.outcome(frames[-1][1]) == [list(range(500))]
    assert list(worker.results()) == [delivery for _, delivery in frames]


def _remember(k, seen=[]):  # noqa: B006
    seen.append(k)
    return list(seen)


def test_value_dependencies_take_their_places(worker):
    f = worker.define(lambda a, b, k: (a, b, k))
    body = serialization._assemble(*_pickled((1, None), {"k": None}, [1, "k"], [b"i" * 20, b"j" * 20])).to_bytes()
    values = [serialization.encode("second"), serialization.encode(3)]
    worker.delivery += 1
    worker.peer.send(wire.task(Task(b"caller000000ffffffff", f, 1, values, b"", body, {}), worker.delivery))
    assert worker.outcome(worker.delivery) == [(1, "second", 3)]


def _pickled(*decoded):
    return [pickle.dumps(decoded, 5)], [], []


def test_results_of_every_kind(worker, agent):
    assert worker.call(worker.define(lambda: (1, 2)), returns=2) == [1, 2]
    assert worker.call(worker.define(lambda: 5), returns=0) == []
    assert worker.call(worker.define(lambda: b"raw")) == [memoryview(b"raw")]
    delivery = worker.run(worker.define(lambda: b"x" * 200_000))
    body = agent.until(lambda: worker.results().get(delivery))
    place = wire.decode_result(body, 0, len(body))[1][0][0]
    assert isinstance(place, wire.Place)
    assert place.length == 200_064


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        ((1, 2), ValueError, r"not enough values to unpack \(expected 3, got 2\)"),
        ((1, 2, 3, 4), ValueError, r"not enough values to unpack \(expected 3, got 4\)"),
        (5, TypeError, "cannot unpack non-iterable <class 'int'> object"),
    ],
    ids=["too few", "too many", "no iterable"],
)
def test_the_declared_number_of_results_is_checked(worker, value, error, text):
    with pytest.raises(error, match=text):
        worker.call(worker.define(lambda: value), returns=3)


def test_user_exceptions_keep_their_class_and_the_worker_retires(worker, agent):
    ok, bad = worker.define(lambda: 1), worker.define(_divide)
    frames = [worker.task(ok), worker.task(bad), worker.task(ok)]
    worker.peer.send(*[frame for frame, _ in frames])
    assert worker.outcome(1) == [1]
    with pytest.raises(ZeroDivisionError, match="_divide"):
        worker.outcome(2)
    [body] = agent.until(lambda: worker.peer.of(wire.YIELD))
    assert wire.YIELD_FIELDS.unpack(body) == (2, wire.YIELD_RETIRING)
    assert 3 not in worker.results()


def _divide():
    return 1 // 0


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda: sys.exit(3), "SystemExit"),
        (lambda: threading.Lock(), "3003.*cannot be serialised.*lock"),
        (lambda: (_ for _ in ()).throw(KeyboardInterrupt), "KeyboardInterrupt"),
    ],
    ids=["sys.exit", "unpicklable result", "keyboard interrupt"],
)
def test_what_user_code_should_not_do_is_a_failed_call(worker, agent, function, text):
    with pytest.raises(RuntimeError, match=text):
        worker.call(worker.define(function))
    assert agent.until(lambda: worker.peer.of(wire.YIELD))


def test_code_that_cannot_be_loaded(worker):
    with pytest.raises(RuntimeError, match=r"2001.*m.f cannot be loaded.*no_such_module"):
        worker.call(worker.define(None, code=b"cno_such_module\nf\n."))
    assert worker.agent.until(lambda: worker.peer.of(wire.YIELD))


def test_an_initializer_runs_once_before_the_first_call(worker):
    import os

    def initialise():
        os.environ["INITIALISED"] = os.environ.get("INITIALISED", "") + "x"

    def read():
        return os.environ["INITIALISED"]

    f = worker.define(read, initializer=serialization.dumps_code((initialise, read)))
    assert worker.call(f) == ["x"]
    assert worker.call(f) == ["x"]


def test_a_failing_initializer_fails_the_call(worker):
    blob = serialization.dumps_code((_divide, _divide))
    with pytest.raises(RuntimeError, match=r"2001.*initializer.*ZeroDivisionError"):
        worker.call(worker.define(lambda: 1, initializer=blob))


# ---- waiting, recall


def _get_from_agent(id):
    from yr._core import runtime
    from yr.object_ref import _restore

    return runtime.current().get([_restore(id.encode())], 10)[0]


def test_a_task_that_waits_gives_its_share_and_its_backlog_back(worker, agent):
    waits, other = worker.define(_get_from_agent), worker.define(lambda: "other")
    wanted = "elsewhere0000000000a"
    frames = [worker.task(waits, wanted), worker.task(other)]
    worker.peer.send(*[frame for frame, _ in frames])
    [body] = agent.until(lambda: worker.peer.of(wire.BLOCKED))
    assert wire.U64.unpack(body) == (1,)
    late, _ = worker.task(other)
    worker.peer.send(late)  # crosses BLOCKED on the wire: dropped
    worker.peer.send(wire.frame(wire.YIELDED))
    worker.peer.send(wire.object_frame(wanted.encode(), serialization.encode("here")))
    assert worker.outcome(1) == ["here"]
    agent.until(lambda: worker.peer.of(wire.UNBLOCKED))
    assert worker.call(other) == ["other"]
    assert set(worker.results()) == {1, 4}


def test_a_thread_of_a_task_that_waits_counts_too(worker, agent):
    def in_a_thread(id, get=_get_from_agent):
        import concurrent.futures

        with concurrent.futures.ThreadPoolExecutor() as pool:
            return list(pool.map(get, [id, id]))

    delivery = worker.run(worker.define(in_a_thread), "elsewhere0000000000a")
    [body] = agent.until(lambda: worker.peer.of(wire.BLOCKED))
    assert wire.U64.unpack(body) == (1,)
    worker.peer.send(wire.frame(wire.YIELDED), wire.object_frame(b"elsewhere0000000000a", serialization.encode(5)))
    assert worker.outcome(delivery) == [[5, 5]]
    agent.until(lambda: worker.peer.of(wire.UNBLOCKED))


def test_a_wait_that_is_over_already_says_nothing(worker):
    def own():
        from yr._core import runtime

        current = runtime.current()
        return current.get([current.put(5)], 10)[0]

    assert worker.call(worker.define(own)) == [5]
    assert worker.peer.of(wire.BLOCKED) == []


def test_recall_while_a_task_runs_gives_back_the_rest(worker, agent, tmp_path):
    gate = tmp_path / "gate"

    def run(path):
        import pathlib
        import time

        pathlib.Path(path + ".started").touch()
        while not pathlib.Path(path).exists():
            time.sleep(0.005)
        return "done"

    f = worker.define(run)
    frames = [worker.task(f, str(gate)) for _ in range(3)]
    worker.peer.send(*[frame for frame, _ in frames])
    agent.until((tmp_path / "gate.started").exists)
    worker.peer.send(wire.frame(wire.RECALL))
    [body] = agent.until(lambda: worker.peer.of(wire.YIELD))
    assert wire.YIELD_FIELDS.unpack(body) == (1, wire.YIELD_RECALLED)
    worker.peer.send(wire.frame(wire.YIELDED))
    gate.touch()
    assert worker.outcome(1) == ["done"]
    assert worker.call(f, str(gate)) == ["done"]
    assert set(worker.results()) == {1, 4}


def test_a_result_leaves_while_the_next_task_runs_long(worker, agent, tmp_path):
    gate = tmp_path / "gate"

    def wait(path):
        import pathlib
        import time

        while not pathlib.Path(path).exists():
            time.sleep(0.005)

    fast, slow = worker.define(lambda: "fast"), worker.define(wait)
    frames = [worker.task(fast), worker.task(slow, str(gate))]
    worker.peer.send(*[frame for frame, _ in frames])
    assert worker.outcome(1) == ["fast"]
    assert 2 not in worker.results()
    gate.touch()
    worker.outcome(2)


# ---- instances


class Counter:
    kind = "counter"

    def __init__(self, start=0):
        self.value = start

    def add(self, n=1):
        self.value += n
        return self.value

    def __secret(self):
        return "private"

    @staticmethod
    def static():
        return "static"

    @classmethod
    def name(cls):
        return cls.kind

    def fail(self):
        raise KeyError("no")

    def leave(self):
        sys.exit(4)

    def stay(self):
        print("stays", flush=True)
        threading.Event().wait()

    def __yr_shutdown__(self, grace):
        print(f"shut down with {self.value} and {grace}")


def instance_of(worker, cls, *args):
    frame, delivery = worker.task(worker.define(cls), *args, flags=wire.FLAG_CONSTRUCT, returns=0)
    worker.peer.send(frame)
    return worker.outcome(delivery)


def test_an_instance_keeps_its_state_and_survives_its_exceptions(drive):
    worker = drive(**INSTANCE)
    assert instance_of(worker, Counter, 10) == []
    assert worker.call(0, method=b"add") == [11]
    with pytest.raises(KeyError):
        worker.call(0, method=b"fail")
    assert worker.call(0, 5, method=b"add") == [16]
    assert worker.call(0, method=b"static") == ["static"]
    assert worker.call(0, method=b"name") == ["counter"]
    assert worker.call(0, method=b"__secret") == ["private"]
    with pytest.raises(AttributeError, match="nothing"):
        worker.call(0, method=b"nothing")
    assert worker.peer.of(wire.YIELD) == []


def test_a_constructor_that_raises(drive):
    worker = drive(**INSTANCE)
    with pytest.raises(TypeError, match=r"unsupported operand"):
        instance_of(worker, type("Bad", (), {"__init__": lambda self: 1 + None}))


def test_an_instance_that_waits_keeps_its_backlog(drive, agent):
    worker = drive(**INSTANCE)
    cls = type("Waits", (), {"get": lambda self, id, get=_get_from_agent: get(id), "other": lambda self: "other"})
    instance_of(worker, cls)
    first, second = worker.run(0, "elsewhere0000000000a", method=b"get"), worker.run(0, method=b"other")
    [body] = agent.until(lambda: worker.peer.of(wire.BLOCKED))
    assert wire.U64.unpack(body) == (wire.NO_YIELD,)
    worker.peer.send(wire.object_frame(b"elsewhere0000000000a", serialization.encode(1)))
    assert worker.outcome(first) == [1]
    assert worker.outcome(second) == ["other"]


def test_shutdown_runs_the_hook_and_exits_with_zero(drive):
    worker = drive(**INSTANCE)
    instance_of(worker, Counter, 3)
    worker.peer.send(wire.frame(wire.SHUTDOWN, control.encode(control.SHUTDOWN, {"grace_ms": 7000, "reason": "job"})))
    out, _ = worker.process.communicate(timeout=10)
    assert worker.process.returncode == 0
    assert out == b"shut down with 3 and 7\n"


def test_shutdown_does_not_wait_for_a_method_that_stays(drive):
    worker = drive(**INSTANCE)
    instance_of(worker, Counter, 3)
    frame, _ = worker.task(0, method=b"stay")
    worker.peer.send(frame)
    assert worker.process.stdout.readline() == b"stays\n"
    worker.peer.send(wire.frame(wire.SHUTDOWN, control.encode(control.SHUTDOWN, {"grace_ms": 7000, "reason": "job"})))
    out, _ = worker.process.communicate(timeout=10)
    assert worker.process.returncode == 0
    assert out.endswith(b"shut down with 3 and 7\n")


def test_sigterm_is_an_orderly_end(drive):
    worker = drive(**INSTANCE)
    instance_of(worker, Counter, 3)
    worker.process.terminate()
    out, _ = worker.process.communicate(timeout=10)
    assert worker.process.returncode == 0
    assert out == b"shut down with 3 and 30\n"


def test_processes_that_user_code_forks_can_be_terminated(worker):
    def fork():
        import multiprocessing
        import time

        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
        child.terminate()
        child.join(10)
        return child.exitcode

    assert worker.call(worker.define(fork)) == [-15]
    assert worker.call(worker.define(lambda: "still here")) == ["still here"]


def test_a_forked_child_that_returns_from_the_task_ends(worker):
    def fork():
        import os

        child = os.fork()
        return "child" if child == 0 else os.waitpid(child, 0)[1]

    assert worker.call(worker.define(fork)) == [0]


def test_sys_exit_in_an_instance_fails_the_call_and_ends_the_process(drive):
    worker = drive(**INSTANCE)
    instance_of(worker, Counter)
    with pytest.raises(RuntimeError, match="SystemExit"):
        worker.call(0, method=b"leave")
    worker.process.communicate(timeout=10)
    assert worker.process.returncode == 1


def test_coroutine_methods_interleave_and_others_block_the_loop(drive):
    worker = drive(**INSTANCE, options={"is_async": True})

    class Async:
        async def first(self):
            import asyncio

            self.event = asyncio.Event()
            await self.event.wait()
            return "woken"

        def wake(self):
            self.event.set()
            return "waking"

        def gives_a_coroutine(self):
            async def inner():
                return "awaited"

            return inner()

        async def fail(self):
            raise KeyError("no")

    instance_of(worker, Async)
    waiting = worker.run(0, method=b"first")
    assert worker.call(0, method=b"wake") == ["waking"]
    assert worker.outcome(waiting) == ["woken"]
    assert worker.call(0, method=b"gives_a_coroutine") == ["awaited"]
    with pytest.raises(KeyError):
        worker.call(0, method=b"fail")


def test_a_coroutine_that_awaits_a_reference_gives_its_share_back(drive, agent):
    worker = drive(**INSTANCE, options={"is_async": True})

    class Awaits:
        async def both(self, id):
            import asyncio

            from yr.object_ref import _restore

            return await asyncio.gather(_restore(id.encode()), _restore(id.encode()))

    instance_of(worker, Awaits)
    waiting = worker.run(0, "elsewhere0000000000a", method=b"both")
    [body] = agent.until(lambda: worker.peer.of(wire.BLOCKED))
    assert wire.U64.unpack(body) == (wire.NO_YIELD,)
    worker.peer.send(wire.object_frame(b"elsewhere0000000000a", serialization.encode(6)))
    assert worker.outcome(waiting) == [[6, 6]]
    agent.until(lambda: worker.peer.of(wire.UNBLOCKED))


def test_concurrency_is_that_many_threads(drive):
    worker = drive(concurrency=5)

    def meet(barriers=[]):  # noqa: B006
        import threading

        with threading.Lock():
            if not barriers:
                barriers.append(threading.Barrier(5))
        barriers[0].wait(10)
        return threading.active_count()

    f = worker.define(meet)
    worker.call(worker.define(lambda: None))
    deliveries = [worker.run(f) for _ in range(5)]
    assert all(worker.outcome(d)[0] >= 5 for d in deliveries)


# ---- the agent goes away


def test_a_worker_resumes_and_says_its_results_again(worker, agent):
    f = worker.define(lambda: "value")
    delivery = worker.run(f)
    assert worker.outcome(delivery) == ["value"]
    agent.crash()
    again = agent.until(lambda: len(agent.peers) == 2 and agent.peers[1])
    assert again.hello["resume_token"]
    assert again.hello["worker"]["last_delivery"] == delivery
    agent.until(lambda: again.of(wire.ANNOUNCED))
    worker.peer = again
    assert worker.outcome(delivery) == ["value"]
    f = worker.define(lambda: "more")
    assert worker.call(f) == ["more"]


def test_a_worker_whose_agent_is_gone_ends_even_in_user_code(agent):
    code = (
        "from yr._core import session; session.GONE_SECONDS = 0.1\n"
        f"from yr._worker.main import run; run({WORKER!r}, 'token', {agent.path!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    try:
        peer = agent.until(lambda: agent.peers and agent.peers[0])
        blob = serialization.dumps_code(lambda: __import__("time").sleep(60))
        define = {"number": 1, "code_id": b"c" * 20, "name": "m.f", "code": blob}
        peer.send(wire.frame(wire.DEFINE, control.encode(control.FUNCTION, define)))
        peer.send(wire.task(Task(b"caller00000000000001", 1, 1, [], b"", b"", {}), 1))
        agent.crash(stay_away=True)
        _, err = process.communicate(timeout=10)
        assert process.returncode == 1
        assert b"yr worker ends" in err
    finally:
        process.kill()
        process.wait()
