"""Handles travel: an instance made here is called by functions that run elsewhere.

    python 03_pass_handle.py

A handle names the instance; it does not copy it. All who hold one talk to the same
counter, and the calls of each of them keep their order.
"""

from __future__ import annotations

import yr


@yr.instance
class Counter:
    def __init__(self) -> None:
        self.total = 0

    def add(self, amount: int) -> int:
        self.total += amount
        return self.total


@yr.invoke
def add_many(counter: yr.InstanceProxy, amount: int, times: int) -> list[int]:
    """Runs in a worker of its own and calls an instance that somebody else made."""
    return yr.get([counter.add.invoke(amount) for _ in range(times)])


def main() -> None:
    yr.init()
    counter = Counter.invoke()

    seen_by_ones, seen_by_tens = yr.get([add_many.invoke(counter, 1, 5), add_many.invoke(counter, 10, 5)])
    for name, totals in (("ones", seen_by_ones), ("tens", seen_by_tens)):
        print(f"{name}: made 5 calls, totals only grew: {totals == sorted(totals)}")
    print("total:", yr.get(counter.add.invoke(0)))

    counter.terminate()
    yr.finalize()


if __name__ == "__main__":
    main()
