"""One connection to the agent: reading, writing, and which thread does it.

The thread that waits is the thread that reads. Whoever holds ``_role`` reads the socket and files
what arrives for everybody; a waiting thread that cannot have the role sleeps in a :class:`Waiter`
until its objects are there or the role is handed to it. A background thread reads only when nobody
waits, writes frames that would linger, and reconnects when the connection breaks.

Writing never waits for another thread: frames are appended to ``out`` (atomic), and whoever gets
``_send_lock`` writes everything there is. A write that would block keeps reading, so that an agent
which is writing to us can never wait for us in a circle.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections import deque
from struct import Struct
from typing import Any, Callable

from . import control, references, wire
from .references import Objects, Waiter, dropped
from .wire import FrameError

RECV_SIZE = 64 << 10
FLUSH_FRAMES = 64  # unsent frames that are written at once
FLUSH_AFTER = 0.0002  # seconds: an unsent frame older than this is written with the next
RECV_TICK = 0.5  # seconds a blocking read may take before the deadline is looked at again
CONNECT_TIMEOUT = 10.0
RESUME_SECONDS = 30.0
GONE_SECONDS = 5.0  # when nobody even listens: the daemon's parent is dead too
_IDS_PER_FRAME = 50_000
_NOWAIT = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_FOREVER = float("inf")


class ConnectError(Exception):
    """The agent refused the session or could not be reached. ``code`` is public."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class SessionLost(Exception):
    """The connection is gone for good; the text says why and what to do."""


