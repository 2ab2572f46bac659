"""The SDK's logger: one line per record, on standard output, apart from the root logger.

The format is openYuanrong's:
``[2026-01-02 03:04:05.678 WARNING function file.py:12 MainThread] message``.
"""

from __future__ import annotations

import logging
import sys

_FORMAT = "[%(asctime)s.%(msecs)03d %(levelname)s %(funcName)s %(filename)s:%(lineno)d %(threadName)s] %(message)s"
_DATE = "%Y-%m-%d %H:%M:%S"

_own = logging.getLogger("yr")
_chosen: logging.Logger | None = None


class _Stdout(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to whatever sys.stdout is when a record comes."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stdout
        super().emit(record)


def get_logger() -> logging.Logger:
    """The logger of the SDK: ``Config.logger`` if one was given, else the logger ``yr``."""
    return _chosen or _own


def init_logger(level: str | int, logger: logging.Logger | None = None) -> None:
    """Set the level, and the logger to use.

    Args:
        level: name in any case, or number.
        logger: used as it is instead of the SDK's own.

    Raises:
        ValueError: no such level.
    """
    global _chosen
    _chosen = logger
    value = level.upper() if isinstance(level, str) else level
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    if isinstance(value, str) and not isinstance(logging.getLevelName(value), int):
        raise ValueError(f"invalid log level {level!r}, expect DEBUG, INFO, WARNING, ERROR or CRITICAL")
    if not _own.handlers:
        handler = _Stdout(sys.stdout)
        handler.setFormatter(logging.Formatter(_FORMAT, _DATE))
        _own.addHandler(handler)
    _own.propagate = False
    _own.setLevel(value)
