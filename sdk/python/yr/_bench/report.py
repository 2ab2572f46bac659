"""Rounds to medians, and those to a table for people or a document for scripts."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from typing import Any

from .workload import Figure, Round, Workload


def summarize(workload: Workload, rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """One record for each figure that the rounds have: median, least, most, floor, ratio to the floor, bar, met."""
    return [_record(workload, figure, rounds) for figure in workload.figures if figure.key in rounds[0]]


def _record(workload: Workload, figure: Figure, rounds: Sequence[Round]) -> dict[str, Any]:
    values = [one[figure.key] for one in rounds]
    median = statistics.median(values)
    floors = [one[figure.key + ".floor"] for one in rounds] if figure.floor else []
    floor = statistics.median(floors) if floors else None
    return {
        "workload": workload.name,
        "about": workload.about,
        "figure": figure.label,
        "unit": figure.unit,
        "median": median,
        "least": min(values),
        "most": max(values),
        "rounds": len(values),
        "floor": floor,
        "floor_of": figure.floor or None,
        "ratio": statistics.median(v / f for v, f in zip(values, floors)) if floors else None,
        "bar": figure.bar.text if figure.bar else None,
        "met": figure.bar.met(median, floor or 0.0) if figure.bar else None,
        "higher_is_better": figure.higher_is_better,
        "peer_bar": figure.peer_bar or None,
    }


def against_peer(record: dict[str, Any], peer: dict[str, Any] | None) -> dict[str, Any]:
    """``record`` with the peer's median and how many times better ours is."""
    if peer is None or not peer["median"] or not record["median"]:
        return dict(record, peer=None, times_better=None)
    times = record["median"] / peer["median"] if record["higher_is_better"] else peer["median"] / record["median"]
    return dict(record, peer=peer["median"], times_better=times)


def number(value: float | None) -> str:
    """Three significant digits, thousands separated."""
    if value is None:
        return ""
    if abs(value) >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"


def table(records: Sequence[dict[str, Any]]) -> str:
    """Aligned columns; ``yes`` and ``NO`` say whether a bar is met."""
    rows = [("workload", "figure", "median", "least .. most", "unit", "floor", "x floor", "bar", "met")]
    last = ""
    for record in records:
        name = "" if record["workload"] == last else f"{record['workload']}: {record['about']}"
        last = record["workload"]
        rows.append(
            (
                name,
                record["figure"],
                number(record["median"]),
                f"{number(record['least'])} .. {number(record['most'])}",
                record["unit"],
                number(record["floor"]),
                number(record["ratio"]),
                record["bar"] or "",
                _verdict(record["met"]),
            )
        )
    return align(rows)


def peer_table(records: Sequence[dict[str, Any]], ours: str, peer: str) -> str:
    """The same workloads on two systems that took turns."""
    rows = [("workload", "figure", ours, peer, "unit", "times better", "bar", "met")]
    last = ""
    for record in records:
        name = "" if record["workload"] == last else f"{record['workload']}: {record['about']}"
        last = record["workload"]
        wanted, times = record["peer_bar"], record["times_better"]
        rows.append(
            (
                name,
                record["figure"],
                number(record["median"]),
                number(record["peer"]),
                record["unit"],
                number(times),
                f">= {wanted:g} x" if wanted else "",
                _verdict(times >= wanted) if wanted and times is not None else "",
            )
        )
    return align(rows)


def align(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; a rule below the first row."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    model = ""
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def _verdict(met: bool | None) -> str:
    return "" if met is None else "yes" if met else "NO"
