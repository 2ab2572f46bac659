"""The runtime: what ``yr.invoke``, ``yr.get``, ``yr.put`` and the rest stand on.

There is one per process. It serialises, numbers, frames and waits; policy (queueing, placement,
retry, dependencies) is the agent's. Every method may be called from every thread.
"""

from __future__ import annotations

import functools
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable, NamedTuple

from yr.exception import remote_error
from yr.object_ref import ObjectRef

from . import control, references, serialization, shm, wire
from .ids import Sequence, new_prefix
from .inbox import Inbox
from .instances import Instances
from .references import AWAY, FOREIGN, Callback, Local
from .serialization import SCALARS, Serialized
from .session import ConnectError, Session, SessionLost
from .wire import Failure, Place

ROLE_DRIVER, ROLE_WORKER, ROLE_DATA = 1, 2, 3
LANGUAGE = "python"
INLINE_ARGS_MAX = 64 << 10
INLINE_CODE_MAX = 1 << 20  # larger code travels as an object
CLOSE_TIMEOUT = 10.0
FINALIZED = "already finalized"

_FOREVER = float("inf")
_MISSING = object()


class Code(NamedTuple):
    """A function or class as it travels."""

    code_id: bytes  # the first 20 bytes of SHA-256 over blob
    name: str  # "module.qualname"
    blob: bytes
    captured: tuple = ()  # identifiers of references inside blob


