from __future__ import annotations

import json
import subprocess
import sys

import pytest
from yr._bench import floors, report
from yr._bench.workload import Figure, Workload, at_least, at_most, share_of_floor
from yr._bench.workloads import WORKLOADS, percentile


def _nothing(target, size):
    yield {}


def test_a_summary_has_median_spread_and_the_median_of_ratios():
    figure = Figure("p50", "p50", "us", "echo", at_most(80, 3.2), peer_bar=5)
    rounds = [{"p50": 50.0, "p50.floor": 25.0}, {"p50": 90.0, "p50.floor": 30.0}, {"p50": 60.0, "p50.floor": 60.0}]
    (record,) = report.summarize(Workload("w", 0, _nothing, (figure,)), rounds)
    assert (record["median"], record["least"], record["most"]) == (60.0, 50.0, 90.0)
    assert (record["floor"], record["ratio"], record["met"]) == (30.0, 2.0, True)


def test_a_figure_that_a_system_does_not_have_is_left_out():
    assert report.summarize(Workload("w", 0, _nothing, (Figure("rate", "rate", "/s"),)), [{}, {}]) == []


@pytest.mark.parametrize(
    ("bar", "value", "floor", "met"),
    [
        (at_most(80, 3.2), 79, 1, True),
        (at_most(80, 3.2), 96, 30, True),
        (at_most(80, 3.2), 97, 30, False),
        (at_most(6), 7, 0, False),
        (at_least(150_000), 150_000, 0, True),
        (at_least(150_000), 149_999, 0, False),
        (share_of_floor(0.8), 8, 10, True),
        (share_of_floor(0.8), 7.9, 10, False),
    ],
)
def test_bars(bar, value, floor, met):
    assert bar.met(value, floor) is met


@pytest.mark.parametrize(("higher", "ours", "peers", "times"), [(True, 200, 20, 10), (False, 50, 1000, 20)])
def test_times_better_follows_the_direction(higher, ours, peers, times):
    record = {"median": ours, "higher_is_better": higher}
    assert report.against_peer(record, {"median": peers})["times_better"] == times
    assert report.against_peer(record, None)["times_better"] is None


def test_a_table_is_aligned():
    lines = report.align([("a", "long name"), ("much wider", "x")]).splitlines()
    assert lines == ["a           long name", "----------  ---------", "much wider  x"]


@pytest.mark.parametrize(("value", "text"), [(None, ""), (0.1234, "0.123"), (96.04, "96"), (123456.0, "123,000")])
def test_numbers_have_three_digits(value, text):
    assert report.number(value) == text


def test_percentiles():
    assert percentile(range(100), 0.99) == 99
    assert percentile([7.0], 0.5) == 7.0


def test_floors_come_from_other_processes():
    with floors.Echo() as echo:
        assert len(echo.round_trips(20)) == 20
        assert echo.batched(50, 2) > 0
    assert 0 < floors.fork(3) < 10
    assert floors.Copy(1 << 20).seconds() > 0


def test_the_command_lists_every_workload():
    shown = subprocess.run(
        [sys.executable, "-m", "yr._bench", "--list"], check=True, capture_output=True, text=True
    ).stdout
    assert [workload.name for workload in WORKLOADS if workload.name not in shown] == []


def test_an_unknown_workload_is_named():
    done = subprocess.run([sys.executable, "-m", "yr._bench", "call-snyc"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no workload named call-snyc" in done.stderr


def test_records_are_json():
    figure = Figure("rate", "rate", "/s", "", at_least(1), higher_is_better=True)
    records = report.summarize(Workload("w", 0, _nothing, (figure,)), [{"rate": 2.0}])
    assert json.loads(json.dumps(records))[0]["met"] is True
