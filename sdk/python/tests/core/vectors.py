"""The vectors of testdata/wire: frames byte for byte, shared by every implementation.

``python sdk/python/tests/core/vectors.py`` writes the files; test_wire.py checks that they still say
what this codec says. In ``fields`` bytes are hexadecimal, identifiers and method names are text.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]
FILES = ROOT / "testdata" / "wire"
sys.path.insert(0, str(ROOT / "sdk" / "python"))

from yr._core import control, wire  # noqa: E402
from yr._core.wire import Call, Failure, Place, Task  # noqa: E402

A, B, C = b"01234567890000000001", b"01234567890000000002", b"vutsrqponfffffffffff"
BIG = 0xFFFFFFFFFFFFFFFF
TAIL = {
    wire.TAG_TENANT: b"acme",
    wire.TAG_DEADLINE: 1_790_000_000_000_000,
    wire.TAG_TRACE: b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    wire.TAG_ATTEMPT: 2,
    wire.TAG_KEY: b"\x00\xff",
    wire.TAG_JOB: b"job-0000002a",
    wire.TAG_PRIORITY: 7,
}
PLACE = Place(3, 9, 64, 100_000_000)
TEXT = Failure(3003, False, "gone: é".encode())
PICKLED = Failure(2002, True, b"\x80\x05.")


def frames() -> list:
    """Return the vectors of frames with a fixed layout: ``(name, frame)``."""
    call = Call(A, 1, 1, 0, [], b"", b"", {})
    return [
        ("call without arguments", wire.call(call)),
        ("call with a deadline", wire.call(call._replace(tail={wire.TAG_DEADLINE: 1_790_000_000_000_000}))),
        ("call of a method", wire.call(call._replace(target=7, method=b"save", args=b"\x01\x02\x03"))),
        ("call with dependencies", wire.call(call._replace(deps=[B, C], nvals=1, args=b"xyz", returns=3))),
        (
            "call with arguments in an object",
            wire.call(call._replace(deps=[B], nvals=1, returns=0), wire.FLAG_ARGS_BLOB),
        ),
        ("call that is said again", wire.call(call, wire.FLAG_RESENT)),
        ("call with every tail field", wire.call(call._replace(method=b"m", args=b"a", returns=100, tail=TAIL))),
        ("task without arguments", wire.task(Task(A, 1, 1, [], b"", b"", {}), 1)),
        (
            "task with values",
            wire.task(Task(A, 2, 1, [b"abc", PLACE, PICKLED, TEXT, b""], b"add", b"args", TAIL), BIG - 1),
        ),
        ("task that constructs", wire.task(Task(C, 5, 0, [], b"", b"args", {}), 2, wire.FLAG_CONSTRUCT)),
        ("task with arguments in an object", wire.task(Task(A, 1, 1, [PLACE], b"", b"", {}), 3, wire.FLAG_ARGS_BLOB)),
        ("result inline", wire.result(A, [(b"value", [])], 1)),
        ("result empty", wire.result(A, [], 2)),
        ("result of several values", wire.result(A, [(b"x", []), (PLACE, []), (b"", [])], 3)),
        ("result with references", wire.result(A, [(b"x", [B, C]), (PLACE, [B])], 4)),
        ("result user exception", wire.result(A, [(PICKLED, [])], 5)),
        ("result system error", wire.result(A, [(TEXT, [])], 6)),
        ("put inline", wire.put(A, b"value")),
        ("put place with references", wire.put(A, PLACE, [B, C])),
        ("put announced", wire.put(A, PICKLED, announce=True)),
        ("object inline", wire.object_frame(A, b"value")),
        ("object place", wire.object_frame(C, PLACE)),
        ("object error", wire.object_frame(C, TEXT)),
        ("retain", wire.ids_frame(wire.RETAIN, [A])),
        ("release", wire.ids_frame(wire.RELEASE, [A, B, C])),
        ("get nothing", wire.ids_frame(wire.GET, [])),
        ("freed", wire.freed([PLACE, Place(0xFFFFFFFF, 1, BIG, BIG)])),
        ("freed nothing", wire.freed([])),
        ("blocked", wire.blocked(41)),
        ("blocked without yield", wire.blocked(wire.NO_YIELD)),
        ("unblocked", wire.frame(wire.UNBLOCKED)),
        ("recall", wire.frame(wire.RECALL)),
        ("yield recalled", wire.yield_frame(41, wire.YIELD_RECALLED)),
        ("yield retiring", wire.yield_frame(0, wire.YIELD_RETIRING)),
        ("yielded", wire.frame(wire.YIELDED)),
        ("credit", wire.frame(wire.CREDIT, wire.U32.pack(32768))),
        ("return", wire.return_frame(3, 9)),
        ("reclaim", wire.frame(wire.RECLAIM)),
        ("ping", wire.frame(wire.PING, b"", 12)),
        ("pong", wire.frame(wire.PONG, b"", 12)),
        ("goodbye", wire.frame(wire.GOODBYE, b"", 13)),
        ("announced", wire.frame(wire.ANNOUNCED)),
        ("evict", wire.ids_frame(wire.EVICT, [A, B], 5)),
        ("evicted", wire.ids_frame(wire.EVICTED, [B], 5)),
        ("evicted nothing", wire.ids_frame(wire.EVICTED, [], 6)),
    ]


def messages() -> list:
    """Return the vectors of frames that carry protobuf: ``(name, type, table, message)``."""
    options = {
        "name": "counter",
        "cpu": 500.0,
        "memory": 128.5,
        "custom_resources": {"ssd": 1.0},
        "concurrency": 1000,
        "env_vars": {"A": "b"},
        "max_instances": -1,
        "labels": ["x", "y"],
        "detached": True,
    }
    return [
        ("hello", wire.HELLO, control.HELLO, {"role": 1, "prefix": "012345678", "language": "python", "pid": 4242,
                                              "max_workers": -1, "code_paths": ["/a", "/b"], "env_vars": {"K": "V"},
                                              "evicts": True}),
        ("hello of a resuming worker", wire.HELLO, control.HELLO,
         {"role": 2, "resume_token": "t", "worker_id": A, "has_progress_page": True,
          "worker": {"assignment": b"\x01", "running": [A, B], "last_delivery": BIG, "instance_state": 3},
          "leases": [{"segment": 1, "generation": 2, "size": 1 << 20}]}),
        ("welcome", wire.WELCOME, control.WELCOME,
         {"version": 1, "job": "job-0000002a", "node": "n", "credit": 32768, "resumed": True,
          "store_capacity": 1 << 40}),
        ("reject", wire.REJECT, control.STATUS, {"code": 9012, "message": "no common version"}),
        ("done", wire.DONE, control.STATUS, {}),
        ("define", wire.DEFINE, control.FUNCTION,
         {"number": 1, "code_id": A, "name": "m.f", "language": "python", "code": b"\x00\x01", "options": options}),
        ("create", wire.CREATE, control.CREATE,
         {"number": 2, "instance_id": B, "name": "m.C", "args": b"a", "deps": [A], "nvals": 1, "options": options}),
        ("bind", wire.BIND, control.BIND, {"number": 3, "instance_id": B}),
        ("kill", wire.KILL, control.KILL, {"instance_id": B, "wait": True}),
        ("cancel", wire.CANCEL, control.CANCEL, {"ids": [A, B], "force": True}),
        ("instance", wire.INSTANCE, control.INSTANCE_EVENT,
         {"instance_id": B, "state": 6, "status": {"code": 1007, "message": "exit code 3"}}),
        ("lease", wire.LEASE, control.LEASE_REQUEST, {"size": 1 << 20, "wish": 1 << 26}),
        ("leased", wire.LEASED, control.LEASE, {"segment": 1, "generation": 2, "size": 1 << 26}),
        ("map", wire.MAP, control.MAP_REQUEST, {"resume_token": "t", "segment": 1, "generation": 2, "writable": True}),
    ]  # fmt: skip


def value_fields(value: object, contains: list) -> dict:
    """Return a VALUE as JSON."""
    if isinstance(value, Place):
        fields = {"kind": "place", **value._asdict()}
    elif isinstance(value, Failure):
        fields = {"kind": "error", "code": value.code, "serialized": value.serialized, "payload": value.payload.hex()}
    else:
        fields = {"kind": "inline", "bytes": value.hex()}
    return {**fields, "contains": [i.decode() for i in contains]}


def fields_of(kind: int, body: bytes) -> dict:
    """Decode the body of a frame with a fixed layout into JSON."""
    end = len(body)
    if kind in (wire.CALL, wire.TASK):
        d = (wire.decode_call if kind == wire.CALL else wire.decode_task)(body, 0, end)._asdict()
        d["id"], d["method"], d["args"] = d["id"].decode(), d["method"].decode(), d["args"].hex()
        d["tail"] = {str(tag): v if isinstance(v, int) else v.hex() for tag, v in d["tail"].items()}
        if kind == wire.CALL:
            d["deps"] = [i.decode() for i in d["deps"]]
        else:
            d["values"] = [value_fields(v, []) for v in d["values"]]
        return d
    if kind == wire.RESULT:
        id, values = wire.decode_result(body, 0, end)
        return {"id": id.decode(), "values": [value_fields(*v) for v in values]}
    if kind in (wire.PUT, wire.OBJECT):
        id, value, contains = wire.decode_object(body, 0, end)
        return {"id": id.decode(), "value": value_fields(value, contains)}
    if kind in (wire.RETAIN, wire.RELEASE, wire.GET, wire.EVICT, wire.EVICTED):
        return {"ids": [i.decode() for i in wire.decode_ids(body, 0, end)]}
    if kind == wire.FREED:
        return {"places": [p._asdict() for p in wire.decode_freed(body, 0, end)]}
    if kind == wire.BLOCKED:
        return {"after": wire.decode_fields(wire.U64, body, 0, end)[0]}
    if kind == wire.YIELD:
        return dict(zip(("after", "reason"), wire.decode_fields(wire.YIELD_FIELDS, body, 0, end)))
    if kind == wire.CREDIT:
        return {"window": wire.decode_fields(wire.U32, body, 0, end)[0]}
    if kind == wire.RETURN:
        return dict(zip(("segment", "generation"), wire.decode_fields(wire.RETURN_FIELDS, body, 0, end)))
    return {}


def plain(value: object) -> object:
    """Return a message with bytes as hexadecimal."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return value.hex() if isinstance(value, bytes) else value


def rows(name: str) -> list:
    """Return the rows of one file."""
    out = []
    if name == "frames":
        for title, frame in frames():
            _, kind, flags, corr = wire.decode_header(frame)
            fields = fields_of(kind, frame[16:])
            row = {"name": title, "type": kind, "flags": flags, "corr": corr, "fields": fields, "hex": frame.hex()}
            out.append(row)
        return out
    for title, kind, table, message in messages():
        body = control.encode(table, message)
        frame = wire.hello(body) if kind == wire.HELLO else wire.frame(kind, body, 5)
        _, _, flags, corr = wire.decode_header(frame)
        row = {"name": title, "type": kind, "flags": flags, "corr": corr, "fields": plain(message), "hex": frame.hex()}
        out.append(row)
    return out


if __name__ == "__main__":
    for file in ("frames", "control"):
        (FILES / f"{file}.json").write_text(json.dumps(rows(file), indent=1, ensure_ascii=False) + "\n")
