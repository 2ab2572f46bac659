"""make test: runs every test of the project, says what passed, and exits 1 if anything failed.

    scripts/test.py [STEP...]

Each step writes its output to build/test/<step>.log; of a failed one, what failed is shown here too.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "test"
SHOWN = 80  # lines of a failure

# Packages whose goroutines share memory. The race detector costs minutes where etcd has to be compiled for it, and
# what imports etcd is wiring.
RACE = [
    "./agent/...",
    "./store/...",
    "./scheduler/...",
    "./pkg/wire/...",
    "./pkg/supervise/...",
    "./pkg/peer/...",
    "./pkg/durable/...",
    "./master/table/...",
]
NOT_UNIT = {"test", "build"}
UNIT = [f"./{d.name}/..." for d in sorted(ROOT.glob("[a-z]*/")) if d.name not in NOT_UNIT and any(d.rglob("*.go"))]


@dataclass
class Outcome:
    """What the output of a step says: how many tests passed and failed, text for the log, and the part that failed."""

    passed: int = 0
    failed: int = 0
    log: str = ""
    failure: list[str] = field(default_factory=list)


def read_plain(output: str) -> Outcome:
    """Reads a command that counts nothing."""
    return Outcome(log=output, failure=output.splitlines()[-SHOWN:])


def read_pytest(output: str) -> Outcome:
    """Reads pytest's last line."""

    def count(pattern: str) -> int:
        return sum(int(number) for number in re.findall(pattern, output))

    failure = output.splitlines()[-SHOWN:]
    return Outcome(count(r"(\d+) passed"), count(r"(\d+) (?:failed|errors?)\b"), output, failure)


def read_go(output: str) -> Outcome:
    """Reads the events of `go test -json`; what is no event comes from the compiler."""
    outcome, said, results = Outcome(), defaultdict(list), {}
    for line in output.splitlines(keepends=True):
        if not line.startswith('{"'):
            outcome.log += line
            outcome.failure.append(line.rstrip())
            continue
        event = json.loads(line)
        test = (event.get("Package") or event.get("ImportPath"), event.get("Test"))
        text = event.get("Output", "")
        outcome.log += text
        said[test].append(text)
        if event["Action"] in ("pass", "fail") and event.get("Test"):
            results[test] = event["Action"]
        if event["Action"] in ("fail", "build-fail"):
            outcome.failure += "".join(said[test]).splitlines()[-SHOWN:]
    # A test that has subtests is counted by them.
    parents = {(package, name.rpartition("/")[0]) for package, name in results}
    leaves = [result for test, result in results.items() if test not in parents]
    outcome.passed, outcome.failed = leaves.count("pass"), leaves.count("fail")
    return outcome


@dataclass
class Step:
    """One command, its bound in seconds, and the reader of its output."""

    name: str
    command: list[str]
    seconds: int
    read: Callable[[str], Outcome] = read_plain


def go_test(name: str, *arguments: str, seconds: int) -> Step:
    return Step(name, ["go", "test", "-json", "-timeout", f"{seconds - 5}s", *arguments], seconds, read_go)


def pytest(name: str, *paths: str, seconds: int) -> Step:
    return Step(name, [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *paths], seconds, read_pytest)


STEPS = [
    Step("vet", ["go", "vet", "./..."], 300),
    go_test("go", *UNIT, seconds=600),
    go_test("race", "-race", "-short", *RACE, seconds=600),
    pytest("python", "sdk/python/tests", seconds=300),
    go_test("system", "-count=1", "./test", "./test/harness/...", seconds=600),
    go_test("nodes", "-count=1", "-parallel=3", "./test/several", seconds=400),
    pytest("examples", "examples/python", seconds=300),
]


def run(step: Step) -> Outcome:
    """Runs one step and prints a line about it, and what failed."""
    print(f"{step.name:<10}", end="", flush=True)
    began = time.monotonic()
    process = subprocess.Popen(
        step.command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        output, _ = process.communicate(timeout=step.seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        output = process.communicate()[0] + f"\nended after {step.seconds} s\n"
    outcome = step.read(output)
    if process.returncode != 0:
        outcome.failed = max(outcome.failed, 1)
    log = LOGS / f"{step.name}.log"
    log.write_text(outcome.log)

    counts = (
        f"{outcome.passed:>5} passed {outcome.failed:>5} failed" if outcome.passed + outcome.failed else f"{'ok':>12}"
    )
    print(f"{counts:<25} {time.monotonic() - began:>7.1f} s", flush=True)
    if outcome.failed:
        print("\n".join(["", *outcome.failure, ""]))
        print(f"all of it: {log.relative_to(ROOT)}; again alone: make test ONLY={step.name}\n", flush=True)
    return outcome


def main() -> int:
    """Runs the named steps, or all of them."""
    unknown = set(sys.argv[1:]) - {step.name for step in STEPS}
    if unknown:
        print(f"no step {', '.join(sorted(unknown))}; there are {', '.join(step.name for step in STEPS)}")
        return 2
    LOGS.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPATH"] = str(ROOT / "sdk" / "python")
    os.environ["PATH"] = f"{ROOT / 'build'}:{os.environ['PATH']}"
    os.environ["YR_BIN"] = str(ROOT / "build" / "yr")
    outcomes = [run(step) for step in STEPS if not sys.argv[1:] or step.name in sys.argv[1:]]
    failed = sum(outcome.failed for outcome in outcomes)
    print(f"\n{sum(outcome.passed for outcome in outcomes)} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
