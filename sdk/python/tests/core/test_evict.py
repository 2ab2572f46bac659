"""Objects that leave memory: what a process agrees to, and what it finds afterwards."""

from __future__ import annotations

import gc
import os
import threading

import pytest
from yr._core import serialization, shm, wire
from yr._core.references import AWAY, Objects, view_ended
from yr._core.serialization import Serialized
from yr._core.wire import Failure, Place
from yr.exception import YRRuntimeError

FOREIGN = [b"foreign00%011x" % k for k in range(10)]
BIG = b"0123456789abcdef" * 20_000


def evict(agent, peer, *ids):
    """Ask for objects to leave; return those that the process agreed to."""
    corr = 1 + len(peer.of(wire.EVICTED))
    peer.send(wire.ids_frame(wire.EVICT, list(ids), corr))
    answers = agent.until(lambda: [(c, b) for kind, _, c, b in peer.frames if kind == wire.EVICTED and c == corr])
    [(_, body)] = answers
    return wire.decode_ids(body, 0, len(body))


def put_elsewhere(agent, value):
    """Put a value into a new segment, as an agent does that brings it back; return its place."""
    encoded = serialization.encode(value)
    data = encoded.to_bytes() if isinstance(encoded, Serialized) else encoded
    number = agent.segment(len(data) + 4096)
    os.pwrite(agent.segments[number], data, 64)
    return Place(number, 1, 64, len(data))


def place_of(peer, ref):
    for body in peer.of(wire.PUT):
        id, value, _ = wire.decode_object(body, 0, len(body))
        if id == ref._id:
            return value
    return None


def asked_for(peer, ref):
    return [b for b in peer.of(wire.GET) if ref._id in wire.decode_ids(b, 0, len(b))]


def test_the_hello_says_that_evict_is_answered(peer):
    assert peer.hello["evicts"] is True


def test_an_object_that_nobody_looks_at_may_go_and_is_asked_for_again(runtime, peer, agent):
    ref = runtime.put(BIG)
    runtime.session.flush()
    place = agent.until(lambda: place_of(peer, ref))
    assert evict(agent, peer, ref._id) == [ref._id]
    assert runtime.is_ready(ref)
    assert runtime.wait([ref], 1, 0) == [True]
    assert not asked_for(peer, ref), "waiting brings nothing into memory"
    peer.send(wire.freed([place]))
    other = runtime.put(b"x" * len(BIG))  # lies where the first one did
    got = []
    getter = threading.Thread(target=lambda: got.extend(runtime.get([ref], 10)))
    getter.start()
    agent.until(lambda: asked_for(peer, ref))
    peer.send(wire.object_frame(ref._id, put_elsewhere(agent, BIG)))
    getter.join(10)
    assert got == [BIG]
    assert runtime.get([other], 1) == [b"x" * len(BIG)]


def test_an_object_with_a_view_stays(runtime, peer, agent):
    np = pytest.importorskip("numpy")
    plain, array = runtime.put(BIG), runtime.put({"x": np.arange(100_000)})
    runtime.session.flush()
    agent.until(lambda: place_of(peer, array))
    view, x = runtime.get([plain], 1)[0][100:200], runtime.get([array], 1)[0]["x"]
    assert evict(agent, peer, plain._id, array._id) == []
    assert view == BIG[100:200]
    del view
    gc.collect()
    assert evict(agent, peer, plain._id, array._id) == [plain._id]
    assert x[99_999] == 99_999
    del x
    gc.collect()
    assert evict(agent, peer, plain._id, array._id) == [plain._id, array._id]


def test_two_views_are_two(runtime, peer, agent):
    ref = runtime.put(BIG)
    runtime.session.flush()
    agent.until(lambda: place_of(peer, ref))
    a, b = (runtime.get([ref], 1)[0] for _ in range(2))
    del a
    gc.collect()
    assert evict(agent, peer, ref._id) == []
    del b
    gc.collect()
    assert evict(agent, peer, ref._id) == [ref._id]


