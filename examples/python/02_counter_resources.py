"""Resources: an instance that asks for a core, 1024 MiB and one "ssd".

    yr start --master -s 'function_agent.args.custom_resources="{\\"ssd\\":1}"'
    python 02_counter_resources.py
    yr stop

"ssd" is a name of our choosing: a node has what it was started with. An instance holds
its resources for as long as it lives, so a second one waits until the first has ended.
Where no node has an ssd at all, yr says so at once instead of waiting.
"""

from __future__ import annotations

import yr


@yr.instance
class Counter:
    def __init__(self) -> None:
        self.total = 0

    def add(self, amount: int = 1) -> int:
        self.total += amount
        return self.total


def count() -> None:
    options = yr.InvokeOptions(cpu=1000, memory=1024, custom_resources={"ssd": 1})

    first = Counter.options(options).invoke()
    print("first counter:", *yr.get([first.add.invoke() for _ in range(3)]))

    second = Counter.options(options).invoke()
    waiting = second.add.invoke(10)
    _, not_ready = yr.wait([waiting], timeout=1)
    print("second counter waits for the ssd:", len(not_ready) == 1)

    first.terminate(is_sync=True)
    print("second counter, after the first has ended:", yr.get(waiting))
    second.terminate(is_sync=True)


def main() -> None:
    yr.init()
    try:
        count()
    except yr.YRError as error:
        print("no counter:", error)
    yr.finalize()


if __name__ == "__main__":
    main()
