"""`fanlight detect TEXT`: whether a text carries a watermark. In: a text and the watermark's settings. Out: a z-score in words."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fanlight.cli.options import Command, Option
from fanlight.cli.output import Output, read_prompt
from fanlight.cli.settings import COLOR, MODEL_OPTIONS, load_model
from fanlight.errors import OptionError

USAGE = "fanlight detect TEXT --watermarking-config JSON [OPTIONS]"


def run(values: dict[str, Any], words: list[str], output: Output) -> int:
    """See COMMAND."""
    settings = values.get("watermarking_config")
    if settings is None:
        raise OptionError(f"--watermarking-config is missing: {{}} for the default watermark; usage: {USAGE}")
    from fanlight.decoding.watermarks import watermark_of

    settings = watermark_of(settings)  # a mistake shows before the model is read
    z_threshold = values.get("z_threshold", 3.0)
    if not -100 <= z_threshold <= 100:
        raise OptionError(f"--z-threshold must be between -100 and 100: got {z_threshold}")
    text = read_prompt(words, output, USAGE)
    model = load_model(values, output)
    found = model.detect_watermark(text, settings, z_threshold=z_threshold)
    if values.get("json", False):
        from fanlight.cli.as_json import dumps

        output.line(dumps({"model": model.name, **asdict(found), "confidence": found.confidence}))
        return 0
    verdict = "watermarked" if found.is_watermarked else "no watermark found"
    output.line(
        f"{verdict}: z = {found.z_score:.2f} over {found.n_tokens} tokens "
        f"(a text without it scores as high once in {1 / max(found.p_value, 1e-300):.3g})"
    )
    return 0


COMMAND = Command(
    usage=USAGE,
    about="""\
Score how much TEXT looks as if it were generated with --watermarking-config; - reads it from standard input. Give
the text without its prompt, and the settings that it was made with: the text alone does not tell them.""",
    groups=(
        (
            "watermark",
            (
                Option(
                    "watermarking_config",
                    "the settings: {} for the default, keys and ngram_len for SynthID",
                    kind="json",
                    metavar="JSON",
                ),
                Option("z_threshold", "from which z-score on a text counts as watermarked", kind="float", default="3"),
                Option("json", "one JSON object with everything", kind="flag"),
                COLOR,
            ),
        ),
        ("model", MODEL_OPTIONS),
    ),
    run=run,
)
