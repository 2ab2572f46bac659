"""Plays yr._worker.main in the launcher's tests: runs the program in $WORK."""

from __future__ import annotations

import os


def run(worker: str, token: str, socket: str) -> None:
    exec(os.environ["WORK"], {"worker": worker, "token": token, "socket": socket})
