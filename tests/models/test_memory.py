"""Weights and caches leave memory with the objects that held them."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from typing import TYPE_CHECKING

import fanlight
from models import tiny

if TYPE_CHECKING:
    from pathlib import Path

PEAKS = """
import resource, fanlight
unit = 1 if __import__("sys").platform == "darwin" else 1024
for _ in range(4):
    model = None
    model = fanlight.load(threads=1)
    model.generate("The lighthouse", max_new_tokens=3)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, model.describe().packed_bytes)
"""


def test_loading_again_and_again_does_not_grow() -> None:
    """The peak of a process that loads four times is that of the second time: what was freed is used again."""
    found = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True).stdout
    peaks = [int(line.split()[0]) for line in found.splitlines()]
    model_bytes = int(found.split()[-1])
    assert len(peaks) == 4
    assert peaks[-1] - peaks[1] < 0.2 * model_bytes


def test_a_model_goes_with_its_last_user(tmp_path: Path) -> None:
    model = fanlight.load(tiny.write_folder(tmp_path, tiny.gpt2()))
    out = model.generate("a", max_new_tokens=3)
    decoder = weakref.ref(model.decoder)
    del model
    gc.collect()
    assert decoder() is None
    assert out.steps[0].candidates[0].text  # what was generated stays readable
