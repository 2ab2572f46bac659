"""Names: an instance that outlives the program that made it and is found again.

    python 04_named_instance.py     # makes the counter, or finds it
    python 04_named_instance.py     # counts on
    python 04_named_instance.py --end

"detached" parts the instance from its maker: it ends when somebody ends it or when the
cluster stops. So this needs a running cluster (yr start --master); a temporary one ends
with the program, and takes the counter along.
"""

from __future__ import annotations

import sys

import yr


@yr.instance
class Visits:
    def __init__(self) -> None:
        self.total = 0

    def count(self) -> int:
        self.total += 1
        return self.total


def main() -> None:
    yr.init()
    visits = Visits.options(name="visits", lifetime="detached", get_if_exists=True).invoke()
    print("visit number", yr.get(visits.count.invoke()))
    if "--end" in sys.argv:
        visits.terminate(is_sync=True)
        print("ended")
    yr.finalize()


if __name__ == "__main__":
    main()
