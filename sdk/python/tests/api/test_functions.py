"""@yr.invoke and FunctionProxy, up to the runtime."""

from __future__ import annotations

import inspect
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import cloudpickle
import pytest
import yr
from yr import _code
from yr._core import runtime as core
from yr.runtime_holder import global_runtime


@yr.invoke
def add(a, b=2, *, scale=1):
    """Adds."""
    return (a + b) * scale


@yr.invoke
def again(n):
    return n and again.invoke(n - 1)


def plain(*items, **named):
    return items, named


def test_decorating_needs_a_function():
    for target in (len, int, 5, "f", add):
        with pytest.raises(RuntimeError, match=r"^@yr.invoke decorator must be applied to a function$"):
            yr.invoke(target)


def test_unknown_keywords_vanish():
    proxy = yr.invoke(num_cpus=0.1, idle_timeout=5)(plain)
    assert isinstance(proxy, yr.FunctionProxy)


def test_a_decorated_function_cannot_be_called():
    with pytest.raises(RuntimeError, match=r"^invoke function cannot be called directly$"):
        add(1)


def test_the_class_and_the_proxy_invoke_alike():
    with pytest.raises(TypeError):
        yr.FunctionProxy.invoke(add)  # "a" is missing


def test_before_and_after_a_round_the_texts_differ(monkeypatch):
    monkeypatch.setattr(global_runtime, "was_initialized", False)
    with pytest.raises(RuntimeError, match=r"^runtime not enable, please call yr.init\(\) first$"):
        add.invoke(1)
    monkeypatch.setattr(global_runtime, "was_initialized", True)
    with pytest.raises(RuntimeError, match=r"^runtime not enable$"):
        add.invoke(1)


@pytest.mark.parametrize(
    "args, kwargs",
    [((), {}), ((1, 2, 3), {}), ((1,), {"c": 1}), ((1, 2), {"b": 3}), ((), {"b": 1})],
)
def test_arguments_are_checked_before_anything_else(args, kwargs):
    with pytest.raises(TypeError):
        add.invoke(*args, **kwargs)


@pytest.mark.parametrize("args, kwargs", [((1,), {}), ((1, 2), {}), ((), {"a": 1}), ((1,), {"scale": 2})])
def test_arguments_travel_as_they_were_given(runtime, args, kwargs):
    ref = add.invoke(*args, **kwargs)
    assert ref.id.startswith("prefix")
    assert runtime.invoked[-1][1:4] == (args, kwargs, 1)


def test_a_required_keyword_is_missed(runtime):
    def strict(a, *, key):
        return a, key

    proxy = yr.invoke(strict)
    with pytest.raises(TypeError, match="key"):
        proxy.invoke(1)
    proxy.invoke(1, key=2)
    with pytest.raises(TypeError, match="key"):
        proxy.invoke(1)


def test_a_function_that_takes_everything(runtime):
    proxy = yr.invoke(plain)
    proxy.invoke()
    proxy.invoke(1, 2, 3, x=4)
    assert runtime.invoked[-1][1:3] == ((1, 2, 3), {"x": 4})


@pytest.mark.parametrize("value", ["1", 1.0, b""])
def test_return_nums_must_be_an_int(value):
    with pytest.raises(TypeError):
        yr.invoke(return_nums=value)(plain)


@pytest.mark.parametrize("value", [-1, 101])
def test_return_nums_has_a_range(value):
    with pytest.raises(RuntimeError, match=f"^invalid return_nums: {value}, should be an integer between 0 and 100$"):
        yr.invoke(return_nums=value)(plain)


def test_return_nums_decides_what_invoke_returns(runtime):
    assert yr.invoke(return_nums=0)(plain).invoke() is None
    assert len(yr.invoke(return_nums=3)(plain).invoke()) == 3
    assert isinstance(yr.invoke(return_nums=1)(plain).invoke().id, str)


def test_one_definition_for_many_calls(runtime):
    for _ in range(3):
        add.invoke(1)
    assert len(runtime.defined) == 1
    code, options = runtime.defined[0]
    assert code.name == f"{__name__}.add" and len(code.code_id) == 20
    assert options["cpu"] == 500.0
    assert pickle.loads(code.blob)(1) == 3


def test_options_are_sticky_and_shared(runtime):
    proxy = yr.invoke(lambda: None)
    alias = proxy
    assert proxy.options(yr.InvokeOptions(cpu=1000)) is proxy
    alias.invoke()
    assert runtime.defined[-1][1]["cpu"] == 1000.0
    alias.invoke()
    assert len(runtime.defined) == 1


