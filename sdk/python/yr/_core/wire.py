"""The frames of the SDK connection, byte for byte as docs/wire.md lays them out.

This module is pure: bytes in, bytes or plain values out, no I/O. The hot paths (``Runtime.invoke``,
the parse loop, the executor) inline these layouts with the same ``Struct`` objects; everything else
calls the functions. A decoder never trusts a length: whatever does not fit raises :class:`FrameError`.
"""

from __future__ import annotations

from struct import Struct, error as StructError
from typing import NamedTuple, Union

MAGIC = 0x31575259  # "YRW1"
VERSION_OLDEST = 1
VERSION_NEWEST = 1

MAX_BODY = 16 << 20
MAX_DEPS = 65535
MAX_METHOD = 1024
MAX_RETURNS = 100
MAX_CONTAINS = 65535
ID_LEN = 20
PREFIX_LEN = 9
NO_YIELD = 0xFFFFFFFFFFFFFFFF  # BLOCKED(after) of a worker that cannot give tasks back

HELLO, WELCOME, REJECT, GOODBYE, PING, PONG = 1, 2, 3, 4, 5, 6
CALL, TASK, RESULT, PUT, RETAIN, RELEASE, GET, OBJECT, FREED = 16, 17, 18, 19, 20, 21, 22, 23, 24
BLOCKED, UNBLOCKED, RECALL, YIELD, YIELDED, CREDIT = 32, 33, 34, 35, 36, 37
DEFINE, CREATE, BIND, LOOKUP, FOUND, KILL, DONE, CANCEL, INSTANCE, SHUTDOWN = range(48, 58)
LEASE, LEASED, RETURN, RECLAIM, MAP, MAPPED, ANNOUNCED, EVICT, EVICTED = range(64, 73)

NAMES = {
    number: name
    for name, number in list(globals().items())
    if name.isupper() and isinstance(number, int) and name in {
        "HELLO", "WELCOME", "REJECT", "GOODBYE", "PING", "PONG", "CALL", "TASK", "RESULT", "PUT",
        "RETAIN", "RELEASE", "GET", "OBJECT", "FREED", "BLOCKED", "UNBLOCKED", "RECALL", "YIELD",
        "YIELDED", "CREDIT", "DEFINE", "CREATE", "BIND", "LOOKUP", "FOUND", "KILL", "DONE", "CANCEL",
        "INSTANCE", "SHUTDOWN", "LEASE", "LEASED", "RETURN", "RECLAIM", "MAP", "MAPPED", "ANNOUNCED",
        "EVICT", "EVICTED",
    }
}  # fmt: skip

FLAG_ARGS_BLOB = 1  # CALL, TASK
FLAG_RESENT = 2  # CALL
FLAG_CONSTRUCT = 2  # TASK
FLAG_ANNOUNCE = 1  # PUT

INLINE, PLACE, ERROR, AWAY = 0, 1, 2, 3  # kinds of VALUE
ERROR_SERIALIZED = 1  # flag of an error VALUE

YIELD_RECALLED, YIELD_RETIRING = 1, 2

TAG_TENANT, TAG_DEADLINE, TAG_TRACE, TAG_ATTEMPT, TAG_KEY, TAG_JOB, TAG_PRIORITY = 1, 2, 3, 4, 5, 6, 7

HEADER = Struct("<IBBHQ")
VALUE_HEAD = Struct("<BBHI")
PLACE_FIELDS = Struct("<IIQQ")
ERROR_CODE = Struct("<i")
CALL_FIELDS = Struct("<20sIIHHHBB")
CALL_HEAD = Struct("<IBBHQ20sIIHHHBB")  # HEADER + CALL_FIELDS
TASK_FIELDS = Struct("<20sIIHHB3x")
TASK_HEAD = Struct("<IBBHQ20sIIHHB3x")  # HEADER + TASK_FIELDS
RESULT_FIELDS = Struct("<20sB3x")
RESULT_HEAD = Struct("<IBBHQ20sB3xBBHI")  # HEADER + RESULT_FIELDS + VALUE_HEAD
OBJECT_FIELDS = Struct("<20sBBHI")  # ID + VALUE_HEAD
PUT_HEAD = Struct("<IBBHQ20sBBHI")  # HEADER + ID + VALUE_HEAD
TAIL_FIELD = Struct("<BH")
DEADLINE_TAIL = Struct("<BHQ")
U32 = Struct("<I")
U64 = Struct("<Q")
YIELD_FIELDS = Struct("<QB")
RETURN_FIELDS = Struct("<II")
HELLO_FIELDS = Struct("<IHH")

