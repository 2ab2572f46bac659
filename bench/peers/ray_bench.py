"""Serves the workloads of ``yr bench`` on Ray; ``compare.py`` asks."""

from __future__ import annotations

import argparse
import os
import sys

from ray_target import RayTarget
from yr._bench.serve import Runner, serve
from yr._bench.workload import Size


def main() -> None:
    """Reads requests from standard input and answers on the descriptor that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, required=True)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    with os.fdopen(arguments.answers, "w") as answers:
        serve(Runner(RayTarget(), Size(0.1 if arguments.quick else 1.0), os.cpu_count() or 1), sys.stdin, answers)


if __name__ == "__main__":
    main()
