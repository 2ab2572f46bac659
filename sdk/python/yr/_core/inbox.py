"""What the agent says, filed; and, after a break, what we say to an agent that may have forgotten us.

Handlers run in the thread that reads the socket: they never block and never write.
"""

from __future__ import annotations

from typing import Callable

from . import control, wire
from .instances import Instances
from .references import AWAY, Local, dropped
from .session import Session
from .shm import Memory
from .wire import Failure, Place

COMMUNICATION, INTERNAL = 3002, 3003


class Inbox:
    """The handlers of one session."""

    def __init__(self, session: Session, memory: Memory, instances: Instances, defined: dict) -> None:
        # Further frames for an agent that we resume with: a worker's last results.
        self.say_also: Callable[[list], None] = lambda out: None
        self._session = session
        self._objects = session.objects
        self._instances = instances
        self._defined = defined  # key -> (number, DEFINE frame)
        session.handlers.update(
            {
                wire.RESULT: self._on_result,
                wire.OBJECT: self._on_object,
                wire.REJECT: self._on_reject,
                wire.PING: self._on_ping,
                wire.PONG: session.file_reply,
                wire.CREDIT: self._on_credit,
                wire.DONE: session.file_reply,
                wire.FOUND: session.file_reply,
                wire.LEASED: session.file_reply,
                wire.INSTANCE: instances.on_event,
                wire.FREED: memory.on_freed,
                wire.RECLAIM: memory.on_reclaim,
                wire.EVICT: memory.on_evict,
            }
        )
        session.on_lost = self._on_lost
        session.on_resumed = self._say_again

    def _on_result(self, buf: bytes, pos: int, end: int, flags: int, corr: int) -> None:
        id, results = wire.decode_result(buf, pos, end)
        frame = self._session.calls.pop(id, None)
        dropped.extend(self._session.pins.pop(id, ()))
        returns = frame[wire.CALL_RETURNS] if frame is not None else len(results)
        failure = next((v for v, _ in results if isinstance(v, Failure)), None)
        for k, result_id in enumerate(_result_ids(id, returns)):
            if failure is not None:
                self._set(result_id, failure, [])
            elif k < len(results):
                self._set(result_id, *results[k])
            else:
                self._set(result_id, Failure(INTERNAL, False, b"the worker sent too few values"), [])

    def _set(self, id: bytes, value: wire.Value, contains: list) -> None:
        if contains and id in self._objects.values:
            self._objects.contains[id] = contains
        self._objects.set(id, AWAY if value is wire.ELSEWHERE else value)

    def _on_object(self, buf: bytes, pos: int, end: int, flags: int, corr: int) -> None:
        self._set(*wire.decode_object(buf, pos, end))

    def _on_reject(self, buf: bytes, pos: int, end: int, flags: int, corr: int) -> None:
        status = control.decode(control.STATUS, bytes(buf[pos:end]))
        self._session.give_up(f"the yr daemon ended the session: {status['message']} (code {status['code']})")

    def _on_ping(self, buf: bytes, pos: int, end: int, flags: int, corr: int) -> None:
        self._session.out.append(wire.frame(wire.PONG, b"", corr))
        self._session.arm()

    def _on_credit(self, buf: bytes, pos: int, end: int, flags: int, corr: int) -> None:
        (self._session.credit,) = wire.decode_fields(wire.U32, buf, pos, end)

    def _on_lost(self, text: str) -> None:
        """The session cannot be resumed: whatever is pending has failed."""
        failure = Failure(COMMUNICATION, False, text.encode())
        for id, value in list(self._objects.values.items()):
            if value is None and type(id) is bytes:
                self._objects.set(id, failure)
        self._session.calls.clear()
        self._session.pins.clear()

    def _say_again(self) -> None:
        """Resuming: queue everything that the agent may have forgotten. Nothing else is sent meanwhile."""
        session, out = self._session, self._session.out
        out.extend(frame for _, frame in list(self._defined.values()))
        self._instances.say_again(out)
        promised = {id for call in list(session.calls.values()) for id in _results_of(call)}
        retained, wanted = [], []
        for id, value in list(self._objects.values.items()):
            if type(id) is not bytes or len(id) != wire.ID_LEN or isinstance(value, Local):
                continue  # a request, an instance, or a value that only this process knows
            if value is None or value is AWAY:
                place = self._objects.leaving.get(id)  # it may not have come to leaving
                if place is not None:
                    if value is None:
                        wanted.append(id)
                    value = place
            if isinstance(value, (bytes, Place, Failure)):
                out.append(wire.put(id, value, self._objects.contains.get(id, ()), announce=True))
            elif id not in promised:
                retained.append(id)
                if value is None:
                    wanted.append(id)
        if retained:
            out.append(wire.ids_frame(wire.RETAIN, retained))
        if wanted:
            out.append(wire.ids_frame(wire.GET, wanted))
        for frame in list(session.calls.values()):
            out.append(frame[:5] + bytes([frame[5] | wire.FLAG_RESENT]) + frame[6:])
        out.extend(list(session.requests.values()))
        self.say_also(out)
        out.append(wire.frame(wire.ANNOUNCED))


def _result_ids(id: bytes, returns: int) -> list:
    seq = int(id[wire.PREFIX_LEN :], 16)
    return [b"%b%011x" % (id[: wire.PREFIX_LEN], seq + k) for k in range(returns)]


def _results_of(call: bytes) -> list:
    return _result_ids(call[wire.HEADER_LEN : wire.HEADER_LEN + wire.ID_LEN], call[wire.CALL_RETURNS])
