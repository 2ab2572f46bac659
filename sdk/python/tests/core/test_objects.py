"""Objects: what puts, gets and references tell the agent, and what lies in shared memory."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import threading

import pytest
from yr._core import control, memory, references, serialization, shm, wire
from yr._core.runtime import Code
from yr._core.serialization import Serialized
from yr._core.wire import Failure, Place
from yr.exception import YRRuntimeError
from yr.object_ref import ObjectRef

CODE = Code(b"c" * 20, "m.f", b"blob")
FOREIGN = [b"foreign00%011x" % k for k in range(10)]


def ids_in(peer, kind):
    return [i for body in peer.of(kind) for i in wire.decode_ids(body, 0, len(body))]


def puts_in(peer):
    return [wire.decode_object(body, 0, len(body)) for body in peer.of(wire.PUT)]


def places_in(peer):
    return [value for _, value, _ in puts_in(peer) if isinstance(value, Place)]


def settle(runtime):
    gc.collect()
    runtime.session.flush()


# ---- put and get


def test_small_objects_travel_inline(runtime, peer, agent):
    ref = runtime.put({"a": [1]})
    settle(runtime)
    [(id, value, contains)] = agent.until(lambda: puts_in(peer))
    assert (id, contains) == (ref._id, [])
    assert serialization.decode(value) == {"a": [1]}


def test_each_get_of_an_own_object_is_a_fresh_one(runtime):
    ref = runtime.put([1])
    first = runtime.get([ref], 1)[0]
    first.append(2)
    assert runtime.get([ref], 1) == [[1]]


def test_large_objects_are_written_to_shared_memory_and_read_as_a_view(runtime, peer, agent):
    data = os.urandom(3_000_000)
    ref = runtime.put(data)
    settle(runtime)
    [place] = agent.until(lambda: places_in(peer))
    stored = os.pread(agent.segments[place.segment], place.length, place.offset)
    assert serialization.decode(stored) == data
    view = runtime.get([ref], 1)[0]
    assert isinstance(view, memoryview)
    assert view.readonly
    assert view == data


def test_numpy_comes_back_without_a_copy(runtime):
    np = pytest.importorskip("numpy")
    array = np.arange(100_000, dtype=np.float64)
    ref = runtime.put({"x": array})
    a, b = (runtime.get([ref], 1)[0]["x"] for _ in range(2))
    assert (a == array).all()
    assert not a.flags.writeable
    assert a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
    assert a.__array_interface__["data"][0] % 64 == 0


def test_inline_objects_are_bounded_by_their_budget(agent, connect):
    agent.put_budget = 10_000
    runtime = connect()
    peer = agent.until(lambda: agent.peers)[0]
    refs = [runtime.put(b"x" * 1000) for _ in range(30)]
    settle(runtime)
    agent.until(lambda: len(puts_in(peer)) == 30)
    assert 0 < len(places_in(peer)) < 30
    assert runtime.session.objects.inline_bytes <= 10_000
    assert all(v == b"x" * 1000 for v in runtime.get(refs, 1))
    del refs
    settle(runtime)
    assert runtime.session.objects.inline_bytes == 0


def test_a_full_store_is_an_error_of_the_caller(runtime, agent, monkeypatch):
    monkeypatch.setattr(shm, "FULL_PATIENCE", 0.1)
    agent.full = True
    with pytest.raises(YRRuntimeError, match=r"failed to put object, code: 4202.*no room for 1 MiB"):
        runtime.put(b"x" * 100_000)
    number = runtime.define(CODE, {})
    with pytest.raises(YRRuntimeError, match="4202"):
        runtime.invoke(number, (b"x" * 100_000,), {})
    agent.full = False
    assert len(runtime.get([runtime.put(b"x" * 100_000)], 1)[0]) == 100_000


def test_memory_that_is_freed_is_used_again(runtime, peer, agent):
    arena = runtime._memory._arena
    for _ in range(20):
        runtime.put(b"x" * 500_000)
        settle(runtime)
        agent.until(lambda: puts_in(peer) and len(ids_in(peer, wire.RELEASE)) == len(puts_in(peer)))
        peer.send(wire.freed(places_in(peer)[-1:]))
        agent.until(lambda: runtime.session.poll() or not any(s.live for s in arena.slabs.values()))
    assert len(agent.segments) == 1


def test_reclaim_gives_back_what_is_empty(runtime, peer, agent):
    kept = runtime.put(b"x" * 100_000)
    gone = runtime.put(b"y" * 2_000_000)
    settle(runtime)
    place = agent.until(lambda: [p for p in places_in(peer) if p.length > 1_000_000])[0]
    del gone
    settle(runtime)
    peer.send(wire.freed([place]), wire.frame(wire.RECLAIM))
    returned = agent.until(lambda: peer.of(wire.RETURN))
    assert [wire.RETURN_FIELDS.unpack(b) for b in returned] == [(place.segment, 1)]
    assert len(runtime.get([kept], 1)[0]) == 100_000


# ---- references


def test_references_compare_by_identifier_and_copy_to_themselves(runtime):
    ref = runtime.put(1)
    assert ref == ObjectRef(ref._id)
    assert len({ref, ObjectRef(ref._id)}) == 1
    assert copy.copy(ref) is copy.deepcopy(ref) is ref
    assert str(ref) == ref.id == ref.task_id
    assert len(ref.id) == 20


def test_the_last_reference_releases_the_object(runtime, peer, agent):
    refs = [runtime.put(1)]
    id = refs[0]._id
    refs.append(pickle.loads(pickle.dumps(refs[0])))
    refs.pop()
    settle(runtime)
    assert id in runtime.session.objects.values
    refs.pop()
    settle(runtime)
    agent.until(lambda: ids_in(peer, wire.RELEASE) == [id])
    assert ids_in(peer, wire.RETAIN) == []


def test_an_object_that_holds_references_says_so(runtime, peer, agent):
    inner = [runtime.put(k) for k in range(3)]
    outer = runtime.put({"refs": inner, "again": inner[0]})
    settle(runtime)
    contains = agent.until(lambda: {id: c for id, _, c in puts_in(peer)}.get(outer._id))
    assert contains == [r._id for r in inner]
    back = runtime.get([outer], 1)[0]
    assert back["refs"] == inner
    assert runtime.get(back["refs"], 1) == [0, 1, 2]


def test_a_reference_from_elsewhere_is_retained_asked_for_and_released(runtime, peer, agent):
    runtime.adopt(FOREIGN[0])
    ref = ObjectRef(FOREIGN[0])
    got = []
    t = threading.Thread(target=lambda refs: got.extend(runtime.get(refs, 10)), args=([ref],))
    t.start()
    agent.until(lambda: ids_in(peer, wire.GET) == [FOREIGN[0]])
    assert ids_in(peer, wire.RETAIN) == [FOREIGN[0]]
    peer.send(wire.object_frame(FOREIGN[0], serialization.encode(42)))
    t.join(5)
    assert got == [42]
    assert runtime.get([ref], 1) == [42], "no second GET"
    del ref, t
    settle(runtime)
    agent.until(lambda: ids_in(peer, wire.RELEASE) == [FOREIGN[0]])
    assert ids_in(peer, wire.GET) == [FOREIGN[0]]


def test_a_failed_object_raises_each_time(runtime, peer):
    runtime.adopt(FOREIGN[0])
    ref = ObjectRef(FOREIGN[0])
    peer.send(wire.object_frame(FOREIGN[0], Failure(4299, False, b"gone")))
    errors = []
    for _ in range(2):
        with pytest.raises(YRRuntimeError, match=r"4299.*gone") as e:
            runtime.get([ref], 5)
        errors.append(e.value)
    assert errors[0] is not errors[1]


def test_a_reference_of_an_earlier_session_is_an_error(runtime):
    with pytest.raises(YRRuntimeError, match=r"4299.*earlier session"):
        runtime.get([ObjectRef(b"earlier000000000000a")], 1)


def segment_with(agent, value):
    """Put a value into a segment that another session owns; return its place."""
    encoded = serialization.encode(value)
    data = encoded.to_bytes() if isinstance(encoded, Serialized) else encoded
    number = agent.segment(len(data) + 4096)
    os.pwrite(agent.segments[number], data, 128)
    return Place(number, 1, 128, len(data))


def test_a_view_keeps_its_object_alive(runtime, peer, agent):
    """The reference is dropped, the bytes are not: the agent must not reuse them."""
    runtime.adopt(FOREIGN[0])
    ref = ObjectRef(FOREIGN[0])
    peer.send(wire.object_frame(FOREIGN[0], segment_with(agent, b"z" * 50_000)))
    view = runtime.get([ref], 5)[0]
    part = view[10:20]
    del ref, view
    settle(runtime)
    assert ids_in(peer, wire.RELEASE) == []
    assert part == b"z" * 10
    del part
    settle(runtime)
    agent.until(lambda: ids_in(peer, wire.RELEASE) == [FOREIGN[0]])


def test_views_outlive_the_session(runtime, peer, agent):
    runtime.adopt(FOREIGN[0])
    ref = ObjectRef(FOREIGN[0])
    peer.send(wire.object_frame(FOREIGN[0], segment_with(agent, b"z" * 50_000)))
    view = runtime.get([ref], 5)[0]
    own = runtime.get([runtime.put(b"o" * 50_000)], 5)[0]
    runtime.close()
    assert bytes(view) == b"z" * 50_000
    assert bytes(own) == b"o" * 50_000


def test_shared_memory_cannot_be_written_through_a_view(runtime, peer, agent):
    runtime.adopt(FOREIGN[0])
    ref = ObjectRef(FOREIGN[0])
    peer.send(wire.object_frame(FOREIGN[0], segment_with(agent, b"z" * 50_000)))
    view = runtime.get([ref], 5)[0]
    with pytest.raises(TypeError, match="read-only"):
        view[0] = 1


def test_a_place_outside_its_segment_is_an_error(runtime, peer, agent):
    runtime.adopt(FOREIGN[0])
    place = segment_with(agent, b"z" * 50_000)
    peer.send(wire.object_frame(FOREIGN[0], place._replace(length=1 << 40)))
    with pytest.raises(ValueError, match="outside a segment"):
        runtime.get([ObjectRef(FOREIGN[0])], 5)


def test_references_may_die_inside_a_critical_section(runtime):
    """A garbage collection may run while the table's lock is held, in the same thread."""
    objects = runtime.session.objects
    ref = runtime.put(1)
    with objects.lock:
        del ref
    settle(runtime)
    assert len(objects.values) == 0


