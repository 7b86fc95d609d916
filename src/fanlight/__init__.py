"""Fanlight: text generation you can see through.

model = fanlight.load()
out = model.generate("The future of artificial intelligence is", max_new_tokens=20)
print(out.text, out.stop, out.steps[3].candidates)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fanlight.api import Generation, Model, Step, TokenCandidate, load
    from fanlight.decoding.config import GenerationConfig
    from fanlight.decoding.stopping import Stop, StopReason
    from fanlight.description import Description
    from fanlight.exporting import ExportReport, export
    from fanlight.verifying import Verification, verify

__version__ = "0.1.0"
__all__ = [
    "Description",
    "ExportReport",
    "Generation",
    "GenerationConfig",
    "Model",
    "Step",
    "Stop",
    "StopReason",
    "TokenCandidate",
    "Verification",
    "__version__",
    "export",
    "load",
    "verify",
]

_HOMES = {
    "Description": "fanlight.description",
    "ExportReport": "fanlight.exporting",
    "GenerationConfig": "fanlight.decoding.config",
    "Stop": "fanlight.decoding.stopping",
    "StopReason": "fanlight.decoding.stopping",
    "Verification": "fanlight.verifying",
    "export": "fanlight.exporting",
    "verify": "fanlight.verifying",
}


def __getattr__(name: str) -> object:  # imported at first use: `fanlight --help` needs none of it
    if name not in __all__:
        raise AttributeError(f"module 'fanlight' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES.get(name, "fanlight.api")), name)
    globals()[name] = value
    return value
