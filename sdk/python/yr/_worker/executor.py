"""Where tasks run: in the main thread, in a pool of threads, or on an event loop.

The main thread always does the reading. Tasks are started in the order of their delivery.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from yr._core import wire
from yr._core.runtime import Runtime

from .tasks import Tasks

FLUSH_AFTER = 0.0001  # seconds an unsent result may wait while other tasks run


class Serial:
    """One task at a time, in the main thread. hot: stateless functions and ordered instances."""

    def __init__(self, runtime: Runtime, tasks: Tasks, page: memoryview) -> None:
        self._runtime = runtime
        self._session = runtime.session
        self._tasks = tasks
        self._page = page
        self._running: tuple | None = None  # the task
        self._lock = threading.Lock()
        self._waiting = 0  # threads that wait
        self._session.busy = lambda: self._running
        runtime.blocking = self._blocked

    def start_pending(self) -> None:
        """hot: run what was delivered, until nothing is left."""
        session, tasks, page = self._session, self._tasks, self._page
        pending, out, run = session.tasks, session.out, tasks.run
        since = 0.0
        while pending:
            try:
                task = pending.popleft()
            except IndexError:  # given back by a RECALL that another thread read
                return
            self._running = task
            page[0] = task[0]
            if out:
                now = time.monotonic()
                if not since:
                    since = now
                    session.arm()
                elif now - since > FLUSH_AFTER:
                    session.flush()
                    since = 0.0
            run(task)
            self._running = None
            del task
            if tasks.failed:
                tasks.retire()
            if tasks.fatal:
                return

    def running(self) -> list:
        """Return the identifiers of tasks that were started and have not ended."""
        task = self._running
        return [task[1]] if task else []

    def say_again(self, out: list) -> None:
        """Resuming: a task that waits still does."""
        if self._waiting:
            out.append(wire.blocked(wire.NO_YIELD))

    @contextmanager
    def _blocked(self) -> Iterator[None]:
        """Around a wait: the worker gives its CPU share and its backlog back.

        Also in threads that the task started: it will wait for them sooner or later.
        """
        if self._running is None:
            yield
            return
        out = self._session.out
        with self._lock:
            self._waiting += 1
            if self._waiting == 1:
                out.append(wire.blocked(self._tasks.unqueue() if self._tasks.stateless else wire.NO_YIELD))
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1
                if not self._waiting:
                    out.append(wire.frame(wire.UNBLOCKED))


class Pool:
    """``n`` tasks at a time, each in a thread of its own."""

    def __init__(self, runtime: Runtime, tasks: Tasks, page: memoryview, n: int) -> None:
        self._session = runtime.session
        self._tasks = tasks
        self._page = page
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._running: dict = {}  # delivery -> identifier
        self._waiting = 0
        self._told = False  # the agent knows that every running task waits
        self._mine = threading.local()
        runtime.blocking = self._blocked
        for k in range(n):
            threading.Thread(target=self._serve, name=f"yr-task-{k}", daemon=True).start()

    def start_pending(self) -> None:
        """Hand what was delivered to the threads."""
        pending = self._session.tasks
        while pending:
            try:
                self._queue.put(pending.popleft())
            except IndexError:
                return

    def _serve(self) -> None:
        session, tasks = self._session, self._tasks
        self._mine.task = True
        while True:
            task = self._queue.get()
            with self._lock:
                self._running[task[0]] = task[1]
                self._page[0] = max(self._page[0], task[0])
                self._tell()
            delivery = task[0]
            tasks.run(task)
            del task
            with self._lock:
                del self._running[delivery]
                self._tell()
                last = not self._running
            if tasks.failed:
                tasks.retire()
            if last or self._queue.empty():
                session.flush()
            else:
                session.arm()

    def running(self) -> list:
        """Return the identifiers of tasks that were started and have not ended."""
        with self._lock:
            return [*self._running.values(), *(task[1] for task in list(self._queue.queue))]

    def say_again(self, out: list) -> None:
        """Resuming: tasks that wait still do."""
        if self._told:
            out.append(wire.blocked(wire.NO_YIELD))

    def _tell(self) -> None:
        """Say BLOCKED when every running task waits, UNBLOCKED when that is over. Holds the lock."""
        stuck = bool(self._running) and self._waiting == len(self._running)
        if stuck and not self._told:
            self._session.out.append(wire.blocked(wire.NO_YIELD))
        elif self._told and not stuck:
            self._session.out.append(wire.frame(wire.UNBLOCKED))
            self._session.arm()
        self._told = stuck

    @contextmanager
    def _blocked(self) -> Iterator[None]:
        if not getattr(self._mine, "task", False):
            yield
            return
        with self._lock:
            self._waiting += 1
            self._tell()
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1
                self._tell()


# The task of an event loop that this code runs for; inherited by the asyncio tasks that it starts.
_job: contextvars.ContextVar = contextvars.ContextVar("yr_job", default=None)


class Loop:
    """Coroutine methods interleave on one event loop, up to ``n`` at a time; other methods block it."""

    def __init__(self, runtime: Runtime, tasks: Tasks, page: memoryview, n: int) -> None:
        self._session = runtime.session
        self._tasks = tasks
        self._page = page
        self._free = n
        self._loop = _new_event_loop()
        self._running: dict = {}  # future -> identifier of its task; also keeps the futures alive
        self._waiting: dict = {}  # future -> how many references it awaits, if any
        self._told = False  # the agent knows that every running task waits
        runtime.awaiting = self._awaiting
        threading.Thread(target=self._serve, name="yr-loop", daemon=True).start()

    def start_pending(self) -> None:
        """Have the loop look at what was delivered."""
        if self._session.tasks:
            self._loop.call_soon_threadsafe(self._start)

    def running(self) -> list:
        """Return the identifiers of tasks that were started and have not ended."""
        return list(self._running.values())

    def say_again(self, out: list) -> None:
        """Resuming: tasks that wait still do."""
        if self._told:
            out.append(wire.blocked(wire.NO_YIELD))

    def _awaiting(self, job: asyncio.Future | None, change: int) -> asyncio.Future | None:
        """A task begins to await a reference, or goes on; both on the loop. Returns the task."""
        job = job or _job.get()
        if job is not None:
            n = self._waiting.get(job, 0) + change
            if n > 0:
                self._waiting[job] = n
            else:
                self._waiting.pop(job, None)
            self._tell()
        return job

    def _tell(self) -> None:
        stuck = bool(self._running) and all(job in self._waiting for job in self._running)
        if stuck != self._told:
            self._told = stuck
            self._session.out.append(wire.blocked(wire.NO_YIELD) if stuck else wire.frame(wire.UNBLOCKED))
            self._session.arm()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _start(self) -> None:
        pending = self._session.tasks
        while pending and self._free > 0:
            task = pending.popleft()
            self._page[0] = max(self._page[0], task[0])
            self._free -= 1
            # A future for every task, so that all of them start in the order of their delivery.
            job = asyncio.ensure_future(self._run(task), loop=self._loop)
            self._running[job] = task[1]
            job.add_done_callback(self._ended)
        self._tell()

    async def _run(self, task: tuple) -> None:
        _job.set(asyncio.current_task())
        tasks = self._tasks
        construct = task[7] & wire.FLAG_CONSTRUCT
        try:
            function = tasks.code(task[2]) if construct else tasks.method(task[3])
            args, kwargs = tasks.arguments(task)
            value = function(*args, **kwargs)
            if not construct and inspect.isawaitable(value):
                value = await value
        except BaseException as e:
            tasks.raised(task, e)
            return
        if construct:
            tasks.constructed(task, value)
        else:
            tasks.returned(task, value)

    def _ended(self, job: asyncio.Future) -> None:
        del self._running[job]
        self._waiting.pop(job, None)
        self._free += 1
        self._start()
        self._session.flush()


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop

        return uvloop.new_event_loop()
    except ImportError:
        return asyncio.new_event_loop()