def test_values_set_in_this_process(runtime, agent):
    agent.on_call = lambda peer, call: None
    ref = runtime.invoke(runtime.define(CODE, {}), (), {})
    ref.set_data({"mine": 1})
    assert runtime.get([ref], 1) == [{"mine": 1}]
    ref.set_exception(KeyError("mine"))
    with pytest.raises(KeyError):
        runtime.get([ref], 1)


# ---- arguments


def test_arguments_name_what_they_depend_on(runtime, agent):
    calls = []
    agent.on_call = lambda peer, call: calls.append(call) or wire.result(call.id, [(serialization.NONE, [])])
    number = runtime.define(CODE, {})
    by_value, nested = runtime.put(1), runtime.put(2)
    runtime.get([runtime.invoke(number, (by_value, [nested]), {"k": by_value})], 5)
    assert calls[0].deps == [by_value._id, by_value._id, nested._id]
    assert calls[0].nvals == 2


def test_large_arguments_travel_as_an_object_that_lives_as_long_as_the_call(runtime, peer, agent):
    calls = []
    agent.on_call = lambda peer, call: calls.append(call)
    number = runtime.define(CODE, {})
    ref = runtime.invoke(number, ("x" * 200_000,), {})
    settle(runtime)
    [call] = agent.until(lambda: calls)
    assert call.args == b""
    assert call.nvals == len(call.deps) == 1
    [(id, place, _)] = [p for p in puts_in(peer) if isinstance(p[1], Place)]
    assert call.deps == [id]
    assert not ids_in(peer, wire.RELEASE)  # a restarted agent would have to be told of it again
    peer.send(wire.result(call.id, [(serialization.NONE, [])]))
    settle(runtime)
    agent.until(lambda: ids_in(peer, wire.RELEASE) == [id])
    order = [kind for kind, _, _, _ in peer.frames if kind in (wire.PUT, wire.CALL, wire.RELEASE)]
    assert order == [wire.PUT, wire.CALL, wire.RELEASE]
    data = os.pread(agent.segments[place.segment], place.length, place.offset)
    assert serialization.decode_args(data, True, lambda ids: [])[0] == ("x" * 200_000,)
    del ref


