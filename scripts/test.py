"""make test: runs every test of the project, says what passed, and exits 1 if anything failed.

    scripts/test.py [STEP...]

Each step writes its output to build/test/<step>.log; a failed one also shows its end here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "test"

# Packages whose goroutines share memory. The race detector costs minutes where etcd has to be compiled for it, and
# what imports etcd is wiring.
RACE = ["./agent/...", "./store/...", "./scheduler/...", "./pkg/wire/...", "./pkg/supervise/..."]
NOT_UNIT = {"test", "build"}
UNIT = [f"./{d.name}/..." for d in sorted(ROOT.glob("[a-z]*/")) if d.name not in NOT_UNIT and any(d.rglob("*.go"))]
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]


@dataclass
class Step:
    """One command, its bound in seconds, and how its output tells passed tests from failed ones."""

    name: str
    command: list[str]
    seconds: int
    passed: str = r"^\s*--- PASS"
    failed: str = r"^\s*--- FAIL"


def pytest(name: str, *paths: str, seconds: int) -> Step:
    return Step(name, [*PYTEST, *paths], seconds, passed=r"(\d+) passed", failed=r"(\d+) (?:failed|errors?)\b")


def go_test(name: str, *arguments: str, seconds: int) -> Step:
    return Step(name, ["go", "test", "-v", "-timeout", f"{seconds - 5}s", *arguments], seconds)


STEPS = [
    Step("vet", ["go", "vet", "./..."], 300),
    go_test("go", *UNIT, seconds=600),
    go_test("race", "-race", "-short", *RACE, seconds=600),
    pytest("python", "sdk/python/tests", seconds=300),
    go_test("system", "-count=1", "./test/...", seconds=600),
    pytest("examples", "examples/python", seconds=300),
]


def count(pattern: str, output: str) -> int:
    """How often the pattern matches; if it has a group, the sum of what the group says."""
    matches = re.findall(pattern, output, re.MULTILINE)
    return sum(int(match) if match.isdigit() else 1 for match in matches)


def run(step: Step) -> tuple[int, int]:
    """Runs one step and returns how many of its tests passed and failed."""
    print(f"{step.name:<10}", end="", flush=True)
    log = LOGS / f"{step.name}.log"
    began = time.monotonic()
    with log.open("w") as output:
        try:
            code = subprocess.run(
                step.command,
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                timeout=step.seconds,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
            output.write(f"\nended after {step.seconds} s\n")
    text = log.read_text(errors="replace")
    passed, failed = count(step.passed, text), count(step.failed, text)
    if code != 0:
        failed = max(failed, 1)
    outcome = f"{passed:>5} passed {failed:>5} failed" if passed + failed else f"{'ok':>12}{'':>13}"
    print(f"{outcome} {time.monotonic() - began:>7.1f} s", flush=True)
    if code != 0:
        print(f"\n--- the end of {log.relative_to(ROOT)}; again alone: make test ONLY={step.name}")
        print("\n".join(text.splitlines()[-60:]), flush=True)
    return passed, failed


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
    steps = [step for step in STEPS if not sys.argv[1:] or step.name in sys.argv[1:]]
    results = [run(step) for step in steps]
    passed, failed = (sum(column) for column in zip(*results))
    print(f"\n{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
