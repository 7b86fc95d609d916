"""Fanlight: text generation you can see through.

model = fanlight.load()
out = model.generate("The future of artificial intelligence is", max_new_tokens=20)
print(out.text, out.stop, out.steps[3].candidates)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fanlight.api import Generation, Model, Step, TokenCandidate, load
    from fanlight.comparing.records import Comparison
    from fanlight.comparing.run import compare
    from fanlight.comparing.sweep import sweep
    from fanlight.comparing.sweep_records import Sweep
    from fanlight.decoding.config import GenerationConfig
    from fanlight.decoding.stopping import Stop, StopReason
    from fanlight.decoding.synthid import SynthID
    from fanlight.decoding.watermark import Watermark
    from fanlight.description import Description
    from fanlight.encoding import Encoder, load_encoder
    from fanlight.engine.request import Usage
    from fanlight.errors import QueueFull
    from fanlight.exporting import ExportReport, export
    from fanlight.generation import Speculation
    from fanlight.jobs import Job, Outcome
    from fanlight.served import ModelService
    from fanlight.trace.search import SearchRecord
    from fanlight.verifying import Verification, verify

__version__ = "0.1.0"
__all__ = [
    "Comparison",
    "Description",
    "Encoder",
    "ExportReport",
    "Generation",
    "GenerationConfig",
    "Job",
    "Model",
    "ModelService",
    "Outcome",
    "QueueFull",
    "SearchRecord",
    "Speculation",
    "Step",
    "Stop",
    "StopReason",
    "Sweep",
    "SynthID",
    "TokenCandidate",
    "Usage",
    "Verification",
    "Watermark",
    "__version__",
    "compare",
    "export",
    "load",
    "load_encoder",
    "sweep",
    "verify",
]

_HOMES = {
    "Comparison": "fanlight.comparing.records",
    "Description": "fanlight.description",
    "Encoder": "fanlight.encoding",
    "ExportReport": "fanlight.exporting",
    "GenerationConfig": "fanlight.decoding.config",
    "Job": "fanlight.jobs",
    "ModelService": "fanlight.served",
    "Outcome": "fanlight.jobs",
    "QueueFull": "fanlight.errors",
    "SearchRecord": "fanlight.trace.search",
    "Speculation": "fanlight.generation",
    "Stop": "fanlight.decoding.stopping",
    "StopReason": "fanlight.decoding.stopping",
    "Sweep": "fanlight.comparing.sweep_records",
    "SynthID": "fanlight.decoding.synthid",
    "Verification": "fanlight.verifying",
    "Usage": "fanlight.engine.request",
    "Watermark": "fanlight.decoding.watermark",
    "compare": "fanlight.comparing.run",
    "export": "fanlight.exporting",
    "load_encoder": "fanlight.encoding",
    "sweep": "fanlight.comparing.sweep",
    "verify": "fanlight.verifying",
}


def __getattr__(name: str) -> object:  # imported at first use: `fanlight --help` needs none of it
    if name not in __all__:
        raise AttributeError(f"module 'fanlight' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES.get(name, "fanlight.api")), name)
    globals()[name] = value
    return value
