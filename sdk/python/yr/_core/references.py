"""The objects that this process refers to, and how many of its references are left.

``values`` is the one table: an identifier is in it as long as this process holds a reference, and
its entry says what is known: ``None`` while pending, then the value. A result whose entry is gone is
dropped where it is parsed, so that unread results cost nothing.

Dropping a reference must be possible in any thread at any moment, also inside a garbage collection
that interrupts one of our own critical sections. ``ObjectRef.__del__`` therefore only appends to
``dropped`` (atomic, takes no lock); the next flush turns what it finds there into RELEASE frames.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from typing import Any, Callable

from .wire import Place

dropped: deque = deque()  # identifiers of references that died; process-wide, drained by the live session
unviewed: deque = deque()  # likewise, of views of shared memory that died


class _Foreign:
    """The entry of a reference that came from elsewhere and has not been asked for."""

    def __repr__(self) -> str:
        return "FOREIGN"


FOREIGN = _Foreign()


class _Away:
    """The entry of a value that is ready, and left memory since we were told where it lies."""

    def __repr__(self) -> str:
        return "AWAY"


AWAY = _Away()


def view_ended(id: bytes) -> None:
    """A view of shared memory is gone, and with it a reference. Takes no lock: called by the garbage collector."""
    unviewed.append(id)
    dropped.append(id)


class Local:
    """The entry of a value that was set in this process (``ObjectRef.set_data``)."""

    __slots__ = ("error", "value")

    def __init__(self, value: Any = None, error: BaseException | None = None) -> None:
        self.value = value
        self.error = error


class Waiter:
    """A sleeping thread: woken when all but ``missing`` of its identifiers are ready, or to take over reading."""

    __slots__ = ("_lock", "missing", "pending")

    def __init__(self, pending: Iterable = (), missing: int = 0) -> None:
        self.pending = set(pending)
        self.missing = missing
        self._lock = threading.Lock()
        self._lock.acquire()

    def notify(self, id: Any) -> None:
        """One of the identifiers became ready."""
        self.pending.discard(id)
        if len(self.pending) <= self.missing:
            self.wake()

    def wake(self) -> None:
        """End the sleep; harmless when nobody sleeps."""
        try:
            self._lock.release()
        except RuntimeError:
            pass  # it was awake already

    def sleep(self, timeout: float) -> None:
        """Sleep until woken, at most ``timeout`` seconds."""
        self._lock.acquire(timeout=timeout)


class Callback:
    """Calls a function once an identifier is ready, in the thread that reads; it must not block."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call

    def notify(self, id: Any) -> None:
        """Run the callback."""
        self.call()


