"""put, get, wait, cancel: what they refuse, and what they ask of the runtime."""

from __future__ import annotations

import pytest
import yr


@pytest.mark.parametrize("value", [None, b"", bytearray(), memoryview(b"")])
def test_put_refuses_nothing(runtime, value):
    with pytest.raises(yr.YRValueError, match=r"^value is None or has zero length$"):
        yr.put(value)


@pytest.mark.parametrize("value", [0, "", [], {}, b"x", False])
def test_put_takes_what_is_merely_empty(runtime, value):
    assert len(yr.put(value).id) == 20


def test_put_of_a_reference_must_be_wrapped(runtime):
    with pytest.raises(yr.YRTypeError):
        yr.put(runtime.ref())
    yr.put([runtime.ref()])


def test_create_param(runtime):
    param = yr.CreateParam()
    assert (param.consistency_type, param.cache_type) == (yr.ConsistencyType.PRAM, yr.CacheType.MEMORY)
    param.cache_type = yr.CacheType.DISK
    yr.put(1, param)
    with pytest.raises(TypeError):
        yr.put(1, "fast")
    with pytest.raises(TypeError):
        yr.CreateParam(yr.CacheType.DISK)


@pytest.mark.parametrize("timeout", [0, -2, -0.5, float("nan")])
def test_get_refuses_timeouts(runtime, timeout):
    text = "Parameter 'timeout' should be greater than 0 or equal to -1 (no timeout)"
    with pytest.raises(ValueError) as raised:
        yr.get(runtime.ref(), timeout)
    assert str(raised.value) == text and not isinstance(raised.value, yr.YRError)


@pytest.mark.parametrize("timeout, limit", [(-1, None), (300, 300), (0.5, 0.5)])
def test_get_passes_timeouts_on(runtime, timeout, limit):
    assert yr.get(runtime.ref(), timeout)[1] == limit


def test_get_keeps_the_shape(runtime):
    one, two = runtime.ref(), runtime.ref()
    assert yr.get(one)[0] == one.id
    assert [v[0] for v in yr.get([two, one], allow_partial=True)] == [two.id, one.id]
    assert yr.get([]) == [] == yr.get(())


@pytest.mark.parametrize("wrong", [lambda r: (r,), lambda r: 5, lambda r: [r, 5], lambda r: {r}, lambda r: None])
@pytest.mark.parametrize("call", [yr.get, yr.wait, yr.cancel])
def test_references_stand_alone_or_in_a_list(runtime, call, wrong):
    text = r"^obj_refs type error, actual: \[<class '.*'>\], element expect: <class 'ObjectRef'>$"
    with pytest.raises(TypeError, match=text):
        call(wrong(runtime.ref()))


def test_wait_keeps_order_and_gives_wait_num_at_most(runtime):
    refs = [runtime.ref() for _ in range(4)]
    runtime.ready = {refs[3], refs[1], refs[0]}
    assert yr.wait(refs, 2) == ([refs[0], refs[1]], [refs[2], refs[3]])
    assert yr.wait(refs) == ([refs[0], refs[1], refs[3]], [refs[2]])
    assert yr.wait(refs[0]) == ([refs[0]], [])


@pytest.mark.parametrize("keywords", [{"wait_num": 0}, {"timeout": 0}])
def test_wait_for_nothing_reports_nothing(runtime, keywords):
    refs = [runtime.ref()]
    runtime.ready = set(refs)
    assert yr.wait(refs, **keywords) == ([], refs)


@pytest.mark.parametrize(
    "keywords, error",
    [
        ({"wait_num": 1.0}, yr.YRTypeError), ({"wait_num": -1}, yr.YRValueError), ({"wait_num": 2}, yr.YRValueError),
        ({"timeout": 1.0}, yr.YRTypeError), ({"timeout": -2}, yr.YRValueError),
        ({"timeout": 0x80000000}, yr.YRValueError),
    ],
)  # fmt: skip
def test_wait_checks_its_numbers(runtime, keywords, error):
    with pytest.raises(error):
        yr.wait([runtime.ref()], **keywords)


def test_the_range_of_wait_num_is_named(runtime):
    with pytest.raises(yr.YRValueError, match=r"^invalid wait_num value, actual: 2, expect: \[0, 1\]$"):
        yr.wait([runtime.ref()], 2)


def test_wait_refuses_duplicates(runtime):
    ref = runtime.ref()
    with pytest.raises(yr.YRValueError, match=r"^obj_refs value error: duplicate obj_ref exists in the list$"):
        yr.wait([ref, ref])


def test_cancel(runtime):
    ref = runtime.ref()
    yr.cancel(ref)
    yr.cancel([ref], allow_force=False, allow_recursive=True)
    assert runtime.cancelled == [([ref], True, False), ([ref], False, True)]
    with pytest.raises(TypeError):
        yr.cancel(ref, allow_force="yes")


def test_exit_is_for_instances(runtime):
    with pytest.raises(yr.YRRuntimeError, match="outside of one"):
        yr.exit()
    runtime.assignment = {"instance_id": b"instance-00000000005"}
    yr.exit()
    assert runtime.killed == [("instance-00000000005", False)]


def test_where_this_process_is(runtime):
    from yr import apis

    assert (yr.get_node_ip_address(), apis.get_node_id()) == ("127.0.0.1", "node-1")
    assert apis.get_namespace() == "yr_defalut_namespace"
