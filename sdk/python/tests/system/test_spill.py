"""More objects than memory holds: they go to disk and come back, whatever happens meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest
import yr
from yr.exception import YRRuntimeError

from .conftest import BINARY

np = pytest.importorskip("numpy")

TIMEOUT = 60  # seconds
MEMORY = 64  # MiB of shared memory
ITEMS = 1 << 17  # of 8 bytes: 1 MiB


@yr.invoke
def total(x):
    return int(x.sum())


@yr.invoke
def both(x, y):
    return x[0] + y[0]


@yr.instance
class Keeper:
    def __init__(self):
        self.kept = []

    def keep(self, x):
        self.kept.append(x)

    def sums(self):
        return [int(x.sum()) for x in self.kept]


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A function that starts a node with little memory and a disk, and connects to it."""
    started = []

    def start(*settings):
        command = [BINARY, "start", "--master", "-o", "json", "-s", "values.function_master.global_scheduler_port=0"]
        command += ["-s", "values.function_proxy.grpc_listen_port=0"]
        command += ["--log-dir-prefix", tmp_path, "--cpu_num", "16000", "--memory_num", "32000"]
        for setting in (f"values.shared_memory_num={MEMORY}", "values.ds_worker.spill=true", *settings):
            command += ["-s", setting]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        started.append(json.loads(done.stdout))
        for variable in [v for v in os.environ if v.startswith("YR_")]:
            monkeypatch.delenv(variable)
        monkeypatch.setenv("YR_MASTER_INFO_PATH", os.path.join(tmp_path, "yr_current_master_info"))
        yr.init()
        return started[0]

    yield start
    yr.finalize()
    left = spilled(tmp_path)
    subprocess.run([BINARY, "stop", "--log-dir-prefix", tmp_path], check=True, timeout=30, capture_output=True)
    assert started
    assert [f for f in left if f.exists()] == [], "a program that has ended leaves nothing on disk"


def kill_daemon(supervisor):
    children = [c for t in Path(f"/proc/{supervisor}/task").iterdir() for c in (t / "children").read_text().split()]
    [daemon] = [c for c in children if b"daemon" in Path(f"/proc/{c}/cmdline").read_bytes().split(b"\0")]
    os.kill(int(daemon), signal.SIGKILL)


def spilled(directory):
    return list(Path(directory).rglob("spill-*"))


def array(k):
    return np.full(ITEMS, k, dtype=np.int64)


def put(count, start=0):
    return [yr.put(array(k)) for k in range(start, start + count)]


def check(refs, start=0):
    for k, ref in enumerate(refs, start):
        assert (yr.get(ref, TIMEOUT) == k).all(), k


def test_four_times_the_memory(node, tmp_path):
    node()
    refs = put(4 * MEMORY)
    assert spilled(tmp_path)
    check(refs)
    assert yr.wait(refs, len(refs), 1) == (refs, [])
    small = [yr.put(bytes([k % 256]) * 100_000) for k in range(500)]
    assert all(bytes(yr.get(r, TIMEOUT)) == bytes([k % 256]) * 100_000 for k, r in enumerate(small))
    check(refs)


def test_views_stay_where_they_are(node):
    node()
    refs = put(3 * MEMORY)
    views = [yr.get(ref, TIMEOUT) for ref in refs[: MEMORY // 4]]
    check(refs)
    assert all((view == k).all() for k, view in enumerate(views))
    del views
    check(refs)


@pytest.mark.skipif(not os.environ.get("YR_LONG"), reason="a getter waits ten seconds for room; YR_LONG=1")
def test_memory_full_of_views_is_an_error_that_ends_with_them(node):
    node()
    refs = put(2 * MEMORY)
    views = []
    with pytest.raises(YRRuntimeError, match="4202"):
        for ref in refs:
            views.append(yr.get(ref, TIMEOUT))
    assert len(views) > MEMORY // 2
    del views
    check(refs)


def test_calls_and_instances_take_what_is_on_disk(node):
    node()
    refs = put(3 * MEMORY)
    sums = [total.invoke(ref) for ref in refs]
    pairs = [both.invoke(a, b) for a, b in zip(refs, reversed(refs))]
    assert yr.get(sums, TIMEOUT) == [k * ITEMS for k in range(len(refs))]
    assert yr.get(pairs, TIMEOUT) == [len(refs) - 1] * len(refs)
    keeper = Keeper.invoke()
    for ref in refs[:16]:
        yr.get(keeper.keep.invoke(ref), TIMEOUT)
    check(refs)  # what the instance looks at stays
    assert yr.get(keeper.sums.invoke(), TIMEOUT) == [k * ITEMS for k in range(16)]


def test_threads_that_read_and_drop(node):
    node()
    refs, errors = put(2 * MEMORY), []

    def work(seed):
        try:
            for k in range(seed, 40 * len(refs), 37):
                k %= len(refs)
                assert (yr.get(refs[k], TIMEOUT) == k).all()
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert errors == []


def test_a_full_disk_is_said_and_costs_nothing_that_was_made(node):
    node("ds_worker.args.spill_size_limit=16777216")
    refs = []
    with pytest.raises(YRRuntimeError, match=r"4202.*nothing can be moved to disk.*for spilled objects are taken"):
        for k in range(4 * MEMORY):
            refs.append(yr.put(array(k)))
    assert MEMORY // 2 < len(refs) <= MEMORY + 16
    check(refs)  # what is on disk and what is in memory change places
    del refs[::2]
    check(put(MEMORY // 4, 1000), 1000)


def test_a_damaged_file_loses_its_object_alone(node, tmp_path):
    node()
    refs = put(2 * MEMORY)
    for file in spilled(tmp_path):
        data = bytearray(file.read_bytes())
        at = data.find(array(5).tobytes()[:4096])
        if at >= 0:
            data[at + 500_000] ^= 1
            file.write_bytes(data)
            break
    else:
        pytest.fail("the oldest objects are not on disk")
    for _ in range(2):
        with pytest.raises(YRRuntimeError, match=r"4203.*not those that were written"):
            yr.get(refs[5], TIMEOUT)
    with pytest.raises(YRRuntimeError, match=r"4306|4203"):
        yr.get(total.invoke(refs[5]), TIMEOUT)
    check(refs[:5])
    check(refs[6:], 6)


def test_a_daemon_that_is_killed_finds_them_again(node):
    pid = node()["pid"]
    refs = put(2 * MEMORY)
    inner = put(8, 500)
    boxes = [yr.put({"ref": ref, "pad": array(0)}) for ref in inner]
    del inner
    more = put(MEMORY, 1000)
    kill_daemon(pid)
    check(refs)
    for k, box in enumerate(boxes, 500):
        assert (yr.get(yr.get(box, TIMEOUT)["ref"], TIMEOUT) == k).all()
    check(more, 1000)
