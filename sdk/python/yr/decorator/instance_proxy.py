"""``@yr.instance``: a class whose objects live in the cluster, each in a process of its own.

What one writes:

    @yr.instance
    class Counter:
        def __init__(self):
            self.n = 0

        def add(self, amount=1):
            self.n += amount
            return self.n

    counter = Counter.invoke()               # the constructor runs elsewhere
    print(yr.get(counter.add.invoke(2)))     # 2
    counter.terminate()
"""

from __future__ import annotations

import copy
import inspect
import types
from typing import Any, Callable, NoReturn, overload

from yr import _code, _named, _options, _signature
from yr._core import runtime as core
from yr._core.runtime import Code, Runtime
from yr.config import InvokeOptions
from yr.decorator._descriptor import RETURN_NUMS, ClassDescriptor, Method
from yr.decorator.function_proxy import _checked_options, check_return_nums
from yr.err_type import ErrorCode
from yr.exception import YRError, YRRuntimeError, YRTimeoutError
from yr.runtime_holder import global_runtime

READY_TIMEOUT = 30.0  # seconds that real_id, and pickling a handle, wait for the instance to run
KILL_TIMEOUT = 30.0
_BOUND_TIMEOUT = 0.5  # what terminate waits for the constructor of a named instance


class MethodProxy:
    """A method of an instance; ``handle.name`` gives one."""

    __slots__ = ("_arguments", "_handle", "_method", "_name", "_return_nums")

    def __init__(self, handle: InstanceProxy, method: Method) -> None:
        self._handle = handle
        self._method = method
        self._name = method.name.encode()
        self._arguments = method.arguments
        self._return_nums = method.return_nums

    # hot: adds less than a microsecond to Runtime.invoke
    def invoke(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method; return at once.

        Returns:
            An ``ObjectRef``; a list of them when the method's ``return_nums`` is above 1; None
            when it is 0.

        Raises:
            TypeError: the arguments do not fit the signature, or cannot be pickled.
            RuntimeError: the handle was terminated, or ``yr.init`` was not called.
        """
        handle = self._handle
        expected = self._arguments
        if kwargs or not expected.least <= len(args) <= expected.most:
            expected.check(args, kwargs)
        runtime = core.current()
        if runtime is None or runtime is not handle._runtime or not handle._active or self._method.generator:
            runtime = self._prepare()
        return runtime.invoke(handle._target, args, kwargs, self._return_nums, self._name)

    def options(self, invoke_options: InvokeOptions) -> MethodProxy:
        """Options of one call. Their types are checked; an instance's resources are fixed when it is made."""
        _checked_options(invoke_options)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: a method of a handle is called with ``.invoke()``."""
        raise RuntimeError(f"method {self._method.name} cannot be called directly, use .{self._method.name}.invoke()")

    def __repr__(self) -> str:
        return f"<yr method {self._method.name} of {self._handle!r}>"

    def _prepare(self) -> Runtime:
        if self._method.generator:
            raise YRRuntimeError(
                code=ErrorCode.ERR_INCORRECT_INVOKE_USAGE,
                message=f"{self._method.name} is a generator; this version of yr cannot stream its items. "
                "Return a list, or put chunks with yr.put and return their references",
            )
        return self._handle._bind()


class InstanceProxy:
    """A handle of an instance; ``StatefulInstance`` is the same class.

    Every method of the class, inherited, static and class methods too, is an attribute of the
    handle and a ``MethodProxy``. A handle may be passed to functions and other instances.
    Dropping the last handle does not end the instance: ``terminate`` does.
    """

    def __init__(
        self,
        descriptor: ClassDescriptor,
        instance_id: str,
        need_order: bool,
        name: tuple[str, str] | None = None,
        runtime: Runtime | None = None,
        target: int = 0,
    ) -> None:
        self._descriptor = descriptor
        self._instance_id = instance_id
        self._name = name  # (name, namespace) it was made under; it may turn out to be bound to an older instance
        self._real_id = instance_id if name is None else ""
        self._need_order = need_order
        self._runtime = runtime
        self._target = target
        self._active = True
        # A method wins over a member of the handle that has its name.
        for method in _HANDLE_METHODS.intersection(descriptor.methods or ()):
            setattr(self, method, self._method(method))

    def __getattr__(self, name: str) -> MethodProxy:
        # Reached once for each method: what it makes is found directly afterwards.
        if name == "_descriptor":  # not initialised
            raise AttributeError(name)
        proxy = self._method(name)
        self.__dict__[name] = proxy
        return proxy

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(self._descriptor.methods or ())})

    @property
    def instance_id(self) -> str:
        """The instance's id as this handle knows it: 20 characters, or what it was found under."""
        return self._instance_id

    @property
    def real_id(self) -> str:
        """The id of the instance that runs. Waits up to 30 s for its constructor.

        Differs from ``instance_id`` when a name was already taken and the handle is bound to
        the existing instance.

        Raises:
            Exception: what the constructor raised.
            YRTimeoutError: it does not run in time.
        """
        runtime = self._attached()
        self._real_id = runtime.instance_ready(self._instance_id, READY_TIMEOUT)
        return self._real_id

    @property
    def need_order(self) -> bool:
        """Whether calls of one caller run in the order in which they were sent."""
        return self._need_order

    @property
    def group_name(self) -> str:
        """The group that the instance belongs to: none."""
        return ""

    def is_activate(self) -> bool:
        """False once ``terminate`` was called on this handle; says nothing about the instance."""
        return self._active

    def terminate(self, is_sync: bool = False) -> None:
        """End the instance. Its ``__yr_shutdown__`` runs first, if it has one.

        Args:
            is_sync: return only when the process is gone, so that a name is free again.

        Raises:
            RuntimeError: the cluster did not answer within 30 s, or refused.
        """
        if not self._active:
            return
        runtime = self._attached()
        self._active = False
        try:
            runtime.kill(self._ended_id(runtime), wait=bool(is_sync), timeout=KILL_TIMEOUT)
        except YRError as e:
            if e.code not in (ErrorCode.ERR_INSTANCE_NOT_FOUND, ErrorCode.ERR_INSTANCE_EXITED):
                raise

    def get_function_group_handler(self) -> NoReturn:
        """Refuse: this instance belongs to no function group."""
        raise RuntimeError("the instance does not belong to a function group")

    def __repr__(self) -> str:
        return f"<yr instance {self._descriptor.class_name or '?'} {self._instance_id}>"

    def __reduce__(self) -> tuple[Any, ...]:
        state = (self._descriptor.to_bytes(), self._descriptor.target_language, self.real_id, self._need_order)
        return _handle_from, state

    def _method(self, name: str) -> MethodProxy:
        methods = self._descriptor.methods
        if methods is None and not name.startswith("__"):
            return MethodProxy(self, Method(name, _signature.Arguments(None)))
        if methods is None or name not in methods:
            raise AttributeError(f"{self._descriptor.class_name!r} object has no attribute {name!r}")
        return MethodProxy(self, methods[name])

    def _bind(self) -> Runtime:
        """The runtime in which this handle has a number; for the calls that may use it."""
        runtime = self._attached()
        if not self._active:
            raise RuntimeError("this instance is terminated")
        return runtime

    def _attached(self) -> Runtime:
        runtime = global_runtime.runtime_for_invoke()
        if runtime is not self._runtime:
            self._target = runtime.bind(self._instance_id)
            self._runtime = runtime
        return runtime

    def _ended_id(self, runtime: Runtime) -> str:
        """The id to kill. Of a handle made under a name only the cluster knows whose it became."""
        if self._real_id or self._name is None:
            return self._real_id
        try:
            return runtime.instance_ready(self._instance_id, _BOUND_TIMEOUT)
        except YRTimeoutError:  # the constructor is still running, here or in the instance it is bound to
            found = runtime.lookup(*self._name)
            return found["instance_id"] if found else self._instance_id
        except Exception:  # it was never made
            return self._instance_id


_HANDLE_METHODS = frozenset(
    name for name, member in vars(InstanceProxy).items() if inspect.isfunction(member) and not name.startswith("_")
)

StatefulInstance = InstanceProxy


def _handle_from(descriptor: bytes, language: str, instance_id: str, need_order: bool) -> InstanceProxy:
    return InstanceProxy(ClassDescriptor.from_bytes(descriptor, language), instance_id, need_order)


class _Class:
    """What a creator knows about its class; apart, so that no name of the user's class is taken."""

    def __init__(self, user_class: type, options: InvokeOptions) -> None:
        self.user_class = user_class
        self.options = options
        self.code: tuple[Runtime, Code] | None = None
        self._descriptor: ClassDescriptor | None = None
        self._constructor: _signature.Arguments | None = None

    # Both are made when first asked for: while a cycle is being unpickled the class is still empty.
    @property
    def descriptor(self) -> ClassDescriptor:
        if self._descriptor is None:
            self._descriptor = ClassDescriptor.of_class(self.user_class)
        return self._descriptor

    @property
    def constructor(self) -> _signature.Arguments:
        if self._constructor is None:
            self._constructor = _signature.of(self.user_class)
        return self._constructor

    def create(self, options: InvokeOptions, args: tuple[Any, ...], kwargs: dict[str, Any]) -> InstanceProxy:
        expected = self.constructor
        if kwargs or not expected.least <= len(args) <= expected.most:
            expected.check(args, kwargs)
        runtime = global_runtime.runtime_for_invoke()
        descriptor = self.descriptor
        wire = _options.for_instance(options, descriptor.is_async, global_runtime.namespace)
        if self.code is None or self.code[0] is not runtime:
            self.code = runtime, _code.encode(self.user_class, by_name=options.skip_serialize)
        target, instance_id = runtime.create(self.code[1], args, kwargs, wire, descriptor.to_bytes())
        name = (options.name, options.namespace) if options.name else None
        return InstanceProxy(descriptor, instance_id, wire["ordered"], name, runtime, target)


class InstanceCreator:
    """A class decorated with ``@yr.instance``; ``StatefulInstanceCreator`` is the same class.

    The decorated name is an object whose class, ``YRInstance(<Class>)``, derives from this one
    and from the user's class, so that class attributes and static methods are reachable on it.
    """

    _yr: _Class

    @classmethod
    def create_from_user_class(cls, user_class: type, invoke_options: InvokeOptions | None = None) -> InstanceCreator:
        """The creator of a class, as ``@yr.instance`` makes it."""
        creator = object.__new__(cls)
        _become(creator, user_class, _checked_options(invoke_options))
        return creator

    def invoke(self, *args: Any, **kwargs: Any) -> InstanceProxy:
        """Start making an instance; return its handle at once.

        What the constructor raises appears when a method's result is read.

        Raises:
            TypeError: the arguments do not fit the constructor, or cannot be pickled.
            RuntimeError: ``yr.init`` was not called.
            YRValueError: (1001) an option is out of range or not supported.
        """
        return self._yr.create(self._yr.options, args, kwargs)

    def options(
        self,
        invoke_options: InvokeOptions | None = None,
        *,
        name: str | None = None,
        namespace: str | None = None,
        lifetime: str | None = None,
        get_if_exists: bool | None = None,
        runtime_env: dict[str, Any] | None = None,
        resources: dict[str, float] | None = None,
        **ignored: Any,
    ) -> _WithOptions:
        """Options for what is made through the result.

        With an ``InvokeOptions`` this class's own options stay as they are. The keyword form
        changes them, for everybody who uses the class.

        Args:
            invoke_options: see ``yr.InvokeOptions``.
            name, namespace: names the instance.
            lifetime: ``"detached"``: it outlives this program and must be ended explicitly.
            get_if_exists: return the existing instance of that name.
            runtime_env: its ``env_vars`` are used.
            resources: custom resources.

        Raises:
            TypeError, ValueError: an option has the wrong type or value.
        """
        if invoke_options is not None:
            return _WithOptions(self, _checked_options(invoke_options))
        own = self._yr.options
        for key, value in (("name", name), ("namespace", namespace), ("lifetime", lifetime)):
            if value is None:
                continue
            if not isinstance(value, str):
                raise TypeError(f"invalid type for '{key}', actual: {type(value)}, expect: {str}")
            if not value or (key == "lifetime" and value != "detached"):
                raise ValueError(f"invalid {key}: {value!r}, expect {'detached' if key == 'lifetime' else 'a name'}")
            if key == "lifetime":
                own.custom_extensions["lifecycle"] = value
            else:
                setattr(own, key, value)
        if resources is not None:
            if not isinstance(resources, dict):
                raise TypeError(f"invalid type for 'resources', actual: {type(resources)}, expect: {dict}")
            own.custom_resources = resources
        if get_if_exists is not None:
            own.get_if_exists = get_if_exists
        if runtime_env is not None and runtime_env.get("env_vars"):
            own.runtime_env = {"env_vars": runtime_env["env_vars"]}
        return _WithOptions(self, own)

    def get_instance(self, name: str, *args: Any, timeout: float = 30) -> InstanceProxy:
        """A handle of the instance of this class with this name, in the class's namespace.

        Raises:
            YRTimeoutError: there is none that runs, ``timeout`` seconds long.
        """
        return _named.find(name, self._yr.options.namespace, timeout, handle_of)

    def get_original_cls(self) -> type:
        """The class that was decorated; the one to derive from."""
        return self._yr.user_class

    @property
    def user_class_descriptor(self) -> ClassDescriptor:
        """The methods of the class, as handles see them."""
        return self._yr.descriptor

    @property
    def __user_class__(self) -> type:
        return self._yr.user_class

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: a decorated class is used with ``.invoke()``."""
        name = self._yr.user_class.__name__
        raise RuntimeError(f"class {name} is decorated with @yr.instance and cannot be called, use {name}.invoke()")

    # The user's class stands behind this one in the order of resolution. What it defines for its
    # objects must not reach the creator, which is not one of them.
    __getattribute__ = object.__getattribute__
    __setattr__ = object.__setattr__
    __delattr__ = object.__delattr__
    __eq__ = object.__eq__
    __ne__ = object.__ne__
    __hash__ = object.__hash__

    def __getattr__(self, name: str) -> Any:
        if name == "_yr":  # not initialised
            raise AttributeError(name)
        return getattr(self._yr.user_class, name)

    def __bool__(self) -> bool:
        return True

    def __del__(self) -> None:
        pass

    def __repr__(self) -> str:
        return f"<yr class {_code.name_of(self._yr.user_class)}>"

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        state = self._yr.user_class, self._yr.options
        return _empty_creator, (), state, None, None, _fill_creator


StatefulInstanceCreator = InstanceCreator


class _WithOptions:
    """A class together with options: what ``C.options(...)`` returns."""

    def __init__(self, creator: InstanceCreator, options: InvokeOptions) -> None:
        self._creator = creator
        self._options = options

    def invoke(self, *args: Any, **kwargs: Any) -> InstanceProxy:
        """Start making an instance with these options; see ``InstanceCreator.invoke``."""
        return self._creator._yr.create(self._options, args, kwargs)

    def get_instance(self, name: str, *args: Any, **kwargs: Any) -> InstanceProxy:
        """Make the instance of this name, or bind to it if it exists."""
        options = copy.copy(self._options)
        options.name = name
        return self._creator._yr.create(options, args, kwargs)


def _empty_creator() -> InstanceCreator:
    return object.__new__(InstanceCreator)


def _fill_creator(creator: InstanceCreator, state: tuple[type, InvokeOptions]) -> None:
    _become(creator, *state)


def _become(creator: InstanceCreator, user_class: type, options: InvokeOptions) -> None:
    """Make creator the one of user_class, and if that can be, an object of YRInstance(user_class)."""
    object.__setattr__(creator, "_yr", _Class(user_class, options))
    try:
        derived = types.new_class(
            f"YRInstance({user_class.__name__})",
            (InstanceCreator, user_class),
            exec_body=lambda ns: ns.update(__module__=user_class.__module__, __doc__=user_class.__doc__),
        )
        object.__setattr__(creator, "__class__", derived)
    except Exception:
        return  # it refuses to be derived from, or has another layout: __getattr__ reaches its attributes


def handle_of(found: dict[str, Any]) -> InstanceProxy:
    """A handle of an instance that ``Runtime.lookup`` found."""
    descriptor = ClassDescriptor.from_bytes(found["descriptor"], found["language"] or "python")
    return InstanceProxy(descriptor, found["instance_id"], bool(found["ordered"]))


@overload
def instance(user_class: type) -> Any: ...


@overload
def instance(*, invoke_options: InvokeOptions | None = None, **ignored: Any) -> Callable[[type], Any]: ...


def instance(user_class: Any = None, *, invoke_options: InvokeOptions | None = None, **ignored: Any) -> Any:
    """Make a class one whose objects live in the cluster: ``@yr.instance`` or ``@yr.instance(...)``.

    May be used before ``yr.init``. Other keywords are ignored, as openYuanrong ignores them.

    Args:
        user_class: the class. A hook ``__yr_shutdown__(self, grace_period_second)`` runs
            before an instance ends.
        invoke_options: resources and limits of its instances, see ``yr.InvokeOptions``.

    Raises:
        RuntimeError: not a class.
    """

    def decorate(target: Any) -> InstanceCreator:
        if not inspect.isclass(target):
            raise RuntimeError("@yr.instance decorator must be applied to a class")
        return InstanceCreator.create_from_user_class(target, invoke_options)

    return decorate if user_class is None else decorate(user_class)


def method(
    *,
    return_nums: int = 1,
    tensor_transport_target: str | None = None,
    enable_tensor_transport: bool | None = None,
    concurrency_group: Any = None,
) -> Callable[[Any], Any]:
    """Say something about a method of a class decorated with ``@yr.instance``. Needs its parentheses.

    Args:
        return_nums: how many values a call gives, 0 to 100.
        tensor_transport_target: ``"npu"`` or None. Tensors travel by value.
        enable_tensor_transport: a bool or None. Tensors travel by value.
        concurrency_group: accepted, no effect.

    Raises:
        TypeError: an argument has the wrong type.

    Example:
        @yr.instance
        class Splitter:
            @yr.method(return_nums=2)
            def halves(self, items):
                return items[::2], items[1::2]
    """
    if not isinstance(return_nums, int):
        check_return_nums(return_nums)
    if tensor_transport_target not in (None, "npu"):
        raise TypeError(f"invalid tensor_transport_target: {tensor_transport_target!r}, expect 'npu' or None")
    if enable_tensor_transport is not None and not isinstance(enable_tensor_transport, bool):
        raise TypeError(f"invalid enable_tensor_transport, actual: {type(enable_tensor_transport)}, expect: {bool}")

    def mark(function: Any) -> Any:
        setattr(getattr(function, "__func__", function), RETURN_NUMS, return_nums)
        return function

    return mark
