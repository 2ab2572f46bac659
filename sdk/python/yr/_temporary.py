"""A cluster that lives as long as this process.

``yr.init()`` starts one when the machine has none: ``yr start --master --temporary``. It
binds loopback only and keeps its files in a directory of its own. It ends with
``yr.finalize``; should this process be killed instead, the daemon notices, because it
watches the process itself and not a thread or a pipe of it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from yr import _discovery
from yr._discovery import Endpoint

START_TIMEOUT = 10.0  # seconds until the master info must be there
_POLL = 0.005
_STOP_TIMEOUT = 10.0
_PREFIX = "yr-temporary-"
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
        """Start it and wait until it answers.

        Raises:
            YRValueError: (4002) it does not start; the text has the reason and its output.
        """
        program = find_program()
        if program is None:
            raise _discovery.connection_error(
                "there is no cluster on this machine, and no `yr` command to start one with: it is neither on PATH "
                f"nor beside {sys.executable}; install the openyuanrong wheel, or start a cluster elsewhere"
            )
        began = time.monotonic()
        _say("there is no cluster on this machine, starting a temporary one that ends with this program")
        self._directory = tempfile.mkdtemp(prefix=_PREFIX)
        try:
            endpoint = self._launch(program)
        except BaseException:
            self.stop()
            raise
        _say(f"temporary cluster at {endpoint.address}, ready after {(time.monotonic() - began) * 1000:.0f} ms")
        return endpoint

    def stop(self) -> None:
        """End it and remove its files. Does nothing in a forked child, or twice."""
        process, self._process = self._process, None
        directory, self._directory = self._directory, ""
        if os.getpid() != self._owner:
            return
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if directory:
            shutil.rmtree(directory, ignore_errors=True)

    def _launch(self, program: str) -> Endpoint:
        command = [
            program, "start", "--master", "--block", "true", "--temporary",
            "--owner-pid", str(self._owner), "--log-dir-prefix", self._directory,
        ]  # fmt: skip
        if self._num_cpus is not None:
            command += ["--cpu_num", str(self._num_cpus * 1000)]
        with open(os.path.join(self._directory, "start.out"), "wb") as output:
            # A session of its own: Ctrl-C is for this program, which then finalizes.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        info_file = os.path.join(self._directory, "yr_current_master_info")
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            info = _discovery.read_master_info(info_file)
            if info is not None:
                try:
                    return _discovery.ask(info.server)
                except _discovery.NobodyListens:
                    pass  # written just before it listens
            status = self._process.poll()
            if status is not None:
                raise self._failure(program, f"ended with exit code {status}")
            time.sleep(_POLL)
        raise self._failure(program, f"was not ready after {START_TIMEOUT:.0f} s")

    def _failure(self, program: str, what: str) -> Exception:
        try:
            with open(os.path.join(self._directory, "start.out"), encoding="utf-8", errors="replace") as file:
                output = file.read().strip()[-_MAX_OUTPUT:]
        except OSError:
            output = ""
        return _discovery.connection_error(
            f"the temporary cluster did not start: `{program} start` {what}"
            + (f"; it said:\n{output}" if output else "")
        )


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
