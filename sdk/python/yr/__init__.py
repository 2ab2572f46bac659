"""openYuanrong's Python interface: functions, stateful instances and shared objects.

    import yr

    @yr.invoke
    def square(n):
        return n * n

    yr.init()                                   # joins a cluster, or starts a temporary one
    print(yr.get([square.invoke(n) for n in range(5)]))

Importing this package does no work: every name is resolved when it is first used. What is
missing here (key-value store, streams, resource groups, ...) is not in this version.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# name -> (module, attribute; None is the module itself)
_LAZY_EXPORTS: dict[str, tuple[str, str | None]] = {
    # Lifecycle
    "init": ("yr.apis", "init"),
    "finalize": ("yr.apis", "finalize"),
    "is_initialized": ("yr.apis", "is_initialized"),
    "exit": ("yr.apis", "exit"),
    "Config": ("yr.config", "Config"),
    "UserTLSConfig": ("yr.config", "UserTLSConfig"),
    # Objects
    "put": ("yr.apis", "put"),
    "get": ("yr.apis", "get"),
    "wait": ("yr.apis", "wait"),
    "cancel": ("yr.apis", "cancel"),
    "CreateParam": ("yr.config", "CreateParam"),
    "ConsistencyType": ("yr.config", "ConsistencyType"),
    "CacheType": ("yr.config", "CacheType"),
    # Functions and instances
    "invoke": ("yr.apis", "invoke"),
    "instance": ("yr.apis", "instance"),
    "method": ("yr.apis", "method"),
    "InvokeOptions": ("yr.config", "InvokeOptions"),
    "FunctionProxy": ("yr.decorator.function_proxy", "FunctionProxy"),
    "StatelessFunction": ("yr.decorator.function_proxy", "StatelessFunction"),
    "InstanceCreator": ("yr.decorator.instance_proxy", "InstanceCreator"),
    "StatefulInstanceCreator": ("yr.decorator.instance_proxy", "StatefulInstanceCreator"),
    "InstanceProxy": ("yr.decorator.instance_proxy", "InstanceProxy"),
    "StatefulInstance": ("yr.decorator.instance_proxy", "StatefulInstance"),
    "MethodProxy": ("yr.decorator.instance_proxy", "MethodProxy"),
    "PortForwarding": ("yr.config", "PortForwarding"),
    # Named instances and nodes
    "get_instance": ("yr.apis", "get_instance"),
    "kill_instance": ("yr.apis", "kill_instance"),
    "get_node_ip_address": ("yr.apis", "get_node_ip_address"),
    # Exceptions
    "YRError": ("yr.exception", "YRError"),
    "YRRuntimeError": ("yr.exception", "YRRuntimeError"),
    "YRTimeoutError": ("yr.exception", "YRTimeoutError"),
    "YRValueError": ("yr.exception", "YRValueError"),
    "YRTypeError": ("yr.exception", "YRTypeError"),
    "YRInvokeError": ("yr.exception", "YRInvokeError"),
    "YRequestError": ("yr.exception", "YRequestError"),
    "CancelError": ("yr.exception", "CancelError"),
    "GetTimeoutError": ("yr.exception", "GetTimeoutError"),
    # Modules that are exported although they are internal
    "cluster_mode_runtime": ("yr.cluster_mode_runtime", None),
    "runtime_holder": ("yr.runtime_holder", None),
}

# `from yr import *` leaves out what openYuanrong's leaves out.
__all__ = [name for name in _LAZY_EXPORTS if name != "runtime_holder"]


def __getattr__(name: str) -> Any:
    try:
        module, attribute = _LAZY_EXPORTS[name]
    except KeyError:
        raise AttributeError(f"module 'yr' has no attribute '{name}'") from None
    # The import system's own lock makes concurrent first uses yield one object.
    value = importlib.import_module(module)
    if attribute is not None:
        value = getattr(value, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY_EXPORTS})


if TYPE_CHECKING:
    from yr import cluster_mode_runtime as cluster_mode_runtime, runtime_holder as runtime_holder
    from yr.apis import (
        cancel as cancel,
        exit as exit,  # noqa: A004
        finalize as finalize,
        get as get,
        get_instance as get_instance,
        get_node_ip_address as get_node_ip_address,
        init as init,
        instance as instance,
        invoke as invoke,
        is_initialized as is_initialized,
        kill_instance as kill_instance,
        method as method,
        put as put,
        wait as wait,
    )
    from yr.config import (
        CacheType as CacheType,
        Config as Config,
        ConsistencyType as ConsistencyType,
        CreateParam as CreateParam,
        InvokeOptions as InvokeOptions,
        PortForwarding as PortForwarding,
        UserTLSConfig as UserTLSConfig,
    )
    from yr.decorator.function_proxy import FunctionProxy as FunctionProxy, StatelessFunction as StatelessFunction
    from yr.decorator.instance_proxy import (
        InstanceCreator as InstanceCreator,
        InstanceProxy as InstanceProxy,
        MethodProxy as MethodProxy,
        StatefulInstance as StatefulInstance,
        StatefulInstanceCreator as StatefulInstanceCreator,
    )
    from yr.exception import (
        CancelError as CancelError,
        GetTimeoutError as GetTimeoutError,
        YRequestError as YRequestError,
        YRError as YRError,
        YRInvokeError as YRInvokeError,
        YRRuntimeError as YRRuntimeError,
        YRTimeoutError as YRTimeoutError,
        YRTypeError as YRTypeError,
        YRValueError as YRValueError,
    )
