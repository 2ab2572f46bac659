"""Shared memory over the session: leases slabs, fetches descriptors, answers FREED and RECLAIM."""

from __future__ import annotations

import os
import socket
import time
from typing import Callable

from yr.exception import remote_error

from . import control, wire
from .memory import Arena, Mapping, Readers, pinned_view as _pinned_view
from .serialization import Serialized
from .session import Session, SessionLost, connect_socket
from .wire import FrameError, Place

STORE_FULL = 4202
FULL_PATIENCE = 5.0  # seconds that a full store is given to free something
FULL_LONGEST = 60.0  # as long as it does
SHORT_SECONDS = 2.0  # how long empty slabs go back at once after the agent said that memory is short
FULL_STEP = 0.02
MAP_PATIENCE = 10.0  # a restarted daemon is back within 3 s
MAP_STEP = 0.05
LEASE_LOST = (4299, 1014)  # the segment is gone, or is not known to be ours
LEASE_TIMEOUT = 30.0
TRIM_SECONDS = 0.5


class StoreError(Exception):
    """The agent could not give a slab."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Memory:
    """The shared memory of one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._arena = Arena(self._lease, self._give_back, self._settle)
        self._readers = Readers(lambda segment, generation: self._map(segment, generation, False))
        self._trimmed = 0.0
        self._short = 0.0  # monotonic: until then memory is short
        self._eased = 0.0  # monotonic: when something was freed last
        self._full_since = 0.0  # monotonic: since when leases are refused
        self._full_seen = 0.0  # monotonic: when one was refused last

    def write(self, value: Serialized, prefix: str) -> Place:
        """Place a value; raises ``YRRuntimeError`` with the agent's text when there is no room."""
        try:
            return self._arena.write(value)
        except StoreError as e:
            raise remote_error(e.code, str(e).encode(), False, prefix) from None
        except SessionLost as e:
            code = 9000 if self._session.closed else 3002
            raise remote_error(code, str(e).encode(), False, prefix) from None
        except OSError as e:
            text = f"shared memory cannot be mapped: {e}"
            raise remote_error(STORE_FULL, text.encode(), False, prefix) from None

    def mapping(self, place: Place) -> Mapping:
        """Return the mapping in which a blob lies."""
        own = self._arena.mapping_of(place)
        if own is not None:
            return own
        try:
            return self._readers.mapping(place.segment, place.generation)
        except (OSError, StoreError, FrameError) as e:
            text = f"shared memory of the object cannot be mapped: {e}"
            raise remote_error(getattr(e, "code", 4299), text.encode(), False, "failed to get object") from None

    def leases(self) -> list:
        """Return the slabs held, for a resuming HELLO."""
        with self._arena.lock:
            slabs = list(self._arena.slabs.values())
        return [{"segment": s.segment, "generation": s.generation, "size": s.size} for s in slabs]

    def housekeeping(self) -> bool:
        """Background: map pages, return what is not needed; true while there is more to do at once."""
        if self._arena.populate_some():
            return True
        now = time.monotonic()
        if now - self._trimmed > TRIM_SECONDS:
            self._trimmed = now
            self._arena.trim()
            self._readers.trim()
        return False

    def on_freed(self, buf: bytes, pos: int, end: int, flags: int, corr: int) -> None:
        """Handler of FREED."""
        places = wire.decode_freed(buf, pos, end)
        self._session.objects.freed(places)
        self._arena.free(places)
        self._eased = time.monotonic()
        if self._eased < self._short:
            self._arena.trim(everything=True)
            self._session.arm()

    def on_reclaim(self, buf: bytes, pos: int, end: int, flags: int, corr: int) -> None:
        """Handler of RECLAIM."""
        self._short = time.monotonic() + SHORT_SECONDS
        self._arena.trim(everything=True)
        self._session.arm()

    def on_evict(self, buf: bytes, pos: int, end: int, flags: int, corr: int) -> None:
        """Handler of EVICT: let go of what nobody here looks at."""
        self._short = time.monotonic() + SHORT_SECONDS
        agreed = self._session.objects.evict(wire.decode_ids(buf, pos, end), self._arena.mapping_of)
        self._session.out.append(wire.ids_frame(wire.EVICTED, agreed, corr))
        self._session.arm()

    def close(self) -> None:
        """Let go of everything; views that users hold stay valid."""
        self._arena.close()
        self._readers.close()

    def _lease(self, size: int, wish: int) -> tuple | None:
        body = control.encode(control.LEASE_REQUEST, {"size": size, "wish": wish})
        while True:
            lease = self._granted(body)
            if lease is None:
                return None
            segment, generation = lease["segment"], lease["generation"]
            try:
                return segment, generation, lease["size"], self._map(segment, generation, True)
            except StoreError as e:
                if e.code not in LEASE_LOST or self._session.dead:
                    self._give_back(segment, generation)
                    raise
                # The daemon was restarted in between, and a lease that nobody had mapped went with it.
            except BaseException:
                self._give_back(segment, generation)
                raise

    def _granted(self, body: bytes) -> dict | None:
        """Ask for a lease; ``None`` if the store is full and may not be for long."""
        session = self._session
        reply = session.answer(session.request(wire.LEASE, body), LEASE_TIMEOUT)
        if reply is None:
            raise StoreError(4005, f"the yr daemon gave no memory within {LEASE_TIMEOUT:.0f} s; see `yr status`")
        lease = control.decode(control.LEASE, reply)
        status = lease["status"] or {"code": 0, "message": ""}
        now = time.monotonic()
        if status["code"] == STORE_FULL:
            if now - self._full_seen > SHORT_SECONDS:
                self._full_since = now
            self._full_seen = now
            if now - max(self._full_since, self._eased) <= FULL_PATIENCE and now - self._full_since <= FULL_LONGEST:
                self._arena.trim(everything=True)
                session.wait(lambda: False, now + FULL_STEP)
                return None
        self._full_seen = 0.0
        if status["code"]:
            raise StoreError(status["code"], status["message"])
        return lease

    def _settle(self) -> None:
        session = self._session
        session.flush()  # releases go out before the question
        session.answer(session.request(wire.PING), LEASE_TIMEOUT)

    def _give_back(self, segment: int, generation: int) -> None:
        self._session.out.append(wire.return_frame(segment, generation))

    def _map(self, segment: int, generation: int, writable: bool) -> int:
        """Fetch the descriptor of a segment; a daemon that dies meanwhile is asked again once it is back."""
        end = time.monotonic() + MAP_PATIENCE
        while True:
            try:
                return self._ask_map(segment, generation, writable)
            except (FrameError, OSError):
                if self._session.dead or time.monotonic() > end:
                    raise
                time.sleep(MAP_STEP)

    def _ask_map(self, segment: int, generation: int, writable: bool) -> int:
        """Fetch the descriptor of a segment over a connection of its own."""
        session = self._session
        request = {
            "resume_token": session.welcome["resume_token"],
            "segment": segment,
            "generation": generation,
            "writable": writable,
        }
        fds: list = []
        sock = connect_socket(session.path)
        try:
            sock.sendall(wire.frame(wire.MAP, control.encode(control.MAP_REQUEST, request)))
            data = b""
            while len(data) < 16 or len(data) < 16 + wire.decode_header(data)[0]:
                part, rights, _, _ = sock.recvmsg(4096, socket.CMSG_SPACE(4 * 4), socket.MSG_CMSG_CLOEXEC)
                for level, kind, payload in rights:
                    if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                        fds += [int.from_bytes(payload[k : k + 4], "little") for k in range(0, len(payload) - 3, 4)]
                if not part:
                    raise FrameError("the daemon closed the connection instead of answering MAP")
                data += part
            length, kind, _, _ = wire.decode_header(data)
            status = control.decode(control.STATUS, data[16 : 16 + length])
            if kind not in (wire.MAPPED, wire.REJECT):
                raise FrameError(f"expected MAPPED, got {wire.NAMES.get(kind, kind)}")
            if status["code"] or not fds:
                raise StoreError(status["code"] or 4299, status["message"] or "no descriptor came with MAPPED")
            return fds.pop(0)
        finally:
            sock.close()
            for fd in fds:
                os.close(fd)


def pinned_view(mapping: Mapping, place: Place, release: Callable[[], None]) -> memoryview:
    """Return a read-only view of a blob; ``release`` is called when nothing refers to it any more."""
    return _pinned_view(mapping, place.offset, place.length, release)
