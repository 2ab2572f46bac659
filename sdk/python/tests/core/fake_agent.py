"""An agent of a few hundred lines: the frames are real, the placement is one line.

Tests decide what calls give: ``agent.on_call`` gets a decoded CALL and returns what to send. Nothing
sleeps; tests wait with :meth:`FakeAgent.until`.
"""

from __future__ import annotations

import array
import os
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable

from yr._core import control, serialization, wire
from yr._core.session import _read_exactly

WAIT = 10.0


class Peer:
    """One session, as the agent sees it."""

    def __init__(self, agent: FakeAgent, sock: socket.socket, hello: dict) -> None:
        self.agent = agent
        self.sock = sock
        self.hello = hello
        self.frames: list = []  # (type, flags, corr, body)
        self.gone = False

    def send(self, *frames: bytes) -> None:
        self.sock.sendall(b"".join(frames))

    def of(self, kind: int) -> list:
        """Return the bodies of the frames of one type that came in."""
        return [body for k, _, _, body in self.frames if k == kind]

    def close(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


class FakeAgent:
    """Serves sessions on a Unix socket in a directory of its own."""

    def __init__(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="yr-fake-"))
        self.path = str(self.dir / "yr.sock")
        self.credit = 1000
        self.put_max = 4096
        self.put_budget = 1 << 20
        self.assignment: dict = {}
        self.peers: list = []
        self.segments: dict = {}  # segment -> descriptor
        self.full = False
        self.refused: tuple | None = None
        self.on_call: Callable[[Peer, wire.Call], Any] = lambda peer, call: wire.result(
            call.id, [(call.args or serialization.NONE, [])] * call.returns
        )
        self._changed = threading.Condition()
        self._listener: socket.socket | None = None
        self.listen()

    # ---- life

    def listen(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def crash(self, stay_away: bool = False) -> None:
        """Break every connection; sessions may resume unless it stays away."""
        if stay_away:
            self._shut_listener()
        for peer in self.peers:
            peer.close()

    def _shut_listener(self) -> None:
        if self._listener is not None:
            listener, self._listener = self._listener, None
            os.unlink(self.path)
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def close(self) -> None:
        self._shut_listener()
        for peer in self.peers:
            peer.close()
        for fd in self.segments.values():
            os.close(fd)
        os.rmdir(self.dir)

    def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until ``condition()`` holds; return its value."""
        end = time.monotonic() + WAIT
        with self._changed:
            while True:
                value = condition()
                if value:
                    return value
                assert time.monotonic() < end, f"this did not become true: {condition}"
                self._changed.wait(0.02)

    # ---- serving

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        peer = None
        try:
            while True:
                length, kind, flags, corr = wire.decode_header(_read_exactly(sock, 16))
                body = _read_exactly(sock, length)
                if peer is None:
                    if kind == wire.MAP:
                        return self._map(sock, body)
                    peer = self._hello(sock, body)
                    continue
                with self._changed:
                    peer.frames.append((kind, flags, corr, body))
                    self._changed.notify_all()
                self._answer(peer, kind, flags, corr, body)
        except (OSError, wire.FrameError):
            pass
        finally:
            with self._changed:
                if peer is not None:
                    peer.gone = True
                self._changed.notify_all()
            sock.close()

    def _hello(self, sock: socket.socket, body: bytes) -> Peer:
        assert wire.HELLO_FIELDS.unpack_from(body) == (wire.MAGIC, 1, 1)
        hello = control.decode(control.HELLO, body[8:])
        peer = Peer(self, sock, hello)
        if self.refused:
            code, text = self.refused
            peer.send(wire.frame(wire.REJECT, control.encode(control.STATUS, {"code": code, "message": text})))
            raise OSError("refused")
        welcome = {
            "version": 1,
            "job": "job-00000001",
            "node": "fake",
            "resume_token": hello["resume_token"] or f"resume-{hello['prefix']}",
            "credit": self.credit,
            "inline_put_max": self.put_max,
            "inline_put_budget": self.put_budget,
            "inline_result_max": 65536,
            "resumed": bool(hello["resume_token"]),
        }
        if hello["role"] == 2:
            welcome["assignment"] = control.encode(control.ASSIGNMENT, self.assignment)
        peer.send(wire.frame(wire.WELCOME, control.encode(control.WELCOME, welcome)))
        with self._changed:
            self.peers.append(peer)
            self._changed.notify_all()
        return peer

    def _answer(self, peer: Peer, kind: int, flags: int, corr: int, body: bytes) -> None:
        if kind == wire.CALL:
            reply = self.on_call(peer, wire.decode_call(body, 0, len(body)))
            if reply:
                peer.send(reply)
        elif kind in (wire.GOODBYE, wire.KILL):
            peer.send(wire.frame(wire.DONE, b"", corr))
        elif kind == wire.PING:
            peer.send(wire.frame(wire.PONG, b"", corr))
        elif kind == wire.LEASE:
            peer.send(wire.frame(wire.LEASED, self._lease(control.decode(control.LEASE_REQUEST, body)), corr))

    # ---- memory

    def _lease(self, request: dict) -> bytes:
        if self.full:
            status = {"code": 4202, "message": "no room for 1 MiB"}
            return control.encode(control.LEASE, {"status": status})
        size = max(request["size"], min(request["wish"], 1 << 20))
        return control.encode(control.LEASE, {"segment": self.segment(size), "generation": 1, "size": size})

    def segment(self, size: int) -> int:
        """Make a segment and return its number."""
        fd = os.memfd_create("fake-segment")
        os.ftruncate(fd, size)
        number = len(self.segments) + 1
        self.segments[number] = fd
        return number

    def _map(self, sock: socket.socket, body: bytes) -> None:
        request = control.decode(control.MAP_REQUEST, body)
        fd = self.segments[request["segment"]]
        flags = os.O_RDWR if request["writable"] else os.O_RDONLY
        passed = os.open(f"/proc/self/fd/{fd}", flags)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [passed]))]
        sock.sendmsg([wire.frame(wire.MAPPED)], rights)
        os.close(passed)
        sock.close()
