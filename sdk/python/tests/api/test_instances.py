"""@yr.instance, handles and named instances, up to the runtime."""

from __future__ import annotations

import abc
import json
import pickle
import sys

import cloudpickle
import pytest
import yr
from yr._core import runtime as core
from yr.decorator._descriptor import ClassDescriptor


class Base:
    def inherited(self):
        return "base"


class Plain(Base):
    shared = (1, 2)

    def __init__(self, start, *, step=1):
        self.n = start
        self.step = step

    def add(self, k=1):
        self.n += k
        return self.n

    def _private(self):
        return 0

    @staticmethod
    def double(x):
        return 2 * x

    @classmethod
    def make(cls, x):
        return cls(x)

    @yr.method(return_nums=2)
    def pair(self):
        return 1, 2

    @yr.method(return_nums=0)
    def quiet(self):
        pass

    def terminate(self):
        return "the user's"


class Async:
    async def one(self):
        return 1

    def two(self):
        return 2


@yr.instance
class Self:
    def another(self):
        return Self.invoke()


def test_decorating_needs_a_class():
    for target in (len, lambda: 0, 5, yr.instance(Plain)):
        with pytest.raises(RuntimeError, match=r"^@yr.instance decorator must be applied to a class$"):
            yr.instance(target)


def test_the_decorated_name_is_a_creator_and_of_the_class():
    creator = yr.instance(Plain)
    assert type(creator).__name__ == "YRInstance(Plain)"
    assert isinstance(creator, yr.InstanceCreator) and isinstance(creator, Plain)
    assert creator.shared == (1, 2) and creator.double(4) == 8
    assert creator.get_original_cls() is Plain and creator.__user_class__ is Plain
    with pytest.raises(RuntimeError, match=r"use Plain.invoke\(\)"):
        creator(1)


def test_a_decorated_class_can_be_a_base(runtime):
    class Derived(Self.get_original_cls()):
        def more(self):
            return 1

    handle = yr.instance(Derived).invoke()
    handle.another.invoke()
    handle.more.invoke()


def odd_classes():
    class WithDunders:
        def __init__(self):
            raise AssertionError("never on the driver")

        def __getattribute__(self, name):
            raise AssertionError("never on the driver")

        def __setattr__(self, name, value):
            raise AssertionError("never on the driver")

        def __eq__(self, other):
            raise AssertionError("never on the driver")

        def __bool__(self):
            raise AssertionError("never on the driver")

        def __del__(self):
            raise AssertionError("never on the driver")

        def go(self):
            pass

    class Slots:
        __slots__ = ("a",)

        def go(self):
            pass

    class OfDict(dict):
        def go(self):
            pass

    class Abstract(abc.ABC):
        @abc.abstractmethod
        def go(self):
            pass

    class Final:
        def __init_subclass__(cls):
            raise TypeError("final")

        def go(self):
            pass

    class Takes:
        invoke = 5

        def options(self):
            pass

        def go(self):
            pass

    return [WithDunders, Slots, OfDict, Abstract, Final, Takes]


@pytest.mark.parametrize("cls", odd_classes(), ids=lambda c: c.__name__)
def test_classes_of_every_kind_can_be_decorated_and_travel(runtime, cls):
    creator = yr.instance(cls)
    assert creator and creator == creator and hash(creator)
    creator.invoke().go.invoke()
    copy = pickle.loads(cloudpickle.dumps(creator))
    assert copy.get_original_cls().__name__ == cls.__name__
    copy.invoke().go.invoke()


@pytest.mark.parametrize("args, kwargs", [((), {}), ((1, 2), {}), ((1,), {"nonsense": 1})])
def test_the_constructor_is_checked(args, kwargs):
    with pytest.raises(TypeError):
        yr.instance(Plain).invoke(*args, **kwargs)


def test_without_init_the_text_is_that_of_invoke():
    with pytest.raises(RuntimeError, match=r"^runtime not enable"):
        yr.instance(Plain).invoke(1)


def test_creation_reaches_the_runtime(runtime):
    handle = yr.instance(Plain).invoke(3, step=2)
    code, args, kwargs, options, descriptor = runtime.created[0]
    assert (args, kwargs) == ((3,), {"step": 2})
    assert options["ordered"] and options["concurrency"] == 1 and not options["is_async"]
    assert pickle.loads(code.blob)(3).n == 3
    assert json.loads(descriptor)["methods"].keys() >= {"add", "inherited", "double", "make", "_private"}
    assert handle.instance_id == "instance-00000000001"


def test_methods_reach_the_runtime(runtime):
    handle = yr.instance(Plain).invoke(3)
    handle.add.invoke(2)
    handle.add.invoke(k=2)
    handle.inherited.invoke()
    handle.double.invoke(4)
    handle.make.invoke(4)
    handle._private.invoke()
    assert [(a, k, m) for _, a, k, _, m in runtime.invoked] == [
        ((2,), {}, b"add"), ((), {"k": 2}, b"add"), ((), {}, b"inherited"),
        ((4,), {}, b"double"), ((4,), {}, b"make"), ((), {}, b"_private"),
    ]  # fmt: skip
    assert {target for target, *_ in runtime.invoked} == {1001}