HEADER_LEN = HEADER.size
CALL_RETURNS = 16 + 34  # offset of the number of results in a CALL frame
_TAIL_U64 = {TAG_DEADLINE}
_TAIL_U32 = {TAG_ATTEMPT, TAG_PRIORITY}


class FrameError(Exception):
    """A frame broke the layout or a limit (public code 9013, FRAME_MALFORMED)."""

    code = 9013


class Place(NamedTuple):
    """Where a value lies in shared memory."""

    segment: int
    generation: int
    offset: int
    length: int


class Failure(NamedTuple):
    """An error in place of a value: ``payload`` is UTF-8 text, or an SDK-serialised exception."""

    code: int
    serialized: bool
    payload: bytes


Value = Union[bytes, Place, Failure]


class Call(NamedTuple):
    """A decoded CALL body."""

    id: bytes
    target: int
    returns: int
    nvals: int
    deps: list
    method: bytes
    args: bytes
    tail: dict


class Task(NamedTuple):
    """A decoded TASK body."""

    id: bytes
    target: int
    returns: int
    values: list
    method: bytes
    args: bytes
    tail: dict


# ---- encoding


def frame(kind: int, body: bytes = b"", corr: int = 0, flags: int = 0) -> bytes:
    """Return a whole frame."""
    return HEADER.pack(len(body), kind, flags, 0, corr) + body


def hello(body: bytes) -> bytes:
    """Return a HELLO frame around a protobuf ``Hello``."""
    return frame(HELLO, HELLO_FIELDS.pack(MAGIC, VERSION_OLDEST, VERSION_NEWEST) + body)


def ids_frame(kind: int, ids: list, corr: int = 0) -> bytes:
    """Return a RETAIN, RELEASE, GET, EVICT or EVICTED frame. Callers keep ``ids`` below ``MAX_BODY / 20``."""
    return HEADER.pack(4 + 20 * len(ids), kind, 0, 0, corr) + U32.pack(len(ids)) + b"".join(ids)


def encode_value(value: Value, contains: list = ()) -> bytes:
    """Return a VALUE: ``bytes`` go inline, a :class:`Place` by place, a :class:`Failure` as error."""
    refs = b"".join(contains)
    if isinstance(value, Failure):
        head = VALUE_HEAD.pack(ERROR, ERROR_SERIALIZED if value.serialized else 0, len(contains), len(value.payload))
        return head + ERROR_CODE.pack(value.code) + value.payload + refs
    if isinstance(value, Place):
        return VALUE_HEAD.pack(PLACE, 0, len(contains), 0) + PLACE_FIELDS.pack(*value) + refs
    return VALUE_HEAD.pack(INLINE, 0, len(contains), len(value)) + value + refs


def encode_tail(tail: dict) -> bytes:
    """Return the tail of ``{tag: value}``; numbers for deadline, attempt and priority, else bytes."""
    out = []
    for tag, value in tail.items():
        if tag in _TAIL_U64:
            value = U64.pack(value)
        elif tag in _TAIL_U32:
            value = U32.pack(value)
        out.append(TAIL_FIELD.pack(tag, len(value)) + value)
    return b"".join(out)


def call(c: Call, flags: int = 0, corr: int = 0) -> bytes:
    """Return a CALL frame."""
    body = CALL_FIELDS.pack(c.id, c.target, len(c.args), len(c.deps), c.nvals, len(c.method), c.returns, 0)
    return frame(CALL, b"".join([body, *c.deps, c.method, c.args, encode_tail(c.tail)]), corr, flags)


def task(t: Task, delivery: int, flags: int = 0) -> bytes:
    """Return a TASK frame."""
    body = TASK_FIELDS.pack(t.id, t.target, len(t.args), len(t.values), len(t.method), t.returns)
    values = [encode_value(v) for v in t.values]
    return frame(TASK, b"".join([body, *values, t.method, t.args, encode_tail(t.tail)]), delivery, flags)


