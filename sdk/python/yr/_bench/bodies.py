"""Code that the workloads run inside workers. Nothing here does work of its own: what is measured is the way there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .target import Target


def small() -> bytes:
    """The empty call: a result of two bytes, as in the micro-benchmarks of other systems."""
    return b"ok"


def length(value: Any) -> int:
    """Consumes a value that was passed by reference."""
    return len(value)


def blob(size: int) -> bytearray:
    """A large result, made by another process than the one that gets it."""
    return bytearray(size)


def make_objects(target: type[Target], count: int, size: int) -> list[Any]:
    """Puts ``count`` distinct objects in this process; the caller receives references only."""
    return [target.put(index.to_bytes(8, "little") * (size // 8)) for index in range(count)]


class Echo:
    """An instance with nothing but a mailbox."""

    def ping(self) -> bytes:
        """The empty method call."""
        return b"ok"


class Caller:
    """An instance that calls another one: n of these are n independent clients."""

    def run(self, target: type[Target], callee: Any, batch: int, batches: int) -> int:
        """Calls ``callee.ping`` in ``batches`` batches and gets each batch before the next."""
        ping = target.method(callee, "ping")
        for _ in range(batches):
            target.get([ping() for _ in range(batch)])
        return batch * batches
