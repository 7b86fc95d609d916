"""What keys, values and logits depend on, beside the ids: the same in all of it, the same bits. Knows no tokenizer and no text."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from fanlight.checkpoints.fingerprint import fingerprint

if TYPE_CHECKING:
    from fanlight.engine.loop import Engine
    from fanlight.models.base import DecoderConfig
    from fanlight.models.weights import LoadReport


class Identity(NamedTuple):
    """What keys and values depend on, beside the ids."""

    model: str
    """The checkpoint's fingerprint."""
    kernels: str
    conversions: str
    """What the weights became on their way into memory."""
    rotation: str
    """How positions turn queries and keys, with this window."""
    cache_type: str

    @classmethod
    def of(cls, report: LoadReport, engine: Engine) -> Identity:
        """Of a model as it was loaded. Reads its files, once for a report."""
        conversions, rotation = "; ".join(report.conversions), rotation_of(engine.decoder.config)
        return cls(fingerprint_of(report), engine.ops.name, conversions, rotation, engine.cache.pool.dtype)


def fingerprint_of(report: LoadReport) -> str:
    """Of the model's files. Reads them, once for a report. Errors: CheckpointError if they cannot be read any more."""
    if not report.fingerprint:
        report.fingerprint = fingerprint(report.path)
    return report.fingerprint


def rotation_of(config: DecoderConfig) -> str:
    """What the angles of all positions are known by."""
    kinds = (config.rope, config.local_rope)
    angles = [None if rope is None else rope.inv_freq(config.n_ctx) for rope in kinds]
    ends = [None if one is None else (one[0][:1], one[0][-1:], one[1]) for one in angles]
    return sha256(repr((kinds, ends)).encode()).hexdigest()
