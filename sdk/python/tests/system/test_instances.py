"""Stateful instances on a real cluster."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time

import pytest
import yr

pytestmark = pytest.mark.usefixtures("connected")

TIMEOUT = 20  # seconds


class Refused(Exception):
    pass


@yr.instance
class Counter:
    """Counts."""

    def __init__(self, start=0):
        self.n = start

    def add(self, k=1):
        self.n += k
        return self.n

    def where(self):
        return os.getpid()

    def read(self, name):
        return os.environ.get(name)

    @staticmethod
    def double(x):
        return 2 * x

    @classmethod
    def called(cls):
        return cls.__name__

    @yr.method(return_nums=2)
    def pair(self):
        return self.n, -self.n

    @yr.method(return_nums=0)
    def quiet(self):
        self.n = 100


@yr.instance
class Slow:
    def __init__(self):
        self.k = 0

    async def wait(self, seconds):
        await asyncio.sleep(seconds)
        self.k += 1
        return self.k

    def through_a_coroutine(self):
        return self.wait(0)


@yr.instance
class Unwilling:
    def __init__(self, why):
        raise Refused(why)

    def go(self):
        return 1


@yr.invoke
def add_to(counter, k):
    return yr.get(counter.add.invoke(k))


@yr.invoke
def find_and_add(name):
    return yr.get(yr.get_instance(name).add.invoke())


def get(refs):
    return yr.get(refs, TIMEOUT)


def named(name, **options):
    return yr.InvokeOptions(name=name, **options)


def test_methods_of_every_kind():
    counter = Counter.invoke(5)
    calls = [counter.add.invoke(), counter.add.invoke(k=2), counter.double.invoke(4), counter.called.invoke()]
    assert get(calls) == [6, 8, 8, "Counter"]
    assert get(counter.pair.invoke()) == [8, -8]
    assert counter.quiet.invoke() is None
    assert get(counter.add.invoke()) == 101


def test_each_instance_is_a_process_of_its_own():
    pids = get([Counter.invoke().where.invoke() for _ in range(3)])
    assert len({*pids, os.getpid()}) == 4


def test_a_thousand_calls_keep_their_order():
    counter = Counter.invoke()
    refs = [counter.add.invoke() for _ in range(1000)]
    assert get(refs) == list(range(1, 1001))
    began = time.monotonic()
    for _ in range(50):
        yr.get(refs)
    assert time.monotonic() - began < 5


def test_a_handle_is_an_argument():
    counter = Counter.invoke()
    assert get(add_to.invoke(counter, 3)) == 3
    assert get(add_to.invoke(counter, 4)) == 7
    assert get(counter.add.invoke()) == 8


def test_references_as_arguments():
    counter = Counter.invoke(yr.put(10))
    assert get(counter.add.invoke(counter.add.invoke(1))) == 22


def test_an_exception_of_the_constructor_arrives_with_the_first_result():
    instance = Unwilling.invoke("not today")
    with pytest.raises(Refused, match="not today"):
        get(instance.go.invoke())
    instance.terminate()


def test_a_failed_argument_of_the_constructor():
    with pytest.raises(Refused):
        get(Counter.invoke(Unwilling.invoke("x").go.invoke()).add.invoke())


def test_terminate():
    counter = Counter.invoke()
    pid = get(counter.where.invoke())
    counter.terminate(is_sync=True)
    counter.terminate()
    assert not os.path.exists(f"/proc/{pid}")
    with pytest.raises(RuntimeError, match=r"^this instance is terminated$"):
        counter.add.invoke()


def test_environment_and_resources():
    options = yr.InvokeOptions(cpu=1000, memory=1024, custom_resources={"ssd": 1}, env_vars={"WHO": "me"})
    counter = Counter.options(options).invoke()
    assert get(counter.read.invoke("WHO")) == "me"
    counter.terminate(is_sync=True)


def test_coroutines_overlap():
    slow = Slow.invoke()
    assert get(slow.through_a_coroutine.invoke()) == 1
    began = time.monotonic()
    assert sorted(get([slow.wait.invoke(0.5) for _ in range(4)])) == [2, 3, 4, 5]
    assert time.monotonic() - began < 1.5


def test_a_name_binds_to_what_exists():
    first = Counter.options(named("one")).invoke()
    second = Counter.options(named("one")).invoke(1000)
    assert get([first.add.invoke(), second.add.invoke()]) == [1, 2]
    assert first.real_id == second.real_id
    assert get(add_to.invoke(second, 1)) == 3
    assert get(yr.get_instance("one").add.invoke()) == 4
    assert get(find_and_add.invoke("one")) == 5
    first.terminate(is_sync=True)


def test_namespaces_are_apart():
    here = Counter.options(named("two", namespace="a")).invoke()
    there = Counter.options(named("two", namespace="b")).invoke()
    assert get([here.add.invoke(), there.add.invoke()]) == [1, 1]
    assert get(yr.get_instance("two", "a").add.invoke()) == 2
    with pytest.raises(TimeoutError):
        yr.get_instance("two", timeout=0)


def test_a_name_is_free_after_terminate():
    for _ in range(3):
        counter = Counter.options(named("again")).invoke()
        assert get(counter.add.invoke()) == 1
        counter.terminate(is_sync=True)
    for _ in range(2):
        counter = Counter.options(named("again")).invoke()
        get(counter.add.invoke())
        counter.terminate()


def test_a_handle_found_by_name_has_all_methods():
    Counter.options(named("found")).invoke()
    handle = yr.get_instance("found", timeout=TIMEOUT)
    assert get([handle.double.invoke(2), handle.called.invoke()]) == [4, "Counter"]
    assert len(handle.pair.invoke()) == 2
    with pytest.raises(TypeError):
        handle.add.invoke(1, 2, 3)


def test_get_instance_waits_for_the_constructor(tmp_path):
    gate = tmp_path / "gate"

    @yr.instance
    class Late:
        def __init__(self, path):
            while not os.path.exists(path):
                time.sleep(0.01)

        def go(self):
            return 1

    Late.options(named("late")).invoke(str(gate))
    with pytest.raises(TimeoutError, match="failed to get instance: yr_defalut_namespace-late by name"):
        yr.get_instance("late", timeout=0.3)
    gate.touch()
    assert get(yr.get_instance("late", timeout=TIMEOUT).go.invoke()) == 1


def test_terminate_while_the_constructor_runs(tmp_path):
    @yr.instance
    class Stuck:
        def __init__(self, path):
            with open(path, "w") as file:
                file.write(str(os.getpid()))
            threading.Event().wait()

        def go(self):
            return 1

    for options in (yr.InvokeOptions(), named("stuck")):
        note = tmp_path / f"pid-{options.name}"
        instance = Stuck.options(options).invoke(str(note))
        ref = instance.go.invoke()
        while not (note.exists() and note.read_text()):
            time.sleep(0.005)
        instance.terminate(is_sync=True)
        assert not os.path.exists(f"/proc/{note.read_text()}")
        with pytest.raises(yr.YRRuntimeError):
            get(ref)


def test_get_if_exists():
    options = named("maybe", get_if_exists=True)
    assert get(Counter.options(options).invoke().add.invoke()) == 1
    assert get(Counter.options(options).invoke().add.invoke()) == 2


def test_kill_instance():
    counter = Counter.invoke()
    yr.kill_instance(counter.real_id)
    with pytest.raises(yr.YRRuntimeError):
        get(counter.add.invoke())


def test_an_instance_may_make_instances_from_its_threads():
    @yr.instance
    class Parent:
        def children(self):
            results = []

            def make():
                results.append(yr.get(Counter.invoke().add.invoke()))

            threads = [threading.Thread(target=make) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return results

    assert get(Parent.invoke().children.invoke()) == [1, 1]


def test_a_class_defined_in_a_function_and_its_base():
    class Base:
        def base(self):
            return "base"

    @yr.instance
    class Derived(Base):
        def both(self):
            return self.base() + "+derived"

    handle = Derived.invoke()
    assert get([handle.both.invoke(), handle.base.invoke()]) == ["base+derived", "base"]


def test_exit_ends_the_instance():
    @yr.instance
    class Leaver:
        def leave(self):
            yr.exit()

        def go(self):
            return 1

    leaver = Leaver.invoke()
    leaver.leave.invoke()
    with pytest.raises(yr.YRRuntimeError):
        while True:
            get(leaver.go.invoke())


def test_shutdown_hook(tmp_path):
    @yr.instance
    class Tidy:
        def __init__(self, path):
            self.path = path

        def ready(self):
            return True

        def __yr_shutdown__(self, grace_period_second):
            with open(self.path, "w") as file:
                file.write(str(grace_period_second))

    options = yr.InvokeOptions(custom_extensions={"GRACEFUL_SHUTDOWN_TIME": "7"})
    tidy = Tidy.options(options).invoke(str(tmp_path / "note"))
    assert get(tidy.ready.invoke())
    tidy.terminate(is_sync=True)
    assert (tmp_path / "note").read_text() == "7"


def test_a_detached_instance_outlives_its_program(cluster):
    program = (
        "import yr\n"
        "@yr.instance\n"
        "class Kept:\n"
        "    def __init__(self): self.n = 0\n"
        "    def add(self):\n"
        "        self.n += 1\n"
        "        return self.n\n"
        "yr.init()\n"
        "assert yr.get(Kept.options(name='kept', lifetime='detached').invoke().add.invoke()) == 1\n"
        "assert yr.get(Kept.options(yr.InvokeOptions(name='lost')).invoke().add.invoke()) == 1\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    kept = yr.get_instance("kept", timeout=TIMEOUT)
    assert get(kept.add.invoke()) == 2
    kept.terminate(is_sync=True)
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        try:
            yr.get_instance("lost", timeout=0)
        except TimeoutError:
            return
    pytest.fail("the instance of the ended program is still found")
