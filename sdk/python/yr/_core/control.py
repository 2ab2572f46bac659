"""The rare frames: a protobuf codec for the messages of pkg/wire/control.proto.

Each message is a table ``{field number: (name, kind)}``; messages are plain dicts. Kinds: ``u``
unsigned, ``i`` signed, ``b`` bool, ``d`` double, ``s`` string, ``y`` bytes, a table for a nested
message, ``[kind]`` for repeated, ``("map", kind)`` for a map with string keys. Unknown fields are skipped.
"""

from __future__ import annotations

from struct import Struct, error as StructError
from typing import Any

from .wire import FrameError

_DOUBLE = Struct("<d")

STATUS: dict = {1: ("code", "i"), 2: ("message", "s")}
LEASE: dict = {1: ("status", STATUS), 2: ("segment", "u"), 3: ("generation", "u"), 4: ("size", "u")}
OPTIONS: dict = {
    1: ("name", "s"),
    2: ("namespace", "s"),
    3: ("cpu", "d"),
    4: ("memory", "d"),
    5: ("custom_resources", ("map", "d")),
    6: ("concurrency", "u"),
    7: ("retry_times", "u"),
    8: ("recover_retry_times", "u"),
    9: ("env_vars", ("map", "s")),
    10: ("max_instances", "i"),
    11: ("min_instances", "i"),
    12: ("schedule_timeout_ms", "i"),
    13: ("labels", ["s"]),
    14: ("priority", "i"),
    15: ("detached", "b"),
    16: ("ordered", "b"),
    17: ("grace_ms", "i"),
    18: ("idle_timeout_s", "i"),
    19: ("custom_extensions", ("map", "s")),
    20: ("runtime_env", "s"),
    21: ("get_if_exists", "b"),
    22: ("is_async", "b"),
}
WORKER_STATE: dict = {
    1: ("assignment", "y"),
    2: ("running", ["y"]),
    3: ("last_delivery", "u"),
    4: ("instance_state", "u"),
}
HELLO: dict = {
    1: ("role", "u"),
    2: ("prefix", "s"),
    3: ("language", "s"),
    4: ("language_version", "s"),
    5: ("sdk_version", "s"),
    6: ("pid", "i"),
    7: ("tenant", "s"),
    8: ("job", "s"),
    9: ("token", "s"),
    10: ("resume_token", "s"),
    11: ("worker_id", "y"),
    12: ("interpreter", "s"),
    13: ("code_paths", ["s"]),
    14: ("working_dir", "s"),
    15: ("namespace", "s"),
    16: ("recycle_ms", "i"),
    17: ("max_workers", "i"),
    18: ("command", "s"),
    19: ("has_progress_page", "b"),
    20: ("worker", WORKER_STATE),
    21: ("env_vars", ("map", "s")),
    22: ("leases", [LEASE]),
    23: ("evicts", "b"),
}
WELCOME: dict = {
    1: ("version", "u"),
    2: ("job", "s"),
    3: ("node", "s"),
    4: ("node_ip", "s"),
    5: ("resume_token", "s"),
    6: ("credit", "u"),
    7: ("inline_put_budget", "u"),
    8: ("inline_put_max", "u"),
    9: ("inline_result_max", "u"),
    10: ("server_version", "s"),
    11: ("resumed", "b"),
    12: ("log_dir", "s"),
    13: ("assignment", "y"),
    14: ("store_capacity", "u"),
    15: ("prefix", "s"),
}
ASSIGNMENT: dict = {
    1: ("job", "s"),
    2: ("tenant", "s"),
    3: ("instance_id", "y"),
    4: ("concurrency", "u"),
    5: ("namespace", "s"),
    6: ("create", "y"),
    7: ("node", "s"),
    8: ("code_paths", ["s"]),
    9: ("pool", "u"),
    10: ("options", OPTIONS),
}
VALUE: dict = {
    1: ("inline", "y"),
    2: ("segment", "u"),
    3: ("generation", "u"),
    4: ("offset", "u"),
    5: ("length", "u"),
}
FUNCTION: dict = {
    1: ("number", "u"),
    2: ("code_id", "y"),
    3: ("name", "s"),
    4: ("language", "s"),
    5: ("code", "y"),
    6: ("code_object", "y"),
    7: ("code_value", VALUE),
    8: ("options", OPTIONS),
    9: ("initializer", "y"),
}
CREATE: dict = {
    1: ("number", "u"),
    2: ("instance_id", "y"),
    3: ("code_id", "y"),
    4: ("name", "s"),
    5: ("language", "s"),
    6: ("code", "y"),
    7: ("code_object", "y"),
    8: ("options", OPTIONS),
    9: ("args", "y"),
    10: ("args_blob", "b"),
    11: ("deps", ["y"]),
    12: ("nvals", "u"),
    13: ("descriptor", "y"),
}
BIND: dict = {1: ("number", "u"), 2: ("instance_id", "y")}
LOOKUP: dict = {1: ("name", "s"), 2: ("namespace", "s")}
FOUND: dict = {
    1: ("found", "b"),
    2: ("instance_id", "y"),
    3: ("descriptor", "y"),
    4: ("language", "s"),
    5: ("state", "u"),
    6: ("ordered", "b"),
}
KILL: dict = {1: ("instance_id", "y"), 2: ("wait", "b")}
CANCEL: dict = {1: ("ids", ["y"]), 2: ("force", "b"), 3: ("recursive", "b")}
INSTANCE_EVENT: dict = {
    1: ("instance_id", "y"),
    2: ("state", "u"),
    3: ("bound_to", "y"),
    4: ("status", STATUS),
    5: ("error", "y"),
    6: ("descriptor", "y"),
}
SHUTDOWN: dict = {1: ("grace_ms", "i"), 2: ("reason", "s")}
LEASE_REQUEST: dict = {1: ("size", "u"), 2: ("wish", "u")}
MAP_REQUEST: dict = {
    1: ("resume_token", "s"),
    2: ("segment", "u"),
    3: ("generation", "u"),
    4: ("writable", "b"),
}

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def encode(table: dict, message: dict) -> bytes:
    """Return ``message`` as protobuf. Fields at their default are left out; unknown names are an error."""
    out: list[bytes] = []
    known = 0
    for number, (name, kind) in table.items():
        if name not in message:
            continue
        known += 1
        value = message[name]
        if isinstance(kind, list):
            for item in value:
                out.append(_field(number, kind[0], item))
        elif isinstance(kind, tuple):
            for key in sorted(value):
                entry = _field(1, "s", key) + _field(2, kind[1], value[key])
                out.append(_key(number, _BYTES) + _varint(len(entry)) + entry)
        elif value or (isinstance(kind, dict) and value is not None):
            out.append(_field(number, kind, value))
    if known != len(message):
        unknown = set(message) - {name for name, _ in table.values()}
        raise KeyError(f"message has no field {sorted(unknown)}")
    return b"".join(out)


