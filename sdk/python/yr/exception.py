"""The exceptions that ``yr`` raises, and how a remote failure becomes one of them.

The classes and their texts are openYuanrong's. Two functions at the end are the
way in for the core: ``pack_user_exception`` in the worker, ``remote_error`` at the
caller. What user code raised keeps its class on the way:

    try:
        yr.get(divide.invoke(1, 0))
    except ZeroDivisionError as e:      # also a yr.YRInvokeError, also a RuntimeError
        print(e)                        # the worker's whole traceback
        print(e.cause)                  # the ZeroDivisionError itself
"""

from __future__ import annotations

import pickle
import traceback
import types
from typing import Any, Callable, ClassVar, Union

from yr.err_type import ErrorCode, ErrorInfo, ModuleCode, named, number

__all__ = [
    "CancelError",
    "GeneratorFinished",
    "GetTimeoutError",
    "YRCgraphCapacityExceeded",
    "YRChannelError",
    "YRChannelTimeoutError",
    "YRError",
    "YRInvokeError",
    "YRRuntimeError",
    "YRTimeoutError",
    "YRTypeError",
    "YRValueError",
    "YRequestError",
]

Code = Union[ErrorCode, int]


class YRError(Exception):
    """The root of everything that ``yr`` raises on its own account.

    Args:
        code: what went wrong (``yr.err_type.ErrorCode`` or a plain integer). A string
            here is taken as the message, with code 3003.
        module_code: which part of the system says so.
        message: the text that ``str(e)`` gives.
        error_info: the error as the runtime reported it.
        cause: the exception that led to this one.
        stack_trace_infos: frames of remote code, when they are known.
    """

    def __init__(
        self,
        code: Code | str = ErrorCode.ERR_INNER_SYSTEM_ERROR,
        module_code: ModuleCode | int = ModuleCode.RUNTIME,
        message: str = "",
        error_info: ErrorInfo | None = None,
        cause: BaseException | None = None,
        stack_trace_infos: list[object] | None = None,
    ) -> None:
        if isinstance(code, str):
            message, code = code, ErrorCode.ERR_INNER_SYSTEM_ERROR
        super().__init__(message)
        self.code: Code = named(code) if type(code) is int else code
        self.module_code = module_code
        self.message = message
        self.error_info = error_info or ErrorInfo(self.code, module_code, message, stack_trace_infos)
        self.cause = cause
        self.stack_trace_infos = stack_trace_infos or []

    @classmethod
    def from_error_info(
        cls,
        info: ErrorInfo,
        message_prefix: str | None = None,
        cause: BaseException | None = None,
    ) -> YRError:
        """The exception for an error of the runtime.

        Its text is ``<prefix>, code: <C>, module code: <M>, msg: <text>``.
        """
        text = f"code: {number(info.error_code)}, module code: {number(info.module_code)}, msg: {info.msg}"
        if message_prefix:
            text = f"{message_prefix}, {text}"
        return cls(
            code=info.error_code,
            module_code=info.module_code,
            message=text,
            error_info=info,
            cause=cause,
            stack_trace_infos=info.stack_trace_infos,
        )

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self.__dict__.copy())


class YRRuntimeError(YRError, RuntimeError):
    """The system could not do what it was asked to."""


class YRTimeoutError(YRRuntimeError, TimeoutError):
    """Something was not ready in time; ``except TimeoutError`` catches it."""


class YRValueError(YRError, ValueError):
    """A value was refused, by the SDK or by the cluster."""


class YRTypeError(YRError, TypeError):
    """An argument of ``put`` or ``wait`` has the wrong type."""


class GetTimeoutError(YRTimeoutError):
    """An object was not ready in time."""


class CancelError(YRError):
    """A stateless call was cancelled."""

    def __init__(self, task_id: str = "") -> None:
        super().__init__(message=f"stateless request has been cancelled: {task_id}")
        self.task_id = task_id


class YRequestError(YRRuntimeError):
    """A request to a function service failed."""

    def __init__(self, code: Code = 0, message: str = "", request_id: str = "") -> None:
        text = f"failed to request, {request_id} code: {number(code)}, message: {message} "
        super().__init__(code=code, message=text)
        self.request_id = request_id


class YRChannelError(YRError):
    """A channel of a compiled graph failed."""


class YRChannelTimeoutError(YRChannelError, TimeoutError):
    """A channel of a compiled graph had nothing to read, or no room, in time."""


class YRCgraphCapacityExceeded(YRError):
    """A compiled graph has too many executions in flight."""


class GeneratorFinished(Exception):
    """An asynchronous generator has no more items."""


