"""Resident memory now, and processes of their own to measure it in. Knows no engine."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from benchmarks.machine import ROOT


def resident_bytes() -> int:
    """Of this process, at this moment; where the system does not say, the most that it was."""
    try:
        with open("/proc/self/status", encoding="utf-8") as status:
            return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
    except (FileNotFoundError, StopIteration):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def in_its_own_process(module: str, *arguments: object) -> Any:
    """What `python -m module arguments...` prints as JSON."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        raise RuntimeError(f"{module} ended with {found.returncode}: {found.stderr[-500:]}")
    return json.loads(found.stdout)