def result(id: bytes, values: list, delivery: int = 0) -> bytes:
    """Return a RESULT frame of ``[(value, contains), ...]``."""
    body = RESULT_FIELDS.pack(id, len(values))
    return frame(RESULT, body + b"".join(encode_value(v, refs) for v, refs in values), delivery)


def object_frame(id: bytes, value: Value, contains: list = ()) -> bytes:
    """Return an OBJECT frame."""
    return frame(OBJECT, id + encode_value(value, contains))


def put(id: bytes, value: Value, contains: list = (), announce: bool = False) -> bytes:
    """Return a PUT frame."""
    return frame(PUT, id + encode_value(value, contains), 0, FLAG_ANNOUNCE if announce else 0)


def freed(places: list) -> bytes:
    """Return a FREED frame."""
    return frame(FREED, U32.pack(len(places)) + b"".join(PLACE_FIELDS.pack(*p) for p in places))


def blocked(after: int) -> bytes:
    """Return a BLOCKED frame."""
    return frame(BLOCKED, U64.pack(after))


def yield_frame(after: int, reason: int) -> bytes:
    """Return a YIELD frame."""
    return frame(YIELD, YIELD_FIELDS.pack(after, reason))


def return_frame(segment: int, generation: int) -> bytes:
    """Return a RETURN frame."""
    return frame(RETURN, RETURN_FIELDS.pack(segment, generation))


# ---- decoding


def decode_header(buf: bytes, pos: int = 0) -> tuple:
    """Return ``(length, type, flags, corr)`` of the frame that starts at ``pos``."""
    try:
        length, kind, flags, _, corr = HEADER.unpack_from(buf, pos)
    except StructError:
        raise FrameError("frame header is cut off") from None
    if length > MAX_BODY:
        raise FrameError(f"frame of {length} bytes is larger than the limit of {MAX_BODY}")
    return length, kind, flags, corr


ELSEWHERE = object()  # a value that is ready and not in this node's memory: GET brings it there


def decode_value(buf: bytes, pos: int, end: int) -> tuple:
    """Read a VALUE at ``pos``; return ``(value, contains, next position)``."""
    if end - pos < 8:
        raise FrameError("value is cut off")
    kind, flags, ncontains, n = VALUE_HEAD.unpack_from(buf, pos)
    pos += 8
    if kind == INLINE:
        stop = pos + n
        value: Value | None = bytes(buf[pos:stop])
    elif kind == PLACE:
        stop = pos + 24
        if stop > end:
            raise FrameError("place is cut off")
        value = Place(*PLACE_FIELDS.unpack_from(buf, pos))
    elif kind == AWAY:
        stop = pos + n
        value = ELSEWHERE
    elif kind == ERROR:
        stop = pos + 4 + n
        if stop > end:
            raise FrameError("error value is cut off")
        (code,) = ERROR_CODE.unpack_from(buf, pos)
        value = Failure(code, bool(flags & ERROR_SERIALIZED), bytes(buf[pos + 4 : stop]))
    else:
        raise FrameError(f"value of unknown kind {kind}")
    contains, pos = _take_ids(buf, stop, end, ncontains)
    return value, contains, pos


def _take_ids(buf: bytes, pos: int, end: int, n: int) -> tuple:
    stop = pos + ID_LEN * n
    if stop > end:
        raise FrameError(f"{n} identifiers do not fit into the frame")
    return [bytes(buf[p : p + ID_LEN]) for p in range(pos, stop, ID_LEN)], stop


def decode_tail(buf: bytes, pos: int, end: int) -> dict:
    """Read the tail; unknown tags below 128 are skipped, others are refused."""
    tail = {}
    while pos < end:
        if end - pos < 3:
            raise FrameError("tail field is cut off")
        tag, size = TAIL_FIELD.unpack_from(buf, pos)
        pos += 3
        if size > end - pos:
            raise FrameError(f"tail field {tag} is cut off")
        value = bytes(buf[pos : pos + size])
        pos += size
        if tag in _TAIL_U64 or tag in _TAIL_U32:
            if size != (8 if tag in _TAIL_U64 else 4):
                raise FrameError(f"tail field {tag} has {size} bytes")
            tail[tag] = int.from_bytes(value, "little")
        elif tag <= TAG_PRIORITY:
            tail[tag] = value
        elif tag >= 128:
            raise FrameError(f"tail field {tag} is not known to this version")
    return tail