def decode(table: dict, data: bytes) -> dict:
    """Read a protobuf message; every field of ``table`` is present, at its default if it was not sent."""
    message = {name: _default(kind) for name, kind in table.values()}
    pos, end = 0, len(data)
    while pos < end:
        key, pos = _read_varint(data, pos)
        number, wiretype = key >> 3, key & 7
        if wiretype == _VARINT:
            raw, pos = _read_varint(data, pos)
        elif wiretype == _BYTES:
            size, pos = _read_varint(data, pos)
            if size > end - pos:
                raise FrameError("message field is cut off")
            raw, pos = data[pos : pos + size], pos + size
        elif wiretype in (_FIXED64, _FIXED32):
            size = 8 if wiretype == _FIXED64 else 4
            if size > end - pos:
                raise FrameError("message field is cut off")
            raw, pos = data[pos : pos + size], pos + size
        else:
            raise FrameError(f"message field {number} has unknown wire type {wiretype}")
        if number not in table:
            continue
        name, kind = table[number]
        if isinstance(kind, list):
            message[name].append(_value(kind[0], raw))
        elif isinstance(kind, tuple):
            entry = decode({1: ("key", "s"), 2: ("value", kind[1])}, _value("y", raw))
            message[name][entry["key"]] = entry["value"]
        else:
            message[name] = _value(kind, raw)
    return message


def _default(kind: Any) -> Any:
    if isinstance(kind, list):
        return []
    if isinstance(kind, tuple):
        return {}
    if isinstance(kind, dict):
        return None
    return {"u": 0, "i": 0, "b": False, "d": 0.0, "s": "", "y": b""}[kind]


def _varint(n: int) -> bytes:
    if n < 0:
        n &= 0xFFFFFFFFFFFFFFFF  # two's complement in ten bytes, as protobuf's int32 and int64
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def _key(number: int, wiretype: int) -> bytes:
    return _varint(number << 3 | wiretype)


def _field(number: int, kind: Any, value: Any) -> bytes:
    if kind in ("u", "i", "b"):
        return _key(number, _VARINT) + _varint(int(value))
    if kind == "d":
        return _key(number, _FIXED64) + _DOUBLE.pack(value)
    if isinstance(kind, dict):
        data = encode(kind, value)
    elif kind == "s":
        data = value.encode()
    else:
        data = bytes(value)
    return _key(number, _BYTES) + _varint(len(data)) + data


def _read_varint(data: bytes, pos: int) -> tuple:
    result = shift = 0
    while True:
        if pos >= len(data) or shift > 63:
            raise FrameError("message has a broken number")
        byte = data[pos]
        pos += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result & 0xFFFFFFFFFFFFFFFF, pos
        shift += 7


def _value(kind: Any, raw: Any) -> Any:
    try:
        if kind in ("u", "i", "b"):
            if not isinstance(raw, int):
                raise FrameError("message field is not a number")
            if kind == "b":
                return raw != 0
            return raw - (1 << 64) if kind == "i" and raw >> 63 else raw
        if isinstance(raw, int):
            raise FrameError("message field is a number where bytes were expected")
        if isinstance(kind, dict):
            return decode(kind, raw)
        if kind == "d":
            return _DOUBLE.unpack(raw)[0]
        return str(raw, "utf-8") if kind == "s" else bytes(raw)
    except (UnicodeDecodeError, StructError) as e:
        raise FrameError(f"message field is malformed: {e}") from None
