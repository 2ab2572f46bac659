"""Pi by throwing darts, on every core.

    python monte_carlo_pi.py [MILLIONS OF DARTS]

Workers are forked from one warm Python. A fork copies the state of the random
generators, and workers that throw the same darts learn nothing from one another. So yr
gives each worker generators of its own. This program relies on that, and checks it.
"""

from __future__ import annotations

import math
import os
import random
import sys

import yr

BATCHES_PER_CORE = 4


@yr.invoke(invoke_options=yr.InvokeOptions(cpu=1000))
def throw(darts: int) -> tuple[float, int, int]:
    """Throws at the unit square; returns the first dart, the hits of the circle and the process."""
    first = random.random()
    hits = sum(math.hypot(random.random(), random.random()) < 1.0 for _ in range(darts))
    return first, hits, os.getpid()


def main() -> None:
    total = int(float(sys.argv[1] if len(sys.argv) > 1 else 4) * 1_000_000)
    batches = BATCHES_PER_CORE * (os.cpu_count() or 1)
    darts = total // batches

    yr.init()
    results = yr.get([throw.invoke(darts) for _ in range(batches)])
    yr.finalize()

    firsts, hits, processes = zip(*results)
    pi = 4 * sum(hits) / (darts * batches)
    print(f"{batches} batches in {len(set(processes))} processes")
    print("every batch threw its own darts:", len(set(firsts)) == batches)
    print(f"pi is about {pi:.2f}")


if __name__ == "__main__":
    main()
