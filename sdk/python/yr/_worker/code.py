"""The code that a worker was told of: loaded when first needed, once."""

from __future__ import annotations

import pickle
from typing import Any, Callable

from yr._code import adopt
from yr._core import control, serialization
from yr._core.runtime import Code, Runtime
from yr._core.wire import Place


class LoadError(Exception):
    """A function, class or initializer could not be loaded (2001, USER_CODE_LOAD)."""


class Definition:
    """A function or class that the agent gave a number."""

    __slots__ = ("_message", "_runtime", "code", "name")

    def __init__(self, message: dict, runtime: Runtime) -> None:
        self._message = message
        self._runtime = runtime
        self.name = message["name"]
        self.code: Callable[..., Any] | None = None

    def load(self, loaded: dict) -> Callable[..., Any]:
        """Return the function or class; run the initializer if this worker has not yet.

        ``loaded`` is the worker's cache: code by its identity, or by the content of the initializer that
        it came with, and initializers that have run by the identity of the callable.
        """
        if self.code is not None:
            return self.code
        message = self._message
        initializer = message["initializer"]
        key = initializer or message["code_id"]
        code = loaded.get(key)
        if code is None:
            code = self._loads(initializer, loaded)
            loaded[key] = code
        self.code = code
        return code

    def _loads(self, initializer: bytes, loaded: dict) -> Callable[..., Any]:
        try:
            blob = bytes(self._blob())
            # An initializer travels with its function: the globals that it sets are those that the function reads.
            initialize, code = pickle.loads(initializer) if initializer else (None, pickle.loads(blob))
            adopt(code, Code(self._message["code_id"], self.name, blob))
        except BaseException as e:
            raise LoadError(
                f"{self.name} cannot be loaded in the worker: {type(e).__name__}: {e}; modules that it imports must be "
                "importable there (code path, working_dir or PYTHONPATH)"
            ) from e
        if initialize is not None and id(initialize) not in loaded:
            try:
                initialize()
            except BaseException as e:
                raise LoadError(f"the initializer of {self.name} failed: {type(e).__name__}: {e}") from e
            loaded[id(initialize)] = initialize
        return code

    def _blob(self) -> Any:
        message = self._message
        value = message["code_value"]
        if value is None:
            return message["code"]
        if value["length"]:
            place = Place(value["segment"], value["generation"], value["offset"], value["length"])
            return serialization.decode(self._runtime.view(message["code_object"] or message["code_id"], place))
        return serialization.decode(value["inline"])


def definition(data: bytes, runtime: Runtime) -> tuple:
    """Read a DEFINE body; return ``(number, Definition)``."""
    message = control.decode(control.FUNCTION, data)
    return message["number"], Definition(message, runtime)
