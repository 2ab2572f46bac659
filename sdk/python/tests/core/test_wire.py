"""The codec against the layout of docs/wire.md, byte for byte, and against bytes from outside."""

from __future__ import annotations

import json
import random

import pytest
import vectors
from yr._core import control, wire
from yr._core.wire import Call, Failure, FrameError, Place, Task

# Written out by hand from the tables of docs/wire.md.
BY_HAND = {
    "call without arguments": "24000000 10 00 0000 0000000000000000"
    "3031323334353637383930303030303030303031 01000000 00000000 0000 0000 0000 01 00",
    "call with a deadline": "2f000000 10 00 0000 0000000000000000"
    "3031323334353637383930303030303030303031 01000000 00000000 0000 0000 0000 01 00 02 0800 00e025dafe5b0600",
    "result inline": "25000000 12 00 0000 0100000000000000"
    "3031323334353637383930303030303030303031 01 000000 00 00 0000 05000000 76616c7565",
    "put place with references": "5c000000 13 00 0000 0000000000000000"
    "3031323334353637383930303030303030303031 01 00 0200 00000000"
    "03000000 09000000 4000000000000000 00e1f50500000000"
    "3031323334353637383930303030303030303032 767574737271706f6e6666666666666666666666",
    "yield retiring": "09000000 23 00 0000 0000000000000000 0000000000000000 02",
}


@pytest.mark.parametrize("name", BY_HAND)
def test_frames_are_what_a_person_reads_off_the_layout(name):
    frame = dict(vectors.frames())[name]
    assert frame.hex() == BY_HAND[name].replace(" ", "")


@pytest.mark.parametrize("file", ["frames", "control"])
def test_the_vector_files_say_what_this_codec_says(file):
    stored = json.loads((vectors.FILES / f"{file}.json").read_text())
    assert stored == vectors.rows(file), "regenerate with python sdk/python/tests/core/vectors.py if this is intended"


def reencode(frame: bytes) -> bytes:
    _, kind, flags, corr = wire.decode_header(frame)
    body, end = frame[16:], len(frame) - 16
    if kind == wire.CALL:
        return wire.call(wire.decode_call(body, 0, end), flags, corr)
    if kind == wire.TASK:
        return wire.task(wire.decode_task(body, 0, end), corr, flags)
    if kind == wire.RESULT:
        return wire.result(*wire.decode_result(body, 0, end), corr)
    if kind in (wire.PUT, wire.OBJECT):
        head = wire.HEADER.pack(end, kind, flags, 0, corr)
        id, value, contains = wire.decode_object(body, 0, end)
        return head + id + wire.encode_value(value, contains)
    if kind in (wire.RETAIN, wire.RELEASE, wire.GET, wire.EVICT, wire.EVICTED):
        return wire.ids_frame(kind, wire.decode_ids(body, 0, end), corr)
    if kind == wire.FREED:
        return wire.freed(wire.decode_freed(body, 0, end))
    return frame


@pytest.mark.parametrize(("name", "frame"), vectors.frames(), ids=lambda v: v if isinstance(v, str) else "")
def test_decoding_and_encoding_gives_the_same_bytes(name, frame):
    assert reencode(frame) == frame


@pytest.mark.parametrize("name", [name for name, *_ in vectors.messages()])
def test_messages_survive_the_trip(name):
    table, message = next((table, message) for title, _, table, message in vectors.messages() if title == name)
    decoded = control.decode(table, control.encode(table, message))
    for field, value in message.items():
        if isinstance(value, dict) and field not in ("env_vars", "custom_resources"):
            assert {k: decoded[field][k] for k in value} == value
        elif field != "leases":
            assert decoded[field] == value
    assert control.encode(table, decoded) == control.encode(table, message)


def test_unknown_message_fields_are_skipped_and_unknown_names_are_refused():
    data = control.encode(control.STATUS, {"code": 1}) + b"\xfa\x01\x03abc" + b"\xf9\x01" + bytes(8)
    assert control.decode(control.STATUS, data) == {"code": 1, "message": ""}
    with pytest.raises(KeyError):
        control.encode(control.STATUS, {"cod": 1})


def test_negative_numbers_travel_as_protobuf_writes_them():
    assert control.encode(control.STATUS, {"code": -1}).hex() == "08ffffffffffffffffff01"
    assert control.decode(control.STATUS, bytes.fromhex("08ffffffffffffffffff01"))["code"] == -1


def test_unknown_tail_fields_below_128_are_skipped_and_others_refused():
    call = wire.call(Call(vectors.A, 1, 1, 0, [], b"", b"", {}))[16:]
    known = call + b"\x02\x08\x00" + (7).to_bytes(8, "little")
    assert wire.decode_call(known + b"\x7f\x01\x00x", 0, len(known) + 4).tail == {wire.TAG_DEADLINE: 7}
    with pytest.raises(FrameError):
        wire.decode_call(known + b"\x80\x01\x00x", 0, len(known) + 4)


DECODERS = [
    wire.decode_call, wire.decode_task, wire.decode_result, wire.decode_object, wire.decode_ids, wire.decode_freed,
    wire.decode_value, wire.decode_tail,
]  # fmt: skip
TABLES = [control.HELLO, control.WELCOME, control.FUNCTION, control.CREATE, control.INSTANCE_EVENT, control.LEASE]


def test_bytes_from_outside_give_a_value_or_a_frame_error():
    rng = random.Random(7)
    bodies = [frame[16:] for _, frame in vectors.frames()]
    bodies += [control.encode(table, message) for _, _, table, message in vectors.messages()]
    for _ in range(4000):
        body = bytearray(rng.choice(bodies))
        for _ in range(rng.randrange(4)):
            if body:
                body[rng.randrange(len(body))] = rng.randrange(256)
        data = bytes(body[: rng.randrange(len(body) + 1)] if rng.random() < 0.5 else body)
        if rng.random() < 0.1:
            data = rng.randbytes(rng.randrange(200))
        for decode in DECODERS:
            try:
                decode(data, 0, len(data))
            except FrameError:
                pass
        for table in TABLES:
            try:
                control.decode(table, data)
            except FrameError:
                pass


def test_every_cut_of_a_frame_is_refused():
    values = [b"abc", vectors.PLACE, Failure(1, False, b"x")]
    whole = wire.task(Task(vectors.A, 1, 1, values, b"m", b"args", {}), 1)[16:]
    for n in range(len(whole)):
        with pytest.raises(FrameError):
            wire.decode_task(whole[:n], 0, n)


def test_limits_are_stated_in_the_error():
    head = wire.HEADER.pack(wire.MAX_BODY + 1, wire.CALL, 0, 0, 0)
    with pytest.raises(FrameError, match=str(wire.MAX_BODY)):
        wire.decode_header(head)


def test_a_place_of_the_largest_numbers_survives():
    place = Place(0xFFFFFFFF, 0xFFFFFFFF, vectors.BIG, vectors.BIG)
    body = wire.freed([place])[16:]
    assert wire.decode_freed(body, 0, len(body)) == [place]
