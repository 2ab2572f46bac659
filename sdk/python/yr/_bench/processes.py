"""CPU time and memory of processes, read from ``/proc``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def parent(pid: int) -> int:
    """The parent's id, 0 when the process is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def executable(pid: int) -> str:
    """The path of the program, empty when the process is gone."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def command(pid: int) -> str:
    """The command line as text, empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def descendants(root: int) -> list[int]:
    """``root`` and all below it."""
    parents = {int(entry): parent(int(entry)) for entry in os.listdir("/proc") if entry.isdigit()}
    tree = [root]
    for pid in tree:
        tree.extend(child for child, above in parents.items() if above == pid)
    return tree


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU that all threads of these processes have used, to the nanosecond where the kernel counts it."""
    total = 0
    for pid in pids:
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                total += int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0])
        except (OSError, IndexError):  # ended meanwhile
            continue
    return total / 1e9


def memory(pid: int) -> dict[str, float]:
    """MiB of ``private`` pages, of pages ``shared`` with others, and the proportional sum ``pss``."""
    fields = {}
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            key, _, rest = line.partition(":")
            fields[key] = int(rest.split()[0]) / 1024
    except OSError:
        return {"private": 0.0, "shared": 0.0, "pss": 0.0}
    return {
        "private": fields["Private_Clean"] + fields["Private_Dirty"],
        "shared": fields["Shared_Clean"] + fields["Shared_Dirty"],
        "pss": fields["Pss"],
    }
