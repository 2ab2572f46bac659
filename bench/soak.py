"""make soak: a million calls and a hundred thousand objects, and nothing may grow.

    bench/soak.py [--calls 1000000] [--puts 100000] [--rounds 20]

It starts a cluster of its own and works in rounds: calls of a function, calls of an instance, and put-and-drop of small
and large values. After each round it asks the kernel about every process of the cluster and about itself: private
memory and open descriptors. The first fifth of the rounds warms caches up; what the others show must be flat.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SESSIONS = ROOT / "build" / "soak" / "sessions"

# What may be above the level after warming up: allocators keep some air, and logs open a file.
MEMORY_SLACK_MIB = 4
MEMORY_SLACK = 0.10
DESCRIPTOR_SLACK = 4

# One value that travels inside the frame and two that lie in shared memory.
SIZES = (100, 20_000, 1_000_000)


@dataclass
class Sample:
    """What a process holds at one moment."""

    memory_mib: float
    descriptors: int


def sample(pid: int) -> Sample:
    """Reads private memory, which excludes the shared segments, and the number of descriptors."""
    status = Path(f"/proc/{pid}/status").read_text()
    anonymous = int(re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)[1])
    return Sample(anonymous / 1024, len(os.listdir(f"/proc/{pid}/fd")))


def children_of(pid: int) -> list[int]:
    """The processes whose parent is pid, oldest first."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted(int(child) for thread in threads for child in thread.read_text().split())


def start_cluster() -> None:
    """Starts a node of this repository's build and points yr.init() at it."""
    shutil.rmtree(SESSIONS, ignore_errors=True)
    os.environ["YR_MASTER_INFO_PATH"] = str(SESSIONS / "yr_current_master_info")
    yr_command("start", "--master", "-s", "values.cpu_num=8000", "-s", "values.memory_num=8192")


def yr_command(*arguments: str) -> None:
    """Runs the yr binary on this program's own session directory."""
    command = [ROOT / "build" / "yr", *arguments, "--log-dir-prefix", SESSIONS]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60)


def daemon_processes() -> dict[str, int]:
    """The parent that holds the sockets and its child, the daemon."""
    session = json.loads((SESSIONS / "latest" / "session.json").read_text())
    parent = int(session["cluster_info"]["daemon"]["pid"])
    return {"parent": parent, "daemon": children_of(parent)[0]}


class Soak:
    """The work: one round of it at a time, on the same workers throughout."""

    def __init__(self) -> None:
        import yr

        self.yr = yr
        yr.init(yr.Config(recycle_time=300))  # an idle worker would end, and another be measured

        @yr.invoke
        def double(number):
            return 2 * number

        @yr.invoke
        def process():
            return os.getpid()

        @yr.instance
        class Counter:
            def __init__(self):
                self.total = 0

            def add(self, amount):
                self.total += amount
                return self.total

            def process(self):
                return os.getpid()

        self.double, self.counter, self.total = double, Counter.invoke(), 0
        self.workers = {"instance": yr.get(self.counter.process.invoke()), "function": yr.get(process.invoke())}

    def calls(self, number: int) -> None:
        """Half of them to a function, half to an instance, in flight by the thousand; all results are checked."""
        for first in range(0, number // 2, 1000):
            inputs = range(first, first + 1000)
            doubled = [self.double.invoke(n) for n in inputs]
            totals = [self.counter.add.invoke(1) for _ in inputs]
            assert self.yr.get(doubled) == [2 * n for n in inputs]
            assert self.yr.get(totals) == list(range(self.total + 1, self.total + 1001))
            self.total += 1000

    def puts(self, number: int) -> None:
        """Puts a value, reads it back and drops it."""
        values = [bytes([n % 251]) * SIZES[n % len(SIZES)] for n in range(30)]
        for n in range(number):
            value = values[n % len(values)]
            assert len(self.yr.get(self.yr.put(value))) == len(value)


def grown(samples: list[Sample]) -> str | None:
    """What grew after warming up, in words, or None.

    A leak grows from part to part. A single step does not count: it is a peak (a stalled machine, a late answer)
    whose memory the allocator kept.
    """
    warm = samples[len(samples) // 5 :]
    third = max(1, len(warm) // 3)
    parts = warm[:third], warm[third:-third] or warm[:third], warm[-third:]
    memory = [statistics.median(s.memory_mib for s in part) for part in parts]
    slack = (memory[0] * MEMORY_SLACK + MEMORY_SLACK_MIB) / 2
    if memory[1] > memory[0] + slack and memory[2] > memory[1] + slack:
        return "memory from {:.1f} over {:.1f} to {:.1f} MiB".format(*memory)
    descriptors = [max(s.descriptors for s in part) for part in (parts[0], parts[-1])]
    if descriptors[1] > descriptors[0] + DESCRIPTOR_SLACK:
        return f"descriptors from {descriptors[0]} to {descriptors[1]}"
    return None


def soak(calls: int, puts: int, rounds: int) -> int:
    """Works, measures, prints a line for each round, and returns the exit status."""
    work = Soak()
    processes = {**daemon_processes(), "driver": os.getpid(), **work.workers}
    history: dict[str, list[Sample]] = {name: [] for name in processes}
    print("private MiB / descriptors")
    print(f"{'round':>5} {'seconds':>8} " + " ".join(f"{name:>14}" for name in processes))
    for number in range(rounds):
        began = time.monotonic()
        work.calls(calls // rounds)
        work.puts(puts // rounds)
        seconds = time.monotonic() - began
        for name, pid in processes.items():
            history[name].append(sample(pid))
        cells = (f"{history[name][-1].memory_mib:.1f} / {history[name][-1].descriptors}" for name in processes)
        print(f"{number + 1:>5} {seconds:>8.1f} " + " ".join(f"{cell:>14}" for cell in cells), flush=True)
    work.yr.finalize()

    verdicts = {name: grown(samples) for name, samples in history.items()}
    for name, verdict in verdicts.items():
        print(f"{name}: {verdict or 'flat'}")
    return 1 if any(verdicts.values()) else 0


def main() -> int:
    """Parses the flags and runs on a private cluster that is stopped whatever happens."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=1_000_000, help="in all, over all rounds")
    parser.add_argument("--puts", type=int, default=100_000, help="rounds of put, get and drop")
    parser.add_argument("--rounds", type=int, default=20, help="measurements")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT / "sdk" / "python"))
    start_cluster()
    try:
        return soak(arguments.calls, arguments.puts, arguments.rounds)
    finally:
        yr_command("stop")


if __name__ == "__main__":
    sys.exit(main())
