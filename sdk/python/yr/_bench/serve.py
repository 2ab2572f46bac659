"""Runs workloads on one target a round at a time, on request, so that two systems can take turns.

The protocol is a line of JSON each way, on standard input and the descriptor named by ``--answers``:
``["open", name]``, ``["round"]``, ``["close"]``, ``["quit"]``; the answer is ``{"ok": value}`` or ``{"error": text}``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from .target import Target
from .workload import Round, Size, Workload
from .workloads import WORKLOADS


class Runner:
    """One target, at most one cluster, at most one open workload. Not safe for several threads."""

    def __init__(self, target: Target, size: Size, cores: int) -> None:
        self._target, self._size, self._machine_cores = target, size, cores
        self._cores: int | None = None
        self._rounds: Iterator[Round] | None = None

    def open(self, workload: Workload) -> None:
        """Starts the cluster that the workload needs, unless it runs already, and does the warm-up round."""
        self._have_cluster(workload.cores)
        self._rounds = workload.rounds(self._target, self._size)
        next(self._rounds)

    def round(self) -> Round:
        """One measured round."""
        if self._rounds is None:
            raise RuntimeError("no workload is open")
        return next(self._rounds)

    def close(self) -> None:
        """Cleans up after the workload; the cluster stays for the next one."""
        rounds, self._rounds = self._rounds, None
        if rounds is not None:
            rounds.close()  # type: ignore[attr-defined]

    def quit(self) -> None:
        """Ends the workload and the cluster."""
        try:
            self.close()
        finally:
            self._target.stop()
            self._cores = None

    def _have_cluster(self, cores: int | None) -> None:
        wanted = self._machine_cores if cores == 0 else cores
        if wanted == self._cores:
            return
        self._target.stop()
        self._cores = None
        if wanted is not None:
            self._target.start(wanted)
            self._cores = wanted


def serve(runner: Runner, requests: TextIO = sys.stdin, answers: TextIO = sys.stdout) -> None:
    """Answers requests until ``quit`` or the end of input."""
    named = {workload.name: workload for workload in WORKLOADS}
    try:
        for line in requests:
            verb, *arguments = json.loads(line)
            try:
                answer: Any = {"ok": _perform(runner, verb, [named[name] for name in arguments])}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), file=answers, flush=True)
            if verb == "quit":
                return
    finally:
        runner.quit()


def _perform(runner: Runner, verb: str, arguments: Any) -> Any:
    if verb not in ("open", "round", "close", "quit"):
        raise ValueError(f"unknown request {verb!r}")
    return getattr(runner, verb)(*arguments)