class Objects:
    """The table of one session. ``lock`` protects ``extra`` and ``watch`` against concurrent change."""

    def __init__(self) -> None:
        self.values: dict = {}  # id -> None (pending) | FOREIGN | AWAY | bytes | Place | Failure | Local
        self.views: dict = {}  # id -> live views of its memory, as far as `unviewed` was read
        self.leaving: dict = {}  # id -> its place in an own slab, which we let go and were not told that it is free
        self._leaving_at: dict = {}  # the other way round
        self.extra: dict = {}  # id -> local references beyond the first
        self.watch: dict = {}  # id -> watchers
        self.contains: dict = {}  # id -> references inside its value, where there are any
        self.inline_puts: dict = {}  # id -> bytes held by the agent for an inline put
        self.inline_bytes = 0
        self.lock = threading.Lock()

    def adopt(self, id: bytes) -> bool:
        """Count one more local reference; true if it is the first, which the agent must be told."""
        with self.lock:
            if id in self.values:
                self.extra[id] = self.extra.get(id, 0) + 1
                return False
            self.values[id] = FOREIGN
            return True

    def open_view(self, id: bytes, place: Place | None) -> bool | None:
        """Count a view of ``id`` and, like :meth:`adopt`, the reference that goes with it.

        With ``place`` only if the object still lies there; else ``None``: it has left memory.
        """
        with self.lock:
            if place is not None and self.values.get(id) is not place:
                return None
            self.views[id] = self.views.get(id, 0) + 1
            if id in self.values:
                self.extra[id] = self.extra.get(id, 0) + 1
                return False
            self.values[id] = FOREIGN
            return True

    def evict(self, ids: list, own: Callable[[Place], Any] = lambda place: False) -> list:
        """Forget where those of ``ids`` lie that nobody here has a view of, and return them.

        What lies in memory of our ``own`` is still there until we are told that it is free: a daemon
        that dies before it has moved it will want to know.
        """
        with self.lock:
            self._end_views()
            agreed = [id for id in ids if id not in self.views]
            for id in agreed:
                place = self.values.get(id)
                if isinstance(place, Place):
                    self.values[id] = AWAY
                    if own(place):
                        self.leaving[id] = place
                        self._leaving_at[place] = id
        return agreed

    def freed(self, places: list) -> None:
        """The agent says that these places in own slabs are free: what lay there has left, or is gone."""
        if self._leaving_at:
            with self.lock:
                for place in places:
                    id = self._leaving_at.pop(place, None)
                    if id is not None and self.leaving.get(id) == place:
                        del self.leaving[id]

    def _end_views(self) -> None:
        for _ in range(len(unviewed)):
            try:
                id = unviewed.popleft()
            except IndexError:  # the session before was ended meanwhile
                break
            n = self.views.get(id, 0)
            if n > 1:
                self.views[id] = n - 1
            else:
                self.views.pop(id, None)

    def pin(self, ids: list) -> list:
        """Count one more local reference to each of ``ids`` that is known here, and return those."""
        with self.lock:
            known = [id for id in ids if id in self.values]
            for id in known:
                self.extra[id] = self.extra.get(id, 0) + 1
        return known

    def spend_inline(self, id: bytes, n: int, budget: int) -> bool:
        """Count an inline put of ``n`` bytes; false if that is more than the agent allows."""
        with self.lock:
            if self.inline_bytes + n > budget:
                return False
            self.inline_bytes += n
            self.inline_puts[id] = n
            return True

    def take_dropped(self) -> list:
        """Return the identifiers whose last local reference is gone and forget them."""
        gone = []
        values, extra, puts, contains = self.values, self.extra, self.inline_puts, self.contains
        with self.lock:
            if unviewed:
                self._end_views()
            for _ in range(len(dropped)):
                try:
                    id = dropped.popleft()
                except IndexError:  # another thread took it
                    break
                if extra and id in extra:
                    n = extra[id]
                    if n > 1:
                        extra[id] = n - 1
                    else:
                        del extra[id]
                elif id in values:
                    del values[id]
                    gone.append(id)
                    if puts:
                        self.inline_bytes -= puts.pop(id, 0)
                    if contains:
                        contains.pop(id, None)
        return gone

    def set(self, id: Any, value: Any) -> None:
        """Record what an awaited identifier turned out to be, if anybody still wants to know."""
        if id in self.values:
            self.values[id] = value
            if self.watch:
                self.ready(id)

    def ready(self, id: Any) -> None:
        """Tell the watchers of ``id``."""
        if id not in self.watch:
            return
        with self.lock:
            watchers = self.watch.pop(id, ())
        for w in watchers:
            w.notify(id)

    def is_ready(self, id: Any) -> bool:
        """Say whether a value or an error is known. Unknown identifiers count as ready: they fail."""
        v = self.values.get(id, self)
        return v is not None and v is not FOREIGN

    def add_watch(self, ids: Iterable, watcher: Any) -> None:
        """Have ``watcher`` told of each of ``ids``, also of those that are ready by now."""
        ids = list(ids)
        with self.lock:
            for id in ids:
                self.watch.setdefault(id, []).append(watcher)
        for id in ids:
            if self.is_ready(id):
                self.ready(id)

    def remove_watch(self, watcher: Waiter) -> None:
        """Forget ``watcher``."""
        with self.lock:
            for id in watcher.pending:
                watchers = self.watch.get(id)
                if watchers and watcher in watchers:
                    watchers.remove(watcher)
                    if not watchers:
                        del self.watch[id]