def connect_socket(path: str) -> socket.socket:
    """Connect to the agent's Unix socket."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(CONNECT_TIMEOUT)
        sock.connect(path)
        return sock
    except BaseException:
        sock.close()
        raise


def read_frame(sock: socket.socket) -> tuple:
    """Read one whole frame with a blocking socket; return ``(type, flags, corr, body)``."""
    head = _read_exactly(sock, wire.HEADER_LEN)
    length, kind, flags, corr = wire.decode_header(head)
    return kind, flags, corr, _read_exactly(sock, length)


def _read_exactly(sock: socket.socket, n: int) -> bytes:
    parts = []
    while n:
        part = sock.recv(min(n, 1 << 20))
        if not part:
            raise ConnectionResetError("the daemon closed the connection")
        parts.append(part)
        n -= len(part)
    return b"".join(parts)


def _readable(sock: socket.socket, timeout: float) -> bool:
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(max(1, timeout * 1000)))


class Session:
    """The frames of one session. Created by :meth:`open`; all methods may be called from any thread."""

    def __init__(self, path: str, hello: dict, progress_fd: int = -1) -> None:
        self.path = path
        self.hello = hello
        self.progress_fd = progress_fd
        self.welcome: dict = {}
        self.objects = Objects()
        self.calls: dict = {}  # id -> CALL frame of every call without a result
        # id -> what such a call depends on. The agent holds it too; but a restarted one learns from us
        # what there is, so we hold it as well until the result is here.
        self.pins: dict = {}
        self.requests: dict = {}  # corr -> frame of every request without an answer
        self.out: list = []  # frames to be written; append and slicing are atomic
        self.credit = 1
        self.tasks: deque = deque()  # workers: TASKs not started
        self.on_task: Callable[[tuple], None] = self.tasks.append
        self.yields_asked = 0  # workers: frames sent that YIELDED answers; changed under _corr_lock
        self.yields_done = 0  # YIELDED frames read; while fewer, TASKs are dropped
        self.last_task = 0  # highest delivery number that was accepted
        self.handlers: dict = {}  # type -> function(buf, pos, end, flags, corr)
        self.on_lost: Callable[[str], None] = lambda text: None  # the session cannot be resumed
        self.on_resumed: Callable[[], None] = lambda: None  # called by the background thread
        self.housekeeping: Callable[[], bool] = lambda: False  # true: call again at once
        self.is_worker = False
        self.busy: Callable[[], Any] = lambda: None  # workers: what runs now; the same twice is slow
        self.dead: str | None = None  # why the session ended
        self.closed = False
        self._down = False  # broken, being resumed
        self._sock: socket.socket | None = None
        self._role = threading.Lock()
        self._send_lock = threading.Lock()
        self._sleepers: dict = {}  # Waiter -> None; ordered, handed the role first come first served
        self._conditions: dict = {}  # sleeping Waiter -> what it waits for, looked at after each read
        self._rest = b""
        self._big: bytearray | None = None  # a frame larger than one read
        self._big_have = 0
        self._reads = 0
        self._last_send = 0.0
        self._sends = 0
        self._corr = 0
        self._corr_lock = threading.Lock()
        self._armed = False  # the background thread looks at out every millisecond
        self._parked = False
        self._thread: threading.Thread | None = None
        self._wake_r, self._wake_w = -1, -1
        self._callbacks = 0
        self._up = threading.Condition()

    # ---- life

    def open(self) -> dict:
        """Connect and say HELLO; return the Welcome."""
        try:
            self._sock, self.welcome = self._handshake(self.hello)
        except (OSError, FrameError) as e:
            raise ConnectError(4002, f"cannot reach the yr daemon at {self.path}: {e}") from None
        self.credit = self.welcome["credit"] or 1
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_r, False)
        os.set_blocking(self._wake_w, False)
        return self.welcome

    def start_background(self) -> None:
        """Start the background thread, once."""
        with self._corr_lock:
            if self._thread is None and not self.closed:
                self._thread = threading.Thread(target=self._background, name="yr-io", daemon=True)
                self._thread.start()

    def _handshake(self, hello: dict) -> tuple:
        sock = connect_socket(self.path)
        try:
            data = wire.hello(control.encode(control.HELLO, hello))
            if self.progress_fd >= 0:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, self.progress_fd.to_bytes(4, "little"))]
                sent = sock.sendmsg([data], rights)
                sock.sendall(data[sent:])
            else:
                sock.sendall(data)
            kind, _, _, body = read_frame(sock)
            if kind == wire.REJECT:
                status = control.decode(control.STATUS, body)
                raise ConnectError(status["code"], status["message"])
            if kind != wire.WELCOME:
                raise FrameError(f"expected WELCOME, got {wire.NAMES.get(kind, kind)}")
            sock.settimeout(None)
            seconds = int(RECV_TICK)
            timeval = Struct("ll").pack(seconds, int((RECV_TICK - seconds) * 1e6))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
            return sock, control.decode(control.WELCOME, body)
        except BaseException:
            sock.close()
            raise

    def close(self, reason: str) -> None:
        """End the session here and now. Everybody who waits is woken and finds ``dead`` set."""
        with self._up:
            if self.closed:
                return
            self.closed = True
            self.dead = self.dead or reason
            self._up.notify_all()
        sock = self._sock
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)  # wakes a thread that is reading
            except OSError:
                pass
        self._wake_all()
        self._kick()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5)
        with self._role:
            if sock is not None:
                sock.close()
        os.close(self._wake_w)
        os.close(self._wake_r)

    def abandon(self) -> None:
        """After fork, in the child: let go of the parent's descriptors without a word to the agent."""
        self.closed = True
        self.dead = "the runtime belongs to the parent process; call yr.init() in this one"
        if self._sock is not None:
            os.close(self._sock.detach())
        for fd in (self._wake_r, self._wake_w):
            if fd >= 0:
                os.close(fd)

    # ---- writing

    def send(self, frame: bytes) -> None:
        """hot: queue a frame and write it now if the line has been quiet, else with the next ones."""
        out = self.out
        out.append(frame)
        n = len(out)
        if n >= FLUSH_FRAMES:
            self.flush()
            self.poll()
        elif time.monotonic() - self._last_send > FLUSH_AFTER:
            self.flush()
        elif not self._armed:
            self._armed = True
            self._kick()

    def flush(self) -> None:
        """Write everything that is queued, and the releases of references that died meanwhile."""
        out = self.out
        while out or references.dropped:
            if self._down or self.closed or not self._send_lock.acquire(False):
                return  # the holder looks again after it let go
            try:
                if references.dropped:
                    gone = self.objects.take_dropped()
                    for k in range(0, len(gone), _IDS_PER_FRAME):
                        out.append(wire.ids_frame(wire.RELEASE, gone[k : k + _IDS_PER_FRAME]))
                chunk = out[:]
                if not chunk:
                    continue
                data = chunk[0] if len(chunk) == 1 else b"".join(chunk)
                self._last_send = time.monotonic()
                self._sends += 1
                del out[: len(chunk)]  # not earlier: a Ctrl-C before the write must lose no frame
                try:
                    sent = self._sock.send(data, _NOWAIT)
                except BlockingIOError:
                    sent = 0
                if sent != len(data):
                    self._send_rest(memoryview(data)[sent:])
            except OSError as e:
                self._broken(e)
                return
            finally:
                self._send_lock.release()

    def _send_rest(self, rest: memoryview) -> None:
        """Write what did not fit, reading meanwhile if nobody else does."""
        sock = self._sock
        poller = select.poll()
        while rest:
            if self.closed:
                return
            mine = self._role.acquire(False)
            try:
                poller.register(sock, select.POLLOUT | (select.POLLIN if mine else 0))
                events = poller.poll(50 if not mine else 500)
                if mine and any(e & (select.POLLIN | select.POLLHUP | select.POLLERR) for _, e in events):
                    self._receive(_NOWAIT)
            finally:
                if mine:
                    self._release_role()
            try:
                rest = rest[sock.send(rest, _NOWAIT) :]
                self._last_send = time.monotonic()
            except BlockingIOError:
                pass

    # ---- reading

    def poll(self) -> None:
        """File what has arrived, without waiting. A no-op while another thread reads."""
        if self._role.acquire(False):
            try:
                if not self._down and not self.closed:
                    self._receive(_NOWAIT)
            finally:
                self._release_role()

    def wait(self, done: Callable[[], bool], deadline: float, ids: Any = (), missing: int = 0) -> bool:
        """Wait until ``done()``; false if ``deadline`` (monotonic) passed first or the session died.

        ``ids`` are the identifiers that ``done`` looks at and ``missing`` how many of them may still
        be missing: that is when a thread that could not have the reading role is woken. Without
        ``ids`` it is woken when ``done()`` holds after a read.
        """
        if self._role.acquire(False):
            try:
                if self._read_until(done, deadline):
                    return True
            finally:
                self._release_role()
        if done():
            return True
        return self._sleep_until(done, deadline, Waiter(ids, missing))

    def _read_until(self, done: Callable[[], bool], deadline: float) -> bool:
        while not done():
            if self.dead or self._down:
                return False
            if self.out or references.dropped:
                self.flush()
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if left < RECV_TICK and not _readable(self._sock, left):
                return done()
            self._receive(0)
        return True

    def _sleep_until(self, done: Callable[[], bool], deadline: float, waiter: Waiter) -> bool:
        objects = self.objects
        self._sleepers[waiter] = None
        if waiter.pending:
            objects.add_watch(waiter.pending, waiter)
        else:
            self._conditions[waiter] = done
        try:
            while not done():
                if self.dead:
                    return False
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                if not self._down and self._role.acquire(False):
                    try:
                        if self._read_until(done, deadline):
                            return True
                    finally:
                        self._release_role()
                    continue
                waiter.sleep(min(left, RECV_TICK))
            return True
        finally:
            self._sleepers.pop(waiter, None)
            self._conditions.pop(waiter, None)
            objects.remove_watch(waiter)
            if not self._role.locked():  # the role may have been offered to us while we were leaving
                self._wake_one()

    def wait_credit(self) -> None:
        """Wait until an eighth of the credit is free again: fewer would mean a read for each call."""
        calls = self.calls

        def enough() -> bool:
            return len(calls) <= self.credit - (self.credit >> 3) - 1

        self.flush()
        self.wait(enough, _FOREVER)
        if self.dead:
            raise SessionLost(self.dead)

    def _release_role(self) -> None:
        self._role.release()
        if self._sleepers:  # somebody else must read now
            self._wake_one()

    def _wake_one(self) -> None:
        for waiter in list(self._sleepers):
            waiter.wake()
            break

    def _wake_all(self) -> None:
        for waiter in list(self._sleepers):
            waiter.wake()

    def _receive(self, flags: int) -> None:
        """Read once and file what came. The caller holds the role."""
        self._reads += 1
        try:
            if self._big is not None:
                view = memoryview(self._big)[self._big_have :]
                n = self._sock.recv_into(view, 0, flags)
                view.release()
                if n == 0:
                    raise ConnectionResetError("the daemon closed the connection")
                self._big_have += n
                if self._big_have < len(self._big):
                    return
                data, self._big = bytes(self._big), None
            else:
                data = self._sock.recv(RECV_SIZE, flags)
                if not data:
                    raise ConnectionResetError("the daemon closed the connection")
                if self._rest:
                    data = self._rest + data
            self._parse(data)
        except BlockingIOError:
            return
        except OSError as e:
            self._broken(e)
        except Exception as e:  # FrameError, or what a handler makes of bytes that it did not expect
            self.give_up(f"the yr daemon sent a broken frame ({e}); SDK and daemon may be of different builds")

    def _parse(self, data: bytes) -> None:
        """hot: file every whole frame in ``data`` and keep the rest."""
        pos, end = 0, len(data)
        values, watch, calls, pins = self.objects.values, self.objects.watch, self.calls, self.pins
        unpack_result, unpack_object = wire.RESULT_HEAD.unpack_from, wire.OBJECT_FIELDS.unpack_from
        try:
            while end - pos >= 16:
                if end - pos >= 48:
                    length, kind, flags, _, corr, id, count, vkind, _, ncontains, n = unpack_result(data, pos)
                    stop = pos + 16 + length
                    if kind == 18 and count == 1 and vkind == 0 and length == 32 + n and not ncontains and stop <= end:
                        calls.pop(id, None)
                        if pins and id in pins:
                            dropped.extend(pins.pop(id))
                        if id in values:
                            values[id] = data[pos + 48 : stop]
                            if watch:
                                self.objects.ready(id)
                        pos = stop
                        continue
                    if kind == 23 and length >= 28 and stop <= end:
                        id, vkind, _, ncontains, n = unpack_object(data, pos + 16)
                        if vkind == 0 and length == 28 + n and not ncontains:
                            if id in values:
                                values[id] = data[pos + 44 : stop]
                                if watch:
                                    self.objects.ready(id)
                            pos = stop
                            continue
                else:
                    length, kind, flags, _, corr = wire.HEADER.unpack_from(data, pos)
                    stop = pos + 16 + length
                if stop > end:
                    if length > wire.MAX_BODY:
                        raise FrameError(f"frame of {length} bytes is larger than the limit of {wire.MAX_BODY}")
                    break
                if kind == 17:
                    self._file_task(data, pos, stop, flags, corr)
                else:
                    handler = self.handlers.get(kind)
                    if handler is not None:
                        handler(data, pos + 16, stop, flags, corr)
                    elif kind not in wire.NAMES:
                        raise FrameError(f"frame of unknown type {kind}")
                pos = stop
        finally:
            self._rest = rest = data[pos:]
            if len(rest) >= 16:
                total = 16 + wire.HEADER.unpack_from(rest)[0]
                if RECV_SIZE < total <= 16 + wire.MAX_BODY and total > len(rest):
                    self._big = bytearray(total)
                    self._big[: len(rest)] = rest
                    self._big_have = len(rest)
                    self._rest = b""
            if self._conditions:
                for waiter, done in list(self._conditions.items()):
                    if done():
                        waiter.wake()

    def _file_task(self, data: bytes, pos: int, stop: int, flags: int, delivery: int) -> None:
        """hot: queue a TASK, or drop it while a YIELDED is due."""
        if self.yields_asked != self.yields_done:
            return
        if stop - pos < 52:
            raise FrameError("task is cut off")
        _, _, _, _, _, id, target, nargs, nvals, nmethod, returns = wire.TASK_HEAD.unpack_from(data, pos)
        at = pos + 52
        if nvals:
            task = wire.decode_task(data, pos + 16, stop)
            self.last_task = delivery
            self.on_task((delivery, id, target, task.method, task.args, task.values, returns, flags))
            return
        if nmethod + nargs > stop - at or nmethod > wire.MAX_METHOD or returns > wire.MAX_RETURNS:
            raise FrameError("method and arguments do not fit into the task")
        args = at + nmethod
        self.last_task = delivery
        self.on_task((delivery, id, target, data[at:args], data[args : args + nargs], (), returns, flags))

    # ---- requests

    def expect_yielded(self) -> None:
        """A frame that YIELDED answers is about to be queued: TASKs that arrive before it are not ours."""
        with self._corr_lock:
            self.yields_asked += 1

    def request(self, kind: int, body: bytes = b"") -> int:
        """Queue a request; return its number, under which :meth:`answer` finds the reply."""
        with self._corr_lock:
            self._corr += 1
            corr = self._corr
        frame = wire.frame(kind, body, corr)
        self.objects.values[corr] = None
        self.requests[corr] = frame
        self.out.append(frame)
        return corr

    def answer(self, corr: int, timeout: float) -> bytes | None:
        """Wait for the reply to request ``corr``; ``None`` if it did not come in time."""
        self.flush()
        values = self.objects.values
        self.wait(lambda: values.get(corr) is not None, time.monotonic() + timeout, (corr,))
        self.requests.pop(corr, None)
        reply = values.pop(corr, None)
        if reply is None and self.dead:
            raise SessionLost(self.dead)
        return reply

    def file_reply(self, buf: bytes, pos: int, end: int, flags: int, corr: int) -> None:
        """Handler of every frame that answers a request."""
        self.requests.pop(corr, None)
        self.objects.set(corr, bytes(buf[pos:end]))

    # ---- the background thread

    def watch_callbacks(self, n: int) -> None:
        """Somebody waits without a thread of their own: the background thread must read."""
        self._callbacks += n
        if n > 0:
            self._kick()

    def unpark(self) -> None:
        """hot: a worker starts a task; its background thread must look after it."""
        if self._parked:
            self._parked = False
            self._kick()

    def arm(self) -> None:
        """hot: frames stay unsent while user code runs; the background thread will write them."""
        if not self._armed:
            self._armed = True
            self._kick()

    def _kick(self) -> None:
        if self._thread is None:
            self.start_background()
        try:
            os.write(self._wake_w, b"k")
        except OSError:
            pass  # full: it is awake; closed: it is gone

    def _background(self) -> None:
        from .background import run

        run(self)

    # ---- a broken connection

    def _broken(self, e: Exception) -> None:
        with self._up:
            if self.closed or self._down:
                return
            self._down = True
        self.out.clear()
        self._wake_all()
        self.start_background()
        self._kick()

    def give_up(self, text: str) -> None:
        with self._up:
            if self.dead:
                return
            self.dead = text
        self.on_lost(text)
        self._wake_all()

    def resume(self) -> None:
        """Reconnect with the resume token and say again what we hold; the background thread calls it."""
        hello = dict(self.hello, resume_token=self.welcome["resume_token"], job=self.welcome["job"])
        end = time.monotonic() + RESUME_SECONDS
        delay = 0.02
        while not self.closed:
            try:
                hello.update(self.resume_state())
                sock, welcome = self._handshake(hello)
                break
            except ConnectError as e:
                return self.give_up(f"the yr daemon refused to resume the session: {e}")
            except (OSError, FrameError) as e:
                gone = isinstance(e, (FileNotFoundError, ConnectionRefusedError))
                if time.monotonic() > (end - RESUME_SECONDS + GONE_SECONDS if gone else end):
                    return self.give_up(
                        f"lost the yr daemon at {self.path} and it did not come back ({e}); "
                        "see `yr status` and its logs, then yr.finalize() and yr.init() again"
                    )
            time.sleep(delay)
            delay = min(2 * delay, 0.5)
        else:
            return None
        with self._role, self._send_lock:
            old, self._sock = self._sock, sock
            old.close()
            self.welcome = dict(welcome, assignment=welcome["assignment"] or self.welcome["assignment"])
            self.credit = welcome["credit"] or 1
            self._rest, self._big, self.yields_done = b"", None, self.yields_asked
            self.out.clear()
            self.on_resumed()
            self._down = False
        self.flush()
        self._wake_all()
        return None

    def resume_state(self) -> dict:
        """What a resuming HELLO says besides the first one; the runtime replaces this."""
        return {}
