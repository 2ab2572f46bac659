"""Puts the static yr binary into the wheel, so that `pip install` brings the command along."""

from __future__ import annotations

import platform
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CarryBinary(BuildHookInterface):
    """Adds build/yr to the scripts of the wheel and names the platforms on which it runs."""

    def initialize(self, version: str, build_data: dict) -> None:
        """Runs before the wheel is put together; an editable install is Python only."""
        if version == "editable":
            return
        binary = Path(self.root).parent.parent / "build" / "yr"
        if not binary.exists():
            raise FileNotFoundError(f"{binary} is missing; `make wheel` builds it first")
        build_data["shared_scripts"][str(binary)] = "yr"
        # The binary is static: any libc will do. The Python code is the same for every version.
        machine = platform.machine()
        platforms = ".".join(f"{name}_{machine}" for name in ("manylinux2014", "musllinux_1_1"))
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platforms}"
