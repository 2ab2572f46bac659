"""``ObjectRef``: a reference to a value that exists, or will.

A reference is its identifier and nothing else; what is known about it lives in the runtime's table.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Callable

from yr._core.references import Local, dropped
from yr._core.serialization import nested

if TYPE_CHECKING:  # imported where they are used: they cost more than the rest of the start
    import asyncio
    import concurrent.futures

__all__ = ["ObjectRef"]

_drop = dropped.append


class ObjectRef:
    """A reference to the result of a call, or to an object that was put.

    References compare and hash by identifier, may be copied, awaited, passed as arguments and
    pickled. The object lives as long as a reference to it exists anywhere in the job.
    """

    __slots__ = ("__weakref__", "_id")

    def __init__(self, id: bytes) -> None:
        self._id = id

    def __del__(self, drop: Callable[[bytes], None] = _drop) -> None:
        try:
            drop(self._id)
        except AttributeError:
            pass  # __init__ never ran

    # ---- identity

    @property
    def id(self) -> str:
        """The identifier, 20 characters."""
        return self._id.decode()

    @property
    def task_id(self) -> str:
        """The call that makes the object; it has the identifier of its first result."""
        return self._id.decode()

    @property
    def instance_id(self) -> str:
        """Where the call runs; empty, because placement may change until it has run."""
        return ""

    @property
    def npu_obj_ids(self) -> list:
        """Identifiers of parts in accelerator memory: none."""
        return []

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectRef) and other._id == self._id

    def __hash__(self) -> int:
        return hash(self._id)

    def __repr__(self) -> str:
        return self._id.decode()

    __str__ = __repr__

    def __copy__(self) -> ObjectRef:
        return self

    def __deepcopy__(self, memo: dict) -> ObjectRef:
        return self

    def __reduce__(self) -> tuple:
        if nested.ids is not None:
            nested.ids.append(self._id)
        return _restore, (self._id,)

    # ---- the value

    def get(self, timeout: float | None = 300) -> Any:
        """Return the value, decoded as JSON if it is that: meant for results of function services."""
        import json

        value = _runtime().get([self], None if timeout in (None, -1) else timeout)[0]
        if isinstance(value, memoryview):
            value = bytes(value)
        if isinstance(value, (str, bytes)):
            try:
                return json.loads(value)
            except ValueError:
                pass
        return value

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the value, or an error, is there; raise ``YRTimeoutError`` if it is not in time."""
        if not _runtime().wait([self], 1, None if timeout in (None, -1) else timeout)[0]:
            from yr.exception import remote_error

            text = f"object {self} is not ready after {timeout} s"
            raise remote_error(4005, text.encode(), False, "failed to wait object")

    def done(self) -> bool:
        """Say whether the value, or an error, is there."""
        return _runtime().is_ready(self)

    def is_exception(self) -> bool:
        """Wait, then say whether the call failed."""
        return self._outcome()[1] is not None

    def exception(self) -> None:
        """Wait, then raise what the call raised; return ``None`` if it succeeded."""
        error = self._outcome()[1]
        if error is not None:
            raise error

    def cancel(self) -> bool:
        """Futures of this reference cannot be cancelled; use ``yr.cancel`` for the call."""
        return False

    def set_data(self, value: Any) -> None:
        """Give the reference a value in this process, until the call's own result comes."""
        _runtime().set_local(self._id, Local(value))

    def set_exception(self, error: BaseException) -> None:
        """Give the reference an exception in this process, until the call's own result comes."""
        _runtime().set_local(self._id, Local(error=error))

    def _outcome(self) -> tuple:
        runtime = _runtime()
        runtime.wait([self], 1, None)
        try:
            return runtime.get([self], None)[0], None
        except Exception as e:
            return None, e

    # ---- without waiting

    def on_complete(self, callback: Callable[[Any], None]) -> None:
        """Have ``callback(value or exception)`` called once, on a thread of the runtime."""

        def call() -> None:
            value, error = self._outcome()
            callback(value if error is None else error)

        _runtime().when_ready(self._id, lambda: _runtime().run_callback(call))

    def get_future(self) -> concurrent.futures.Future:
        """Return a future that other threads may wait for."""
        import concurrent.futures

        future: concurrent.futures.Future = concurrent.futures.Future()

        def call() -> None:
            if future.set_running_or_notify_cancel():
                value, error = self._outcome()
                if error is None:
                    future.set_result(value)
                else:
                    future.set_exception(error)

        _runtime().when_ready(self._id, lambda: _runtime().run_callback(call))
        return future

    def as_future(self) -> asyncio.Future:
        """Return a future of the running event loop. Cancelling it does not cancel the call."""
        import asyncio

        loop = asyncio.get_running_loop()
        future = loop.create_future()
        runtime = _runtime()

        def resolve() -> None:
            runtime.awaiting(job, -1)
            if future.done():
                return
            value, error = self._outcome()
            if error is None:
                future.set_result(value)
            elif isinstance(error, StopIteration):  # a future refuses it
                future.set_exception(RuntimeError(f"remote code raised {error!r}"))
            else:
                future.set_exception(error)

        def ready() -> None:
            try:
                loop.call_soon_threadsafe(resolve)
            except RuntimeError:
                pass  # the loop was closed meanwhile; nobody waits any more

        job = runtime.awaiting(None, 1)
        runtime.when_ready(self._id, ready)
        return future

    def __await__(self) -> Generator[Any, None, Any]:
        return self.as_future().__await__()


def _runtime() -> Any:
    from yr._core import runtime

    return runtime.require()


def _restore(id: bytes) -> ObjectRef:
    """Unpickle a reference: it counts in this process from now on."""
    from yr._core import runtime

    current = runtime.current()
    if current is not None:
        current.adopt(id)
    return ObjectRef(id)
