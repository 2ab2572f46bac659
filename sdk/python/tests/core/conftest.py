"""Sessions with a fake agent, and a check that nothing is left behind."""

from __future__ import annotations

import gc
import os
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fake_agent import FakeAgent
from yr._core import references, runtime as core


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def agent():
    """Return an agent; after the test no descriptor and no thread of the runtime is left."""
    gc.collect()
    before = _descriptors()
    fake = FakeAgent()
    yield fake
    current = core.current()
    if current is not None:
        current.close()
    core.set_current(None)
    fake.close()
    fake.until(lambda: all(peer.gone for peer in fake.peers))
    gc.collect()
    fake.until(lambda: _descriptors() <= before)
    fake.until(lambda: not [t for t in threading.enumerate() if t.name == "yr-io"])
    references.dropped.clear()


@pytest.fixture
def connect(agent):
    """Return a function that connects a runtime and makes it the current one."""

    def connect(**kwargs):
        runtime = core.Runtime.connect(agent.path, command="test", **kwargs)
        core.set_current(runtime)
        return runtime

    return connect


@pytest.fixture
def runtime(connect):
    return connect()


@pytest.fixture
def peer(runtime, agent):
    return agent.until(lambda: agent.peers)[0]
