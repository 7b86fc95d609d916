"""`fanlight verify MODEL --against hf|llama.cpp`: how near a model's logits are to another implementation's."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fanlight.cli.options import Command, Option
from fanlight.cli.output import Output
from fanlight.cli.settings import MODEL_OPTIONS, load_model
from fanlight.errors import OptionError

if TYPE_CHECKING:
    from fanlight.verifying import Verification

USAGE = "fanlight verify [MODEL] --against hf|llama.cpp [OPTIONS]"


def run(values: dict[str, Any], words: list[str], output: Output) -> int:
    """See COMMAND."""
    if len(words) > 1 or (words and "model" in values):
        raise OptionError(f"one model is expected, found {words[0]!r} and {(*words[1:], values.get('model'))[0]!r}")
    if "against" not in values:
        raise OptionError(f"--against is missing: hf or llama.cpp; usage: {USAGE}")
    from fanlight.verifying import verify

    text = _text(values["text"]) if "text" in values else None
    model = load_model({**values, "model": words[0]} if words else values, output)
    found = verify(model, against=values["against"], text=text, max_tokens=values.get("max_tokens", 512))
    if values.get("json", False):
        from fanlight.cli.as_json import dumps

        output.line(dumps({"model": model.name, **asdict(found)}))
    else:
        output.line(_table(model.name, found))
    return 0


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="strict") as file:
        try:
            return file.read()
        except UnicodeDecodeError as error:
            raise OptionError(f"{path}: not UTF-8 text at byte {error.start}; give a text file") from None


def _table(name: str, found: Verification) -> str:
    ratio = found.perplexity / found.their_perplexity
    rows = {
        "model": name,
        "against": found.against,
        "text": f"{found.n_tokens} tokens",
        "same top token": f"{found.top_1:.3f} of the positions",
        "KL divergence": f"{found.mean_kl:.3g} nats on average, {found.max_kl:.3g} at most",
        "perplexity": f"{found.perplexity:.4f}, theirs {found.their_perplexity:.4f} (x {ratio:.4f})",
        "largest error": f"{found.max_error:.2g} of the range of the logits",
    }
    return "\n".join(f"{label:<15} {value}" for label, value in rows.items())


COMMAND = Command(
    usage=USAGE,
    about="""\
Read a text with this model in Fanlight and in another implementation, and compare what they make of every token.

hf is transformers in float32, on the weights as the file stores them; llama.cpp reads a GGUF file as it is, and of a
folder a GGUF file that Fanlight exports. Float models agree to rounding; in quantised ones both Fanlight and llama.cpp
round activations to 8 bits, and transformers does not.""",
    groups=(
        (
            "what to compare",
            (
                Option("against", "the other implementation", choices=("hf", "llama.cpp")),
                Option(
                    "text", "a text file, UTF-8 (default: an English text of about a thousand tokens)", metavar="FILE"
                ),
                Option("max_tokens", "compare so many tokens of it", kind="int", metavar="N", default="512"),
            ),
        ),
        ("what to print", (Option("json", "one JSON object", kind="flag"),)),
        ("model", MODEL_OPTIONS),
    ),
    run=run,
)
