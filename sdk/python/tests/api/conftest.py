"""A runtime that records what the public API asks of it, for tests of argument checking."""

from __future__ import annotations

from typing import Any

import pytest
from yr._core import runtime as core
from yr.object_ref import ObjectRef
from yr.runtime_holder import global_runtime


class RecordingRuntime:
    """Answers everything at once. ``invoked``, ``defined`` and ``created`` hold what came in."""

    role = core.ROLE_DRIVER
    job = "job-00000001"
    node = "node-1"
    node_ip = "127.0.0.1"
    assignment: dict[str, Any] | None = None

    def __init__(self) -> None:
        self.defined: list[tuple[core.Code, dict]] = []
        self.created: list[tuple[core.Code, tuple, dict, dict, bytes]] = []
        self.invoked: list[tuple[int, tuple, dict, int, bytes]] = []
        self.killed: list[tuple[str, bool]] = []
        self.bound: list[str] = []
        self.cancelled: list[tuple[list, bool, bool]] = []
        self.found: dict[tuple[str, str], dict[str, Any]] = {}
        self.ready: set[ObjectRef] = set()
        self.closed = False
        self._made = 0

    def ref(self) -> ObjectRef:
        self._made += 1
        return ObjectRef(f"prefix---{self._made:011x}".encode())

    def define(self, code: core.Code, options: dict) -> int:
        self.defined.append((code, options))
        return len(self.defined)

    def invoke(
        self, target: int, args: tuple, kwargs: dict, returns: int = 1, method: bytes = b"", deadline_us: int = 0
    ) -> Any:
        self.invoked.append((target, args, kwargs, returns, method))
        if returns == 0:
            return None
        refs = [self.ref() for _ in range(returns)]
        return refs[0] if returns == 1 else refs

    def create(self, code: core.Code, args: tuple, kwargs: dict, options: dict, descriptor: bytes) -> tuple[int, str]:
        self.created.append((code, args, kwargs, options, descriptor))
        return 1000 + len(self.created), f"instance-{len(self.created):011x}"

    def bind(self, instance_id: str) -> int:
        self.bound.append(instance_id)
        return 2000 + len(self.bound)

    def instance_ready(self, instance_id: str, timeout: float) -> str:
        return "real" + instance_id[4:]

    def lookup(self, name: str, namespace: str) -> dict[str, Any] | None:
        return self.found.get((name, namespace))

    def get(self, refs: list, timeout: float | None, allow_partial: bool = False) -> list:
        return [(ref.id, timeout, allow_partial) for ref in refs]

    def wait(self, refs: list, num: int, timeout: float | None) -> list[bool]:
        return [ref in self.ready for ref in refs]

    def put(self, value: Any) -> ObjectRef:
        return self.ref()

    def cancel(self, refs: list, force: bool, recursive: bool) -> None:
        self.cancelled.append((refs, force, recursive))

    def kill(self, instance_id: str, wait: bool, timeout: float = 30) -> None:
        self.killed.append((instance_id, wait))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Any:
    """This process is connected to a RecordingRuntime for the length of the test."""
    recording = RecordingRuntime()
    monkeypatch.setattr(global_runtime, "was_initialized", True)
    core.set_current(recording)  # type: ignore[arg-type]
    yield recording
    core.set_current(None)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No YR variable of the machine reaches a test."""
    import os

    for variable in [v for v in os.environ if v.startswith("YR")]:
        monkeypatch.delenv(variable)
