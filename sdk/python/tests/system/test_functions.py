"""Stateless functions on a real cluster."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time

import pytest
import yr

pytestmark = pytest.mark.usefixtures("connected")

TIMEOUT = 20  # seconds; far above what anything here takes


class Mistake(Exception):
    """A user's exception, with a constructor that wants more than its args."""

    def __init__(self, what, number):
        super().__init__(what)
        self.number = number


@yr.invoke
def add(a, b=1):
    return a + b


@yr.invoke
def echo(value):
    return value


@yr.invoke
def total(refs):
    return sum(yr.get(refs))


@yr.invoke
def fail(text):
    raise Mistake(text, 7)


@yr.invoke
def fail_inside(text):
    return yr.get(fail.invoke(text))


@yr.invoke
def fib(n):
    return n if n < 2 else sum(yr.get([fib.invoke(n - 1), fib.invoke(n - 2)]))


def get(refs):
    return yr.get(refs, TIMEOUT)


def test_calls_and_chains():
    assert get(add.invoke(1, 2)) == 3
    assert get(add.invoke(1, b=4)) == 5
    assert get(add.invoke(add.invoke(add.invoke(0)), b=add.invoke(1, 1))) == 4


def test_references_in_containers_stay_references():
    assert get(total.invoke([add.invoke(n) for n in range(4)])) == 10
    assert get(get(echo.invoke([yr.put(5), add.invoke(5)]))) == [5, 6]


def test_recursion_deeper_than_the_cores():
    assert get(fib.invoke(9)) == 34


@pytest.mark.parametrize("size", [200 * 1024, 20 << 20])
def test_large_bytes_both_ways(size):
    data = os.urandom(1024) * (size // 1024)
    assert get(echo.invoke(data)) == data


def test_return_nums():
    triple = yr.invoke(return_nums=3)(lambda: (1, 2, 3))
    assert get(triple.invoke()) == [1, 2, 3]
    assert yr.invoke(return_nums=0)(lambda: None).invoke() is None


@pytest.mark.parametrize(
    "value, error, text",
    [
        ((1, 2), ValueError, r"not enough values to unpack \(expected 3, got 2\)"),
        ((1, 2, 3, 4), ValueError, r"not enough values to unpack \(expected 3, got 4\)"),
        (1, TypeError, "cannot unpack non-iterable <class 'int'> object"),
    ],
)
def test_a_wrong_number_of_results(value, error, text):
    with pytest.raises(error, match=text):
        get(yr.invoke(return_nums=3)(lambda: value).invoke())


def test_the_exception_keeps_its_class_and_tells_its_origin():
    with pytest.raises(Mistake, match="Traceback") as raised:
        get(fail.invoke("sorry"))
    assert isinstance(raised.value, yr.YRInvokeError)
    assert (raised.value.number, raised.value.cause.args) == (7, ("sorry",))
    assert "raise Mistake(text, 7)" in str(raised.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda: fail_inside.invoke("x"),
        lambda: echo.invoke(fail.invoke("x")),
        lambda: echo.invoke([fail.invoke("x")]),
        lambda: total.invoke([fail_inside.invoke("x")]),
    ],
    ids=["nested call", "argument", "argument in a list", "nested call in a list"],
)
def test_the_first_exception_of_a_chain_is_the_one_that_arrives(call):
    with pytest.raises(Mistake, match="in fail"):
        get(call())


def test_a_timeout_inside_a_worker_is_no_timeout_of_the_driver():
    @yr.invoke
    def impatient():
        yr.get(yr.invoke(lambda: threading.Event().wait(5)).invoke(), 0.1)

    with pytest.raises(yr.YRInvokeError) as raised:
        get(impatient.invoke())
    assert not isinstance(raised.value, TimeoutError)


def test_an_argument_that_cannot_travel_is_refused_here():
    with pytest.raises(TypeError, match="pickle"):
        echo.invoke(threading.Lock())


def test_a_result_that_cannot_travel_fails_the_call():
    with pytest.raises(yr.YRRuntimeError, match="cannot pickle"):
        get(yr.invoke(lambda: threading.Lock()).invoke())


