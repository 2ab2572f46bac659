"""``@yr.invoke``: a function that runs somewhere in the cluster.

What one writes:

    @yr.invoke
    def add(a, b):
        return a + b

    ref = add.invoke(1, add.invoke(1, 1))   # references are replaced by their values
    print(yr.get(ref))                      # 3
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import Any, Callable, NamedTuple, overload

from yr import _code, _options, _signature
from yr._core import runtime as core
from yr._core.runtime import Code, Runtime
from yr.config import InvokeOptions
from yr.err_type import ErrorCode
from yr.exception import YRRuntimeError
from yr.runtime_holder import global_runtime

MAX_RETURNS = 100


@dataclass(frozen=True)
class FunctionDescriptor:
    """Where a function was defined."""

    module_name: str
    function_name: str
    target_language: str = "python"


class _Binding(NamedTuple):
    """What a function with these options is called in one runtime, and how to see that it no longer holds."""

    runtime: Runtime
    target: int
    options: InvokeOptions
    edition: int
    contents: tuple[Any, ...]


_UNBOUND = _Binding(None, 0, None, 0, ())  # type: ignore[arg-type]  # no runtime is this one's


class FunctionProxy:
    """A function decorated with ``@yr.invoke``; ``StatelessFunction`` is the same class.

    Attributes:
        invoke_options: the options of every call through this proxy.
        return_nums: how many values a call gives.
        sig: the function's signature.
        function_descriptor: where the function was defined.
        cross_language_info: None; the function is Python.
    """

    cross_language_info = None
    __original_func__: Callable[..., Any]

    def __init__(
        self,
        function: Callable[..., Any],
        invoke_options: InvokeOptions | None = None,
        return_nums: int | None = None,
        initializer: Callable[[], Any] | None = None,
    ) -> None:
        self.__setstate__(
            {
                "function": function,
                "invoke_options": _checked_options(invoke_options),
                "return_nums": check_return_nums(return_nums),
                "initializer": _checked_initializer(initializer),
            }
        )

    def invoke(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function; return at once.

        Arguments are checked against the signature and serialised here. An ``ObjectRef``
        among them is replaced by its value before the function starts.

        Returns:
            An ``ObjectRef``; a list of them when ``return_nums`` is above 1; None when it is 0.

        Raises:
            TypeError: the arguments do not fit the signature, or cannot be pickled.
            RuntimeError: ``yr.init`` was not called.
            YRValueError: (1001) an option is out of range or not supported.
        """
        # Each proxy has its own, made by _make_invoke, which callers find first; this one documents it.
        return self.__dict__["invoke"](*args, **kwargs)

    def options(self, invoke_options: InvokeOptions) -> FunctionProxy:
        """Set the options of this and every later call of the function, whoever makes it.

        Raises:
            TypeError, ValueError: see ``InvokeOptions.check_options_valid`` and ``check_options_range``.
        """
        checked = _checked_options(invoke_options)
        checked.check_options_range()
        self.invoke_options = checked
        return self

    def create_opts_wrapper(self, invoke_options: InvokeOptions) -> FunctionProxy:
        """A proxy of the same function with options of its own; this one keeps its."""
        return FunctionProxy(
            self.__original_func__, _checked_options(invoke_options), self.return_nums, self._initializer
        )

    def set_urn(self, urn: str) -> FunctionProxy:
        """Name the registered function under which this one runs.

        Accepted and checked; all Python functions of a job share their workers' settings today.

        Raises:
            ValueError: not seven parts with colons between them.
        """
        if len(urn.split(":")) != 7:
            raise ValueError(f"invalid function id {urn}")
        self.urn = urn
        return self

    def get_original_func(self) -> Callable[..., Any]:
        """The function that was decorated."""
        return self.__original_func__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: a decorated function is called with ``.invoke()``."""
        raise RuntimeError("invoke function cannot be called directly")

    def __repr__(self) -> str:
        return f"<yr function {_code.name_of(self.__original_func__)}>"

    # Pickled as an empty proxy plus state, so that a function which refers to its own proxy can be pickled.
    def __reduce__(self) -> tuple[Any, ...]:
        state = {
            "function": self.__original_func__,
            "invoke_options": self.invoke_options,
            "return_nums": self.return_nums,
            "initializer": self._initializer,
        }
        return FunctionProxy.__new__, (FunctionProxy,), state

    def __setstate__(self, state: dict[str, Any]) -> None:
        function = state["function"]
        self.__original_func__ = function
        self.invoke_options = state["invoke_options"]
        self.return_nums = state["return_nums"]
        self.urn = ""
        self._initializer = state["initializer"]
        self._binding = _UNBOUND
        self._code: tuple[Runtime, Code] | None = None
        self._arguments: _signature.Arguments | None = None
        # While a cycle is being unpickled the function has no name yet; its own attributes come later.
        self.__dict__["invoke"] = _make_invoke(self, function)

    @property
    def sig(self) -> inspect.Signature | None:
        """The function's signature."""
        return self._expected().signature

    @property
    def function_descriptor(self) -> FunctionDescriptor:
        """Where the function was defined."""
        function = self.__original_func__
        return FunctionDescriptor(function.__module__, function.__qualname__)

    def _expected(self) -> _signature.Arguments:
        if self._arguments is None:
            self._arguments = _signature.of(self.__original_func__)
        return self._arguments

    def _bind(self) -> _Binding:
        """Make this function known to the runtime of this round."""
        runtime = global_runtime.runtime_for_invoke()
        function, options = self.__original_func__, self.invoke_options
        _refuse_coroutines(function)
        edition, contents = _options.reading(options)
        wire = _options.for_function(options)
        if self._initializer is not None:
            wire["initializer"] = _code.encode_initializer(self._initializer, function)
        if self._code is None or self._code[0] is not runtime:
            self._code = runtime, _code.encode(function, by_name=options.skip_serialize)
        self._binding = _Binding(runtime, runtime.define(self._code[1], wire), options, edition, contents)
        return self._binding