def test_options_are_read_when_the_call_is_made(runtime):
    opt = yr.InvokeOptions()
    proxy = yr.invoke(lambda: None).options(opt)
    proxy.invoke()
    opt.cpu = 1500
    proxy.invoke()
    opt.custom_resources["ssd"] = 1
    proxy.invoke()
    assert [o["cpu"] for _, o in runtime.defined] == [500.0, 1500.0, 1500.0]
    assert runtime.defined[-1][1]["custom_resources"] == {"ssd": 1.0}


def test_an_options_wrapper_is_not_sticky(runtime):
    add.create_opts_wrapper(yr.InvokeOptions(cpu=2000)).invoke(1)
    add.invoke(1)
    assert [o["cpu"] for _, o in runtime.defined] == [2000.0, 500.0]


def test_options_are_checked():
    with pytest.raises(TypeError):
        add.options({"cpu": 1})
    with pytest.raises(TypeError):
        add.options(yr.InvokeOptions(name=1))
    with pytest.raises(ValueError, match="retry_times"):
        add.options(yr.InvokeOptions(retry_times=-1))


def test_a_new_round_defines_again(runtime):
    add.invoke(1)
    other = type(runtime)()
    core.set_current(other)
    add.invoke(1)
    assert len(runtime.defined) == len(other.defined) == 1


def test_an_initializer_travels_with_the_definition(runtime):
    yr.invoke(initializer=lambda: 5)(plain).invoke()
    initialize, function = pickle.loads(runtime.defined[-1][1]["initializer"])
    assert initialize() == 5 and function is plain
    with pytest.raises(TypeError):
        yr.invoke(initializer=5)(plain)


@pytest.mark.parametrize("kind", ["coroutine", "generator", "async generator"])
def test_what_cannot_run_says_so_when_called(runtime, kind):
    async def coroutine():
        pass

    def generator():
        yield 1

    async def async_generator():
        yield 1

    target = {"coroutine": coroutine, "generator": generator, "async generator": async_generator}[kind]
    with pytest.raises(yr.YRRuntimeError, match=kind.split()[-1]) as raised:
        yr.invoke(target).invoke()
    assert raised.value.code == 4006


def test_metadata():
    assert add.invoke.__name__ == "add" and add.invoke.__doc__ == "Adds."
    assert inspect.signature(add.invoke) == inspect.signature(add.get_original_func()) == add.sig
    assert add.__original_func__ is add.get_original_func()
    assert add.function_descriptor.function_name == "add"
    assert add.cross_language_info is None and add.return_nums == 1


def test_set_urn_checks_its_form():
    assert add.set_urn("sn:cn:yrk:default:function:0-x-y:$latest") is add
    with pytest.raises(ValueError, match=r"^invalid function id a:b$"):
        add.set_urn("a:b")


def test_content_is_identity():
    def make(n):
        def same():
            return n

        return same

    assert _code.encode(make(1)) == _code.encode(make(1))
    assert _code.encode(make(1)).code_id != _code.encode(make(2)).code_id


def test_a_proxy_in_a_closure_travels(runtime):
    @yr.invoke
    def inner(x):
        return x + 1

    def outer(x):
        return inner.invoke(x)

    yr.invoke(outer).invoke(1)
    loaded = pickle.loads(runtime.defined[0][0].blob)
    loaded(41)
    code = runtime.defined[1][0]
    assert pickle.loads(code.blob)(41) == 42
    assert runtime.invoked[-1][1] == (41,)


def test_a_function_that_refers_to_itself_travels_by_value(runtime):
    again.invoke(3)
    loaded = pickle.loads(runtime.defined[0][0].blob)
    assert loaded is not again.get_original_func()
    loaded(3)
    assert runtime.invoked[-1][1] == (2,)
    copy = pickle.loads(cloudpickle.dumps(again))
    assert isinstance(copy, yr.FunctionProxy) and copy.get_original_func()(0) == 0


def test_code_that_was_loaded_travels_on_unchanged(runtime):
    again.invoke(3)
    code = runtime.defined[0][0]
    loaded = pickle.loads(code.blob)
    _code.adopt(loaded, code)
    loaded(3)
    assert runtime.defined[-1][0] is code


def test_skip_serialize_sends_the_name_only(runtime):
    add.create_opts_wrapper(yr.InvokeOptions(skip_serialize=True)).invoke(1)
    code = runtime.defined[-1][0]
    assert len(code.blob) < 200
    assert pickle.loads(code.blob) is add.get_original_func()


def test_functions_of_main_are_named_by_their_file(monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/some/where/train.py", raising=False)

    def step():
        pass

    step.__module__ = "__main__"
    assert _code.name_of(step).startswith("train.")


def test_calls_from_many_threads_are_all_made(runtime):
    proxy = yr.invoke(plain)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: proxy.invoke(n), range(400)))
    assert sorted(args[0] for _, args, _, _, _ in runtime.invoked) == list(range(400))
