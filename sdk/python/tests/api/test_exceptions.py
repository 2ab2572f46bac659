"""What user code raises in a worker arrives at the caller as the interface promises."""

from __future__ import annotations

import pickle
import threading

import pytest
from yr import exception
from yr.err_type import ErrorCode, ErrorInfo, ModuleCode


class TwoArguments(Exception):
    """Its constructor wants something else than what args holds."""

    def __init__(self, what, why):
        super().__init__(f"{what}: {why}")
        self.what = what
        self.code = 77


class Final(Exception):
    def __init_subclass__(cls):
        raise TypeError("no subclasses")


class Outer(Exception):
    pass


class Keyword(Exception):
    def __init__(self, *, why):
        super().__init__(f"because {why}")


class Prefixed(Exception):
    def __init__(self, what):
        super().__init__(f"cannot {what}")


class Trap(Exception):
    def __getattr__(self, name):
        raise RuntimeError(f"no {name}")


def arrives(error: BaseException) -> BaseException:
    """The exception that the caller sees for one that user code raised."""
    try:
        raise error
    except BaseException as e:
        packed = exception.pack_user_exception(e)
    return exception.remote_error(2002, packed, True)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("text"),
        KeyError("key"),
        ZeroDivisionError(),
        FileNotFoundError(2, "missing", "path"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
        StopIteration(4),
        SyntaxError("bad", ("file", 1, 2, "text")),
        TwoArguments("a", "b"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_the_class_of_the_cause_is_kept(error):
    seen = arrives(error)
    assert isinstance(seen, type(error))
    assert isinstance(seen, exception.YRInvokeError)
    assert isinstance(seen, RuntimeError)
    assert type(seen).__name__ == f"YRInvokeError({type(error).__name__})"
    assert seen.args == (seen.cause,)
    assert type(seen.cause) is type(error)
    assert all(str(part) in str(seen) for part in error.args[:1])
    assert "Traceback (most recent call last)" in str(seen)


@pytest.mark.parametrize(
    "error", [Exception("a"), RuntimeError("b"), exception.YRError("c"), exception.YRTimeoutError("d"), Final("e")]
)
def test_a_class_that_says_no_more_is_not_derived(error):
    seen = arrives(error)
    assert type(seen) is exception.YRInvokeError
    assert type(seen.cause) is type(error)
    assert not isinstance(seen, TimeoutError)


def test_attributes_are_read_from_the_cause():
    seen = arrives(TwoArguments("a", "b"))
    assert (seen.what, seen.code) == ("a", 77)
    missing = arrives(FileNotFoundError(2, "missing", "path"))
    assert (missing.errno, missing.filename) == (2, "path")
    with pytest.raises(AttributeError):
        _ = missing.nonsense


def test_without_an_own_code_it_is_that_of_user_exceptions():
    seen = arrives(ValueError("x"))
    assert seen.code == ErrorCode.ERR_USER_FUNCTION_EXCEPTION
    assert seen.module_code == ModuleCode.RUNTIME


def test_through_nested_calls_the_cause_stays_and_the_text_grows():
    inner = arrives(ValueError("innermost"))
    middle = arrives(inner)
    outer = arrives(middle)
    assert type(outer) is not ValueError and isinstance(outer, ValueError)
    assert repr(outer.cause) == repr(ValueError("innermost"))
    assert str(inner) in str(middle) and str(middle) in str(outer)


def test_a_text_that_traceback_would_leave_out_stays():
    inner = arrives(SyntaxError("bad", ("file", 1, 2, "text")))
    assert str(inner) in str(arrives(inner))


def test_a_chained_exception_shows_its_chain():
    try:
        try:
            raise arrives(ValueError("first"))
        except ValueError as e:
            raise Outer("second") from e
    except Outer as e:
        seen = exception.remote_error(2002, exception.pack_user_exception(e), True)
    assert isinstance(seen, Outer) and not isinstance(seen, ValueError)
    assert "first" in str(seen) and "second" in str(seen)


def test_what_cannot_be_pickled_becomes_a_runtime_error_with_its_name():
    error = ValueError("locked")
    error.lock = threading.Lock()
    seen = arrives(error)
    assert type(seen) is exception.YRInvokeError
    assert repr(seen.cause) == repr(RuntimeError("ValueError: ValueError('locked')"))
    assert "locked" in str(seen)


def test_a_constructor_that_adds_to_its_message_adds_once():
    assert arrives(Prefixed("swim")).cause.args == ("cannot swim",)


def test_an_exception_whose_attributes_raise_arrives():
    seen = arrives(Trap("caught"))
    assert isinstance(seen, Trap)
    assert "Trap" in str(seen) and "caught" in str(seen) and "in arrives" in str(seen)


def test_a_long_message_loses_its_middle():
    seen = arrives(ValueError("x" * (3 << 20)))
    assert isinstance(seen, ValueError)
    assert seen.cause.args == ("x" * (3 << 20),)
    assert "characters left out" in str(seen) and len(str(seen)) < 1 << 20


def test_an_exception_too_large_to_travel_keeps_its_class():
    packed = exception.pack_user_exception(ValueError("x" * (40 << 20)))
    assert len(packed) < 8 << 20
    seen = exception.remote_error(2002, packed, True)
    assert isinstance(seen, ValueError) and "characters left out" in str(seen)
    assert "characters left out" in seen.cause.args[0]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_what_is_no_exception_becomes_a_runtime_error_with_its_name(error):
    seen = arrives(error)
    assert isinstance(seen, RuntimeError) and not isinstance(seen, type(error))
    assert type(error).__name__ in str(seen.cause)


def test_a_class_that_is_missing_here_leaves_the_summary():
    packed = exception.pack_user_exception(ValueError("x"))
    parts = list(pickle.loads(packed))
    parts[1] = b"cno.such.module\nClass\n."
    seen = exception.remote_error(2002, pickle.dumps(tuple(parts)), True)
    assert str(seen.cause) == "ValueError: ValueError('x')"


@pytest.mark.parametrize("payload", [b"", b"garbage", pickle.dumps((99, b"", "", ""))])
def test_a_broken_payload_is_an_error_not_a_crash(payload):
    assert "cannot be read" in str(exception.remote_error(2002, payload, True))


def test_every_get_gives_a_new_object():
    packed = exception.pack_user_exception(ValueError("x"))
    first, second = (exception.remote_error(2002, packed, True) for _ in range(2))
    assert first is not second


@pytest.mark.parametrize(
    "error",
    [
        arrives(ValueError("x")),
        arrives(Keyword(why="x")),
        exception.YRTimeoutError("t"),
        exception.YRequestError(5, "m", "r"),
    ],
    ids=repr,
)
def test_exceptions_pickle(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy).__name__ == type(error).__name__
    assert str(copy) == str(error)
    assert copy.code == error.code


@pytest.mark.parametrize(
    "code, prefix, expected",
    [
        (4005, "failed to get object", exception.YRTimeoutError),
        (9010, "failed to get object", exception.YRTimeoutError),
        (1001, "failed to invoke instance", exception.YRValueError),
        (1006, "failed to create instance", exception.YRValueError),
        (1006, "failed to get object", exception.YRRuntimeError),
        (1007, "failed to get object", exception.YRRuntimeError),
        (3001, "failed to get object", exception.YRRuntimeError),
        (4002, "failed to init", exception.YRValueError),
        (1014, "failed to init", exception.YRValueError),
    ],
)
def test_system_failures_have_a_class_and_a_form(code, prefix, expected):
    seen = exception.remote_error(code, b"why", False, prefix)
    assert type(seen) is expected
    assert str(seen) == f"{prefix}, code: {code}, module code: 20, msg: why"
    assert seen.code == code and seen.module_code == 20
    assert seen.error_info.msg == "why"


def test_store_failures_name_the_data_system():
    seen = exception.remote_error(4202, b"full", False, "failed to put object")
    assert str(seen) == "failed to put object, code: 4202, module code: 30, msg: full"


def test_finalized_is_said_plainly():
    assert str(exception.remote_error(9000, b"already finalized", False)) == "already finalized"


def test_timeouts_are_timeouts():
    assert issubclass(exception.YRTimeoutError, (TimeoutError, RuntimeError))
    assert issubclass(exception.GetTimeoutError, exception.YRTimeoutError)


def test_a_text_alone_is_the_message():
    error = exception.YRError("text")
    assert (str(error), error.message, error.code) == ("text", "text", 3003)


def test_from_error_info():
    info = ErrorInfo(ErrorCode.ERR_PARAM_INVALID, ModuleCode.RUNTIME_CREATE, "bad")
    assert str(exception.YRError.from_error_info(info)) == "code: 1001, module code: 21, msg: bad"
    assert str(exception.YRValueError.from_error_info(info, "p")) == "p, code: 1001, module code: 21, msg: bad"


def test_texts_of_the_other_classes():
    assert str(exception.YRequestError(5, "m", "r")) == "failed to request, r code: 5, message: m "
    assert str(exception.CancelError("t")) == "stateless request has been cancelled: t"
