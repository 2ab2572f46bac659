"""Python values to bytes and back: the layout "Serialised values" of docs/wire.md.

Two rules decide how a value is pickled. Exact scalars go to the C pickler alone. Everything else goes
through :class:`_Pickler`, cloudpickle's, whose overhead is a constant: the C pickler handles builtin
containers without asking, and only functions, classes and instances reach Python. So whatever is
defined in ``__main__`` or locally travels by value wherever it hides, and plain data stays fast.
"""

from __future__ import annotations

import copyreg
import pickle
import threading
from struct import Struct
from typing import Any, Callable, ClassVar

import cloudpickle

PICKLE, BYTES, MEMORYVIEW, BYTEARRAY = 2, 3, 4, 5
ALIGN = 64
RAW_ALIGNED_FROM = 2048  # raw bodies of at least this size start at 64
HEAD = Struct("<B3xIQ")
HEAD_LEN = HEAD.size
BUFFER_ENTRY = Struct("<QQ")
PLAIN_PICKLE = b"\x02\0\0\0\0\0\0\0"  # a pickle without buffers: its body starts at 16

SCALARS = frozenset((int, float, str, bytes, bool, type(None)))
_RAW_KINDS = {bytes: BYTES, memoryview: MEMORYVIEW, bytearray: BYTEARRAY}
_ZEROS = bytes(ALIGN)

_dumps = pickle.dumps
_loads = pickle.loads
_pack_head = HEAD.pack


class Nested(threading.local):
    """Where ``ObjectRef.__reduce__`` notes itself while one of our picklers runs in this thread."""

    ids: list | None = None


nested = Nested()


class Serialized:
    """A value ready to be written: parts and the offsets where they go; gaps are padding."""

    __slots__ = ("contains", "parts", "size")

    def __init__(self, parts: list, size: int, contains: list) -> None:
        self.parts = parts  # [(offset, bytes-like of format B)]
        self.size = size
        self.contains = contains  # identifiers of references inside

    def to_bytes(self) -> bytes:
        """Return the value as one bytes object."""
        out, pos = [], 0
        for offset, part in self.parts:
            if offset > pos:
                out.append(_ZEROS[: offset - pos])
            out.append(part)
            pos = offset + len(part)
        return b"".join(out)


class _Pickler(cloudpickle.Pickler):
    """cloudpickle's, with a plain dict for a dispatch table: the C pickler reads that without Python calls."""

    dispatch_table: ClassVar[dict] = dict(cloudpickle.Pickler.dispatch_table)


_copyreg_size = len(copyreg.dispatch_table)


class _Sink:
    """A file whose writes are kept as they come: large bytes inside a pickle are not copied."""

    __slots__ = ("write",)

    def __init__(self, parts: list) -> None:
        self.write = parts.append


def _pickle(obj: Any) -> tuple:
    """Return ``(parts of the pickle, out-of-band buffers, identifiers of references inside)``."""
    global _copyreg_size
    if len(copyreg.dispatch_table) != _copyreg_size:
        _copyreg_size = len(copyreg.dispatch_table)
        _Pickler.dispatch_table = dict(cloudpickle.Pickler.dispatch_table)
    parts: list = []
    buffers: list = []
    outer, nested.ids = nested.ids, []
    try:
        _Pickler(_Sink(parts), 5, buffers.append).dump(obj)
        return parts, buffers, nested.ids
    finally:
        nested.ids = outer


