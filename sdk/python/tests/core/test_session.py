"""One connection, many threads: who reads, who waits, what a broken line means."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import random
import signal
import threading
import time

import pytest
from yr._core import runtime as core, serialization, session as session_module, wire
from yr._core.runtime import Code
from yr._core.wire import Failure
from yr.exception import YRRuntimeError, YRTimeoutError

CODE = Code(b"c" * 20, "m.f", b"blob")


@pytest.fixture
def echo(runtime):
    """Return the number of a function whose result is its (encoded) arguments."""
    return runtime.define(CODE, {})


@pytest.fixture
def held(agent):
    """Have the agent keep calls until the test answers them; return the list of calls."""
    calls = []
    agent.on_call = lambda peer, call: calls.append(call)
    return calls


def answer(peer, calls, value=serialization.NONE):
    peer.send(*[wire.result(call.id, [(value, [])]) for call in calls])


def test_a_call_gives_its_result(runtime, echo):
    assert runtime.get([runtime.invoke(echo, (), {})], 10) == [None]
    assert runtime.get([runtime.invoke(echo, (1, "x"), {"k": 2})], 10) == [((1, "x"), {"k": 2})]


def test_a_function_is_defined_once_for_the_same_code_and_options(runtime, peer, agent):
    a = runtime.define(CODE, {"cpu": 1.0})
    assert runtime.define(CODE, {"cpu": 1.0}) == a
    assert runtime.define(CODE, {"cpu": 2.0}) != a
    assert runtime.define(CODE._replace(code_id=b"d" * 20), {"cpu": 1.0}) != a
    runtime.session.flush()
    agent.until(lambda: len(peer.of(wire.DEFINE)) == 3)


def test_results_of_dropped_references_cost_nothing(runtime, echo, peer, agent):
    for _ in range(20_000):
        runtime.invoke(echo, (), {})
    runtime.session.flush()
    agent.until(lambda: sum(len(wire.decode_ids(b, 0, len(b))) for b in peer.of(wire.RELEASE)) == 20_000)
    assert runtime.get([runtime.invoke(echo, (), {})], 10) == [None]
    runtime.session.flush()
    assert len(runtime.session.objects.values) == 0
    assert len(runtime.session.calls) == 0


def test_invoke_waits_for_credit_and_reads_meanwhile(agent, connect):
    agent.credit = 64
    runtime = connect()
    number = runtime.define(CODE, {})
    most = 0
    refs = []
    for _ in range(2000):
        refs.append(runtime.invoke(number, (), {}))
        most = max(most, len(runtime.session.calls))
    assert most <= 64
    assert runtime.get(refs, 10) == [None] * 2000


def test_an_agent_that_writes_before_it_reads_is_no_deadlock(agent, connect):
    """Both sides have more to say than the socket holds."""
    agent.credit = 100_000
    big = serialization.encode("x" * 60_000)
    agent.on_call = lambda peer, call: wire.result(call.id, [(big, [])])
    runtime = connect()
    number = runtime.define(CODE, {})
    refs = [runtime.invoke(number, ("y" * 60_000,), {}) for _ in range(300)]
    assert all(len(v) == 60_000 for v in runtime.get(refs, 30))


def test_every_thread_gets_its_own_results(runtime, echo):
    failures = []

    def work(k):
        try:
            for i in range(100):
                assert runtime.get([runtime.invoke(echo, (k, i), {})], 10) == [((k, i), {})]
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures


def test_the_reading_role_is_handed_over(runtime, echo, peer, agent, held):
    """The thread that reads leaves first; another one that slept must read on."""
    first, second = runtime.invoke(echo, (), {}), runtime.invoke(echo, (), {})
    agent.until(lambda: len(held) == 2)
    got = []

    def get(ref, name):
        runtime.get([ref], 10)
        got.append(name)

    a = threading.Thread(target=get, args=(first, "first"))
    a.start()
    agent.until(runtime.session._role.locked)
    b = threading.Thread(target=get, args=(second, "second"))
    b.start()
    agent.until(lambda: runtime.session._sleepers)
    answer(peer, held[:1])
    a.join(5)
    assert got == ["first"]
    answer(peer, held[1:])
    b.join(5)
    assert got == ["first", "second"]


def test_a_sleeping_thread_is_woken_by_the_one_that_reads(runtime, echo, peer, agent, held):
    first, second = runtime.invoke(echo, (), {}), runtime.invoke(echo, (), {})
    agent.until(lambda: len(held) == 2)
    done = threading.Event()
    a = threading.Thread(target=runtime.get, args=([first], 10))
    a.start()
    agent.until(runtime.session._role.locked)
    b = threading.Thread(target=lambda: (runtime.get([second], 10), done.set()))
    b.start()
    agent.until(lambda: runtime.session._sleepers)
    answer(peer, held[1:])
    assert done.wait(session_module.RECV_TICK / 2)
    answer(peer, held[:1])
    a.join(5)
    b.join(5)


def test_get_that_is_not_ready_in_time(runtime, echo, held):
    ref = runtime.invoke(echo, (), {})
    start = time.monotonic()
    with pytest.raises(YRTimeoutError, match=r"4005.*Get object timeout"):
        runtime.get([ref], 0.2)
    assert 0.15 < time.monotonic() - start < 2
    assert runtime.wait([ref], 1, 0.05) == [False]


def test_partial_results(runtime, echo, peer, agent, held):
    refs = [runtime.invoke(echo, (), {}) for _ in range(3)]
    agent.until(lambda: len(held) == 3)
    with pytest.raises(YRTimeoutError):
        runtime.get(refs, 0.05, allow_partial=True)
    answer(peer, held[1:2], serialization.encode(7))
    assert runtime.wait(refs, 1, 5) == [False, True, False]
    assert runtime.get(refs, 0.05, allow_partial=True) == [None, 7, None]


def test_several_results_and_one_error_for_all(runtime, echo, agent):
    agent.on_call = lambda peer, call: wire.result(
        call.id, [(serialization.encode(k), []) for k in range(call.returns)]
    )
    assert runtime.get(runtime.invoke(echo, (), {}, 3), 10) == [0, 1, 2]
    assert runtime.invoke(echo, (), {}, 0) is None
    agent.on_call = lambda peer, call: wire.result(call.id, [(Failure(3001, False, b"lost"), [])])
    for ref in runtime.invoke(echo, (), {}, 2):
        with pytest.raises(YRRuntimeError, match=r"code: 3001.*lost"):
            runtime.get([ref], 10)


def test_awaiting_needs_no_thread_that_waits(runtime, echo):
    async def main():
        return await asyncio.gather(*[runtime.invoke(echo, (k,), {}) for k in range(50)])

    assert asyncio.run(main()) == [((k,), {}) for k in range(50)]


def test_callbacks_and_futures(runtime, echo, agent):
    got, event = [], threading.Event()
    runtime.invoke(echo, (1,), {}).on_complete(lambda v: (got.append(v), event.set()))
    assert event.wait(5)
    assert got == [((1,), {})]
    assert runtime.invoke(echo, (2,), {}).get_future().result(5) == ((2,), {})
    agent.on_call = lambda peer, call: wire.result(call.id, [(Failure(3001, False, b"lost"), [])])
    assert isinstance(runtime.invoke(echo, (), {}).get_future().exception(5), YRRuntimeError)


def test_an_unsent_call_leaves_by_itself(runtime, echo, peer, agent):
    """Nobody waits and nobody flushes: the background thread does."""
    refs = [runtime.invoke(echo, (), {}) for _ in range(3)]
    agent.until(lambda: len(peer.of(wire.CALL)) == 3)
    agent.until(lambda: all(runtime.session.objects.is_ready(r._id) for r in refs))


def test_nothing_depends_on_the_thread_that_connected(agent, connect):
    made = []
    t = threading.Thread(target=lambda: made.append(connect()))
    t.start()
    t.join()
    runtime = made[0]
    assert runtime.get([runtime.invoke(runtime.define(CODE, {}), (), {})], 10) == [None]


def test_control_c_ends_a_wait(runtime, echo, held):
    ref = runtime.invoke(echo, (), {})
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        runtime.get([ref], 30)
    assert time.monotonic() - start < 2


# ---- ends


def test_closing_wakes_everybody_with_error_9000(runtime, echo, agent, held):
    ref = runtime.invoke(echo, (), {})
    errors = []

    def get():
        try:
            runtime.get([ref], 10)
        except YRRuntimeError as e:
            errors.append(e)

    t = threading.Thread(target=get)
    t.start()
    agent.until(runtime.session._role.locked)
    runtime.close()
    t.join(5)
    assert "already finalized" in str(errors[0])
    assert int(errors[0].code) == 9000
    for use in (lambda: runtime.invoke(echo, (), {}), lambda: runtime.put(1), lambda: runtime.get([ref], 1)):
        with pytest.raises(YRRuntimeError, match="already finalized"):
            use()
    runtime.close()


def test_a_refused_session_says_why(agent, connect):
    agent.refused = (9012, "no common version")
    with pytest.raises(ValueError, match=r"failed to init, code: 9012.*no common version"):
        connect()


def test_nobody_listens(agent, tmp_path):
    from yr._core.runtime import Runtime

    with pytest.raises(ValueError, match=r"4002.*nothing.sock"):
        Runtime.connect(str(tmp_path / "nothing.sock"))


@pytest.mark.parametrize(
    "bad",
    [
        wire.HEADER.pack(wire.MAX_BODY + 1, wire.RESULT, 0, 0, 0),
        wire.frame(200),
        wire.frame(wire.RESULT, b"short"),
        wire.frame(wire.OBJECT, bytes(21)),
        wire.frame(wire.INSTANCE, b"\x0a\xff"),
        wire.frame(wire.TASK, b""),
    ],
    ids=["too large", "unknown type", "cut result", "cut object", "broken message", "cut task"],
)
def test_a_broken_frame_ends_the_session_with_a_typed_error(runtime, echo, peer, agent, held, bad):
    ref = runtime.invoke(echo, (), {})
    agent.until(lambda: held)
    peer.send(bad)
    with pytest.raises(YRRuntimeError, match=r"3002.*broken frame"):
        runtime.get([ref], 10)


@pytest.mark.parametrize("seed", range(12))
def test_any_bytes_from_the_agent_end_in_values_or_typed_errors(runtime, echo, peer, agent, held, seed):
    rng = random.Random(seed)
    refs = [runtime.invoke(echo, (), {}) for _ in range(20)]
    agent.until(lambda: len(held) == 20)
    for call in held:
        frame = bytearray(wire.result(call.id, [(serialization.encode(k), []) for k in range(rng.randrange(3))]))
        if rng.random() < 0.3:
            frame[rng.randrange(4, len(frame))] = rng.randrange(256)  # a length would only make it wait
        try:
            peer.send(bytes(frame))
        except OSError:  # the session has ended already
            break
    try:
        runtime.wait(refs, len(refs), 0.2)
    except RuntimeError:
        pass
    for ref in refs:
        try:
            runtime.get([ref], 0.001)
        except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError):
            pass


def test_a_forked_child_neither_uses_nor_ends_the_session(runtime, echo, peer, agent):
    ref = runtime.put("kept")
    fd = runtime.session._sock.fileno()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            del ref
            gc.collect()
            code = 0 if core.current() is None and not os.path.exists(f"/proc/self/fd/{fd}") else 2
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert runtime.get([ref], 5) == ["kept"]
    assert runtime.get([runtime.invoke(echo, (), {})], 5) == [None]
    released = [i for body in peer.of(wire.RELEASE) for i in wire.decode_ids(body, 0, len(body))]
    assert ref._id not in released


# ---- a daemon that crashes and comes back


def test_a_session_resumes_and_its_calls_end(runtime, echo, peer, agent, held):
    kept = runtime.put({"a": 1})
    ref = runtime.invoke(echo, (1,), {})
    agent.until(lambda: held)
    outcome = []
    waiting = threading.Thread(target=lambda: outcome.extend(runtime.get([ref], 20)))
    waiting.start()
    agent.on_call = lambda p, call: wire.result(call.id, [(serialization.encode("again"), [])])
    agent.crash()
    again = agent.until(lambda: len(agent.peers) == 2 and agent.peers[1])
    waiting.join(10)
    assert outcome == ["again"]
    assert again.hello["resume_token"] == f"resume-{peer.hello['prefix']}"
    assert again.hello["job"] == "job-00000001"
    agent.until(lambda: again.of(wire.ANNOUNCED))
    kinds = [(kind, flags) for kind, flags, _, _ in again.frames]
    assert kinds.index((wire.DEFINE, 0)) < kinds.index((wire.CALL, wire.FLAG_RESENT)) < kinds.index((wire.ANNOUNCED, 0))
    announced = [wire.decode_object(b, 0, len(b)) for b in again.of(wire.PUT)]
    assert (kept._id, serialization.encode({"a": 1}).to_bytes(), []) in announced
    assert runtime.get([runtime.invoke(echo, (), {})], 10) == ["again"]


def test_a_session_that_cannot_resume_fails_what_is_pending(runtime, echo, agent, held, monkeypatch):
    monkeypatch.setattr(session_module, "GONE_SECONDS", 0.1)
    ref = runtime.invoke(echo, (), {})
    agent.until(lambda: held)
    agent.crash(stay_away=True)
    with pytest.raises(YRRuntimeError, match=r"code: 3002.*yr.init\(\) again"):
        runtime.get([ref], 10)
    with pytest.raises(YRRuntimeError, match="code: 3002"):
        runtime.invoke(echo, (), {})


def test_a_refused_resumption_fails_what_is_pending(runtime, echo, agent, held):
    ref = runtime.invoke(echo, (), {})
    agent.until(lambda: held)
    agent.refused = (1014, "unknown resume token")
    agent.crash()
    with pytest.raises(YRRuntimeError, match=r"code: 3002.*unknown resume token"):
        runtime.get([ref], 10)
