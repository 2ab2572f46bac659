"""Running one task: arguments in, user code, results out.

Whatever user code does, exactly one RESULT leaves for each task that was started.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import deque
from typing import Any, Callable

from yr._core import serialization, wire
from yr._core.runtime import Runtime
from yr._core.serialization import HEAD_LEN, PLAIN_PICKLE, Serialized
from yr._core.wire import Failure, Place
from yr.exception import YRError, pack_user_exception

from .code import Definition, LoadError, definition

USER_CODE_LOAD, USER_EXCEPTION, INTERNAL, DESERIALIZATION = 2001, 2002, 3003, 4003
KEPT_SMALL = 256  # bytes: KEPT_BYTES holds 4096 of these
KEPT_BYTES = 1 << 20

_PACK_RESULT = wire.RESULT_HEAD.pack
_NONE_TAIL = serialization.NONE
_NONE_LEN = len(_NONE_TAIL)
_loads = serialization._loads


class Tasks:
    """What every executor needs: the code, the instance, and the way results leave."""

    def __init__(self, runtime: Runtime, assignment: dict) -> None:
        self.runtime = runtime
        self.out = runtime.session.out
        self.instance: Any = None
        self.stateless = not assignment["instance_id"]
        self.failed = False  # stateless: user code raised, this worker takes no more work
        self._retired = False
        self.fatal = False  # an instance's code asked the process to end (SystemExit and the like)
        self._definitions: dict = {}
        self._loaded: dict = {}
        self._load_lock = threading.Lock()
        # The last results, to be said again to an agent that was restarted. Small ones are bounded by number.
        self._kept: deque = deque(maxlen=KEPT_BYTES // KEPT_SMALL)
        self._kept_large: deque = deque()
        self._kept_bytes = 0  # of the large ones; changed under _keep_lock
        self._keep_lock = threading.Lock()
        runtime.session.handlers[wire.DEFINE] = self._on_define

    # ---- code

    def _on_define(self, buf: bytes, pos: int, end: int, flags: int, corr: int) -> None:
        number, found = definition(bytes(buf[pos:end]), self.runtime)
        self._definitions[number] = found

    def code(self, number: int) -> Callable[..., Any]:
        """hot: return the function or class with this number, loading it first if need be."""
        found: Definition | None = self._definitions.get(number)
        if found is None:
            raise LoadError(f"function number {number} was never defined in this worker")
        return found.code or self._load(found)

    def _load(self, found: Definition) -> Callable[..., Any]:
        with self._load_lock:
            return found.load(self._loaded)

    def method(self, name: bytes) -> Callable[..., Any]:
        """Return a bound method of the instance, private ones and those of static or class kind included."""
        instance = self.instance
        if instance is None:
            raise LoadError("the instance was not constructed")
        text = name.decode()
        found = getattr(instance, text, None)
        if found is None and text.startswith("__") and not text.endswith("__"):
            for base in type(instance).__mro__:  # a private name is stored mangled
                found = getattr(instance, f"_{base.__name__.lstrip('_')}{text}", None)
                if found is not None:
                    break
        if found is None:
            raise AttributeError(f"{type(instance).__name__!r} object has no attribute {text!r}")
        return found

    def arguments(self, task: tuple) -> tuple:
        """Return ``(args, kwargs)`` of a task. Views among them pin their blobs by themselves."""
        _, _, _, _, data, values, _, flags = task
        blob = bool(flags & wire.FLAG_ARGS_BLOB)
        if blob:
            value = values[-1]
            if isinstance(value, Place):
                id = serialization.blob_id(self.runtime.peek(value))
                data = self.runtime.view(id, value)
            else:
                data = value
        if not data:
            return (), {}
        return serialization.decode_args(data, blob, lambda ids: [self._value(i, v) for i, v in zip(ids, values)])

    def _value(self, id: bytes, value: Any) -> Any:
        if isinstance(value, Place):
            return serialization.decode(self.runtime.view(id, value))
        if isinstance(value, Failure):
            raise self.runtime.failure(value)
        return serialization.decode(value)

    # ---- giving tasks back

    def unqueue(self) -> int:
        """Drop every task that was not started, and those that arrive until YIELDED; return the last that was.

        Tasks are taken from the far end, so that it does not matter which thread starts others meanwhile.
        """
        session = self.runtime.session
        session.expect_yielded()
        after = session.last_task
        while True:
            try:
                after = session.tasks.pop()[0] - 1
            except IndexError:
                return after

    def drop_unstarted(self) -> int:
        """Forget the tasks that were not started: whoever sent them sends them again. Return the last that was.

        For a worker whose agent is gone: what it went on to run from its queue would be run twice.
        """
        session = self.runtime.session
        after = session.last_task
        while True:
            try:
                after = session.tasks.pop()[0] - 1
            except IndexError:
                break
        session.last_task = after
        return after

    def give_back(self, reason: int) -> None:
        """Send every task that was not started back to the agent."""
        self.out.append(wire.yield_frame(self.unqueue(), reason))
        self.runtime.session.arm()

    def retire(self) -> None:
        """After a failure: a stateless worker takes no more work, so that what user code left behind dies."""
        with self._load_lock:
            if self._retired or not self.stateless:
                return
            self._retired = True
        self.give_back(wire.YIELD_RETIRING)

    # ---- results

    def run(self, task: tuple) -> None:
        """hot: run a task in this thread and queue its RESULT."""
        delivery, id, target, method, data, values, returns, flags = task
        try:
            if flags & 2:  # CONSTRUCT
                return self._construct(task)
            function = self.method(method) if method else self.code(target)
            if not data and not values:
                value = function()
            elif not values and data[:8] == PLAIN_PICKLE:
                args, kwargs = _loads(data[HEAD_LEN:])[:2]
                value = function(*args, **kwargs) if kwargs else function(*args)
            else:
                args, kwargs = self.arguments(task)
                value = function(*args, **kwargs)
                del args, kwargs
        except BaseException as e:
            self.raised(task, e)
            return None
        if value is None and returns == 1:
            frame = _PACK_RESULT(32 + _NONE_LEN, 18, 0, 0, delivery, id, 1, 0, 0, 0, _NONE_LEN) + _NONE_TAIL
            self.out.append(frame)
            self._kept.append(frame)
        else:
            self.returned(task, value)
        return None

    def _construct(self, task: tuple) -> None:
        cls = self.code(task[2])
        args, kwargs = self.arguments(task)
        self.instance = cls(*args, **kwargs)
        self._queue(wire.result(task[1], [], task[0]))

    def constructed(self, task: tuple, instance: Any) -> None:
        """Record an instance that an event loop built, and answer the CONSTRUCT."""
        self.instance = instance
        self._queue(wire.result(task[1], [], task[0]))

    def returned(self, task: tuple, value: Any) -> None:
        """Queue the RESULT of a task that returned ``value``."""
        delivery, id, _, _, _, _, returns, _ = task
        try:
            if returns == 1:
                data = serialization.encode(value)
                if type(data) is bytes and len(data) <= self.runtime.result_max:
                    n = len(data)
                    self._queue(_PACK_RESULT(32 + n, 18, 0, 0, delivery, id, 1, 0, 0, 0, n) + data)
                    return
                results = [self._carry(data)]
            else:
                results = [self._carry(serialization.encode(v)) for v in _spread(value, returns)]
        except BaseException as e:
            self._unsent(task, e)
            return
        self._queue(wire.result(id, results, delivery))

    def _carry(self, data: Any) -> tuple:
        if type(data) is bytes:
            data = Serialized([(0, data)], len(data), [])
        if len(data.contains) > wire.MAX_CONTAINS:
            raise ValueError(f"a value may hold {wire.MAX_CONTAINS} references, this one has {len(data.contains)}")
        if data.size <= self.runtime.result_max:
            return data.to_bytes(), data.contains
        return self.runtime.place(data), data.contains

    def _unsent(self, task: tuple, e: BaseException) -> None:
        """The task returned something that cannot be sent."""
        self.failed = True
        if isinstance(e, _Mismatch):
            self._fail(task, USER_EXCEPTION, True, pack_user_exception(e.error))
            return
        code = int(e.code) if isinstance(e, YRError) else INTERNAL
        text = str(e) if isinstance(e, YRError) else f"the result cannot be serialised: {type(e).__name__}: {e}"
        self._fail(task, code, False, text.encode(errors="replace"))

    def raised(self, task: tuple, e: BaseException) -> None:
        """Queue the RESULT of a task that raised. A stateless worker takes no more work after it."""
        self.failed = True
        if not isinstance(e, Exception) and not self.stateless and not isinstance(e, asyncio.CancelledError):
            self.fatal = True
        if isinstance(e, LoadError):
            self._fail(task, USER_CODE_LOAD, False, str(e).encode(errors="replace"))
        else:
            self._fail(task, USER_EXCEPTION, True, pack_user_exception(_without_our_frames(e)))

    def _fail(self, task: tuple, code: int, serialized: bool, payload: bytes) -> None:
        if len(payload) > wire.MAX_BODY // 2:
            serialized, payload = False, b"the exception is too large to be sent"
        self._queue(wire.result(task[1], [(Failure(code, serialized, payload), [])], task[0]))

    def _queue(self, frame: bytes) -> None:
        self.out.append(frame)
        if len(frame) <= KEPT_SMALL:
            self._kept.append(frame)
            return
        with self._keep_lock:
            self._kept_large.append(frame)
            self._kept_bytes += len(frame)
            while self._kept_bytes > KEPT_BYTES:
                self._kept_bytes -= len(self._kept_large.popleft())

    def say_again(self, out: list) -> None:
        """Resuming: the agent may have missed the last results."""
        out.extend(list(self._kept))
        out.extend(list(self._kept_large))


class _Mismatch(Exception):
    """The task returned another number of values than it declared; ``error`` is what to tell."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _spread(value: Any, returns: int) -> list:
    """Return the ``returns`` values of a task, or raise what unpacking them would."""
    if returns == 0:
        return []
    try:
        values = list(value)
    except TypeError:
        raise _Mismatch(TypeError(f"cannot unpack non-iterable {type(value)} object")) from None
    if len(values) != returns:
        raise _Mismatch(ValueError(f"not enough values to unpack (expected {returns}, got {len(values)})"))
    return values


def _without_our_frames(e: BaseException) -> BaseException:
    """Drop the executor's own frame from the traceback that the caller will read."""
    if e.__traceback__ is not None and e.__traceback__.tb_next is not None:
        e.__traceback__ = e.__traceback__.tb_next
    return e


def flush_stdio() -> None:
    """Make what user code printed visible."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass  # user code replaced or closed it