class Runtime:
    """One session and what this process knows through it. Made by :meth:`connect`."""

    def __init__(self, session: Session, role: int, sequence: Sequence) -> None:
        self.role = role
        self.job = self.node = self.node_ip = self.log_dir = ""
        self.assignment: dict | None = None
        self.blocking: Callable[[], Any] | None = None  # workers: a context around every wait
        self.awaiting: Callable[[Any, int], Any] = lambda job, change: None  # workers: around every await
        self.pid = os.getpid()
        self.session = session
        self._sequence = sequence
        self._prefix = sequence.prefix
        self._next = sequence.next
        self._objects = session.objects
        self._values = session.objects.values
        self._calls = session.calls
        self._send = session.send
        self._defined: dict = {}  # (code id, options, initializer) -> (number, DEFINE frame)
        self._memory = shm.Memory(session)
        self._instances = Instances(session)
        self._code_refs: dict = {}  # code id -> ObjectRef of code that travels as an object
        self._captured: dict = {}  # code id -> ObjectRefs inside it: workers may load it as long as the job lives
        self._define_lock = threading.Lock()
        self._numbers = Sequence(b"").next  # targets of this session
        self._callbacks: queue.SimpleQueue | None = None
        self._callbacks_lock = threading.Lock()
        self._put_max = 0
        self._put_budget = 0
        self.result_max = INLINE_ARGS_MAX  # bytes of a result that travels inline
        session.housekeeping = self._memory.housekeeping
        self._inbox = Inbox(session, self._memory, self._instances, self._defined)
        session.resume_state = lambda: {"leases": self.leases()}

    # ---- life

    @classmethod
    def connect(
        cls,
        socket_path: str,
        *,
        role: int = ROLE_DRIVER,
        job: str = "",
        token: str = "",
        tenant: str = "",
        namespace: str = "",
        recycle_ms: int = 2000,
        max_workers: int = -1,
        code_paths: Any = (),
        env_vars: dict | None = None,
        command: str = "",
        worker_id: bytes = b"",
        progress_fd: int = -1,
    ) -> Runtime:
        """Open a session with the agent that listens at ``socket_path``.

        Raises ``YRValueError`` (code 4002 or the agent's) if there is none or it refuses.
        """
        sequence = Sequence(new_prefix())
        hello = {
            "role": role,
            "prefix": "",  # the agent gives one that says on which node its things are at home
            "language": LANGUAGE,
            "language_version": "{}.{}.{}".format(*sys.version_info[:3]),
            "sdk_version": _version(),
            "pid": os.getpid(),
            "tenant": tenant,
            "job": job,
            "token": token,
            "worker_id": worker_id,
            "interpreter": sys.executable or "",
            "code_paths": [str(p) for p in code_paths],
            "working_dir": _getcwd(),
            "namespace": namespace,
            "recycle_ms": recycle_ms,
            "max_workers": max_workers,
            "command": command,
            "has_progress_page": progress_fd >= 0,
            "env_vars": dict(env_vars or {}),
            "evicts": True,
        }
        session = Session(socket_path, hello, progress_fd)
        runtime = cls(session, role, sequence)
        references.dropped.clear()
        references.unviewed.clear()
        try:
            welcome = session.open()
        except ConnectError as e:
            raise remote_error(e.code, str(e).encode(), False, "failed to init") from None
        if welcome["prefix"]:
            runtime._prefix = sequence.prefix = welcome["prefix"].encode()
        session.hello["prefix"] = sequence.prefix.decode()  # the same when it resumes
        runtime.job = welcome["job"]
        runtime.node = welcome["node"]
        runtime.node_ip = welcome["node_ip"]
        runtime.log_dir = welcome["log_dir"]
        runtime._put_max = welcome["inline_put_max"]
        runtime._put_budget = welcome["inline_put_budget"]
        runtime.result_max = welcome["inline_result_max"] or INLINE_ARGS_MAX
        if welcome["assignment"]:
            runtime.assignment = control.decode(control.ASSIGNMENT, welcome["assignment"])
        if role != ROLE_WORKER:
            session.start_background()
        return runtime

    def close(self) -> None:
        """End the session: the agent ends the job's instances first. Idempotent."""
        session = self.session
        if session.closed:
            return
        if not session.dead:
            try:
                session.answer(session.request(wire.GOODBYE), CLOSE_TIMEOUT)
            except SessionLost:
                pass
        session.close(FINALIZED)
        self._memory.close()
        if self._callbacks is not None:
            self._callbacks.put(None)
        if _current is self:
            set_current(None)

    def before_resume(self, say: Callable[[list], None]) -> None:
        """Have ``say(frames)`` add what a resuming session must also say: a worker's last results."""
        self._inbox.say_also = say

    @property
    def closed(self) -> bool:
        """True after :meth:`close`, and for good."""
        return self.session.closed

    # ---- functions and calls

    def define(self, code: Code, options: dict) -> int:
        """Give a function a number in this session; the same function and options give the same number."""
        options = dict(options)
        initializer = options.pop("initializer", b"")
        encoded = control.encode(control.OPTIONS, options)
        key = (code.code_id, encoded, initializer)
        with self._define_lock:
            known = self._defined.get(key)
            if known:
                return known[0]
            number = self._numbers()
            message = {
                "number": number,
                "code_id": code.code_id,
                "name": code.name,
                "language": LANGUAGE,
                "options": options,
                "initializer": initializer,
                **self._carry(code),
            }
            frame = wire.frame(wire.DEFINE, control.encode(control.FUNCTION, message))
            self._defined[key] = (number, frame)
            self.session.out.append(frame)
            return number

    def _carry(self, code: Code) -> dict:
        """Return the fields that carry the code: inline, or as an object if it is large."""
        if code.captured and code.code_id not in self._captured:
            for id in code.captured:
                self.adopt(id)
            self._captured[code.code_id] = [ObjectRef(id) for id in code.captured]
        if len(code.blob) <= INLINE_CODE_MAX:
            return {"code": code.blob}
        ref = self._code_refs.get(code.code_id)
        if ref is None:
            ref = self._code_refs[code.code_id] = self.put(code.blob)
        return {"code_object": ref._id}

    def invoke(
        self, target: int, args: tuple, kwargs: dict, returns: int = 1, method: bytes = b"", deadline_us: int = 0
    ) -> Any:
        """hot: call function or instance ``target``; return its reference, a list of them, or ``None``.

        Args:
            target: a number from :meth:`define`, :meth:`create` or :meth:`bind`.
            args: positional arguments; references among them are replaced by their values.
            kwargs: keyword arguments, likewise.
            returns: how many values the call gives; 0 gives ``None``, several a list.
            method: the name of the method, of an instance.
            deadline_us: when the call is given up, microseconds since the epoch; 0 is never.

        Blocks while the session has no credit. Raises the pickling error of an argument.
        """
        session = self.session
        if len(self._calls) >= session.credit or session.dead:
            self._wait_credit()
        if returns == 1:
            id = b"%b%011x" % (self._prefix, self._next())
            ids = None
        else:
            ids = self._sequence.run(max(returns, 1))
            id = ids[0]
        tail = _PACK_DEADLINE(2, 8, deadline_us) if deadline_us else b""
        if not args and not kwargs:
            size = 36 + len(method) + len(tail)
            frame = _PACK_CALL(size, 16, 0, 0, 0, id, target, 0, 0, 0, len(method), returns, 0) + method + tail
        else:
            frame = None
            if SCALARS.issuperset(map(type, args)) and (not kwargs or SCALARS.issuperset(map(type, kwargs.values()))):
                body = serialization.encode_simple_args(args, kwargs)
                if len(body) <= INLINE_ARGS_MAX:
                    n = len(body)
                    size = 36 + len(method) + n + len(tail)
                    head = _PACK_CALL(size, 16, 0, 0, 0, id, target, n, 0, 0, len(method), returns, 0)
                    frame = b"".join((head, method, body, tail))
            if frame is None:
                body, deps, nvals, flags, _held = self.pack_args(args, kwargs)
                n = len(body)
                size = 36 + 20 * len(deps) + len(method) + n + len(tail)
                if size > wire.MAX_BODY or len(deps) > wire.MAX_DEPS:
                    raise ValueError(f"a call with {len(deps)} references is too large; put them into an object first")
                head = _PACK_CALL(size, 16, flags, 0, 0, id, target, n, len(deps), nvals, len(method), returns, 0)
                frame = b"".join((head, *deps, method, body, tail))
                if deps:
                    session.pins[id] = self._objects.pin(deps)
        self._calls[id] = frame
        values = self._values
        if ids is None:
            values[id] = None
            self._send(frame)
            return ObjectRef(id)
        if returns:
            for k in ids:
                values[k] = None
            self._send(frame)
            return [ObjectRef(k) for k in ids]
        self._send(frame)
        return None

    def pack_args(self, args: tuple, kwargs: dict) -> tuple:
        """Serialise arguments of every kind.

        Returns ``(inline bytes, dependencies, nvals, CALL flags, reference to the blob)``; the last
        must live until the frame is queued.
        """
        packed, deps, contains = serialization.encode_args(args, kwargs, _is_ref)
        if packed.size <= INLINE_ARGS_MAX:
            nvals = len(deps)
            return packed.to_bytes(), deps + [i for i in contains if i not in deps], nvals, 0, None
        id = self._sequence.one()
        blob = self._publish(id, serialization.name_blob(packed, id), ())
        deps.append(id)
        return b"", deps + [i for i in contains if i not in deps], len(deps), wire.FLAG_ARGS_BLOB, blob

    def _wait_credit(self) -> None:
        self._check_open("failed to invoke instance")
        try:
            with self._blocked():
                self.session.wait_credit()
        except SessionLost as e:
            raise self._ended(str(e), "failed to invoke instance") from None

    # ---- objects

    def put(self, value: Any) -> ObjectRef:
        """hot: make an object; small ones travel inline, others are written to shared memory here.

        Raises the pickling error of the value, and ``YRRuntimeError`` (4202) when the store is full.
        """
        session = self.session
        if session.dead:
            self._check_open("failed to put object")
        data = serialization.encode(value)
        id = b"%b%011x" % (self._prefix, self._next())
        if type(data) is bytes:
            n = len(data)
            if n <= self._put_max and self._objects.spend_inline(id, n, self._put_budget):
                self._values[id] = data
                self._send(_PACK_PUT(28 + n, 19, 0, 0, 0, id, 0, 0, 0, n) + data)
                return ObjectRef(id)
            return self._publish(id, Serialized([(0, data)], n, []), ())
        return self._publish(id, data, data.contains)

    def place(self, value: Serialized) -> Place:
        """Write a value to shared memory; the caller publishes the place."""
        return self._memory.write(value, "failed to put object")

    def _publish(self, id: bytes, value: Serialized, contains: Any) -> ObjectRef:
        if len(contains) > wire.MAX_CONTAINS:
            raise ValueError(f"a value may hold {wire.MAX_CONTAINS} references, this one has {len(contains)}")
        objects = self._objects
        if value.size <= self._put_max and objects.spend_inline(id, value.size, self._put_budget):
            place: Any = value.to_bytes()
        else:
            place = self.place(value)
        if contains:
            objects.contains[id] = contains
        self._values[id] = place
        self._send(wire.put(id, place, contains))
        return ObjectRef(id)

    def get(self, refs: list, timeout: float | None, allow_partial: bool = False) -> list:
        """Return the values of ``refs`` in order; raise the first failure, or ``YRTimeoutError``.

        With ``allow_partial`` slots that are not ready in time are ``None``, unless none is ready.
        """
        values = self._values
        ids = [ref._id for ref in refs]
        raw = [values.get(id, FOREIGN) for id in ids]
        deadline = _FOREVER if timeout is None else time.monotonic() + timeout
        if None in raw or FOREIGN in raw or AWAY in raw:
            self._ask_for(ids, AWAY)
            self._settle(ids, len(ids), deadline)
            raw = [values.get(id, FOREIGN) for id in ids]
            missing = sum(1 for v in raw if v is None)
            if missing and (not allow_partial or missing == len(raw)):
                raise _get_timeout(allow_partial)
        decode = serialization.decode
        return [decode(v) if type(v) is bytes else self._open(id, v, deadline) for id, v in zip(ids, raw)]

    def wait(self, refs: list, num: int, timeout: float | None) -> list:
        """Wait until ``num`` of ``refs`` are ready, or the time is over; say of each whether it is."""
        ids = [ref._id for ref in refs]
        ready = self._objects.is_ready
        if sum(map(ready, ids)) < num:
            self._ask_for(ids)
            self._settle(ids, num, _FOREVER if timeout is None else time.monotonic() + timeout)
        return [ready(id) for id in ids]

    def is_ready(self, ref: ObjectRef) -> bool:
        """Say whether a value or an error is there, without waiting."""
        if not self._objects.is_ready(ref._id):
            self._ask_for([ref._id])
            self.session.flush()
            self.session.poll()
        return self._objects.is_ready(ref._id)

    def _settle(self, ids: list, num: int, deadline: float) -> None:
        """Wait until ``num`` of ``ids``, which were asked for, are ready or the time is over."""
        values = self._values
        pending = [id for id in dict.fromkeys(ids) if values.get(id, _MISSING) is None]
        missing = len(ids) - num
        if len(pending) <= missing:
            return
        if missing:

            def done() -> bool:
                pending[:] = [id for id in pending if values.get(id, _MISSING) is None]
                return len(pending) <= missing
        else:

            def done() -> bool:  # results come in about the order of their calls: look at the last one first
                while pending and values.get(pending[-1], _MISSING) is not None:
                    pending.pop()
                return not pending

        session = self.session
        session.flush()
        session.poll()
        if done():
            return
        with self._blocked():
            session.wait(done, deadline, tuple(pending), missing)
        if session.dead and not done():
            raise self._ended(session.dead, "failed to get object")

    def _ask_for(self, ids: list, also: Any = FOREIGN) -> None:
        """Send GET for the objects that nobody pushes to us; with ``AWAY``, for those that left memory too."""
        values = self._values
        wanted = [id for id in ids if (v := values.get(id, _MISSING)) is FOREIGN or v is also]
        if wanted:
            for id in wanted:
                values[id] = None
            self.session.out.append(wire.ids_frame(wire.GET, list(dict.fromkeys(wanted))))

    def _open(self, id: bytes, value: Any, deadline: float) -> Any:
        """Turn anything but inline bytes into what ``get`` gives."""
        while isinstance(value, Place) or value is AWAY:
            view = None if value is AWAY else self._open_view(id, value, value)
            if view is not None:
                return serialization.decode(view)
            self._ask_for([id], AWAY)  # it left memory while we were looking
            self._settle([id], 1, deadline)
            value = self._values.get(id, FOREIGN)
            if value is None:
                raise _get_timeout(False)
        if type(value) is bytes:
            return serialization.decode(value)
        if isinstance(value, Failure):
            if value.code == shm.STORE_FULL and self._values.get(id) is value:
                self._values[id] = AWAY  # there was no room to read it; the next one to ask may be luckier
            raise self.failure(value)
        if isinstance(value, Local):
            if value.error is not None:
                raise value.error
            return value.value
        if value is None:
            return None
        self._check_open("failed to get object")
        text = f"object {id.decode()} is not known here: it was made in an earlier session, or released"
        raise remote_error(4299, text.encode(), False, "failed to get object")

    def leases(self) -> list:
        """Return the slabs that this session holds, as ``Lease`` messages."""
        return self._memory.leases()

    def failure(self, value: Failure) -> Exception:
        """Return the exception for an object that failed; a new one each time."""
        return remote_error(value.code, value.payload, value.serialized, "failed to get object")

    def peek(self, place: Place) -> memoryview:
        """Return a view that keeps nothing alive: the caller must know that the blob stays."""
        return memoryview(self._memory.mapping(place).array(place.offset, place.length)).cast("B")

    def view(self, id: bytes, place: Place) -> memoryview:
        """Return a view of a blob. While anything refers to its memory, this process refers to ``id``.

        For blobs that the agent keeps where they are meanwhile: arguments of a task, code.
        """
        view = self._open_view(id, place, None)
        assert view is not None
        return view

    def _open_view(self, id: bytes, place: Place, known: Place | None) -> memoryview | None:
        first = self._objects.open_view(id, known)
        if first is None:
            return None
        if first:
            self.session.out.append(wire.ids_frame(wire.RETAIN, [id]))
        try:
            mapping = self._memory.mapping(place)
            return shm.pinned_view(mapping, place, functools.partial(references.view_ended, id))
        except BaseException:
            references.view_ended(id)
            raise

    def adopt(self, id: bytes) -> None:
        """Count one more reference of this process to ``id``."""
        if self._objects.adopt(id):
            self.session.out.append(wire.ids_frame(wire.RETAIN, [id]))

    def set_local(self, id: bytes, outcome: Local) -> None:
        """Give an object a value in this process only."""
        self._objects.set(id, outcome)

    # ---- callbacks

    def when_ready(self, id: bytes, call: Callable[[], None]) -> None:
        """Have ``call()`` run once ``id`` is ready, in the thread that reads; it must not block."""
        self._check_open("failed to get object")
        session = self.session

        def once() -> None:
            session.watch_callbacks(-1)
            call()

        self._ask_for([id], AWAY)
        session.watch_callbacks(1)
        self._objects.add_watch([id], Callback(once))
        session.flush()

    def run_callback(self, call: Callable[[], None]) -> None:
        """Run user code that waits for an object on a thread of its own kind."""
        with self._callbacks_lock:  # never held while waiting: the thread that reads comes here
            if self._callbacks is None:
                self._callbacks = queue.SimpleQueue()
                run = functools.partial(_run_callbacks, self._callbacks)
                threading.Thread(target=run, name="yr-callbacks", daemon=True).start()
        self._callbacks.put(call)

    # ---- instances

    def create(self, code: Code, args: tuple, kwargs: dict, options: dict, descriptor: bytes) -> tuple:
        """Start making an instance; return ``(target number, instance id)`` at once."""
        self._check_open("failed to create instance")
        number = self._numbers()
        id = self._sequence.one()
        message = {
            "number": number,
            "instance_id": id,
            "code_id": code.code_id,
            "name": code.name,
            "language": LANGUAGE,
            "options": dict(options),
            "descriptor": descriptor,
            **self._carry(code),
        }
        held = None
        if args or kwargs:
            body, deps, nvals, flags, held = self.pack_args(args, kwargs)
            message.update(args=body, deps=deps, nvals=nvals, args_blob=bool(flags))
        self._instances.made(number, id, wire.frame(wire.CREATE, control.encode(control.CREATE, message)))
        self.session.flush()
        del held
        return number, id.decode()

    def bind(self, instance_id: str) -> int:
        """Give an instance that somebody else made a number in this session."""
        self._check_open("failed to invoke instance")
        return self._instances.bind(instance_id.encode(), self._numbers)

    def instance_ready(self, instance_id: str, timeout: float) -> str:
        """Wait until an instance runs; return its real id, or raise why it could not be made."""
        id = instance_id.encode()
        self.bind(instance_id)
        self.session.flush()
        key = self._instances.key(id)
        if not self._objects.is_ready(key):
            with self._blocked():
                done = functools.partial(self._objects.is_ready, key)
                self.session.wait(done, time.monotonic() + timeout, (key,))
        outcome = self._values.get(key)
        if isinstance(outcome, Failure):
            raise remote_error(outcome.code, outcome.payload, outcome.serialized, "failed to create instance")
        if outcome is None:
            self._check_open("failed to create instance")
            text = f"instance {instance_id} is not running after {timeout:g} s; see `yr why {instance_id}`"
            raise remote_error(4005, text.encode(), False, "failed to create instance")
        return outcome.decode()

    def lookup(self, name: str, namespace: str) -> dict | None:
        """Find a named instance; ``None`` if there is none. Keys are the fields of ``Found``."""
        body = control.encode(control.LOOKUP, {"name": name, "namespace": namespace})
        found = control.decode(control.FOUND, self._ask(wire.LOOKUP, body, 30.0, "failed to get instance"))
        if not found["found"]:
            return None
        found["instance_id"] = found["instance_id"].decode()
        return found

    def kill(self, instance_id: str, wait: bool, timeout: float = 30) -> None:
        """End an instance; with ``wait`` return when its process is gone."""
        body = control.encode(control.KILL, {"instance_id": instance_id.encode(), "wait": wait})
        reply = self._ask(wire.KILL, body, timeout, "failed to kill instance")
        status = control.decode(control.STATUS, reply)
        if status["code"]:
            raise remote_error(status["code"], status["message"].encode(), False, "failed to kill instance")

    def cancel(self, refs: list, force: bool, recursive: bool) -> None:
        """Cancel the calls behind ``refs``; those that ended are left alone."""
        self._check_open("failed to cancel")
        ids = [ref._id for ref in refs]
        message = {"ids": ids, "force": force, "recursive": recursive}
        self.session.out.append(wire.frame(wire.CANCEL, control.encode(control.CANCEL, message)))
        self.session.flush()

    def _ask(self, kind: int, body: bytes, timeout: float, prefix: str) -> bytes:
        self._check_open(prefix)
        session = self.session
        try:
            corr = session.request(kind, body)
            with self._blocked():
                reply = session.answer(corr, timeout)
        except SessionLost as e:
            raise self._ended(str(e), prefix) from None
        if reply is None:
            text = f"the yr daemon gave no answer within {timeout:g} s; see `yr status`"
            raise remote_error(4005, text.encode(), False, prefix)
        return reply

    # ---- waiting and ending

    @contextmanager
    def _blocked(self) -> Iterator[None]:
        """Around every wait: a worker tells the agent that it gives its CPU share back."""
        if self.blocking is None:
            yield
        else:
            with self.blocking():
                yield

    def _check_open(self, prefix: str) -> None:
        if self.session.dead:
            raise self._ended(self.session.dead, prefix)

    def _ended(self, text: str, prefix: str) -> Exception:
        if self.session.closed:
            return remote_error(9000, FINALIZED.encode(), False, prefix)
        return remote_error(3002, text.encode(), False, prefix)


