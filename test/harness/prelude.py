# What every driver of a test begins with; harness puts it in front of the test's program.
import contextlib
import os
import sys
import time

import yr


@contextlib.contextmanager
def fails(kind, *words, within=10.0):
    """The body must raise ``kind``, with all ``words`` in its text, within so many seconds."""
    began = time.monotonic()
    try:
        yield
    except BaseException as e:
        took = time.monotonic() - began
        assert isinstance(e, kind), f"expected {kind}, came {type(e)}: {e}"
        missing = [w for w in words if w not in str(e)]
        assert not missing, f"the text lacks {missing}: {e}"
        assert took < within, f"it took {took:.1f} s"
    else:
        raise AssertionError(f"expected {kind}, nothing was raised")


def say(*words):
    print(*words, flush=True)
