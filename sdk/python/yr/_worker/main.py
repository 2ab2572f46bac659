"""The life of a worker: connect, learn what it is for, run tasks, end.

The forked child of a template calls :func:`run` and never comes back from it.
"""

from __future__ import annotations

import logging
import mmap
import os
import signal
import sys
import threading
import time
from typing import Any, NoReturn

from yr._core import control, references, runtime as core, wire
from yr._core.instances import RUNNING
from yr._core.runtime import Runtime

from .executor import Loop, Pool, Serial
from .tasks import Tasks, flush_stdio

ASYNC_CONCURRENCY = 1000
DEFAULT_GRACE_MS = 30_000
SAY_SECONDS = 1.0
STARTING_CHECKS, STARTING_SECONDS = 50, 0.001  # for how long a task may be about to start
TASK_SECONDS = 1.0  # what a task may still take once its instance was told to end
_FOREVER = float("inf")
_log = logging.getLogger("yr.worker")


def run(worker_id: str, token: str, socket_path: str) -> NoReturn:
    """Serve as worker ``worker_id`` of the agent at ``socket_path``; ends the process."""
    code = 1
    os.environ["YR_AGENT_SOCKET"] = socket_path  # so that a program that user code starts finds this node
    try:
        code = Worker(worker_id, token, socket_path).serve()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        flush_stdio()
        os._exit(code)


class Worker:
    """One worker process."""

    def __init__(self, worker_id: str, token: str, socket_path: str) -> None:
        fd = os.memfd_create("yr-progress", os.MFD_CLOEXEC)
        os.ftruncate(fd, mmap.PAGESIZE)
        self._page_map = mmap.mmap(fd, mmap.PAGESIZE)
        self._page = memoryview(self._page_map).cast("Q")
        self.runtime = Runtime.connect(
            socket_path,
            role=core.ROLE_WORKER,
            token=token,
            worker_id=worker_id.encode(),
            code_paths=sys.path,
            progress_fd=fd,
        )
        core.set_current(self.runtime)
        self.session = self.runtime.session
        self.session.is_worker = True
        self._stopping: Any = None
        self._ending = threading.Lock()  # held, for good, by the thread that shuts down
        assignment = self.runtime.assignment or control.decode(control.ASSIGNMENT, b"")
        for path in reversed(assignment["code_paths"]):
            if path and path not in sys.path:
                sys.path.insert(0, path)
        self.tasks = Tasks(self.runtime, assignment)
        self.executor = self._executor(assignment)
        self.session.handlers[wire.RECALL] = self._on_recall
        self.session.handlers[wire.YIELDED] = self._on_yielded
        self.session.handlers[wire.SHUTDOWN] = self._on_shutdown
        self.session.on_lost = self._on_lost
        self.session.resume_state = self._resume_state
        self.runtime.before_resume(self._say_again)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        self._forking = False
        os.register_at_fork(before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._forked)
        self.session.start_background()

    def _executor(self, assignment: dict) -> Any:
        options = assignment["options"] or control.decode(control.OPTIONS, b"")
        concurrency = assignment["concurrency"] or options["concurrency"]
        if options["is_async"] and not self.tasks.stateless:
            return Loop(self.runtime, self.tasks, self._page, concurrency or ASYNC_CONCURRENCY)
        if concurrency > 1:
            return Pool(self.runtime, self.tasks, self._page, concurrency)
        return Serial(self.runtime, self.tasks, self._page)

    def serve(self) -> int:
        """hot: read and run until told to stop; return the exit code."""
        session = self.session
        tasks, pending, start = self.tasks, session.tasks, self.executor.start_pending

        def due() -> bool:
            return bool(pending) or self._stopping is not None or tasks.fatal

        while self._stopping is None:
            if pending:
                session.unpark()
                start()
                if tasks.fatal:
                    self._say_all()
                    return 1
            session.wait(due, _FOREVER)
        return self._shut_down()

    # ---- frames (called by the thread that reads)

    def _on_recall(self, buf: bytes, pos: int, end: int, flags: int, corr: int) -> None:
        self.tasks.give_back(wire.YIELD_RECALLED)

    def _on_yielded(self, buf: bytes, pos: int, end: int, flags: int, corr: int) -> None:
        if self.session.yields_done < self.session.yields_asked:
            self.session.yields_done += 1

    def _on_shutdown(self, buf: bytes, pos: int, end: int, flags: int, corr: int) -> None:
        self._stopping = control.decode(control.SHUTDOWN, bytes(buf[pos:end]))
        if self.executor.running():
            threading.Thread(target=self._end_beside_task, name="yr-end", daemon=True).start()

    def _end_beside_task(self) -> None:
        """The main thread may never come back from user code: shut down without it."""
        time.sleep(TASK_SECONDS)
        try:
            self._shut_down()
        finally:
            flush_stdio()
            os._exit(0)

    def _on_sigterm(self, number: int, frame: Any) -> None:
        """End as if the agent had asked, once the running task has ended."""
        if os.getpid() != self.runtime.pid:  # a process that user code forked is no worker
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._stopping = self._stopping or {"grace_ms": -1, "reason": "SIGTERM"}

    def _before_fork(self) -> None:
        """What user code forks is born with the default action: CPython forgets a signal that comes too early."""
        main = threading.current_thread() is threading.main_thread()
        self._forking = main and signal.getsignal(signal.SIGTERM) == self._on_sigterm
        if self._forking:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _after_fork(self) -> None:
        if self._forking:
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def _forked(self) -> None:
        """In the child: the task is the parent's, and who returns from it here has reached the end."""
        self.tasks.out = _End()  # type: ignore[assignment]

    def _shut_down(self) -> int:
        """Run the user's shutdown hook and say what is still to be said; the process must end then."""
        self._ending.acquire()
        grace_ms = self._stopping["grace_ms"]
        if grace_ms < 0:
            grace_ms = DEFAULT_GRACE_MS
        hook = getattr(self.tasks.instance, "__yr_shutdown__", None)
        if hook is not None:
            try:
                hook(grace_ms // 1000)
            except BaseException:
                _log.exception("__yr_shutdown__ failed")
        self._say_all()
        return 0

    def _say_all(self) -> None:
        """Write what is queued before the process ends."""
        end = time.monotonic() + SAY_SECONDS
        while (self.session.out or references.dropped) and not self.session.dead and time.monotonic() < end:
            self.session.flush()

    # ---- a lost agent

    def _on_lost(self, text: str) -> None:
        """Nobody is left to work for, and user code may never look: end the process from here."""
        print(f"yr worker ends: {text}", file=sys.stderr)
        flush_stdio()
        os._exit(1)

    def _resume_state(self) -> dict:
        after = self.tasks.drop_unstarted()
        for _ in range(STARTING_CHECKS):  # a task that has just left the queue is about to be marked as started
            if self._page[0] >= after:
                break
            time.sleep(STARTING_SECONDS)
        constructed = not self.tasks.stateless and self.tasks.instance is not None
        return {
            "leases": self.runtime.leases(),
            "worker": {
                "assignment": self.session.welcome["assignment"],
                "running": self.executor.running(),
                "last_delivery": max(self._page[0], after),
                "instance_state": RUNNING if constructed else 0,
            },
        }

    def _say_again(self, out: list) -> None:
        self.tasks.say_again(out)
        self.executor.say_again(out)


class _End:
    """Takes the place of the frames to be written: the first one ends the process."""

    def append(self, frame: bytes) -> None:
        """End as ``os._exit`` does; the agent has this session from the parent."""
        flush_stdio()
        os._exit(0)
