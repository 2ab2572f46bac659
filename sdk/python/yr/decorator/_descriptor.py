"""What a handle must know of a class: its methods and how they may be called.

A descriptor travels with the instance, so that ``yr.get_instance`` can make a handle in a
program that has no definition of the class. It is JSON, opaque to the agent.
"""

from __future__ import annotations

import inspect
import json
from typing import Any

from yr import _code
from yr._signature import Arguments, of
from yr.decorator.function_proxy import check_return_nums

RETURN_NUMS = "__yr_return_nums__"  # put on a method by @yr.method
_NOT_METHODS = frozenset(("__init__", "__new__", "__del__", "__init_subclass__", "__class_getitem__"))


class Method:
    """One callable attribute of a class."""

    __slots__ = ("arguments", "generator", "name", "return_nums")

    def __init__(self, name: str, arguments: Arguments, return_nums: int = 1, generator: bool = False) -> None:
        self.name = name
        self.arguments = arguments
        self.return_nums = return_nums
        self.generator = generator


class ClassDescriptor:
    """The class of an instance, as its handles see it.

    Attributes:
        module_name, class_name: where it was defined.
        is_async: some method is a coroutine function or an asynchronous generator.
        methods: name -> Method; None when they are not known (a class of another language), which
            allows every name.
    """

    def __init__(
        self,
        module_name: str,
        class_name: str,
        is_async: bool,
        methods: dict[str, Method] | None,
        language: str = "python",
    ) -> None:
        self.module_name = module_name
        self.class_name = class_name
        self.is_async = is_async
        self.methods = methods
        self.target_language = language

    @classmethod
    def of_class(cls, user_class: type) -> ClassDescriptor:
        """Describe a class.

        Raises:
            RuntimeError: a ``@yr.method(return_nums=...)`` is out of range.
        """
        methods: dict[str, Method] = {}
        is_async = False
        for name in dir(user_class):
            if name in _NOT_METHODS:
                continue
            attribute = inspect.getattr_static(user_class, name)
            function = attribute.__func__ if isinstance(attribute, (staticmethod, classmethod)) else attribute
            if not inspect.isfunction(function):
                continue
            methods[name] = Method(
                name,
                of(function, bound=not isinstance(attribute, staticmethod)),
                check_return_nums(getattr(function, RETURN_NUMS, 1)),
                inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function),
            )
            is_async |= inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        module = _code.name_of(user_class)[: -len(user_class.__qualname__) - 1]
        return cls(module, user_class.__qualname__, is_async, methods)

    def to_bytes(self) -> bytes:
        """In the form that travels."""
        if self.methods is None:
            return b""
        return json.dumps(
            {
                "module": self.module_name,
                "class": self.class_name,
                "async": self.is_async,
                "methods": {
                    m.name: [m.arguments.describe(), m.return_nums, m.generator] for m in self.methods.values()
                },
            },
            separators=(",", ":"),
        ).encode()

    @classmethod
    def from_bytes(cls, data: bytes, language: str = "python") -> ClassDescriptor:
        """The inverse of to_bytes; empty data describes a class of which nothing is known."""
        if not data:
            return cls("", "", False, None, language)
        fields: dict[str, Any] = json.loads(data)
        methods = {
            name: Method(name, Arguments.described(arguments), returns, generator)
            for name, (arguments, returns, generator) in fields["methods"].items()
        }
        return cls(fields["module"], fields["class"], fields["async"], methods, language)
