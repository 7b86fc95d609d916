"""Which watermark a setting asks for. In: watermarking_config. Out: its frozen settings, its processor. Knows no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fanlight.decoding.processors import Processor, Surroundings

if TYPE_CHECKING:
    from fanlight.decoding.config import GenerationConfig
    from fanlight.decoding.synthid import SynthIDDetection
    from fanlight.decoding.watermark import Detection
    from fanlight.kernels.ops import Ops


def watermark_of(value: Any) -> Any:
    """`Watermark` or `SynthID`, from one of them, a mapping, a JSON text, or transformers' objects. Errors: OptionError."""
    from fanlight.decoding.synthid import SynthID
    from fanlight.decoding.watermark import Watermark

    if isinstance(value, (Watermark, SynthID)):
        return value
    if isinstance(value, str):
        import json

        value = json.loads(value)
    named = value if isinstance(value, Mapping) else getattr(value, "__dict__", {})
    return SynthID.from_options(value) if "ngram_len" in named or "keys" in named else Watermark.from_options(value)


def watermark(config: GenerationConfig, around: Surroundings) -> Processor | None:
    """watermarking_config."""

    settings = config.watermarking_config
    if settings is None:
        return None
    from fanlight.decoding.synthid import SynthID, SynthIDProcessor
    from fanlight.decoding.watermark import WatermarkProcessor

    if isinstance(settings, SynthID):
        return SynthIDProcessor(settings, around.n_prompt, around.ops)
    return WatermarkProcessor(settings, around.n_vocab, around.ops)


class Source(NamedTuple):
    """What a text was made with."""

    n_vocab: int
    ops: Ops
    eos_ids: Sequence[int]
    bos_id: int | None


def detect(
    ids: Sequence[int], watermarking_config: Any, source: Source, *, z_threshold: float
) -> Detection | SynthIDDetection:
    """How much ids look as if they were made with this watermark. Errors: OptionError."""
    from fanlight.decoding.synthid import SynthID, SynthIDDetector
    from fanlight.decoding.watermark import WatermarkDetector

    settings = watermark_of(watermarking_config)
    if isinstance(settings, SynthID):
        return SynthIDDetector(settings, source.eos_ids).detect(ids, z_threshold=z_threshold)
    return WatermarkDetector(settings, source.n_vocab, source.ops, source.bos_id).detect(ids, z_threshold=z_threshold)