def _assemble(parts: list, buffers: list, contains: list) -> Serialized:
    table_len = BUFFER_ENTRY.size * len(buffers)
    pos = HEAD_LEN + table_len
    placed = []
    nbody = 0
    for part in parts:
        placed.append((pos, part))
        pos += len(part)
        nbody += len(part)
    entries = [HEAD.pack(PICKLE, len(buffers), nbody)]
    for buffer in buffers:
        raw = buffer.raw() if isinstance(buffer, pickle.PickleBuffer) else buffer
        pos = -(-pos // ALIGN) * ALIGN
        entries.append(BUFFER_ENTRY.pack(pos, len(raw)))
        placed.append((pos, raw))
        pos += len(raw)
    return Serialized([(0, b"".join(entries)), *placed], pos, list(dict.fromkeys(contains)))


def encode(obj: Any) -> bytes | Serialized:
    """hot: serialise a value; small and simple ones come back as ``bytes`` at once."""
    if obj is None:
        return NONE
    kind = type(obj)
    raw = _RAW_KINDS.get(kind)
    if raw is not None:
        return _encode_raw(raw, obj)
    if kind in SCALARS:
        body = _dumps(obj, 5)
        return _pack_head(PICKLE, 0, len(body)) + body
    return _assemble(*_pickle(obj))


def _encode_raw(kind: int, obj: Any) -> bytes | Serialized:
    if kind == MEMORYVIEW:
        obj = obj.cast("B") if obj.c_contiguous and obj.nbytes else obj.tobytes()
    n = len(obj)
    if n < RAW_ALIGNED_FROM:
        return _pack_head(kind, 0, n) + obj
    return Serialized([(0, _pack_head(kind, 0, n)), (ALIGN, obj)], ALIGN + n, [])


def decode(buf: bytes | memoryview) -> Any:
    """hot: the inverse of :func:`encode`. ``buf`` is what views of the value will keep alive."""
    if buf[:8] == PLAIN_PICKLE:
        return _loads(buf[HEAD_LEN:])
    if len(buf) < HEAD_LEN:
        raise ValueError(f"value of {len(buf)} bytes has no header")
    kind, nbuffers, nbody = HEAD.unpack_from(buf)
    if kind == PICKLE:
        view = memoryview(buf)
        body, buffers = _split(view, nbuffers, nbody)
        return _loads(body, buffers=buffers)
    if BYTES <= kind <= BYTEARRAY:
        start = ALIGN if nbody >= RAW_ALIGNED_FROM else HEAD_LEN
        if start + nbody > len(buf):
            raise ValueError(f"value of {len(buf)} bytes is too short for {nbody} bytes of data")
        return memoryview(buf)[start : start + nbody]
    raise ValueError(f"value of unknown kind {kind}")


def _split(view: memoryview, nbuffers: int, nbody: int) -> tuple:
    start = HEAD_LEN + BUFFER_ENTRY.size * nbuffers
    if start + nbody > len(view):
        raise ValueError(f"value of {len(view)} bytes is too short for its pickle of {nbody}")
    buffers = []
    for k in range(nbuffers):
        offset, length = BUFFER_ENTRY.unpack_from(view, HEAD_LEN + BUFFER_ENTRY.size * k)
        if offset + length > len(view):
            raise ValueError(f"buffer {k} lies outside its value")
        buffers.append(view[offset : offset + length])
    return view[start : start + nbody], buffers


# ---- arguments


def encode_simple_args(args: tuple, kwargs: dict) -> bytes:
    """hot: serialise arguments that are all scalars."""
    body = _dumps((args, kwargs), 5)
    return _pack_head(PICKLE, 0, len(body)) + body


def encode_args(args: tuple, kwargs: dict, is_ref: Callable[[Any], bool]) -> tuple:
    """Serialise arguments; return ``(Serialized, value dependencies, awaited dependencies)``.

    References at the top level become value dependencies, whose place in the arguments is left
    ``None``; references further down are awaited and kept alive only.
    """
    where: list = []
    ids: list = []
    if any(map(is_ref, args)):
        filled = list(args)
        for k, arg in enumerate(args):
            if is_ref(arg):
                where.append(k)
                ids.append(arg._id)
                filled[k] = None
        args = tuple(filled)
    if kwargs and any(map(is_ref, kwargs.values())):
        kwargs = dict(kwargs)
        for name, arg in kwargs.items():
            if is_ref(arg):
                where.append(name)
                ids.append(arg._id)
                kwargs[name] = None
    parts, buffers, contains = _pickle((args, kwargs, where, ids) if ids else (args, kwargs))
    contains = list(dict.fromkeys(contains))
    return _assemble(parts, buffers, ()), ids, contains


def name_blob(args: Serialized, id: bytes) -> Serialized:
    """Return ``args`` with the identifier of the object that will hold them as their last buffer."""
    (_, head), *rest = args.parts
    entries = head[HEAD_LEN:]
    nbuffers = len(entries) // BUFFER_ENTRY.size
    _, _, nbody = HEAD.unpack_from(head)
    body, pos = [], 0
    while pos < nbody:
        part = rest.pop(0)[1]
        body.append(part)
        pos += len(part)
    assert len(rest) == nbuffers
    return _assemble(body, [*(part for _, part in rest), id], args.contains)


def decode_args(buf: bytes | memoryview, blob: bool, fill: Callable[[list], list]) -> tuple:
    """Return ``(args, kwargs)``. ``fill(ids)`` gives the values of the value dependencies."""
    if len(buf) < HEAD_LEN:
        raise ValueError(f"arguments of {len(buf)} bytes have no header")
    kind, nbuffers, nbody = HEAD.unpack_from(buf)
    if kind != PICKLE:
        raise ValueError(f"arguments of unknown kind {kind}")
    body, buffers = _split(memoryview(buf), nbuffers, nbody)
    decoded = _loads(body, buffers=buffers[:-1] if blob else buffers)
    args, kwargs = decoded[0], decoded[1]
    if len(decoded) > 2:
        filled = list(args)
        for place, value in zip(decoded[2], fill(decoded[3])):
            if isinstance(place, int):
                filled[place] = value
            else:
                kwargs[place] = value
        args = tuple(filled)
    return args, kwargs


def blob_id(buf: bytes | memoryview) -> bytes:
    """Return the identifier of the object that holds these arguments."""
    if len(buf) < HEAD_LEN:
        raise ValueError(f"arguments of {len(buf)} bytes have no header")
    _, nbuffers, nbody = HEAD.unpack_from(buf)
    buffers = _split(memoryview(buf), nbuffers, nbody)[1]
    if not buffers:
        raise ValueError("arguments in an object do not name it")
    return bytes(buffers[-1])


def dumps_code(obj: Any) -> bytes:
    """Serialise a function or class by value where its module is not importable as such."""
    return cloudpickle.dumps(obj, 5)


NONE = _pack_head(PICKLE, 0, len(_dumps(None, 5))) + _dumps(None, 5)
