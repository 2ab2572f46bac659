"""From ``InvokeOptions`` to the options of the wire (``Options`` in control.proto).

Here is decided what a call may ask for: ranges, defaults that depend on the class, and
what this version refuses because it could not keep the promise.
"""

from __future__ import annotations

import copy
import operator
from typing import Any

from yr.config import InvokeOptions, PortForwarding
from yr.err_type import ErrorCode, ErrorInfo, ModuleCode
from yr.exception import YRValueError

CALL = "failed to invoke instance"
CREATE = "failed to create instance"

DEFAULT_NAMESPACE = "yr_defalut_namespace"  # the spelling is the interface's
ASYNC_CONCURRENCY = 1000  # of a class with coroutine methods that asks for nothing else
NEVER_IDLE = 300  # the default of idle_timeout, which ends nothing

_MIN_CPU, _MAX_CPU = 300, 16000  # millicores
_MIN_MEMORY = 128  # MB
_MAX_CONCURRENCY = 1000
_MAX_POD_LABELS = 5
_MAX_NAMED_ID = 64  # bytes
_MAX_PORT = 65535

Wire = dict[str, Any]  # field of the protobuf message Options -> value


def refusal(prefix: str, text: str) -> YRValueError:
    """The error for a request that breaks a rule: code 1001."""
    info = ErrorInfo(ErrorCode.ERR_PARAM_INVALID, ModuleCode.RUNTIME, text)
    error = YRValueError.from_error_info(info, prefix)
    assert isinstance(error, YRValueError)
    return error


# hot: the fields of options whose values may change without the options noticing
contents = operator.attrgetter("env_vars", "custom_resources", "custom_extensions", "labels", "runtime_env")


def reading(options: InvokeOptions) -> tuple[int, tuple[Any, ...]]:
    """What options say now: their edition, and copies of their contents.

    They still say the same as long as ``options._edition`` and ``contents(options)`` are equal to these.
    """
    return options.__dict__["_edition"], copy.deepcopy(contents(options))


def for_function(options: InvokeOptions) -> Wire:
    """The options of a stateless function.

    Raises:
        YRValueError: (1001) out of range, or not supported by this version.
        TypeError: a value has the wrong type.
    """
    wire = _common(options, CALL)
    wire["concurrency"] = _concurrency(options, CALL) or 1
    wire["retry_times"] = _natural(options, "retry_times", CALL)
    wire["max_instances"] = max(0, options.max_instances)
    wire["min_instances"] = _natural(options, "min_instances", CALL)
    return wire


def for_instance(options: InvokeOptions, is_async: bool, default_namespace: str) -> Wire:
    """The options of a new instance.

    Args:
        options: what the user asked for. As upstream does, a non-negative ``idle_timeout`` is
            written into its ``custom_extensions``.
        is_async: the class has coroutine methods.
        default_namespace: of the job, for names that give none.

    Raises:
        YRValueError: (1001) out of range, or not supported by this version.
        ValueError: ``get_if_exists`` without a name, or order together with concurrency.
        TypeError: a value has the wrong type.
    """
    if options.get_if_exists and not options.name:
        raise ValueError("The actor name must be specified to use `get_if_exists`.")
    if options.custom_extensions is None:
        options.custom_extensions = {}
    given_idle = options.custom_extensions.get("idle_timeout")
    idle = options.idle_timeout
    if idle is not None and idle >= 0:
        options.custom_extensions["idle_timeout"] = str(idle)
    if idle == NEVER_IDLE and given_idle not in (None, str(NEVER_IDLE)):
        idle = _integer(given_idle, "custom_extensions['idle_timeout']", CREATE)

    wire = _common(options, CREATE)
    concurrency = _concurrency(options, CREATE)
    wire["concurrency"] = concurrency or (ASYNC_CONCURRENCY if is_async else 1)
    wire["is_async"] = is_async
    wire["ordered"] = ordered(options, is_async)
    wire["recover_retry_times"] = _natural(options, "recover_retry_times", CREATE)
    wire["detached"] = options.custom_extensions.get("lifecycle") == "detached"
    wire["idle_timeout_s"] = idle if idle is not None and idle > 0 and idle != NEVER_IDLE else 0
    wire["grace_ms"] = _grace_ms(options)
    if options.name:
        _check_named_id(options.name, options.namespace or default_namespace)
        wire["name"] = options.name
        wire["namespace"] = options.namespace
        wire["get_if_exists"] = bool(options.get_if_exists)
    return wire


