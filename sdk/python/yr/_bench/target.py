"""The system under test, reduced to the verbs that workloads need.

A workload is written once and runs on every target, so that a comparison compares systems and not benchmarks. Verbs
that a hot loop uses return the system's own callable where one exists: a target adds no Python frame of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Protocol

from . import processes

WIDE = 128
"""Cores declared by a ``wide`` cluster, for workloads that hold many instances which do nothing."""

INSTANCE_CPU = 0.3
"""Cores that a benchmark instance declares: the least that InvokeOptions accepts."""


class Target(Protocol):
    """What a workload may do. Cores are declared cores; times are seconds."""

    name: str

    def start(self, cores: int) -> None:
        """Starts a private one-node system that declares ``cores`` and connects this process to it."""

    def stop(self) -> None:
        """Ends what ``start`` made; harmless when there is nothing."""

    def function(self, body: Callable[..., Any], cores: float = 1) -> Callable[..., Any]:
        """The callable that invokes ``body`` remotely and returns a reference."""

    def function_with_deadline(self, body: Callable[..., Any], seconds: float) -> Callable[[], Any] | None:
        """The same, with a deadline for each call that the system watches; ``None`` where there is no such thing."""

    def instance(self, cls: type) -> Any:
        """Creates an instance of ``cls`` and returns its handle without waiting."""

    def retire(self, handle: Any) -> None:
        """Ends an instance."""

    @staticmethod
    def method(handle: Any, name: str) -> Callable[..., Any]:
        """The callable that invokes a method remotely, attribute lookups included, as a user writes it."""

    @staticmethod
    def put(value: Any) -> Any:
        """Makes an object."""

    @staticmethod
    def get(refs: Any) -> Any:
        """The values of one or several references."""

    def processes(self) -> dict[str, list[int]]:
        """Process ids by role, without the driver."""

    def fresh(self) -> dict[str, float]:
        """Starts a system from nothing, several ways; milliseconds by name."""


class YrTarget:
    """This system, through its public interface only."""

    name = "yr"

    def __init__(self, binary: str | None = None) -> None:
        self._binary = binary or os.environ.get("YR_BINARY") or shutil.which("yr")
        self._prefix = ""
        self._running = False

    def start(self, cores: int) -> None:
        """See ``Target.start``. The cluster lives in a directory of its own and is found through its master info."""
        import yr

        self._prefix = tempfile.mkdtemp(prefix="yrb-")
        self._command(
            "start",
            "--master",
            "-s",
            f"values.cpu_num={cores * 1000}",
            "-s",
            "values.memory_num=262144",
            "-s",
            "values.shared_memory_num=4096",
            "-s",
            f'values.data_dir="{self._prefix}/data"',
        )
        self._running = True
        os.environ["YR_MASTER_INFO_PATH"] = f"{self._prefix}/yr_current_master_info"
        yr.init()

    def stop(self) -> None:
        """See ``Target.stop``."""
        try:
            if self._running:
                self._running = False
                self._disconnect()
        finally:
            if self._prefix:
                shutil.rmtree(self._prefix, ignore_errors=True)
                self._prefix = ""

    def _disconnect(self) -> None:
        os.environ.pop("YR_MASTER_INFO_PATH", None)
        try:
            import yr

            yr.finalize()
        finally:
            self._command("stop")

    def function(self, body: Callable[..., Any], cores: float = 1) -> Callable[..., Any]:
        """See ``Target.function``."""
        import yr

        return yr.invoke(invoke_options=yr.InvokeOptions(cpu=int(cores * 1000), memory=128))(body).invoke

    def function_with_deadline(self, body: Callable[..., Any], seconds: float) -> Callable[[], Any] | None:
        """See ``Target.function_with_deadline``.

        Deadlines are on the wire but not in the public interface of functions, so this speaks to the runtime below it.
        """
        import yr
        from yr._core import runtime as core

        proxy = yr.invoke(invoke_options=yr.InvokeOptions(cpu=1000, memory=128))(body)
        yr.get(proxy.invoke())
        runtime = core.current()
        assert runtime is not None
        number, invoke, clock = proxy._binding.target, runtime.invoke, time.time
        return lambda: invoke(number, (), {}, 1, b"", int((clock() + seconds) * 1e6))

    def instance(self, cls: type) -> Any:
        """See ``Target.instance``."""
        import yr

        options = yr.InvokeOptions(cpu=int(INSTANCE_CPU * 1000), memory=128)
        return yr.instance(invoke_options=options)(cls).invoke()

    def retire(self, handle: Any) -> None:
        """See ``Target.retire``; waits, so that the next round starts on a quiet node."""
        handle.terminate(is_sync=True)

    @staticmethod
    def method(handle: Any, name: str) -> Callable[..., Any]:
        """See ``Target.method``."""
        return lambda *arguments: getattr(handle, name).invoke(*arguments)

    @staticmethod
    def put(value: Any) -> Any:
        """See ``Target.put``."""
        import yr

        return yr.put(value)

    @staticmethod
    def get(refs: Any) -> Any:
        """See ``Target.get``."""
        import yr

        return yr.get(refs, 120)

    def processes(self) -> dict[str, list[int]]:
        """See ``Target.processes``: parent, daemon, templates, and workers by their files in the run folder."""
        parent = _pid_of_parent(Path(self._prefix))
        tree = processes.descendants(parent)
        daemon = [pid for pid in tree if pid != parent and processes.executable(pid) == processes.executable(parent)]
        python = [pid for pid in tree if pid != parent and pid not in daemon]
        workers = [pid for pid in python if processes.parent(pid) in python or _is_worker(Path(self._prefix), pid)]
        templates = [pid for pid in python if pid not in workers]
        return {"parent": [parent], "daemon": daemon, "template": templates, "worker": workers}

    def fresh(self) -> dict[str, float]:
        """``start``: ``yr start --master`` until it returns; ``first result``: a fresh process from import, through a
        temporary cluster, to the first value."""
        self._prefix = tempfile.mkdtemp(prefix="yrb-")
        began = time.perf_counter()
        self._command("start", "--master", "-s", f'values.data_dir="{self._prefix}/data"')
        ready = time.perf_counter() - began
        self._command("stop")
        shutil.rmtree(self._prefix, ignore_errors=True)
        self._prefix = ""
        program = self._run([sys.executable, "-m", "yr._bench.first"], YR_MASTER_INFO_PATH="/nonexistent")
        return {"start": ready * 1e3, "first result": float(program.split()[-1])}

    def _environment(self, **more: str) -> dict[str, str]:
        """The environment of a child that must find this binary and this SDK."""
        environment = dict(os.environ, **more)
        environment["PATH"] = os.path.dirname(os.path.abspath(str(self._binary))) + os.pathsep + environment["PATH"]
        return environment

    def _command(self, *arguments: str) -> None:
        if not self._binary:
            raise FileNotFoundError("yr is not on PATH: build it, or set YR_BINARY to it")
        self._run([self._binary, *arguments, "--log-dir-prefix", self._prefix])

    def _run(self, command: list[str], **more: str) -> str:
        """What a command prints; its whole output is in the error when it fails."""
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
            env=self._environment(**more),
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command[:3])}: exit {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout


def _pid_of_parent(prefix: Path) -> int:
    session = json.loads((prefix / "latest" / "session.json").read_text())
    return int(session["cluster_info"]["daemon"]["pid"])


def _is_worker(prefix: Path, pid: int) -> bool:
    for record in (prefix / "latest" / "run" / "workers").glob("*.json"):
        try:
            if json.loads(record.read_text()).get("pid") == pid:
                return True
        except (OSError, ValueError):  # ended meanwhile
            continue
    return False
