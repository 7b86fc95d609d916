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
    from fanlight.trace.distribution import Distribution
    from fanlight.trace.options import TraceOptions
    from fanlight.trace.search import SearchRecord
    from fanlight.tracing.branching import branch, branch_tree
    from fanlight.tracing.diff import Difference, diff
    from fanlight.tracing.fan import Fan, fan
    from fanlight.tracing.files import open_trace
    from fanlight.tracing.index import TraceIndex
    from fanlight.tracing.replay import Replay, replay
    from fanlight.tracing.trace import Trace
    from fanlight.tracing.tracking import Tracked, track
    from fanlight.tracing.what_if import WhatIf, what_if
    from fanlight.verifying import Verification, verify

__version__ = "0.1.0"
__all__ = [
    "Comparison",
    "Description",
    "Difference",
    "Distribution",
    "Encoder",
    "ExportReport",
    "Fan",
    "Generation",
    "GenerationConfig",
    "Job",
    "Model",
    "ModelService",
    "Outcome",
    "QueueFull",
    "Replay",
    "SearchRecord",
    "Speculation",
    "Step",
    "Stop",
    "StopReason",
    "Sweep",
    "SynthID",
    "TokenCandidate",
    "Trace",
    "TraceIndex",
    "TraceOptions",
    "Tracked",
    "Usage",
    "Verification",
    "Watermark",
    "WhatIf",
    "__version__",
    "branch",
    "branch_tree",
    "compare",
    "diff",
    "export",
    "fan",
    "load",
    "load_encoder",
    "open_trace",
    "replay",
    "sweep",
    "track",
    "verify",
    "what_if",
]

_HOMES = {
    "Comparison": "fanlight.comparing.records",
    "Description": "fanlight.description",
    "Difference": "fanlight.tracing.diff",
    "Distribution": "fanlight.trace.distribution",
    "Encoder": "fanlight.encoding",
    "ExportReport": "fanlight.exporting",
    "Fan": "fanlight.tracing.fan",
    "GenerationConfig": "fanlight.decoding.config",
    "Job": "fanlight.jobs",
    "ModelService": "fanlight.served",
    "Outcome": "fanlight.jobs",
    "QueueFull": "fanlight.errors",
    "Replay": "fanlight.tracing.replay",
    "SearchRecord": "fanlight.trace.search",
    "Speculation": "fanlight.generation",
    "Stop": "fanlight.decoding.stopping",
    "StopReason": "fanlight.decoding.stopping",
    "Sweep": "fanlight.comparing.sweep_records",
    "SynthID": "fanlight.decoding.synthid",
    "Trace": "fanlight.tracing.trace",
    "TraceIndex": "fanlight.tracing.index",
    "TraceOptions": "fanlight.trace.options",
    "Tracked": "fanlight.tracing.tracking",
    "Usage": "fanlight.engine.request",
    "Verification": "fanlight.verifying",
    "Watermark": "fanlight.decoding.watermark",
    "WhatIf": "fanlight.tracing.what_if",
    "branch": "fanlight.tracing.branching",
    "branch_tree": "fanlight.tracing.branching",
    "compare": "fanlight.comparing.run",
    "diff": "fanlight.tracing.diff",
    "export": "fanlight.exporting",
    "fan": "fanlight.tracing.fan",
    "load_encoder": "fanlight.encoding",
    "open_trace": "fanlight.tracing.files",
    "replay": "fanlight.tracing.replay",
    "sweep": "fanlight.comparing.sweep",
    "track": "fanlight.tracing.tracking",
    "verify": "fanlight.verifying",
    "what_if": "fanlight.tracing.what_if",
}


def __getattr__(name: str) -> object:  # imported at first use: `fanlight --help` needs none of it
    if name not in __all__:
        raise AttributeError(f"module 'fanlight' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES.get(name, "fanlight.api")), name)
    globals()[name] = value
    return value