def test_instances_are_made_bound_and_awaited(runtime, peer, agent):
    number, instance = runtime.create(CODE, (1,), {}, {"cpu": 1.0}, b"descriptor")
    create = control.decode(control.CREATE, agent.until(lambda: peer.of(wire.CREATE))[0])
    assert (create["number"], create["instance_id"].decode()) == (number, instance)
    assert create["descriptor"] == b"descriptor"
    assert runtime.bind(instance) == number
    event = {"instance_id": instance.encode(), "state": 3, "bound_to": FOREIGN[1]}
    peer.send(wire.frame(wire.INSTANCE, control.encode(control.INSTANCE_EVENT, event)))
    assert runtime.instance_ready(instance, 5) == FOREIGN[1].decode()
    status = {"code": 1006, "message": "no node can ever hold ssd=5"}
    failed = {"instance_id": FOREIGN[2], "state": 7, "status": status}
    other = runtime.bind(FOREIGN[2].decode())
    assert other != number
    peer.send(wire.frame(wire.INSTANCE, control.encode(control.INSTANCE_EVENT, failed)))
    with pytest.raises(Exception, match=r"1006.*ssd=5"):
        runtime.instance_ready(FOREIGN[2].decode(), 5)


# ---- the allocator


class FakeNode:
    """Leases segments of its own."""

    def __init__(self):
        self.returned = []
        self.count = 0

    def lease(self, size, wish):
        self.count += 1
        fd = os.memfd_create("t")
        os.ftruncate(fd, max(size, wish))
        return self.count, 1, max(size, wish), fd

    def give_back(self, segment, generation):
        self.returned.append(segment)


