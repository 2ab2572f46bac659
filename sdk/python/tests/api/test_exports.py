"""import yr: lazy, complete, and honest about what is missing."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import yr


def test_importing_does_no_work():
    program = (
        "import sys, threading, yr\n"
        "loaded = sorted(m for m in sys.modules if m == 'yr' or m.startswith('yr.'))\n"
        "assert loaded == ['yr'], loaded\n"
        "assert 'cloudpickle' not in sys.modules and threading.active_count() == 1\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


@pytest.mark.parametrize("name", sorted(yr._LAZY_EXPORTS))
def test_every_name_resolves_and_stays(name):
    value = getattr(yr, name)
    assert vars(yr)[name] is value


@pytest.mark.parametrize("name", sorted(yr._LAZY_EXPORTS))
def test_every_public_object_is_documented(name):
    assert getattr(yr, name).__doc__


@pytest.mark.parametrize("name", ["kv_write", "create_stream_producer", "ObjectRef", "ErrorCode", "no_such_name"])
def test_what_is_missing_raises_attribute_error(name):
    with pytest.raises(AttributeError, match=f"^module 'yr' has no attribute '{name}'$"):
        getattr(yr, name)


def test_star_gives_all_but_what_upstream_leaves_out():
    namespace: dict = {}
    exec("from yr import *", namespace)
    assert {"init", "invoke", "InvokeOptions", "YRError", "cluster_mode_runtime"} <= namespace.keys()
    assert "runtime_holder" not in namespace


def test_first_use_from_many_threads_yields_one_object():
    program = (
        "import threading, yr\n"
        "names = ['InvokeOptions', 'get', 'YRError', 'Config']\n"
        "seen = []\n"
        "start = threading.Barrier(16)\n"
        "def use(name):\n"
        "    start.wait()\n"
        "    seen.append((name, id(getattr(yr, name))))\n"
        "threads = [threading.Thread(target=use, args=(names[i % 4],)) for i in range(16)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "assert len(seen) == 16 and len(set(seen)) == 4, seen\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


def test_aliases_are_the_same_classes():
    assert yr.StatelessFunction is yr.FunctionProxy
    assert yr.StatefulInstanceCreator is yr.InstanceCreator
    assert yr.StatefulInstance is yr.InstanceProxy


GUARDED = [
    lambda: yr.put(1),
    lambda: yr.get([]),
    lambda: yr.wait([]),
    lambda: yr.cancel([]),
    yr.exit,
    lambda: yr.kill_instance("x"),
    yr.get_node_ip_address,
]


@pytest.mark.parametrize("call", GUARDED)
def test_before_init_calls_say_so(call):
    with pytest.raises(yr.YRRuntimeError, match=r"^system not initialized$"):
        call()


def test_get_instance_before_init_wraps_the_text_of_invoke():
    with pytest.raises(
        RuntimeError, match="failed to get instance: yr_defalut_namespace-a by name, runtime not enable"
    ):
        yr.get_instance("a")


def test_lifecycle_without_init_is_silent():
    assert not yr.is_initialized()
    yr.finalize()
    assert threading.active_count() >= 1