_PACK_CALL = wire.CALL_HEAD.pack
_PACK_PUT = wire.PUT_HEAD.pack
_PACK_DEADLINE = wire.DEADLINE_TAIL.pack


def _get_timeout(allow_partial: bool) -> Exception:
    text = f"Get object timeout. allowPartial = {str(allow_partial).lower()}"
    return remote_error(4005, text.encode(), False, "failed to get object")


def _is_ref(value: Any) -> bool:
    return isinstance(value, ObjectRef)


def _run_callbacks(calls: queue.SimpleQueue) -> None:
    while True:
        call = calls.get()
        if call is None:
            return
        try:
            call()
        except Exception:
            sys.excepthook(*sys.exc_info())
        del call


def _version() -> str:
    try:
        from yr._version import __version__

        return __version__
    except ImportError:
        return "0"


def _getcwd() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


# ---- the runtime of this process

_current: Runtime | None = None


def current() -> Runtime | None:
    """Return the runtime of this process, if ``yr.init`` was called."""
    return _current


def require() -> Runtime:
    """Return the runtime of this process, or raise what to do."""
    if _current is None:
        text = b"yr is not initialised in this process; call yr.init() first"
        raise remote_error(4001, text, False, "failed to use yr")
    return _current


def set_current(runtime: Runtime | None) -> None:
    """Make ``runtime`` the one of this process."""
    global _current
    _current = runtime


def _after_fork_in_child() -> None:
    """A forked child starts afresh: it neither uses nor ends its parent's session."""
    global _current
    runtime, _current = _current, None
    references.dropped.clear()
    references.unviewed.clear()
    if runtime is not None:
        _inherited.append(runtime)  # never collected: its mappings and locks are the parent's
        runtime.session.abandon()


_inherited: list = []
os.register_at_fork(after_in_child=_after_fork_in_child)
