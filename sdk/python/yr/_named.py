"""Finding an instance by its name."""

from __future__ import annotations

import time
from typing import Any, Callable, TypeVar

from yr import _options
from yr._core.runtime import Runtime
from yr.err_type import ErrorCode, ErrorInfo, ModuleCode
from yr.exception import YRError, YRRuntimeError, YRTimeoutError
from yr.runtime_holder import global_runtime

_RUNNING = 3  # yr.InstanceState
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 1.0  # seconds between two questions

Handle = TypeVar("Handle")


def find(name: str, namespace: str, timeout: float, handle_of: Callable[[dict[str, Any]], Handle]) -> Handle:
    """Ask until an instance of this name runs; one whose constructor still runs is not found yet.

    Args:
        name, namespace: an empty namespace is that of the job.
        timeout: seconds; 0 asks once.
        handle_of: makes the result of what was found.

    Raises:
        TypeError: a name is no str, or the timeout no number of at least 0.
        YRTimeoutError: not found in time.
        RuntimeError: the cluster could not be asked.
    """
    for key, value in (("name", name), ("namespace", namespace)):
        if not isinstance(value, str):
            raise TypeError(f"invalid type for '{key}', actual: {type(value)}, expect: {str}")
    if not isinstance(timeout, (int, float)) or timeout < 0:
        raise TypeError(f"invalid timeout, actual: {timeout!r}, expect: a number of seconds >= 0")
    prefix = f"failed to get instance: {_options.named_id(name, namespace or global_runtime.namespace)} by name"
    try:
        runtime = global_runtime.runtime_for_invoke()
    except RuntimeError as e:
        raise RuntimeError(f"{prefix}, {e}") from None
    if _is_self(runtime, name, namespace):
        text = "an instance cannot look itself up; use self"
        raise YRRuntimeError.from_error_info(ErrorInfo(ErrorCode.ERR_PARAM_INVALID, ModuleCode.RUNTIME, text), prefix)
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while True:
        try:
            found = runtime.lookup(name, namespace)
        except YRError as e:
            raise RuntimeError(f"{prefix}, {e}") from e
        if found is not None and found["state"] == _RUNNING:
            return handle_of(found)
        left = deadline - time.monotonic()
        if left <= 0:
            raise YRTimeoutError.from_error_info(_not_found(found, timeout), prefix)
        time.sleep(min(pause, left))
        pause = min(pause * 2, _LONGEST_PAUSE)


def _not_found(found: dict[str, Any] | None, timeout: float) -> ErrorInfo:
    if found is None:
        text = f"no such instance within {timeout:g} s; `yr list instances` shows what there is"
    else:
        text = f"the instance is not running after {timeout:g} s; `yr why {found['instance_id']}` tells the reason"
    return ErrorInfo(ErrorCode.ERR_INSTANCE_NOT_FOUND, ModuleCode.RUNTIME, text)


def _is_self(runtime: Runtime, name: str, namespace: str) -> bool:
    assignment = getattr(runtime, "assignment", None)
    options = (assignment or {}).get("options") or {}
    if not name or options.get("name") != name:
        return False
    default = (assignment or {}).get("namespace") or ""
    return bool((options.get("namespace") or default) == (namespace or default))
