"""One real cluster for each module, and a driver connected to it for each test."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yr

BINARY = Path(os.environ.get("YR_BINARY") or Path(__file__).resolve().parents[4] / "build" / "yr")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """What `yr start -o json` says of a cluster with plenty of declared CPU."""
    assert BINARY.exists(), f"{BINARY} is missing; `make build` makes it"
    prefix = tmp_path_factory.mktemp("yr")
    command = [BINARY, "start", "--master", "--temporary", "--owner-pid", str(os.getpid()), "-o", "json"]
    command += ["--log-dir-prefix", prefix, "--cpu_num", "16000", "--memory_num", "32000"]
    command += ["-s", "function_agent.args.custom_resources='{\"ssd\":1}'"]
    started = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert started.returncode == 0, started.stderr
    yield {**json.loads(started.stdout), "prefix": str(prefix)}
    subprocess.run([BINARY, "stop", "--log-dir-prefix", prefix], check=True, timeout=30, capture_output=True)


@pytest.fixture
def connected(cluster, monkeypatch):
    """This process is a driver of the cluster for the length of the test."""
    for variable in [v for v in os.environ if v.startswith("YR_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("YR_MASTER_INFO_PATH", os.path.join(cluster["prefix"], "yr_current_master_info"))
    yield yr.init()
    yr.finalize()
