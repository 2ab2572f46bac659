"""Runs every example as a reader would, on a running cluster and alone, and compares what it prints.

make test ONLY=examples
.venv/bin/python -m pytest examples/python -k word_count
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
YR = ROOT / "build" / "yr"
SSD = 'function_agent.args.custom_resources="{\\"ssd\\":1}"'

# What each program prints, line by line, as regular expressions.
OUTPUT = {
    "01_tour.py": """
        counter before and after save: 5 42
        hello, Ada
        hello, Barbara
        hello, Grace
        1 \\+ 2 = 3
        settings: \\{'model': 'tiny', 'layers': \\[64, 32, 8\\]\\}
    """,
    "02_counter_resources.py": """
        first counter: 1 2 3
        second counter waits for the ssd: True
        second counter, after the first has ended: 10
    """,
    "03_pass_handle.py": """
        ones: made 5 calls, totals only grew: True
        tens: made 5 calls, totals only grew: True
        total: 55
    """,
    "monte_carlo_pi.py": """
        \\d+ batches in [1-9]\\d* processes
        every batch threw its own darts: True
        pi is about 3.14
    """,
    "word_count.py": """
        24 files, 480,000 words, 13 different ones
         151,193  the
          75,868  of
          50,222  and
          37,751  river
          29,816  a
    """,
    "image_pipeline.py": """
        an image is 48 MB; it came here without a copy: True
        receiving it took less time than copying it: True
        a worker and this program map the same pages: True
        nobody can write to them here: True
        image 0: 16,000,000 pixels, mean grey 46.5
        image 1: 16,000,000 pixels, mean grey 78.5
        image 2: 16,000,000 pixels, mean grey 110.5
    """,
}


def run(program: str, *arguments: str, env: dict[str, str]) -> str:
    """Runs an example to its end and returns what it printed."""
    command = [sys.executable, str(HERE / program), *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{program} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def assert_prints(printed: str, expected: str) -> None:
    lines, patterns = printed.splitlines(), expected.split("\n")[1:-1]
    assert len(lines) == len(patterns), printed
    for line, pattern in zip(lines, patterns):
        assert re.fullmatch(pattern.strip(), line.strip()), f"expected {pattern.strip()!r}\ngot      {line!r}"


def environment(**more: str) -> dict[str, str]:
    paths = {"PATH": f"{YR.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "sdk" / "python")}
    return {**os.environ, **paths, **more}


def processes_marked(mark: str) -> list[str]:
    """The command lines of all processes that inherited the mark."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue  # it ended while we looked, or is not ours
    return found


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory):
    """A node with an ssd; yields the environment in which yr.init() finds it."""
    prefix = tmp_path_factory.mktemp("sessions")
    mark = uuid.uuid4().hex
    env = environment(YR_MASTER_INFO_PATH=str(prefix / "yr_current_master_info"), YR_TEST_MARK=mark)
    options = ["-s", "values.cpu_num=8000", "-s", "values.memory_num=8192", "-s", SSD]
    subprocess.run([YR, "start", "--master", "--log-dir-prefix", prefix, *options], env=env, check=True, timeout=60)
    yield env
    subprocess.run([YR, "stop", "--log-dir-prefix", prefix], env=env, check=True, timeout=60)
    assert processes_marked(mark) == []


@pytest.fixture
def alone(tmp_path: Path):
    """An environment in which yr.init() finds no cluster, and has to leave nothing behind of its own."""
    mark = uuid.uuid4().hex
    yield environment(YR_MASTER_INFO_PATH=str(tmp_path / "none"), YR_TEST_MARK=mark)
    assert processes_marked(mark) == []


@pytest.mark.parametrize("program", OUTPUT)
def test_on_a_running_cluster(program: str, cluster: dict[str, str]) -> None:
    assert_prints(run(program, env=cluster), OUTPUT[program])


@pytest.mark.parametrize("program", [name for name in OUTPUT if name != "02_counter_resources.py"])
def test_alone(program: str, alone: dict[str, str]) -> None:
    assert_prints(run(program, env=alone), OUTPUT[program])


def test_resources_that_no_node_has_are_refused_with_the_reason(alone: dict[str, str]) -> None:
    printed = run("02_counter_resources.py", env=alone)
    assert re.match("no counter: .*no node can ever hold .*ssd=1", printed), printed


def test_a_named_instance_outlives_its_maker(cluster: dict[str, str]) -> None:
    assert run("04_named_instance.py", env=cluster) == "visit number 1\n"
    assert run("04_named_instance.py", env=cluster) == "visit number 2\n"
    assert run("04_named_instance.py", "--end", env=cluster) == "visit number 3\nended\n"
    assert run("04_named_instance.py", "--end", env=cluster) == "visit number 1\nended\n"


def test_word_count_agrees_with_counting_here(tmp_path: Path, cluster: dict[str, str]) -> None:
    for number in range(7):  # odd, so that a file without a partner is carried along
        (tmp_path / f"{number}.txt").write_text("tick tock tick " * (number + 1))
    assert run("word_count.py", str(tmp_path), env=cluster).splitlines()[0] == "7 files, 84 words, 2 different ones"


def test_every_example_is_run() -> None:
    programs = {path.name for path in HERE.glob("*.py") if not path.name.startswith("test_")}
    assert programs == {*OUTPUT, "04_named_instance.py"}
