"""Shared memory of one session: the slabs that it leased, and the segments of others that it reads.

A slab is written by this process alone, wherever its own allocator says; readers map it read-only.
Pages are the cost: a page that nobody has touched is written several times faster with ``pwrite``
into the memfd than through a fresh mapping, while a page that is mapped already is just memory. So
the first blob on cold pages is written with ``pwrite`` and its pages are mapped in the background;
recycled space is written with a copy.

Nothing here talks to the agent: :class:`Arena` gets its slabs and descriptors from two callables.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import time
import weakref
from collections import deque
from typing import Any, Callable

from .serialization import Serialized
from .wire import Place

ALIGN = 64
SLAB_FIRST = 1 << 20  # wish of the first lease; doubles with use
SLAB_LARGEST = 64 << 20
OWN_SLAB_FROM = 1 << 20  # a blob of this size gets a slab of its own
PWRITE_FROM = 256 << 10  # smaller cold writes are not worth a system call each
SPARE_SECONDS = 2.0  # how long an empty slab is kept for the next blob
SPARE_BYTES = 256 << 20  # and how many bytes of them

_MADV_POPULATE_WRITE = 23  # Linux 5.14; failure means only that pages are mapped on first use

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_MAP_FAILED = ctypes.c_void_p(-1).value


class Mapping:
    """A mapped segment. It stays mapped while it, or an array made from it, is referred to."""

    __slots__ = ("address", "size")

    def __init__(self, fd: int, size: int, writable: bool) -> None:
        prot = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        address = _libc.mmap(None, size, prot, mmap.MAP_SHARED, fd, 0)
        if address == _MAP_FAILED:
            raise OSError(ctypes.get_errno(), f"cannot map {size} bytes of shared memory")
        self.address = address
        self.size = size

    def __del__(self, munmap: Any = _libc.munmap) -> None:
        if getattr(self, "address", None):
            munmap(self.address, self.size)

    def array(self, offset: int, length: int) -> Any:
        """Return a ctypes array over a range; whoever holds it must also hold the mapping."""
        if offset + length > self.size:
            raise ValueError(f"range {offset}+{length} lies outside a segment of {self.size} bytes")
        return (ctypes.c_ubyte * length).from_address(self.address + offset)

    def populate(self, offset: int, length: int) -> None:
        """Map the pages of a range for writing; releases the GIL."""
        start = offset & -mmap.PAGESIZE
        _libc.madvise(self.address + start, offset + length - start, _MADV_POPULATE_WRITE)


class _Pin(weakref.ref):
    """Tells when the last view of a blob is gone. Kept in ``_pins``, since a dead weakref calls nothing."""

    __slots__ = ("mapping", "release")


_pins: dict = {}  # id of the pin -> pin; a weakref hashes like its array, which does not


def _unpin(pin: _Pin) -> None:
    # Runs in any thread, also inside a garbage collection: takes no lock.
    _pins.pop(id(pin), None)
    pin.release()


def pinned_view(mapping: Mapping, offset: int, length: int, release: Callable[[], None]) -> memoryview:
    """Return a read-only view; ``release`` is called once nothing refers to the memory any more."""
    array = mapping.array(offset, length)
    pin = _Pin(array, _unpin)
    pin.mapping = mapping
    pin.release = release
    _pins[id(pin)] = pin
    return memoryview(array).cast("B").toreadonly()


class Slab:
    """A leased segment. ``Arena.lock`` protects its fields."""

    __slots__ = (
        "bump",
        "epoch",
        "fd",
        "generation",
        "high",
        "idle_since",
        "live",
        "mapping",
        "own",
        "segment",
        "size",
        "view",
    )

    def __init__(self, segment: int, generation: int, size: int, fd: int, own: bool) -> None:
        self.segment = segment
        self.generation = generation
        self.size = size
        self.fd = fd
        self.own = own  # holds one large blob at a time, at offset 0
        self.mapping = Mapping(fd, size, True)
        self.view = memoryview(self.mapping.array(0, size)).cast("B")
        self.bump = 0
        self.high = 0  # bytes from the start that have been written before
        self.live: dict = {}  # offset -> space taken
        self.epoch = 0  # entries of free lists from an earlier epoch are stale
        self.idle_since = time.monotonic()

    def close(self) -> None:
        """Give up the descriptor; views keep the mapping."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def size_class(n: int) -> int:
    """Round up to a multiple of 64 with at most 12.5 % waste, so that freed space is found again."""
    if n <= 512:
        return max(ALIGN, -(-n // ALIGN) * ALIGN)
    step = max(ALIGN, 1 << (n.bit_length() - 4))
    return -(-n // step) * step


class Arena:
    """The slabs of one session and what is free in them.

    ``lease(size, wish)`` returns ``(segment, generation, size, fd)`` or raises; or ``None``, after some
    time: there was no room, but look again at what is free here. ``give_back(segment, generation)``
    returns a slab to the node; ``settle()`` returns when the agent has said what became free by the
    references that were dropped until now.
    """

    def __init__(
        self,
        lease: Callable[[int, int], tuple | None],
        give_back: Callable[[int, int], None],
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        self.lock = threading.Lock()
        self._leasing = threading.Lock()
        self._lease = lease
        self._give_back = give_back
        self._settle = settle
        self.slabs: dict = {}  # (segment, generation) -> Slab
        self._current: Slab | None = None
        self._free: dict = {}  # size class -> [(slab, epoch, offset)]
        self._wish = SLAB_FIRST
        self._populate: deque = deque()  # (slab, start, end) whose pages are to be mapped

    def write(self, value: Serialized) -> Place:
        """Place a value in shared memory and return where. Raises what ``lease`` raises."""
        space = size_class(value.size)
        slab, offset, cold = self._reserve(space)
        try:
            _fill(slab, offset, value, cold)
        except BaseException:
            self.free([Place(slab.segment, slab.generation, offset, value.size)])
            raise
        if cold and value.size >= PWRITE_FROM:
            self._populate.append((slab, offset, offset + value.size))
        return Place(slab.segment, slab.generation, offset, value.size)

    def _reserve(self, space: int) -> tuple:
        """Return ``(slab, offset, cold)`` of free space, leasing a slab if there is none."""
        with self.lock:
            found = self._take(space)
        if found:
            return found
        with self._leasing:
            if self.slabs:  # a round trip costs less than pages that were never touched
                self._settle()
            while True:
                with self.lock:  # something may have become free meanwhile, or another thread has leased
                    found = self._take(space)
                if found:
                    return found
                slab = self._new_slab(space)
                if slab is None:
                    continue
                with self.lock:
                    self.slabs[slab.segment, slab.generation] = slab
                    if not slab.own:
                        self._current = slab
                    return _bump(slab, space)

    def _take(self, space: int) -> tuple | None:
        if space >= OWN_SLAB_FROM:
            fits = [s for s in self.slabs.values() if s.own and not s.live and space <= s.size <= 2 * space]
            if not fits:
                return None
            slab = min(fits, key=lambda s: s.size)
        else:
            free = self._free.get(space)
            while free:
                slab, epoch, offset = free.pop()
                if slab.epoch == epoch and slab.fd >= 0:
                    slab.live[offset] = space
                    return slab, offset, False
            slab = self._current
            if slab is None or slab.bump + space > slab.size:
                slab = next((s for s in self.slabs.values() if not s.own and s.bump + space <= s.size), None)
                if slab is None:
                    return None
                self._current = slab
        return _bump(slab, space)

    def _new_slab(self, space: int) -> Slab | None:
        own = space >= OWN_SLAB_FROM
        wish = space if own else max(self._wish, space)
        lease = self._lease(space, wish)
        if lease is None:
            return None
        segment, generation, size, fd = lease
        try:
            slab = Slab(segment, generation, size, fd, own)
        except BaseException:
            os.close(fd)
            raise
        if not own:
            self._wish = min(2 * self._wish, SLAB_LARGEST)
        return slab

    def free(self, places: list) -> None:
        """The agent says that these blobs are gone, or a write failed: their space may be used again."""
        with self.lock:
            for p in places:
                slab = self.slabs.get((p.segment, p.generation))
                space = slab.live.pop(p.offset, 0) if slab else 0
                if not space:
                    continue
                if not slab.live:
                    slab.bump = 0
                    slab.epoch += 1
                    slab.idle_since = time.monotonic()
                elif not slab.own:
                    self._free.setdefault(space, []).append((slab, slab.epoch, p.offset))

    def trim(self, everything: bool = False) -> None:
        """Return slabs that hold nothing: old ones, those beyond the spare bytes, or all of them."""
        now = time.monotonic()
        gone = []
        with self.lock:
            empty = sorted((s for s in self.slabs.values() if not s.live), key=lambda s: -s.idle_since)
            spare = 0
            for slab in empty:
                spare += slab.size
                recent = now - slab.idle_since < SPARE_SECONDS
                keep = spare <= SLAB_FIRST or (recent and spare <= SPARE_BYTES)
                if keep and not everything:
                    continue
                del self.slabs[slab.segment, slab.generation]
                if self._current is slab:
                    self._current = None
                gone.append(slab)
            if gone and not self.slabs:
                self._free.clear()
                self._wish = SLAB_FIRST
        for slab in gone:
            slab.close()
            self._give_back(slab.segment, slab.generation)

    def populate_some(self) -> bool:
        """Map the pages of one range that was written with ``pwrite``; false when there is none."""
        try:
            slab, start, end = self._populate.popleft()
        except IndexError:
            return False
        slab.mapping.populate(start, end - start)
        return True

    def mapping_of(self, place: Place) -> Mapping | None:
        """Return the mapping of an own slab."""
        slab = self.slabs.get((place.segment, place.generation))
        return slab.mapping if slab else None

    def close(self) -> None:
        """Forget every slab without returning it: the session has ended."""
        with self.lock:
            slabs = list(self.slabs.values())
            self.slabs.clear()
            self._free.clear()
            self._current = None
        for slab in slabs:
            slab.close()


def _bump(slab: Slab, space: int) -> tuple:
    """Take space at the end of what is used in a slab."""
    offset = slab.bump
    slab.bump += space
    slab.live[offset] = space
    cold = slab.bump > slab.high
    slab.high = max(slab.high, slab.bump)
    return slab, offset, cold


def _fill(slab: Slab, offset: int, value: Serialized, cold: bool) -> None:
    if cold and value.size >= PWRITE_FROM:
        for at, part in value.parts:
            _pwrite(slab.fd, part, offset + at)
        return
    view = slab.view
    for at, part in value.parts:
        view[offset + at : offset + at + len(part)] = part


def _pwrite(fd: int, part: Any, offset: int) -> None:
    rest = memoryview(part)
    while rest:
        n = os.pwrite(fd, rest, offset)
        rest, offset = rest[n:], offset + n


class Readers:
    """Read-only mappings of segments that other sessions write, dropped when unused for a while."""

    def __init__(self, open_segment: Callable[[int, int], int]) -> None:
        self._open = open_segment  # (segment, generation) -> descriptor
        self._lock = threading.Lock()
        self._mapped: dict = {}  # (segment, generation) -> [Mapping, monotonic time of last use]

    def mapping(self, segment: int, generation: int) -> Mapping:
        """Return the mapping of a segment, mapping it if need be."""
        key = (segment, generation)
        with self._lock:
            entry = self._mapped.get(key)
            if entry is None:
                for stale in [k for k in self._mapped if k[0] == segment]:
                    del self._mapped[stale]
                fd = self._open(segment, generation)
                try:
                    entry = [Mapping(fd, os.fstat(fd).st_size, False), 0.0]
                finally:
                    os.close(fd)
                self._mapped[key] = entry
            entry[1] = time.monotonic()
            return entry[0]

    def trim(self) -> None:
        """Forget mappings that have not been used for a while; views keep theirs alive."""
        if not self._mapped:
            return
        limit = time.monotonic() - SPARE_SECONDS
        with self._lock:
            for key in [k for k, (_, used) in self._mapped.items() if used < limit]:
                del self._mapped[key]

    def close(self) -> None:
        """Forget every mapping."""
        with self._lock:
            self._mapped.clear()
