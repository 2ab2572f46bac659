"""The background thread of a session: it reads when nobody waits and writes what lingers.

It must not cost the threads that work. While they read and write themselves it only looks in now and
then; it listens on the socket once a whole tick has passed without a read, or when somebody waits
without a thread of their own (``await ref``). In a worker it parks as soon as nothing has run for a while.
"""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING

from . import references

if TYPE_CHECKING:
    from .session import Session

STRAGGLER_MS = 1  # how long a frame may linger when nobody flushes
ARMED_ROUNDS = 20  # milliseconds without a straggler before it stops looking for them
TICK_MS = 50
WORKER_TICK_MS = 5
IDLE_MS = 200
PARK_AFTER = 40  # idle ticks of a worker


def run(session: Session) -> None:
    """Serve ``session`` until it is closed."""
    wake = session._wake_r
    poller = select.poll()
    poller.register(wake, select.POLLIN)
    quiet = idle = 0
    reads = sends = -1
    busy = None
    while not session.closed and not session.dead:
        if session._down:
            session.resume()
            continue
        if session.out or references.dropped:
            if session._sends == sends or not session._armed:
                session.flush()
            quiet = 0
        sends = session._sends
        again = session.housekeeping()
        if session._armed:
            quiet += 1
            if quiet <= ARMED_ROUNDS:
                _sleep(poller, wake, STRAGGLER_MS)
                continue
            session._armed = False
            if session.out:  # queued before the flag fell
                session._armed = True
                continue
        now_busy = session.busy()
        nobody_reads = session._reads == reads and not session._role.locked()
        slow_task = now_busy is not None and now_busy == busy
        reads, busy = session._reads, now_busy
        if (session._callbacks or nobody_reads or slow_task) and not session._role.locked():
            idle += 1
            _listen(session, poller, wake, 0 if again else IDLE_MS)
        elif session.is_worker and now_busy is None:
            idle += 1
            if idle > PARK_AFTER and not references.dropped:
                session._parked = True
                _sleep(poller, wake, None)
                session._parked = False
                idle = 0
            else:
                _sleep(poller, wake, TICK_MS)
        else:
            idle = 0
            _sleep(poller, wake, WORKER_TICK_MS if session.is_worker else TICK_MS)
        quiet = 0


def _listen(session: Session, poller: select.poll, wake: int, timeout: int) -> None:
    """Wait for the socket as well, and read unless another thread came to do it."""
    sock = session._sock
    fd = sock.fileno() if sock is not None else -1
    if fd < 0:
        return
    poller.register(fd, select.POLLIN)
    try:
        events = dict(poller.poll(timeout))
    finally:
        poller.unregister(fd)
    if wake in events:
        _drain(wake)
    if fd in events:
        if session._role.locked():
            _sleep(poller, wake, STRAGGLER_MS)  # a foreground thread reads; do not compete
        else:
            session.poll()


def _sleep(poller: select.poll, wake: int, timeout: object) -> None:
    if poller.poll(timeout):
        _drain(wake)


def _drain(wake: int) -> None:
    try:
        os.read(wake, 4096)
    except OSError:
        time.sleep(0)
