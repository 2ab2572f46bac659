"""A cluster that lives as long as this process.

``yr.init()`` starts one when the machine has none: ``yr start --master --temporary``. It
binds loopback only. It ends with ``yr.finalize``; should this process be killed instead,
the daemon notices, because it watches the process itself and not a thread or a pipe of it.
What remains of a cluster that ended that way are its logs, of which the ``yr`` command
keeps the last few.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import IO, Any

from yr import _discovery
from yr._discovery import Endpoint

START_TIMEOUT = 10.0  # seconds until it must be ready
_STOP_TIMEOUT = 10.0
_MAX_OUTPUT = 4000  # characters of the command's output shown in an error


class TemporaryCluster:
    """One temporary cluster: ``start`` once, ``stop`` once.

    Args:
        num_cpus: cores of it; None is all of the machine.
    """

    def __init__(self, num_cpus: int | None = None) -> None:
        self._num_cpus = num_cpus
        self._owner = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None
        self._directory = ""

    def start(self) -> Endpoint:
        """Start it and wait until it is ready.

        Raises:
            YRValueError: (4002) it does not start; the text has the reason and its output.
        """
        program = find_program()
        if program is None:
            raise _discovery.connection_error(
                "there is no cluster on this machine, and no `yr` command to start one with: it is neither on PATH "
                f"nor beside {sys.executable}; install the openyuanrong wheel, or name a cluster in YR_SERVER_ADDRESS"
            )
        began = time.monotonic()
        _say("there is no cluster on this machine, starting a temporary one that ends with this program")
        try:
            with tempfile.TemporaryFile() as errors:
                view = self._launch(program, errors)
        except BaseException:
            self.stop()
            raise
        self._directory = view["deploy"]
        _say(f"temporary cluster at {view['server_address']}, ready after {(time.monotonic() - began) * 1000:.0f} ms")
        return Endpoint(view["socket"], view["server_address"])

    def stop(self) -> None:
        """End it and remove its files. Does nothing in a forked child, or twice."""
        process, self._process = self._process, None
        directory, self._directory = self._directory, ""
        if process is None or os.getpid() != self._owner:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        assert process.stdout is not None
        process.stdout.close()
        if directory:
            shutil.rmtree(directory, ignore_errors=True)

    def _launch(self, program: str, errors: IO[bytes]) -> dict[str, Any]:
        """Run the command; return what it says of the cluster once that is ready."""
        command = [program, "start", "--master", "--block", "true", "--temporary", "--owner-pid", str(self._owner)]
        command += ["-o", "json"]
        if self._num_cpus is not None:
            command += ["--cpu_num", str(self._num_cpus * 1000)]
        # A session of its own: Ctrl-C is for this program, which then finalizes.
        self._process = process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            env={**os.environ, "YR_PYTHON": sys.executable},  # its workers warm up while this process connects
        )
        assert process.stdout is not None
        line = _read_line(process.stdout.fileno(), time.monotonic() + START_TIMEOUT)
        try:
            view: dict[str, Any] = json.loads(line or b"")
            return {key: view[key] for key in ("socket", "server_address", "deploy")}
        except (ValueError, KeyError, TypeError):
            raise self._failure(program, line, errors) from None

    def _failure(self, program: str, line: bytes | None, errors: IO[bytes]) -> Exception:
        """The error for a command that said ``line``, None if it said nothing in time."""
        assert self._process is not None
        what = f"was not ready after {START_TIMEOUT:.0f} s"
        if line is not None:
            try:
                what = f"ended with exit code {self._process.wait(_STOP_TIMEOUT)}"
            except subprocess.TimeoutExpired:
                what = "gave an answer that cannot be read"
        errors.seek(0)
        said = (errors.read() + (line or b"")).decode(errors="replace").strip()[-_MAX_OUTPUT:]
        return _discovery.connection_error(
            f"the temporary cluster did not start: `{program} start` {what}" + (f"; it said:\n{said}" if said else "")
        )


def _read_line(fd: int, deadline: float) -> bytes | None:
    """A line, or what there was at the end of the file; None if the time is over."""
    line = b""
    while not line.endswith(b"\n"):
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return None
        chunk = os.read(fd, 1 << 16)
        if not chunk:
            break
        line += chunk
    return line


def find_program() -> str | None:
    """The ``yr`` command: on PATH, beside the interpreter, or inside this package."""
    on_path = shutil.which("yr")
    beside = os.path.join(os.path.dirname(sys.executable), "yr")
    inside = os.path.join(os.path.dirname(__file__), "_bin", "yr")
    for candidate in (on_path, beside, inside):
        if candidate and os.access(candidate, os.X_OK) and os.path.isfile(candidate):
            return candidate
    return None


def _say(text: str) -> None:
    # Standard error: what a program prints may be read by another one.
    print(f"yr: {text}", file=sys.stderr, flush=True)