def ordered(options: InvokeOptions, is_async: bool) -> bool:
    """Whether calls of one caller run in the order in which they were sent.

    Raises:
        ValueError: ``need_order=True`` together with concurrency above 1.
    """
    if (_concurrency(options, CREATE) or 1) != 1:
        if options.need_order:
            raise ValueError("need_order=True is mutually exclusive with concurrency > 1")
        return False
    if options.need_order is not None:
        return bool(options.need_order)
    return not is_async


def named_id(name: str, namespace: str) -> str:
    """What a named instance is called in messages: ``<namespace>-<name>``."""
    return f"{namespace or DEFAULT_NAMESPACE}-{name}"


def _common(options: InvokeOptions, prefix: str) -> Wire:
    options.check_options_valid()
    _refuse_unsupported(options, prefix)
    if not _MIN_CPU <= options.cpu <= _MAX_CPU:
        raise refusal(
            prefix, f"invalid cpu: {options.cpu}, please set it to {_MIN_CPU} to {_MAX_CPU} (1000 is one core)."
        )
    if options.memory < _MIN_MEMORY:
        raise refusal(prefix, f"invalid memory: {options.memory}, please set it to at least {_MIN_MEMORY} (MB).")
    for limit, request in (("cpu_limit", "cpu"), ("mem_limit", "memory")):
        value = getattr(options, limit)
        if value and value < getattr(options, request):
            raise refusal(prefix, f"invalid {limit}: {value}, please set it to 0 or to at least {request}.")
    if options.schedule_timeout_ms < -1:
        raise refusal(
            prefix, f"invalid schedule_timeout_ms: {options.schedule_timeout_ms}, please set it to -1 or more."
        )
    if len(options.pod_labels or ()) > _MAX_POD_LABELS:
        raise refusal(prefix, f"invalid pod_labels: {len(options.pod_labels)} of them, at most {_MAX_POD_LABELS}.")
    return {
        "cpu": float(options.cpu),
        "memory": float(options.memory),
        "custom_resources": _resources(options, prefix),
        "custom_extensions": _strings(options.custom_extensions, "custom_extensions"),
        "env_vars": _environment(options),
        "labels": list(options.labels or ()),
        "priority": _natural(options, "instance_priority", prefix),
        "schedule_timeout_ms": options.schedule_timeout_ms,
    }


def _refuse_unsupported(options: InvokeOptions, prefix: str) -> None:
    for forwarding in options.port_forwardings or ():
        _check_port(forwarding)
    group = options.resource_group_options
    asked = {
        "affinity": bool(options.affinity),
        "schedule_affinities": bool(options.schedule_affinities),
        "resource_group_options": bool(group is not None and group.resource_group_name),
        "group_name": bool(options.group_name),
        "port_forwardings": bool(options.port_forwardings),
        "debug": bool(options.debug is not None and options.debug.enable),
        "preferred_anti_other_labels": bool(options.preferred_anti_other_labels),
    }
    asked.update(
        (f"runtime_env[{key!r}]", True) for key in _checked_runtime_env(options.runtime_env) if key != "env_vars"
    )
    for name, wanted in asked.items():
        if wanted:
            raise refusal(prefix, f"{name} is not supported by this version of yr; please leave it unset.")


_RUNTIME_ENV_KEYS = ("pip", "conda", "working_dir", "env_vars", "shared_dir")


def _checked_runtime_env(runtime_env: Any) -> dict[str, Any]:
    if runtime_env is None:
        return {}
    if not isinstance(runtime_env, dict):
        raise TypeError(f"invalid type for 'runtime_env', actual: {type(runtime_env)}, expect: {dict}")
    for key in runtime_env:
        if key not in _RUNTIME_ENV_KEYS:
            raise ValueError(f"runtime_env.get('{key}') is not supported.")
    if "pip" in runtime_env and "conda" in runtime_env:
        raise ValueError("runtime_env: 'pip' and 'conda' cannot be used together.")
    return runtime_env


