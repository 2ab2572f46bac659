"""What a workload is: a named generator of rounds, and the figures that its rounds yield."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Callable

from .target import Target

Round = dict[str, float]
"""One round's values by key. A figure ``k`` may have a floor in the same unit under ``k.floor``."""


@dataclass(frozen=True)
class Bar:
    """What the design promises of a figure. ``met`` sees the medians of the figure and of its floor."""

    text: str
    met: Callable[[float, float], bool]


def at_most(limit: float, times_floor: float = 0) -> Bar:
    """A bar from above; with ``times_floor``, being within that multiple of the floor is enough."""
    text = f"<= {limit:g}" + (f" or {times_floor:g} x floor" if times_floor else "")
    return Bar(text, lambda value, floor: value <= limit or value <= times_floor * floor)


def at_least(limit: float) -> Bar:
    """A bar from below."""
    return Bar(f">= {limit:,.0f}", lambda value, floor: value >= limit)


def share_of_floor(share: float) -> Bar:
    """A bar for rates: at least this share of the floor's rate."""
    return Bar(f">= {share:g} x floor", lambda value, floor: value >= share * floor)


@dataclass(frozen=True)
class Figure:
    """How one value of a round is shown and judged."""

    key: str
    label: str
    unit: str
    floor: str = ""
    bar: Bar | None = None
    higher_is_better: bool = False
    peer_bar: float = 0
    """How many times better than the peer of a comparison the design wants this to be; 0 when it says nothing."""


@dataclass(frozen=True)
class Size:
    """How much one round does. ``scale`` 1 is the full benchmark."""

    scale: float = 1.0

    def of(self, count: int, least: int = 1) -> int:
        """``count`` at this scale."""
        return max(least, int(count * self.scale))


@dataclass(frozen=True)
class Workload:
    """A generator of rounds. The first round is a warm-up that nobody counts. Closing the generator cleans up."""

    name: str
    cores: int | None
    """Cores that the cluster declares; 0: as many as the machine has; None: the workload makes its own cluster."""
    rounds: Callable[[Target, Size], Iterator[Round]]
    figures: tuple[Figure, ...]
    about: str = ""
