"""The functions of ``import yr``: life of a connection, objects, named instances.

They follow openYuanrong's Python interface, texts of errors included. Everything here may be
called from any thread, in drivers and in workers.
"""

from __future__ import annotations

import atexit
from typing import Any

from yr import _named, _options
from yr._core import runtime as core
from yr.config import MAX_INT32, ClientInfo, Config, CreateParam
from yr.decorator.function_proxy import invoke
from yr.decorator.instance_proxy import InstanceProxy, handle_of, instance, method
from yr.err_type import ErrorCode
from yr.exception import YRRuntimeError, YRTypeError, YRValueError
from yr.log import get_logger, init_logger
from yr.object_ref import ObjectRef
from yr.runtime_holder import global_runtime

__all__ = [
    "cancel",
    "exit",
    "finalize",
    "get",
    "get_instance",
    "get_namespace",
    "get_node_id",
    "get_node_ip_address",
    "init",
    "instance",
    "invoke",
    "is_initialized",
    "kill_instance",
    "method",
    "put",
    "wait",
]

DEFAULT_GET_TIMEOUT = 300  # seconds
_DEFAULT_CREATE_PARAM = CreateParam()

_atexit_registered = False


# --- life ----------------------------------------------------------------------------------


def init(conf: Config | None = None) -> ClientInfo:
    """Connect this program to a cluster; call it once before anything else.

    Joins the cluster that ``conf`` or the environment names, else the one of this machine,
    else starts a temporary cluster that ends with this program. ``yr.finalize`` is
    registered to run at exit. In a worker, which is connected already, only the log level
    is taken over.

    Args:
        conf: settings; unset fields are filled from the environment, in the object itself.

    Returns:
        A ``ClientInfo`` with the id of this program's job.

    Raises:
        RuntimeError: called twice.
        ValueError, TypeError: a setting is malformed.
        YRValueError: (4002) no connection; the text says why and what to do.

    Example:
        yr.init()
        yr.init(yr.Config(num_cpus=4, log_level="INFO"))
    """
    global _atexit_registered
    conf = Config() if conf is None else conf
    if not isinstance(conf, Config):
        raise TypeError(f"invalid type for 'conf', actual: {type(conf)}, expect: {Config}")
    with global_runtime.lock:
        runtime = core.current()
        if runtime is not None:
            if runtime.role != core.ROLE_WORKER:
                raise RuntimeError("yr.init cannot be called twice")
            if conf.log_level != "":
                init_logger(conf.log_level, conf.logger)
            return ClientInfo(runtime.job)

        from yr import cluster_mode_runtime

        runtime, temporary = cluster_mode_runtime.open_driver(conf)
        global_runtime.begin(runtime, temporary, conf.ns)
        if not _atexit_registered:
            atexit.register(finalize)
            _atexit_registered = True
    if conf.log_to_driver:
        get_logger().warning("log_to_driver is not available in this version of yr; use `yr logs -f %s`", runtime.job)
    return ClientInfo(runtime.job)


def finalize() -> None:
    """Disconnect: instances of this job end, but for detached ones, and its objects go.

    Does nothing when not initialised, and in a worker. ``yr.init`` may be called again.
    """
    with global_runtime.lock:
        runtime = core.current()
        if runtime is None or runtime.role == core.ROLE_WORKER:
            return
        global_runtime.end()


def is_initialized() -> bool:
    """Whether this process is connected: after ``yr.init``, and in every worker."""
    return core.current() is not None


def exit() -> None:  # noqa: A001  the interface's name
    """End the instance that this code runs in.

    Raises:
        YRRuntimeError: not initialised, or not in an instance.
    """
    runtime = global_runtime.get_runtime()
    own = (runtime.assignment or {}).get("instance_id")
    if not own:
        raise YRRuntimeError(
            code=ErrorCode.ERR_INCORRECT_KILL_USAGE,
            message="yr.exit ends an instance and was called outside of one; a function ends by returning",
        )
    runtime.kill(own.decode(), wait=False)


# --- objects -------------------------------------------------------------------------------


