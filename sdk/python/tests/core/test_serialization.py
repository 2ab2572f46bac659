"""What a value becomes on the way: the layout, what is kept exactly, what refuses."""

from __future__ import annotations

import collections
import random
import subprocess
import sys
import threading

import pytest
from yr._core import serialization
from yr._core.serialization import Serialized, decode, encode

VALUES = [
    None, True, 0, -1, 1 << 200, 1.5, float("inf"), "", "é\ud7ff", b"in a list", [], [1, [2, b"x"]], {},
    {(): 1, "k": {2}}, (), (1,), {1, 2},
    collections.OrderedDict(a=1), collections.deque([1]), int, type, len, ValueError, ...,
]  # fmt: skip


def to_bytes(encoded):
    return encoded.to_bytes() if isinstance(encoded, Serialized) else encoded


def round_trip(value):
    return decode(to_bytes(encode(value)))


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_come_back_exactly(value):
    if isinstance(value, bytes):
        value = [value]
    back = round_trip(value)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize("size", [1, 100, 2047, 2048, 100_000])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_come_back_as_a_read_only_memoryview(kind, size):
    data = random.Random(1).randbytes(size)
    back = round_trip(kind(data))
    assert isinstance(back, memoryview)
    assert back.readonly
    assert back == data


def test_raw_bytes_are_aligned_from_2048_on():
    assert encode(b"x" * 2047)[16:17] == b"x"
    assert to_bytes(encode(b"x" * 2048))[64:65] == b"x"
    assert len(to_bytes(encode(b"x" * 2048))) == 64 + 2048


def test_a_memoryview_of_another_format_travels_as_its_bytes():
    import array

    assert round_trip(memoryview(array.array("I", [1, 2]))) == array.array("I", [1, 2]).tobytes()
    assert round_trip(memoryview(b"abcdef")[::2]) == b"ace"


def test_default_dicts_with_lambdas_and_local_classes():
    d = collections.defaultdict(lambda: 7)
    assert round_trip(d)["missing"] == 7

    class Local:
        def __init__(self):
            self.x = [1]

    assert round_trip(Local()).x == [1]


def test_numpy_arrays_are_views_into_the_value():
    np = pytest.importorskip("numpy")
    a = np.arange(1000, dtype=np.float64).reshape(10, 100)
    encoded = to_bytes(encode({"a": a, "b": a[::2].T}))
    back = decode(encoded)
    assert (back["a"] == a).all()
    assert (back["b"] == a[::2].T).all()
    assert not back["a"].flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        back["a"][0, 0] = 1
    base = np.frombuffer(encoded, dtype=np.uint8)
    start = back["a"].__array_interface__["data"][0] - base.__array_interface__["data"][0]
    assert 0 < start < len(encoded)
    assert start % 64 == 0, "buffers start at multiples of 64 in the value"


def test_what_cannot_be_pickled_raises_the_pickling_error():
    with pytest.raises(TypeError, match="lock"):
        encode([threading.Lock()])


def test_functions_of_main_travel_by_value_wherever_they_hide():
    """Another process, whose __main__ has none of this, can call them."""
    code = (
        "from yr._core import serialization as s\n"
        "def helper(x): return x + 1\n"
        "class Thing:\n"
        "    def twice(self, x): return helper(helper(x))\n"
        "e = s.encode({'deep': [(helper, Thing())]})\n"
        "print(e.to_bytes().hex())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    encoded = bytes.fromhex(done.stdout)
    helper, thing = decode(encoded)["deep"][0]
    assert helper(1) == 2
    assert thing.twice(1) == 3


def test_arguments_and_their_references():
    from yr.object_ref import ObjectRef

    a, b = ObjectRef(b"a" * 12 + b"00000001"), ObjectRef(b"a" * 12 + b"00000002")
    packed, deps, contains = serialization.encode_args((1, a, [b]), {"k": b}, lambda v: isinstance(v, ObjectRef))
    assert deps == [a._id, b._id]
    assert contains == [b._id]
    asked = []

    def fill(ids):
        asked.extend(ids)
        return ["value of a", "value of b"]

    args, kwargs = serialization.decode_args(packed.to_bytes(), False, fill)
    assert args == (1, "value of a", [b])
    assert kwargs == {"k": "value of b"}
    assert asked == deps


def test_arguments_in_an_object_name_it():
    np = pytest.importorskip("numpy")
    array = np.arange(10)
    packed, _, _ = serialization.encode_args(("x" * 100_000, array), {}, lambda v: False)
    id = b"i" * 20
    data = serialization.name_blob(packed, id).to_bytes()
    assert serialization.blob_id(data) == id
    args, kwargs = serialization.decode_args(data, True, lambda ids: [])
    assert args[0] == "x" * 100_000
    assert (args[1] == array).all()
    assert kwargs == {}


def test_broken_values_raise_and_never_crash():
    rng = random.Random(3)
    seeds = [to_bytes(encode(v)) for v in ([1, "a"], b"x" * 100, b"y" * 3000)]
    for _ in range(3000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(16)] = rng.randrange(256)  # the header: pickles themselves are trusted
        data = bytes(data[: rng.randrange(len(data) + 1)])
        try:
            decode(data)
        except Exception as e:
            assert not isinstance(e, (MemoryError, SystemError))