def decode_call(buf: bytes, pos: int, end: int) -> Call:
    """Read a CALL body."""
    if end - pos < CALL_FIELDS.size:
        raise FrameError("call is cut off")
    id, target, nargs, ndeps, nvals, nmethod, returns, _ = CALL_FIELDS.unpack_from(buf, pos)
    if nvals > ndeps or nmethod > MAX_METHOD or returns > MAX_RETURNS:
        raise FrameError(f"call breaks a limit: {ndeps=}, {nvals=}, {nmethod=}, {returns=}")
    deps, pos = _take_ids(buf, pos + CALL_FIELDS.size, end, ndeps)
    if nmethod + nargs > end - pos:
        raise FrameError("arguments do not fit into the call")
    method = bytes(buf[pos : pos + nmethod])
    pos += nmethod
    args = bytes(buf[pos : pos + nargs])
    return Call(id, target, returns, nvals, deps, method, args, decode_tail(buf, pos + nargs, end))


def decode_task(buf: bytes, pos: int, end: int) -> Task:
    """Read a TASK body."""
    if end - pos < TASK_FIELDS.size:
        raise FrameError("task is cut off")
    id, target, nargs, nvals, nmethod, returns = TASK_FIELDS.unpack_from(buf, pos)
    if nmethod > MAX_METHOD or returns > MAX_RETURNS:
        raise FrameError(f"task breaks a limit: {nmethod=}, {returns=}")
    pos += TASK_FIELDS.size
    values = []
    for _ in range(nvals):
        value, _contains, pos = decode_value(buf, pos, end)
        values.append(value)
    if nmethod + nargs > end - pos:
        raise FrameError("arguments do not fit into the task")
    method = bytes(buf[pos : pos + nmethod])
    pos += nmethod
    args = bytes(buf[pos : pos + nargs])
    return Task(id, target, returns, values, method, args, decode_tail(buf, pos + nargs, end))


def decode_result(buf: bytes, pos: int, end: int) -> tuple:
    """Read a RESULT body; return ``(id, [(value, contains), ...])``."""
    if end - pos < RESULT_FIELDS.size:
        raise FrameError("result is cut off")
    id, count = RESULT_FIELDS.unpack_from(buf, pos)
    pos += RESULT_FIELDS.size
    if count > MAX_RETURNS:
        raise FrameError(f"result of {count} values is larger than the limit of {MAX_RETURNS}")
    values = []
    for _ in range(count):
        value, contains, pos = decode_value(buf, pos, end)
        values.append((value, contains))
    decode_tail(buf, pos, end)
    return id, values


def decode_object(buf: bytes, pos: int, end: int) -> tuple:
    """Read an OBJECT or PUT body; return ``(id, value, contains)``."""
    if end - pos < ID_LEN:
        raise FrameError("object is cut off")
    id = bytes(buf[pos : pos + ID_LEN])
    value, contains, pos = decode_value(buf, pos + ID_LEN, end)
    decode_tail(buf, pos, end)
    return id, value, contains


def decode_ids(buf: bytes, pos: int, end: int) -> list:
    """Read the body of what :func:`ids_frame` returns."""
    if end - pos < 4:
        raise FrameError("identifier list is cut off")
    (n,) = U32.unpack_from(buf, pos)
    ids, pos = _take_ids(buf, pos + 4, end, n)
    decode_tail(buf, pos, end)
    return ids


def decode_freed(buf: bytes, pos: int, end: int) -> list:
    """Read a FREED body."""
    if end - pos < 4:
        raise FrameError("list of freed places is cut off")
    (n,) = U32.unpack_from(buf, pos)
    stop = pos + 4 + n * PLACE_FIELDS.size
    if stop > end:
        raise FrameError(f"{n} freed places do not fit into the frame")
    return [Place(*PLACE_FIELDS.unpack_from(buf, p)) for p in range(pos + 4, stop, PLACE_FIELDS.size)]


def decode_fields(layout: Struct, buf: bytes, pos: int, end: int) -> tuple:
    """Read a body of fixed fields."""
    if end - pos < layout.size:
        raise FrameError("frame body is cut off")
    return layout.unpack_from(buf, pos)