def test_methods_are_checked(runtime):
    handle = yr.instance(Plain).invoke(3)
    for wrong in (lambda: handle.add.invoke(1, 2), lambda: handle.double.invoke(), lambda: handle.make.invoke()):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(AttributeError, match="nonsense"):
        _ = handle.nonsense
    with pytest.raises(RuntimeError, match=r"use .add.invoke\(\)"):
        handle.add(1)


def test_a_method_that_has_the_name_of_a_member_wins(runtime):
    handle = yr.instance(Plain).invoke(3)
    handle.terminate.invoke()
    assert runtime.invoked[-1][4] == b"terminate"


def test_return_nums_of_methods(runtime):
    handle = yr.instance(Plain).invoke(3)
    assert len(handle.pair.invoke()) == 2
    assert handle.quiet.invoke() is None


def test_method_arguments_are_checked():
    for wrong in ({"return_nums": "1"}, {"tensor_transport_target": "gpu"}, {"enable_tensor_transport": 1}):
        with pytest.raises(TypeError):
            yr.method(**wrong)
    yr.method(concurrency_group="io", tensor_transport_target="npu", enable_tensor_transport=False)


def test_return_nums_out_of_range_shows_when_an_instance_is_made(runtime):
    class Many:
        @yr.method(return_nums=101)
        def go(self):
            pass

    with pytest.raises(RuntimeError, match="invalid return_nums: 101"):
        yr.instance(Many).invoke()


def test_options_of_a_method_are_checked_for_their_type(runtime):
    handle = yr.instance(Plain).invoke(3)
    handle.add.options(yr.InvokeOptions()).invoke(1)
    with pytest.raises(TypeError):
        handle.add.options(5)


def test_an_async_class_is_unordered(runtime):
    handle = yr.instance(Async).invoke()
    options = runtime.created[0][3]
    assert options["is_async"] and options["concurrency"] == 1000
    assert handle.need_order is False


def test_options_of_an_instance_are_not_sticky(runtime):
    creator = yr.instance(Plain)
    creator.options(yr.InvokeOptions(cpu=1000)).invoke(1)
    creator.invoke(1)
    assert [created[3]["cpu"] for created in runtime.created] == [1000.0, 500.0]


def test_the_keyword_form_changes_the_class(runtime):
    creator = yr.instance(Plain)
    creator.options(
        name="n", namespace="s", lifetime="detached", get_if_exists=True,
        resources={"ssd": 1}, runtime_env={"env_vars": {"A": "1"}, "pip": ["ignored"]},
    )  # fmt: skip
    creator.invoke(1)
    options = runtime.created[0][3]
    assert (options["name"], options["namespace"], options["detached"], options["get_if_exists"]) == (
        "n",
        "s",
        True,
        True,
    )
    assert options["custom_resources"] == {"ssd": 1.0} and options["env_vars"] == {"A": "1"}


@pytest.mark.parametrize(
    "keywords, error",
    [
        ({"name": 1}, TypeError), ({"namespace": 1}, TypeError), ({"lifetime": 1}, TypeError),
        ({"name": ""}, ValueError), ({"namespace": ""}, ValueError), ({"lifetime": "forever"}, ValueError),
        ({"resources": []}, TypeError),
    ],
)  # fmt: skip
def test_the_keyword_form_is_checked(keywords, error):
    with pytest.raises(error):
        yr.instance(Plain).options(**keywords)


def test_get_if_exists_needs_a_name_at_invoke(runtime):
    creator = yr.instance(Plain)
    creator.options(get_if_exists=True)
    with pytest.raises(ValueError, match="The actor name must be specified"):
        creator.invoke(1)


def test_terminate_is_idempotent_and_ends_the_handle(runtime):
    handle = yr.instance(Async).invoke()
    assert handle.is_activate()
    handle.terminate()
    handle.terminate(is_sync=True)
    assert runtime.killed == [("instance-00000000001", False)]
    assert not handle.is_activate()
    with pytest.raises(RuntimeError, match=r"^this instance is terminated$"):
        handle.one.invoke()


def test_a_named_instance_is_ended_by_its_real_id(runtime):
    handle = yr.instance(Async).options(yr.InvokeOptions(name="a")).invoke()
    assert handle.real_id == "real" + handle.instance_id[4:]
    handle.terminate(True)
    assert runtime.killed == [(handle.real_id, True)]


def test_a_named_instance_whose_constructor_hangs_can_be_ended(runtime, monkeypatch):
    def never(instance_id, timeout):
        raise yr.YRTimeoutError("not running")

    monkeypatch.setattr(runtime, "instance_ready", never)
    runtime.found["a", ""] = found(state=2)
    yr.instance(Async).options(yr.InvokeOptions(name="a")).invoke().terminate()
    yr.instance(Async).options(yr.InvokeOptions(name="b")).invoke().terminate()
    assert runtime.killed == [("instance-00000000007", False), ("instance-00000000002", False)]