def put(obj: Any, create_param: CreateParam = _DEFAULT_CREATE_PARAM) -> ObjectRef:
    """Store a value in the cluster's shared memory.

    Args:
        obj: anything picklable. References inside a container live as long as it does.
        create_param: hints, see ``yr.CreateParam``.

    Returns:
        A reference, to be passed to functions or to ``yr.get``.

    Raises:
        YRValueError: None, or bytes of length zero.
        YRTypeError: ``obj`` is itself an ``ObjectRef``.
        YRRuntimeError: (4202) the store is full, or not initialised.

    Example:
        matrix = yr.put(numpy.zeros((1000, 1000)))
        yr.get(total.invoke(matrix))
    """
    runtime = global_runtime.get_runtime()
    if obj is None or (isinstance(obj, (bytes, bytearray, memoryview)) and not memoryview(obj).nbytes):
        raise YRValueError("value is None or has zero length")
    if isinstance(obj, ObjectRef):
        raise YRTypeError("obj is an ObjectRef already; put it into a list to store the reference itself")
    if not isinstance(create_param, CreateParam):
        raise TypeError(f"invalid type for 'create_param', actual: {type(create_param)}, expect: {CreateParam}")
    return runtime.put(obj)


def get(obj_refs: Any, timeout: float = DEFAULT_GET_TIMEOUT, allow_partial: bool = False) -> Any:
    """Wait for values and return them.

    Args:
        obj_refs: one reference, or a list of them.
        timeout: seconds, above 0; -1 waits for ever.
        allow_partial: give None for what is not ready in time, unless nothing is ready.

    Returns:
        The value, or a list of values in the same order. Top-level bytes come back as a
        ``memoryview``, numpy arrays as read-only views of shared memory.

    Raises:
        TypeError: not a reference and not a list of references; a tuple is not a list.
        ValueError: the timeout is 0, or negative and not -1.
        YRTimeoutError: (4005) not ready in time; also a ``TimeoutError``.
        YRInvokeError: the call raised; also an instance of what it raised, see ``yr.exception``.
        YRRuntimeError: the call failed for another reason, or was cancelled.

    Example:
        yr.get(f.invoke(1))
        yr.get([f.invoke(n) for n in range(10)], timeout=5)
    """
    runtime = global_runtime.get_runtime()
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"invalid type for 'timeout', actual: {type(timeout)}, expect: a number of seconds")
    if timeout != -1 and not timeout > 0:
        raise ValueError("Parameter 'timeout' should be greater than 0 or equal to -1 (no timeout)")
    limit = None if timeout == -1 else timeout
    if isinstance(obj_refs, ObjectRef):
        return runtime.get([obj_refs], limit, allow_partial)[0]
    if obj_refs == () and isinstance(obj_refs, tuple):
        return []
    return runtime.get(_checked_refs(obj_refs), limit, allow_partial)


def wait(
    obj_refs: Any, wait_num: int | None = None, timeout: int | None = None
) -> tuple[list[ObjectRef], list[ObjectRef]]:
    """Wait until some of the references are ready; calls that failed are ready too.

    Args:
        obj_refs: one reference, or a list of different ones.
        wait_num: how many to wait for; all unless given.
        timeout: whole seconds; None or -1 waits for ever. 0 reports nothing as ready.

    Returns:
        ``(ready, unready)`` in the order given; ``ready`` has at most ``wait_num`` entries.

    Raises:
        TypeError: not references.
        YRTypeError: ``wait_num`` or ``timeout`` is not an int.
        YRValueError: they are out of range, or a reference stands twice.

    Example:
        ready, unready = yr.wait(refs, wait_num=1)
    """
    runtime = global_runtime.get_runtime()
    refs = [obj_refs] if isinstance(obj_refs, ObjectRef) else _checked_refs(obj_refs)
    if len(set(refs)) != len(refs):
        raise YRValueError("obj_refs value error: duplicate obj_ref exists in the list")
    if wait_num is None:
        wait_num = len(refs)
    if not isinstance(wait_num, int):
        raise YRTypeError(f"invalid wait_num type, actual: {type(wait_num)}, expect: {int}")
    if not 0 <= wait_num <= len(refs):
        raise YRValueError(f"invalid wait_num value, actual: {wait_num}, expect: [0, {len(refs)}]")
    if timeout is None:
        timeout = -1
    if not isinstance(timeout, int):
        raise YRTypeError(f"invalid timeout type, actual: {type(timeout)}, expect: {int}")
    if not -1 <= timeout <= MAX_INT32:
        raise YRValueError(f"invalid timeout value, actual: {timeout}, expect: -1 or [0, {MAX_INT32:#x}]")
    if wait_num == 0 or timeout == 0:
        return [], list(refs)
    flags = runtime.wait(refs, wait_num, None if timeout == -1 else timeout)
    ready: list[ObjectRef] = []
    unready: list[ObjectRef] = []
    for ref, is_ready in zip(refs, flags):
        (ready if is_ready and len(ready) < wait_num else unready).append(ref)
    return ready, unready


