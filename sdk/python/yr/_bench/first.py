"""A fresh program from import to its first result, through a temporary cluster; prints the milliseconds."""

from __future__ import annotations

import time


def main() -> None:
    """Times what a newcomer waits for."""
    began = time.perf_counter()
    import yr

    from .bodies import small

    yr.init()
    yr.get(yr.invoke(small).invoke())
    elapsed = time.perf_counter() - began
    yr.finalize()
    print(f"{elapsed * 1e3:.1f}")


if __name__ == "__main__":
    main()