def test_a_handle_travels_with_its_real_id(runtime):
    handle = yr.instance(Plain).options(yr.InvokeOptions(concurrency=2)).invoke(1)
    copy = pickle.loads(pickle.dumps(handle))
    assert copy.instance_id == handle.real_id and copy.need_order is False
    copy.add.invoke(2)
    assert runtime.bound == [copy.instance_id] and runtime.invoked[-1][0] == 2001
    with pytest.raises(TypeError):
        copy.add.invoke(1, 2)
    assert len(copy.pair.invoke()) == 2


def test_in_a_new_round_a_handle_binds_again(runtime):
    handle = yr.instance(Plain).invoke(1)
    other = type(runtime)()
    core.set_current(other)
    handle.add.invoke(1)
    assert other.bound == [handle.instance_id] and not other.created


def test_a_class_that_refers_to_itself_travels(runtime):
    Self.invoke()
    loaded = pickle.loads(runtime.created[0][0].blob)
    loaded().another()
    assert len(runtime.created) == 2


def test_a_proxy_of_a_class_travels_by_value(runtime):
    copy = pickle.loads(cloudpickle.dumps(Self))
    assert type(copy).__name__ == "YRInstance(Self)"
    copy.invoke().another.invoke()


def test_the_descriptor_survives_its_journey():
    descriptor = ClassDescriptor.of_class(Plain)
    again = ClassDescriptor.from_bytes(descriptor.to_bytes())
    assert again.methods.keys() == descriptor.methods.keys()
    assert again.to_bytes() == descriptor.to_bytes()
    assert (again.class_name, again.is_async) == ("Plain", False)


def test_a_class_without_descriptor_has_every_method(runtime):
    handle = yr.InstanceProxy(ClassDescriptor.from_bytes(b"", "cpp"), "instance-00000000009", True)
    pickle.loads(pickle.dumps(handle)).Add.invoke(1)
    assert runtime.invoked[-1][4] == b"Add"


def found(state: int = 3) -> dict:
    descriptor = ClassDescriptor.of_class(Plain).to_bytes()
    return {
        "instance_id": "instance-00000000007", "descriptor": descriptor, "language": "python",
        "state": state, "ordered": True,
    }  # fmt: skip


def test_get_instance_makes_a_handle_without_the_class(runtime):
    runtime.found["n", "s"] = found()
    handle = yr.get_instance("n", "s")
    handle.double.invoke(2)
    assert runtime.invoked[-1][4] == b"double"
    with pytest.raises(AttributeError):
        _ = handle.nonsense


@pytest.mark.parametrize("state", [None, 2])
def test_get_instance_times_out(runtime, state):
    if state is not None:
        runtime.found["n", "s"] = found(state)
    with pytest.raises(TimeoutError, match=r"^failed to get instance: s-n by name, ") as raised:
        yr.get_instance("n", "s", timeout=0)
    assert isinstance(raised.value, yr.YRTimeoutError)


@pytest.mark.parametrize("args", [(1,), ("a", 1), ("a", "b", -1), ("a", "b", "1")])
def test_get_instance_checks_its_arguments(runtime, args):
    with pytest.raises(TypeError):
        yr.get_instance(*args)


def test_an_instance_cannot_look_itself_up(runtime):
    runtime.assignment = {"options": {"name": "me", "namespace": ""}, "namespace": "ns"}
    with pytest.raises(yr.YRRuntimeError, match="code: 1001"):
        yr.get_instance("me", "ns")


def test_get_instance_of_a_class_looks_in_its_namespace(runtime):
    runtime.found["n", "s"] = found()
    creator = yr.instance(Plain)
    creator.options(namespace="s")
    assert creator.get_instance("n").instance_id == "instance-00000000007"


def test_options_get_instance_makes_one_of_that_name(runtime):
    opt = yr.InvokeOptions()
    yr.instance(Plain).options(opt).get_instance("n", 1)
    assert runtime.created[0][3]["name"] == "n" and opt.name == ""


def test_kill_instance_waits(runtime):
    yr.kill_instance("some-id")
    assert runtime.killed == [("some-id", True)]
    with pytest.raises(TypeError):
        yr.kill_instance(5)


def test_generators_are_refused(runtime):
    class Stream:
        def items(self):
            yield 1

    with pytest.raises(yr.YRRuntimeError, match="generator"):
        yr.instance(Stream).invoke().items.invoke()


@pytest.mark.skipif(sys.version_info < (3, 9), reason="the SDK is written for 3.9 and later")
def test_skip_serialize_sends_the_name_only(runtime):
    Self.options(yr.InvokeOptions(skip_serialize=True)).invoke()
    assert pickle.loads(runtime.created[0][0].blob) is Self.get_original_cls()
