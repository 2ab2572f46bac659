"""The tour: a stateful instance, parallel functions, references, shared objects.

    python 01_tour.py

`yr.init()` joins the cluster of this machine. Where none is running it starts a
temporary one, which ends with this program.
"""

from __future__ import annotations

import yr


@yr.instance
class Counter:
    """A class whose object lives in a worker process and keeps its state there."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def save(self, value: int) -> None:
        self.value = value

    def get(self) -> int:
        return self.value


@yr.invoke
def say_hello(name: str) -> str:
    return f"hello, {name}"


@yr.invoke
def add(a: int, b: int) -> int:
    return a + b


def stateful_instance() -> None:
    """Calls of one instance run in the order in which they were made."""
    counter = Counter.invoke(5)
    before = counter.get.invoke()
    counter.save.invoke(42)
    after = counter.get.invoke()
    print("counter before and after save:", *yr.get([before, after]))
    counter.terminate()


def parallel_functions() -> None:
    """`invoke` returns at once; `get` waits for all three."""
    greetings = [say_hello.invoke(name) for name in ("Ada", "Barbara", "Grace")]
    print("\n".join(yr.get(greetings)))


def chained_by_reference() -> None:
    """A reference is an argument like any other: its value goes straight to the worker."""
    one = add.invoke(0, 1)
    two = add.invoke(one, 1)
    three = add.invoke(one, two)
    print("1 + 2 =", yr.get(three))


def shared_object() -> None:
    """`put` lays a value into shared memory; everybody on the node reads it from there."""
    settings = yr.put({"model": "tiny", "layers": [64, 32, 8]})
    print("settings:", yr.get(settings))


def main() -> None:
    yr.init()
    stateful_instance()
    parallel_functions()
    chained_by_reference()
    shared_object()
    yr.finalize()


if __name__ == "__main__":
    main()
