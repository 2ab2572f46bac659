"""The identity of code is its content.

A function or class travels as cloudpickle bytes; the first 20 bytes of their SHA-256
are its id. Two definitions under one name are two codes, one definition imported twice
is one. Decorated functions and classes travel by value even from importable modules,
because their module holds the proxy under that name.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import pickle
import sys
from typing import Any

from yr._core.runtime import Code
from yr._core.serialization import nested

_ID_BYTES = 20

# In a worker: what was loaded from a Code, so that it travels on as the same Code.
# Pickled anew it might give other bytes, and recursion would need a new kind of worker at every level.
_loaded: dict[int, tuple[Any, Code]] = {}


def encode(target: Any, by_name: bool = False) -> Code:
    """The code of a function or class.

    Args:
        target: the original, not the proxy.
        by_name: send module and name only; the worker imports it (``skip_serialize``).

    Raises:
        Exception: whatever pickling raises, when something in a closure cannot be pickled.
    """
    known = _loaded.get(id(target))
    if known is not None and known[0] is target:
        return known[1]
    captured: tuple[bytes, ...] = ()
    if by_name:
        blob = pickle.dumps(_ByName(target.__module__, target.__qualname__), protocol=5)
    else:
        blob, captured = _dumps(target)
    return Code(hashlib.sha256(blob).digest()[:_ID_BYTES], name_of(target), blob, captured)


def _dumps(target: Any) -> tuple[bytes, tuple[bytes, ...]]:
    """The bytes of ``target`` and the references that its closure or globals hold."""
    import cloudpickle  # type: ignore[import-untyped]

    outer, nested.ids = nested.ids, []
    try:
        return cloudpickle.dumps(target, protocol=5), tuple(dict.fromkeys(nested.ids))
    finally:
        nested.ids = outer


def encode_initializer(initializer: Any, function: Any) -> bytes:
    """An initializer as it travels: with its function, because they share the globals of their module."""
    return _dumps((initializer, function))[0]


def adopt(target: Any, code: Code) -> None:
    """Remember, in a worker, which code ``target`` was loaded from."""
    _loaded[id(target)] = (target, code)


def name_of(target: Any) -> str:
    """``module.qualname`` for people; ``__main__`` becomes the name of its file."""
    module = target.__module__
    if module == "__main__":
        path = getattr(sys.modules.get("__main__"), "__file__", None)
        if path:
            module = os.path.splitext(os.path.basename(path))[0]
    return f"{module}.{target.__qualname__}"


class _ByName:
    """Pickles as the object that a module holds under a name, without its decorator."""

    def __init__(self, module: str, qualname: str) -> None:
        self._where = (module, qualname)

    def __reduce__(self) -> tuple[Any, ...]:
        return _import, self._where


def _import(module: str, qualname: str) -> Any:
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    for original in ("__original_func__", "__user_class__"):
        found = getattr(found, original, found)
    return found
