"""What physics allows on this machine now: the same trips without a system in between.

Each floor is measured in the same round as the figure beside it and with the same arrangement of processes: a client
in the benchmark's process, its partner in another, both blocking, nothing pinned.
"""

from __future__ import annotations

import os
import socket
import statistics
import struct
import subprocess
import sys
import time
from types import TracebackType

HEADER = struct.Struct("<IBBHQ")
"""A length, a type and a number: the least that tells one call from another."""

FRAME = 96
"""Bytes of a small call with its header."""

REPLY = 64
"""Bytes of a small result with its header."""


class Echo:
    """A Unix-socket echo between two Python processes."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._partner = subprocess.Popen(
            [sys.executable, "-S", os.path.abspath(__file__), "echo", str(theirs.fileno())], pass_fds=[theirs.fileno()]
        )
        theirs.close()
        self.batched(10, 1)

    def __enter__(self) -> Echo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._partner.wait()

    def round_trips(self, count: int) -> list[float]:
        """Seconds of each of ``count`` blocking round trips, one after the other."""
        frame, send, receive, clock = bytes(FRAME), self._socket.sendall, self._socket.recv, time.perf_counter
        trips = []
        for _ in range(count):
            began = clock()
            send(frame)
            receive(REPLY)
            trips.append(clock() - began)
        return trips

    def batched(self, batch: int, batches: int) -> float:
        """Frames a second when ``batch`` frames are sent at once and all answers awaited before the next batch.

        Either side packs and unpacks a header for every frame, as an SDK must, and does nothing else.
        """
        pack, unpack, body, answer = (
            HEADER.pack,
            HEADER.unpack_from,
            bytes(FRAME - HEADER.size),
            bytearray(REPLY * batch),
        )
        began = time.perf_counter()
        for _ in range(batches):
            self._socket.sendall(b"".join([pack(len(body), 16, 0, 0, number) + body for number in range(batch)]))
            missing = memoryview(answer)
            while missing:
                missing = missing[self._socket.recv_into(missing) :]
            for start in range(0, len(answer), REPLY):
                unpack(answer, start)
        return batch * batches / (time.perf_counter() - began)


class Copy:
    """memcpy of ``size`` bytes between two buffers whose pages are resident."""

    def __init__(self, size: int) -> None:
        # Written bytes: a buffer of zeros is one page, mapped many times, that never leaves the cache.
        self.source, self._to = memoryview(os.urandom(size)), memoryview(bytearray(size))
        self.seconds()

    def seconds(self) -> float:
        """One copy."""
        began = time.perf_counter()
        self._to[:] = self.source
        return time.perf_counter() - began


def fork(count: int) -> float:
    """Median seconds from ``fork`` of a warm, single-threaded Python to the child's first byte."""
    done = subprocess.run(
        [sys.executable, "-S", os.path.abspath(__file__), "fork", str(count)],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout)


def _serve_echo(descriptor: int) -> None:
    connection, body, rest = socket.socket(fileno=descriptor), bytes(REPLY - HEADER.size), b""
    while True:
        data = connection.recv(1 << 18)
        if not data:
            return
        rest += data
        whole = len(rest) // FRAME * FRAME
        numbers = [HEADER.unpack_from(rest, start)[4] for start in range(0, whole, FRAME)]
        if numbers:
            connection.sendall(b"".join([HEADER.pack(len(body), 18, 0, 0, number) + body for number in numbers]))
            rest = rest[whole:]


def _fork_repeatedly(count: int) -> None:
    times = []
    for _ in range(count):
        ours, theirs = os.pipe()
        began = time.perf_counter()
        child = os.fork()
        if child == 0:
            os.write(theirs, b"1")
            os._exit(0)
        os.read(ours, 1)
        times.append(time.perf_counter() - began)
        os.waitpid(child, 0)
        os.close(ours)
        os.close(theirs)
    print(statistics.median(times))


if __name__ == "__main__":
    if sys.argv[1] == "echo":
        _serve_echo(int(sys.argv[2]))
    else:
        _fork_repeatedly(int(sys.argv[2]))