def test_an_argument_of_a_task_stays_while_it_is_looked_at(runtime, peer, agent):
    place = put_elsewhere(agent, BIG)
    view = runtime.view(FOREIGN[0], place)
    assert evict(agent, peer, FOREIGN[0]) == []
    del view
    gc.collect()
    assert evict(agent, peer, FOREIGN[0], FOREIGN[1]) == [FOREIGN[0], FOREIGN[1]]


def test_what_left_between_two_looks_is_not_read():
    """The place was taken from the table; before it is mapped the object leaves."""
    objects = Objects()
    place = Place(1, 1, 0, 100)
    objects.values[FOREIGN[0]] = place
    assert objects.evict(FOREIGN[:2]) == FOREIGN[:2]
    assert objects.values == {FOREIGN[0]: AWAY}
    assert objects.open_view(FOREIGN[0], place) is None
    objects.values[FOREIGN[0]] = again = Place(1, 1, 0, 100)  # equal, but another stay
    assert objects.open_view(FOREIGN[0], place) is None
    assert objects.open_view(FOREIGN[0], again) is False
    assert objects.evict(FOREIGN[:1]) == []
    view_ended(FOREIGN[0])
    assert objects.evict(FOREIGN[:1]) == FOREIGN[:1]


def test_get_asks_again_for_what_left_while_it_looked(runtime, peer, agent, monkeypatch):
    ref = runtime.put(BIG)
    runtime.session.flush()
    agent.until(lambda: place_of(peer, ref))
    open_view, times = runtime._objects.open_view, []

    def late(id, place):
        if not times:
            assert runtime._objects.evict([id]) == [id]
        times.append(id)
        return open_view(id, place)

    monkeypatch.setattr(runtime._objects, "open_view", late)
    got = []
    getter = threading.Thread(target=lambda: got.extend(runtime.get([ref], 10)))
    getter.start()
    agent.until(lambda: asked_for(peer, ref))
    peer.send(wire.object_frame(ref._id, put_elsewhere(agent, BIG)))
    getter.join(10)
    assert got == [BIG]
    assert len(times) == 2


def test_an_object_that_was_lost_on_its_way_raises(runtime, peer, agent):
    ref = runtime.put(BIG)
    runtime.session.flush()
    agent.until(lambda: place_of(peer, ref))
    assert evict(agent, peer, ref._id) == [ref._id]
    errors = []

    def get():
        with pytest.raises(YRRuntimeError, match=r"4203.*its sum is wrong") as e:
            runtime.get([ref], 10)
        errors.append(e)

    getter = threading.Thread(target=get)
    getter.start()
    agent.until(lambda: asked_for(peer, ref))
    peer.send(wire.object_frame(ref._id, Failure(4203, False, b"its sum is wrong")))
    getter.join(10)
    assert len(errors) == 1


def test_no_room_to_read_it_is_not_for_ever(runtime, peer, agent):
    ref = runtime.put(BIG)
    runtime.session.flush()
    agent.until(lambda: place_of(peer, ref))
    assert evict(agent, peer, ref._id) == [ref._id]
    runtime._ask_for([ref._id], AWAY)
    runtime.session.flush()
    agent.until(lambda: asked_for(peer, ref))
    peer.send(wire.object_frame(ref._id, Failure(4202, False, b"no room")))
    with pytest.raises(YRRuntimeError, match=r"4202.*no room"):
        runtime.get([ref], 10)
    got = []
    getter = threading.Thread(target=lambda: got.extend(runtime.get([ref], 10)))
    getter.start()
    agent.until(lambda: len(asked_for(peer, ref)) == 2)
    peer.send(wire.object_frame(ref._id, put_elsewhere(agent, BIG)))
    getter.join(10)
    assert got == [BIG]


