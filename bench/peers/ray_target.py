"""Ray behind the verbs of ``yr._bench.target.Target``, so that both systems run the same workload code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from typing import Any, Callable

BEGAN = time.perf_counter()  # before the import below, which is part of what a newcomer waits for

import ray  # noqa: E402
from yr._bench import processes  # noqa: E402
from yr._bench.target import INSTANCE_CPU  # noqa: E402

OBJECT_STORE = 4 << 30
"""Bytes of Ray's object store: as much as the other side declares."""


def init(cores: int) -> None:
    """A local Ray that declares ``cores``, on loopback, without dashboard and without reporting anything to anybody."""
    ray.init(
        num_cpus=cores,
        object_store_memory=OBJECT_STORE,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        logging_level="ERROR",
    )


class RayTarget:
    """See ``Target``."""

    name = "ray"

    def start(self, cores: int) -> None:
        """Starts Ray inside this driver, its usual way on one machine."""
        init(cores)

    def stop(self) -> None:
        """Ends it with all its processes."""
        ray.shutdown()

    def function(self, body: Callable[..., Any], cores: float = 1) -> Callable[..., Any]:
        """A remote function."""
        return ray.remote(num_cpus=cores)(body).remote

    def function_with_deadline(self, body: Callable[..., Any], seconds: float) -> None:
        """Ray has no deadlines for calls."""

    def instance(self, cls: type) -> Any:
        """An actor."""
        return ray.remote(num_cpus=INSTANCE_CPU)(cls).remote()

    def retire(self, handle: Any) -> None:
        """Kills an actor."""
        ray.kill(handle)

    @staticmethod
    def method(handle: Any, name: str) -> Callable[..., Any]:
        """An actor's method."""
        return lambda *arguments: getattr(handle, name).remote(*arguments)

    @staticmethod
    def put(value: Any) -> Any:
        """An object."""
        return ray.put(value)

    @staticmethod
    def get(refs: Any) -> Any:
        """Values."""
        return ray.get(refs, timeout=120)

    def processes(self) -> dict[str, list[int]]:
        """Everything below this driver, by the names that Ray gives to its processes."""
        roles: dict[str, list[int]] = {"daemon": [], "worker": [], "other": []}
        for pid in processes.descendants(os.getpid())[1:]:
            command = processes.command(pid)
            if command.startswith("ray::"):
                roles["worker"].append(pid)
            elif re.search(r"/(raylet|gcs_server)( |$)", command):
                roles["daemon"].append(pid)
            elif "ray/" in command:
                roles["other"].append(pid)
        return roles

    def fresh(self) -> dict[str, float]:
        """``start``: ``ray.init``; ``first result``: a fresh process from import to the first value."""
        done = subprocess.run(
            [sys.executable, os.path.abspath(__file__)], check=True, capture_output=True, text=True, timeout=120
        )
        start, first = done.stdout.split()[-2:]
        return {"start": float(start), "first result": float(first)}


def _first() -> None:
    from yr._bench.bodies import small

    before = time.perf_counter()
    init(os.cpu_count() or 1)
    ready = time.perf_counter() - before
    ray.get(ray.remote(small).remote())
    print(ready * 1e3, (time.perf_counter() - BEGAN) * 1e3)
    ray.shutdown()


if __name__ == "__main__":
    _first()
