"""InvokeOptions: fields, checks, and what reaches the wire."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest
import yr
from yr import _options
from yr.config import DebugConfig, ResourceGroupOptions


def test_fields_stand_in_the_order_of_the_interface():
    names = [f.name for f in dataclasses.fields(yr.InvokeOptions)]
    assert names[:7] == [
        "cpu", "cpu_limit", "memory", "mem_limit", "concurrency", "custom_resources", "custom_extensions",
    ]  # fmt: skip
    assert (names[16], names[23], names[32], names[37]) == ("name", "retry_times", "idle_timeout", "get_if_exists")
    assert yr.InvokeOptions(1000, 0, 1024).memory == 1024


def test_accidents_of_the_interface():
    opt = yr.InvokeOptions()
    opt.ns = "silently accepted"
    assert opt.schedule_affinities == {}
    assert (opt.preferred_priority, opt.required_priority, opt.preferred_anti_other_labels) == (True, False, False)
    with pytest.raises(TypeError):
        yr.InvokeOptions(preferred_priority=True)
    with pytest.raises(TypeError):
        yr.InvokeOptions(nonsense=1)


def test_options_copy_and_pickle():
    opt = yr.InvokeOptions(cpu=1000, env_vars={"A": "1"})
    assert copy.deepcopy(opt) == opt == pickle.loads(pickle.dumps(opt)) == dataclasses.replace(opt)


@pytest.mark.parametrize(
    "field, value",
    [
        ("env_vars", []), ("custom_resources", "x"), ("custom_extensions", 1), ("name", 1), ("namespace", b""),
        ("trace_id", 5), ("preferred_anti_other_labels", 1), ("preferred_priority", "yes"),
    ],
)  # fmt: skip
def test_wrong_types(field, value):
    opt = yr.InvokeOptions()
    setattr(opt, field, value)
    with pytest.raises(TypeError, match=f"^invalid type for '{field}', actual: .*, expect: "):
        opt.check_options_valid()
    setattr(opt, field, None)
    opt.check_options_valid()


@pytest.mark.parametrize(
    "field, good, bad",
    [
        ("retry_times", 0x7FFFFFFF, -1), ("recover_retry_times", 0, 0x80000000), ("max_instances", -1, -2),
        ("max_invoke_latency", -1, -2), ("min_instances", 0, -1), ("cpu_limit", 500, 499), ("mem_limit", 0, 1),
    ],
)  # fmt: skip
def test_ranges(field, good, bad):
    opt = yr.InvokeOptions()
    setattr(opt, field, good)
    opt.check_options_range()
    setattr(opt, field, bad)
    with pytest.raises(ValueError, match=field):
        opt.check_options_range()


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"cpu": 299}, "cpu"),
        ({"cpu": 16001}, "cpu"),
        ({"memory": 127}, "memory"),
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": 1001}, "concurrency"),
        ({"custom_extensions": {"Concurrency": "many"}}, "Concurrency"),
        ({"custom_resources": {"ssd": -1}}, "ssd"),
        ({"schedule_timeout_ms": -2}, "schedule_timeout_ms"),
        ({"instance_priority": -1}, "instance_priority"),
        ({"pod_labels": dict.fromkeys("abcdef", "")}, "pod_labels"),
    ],
)
@pytest.mark.parametrize("prefix", [_options.CALL, _options.CREATE])
def test_the_runtimes_own_ranges_are_refused_with_1001(changes, text, prefix):
    opt = yr.InvokeOptions(**changes)
    with pytest.raises(yr.YRValueError, match=f"^{prefix}, code: 1001, .*{text}") as raised:
        _options.for_function(opt) if prefix == _options.CALL else _options.for_instance(opt, False, "")
    assert raised.value.code == 1001


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"schedule_affinities": [object()]}, "schedule_affinities"),
        ({"affinity": {"a": "b"}}, "affinity"),
        ({"resource_group_options": ResourceGroupOptions("g")}, "resource_group_options"),
        ({"group_name": "g"}, "group_name"),
        ({"debug": DebugConfig(True)}, "debug"),
        ({"port_forwardings": [yr.PortForwarding(80)]}, "port_forwardings"),
        ({"runtime_env": {"pip": ["x"]}}, "runtime_env"),
        ({"runtime_env": {"working_dir": "/x"}}, "runtime_env"),
    ],
)
def test_what_cannot_be_kept_is_refused_not_ignored(changes, text):
    with pytest.raises(yr.YRValueError, match=f"code: 1001, .*{text}.* is not supported by this version"):
        _options.for_function(yr.InvokeOptions(**changes))


@pytest.mark.parametrize(
    "changes, error",
    [
        ({"port_forwardings": ["80"]}, TypeError),
        ({"port_forwardings": [yr.PortForwarding("80")]}, TypeError),
        ({"port_forwardings": [yr.PortForwarding(0)]}, ValueError),
        ({"port_forwardings": [yr.PortForwarding(80, "SCTP")]}, ValueError),
        ({"runtime_env": []}, TypeError),
        ({"runtime_env": {"nonsense": 1}}, ValueError),
        ({"runtime_env": {"pip": [], "conda": ""}}, ValueError),
        ({"runtime_env": {"env_vars": {"A": 1}}}, TypeError),
        ({"env_vars": {"A": 1}}, TypeError),
        ({"custom_resources": {"ssd": "1"}}, TypeError),
        ({"concurrency": "2"}, TypeError),
        ({"retry_times": "2"}, TypeError),
    ],
)
def test_wrong_values_have_their_builtin_class(changes, error):
    with pytest.raises(error):
        _options.for_function(yr.InvokeOptions(**changes))


def test_a_function_on_the_wire():
    opt = yr.InvokeOptions(cpu=1000, memory=1024, custom_resources={"ssd": 1}, retry_times=2, max_instances=-1)
    opt.env_vars = {"A": "call"}
    opt.runtime_env = {"env_vars": {"A": "env", "B": "env"}}
    wire = _options.for_function(opt)
    assert wire["cpu"] == 1000.0 and wire["memory"] == 1024.0
    assert wire["custom_resources"] == {"ssd": 1.0}
    assert wire["env_vars"] == {"A": "call", "B": "env"}
    assert (wire["concurrency"], wire["retry_times"], wire["max_instances"]) == (1, 2, 0)


@pytest.mark.parametrize(
    "changes, is_async, concurrency, ordered",
    [
        ({}, False, 1, True),
        ({}, True, 1000, False),
        ({"concurrency": 1}, False, 1, True),
        ({"concurrency": 2}, False, 2, False),
        ({"custom_extensions": {"Concurrency": "3"}}, False, 3, False),
        ({"concurrency": 2, "custom_extensions": {"Concurrency": "3"}}, False, 2, False),
        ({"need_order": False}, False, 1, False),
        ({"need_order": True}, True, 1000, True),
    ],
)
def test_order_and_concurrency_of_an_instance(changes, is_async, concurrency, ordered):
    wire = _options.for_instance(yr.InvokeOptions(**changes), is_async, "")
    assert (wire["concurrency"], wire["ordered"]) == (concurrency, ordered)


def test_order_excludes_concurrency():
    with pytest.raises(ValueError, match=r"^need_order=True is mutually exclusive with concurrency > 1$"):
        _options.for_instance(yr.InvokeOptions(concurrency=2, need_order=True), False, "")


def test_an_instance_on_the_wire():
    extensions = {"lifecycle": "detached", "GRACEFUL_SHUTDOWN_TIME": "5"}
    opt = yr.InvokeOptions(name="a", namespace="n", custom_extensions=extensions, recover_retry_times=3)
    wire = _options.for_instance(opt, False, "")
    assert (wire["name"], wire["namespace"], wire["detached"], wire["grace_ms"]) == ("a", "n", True, 5000)
    assert (wire["recover_retry_times"], wire["get_if_exists"]) == (3, False)


@pytest.mark.parametrize("seconds, grace", [(None, -1), ("0", 0), ("2", 2000), ("-3", -1)])
def test_grace(seconds, grace):
    extensions = {} if seconds is None else {"GRACEFUL_SHUTDOWN_TIME": seconds}
    assert _options.for_instance(yr.InvokeOptions(custom_extensions=extensions), False, "")["grace_ms"] == grace


@pytest.mark.parametrize("idle, seconds, extension", [(300, 0, "300"), (7, 7, "7"), (0, 0, "0"), (-1, 0, None)])
def test_only_an_idle_timeout_that_was_set_ends_an_instance(idle, seconds, extension):
    opt = yr.InvokeOptions(idle_timeout=idle)
    wire = _options.for_instance(opt, False, "")
    assert wire["idle_timeout_s"] == seconds
    assert opt.custom_extensions.get("idle_timeout") == extension  # written into the given dict, as upstream does


def test_a_name_with_its_namespace_has_64_bytes_at_most():
    _options.for_instance(yr.InvokeOptions(name="x" * 60, namespace="abc"), False, "")
    with pytest.raises(yr.YRValueError, match=r"code: 1001, .*65 bytes"):
        _options.for_instance(yr.InvokeOptions(name="x" * 60), False, "abcd")


def test_get_if_exists_needs_a_name():
    with pytest.raises(ValueError, match=r"The actor name must be specified to use `get_if_exists`."):
        _options.for_instance(yr.InvokeOptions(get_if_exists=True), False, "")


@pytest.mark.parametrize(
    "change",
    [
        lambda opt: setattr(opt, "cpu", 1000),
        lambda opt: opt.custom_resources.update(ssd=1),
        lambda opt: opt.env_vars.update(A="1"),
        lambda opt: opt.labels.append("a"),
        lambda opt: opt.runtime_env.setdefault("env_vars", {}).update(A="1"),
    ],
)
def test_every_change_of_options_is_seen(change):
    opt = yr.InvokeOptions()
    before = _options.reading(opt)
    assert _options.reading(opt) == before
    change(opt)
    assert (opt._edition, _options.contents(opt)) != before