class YRInvokeError(YRRuntimeError):
    """User code raised.

    Args:
        cause: what it raised, in this process's form.
        traceback_str: the worker's formatted traceback; this is what ``str(e)`` gives.

    What ``yr.get`` raises is the result of :meth:`origin_error`, so that
    ``except MyError`` works. Attributes that this class lacks are read from ``cause``.
    """

    _DEFAULTS: ClassVar[dict[str, Any]] = {
        "code": ErrorCode.ERR_USER_FUNCTION_EXCEPTION,
        "module_code": ModuleCode.RUNTIME,
        "stack_trace_infos": [],
    }

    def __init__(self, cause: BaseException | None = None, traceback_str: str = "") -> None:
        # Not through YRError.__init__: attributes set here would hide those of the cause.
        Exception.__init__(self, cause)
        self.cause = cause
        self.traceback_str = traceback_str

    def origin_error(self) -> YRInvokeError:
        """This error in a form that is also an instance of the cause's class.

        The class is named ``YRInvokeError(<cause's class>)``. A cause whose class says
        no more than ``YRInvokeError`` does (``Exception``, ``RuntimeError``, a
        ``YRError``), or that cannot be derived from, gives the error itself.
        """
        cause = self.cause
        if cause is None or isinstance(cause, YRError) or not isinstance(cause, Exception):
            return self
        origin = type(cause)
        if issubclass(YRInvokeError, origin):
            return self
        try:
            derived = _derive(origin)
            error: YRInvokeError = _blank(derived, cause.args)
            YRInvokeError.__init__(error, cause, self.traceback_str)
        except Exception:  # a class that refuses: final, metaclass, __init_subclass__
            return self
        _copy_slots(cause, error)
        return error

    def __str__(self) -> str:
        return self.traceback_str or str(self.cause)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("cause", "traceback_str"):
            raise AttributeError(name)
        cause = self.__dict__.get("cause")
        if cause is not None and hasattr(cause, name):
            return getattr(cause, name)
        if name in ("message", "error_info"):
            text = str(self)
            return (
                text
                if name == "message"
                else ErrorInfo(ErrorCode.ERR_USER_FUNCTION_EXCEPTION, ModuleCode.RUNTIME, text)
            )
        try:
            return YRInvokeError._DEFAULTS[name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_invoke_error, (_portable(self.cause), self.traceback_str)


def _restore(cls: type[YRError], args: tuple[Any, ...], state: dict[str, Any]) -> YRError:
    error: YRError = _blank(cls, args)
    error.__dict__.update(state)
    return error


def _restore_invoke_error(cause: BaseException | None, text: str) -> YRInvokeError:
    return YRInvokeError(cause, text).origin_error()


def _derive(origin: type[BaseException]) -> type[Any]:
    # The user's metaclass, if there is one, makes the class; ours is type.
    return types.new_class(
        f"YRInvokeError({origin.__name__})",
        (YRInvokeError, origin),
        exec_body=lambda ns: ns.update(__module__=YRInvokeError.__module__, __doc__=origin.__doc__),
    )


_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement


def _blank(cls: type[Any], args: tuple[Any, ...]) -> Any:
    """An instance of an exception class, made without running a line of user code.

    Only the built-in base that decides the layout may allocate; of several, the first
    in the order of resolution need not be it.
    """
    builtins = [base for base in cls.__mro__ if not base.__flags__ & _HEAP_TYPE and base is not object]
    for given in (args, ()):
        for base in builtins:
            try:
                error = base.__new__(cls, *given)
            except Exception:
                continue
            error.args = args
            return error
    raise TypeError(f"cannot allocate {cls.__name__}")


def _copy_slots(source: BaseException, target: BaseException) -> None:
    """Copy what C-level exceptions keep outside __dict__ (errno, filename, key, ...)."""
    for base in type(source).__mro__:
        for name, field in vars(base).items():
            if name == "args" or name.startswith("__"):
                continue
            if not isinstance(field, (types.MemberDescriptorType, types.GetSetDescriptorType)):
                continue
            try:
                setattr(target, name, getattr(source, name))
            except (AttributeError, TypeError):
                continue  # unset, or read-only and already set by __new__


# --- what the core calls -------------------------------------------------------------------

_FORMAT = 1
# What an error may take of a frame's 16 MiB: bytes of the pickled cause, characters of the texts.
PICKLED_MAX = 4 << 20
TEXT_MAX = 512 << 10
SUMMARY_MAX = 4 << 10


def pack_user_exception(exc: BaseException) -> bytes:
    """Serialise what user code raised, for the caller's :func:`remote_error`.

    Called in the worker, inside or after the ``except`` block. An exception that came
    out of another call keeps its innermost cause, and its text grows by this worker's
    traceback. What cannot be pickled, and what is no ``Exception`` (``SystemExit``),
    travels as ``RuntimeError("<Class>: <repr>")``. Text that is too long loses its middle.
    Never raises, whatever the exception's own methods do.
    """
    text = _format(exc)
    cause: BaseException = exc
    if isinstance(exc, YRInvokeError) and exc.cause is not None:
        cause = exc.cause
        if exc.traceback_str not in text:  # traceback formats some classes without their str()
            text = f"{exc.traceback_str}\n{text}"
    summary = f"{type(cause).__name__}: {_safe_repr(cause)}"
    pickled = b""
    if isinstance(cause, Exception):
        try:
            pickled = _dump(cause)
            if len(pickled) > PICKLED_MAX:  # the class at least, so that ``except`` finds it
                pickled = _dump(_blank(type(cause), (_shortened(_safe_repr(cause), SUMMARY_MAX),)))
        except Exception:
            pickled = b""  # the summary stands for it
    return pickle.dumps((_FORMAT, pickled, _shortened(summary, SUMMARY_MAX), _shortened(text, TEXT_MAX)), protocol=5)


def remote_error(code: int, payload: bytes, serialized: bool, prefix: str = "failed to get object") -> Exception:
    """The exception to raise at the caller for an error that came over the wire.

    Args:
        code: the public error code.
        payload: what :func:`pack_user_exception` made if ``serialized``, else UTF-8 text.
        serialized: which of the two it is.
        prefix: what was being done, ``"failed to get object"`` and the like.

    Every call makes a new exception, so that tracebacks of several ``yr.get`` of one
    reference do not pile up in one object.
    """
    if serialized:
        return _unpack(bytes(payload)).origin_error()
    text = bytes(payload).decode("utf-8", "replace")
    if code == ErrorCode.ERR_USER_FUNCTION_EXCEPTION:  # from a worker of another language
        return YRInvokeError(RuntimeError(text), text)
    if code == ErrorCode.ERR_FINALIZED:
        return YRRuntimeError(code=code, message=text)
    info = ErrorInfo(named(code), _module(code), text)
    return _class_of(code, prefix).from_error_info(info, prefix)


def _unpack(payload: bytes) -> YRInvokeError:
    try:
        version, pickled, summary, text = pickle.loads(payload)
        if version != _FORMAT:
            raise ValueError(f"format {version}")
    except Exception as e:
        text = f"the remote exception cannot be read: {type(e).__name__}: {e}"
        return YRInvokeError(RuntimeError(text), text)
    cause: Exception = RuntimeError(summary)
    if pickled:
        try:
            loaded = pickle.loads(pickled)
            if isinstance(loaded, Exception):
                cause = loaded
        except Exception:
            pass  # its module is missing here, or its constructor refuses: the summary stands for it
    return YRInvokeError(cause, text)


def _dump(exc: Exception) -> bytes:
    """Pickle an exception so that it loads even if its constructor wants other arguments."""
    import cloudpickle  # type: ignore[import-untyped]

    data: bytes = cloudpickle.dumps(_portable(exc), protocol=5)
    return data


def _portable(exc: BaseException | None) -> Any:
    """What to pickle in place of ``exc``: itself if its class says how, else a recipe that asks no constructor."""
    plain = type(exc).__reduce_ex__ is object.__reduce_ex__ and type(exc).__reduce__ is BaseException.__reduce__
    if isinstance(exc, Exception) and plain:
        return _Rebuild(type(exc), exc.args, exc.__dict__ or None)
    return exc


class _Rebuild:
    """Pickles as an exception: loading it gives that exception, not a _Rebuild."""

    def __init__(self, cls: type[Exception], args: tuple[Any, ...], state: dict[str, Any] | None) -> None:
        self._parts = (cls, args, state)

    def __reduce__(self) -> tuple[Callable[..., Exception], tuple[Any, ...]]:
        return _rebuild, self._parts


def _rebuild(cls: type[Exception], args: tuple[Any, ...], state: dict[str, Any] | None) -> Exception:
    try:
        exc = cls(*args)
    except Exception:  # __init__ has another signature than BaseException.args suggests
        exc = _blank(cls, args)
    exc.args = args  # a constructor that adds to its message has added twice
    if state:
        exc.__dict__.update(state)
    return exc


def _format(exc: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(type(exc), exc, exc.__traceback__))
    except Exception:  # its __str__, __notes__ or __getattr__ raised, or its chain is too deep
        head = "Traceback (most recent call last):\n"
        return f"{head}{''.join(traceback.format_tb(exc.__traceback__))}{type(exc).__name__}: {_safe_repr(exc)}\n"


def _shortened(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"


def _safe_repr(exc: BaseException) -> str:
    try:
        return repr(exc)
    except Exception as e:
        return f"<repr failed: {type(e).__name__}>"


_DEADLINE_EXCEEDED = 9010
_TIMEOUTS = frozenset((int(ErrorCode.ERR_GET_OPERATION_FAILED), _DEADLINE_EXCEEDED))
_REFUSALS = frozenset(
    int(c)
    for c in (
        ErrorCode.ERR_PARAM_INVALID,
        ErrorCode.ERR_RESOURCE_CONFIG_ERROR,
        ErrorCode.ERR_INCORRECT_FUNCTION_USAGE,
        ErrorCode.ERR_INCORRECT_CREATE_USAGE,
        ErrorCode.ERR_INCORRECT_INVOKE_USAGE,
    )
)


def _class_of(code: int, prefix: str) -> type[YRError]:
    if prefix == "failed to init":
        return YRValueError
    if code in _TIMEOUTS:
        return YRTimeoutError
    if code in _REFUSALS and prefix in ("failed to invoke instance", "failed to create instance"):
        return YRValueError
    return YRRuntimeError


def _module(code: int) -> ModuleCode:
    return ModuleCode.DATASYSTEM if 4200 <= code < 4300 else ModuleCode.RUNTIME