StatelessFunction = FunctionProxy


def _make_invoke(proxy: FunctionProxy, function: Callable[..., Any]) -> Callable[..., Any]:
    current, contents_of = core.current, _options.contents
    least = most = -1  # unknown until the first call; then the bounds of a call that needs no binding

    # hot: adds less than a microsecond to Runtime.invoke
    @functools.wraps(function)
    def invoke(*args: Any, **kwargs: Any) -> Any:
        nonlocal least, most
        if kwargs or not least <= len(args) <= most:
            expected = proxy._expected()
            least, most = expected.least, expected.most
            if kwargs or not least <= len(args) <= most:
                expected.check(args, kwargs)
        runtime, target, options, edition, contents = proxy._binding
        if (
            current() is not runtime
            or proxy.invoke_options is not options
            or options._edition != edition
            or contents_of(options) != contents
        ):
            runtime, target, *_ = proxy._bind()
        return runtime.invoke(target, args, kwargs, proxy.return_nums)

    return invoke


@overload
def invoke(function: Callable[..., Any]) -> FunctionProxy: ...


@overload
def invoke(
    *,
    invoke_options: InvokeOptions | None = None,
    return_nums: int | None = None,
    initializer: Callable[[], Any] | None = None,
    **ignored: Any,
) -> Callable[[Callable[..., Any]], FunctionProxy]: ...


def invoke(
    function: Any = None,
    *,
    invoke_options: InvokeOptions | None = None,
    return_nums: int | None = None,
    initializer: Callable[[], Any] | None = None,
    **ignored: Any,
) -> Any:
    """Make a function one that runs in the cluster: ``@yr.invoke`` or ``@yr.invoke(...)``.

    May be used before ``yr.init``. Other keywords are ignored, as openYuanrong ignores them.

    Args:
        function: a plain function.
        invoke_options: resources and limits of its calls, see ``yr.InvokeOptions``.
        return_nums: how many values a call gives, 0 to 100; 1 unless given.
        initializer: called without arguments, once in each new worker, before the first call.

    Raises:
        RuntimeError: not a function, or ``return_nums`` out of range.
        TypeError: ``return_nums`` is not an int.

    Example:
        @yr.invoke(return_nums=2)
        def divide(a, b):
            return a // b, a % b

        quotient, remainder = yr.get(divide.invoke(7, 2))
    """

    def decorate(target: Any) -> FunctionProxy:
        if not inspect.isfunction(target):
            raise RuntimeError("@yr.invoke decorator must be applied to a function")
        return FunctionProxy(target, invoke_options, return_nums, initializer)

    return decorate if function is None else decorate(function)


def check_return_nums(value: Any) -> int:
    """The number of values of a call; None is 1.

    Raises:
        TypeError: not an int.
        RuntimeError: outside 0 to 100.
    """
    if value is None:
        return 1
    if not isinstance(value, int):
        raise TypeError(f"invalid return_nums type, actual: {type(value)}, expect: {int}")
    if not 0 <= value <= MAX_RETURNS:
        raise RuntimeError(f"invalid return_nums: {value}, should be an integer between 0 and {MAX_RETURNS}")
    return value


def _checked_options(options: Any) -> InvokeOptions:
    if options is None:
        return InvokeOptions()
    if not isinstance(options, InvokeOptions):
        raise TypeError(f"invalid type for 'invoke_options', actual: {type(options)}, expect: {InvokeOptions}")
    options.check_options_valid()
    return options


def _checked_initializer(initializer: Any) -> Any:
    if initializer is not None and not callable(initializer):
        raise TypeError(f"invalid initializer, actual: {type(initializer)}, expect: a callable")
    return initializer


def _refuse_coroutines(function: Callable[..., Any]) -> None:
    if inspect.iscoroutinefunction(function):
        raise YRRuntimeError(
            code=ErrorCode.ERR_INCORRECT_FUNCTION_USAGE,
            message=f"{function.__qualname__} is a coroutine function; only methods of instances may be. "
            "Call asyncio.run inside a plain function",
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise YRRuntimeError(
            code=ErrorCode.ERR_INCORRECT_FUNCTION_USAGE,
            message=f"{function.__qualname__} is a generator; this version of yr cannot stream its items. "
            "Return a list, or put chunks with yr.put and return their references",
        )
