"""Runs the same workloads on this system and on a peer, turn by turn, and prints both with the ratio.

Both run in one minute on one machine: a round here, a round there, so that what else the machine does falls on both.
Each side keeps its own cluster up while the other measures; an idle cluster is part of what a system costs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from typing import Any

from yr._bench import report
from yr._bench.workloads import WORKLOADS


class Side:
    """One system in a process of its own that performs rounds on request."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        ours, theirs = os.pipe()
        self._process = subprocess.Popen(
            [*command, "--answers", str(theirs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs],
            text=True,
            env=dict(os.environ, **environment),
        )
        os.close(theirs)
        self._answers = os.fdopen(ours)

    def ask(self, *request: str) -> Any:
        """Performs one request; raises RuntimeError with the other side's text when it failed."""
        assert self._process.stdin is not None
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise RuntimeError("the process has ended") from None
        line = self._answers.readline()
        if not line:
            raise RuntimeError(f"the process ended with {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["ok"]

    def end(self) -> None:
        """Stops the system and its process."""
        try:
            self.ask("quit")
        except RuntimeError as error:
            print(f"  at the end: {error}", file=sys.stderr)
        self._process.wait()


def main() -> int:
    """Compares; the exit code is 1 only when our side could not run a workload."""
    arguments = _parse()
    quick = ["--quick"] if arguments.quick else []
    sides: dict[str, Side] = {}
    if arguments.only != "ray":
        sides["yr"] = Side([sys.executable, "-m", "yr._bench", *quick], {})
    if arguments.only != "yr":
        sides["ray"] = Side(
            [arguments.peer_python, os.path.join(os.path.dirname(os.path.abspath(__file__)), "ray_bench.py"), *quick],
            {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"},
        )
    rounds = 3 if arguments.quick else arguments.rounds
    records: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    try:
        for workload in WORKLOADS:
            if not arguments.names or workload.name in arguments.names:
                records += _compare(sides, workload, rounds, failed)
    finally:
        for side in sides.values():
            side.end()
    print(report.peer_table(records, "yr", "ray"))
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"machine": report.machine(), "figures": records, "failed": failed}, file, indent=1)
    return 1 if any(key.startswith("yr ") for key in failed) else 0


def _compare(sides: dict[str, Side], workload: Any, rounds: int, failed: dict[str, str]) -> list[dict[str, Any]]:
    """One workload, its rounds interleaved; a side that fails drops out of this workload."""
    taken: dict[str, list[Any]] = {name: [] for name in sides}
    playing = dict(sides)
    print(f"{workload.name} ...", file=sys.stderr, flush=True)
    for verb, times in (("open", 1), ("round", rounds), ("close", 1)):
        for _ in range(times):
            for name, side in list(playing.items()):
                try:
                    answer = side.ask(verb, *([workload.name] if verb == "open" else []))
                except RuntimeError as error:
                    failed[f"{name} {workload.name}"] = str(error)
                    print(f"  {name} failed: {error}", file=sys.stderr)
                    del playing[name]
                    continue
                if verb == "round":
                    taken[name].append(answer)
                    values = ", ".join(f"{key} {report.number(value)}" for key, value in answer.items())
                    print(f"  {name}: {values}", file=sys.stderr)
    summaries = {name: report.summarize(workload, values) if values else [] for name, values in taken.items()}
    peers = {record["figure"]: record for record in summaries.get("ray", [])}
    if summaries.get("yr"):
        return [report.against_peer(record, peers.get(record["figure"])) for record in summaries["yr"]]
    return [dict(record, peer=record["median"], median=None, times_better=None) for record in peers.values()]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="WORKLOAD")
    parser.add_argument("--peer-python", required=True, help="the interpreter of the environment that has Ray")
    parser.add_argument("--only", choices=["yr", "ray"], help="run one side alone")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
