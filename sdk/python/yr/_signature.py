"""Arguments are checked against the signature before anything is sent.

``Signature.bind`` costs several microseconds. A call with positional arguments only,
of a number that the signature accepts, needs no binding; every other call does, for
the sake of its error message.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any, Callable

_NEVER = sys.maxsize
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Arguments:
    """What one callable accepts.

    Attributes:
        signature: for people and for binding; None accepts everything.
        least, most: a call without keywords is right if its number of arguments lies between.
    """

    __slots__ = ("least", "most", "signature")

    def __init__(self, signature: inspect.Signature | None) -> None:
        self.signature = signature
        self.least, self.most = 0, _NEVER
        if signature is None:
            return
        parameters = list(signature.parameters.values())
        positional = [p for p in parameters if p.kind in _POSITIONAL]
        self.least = sum(p.default is p.empty for p in positional)
        if not any(p.kind is p.VAR_POSITIONAL for p in parameters):
            self.most = len(positional)
        if any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
            self.least = _NEVER  # no call without keywords can be right

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise TypeError if a call with these arguments would.

        Callers test ``not kwargs and least <= len(args) <= most`` first.
        """
        if self.signature is not None:
            self.signature.bind(*args, **kwargs)

    def describe(self) -> list[list[Any]] | None:
        """In a form for JSON: name, kind and whether there is a default."""
        if self.signature is None:
            return None
        return [[p.name, int(p.kind), p.default is not p.empty] for p in self.signature.parameters.values()]

    @classmethod
    def described(cls, description: list[list[Any]] | None) -> Arguments:
        """The inverse of describe; defaults are there, their values are not."""
        if description is None:
            return cls(None)
        return cls(
            inspect.Signature(
                [
                    inspect.Parameter(
                        name, inspect._ParameterKind(kind), default=... if default else inspect.Parameter.empty
                    )
                    for name, kind, default in description
                ]
            )
        )


def of(function: Callable[..., Any], bound: bool = False) -> Arguments:
    """What a function, or a class called as its constructor, accepts.

    Args:
        function: any callable; one without a readable signature accepts everything.
        bound: leave out the first parameter, which Python fills (``self``, ``cls``).
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return Arguments(None)
    parameters = list(signature.parameters.values())
    if bound and parameters and parameters[0].kind in _POSITIONAL:
        signature = signature.replace(parameters=parameters[1:])
    return Arguments(signature)