@pytest.mark.parametrize(
    "end, text",
    [
        (lambda: sys.exit(3), "SystemExit: 3"),
        (lambda: os._exit(3), "exit code 3"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "SIGSEGV"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL"),
    ],
    ids=["sys.exit", "os._exit", "segfault", "kill -9"],
)
def test_a_worker_that_ends_fails_its_call(end, text):
    with pytest.raises(RuntimeError, match=text):
        get(yr.invoke(end).invoke())


def test_retry_after_a_user_exception(tmp_path):
    @yr.invoke(invoke_options=yr.InvokeOptions(retry_times=2))
    def third_time(path):
        with open(path, "a+") as file:
            file.write("x")
            file.seek(0)
            if len(file.read()) < 3:
                raise ValueError("not yet")
        return "done"

    assert get(third_time.invoke(str(tmp_path / "count"))) == "done"


def test_environment_of_a_worker():
    read = yr.invoke(lambda: os.environ.get("WHO")).options(yr.InvokeOptions(env_vars={"WHO": "me"}))
    assert get(read.invoke()) == "me"


def test_an_initializer_runs_once_in_each_worker():
    def prepare():
        os.environ["PREPARED"] = os.environ.get("PREPARED", "") + "x"

    read = yr.invoke(initializer=prepare)(lambda: os.environ.get("PREPARED"))
    assert set(get([read.invoke() for _ in range(5)])) == {"x"}


def test_an_initializer_sets_globals_that_its_function_reads():
    program = {}
    exec("limit = 1\ndef prepare():\n    global limit\n    limit = 7\ndef read():\n    return limit", program)
    assert get(yr.invoke(initializer=program["prepare"])(program["read"]).invoke()) == 7


def test_a_reference_in_a_closure_outlives_the_function(tmp_path):
    def hold(path):
        while not os.path.exists(path):
            time.sleep(0.005)

    def start():
        captured = yr.put([1, 2, 3])
        held = yr.invoke(hold).invoke(str(tmp_path / "gate"))
        return yr.invoke(lambda gate: sum(yr.get(captured))).invoke(held)

    result = start()
    gc.collect()
    assert get(add.invoke(1)) == 2  # a release would have been written before this call
    (tmp_path / "gate").touch()
    assert get(result) == 6


def test_redefinition_runs_the_new_body():
    def define(n):
        @yr.invoke
        def same():
            return n

        return same

    assert [get(define(n).invoke()) for n in (1, 2)] == [1, 2]


def test_what_can_never_run_fails_at_once_with_the_reason():
    began = time.monotonic()
    impossible = echo.create_opts_wrapper(yr.InvokeOptions(custom_resources={"unobtainium": 1}))
    with pytest.raises(yr.YRError, match=r"(?s)code: 1006.*invalid resource parameter.*unobtainium"):
        get(impossible.invoke(1))
    assert time.monotonic() - began < 5


def test_custom_resources_that_exist():
    with_disk = echo.create_opts_wrapper(yr.InvokeOptions(cpu=1000, memory=1024, custom_resources={"ssd": 1}))
    assert get(with_disk.invoke("x")) == "x"


def test_cancel_of_a_running_call(tmp_path):
    started = tmp_path / "started"

    @yr.invoke
    def forever(path):
        open(path, "w").close()
        threading.Event().wait()

    ref = forever.invoke(str(started))
    while not started.exists():
        time.sleep(0.005)
    yr.cancel(ref)
    with pytest.raises(RuntimeError, match="the obj has been cancelled") as raised:
        get(ref)
    assert raised.value.code == 3003


def test_cancel_inside_keeps_the_word_outside(tmp_path):
    @yr.invoke
    def cancels():
        ref = yr.invoke(lambda: threading.Event().wait()).invoke()
        yr.cancel(ref)
        yr.get(ref)

    with pytest.raises(RuntimeError, match="the obj has been cancelled"):
        get(cancels.invoke())


def test_concurrency_is_a_pool_of_threads():
    @yr.invoke(invoke_options=yr.InvokeOptions(concurrency=101))
    def threads():
        return len(os.listdir("/proc/self/task"))

    assert get(threads.invoke()) >= 101


def test_a_handle_and_a_function_in_closures():
    @yr.instance
    class Box:
        def __init__(self):
            self.items = []

        def push(self, item):
            self.items.append(item)
            return len(self.items)

    box = Box.invoke()

    @yr.invoke
    def fill(n):
        return yr.get([box.push.invoke(yr.get(add.invoke(i))) for i in range(n)])

    assert get(fill.invoke(3)) == [1, 2, 3]


def test_random_streams_of_workers_differ():
    @yr.invoke
    def draw():
        import random

        return os.getpid(), random.random()

    drawn = dict(get([draw.invoke() for _ in range(20)]))
    assert len(set(drawn.values())) == len(drawn)


def test_calls_from_many_threads():
    seen = []
    threads = [threading.Thread(target=lambda n=n: seen.append(get(add.invoke(n)))) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(1, 17))
