"""The template: a warm interpreter from which workers are forked.

The daemon runs one for each (interpreter, exec-time environment), as
``python -c "...; main()" <control fd> <preload>``, and asks it for workers over
the control socket. One message brings a batch of orders; three go back: an empty
one (forking begins), the pids, and another empty one (it is over). A message is a
little-endian u32 length and that much JSON.

The template owns nothing but its control socket. It must stay single-threaded
(a lock held by another thread would stay locked in the child for ever) and must
never import user code (it would leak from one worker into all later ones). It
ends when the daemon's end of the socket is closed.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import os
import random
import select
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

_HEADER = struct.Struct("<I")
_MARK = _HEADER.pack(0)  # the empty message

# Libraries that user code is likely to import, loaded while nothing is asked for:
# the first worker does not wait for them, the later ones have them.
_PRELOAD = ("asyncio", "concurrent.futures", "logging", "numpy")
_IDLE_BEFORE_PRELOAD_MS = 50

# BLAS and OpenMP read these when they are loaded and then start their threads.
_THREAD_COUNTS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

# Higher is killed first when memory runs out: a worker before its daemon.
_OOM_SCORE_ADJ = "900"

_THREADS_STARTED = 75  # exit code: a preloaded library started threads; run without preloading


def main() -> NoReturn:
    """Serve fork requests; in a forked child, become the worker and run it."""
    control, preload = int(sys.argv[1]), sys.argv[2] == "1"
    sys.path[:] = [p for p in sys.path if p]  # the working directory is nobody's code
    _close_all_but({0, 1, 2, control})
    _write("/proc/self/oom_score_adj", _OOM_SCORE_ADJ)
    _write("/proc/self/comm", "yr-template")

    from yr._worker import main as worker

    order = _Template(socket.socket(fileno=control), preload).serve()
    _become(order)
    worker.run(order["worker"], order["token"], order["socket"])
    sys.exit(0)


class _Template:
    """The control loop. Only ``serve`` is called from outside."""

    def __init__(self, control: socket.socket, preload: bool) -> None:
        self._control = control
        self._preload = list(_PRELOAD) if preload else []

    def serve(self) -> dict[str, Any]:
        """Answer the daemon until it closes the socket. Returns only in a worker: its order."""
        if _threads() > 1:
            sys.exit(
                f"{_threads()} threads run after the imports (a .pth file or sitecustomize "
                "starts them?); workers can only be forked from a single-threaded interpreter"
            )
        _freeze()
        self._send({"version": ".".join(map(str, sys.version_info[:3])), "executable": sys.executable})
        while True:
            self._preload_while_idle()
            message = self._receive()
            if message is None:
                os._exit(0)
            self._write(_MARK)
            order = self._fork(message["forks"])
            if order is not None:
                return order
            self._write(_MARK)

    def _preload_while_idle(self) -> None:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        while self._preload and not poll.poll(_IDLE_BEFORE_PRELOAD_MS):
            _import_without_threads(self._preload.pop(0))
            if _threads() > 1:
                os._exit(_THREADS_STARTED)
            _freeze()

    def _fork(self, orders: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Fork one worker for each order; returns its order, but only in a worker.

        The workers are children of a process that ends at once, so that they pass
        to the daemon (the nearest subreaper), which can then reap them: exit
        statuses are exact and no pid is reused before the daemon knows. That
        process tells the pids itself, so that they are not lost with the template.
        """
        try:
            between = os.fork()
        except OSError as e:
            self._send({"pids": [], "error": str(e)})
            return None
        if between == 0:
            order = self._fork_each(orders)
            self._control.close()
            return order
        if os.waitpid(between, 0)[1] != 0:
            sys.exit("the process that forks was killed")
        return None

    def _fork_each(self, orders: list[dict[str, Any]]) -> dict[str, Any]:
        """In the process between: fork the workers, tell their pids, end. Returns only in a worker."""
        pids, error = [], ""
        try:
            for order in orders:
                pid = os.fork()
                if pid == 0:
                    return order
                pids.append(pid)
        except OSError as e:
            error = str(e)
        self._send({"pids": pids, "error": error})
        os._exit(0)

    def _receive(self) -> Any:
        header = self._exactly(_HEADER.size)
        if header is None:
            return None
        body = self._exactly(*_HEADER.unpack(header))
        return None if body is None else json.loads(body)

    def _exactly(self, n: int) -> bytes | None:
        chunks = []
        while n:
            chunk = self._control.recv(min(n, 1 << 20))
            if not chunk:
                return None
            chunks.append(chunk)
            n -= len(chunk)
        return b"".join(chunks)

    def _send(self, message: Any) -> None:
        body = json.dumps(message).encode()
        self._write(_HEADER.pack(len(body)) + body)

    def _write(self, data: bytes) -> None:
        try:
            self._control.sendall(data)
        except OSError:
            os._exit(0)  # the daemon is gone


def _become(order: dict[str, Any]) -> None:
    """Turn a fresh copy of the template into the worker that ``order`` describes."""
    os.setsid()  # a group of its own: the daemon kills the worker with all its children
    _write("/proc/self/comm", "yr-worker")
    _redirect(order["out"], 1)
    _redirect(order["err"], 2)
    sys.stdout.reconfigure(line_buffering=True, write_through=False)
    sys.stderr.reconfigure(line_buffering=True, write_through=False)
    _default_signals()
    faulthandler.enable()

    os.environ.update(order["env"])
    _enter(order["dir"], order["fallback_dir"])
    sys.path[:0] = order["paths"]
    sys.argv[:] = ["yr-worker", order["worker"]]

    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()  # the legacy global generator; default_rng() asks the kernel each time
    gc.enable()


def _redirect(path: str, fd: int) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    try:
        file = os.open(path, flags, 0o644)
    except OSError as e:  # a full disk must not keep work from running
        print(f"worker output is lost: {e}", file=sys.stderr, flush=True)
        file = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(file, fd)
    os.close(file)


def _default_signals() -> None:
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _enter(directory: str, fallback: str) -> None:
    for place in (directory, fallback):
        if place:
            try:
                os.chdir(place)
            except OSError as e:
                print(f"cannot work in {place}: {e.strerror}", file=sys.stderr)
            else:
                return


def _import_without_threads(name: str) -> None:
    """Import ``name`` if it is there, its native thread pools kept to the calling thread.

    If the user chose a number of threads, the library must see it: it is left for
    the worker to import.
    """
    if any(os.environ.get(v, "1") != "1" for v in _THREAD_COUNTS):
        return
    with _one_thread(), contextlib.suppress(Exception):  # the worker's own import tells the user
        __import__(name)
        if name == "numpy":
            __import__("numpy.random")


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    unset = [v for v in _THREAD_COUNTS if v not in os.environ]
    os.environ.update(dict.fromkeys(unset, "1"))
    try:
        yield
    finally:
        for v in unset:
            del os.environ[v]


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _freeze() -> None:
    """Keep the collector away from what is here now: touching it would unshare its pages."""
    gc.disable()
    gc.collect()
    gc.freeze()


def _close_all_but(kept: set[int]) -> None:
    """Close what a wrapper script in the interpreter's place has left open."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd not in kept:
            with contextlib.suppress(OSError):  # the listing's own descriptor
                os.close(fd)


def _write(path: str, text: str) -> None:
    with contextlib.suppress(OSError), open(path, "w", encoding="ascii") as file:
        file.write(text)