@pytest.fixture
def node():
    return FakeNode()


@pytest.fixture
def arena(node):
    a = memory.Arena(node.lease, node.give_back)
    yield a
    a.close()


def test_blobs_never_overlap_and_are_aligned(arena):
    import random

    rng = random.Random(5)
    live = {}
    for step in range(3000):
        if live and rng.random() < 0.45:
            place = rng.choice(list(live))
            del live[place]
            arena.free([place])
            continue
        size = rng.choice([70, 1000, 5000, 65_536, 300_000])
        data = bytes([step % 256]) * size
        place = arena.write(Serialized([(0, data)], size, []))
        assert place.offset % 64 == 0
        for other in live:
            if other.segment == place.segment:
                assert place.offset + place.length <= other.offset or other.offset + other.length <= place.offset
        live[place] = data
        if len(live) > 40:
            live.pop(next(iter(live)))
    for place, data in live.items():
        mapping = arena.mapping_of(place)
        assert bytes(mapping.array(place.offset, place.length)) == data


def test_freed_space_is_found_again(arena, node):
    kept = arena.write(Serialized([(0, b"k" * 1000)], 1000, []))
    for _ in range(5000):
        arena.free([arena.write(Serialized([(0, b"x" * 50_000)], 50_000, []))])
    assert node.count == 1
    assert arena.mapping_of(kept) is not None


def test_memory_is_given_back_after_a_peak(arena, node, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(memory.time, "monotonic", lambda: clock[0])
    places = [arena.write(Serialized([(0, b"x" * 3_000_000)], 3_000_000, [])) for _ in range(5)]
    arena.free(places)
    arena.trim()
    assert node.returned == []
    clock[0] += memory.SPARE_SECONDS + 1
    arena.trim()
    assert sorted(node.returned) == [1, 2, 3, 4, 5]


def test_dropping_a_pin_takes_no_lock(tmp_path):
    fd = os.memfd_create("t")
    os.ftruncate(fd, 4096)
    mapping = memory.Mapping(fd, 4096, False)
    os.close(fd)
    released = []
    view = memory.pinned_view(mapping, 0, 100, lambda: released.append(1))
    part = view[5:9]
    del view
    assert not released
    del part
    assert released == [1]
    assert not memory._pins
    references.dropped.clear()