def cancel(obj_refs: Any, allow_force: bool = True, allow_recursive: bool = False) -> None:
    """Cancel calls; ``yr.get`` of their results then raises ``the obj has been cancelled``.

    A call that has not started is dropped. A running function is stopped by ending its
    worker, if ``allow_force`` and if the worker runs nothing else. Calls that have ended
    are left alone.

    Args:
        obj_refs: one reference, or a list of them.
        allow_force: whether a running function may be stopped. A call of an instance's
            method is only dropped, and only with ``allow_force=False``.
        allow_recursive: cancel what the calls have called as well.

    Raises:
        TypeError: not references, or a flag is not a bool.
    """
    runtime = global_runtime.get_runtime()
    refs = [obj_refs] if isinstance(obj_refs, ObjectRef) else _checked_refs(obj_refs)
    for name, value in (("allow_force", allow_force), ("allow_recursive", allow_recursive)):
        if not isinstance(value, bool):
            raise TypeError(f"invalid type for '{name}', actual: {type(value)}, expect: {bool}")
    runtime.cancel(refs, allow_force, allow_recursive)


def _checked_refs(obj_refs: Any) -> list[ObjectRef]:
    wrong = [obj_refs] if not isinstance(obj_refs, list) else [r for r in obj_refs if not isinstance(r, ObjectRef)]
    if wrong:
        raise TypeError(f"obj_refs type error, actual: [{type(wrong[0])}], element expect: <class 'ObjectRef'>")
    refs: list[ObjectRef] = obj_refs
    return refs


# --- named instances and nodes -------------------------------------------------------------


def get_instance(name: str, namespace: str = "", timeout: float = 60) -> InstanceProxy:
    """A handle of the running instance of this name, from any program of the tenant.

    The class need not be defined here; its methods are known from the instance.

    Args:
        name: as given in ``InvokeOptions.name``.
        namespace: empty is the job's own.
        timeout: seconds to look for it; 0 looks once.

    Raises:
        TypeError: a name is no str, or the timeout is negative.
        YRTimeoutError: there is no such instance, or its constructor still runs.
        RuntimeError: not initialised, or the cluster could not be asked.

    Example:
        counter = yr.get_instance("counter")
    """
    return _named.find(name, namespace, timeout, handle_of)


def kill_instance(instance_id: str) -> None:
    """End an instance by its physical id (``real_id``) and wait until it is gone.

    Raises:
        TypeError: the id is no str.
        YRRuntimeError: not initialised, or the cluster refused.
    """
    runtime = global_runtime.get_runtime()
    if not isinstance(instance_id, str):
        raise TypeError(f"invalid type for 'instance_id', actual: {type(instance_id)}, expect: {str}")
    try:
        runtime.kill(instance_id, wait=True)
    except YRRuntimeError as e:
        raise YRRuntimeError.from_error_info(e.error_info, "failed to kill instance sync", e) from None


def get_node_ip_address() -> str:
    """The address of the node that this process runs on."""
    return global_runtime.get_runtime().node_ip


def get_node_id() -> str:
    """The name of the node that this process runs on."""
    return global_runtime.get_runtime().node


def get_namespace() -> str:
    """The namespace of named instances that give none."""
    runtime = global_runtime.get_runtime()
    assigned = (runtime.assignment or {}).get("namespace")
    return assigned or global_runtime.namespace or _options.DEFAULT_NAMESPACE
