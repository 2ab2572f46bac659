"""The command line of ``yr bench``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from . import report
from .serve import Runner, serve
from .target import YrTarget
from .workload import Size, Workload
from .workloads import WORKLOADS


def main() -> int:
    """Runs the named workloads and prints their table. The exit code is 1 only when a workload could not run."""
    arguments = _parse()
    if arguments.list:
        print(report.align([("workload", "what"), *((workload.name, workload.about) for workload in WORKLOADS)]))
        return 0
    size = Size(0.1 if arguments.quick else 1.0)
    runner = Runner(YrTarget(arguments.yr), size, os.cpu_count() or 1)
    if arguments.answers is not None:
        with os.fdopen(arguments.answers, "w") as answers:
            serve(runner, sys.stdin, answers)
        return 0
    chosen = [workload for workload in WORKLOADS if not arguments.names or workload.name in arguments.names]
    records, failed = _run(runner, chosen, 3 if arguments.quick else arguments.rounds)
    if arguments.json != "-":
        print(report.table(records))
    if arguments.json:
        document = json.dumps({"machine": report.machine(), "figures": records, "failed": failed}, indent=1)
        if arguments.json == "-":
            print(document)
        else:
            with open(arguments.json, "w", encoding="utf-8") as file:
                file.write(document + "\n")
    return 1 if failed else 0


def _run(runner: Runner, chosen: list[Workload], rounds: int) -> Any:
    records: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    try:
        for workload in chosen:
            print(f"{workload.name} ...", end=" ", file=sys.stderr, flush=True)
            try:
                runner.open(workload)
                records += report.summarize(workload, [runner.round() for _ in range(rounds)])
                print("done", file=sys.stderr)
            except Exception as error:
                failed[workload.name] = f"{type(error).__name__}: {error}"
                print(f"failed: {failed[workload.name]}", file=sys.stderr)
            finally:
                runner.close()
    finally:
        runner.quit()
    return records, failed


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="yr bench",
        description="Measures a private one-node cluster, each figure beside "
        "its floor in the same run. Nothing is asserted.",
    )
    names = [workload.name for workload in WORKLOADS]
    parser.add_argument("names", nargs="*", metavar="WORKLOAD", help="one of: " + ", ".join(names) + " (default: all)")
    parser.add_argument("--list", action="store_true", help="show the workloads and end")
    parser.add_argument(
        "--json", metavar="FILE", help="also write the figures there as JSON; - for standard output alone"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the work and 3 rounds: a look, not a measurement"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each workload (default 5)")
    parser.add_argument("--yr", metavar="PATH", help="the binary (default: $YR_BINARY, then yr on PATH)")
    parser.add_argument("--answers", type=int, metavar="FD", help="take turns with a peer: read requests, answer on FD")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(names))
    if unknown:
        parser.error(f"no workload named {', '.join(unknown)}; there are: {', '.join(names)}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
