"""The instances that this session made or bound: their numbers, and whether they run.

How an instance stands is an entry of the session's table like that of an object: ``None`` while it
is being made, then its real id as bytes, or a ``Failure``. Waiting for it is waiting for that entry.
"""

from __future__ import annotations

import threading
from typing import Callable

from . import control, wire
from .session import Session
from .wire import Failure

RUNNING = 3
ENDED = frozenset((4, 6, 7, 8, 10))  # failed, fatal, schedule_failed, exited, evicted


class Instances:
    """Kept by the runtime. ``_lock`` protects the two tables."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._numbers: dict = {}  # instance id -> number
        self._creating: dict = {}  # instance id -> CREATE frame, until it runs or fails
        self._waiting: dict = {}  # id of an existing instance that does not run yet -> ids bound to it

    @staticmethod
    def key(id: bytes) -> bytes:
        """Return the entry of an instance in the table of objects; no object has such an identifier."""
        return b"instance " + id

    def made(self, number: int, id: bytes, frame: bytes) -> None:
        """Record and send a CREATE."""
        with self._lock:
            self._numbers[id] = number
            self._creating[id] = frame
        self._session.objects.values[self.key(id)] = None
        self._session.out.append(frame)

    def bind(self, id: bytes, next_number: Callable[[], int]) -> int:
        """Return the number of an instance, giving it one with BIND if it has none."""
        with self._lock:
            number = self._numbers.get(id)
            if number is not None:
                return number
            number = self._numbers[id] = next_number()
            self._session.objects.values[self.key(id)] = None
            self._session.out.append(_bind_frame(number, id))
            return number

    def on_event(self, buf: bytes, pos: int, end: int, flags: int, corr: int) -> None:
        """Handler of INSTANCE."""
        event = control.decode(control.INSTANCE_EVENT, bytes(buf[pos:end]))
        id, state = event["instance_id"], event["state"]
        if state != RUNNING and state not in ENDED:
            if event["bound_to"]:  # what becomes of that one becomes of this one
                self._waiting.setdefault(event["bound_to"], []).append(id)
            return
        self._settle(id, state, event)
        for bound in self._waiting.pop(id, ()):
            self._settle(bound, state, {**event, "bound_to": id})

    def _settle(self, id: bytes, state: int, event: dict) -> None:
        self._creating.pop(id, None)
        key, objects = self.key(id), self._session.objects
        if state == RUNNING:
            objects.set(key, event["bound_to"] or id)
        elif objects.values.get(key, b"") is None:
            status = event["status"] or {"code": 1007, "message": "the instance ended"}
            if event["error"]:
                objects.set(key, Failure(status["code"] or 2002, True, event["error"]))
            else:
                objects.set(key, Failure(status["code"] or 1007, False, status["message"].encode()))

    def say_again(self, out: list) -> None:
        """Resuming: give every instance its number again."""
        with self._lock:
            for id, number in self._numbers.items():
                out.append(self._creating.get(id) or _bind_frame(number, id))


def _bind_frame(number: int, id: bytes) -> bytes:
    return wire.frame(wire.BIND, control.encode(control.BIND, {"number": number, "instance_id": id}))
