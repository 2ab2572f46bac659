"""Rounds of init and finalize, objects, and what happens to a program that does it wrong."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import pytest
import yr

TIMEOUT = 20  # seconds


@yr.invoke
def square(n):
    return n * n


@yr.invoke
def hold(path):
    while not os.path.exists(path):
        time.sleep(0.005)
    return "held"


def get(refs):
    return yr.get(refs, TIMEOUT)


def test_ten_rounds_with_one_config_and_one_function(cluster):
    conf = yr.Config(server_address=cluster["server_address"], in_cluster=True, ds_address=cluster["server_address"])
    jobs = set()
    for n in range(10):
        jobs.add(yr.init(conf).job_id)
        assert get(square.invoke(n)) == n * n
        yr.finalize()
    assert len(jobs) == 10
    assert not yr.is_initialized()


def test_an_address_alone_is_enough(cluster):
    info = yr.init(yr.Config(server_address=cluster["server_address"], job_id="job-0000abcd"))
    try:
        assert info.job_id == "job-0000abcd"
        assert get(square.invoke(3)) == 9
    finally:
        yr.finalize()


def test_a_wrong_token_is_refused(cluster):
    with pytest.raises(yr.YRValueError, match=r"^failed to init, code: 1014, .*token"):
        yr.init(yr.Config(server_address=cluster["server_address"], auth_token="wrong", enable_tls=False))
    assert not yr.is_initialized()


def test_one_job_id_for_several_rounds(cluster):
    conf = yr.Config(server_address=cluster["server_address"], job_id="job-00000007")
    for n in range(3):
        assert yr.init(conf).job_id == "job-00000007"
        assert get(square.invoke(n)) == n * n
        yr.finalize()


def test_ctrl_c_interrupts_get(connected, tmp_path):
    ref = hold.invoke(str(tmp_path / "never"))
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        get(ref)
    assert time.monotonic() - began < 2


def test_an_idle_worker_is_released(cluster):
    yr.init(yr.Config(server_address=cluster["server_address"], recycle_time=1))
    try:
        which = yr.invoke(lambda: os.environ["INSTANCE_ID"])
        first = get(which.invoke())
        assert get(which.invoke()) == first
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            time.sleep(1.2)  # being idle takes time, and asking would end it
            if get(which.invoke()) != first:
                return
        pytest.fail("the worker is still there")
    finally:
        yr.finalize()


def test_init_twice(connected):
    with pytest.raises(RuntimeError, match=r"^yr.init cannot be called twice$"):
        yr.init()
    assert yr.is_initialized()


def test_init_inside_a_worker_is_allowed(connected):
    inside = yr.invoke(lambda: (yr.init(yr.Config(log_level="INFO")).job_id, yr.is_initialized(), yr.finalize()))
    assert get(inside.invoke()) == (connected.job_id, True, None)


def test_after_finalize(cluster, connected):
    ref = square.invoke(2)
    assert get(ref) == 4
    yr.finalize()
    yr.finalize()
    with pytest.raises(RuntimeError, match=r"^runtime not enable$"):
        square.invoke(1)
    with pytest.raises(yr.YRRuntimeError, match=r"^system not initialized$"):
        yr.get(ref)


def test_finalize_interrupts_a_waiting_get(connected, tmp_path):
    ref = hold.invoke(str(tmp_path / "never"))
    outcome = []

    def wait():
        try:
            yr.get(ref, TIMEOUT)
        except Exception as e:
            outcome.append(e)

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.1)
    yr.finalize()
    waiting.join(TIMEOUT)
    assert isinstance(outcome[0], yr.YRRuntimeError) and "already finalized" in str(outcome[0])


@pytest.mark.parametrize(
    "value", [0, 2**100, 1.5, "text", [1, [2]], {"a": {(): 1}}, {1, 2}, (1, None), type, True], ids=repr
)
def test_put_and_get(connected, value):
    back = get(yr.put(value))
    assert back == value and type(back) is type(value)


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [3, 5000, 1 << 20])
def test_bytes_come_back_as_a_memoryview(connected, make, size):
    value = make(b"x" * size)
    back = get(yr.put(value))
    assert isinstance(back, memoryview) and back == value


def test_arrays_are_views_and_read_only(connected):
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(1 << 20, dtype=numpy.float64)
    ref = yr.put(array)
    back = get(ref)
    assert (back == array).all() and not back.flags.writeable and not back.flags.owndata
    del ref
    assert (back == array).all()
    assert (get(yr.invoke(lambda a: a * 2).invoke(array)) == array * 2).all()


def test_references_inside_an_object_live_with_it(connected):
    outer = yr.put({"inner": [yr.put("kept")]})
    assert get(get(outer)["inner"][0]) == "kept"


def test_get_with_a_timeout(connected, tmp_path):
    gate = tmp_path / "gate"
    ref, done = hold.invoke(str(gate)), square.invoke(3)
    assert get(done) == 9
    with pytest.raises(
        TimeoutError, match=r"^failed to get object, code: 4005, module code: 20, msg: Get object timeout"
    ):
        yr.get(ref, 0.2)
    assert yr.get([done, ref], 0.2, allow_partial=True) == [9, None]
    with pytest.raises(yr.YRTimeoutError, match="allowPartial = true"):
        yr.get([ref], 0.2, allow_partial=True)
    assert yr.wait([ref, done], 1, 5) == ([done], [ref])
    assert yr.wait([ref, done], timeout=1) == ([done], [ref])
    gate.touch()
    assert get([ref, ref]) == ["held", "held"]


def test_wait_counts_failed_calls_as_ready(connected):
    failing = yr.invoke(lambda: 1 / 0)
    refs = [failing.invoke(), square.invoke(1), failing.invoke()]
    assert yr.wait(refs, timeout=TIMEOUT) == (refs, [])
    ready, unready = yr.wait(refs, 1, TIMEOUT)
    assert len(ready) == 1 and len(unready) == 2


def test_await(connected):
    async def main():
        with pytest.raises(ZeroDivisionError):
            await yr.invoke(lambda: 1 / 0).invoke()
        return await asyncio.gather(*(square.invoke(n).as_future() for n in range(5)))

    assert asyncio.run(main()) == [0, 1, 4, 9, 16]


def test_a_reference_survives_copies(connected):
    import copy

    ref = yr.put("x")
    assert copy.deepcopy(ref) is ref
    again = pickle.loads(pickle.dumps(ref))
    del ref
    assert get(again) == "x"


def run(program: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **env}, capture_output=True, text=True, timeout=60
    )


def test_init_in_a_thread_that_ends(connected):
    done = run(
        "import threading, yr\n"
        "t = threading.Thread(target=yr.init); t.start(); t.join()\n"
        "print(yr.get(yr.invoke(lambda: 5).invoke()))\n"
    )
    assert done.stdout == "5\n", done.stderr


def test_a_forked_child_starts_afresh_and_the_parent_goes_on(connected):
    done = run(
        "import os, yr\n"
        "yr.init()\n"
        "square = yr.invoke(lambda n: n * n)\n"
        "assert yr.get(square.invoke(2)) == 4\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    assert not yr.is_initialized()\n"
        "    yr.init()\n"
        "    assert yr.get(square.invoke(3)) == 9\n"
        "    raise SystemExit(0)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
        "print(yr.get(square.invoke(4)))\n"
    )
    assert done.stdout == "16\n", done.stderr


def test_a_program_started_by_a_worker_joins_the_same_cluster(connected):
    program = "import yr; yr.init(); print(yr.apis.get_node_id())"

    def start():
        import subprocess
        import sys

        return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)

    done = get(yr.invoke(start).invoke())
    assert (done.stdout.strip(), done.stderr) == (yr.runtime_holder.global_runtime.get_runtime().node, "")


def test_main_module_code_travels(connected, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "import yr\n"
        "def helper(x): return x + 1\n"
        "class Mistake(Exception): pass\n"
        "@yr.invoke\n"
        "def f(x):\n"
        "    if x < 0: raise Mistake(x)\n"
        "    return helper(x)\n"
        "yr.init()\n"
        "print(yr.get(f.invoke(1)))\n"
        "try: yr.get(f.invoke(-1))\n"
        "except Mistake as e: print('caught', e.cause)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "2\ncaught -1\n", done.stderr


def test_a_decorated_function_of_another_module_and_its_neighbours(connected, tmp_path):
    (tmp_path / "lib.py").write_text("import yr, helpers\n@yr.invoke\ndef f(x): return helpers.plus(x)\n")
    (tmp_path / "helpers.py").write_text("def plus(x): return x + 1\n")
    done = run(
        "import sys, yr, lib\nyr.init()\nprint(yr.get(lib.f.invoke(1)))\n",
        PYTHONPATH=f"{tmp_path}:{':'.join(sys.path)}",
    )
    assert done.stdout == "2\n", done.stderr


TEMPORARY = (
    "import os, sys, yr\n"
    "yr.init(yr.Config(num_cpus=2))\n"
    "print(yr.get(yr.invoke(lambda: 5).invoke()), flush=True)\n"
    "child = yr.runtime_holder.global_runtime._temporary._process.pid\n"
    "print(child, flush=True)\n"
)


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """No cluster of this machine, and the built yr on PATH."""
    from .conftest import BINARY

    monkeypatch.setenv("PATH", f"{BINARY.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("YR_MASTER_INFO_PATH", str(tmp_path / "info"))
    return tmp_path


def gone(pid: int) -> bool:
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


def test_a_temporary_cluster_ends_with_its_program(alone):
    done = run(TEMPORARY)
    value, child = done.stdout.split()
    assert value == "5", done.stderr
    assert "there is no cluster on this machine" in done.stderr and "ready after" in done.stderr
    assert gone(int(child))


def test_a_temporary_cluster_ends_with_its_program_killed(alone):
    program = TEMPORARY + "import time; time.sleep(60)\n"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as driver:
        assert driver.stdout.readline() == b"5\n"
        child = int(driver.stdout.readline())
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        assert gone(child)


def test_stale_master_info_is_noted_and_a_temporary_cluster_started(alone):
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    (alone / "info").write_text(f"local_ip:127.0.0.1,bus:{port},\n")
    done = run(TEMPORARY)
    assert done.stdout.startswith("5\n"), done.stderr
    assert f"{alone / 'info'} is left from a cluster that is gone (127.0.0.1:{port})" in done.stderr


def test_rounds_with_temporary_clusters(alone):
    done = run(
        "import yr\n"
        "conf = yr.Config()\n"
        "f = yr.invoke(lambda n: n + 1)\n"
        "for n in range(3):\n"
        "    yr.init(conf); print(yr.get(f.invoke(n))); yr.finalize()\n"
    )
    assert done.stdout == "1\n2\n3\n", done.stderr
