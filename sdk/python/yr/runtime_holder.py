"""The one runtime of this process, and what must end with it."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

from yr._core import runtime as core
from yr.exception import YRRuntimeError

if TYPE_CHECKING:
    from yr._core.runtime import Runtime
    from yr._temporary import TemporaryCluster


class RuntimeHolder:
    """Holds what ``yr.init`` opened. ``global_runtime`` is the only one.

    The core keeps the runtime itself (``yr._core.runtime.current``), because a worker has
    one without ``yr.init``.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()  # held while a round begins or ends
        self.namespace = ""  # Config.ns of this round
        self.was_initialized = False
        self._temporary: TemporaryCluster | None = None

    def get_runtime(self) -> Runtime:
        """The runtime.

        Raises:
            YRRuntimeError: ``yr.init`` has not been called, or ``yr.finalize`` has.
        """
        runtime = core.current()
        if runtime is None:
            raise YRRuntimeError("system not initialized")
        return runtime

    def runtime_for_invoke(self) -> Runtime:
        """The runtime; without one the error is that of ``.invoke()``, a plain RuntimeError."""
        runtime = core.current()
        if runtime is None:
            raise RuntimeError(
                "runtime not enable" if self.was_initialized else "runtime not enable, please call yr.init() first"
            )
        return runtime

    def begin(self, runtime: Runtime, temporary: TemporaryCluster | None, namespace: str) -> None:
        """A round begins. The caller holds ``lock``."""
        self._temporary = temporary
        self.namespace = namespace
        self.was_initialized = True
        core.set_current(runtime)

    def end(self) -> None:
        """The round ends: the runtime closes, the temporary cluster stops. The caller holds ``lock``."""
        runtime, temporary = core.current(), self._temporary
        core.set_current(None)
        self._temporary = None
        self.namespace = ""
        try:
            if runtime is not None:
                runtime.close()
        except OSError as e:  # the cluster went first
            logging.getLogger("yr").warning("the connection ended before finalize: %s", e)
        finally:
            if temporary is not None:
                temporary.stop()

    def forget(self) -> None:
        """In a forked child: the temporary cluster is the parent's, as is the connection, which the core drops."""
        self.__init__()  # type: ignore[misc]  # a fresh lock too: another thread may have held it


global_runtime = RuntimeHolder()

os.register_at_fork(after_in_child=global_runtime.forget)