def _check_port(forwarding: Any) -> None:
    if not isinstance(forwarding, PortForwarding):
        raise TypeError(f"invalid type for 'port_forwardings', actual: {type(forwarding)}, expect: {PortForwarding}")
    if not isinstance(forwarding.port, int) or not isinstance(forwarding.protocol, str):
        raise TypeError(f"invalid port forwarding: {forwarding}, expect an int port and a str protocol")
    if not 1 <= forwarding.port <= _MAX_PORT or forwarding.protocol not in ("TCP", "UDP"):
        raise ValueError(f"invalid port forwarding: {forwarding}, expect port 1 to {_MAX_PORT} and TCP or UDP")


def _concurrency(options: InvokeOptions, prefix: str) -> int | None:
    """What was asked for, None if nothing was."""
    value: Any = options.concurrency
    if value is None:
        value = (options.custom_extensions or {}).get("Concurrency")
        if value is None:
            return None
        value = _integer(value, "custom_extensions['Concurrency']", prefix)
    if not isinstance(value, int):
        raise TypeError(f"invalid type for 'concurrency', actual: {type(value)}, expect: {int}")
    if not 1 <= value <= _MAX_CONCURRENCY:
        raise refusal(prefix, f"invalid concurrency: {value}, please set it to 1 to {_MAX_CONCURRENCY}.")
    return value


def _grace_ms(options: InvokeOptions) -> int:
    """Time for the shutdown hook; -1 is the node's value."""
    seconds = options.custom_extensions.get("GRACEFUL_SHUTDOWN_TIME")
    if seconds is None:
        return -1
    return max(-1, _integer(seconds, "custom_extensions['GRACEFUL_SHUTDOWN_TIME']", CREATE) * 1000)


def _check_named_id(name: str, namespace: str) -> None:
    identity = named_id(name, namespace)
    size = len(identity.encode())
    if size > _MAX_NAMED_ID:
        raise refusal(
            CREATE, f"invalid instance name: {identity!r} has {size} bytes, at most {_MAX_NAMED_ID} with its namespace."
        )


def _resources(options: InvokeOptions, prefix: str) -> dict[str, float]:
    amounts: dict[str, float] = {}
    for name, amount in (options.custom_resources or {}).items():
        if not isinstance(name, str) or isinstance(amount, (str, bytes)):
            raise TypeError(
                f"invalid type for 'custom_resources', actual: {{{name!r}: {amount!r}}}, expect: str to float"
            )
        if not name or float(amount) < 0:
            raise refusal(
                prefix, f"invalid custom_resources: {name!r} is {amount}, please set a name and an amount >= 0."
            )
        amounts[name] = float(amount)
    return amounts


def _environment(options: InvokeOptions) -> dict[str, str]:
    env = _strings(_checked_runtime_env(options.runtime_env).get("env_vars"), "runtime_env['env_vars']")
    env.update(_strings(options.env_vars, "env_vars"))
    return env


def _strings(given: Any, name: str) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise TypeError(f"invalid type for '{name}', actual: {type(given)}, expect: {dict}")
    for key, value in given.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"invalid type for '{name}', actual: {{{key!r}: {value!r}}}, expect: str to str")
    return dict(given)


def _natural(options: InvokeOptions, name: str, prefix: str) -> int:
    value = getattr(options, name)
    if not isinstance(value, int):
        raise TypeError(f"invalid type for '{name}', actual: {type(value)}, expect: {int}")
    if value < 0:
        raise refusal(prefix, f"invalid {name}: {value}, please set it to 0 or more.")
    return value


def _integer(text: Any, name: str, prefix: str) -> int:
    try:
        return int(text)
    except (TypeError, ValueError):
        raise refusal(prefix, f"invalid {name}: {text!r} is not an integer.") from None