def test_a_get_of_what_is_away_ends_in_time(runtime, peer, agent):
    ref = runtime.put(BIG)
    runtime.session.flush()
    agent.until(lambda: place_of(peer, ref))
    assert evict(agent, peer, ref._id) == [ref._id]
    with pytest.raises(TimeoutError, match="4005"):
        runtime.get([ref], 0.05)


def test_releases_of_what_is_away_are_said(runtime, peer, agent):
    ref = runtime.put(BIG)
    runtime.session.flush()
    id = ref._id
    agent.until(lambda: peer.of(wire.PUT))
    assert evict(agent, peer, id) == [id]
    del ref
    gc.collect()
    runtime.session.flush()
    agent.until(lambda: [b for b in peer.of(wire.RELEASE) if id in wire.decode_ids(b, 0, len(b))])
    assert id not in runtime.session.objects.values


def test_memory_that_is_short_goes_back_as_soon_as_it_is_free(runtime, peer, agent):
    ref = runtime.put(b"x" * 2_000_000)
    runtime.session.flush()
    place = agent.until(lambda: place_of(peer, ref))
    assert evict(agent, peer, ref._id) == [ref._id]
    peer.send(wire.freed([place]))
    returned = agent.until(lambda: peer.of(wire.RETURN))
    assert [wire.RETURN_FIELDS.unpack(b) for b in returned] == [(place.segment, 1)]


def test_a_put_that_waits_for_room_takes_what_becomes_free_in_its_own_slabs(runtime, peer, agent):
    first = runtime.put(b"x" * 500_000)
    second = runtime.put(b"y" * 500_000)  # the first slab of 1 MiB holds no third one
    runtime.session.flush()
    place = agent.until(lambda: place_of(peer, first))
    agent.full = True
    got = []
    putter = threading.Thread(target=lambda: got.append(runtime.put(b"z" * 500_000)))
    putter.start()
    agent.until(lambda: peer.of(wire.LEASE))
    peer.send(wire.freed([place]))
    putter.join(10)
    assert len(got) == 1
    runtime.session.flush()
    assert agent.until(lambda: place_of(peer, got[0]))[:3] == place[:3]
    assert runtime.get([second], 1) == [b"y" * 500_000]


def test_patience_with_a_full_store_begins_anew_each_time(runtime, agent, monkeypatch):
    monkeypatch.setattr(shm, "FULL_PATIENCE", 0.05)
    agent.full = True
    for _ in range(2):
        with pytest.raises(YRRuntimeError, match="4202"):
            runtime.put(BIG)
    agent.full = False
    assert runtime.get([runtime.put(BIG)], 1) == [BIG]


def test_what_had_not_left_is_said_to_a_daemon_that_comes_back(runtime, peer, agent):
    left, leaving, wanted = (runtime.put(c * 300_000) for c in (b"l", b"m", b"w"))
    runtime.session.flush()
    ids = [ref._id for ref in (left, leaving, wanted)]
    places = [agent.until(lambda ref=ref: place_of(peer, ref)) for ref in (left, leaving, wanted)]
    assert evict(agent, peer, *ids) == ids
    peer.send(wire.freed(places[:1]))
    got = []
    getter = threading.Thread(target=lambda: got.extend(runtime.get([wanted], 10)))
    getter.start()
    agent.until(lambda: asked_for(peer, wanted))
    agent.crash()
    again = agent.until(lambda: len(agent.peers) == 2 and agent.peers[1])
    agent.until(lambda: again.of(wire.ANNOUNCED))
    said = {id: value for id, value, _ in (wire.decode_object(b, 0, len(b)) for b in again.of(wire.PUT))}
    assert said == dict(zip(ids[1:], places[1:]))
    retained = [i for b in again.of(wire.RETAIN) for i in wire.decode_ids(b, 0, len(b))]
    assert retained == ids[:1]
    assert asked_for(again, wanted)
    assert not asked_for(again, leaving)
    again.send(wire.object_frame(wanted._id, places[2]))
    getter.join(10)
    assert got == [b"w" * 300_000]
