"""`fanlight inspect [MODEL]`: what a model is made of, a look into its vocabulary, how it cuts a text into tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fanlight.cli.options import Command, Option
from fanlight.cli.output import Output
from fanlight.cli.settings import COLOR, MODEL_OPTIONS, load_model
from fanlight.errors import OptionError
from fanlight.views.terminal_stack import stack_table

if TYPE_CHECKING:
    from fanlight.api import Model
    from fanlight.description import Description
    from fanlight.encoding import Encoder
    from fanlight.text.tokenizer import AnyTokenizer

USAGE = "fanlight inspect [MODEL] [OPTIONS]"
PICTURES = (".png", ".svg", ".pdf")
PEEK = 8  # tokens shown without --vocab


def run(values: dict[str, Any], words: list[str], output: Output) -> int:
    """See COMMAND."""
    if len(words) > 1 or (words and "model" in values):
        raise OptionError(f"one model is expected, found {words[0]!r} and {(*words[1:], values.get('model'))[0]!r}")
    if words:
        values = {**values, "model": words[0]}
    span = _span(values.get("vocab"))
    as_json = values.get("json", False)
    if as_json:
        output.notes = []
    _check_picture(values)
    model = _load(values, output)
    tokenizer = model.tokenizer
    if "picture" in values:
        _draw(model.describe(), values["picture"], values.get("dark", False))
        output.summary(f"[{values['picture']} written]")
    start, end = _clip(span, tokenizer.n_vocab)
    rows = [_token(tokenizer, token) for token in range(start, end)] if span else []
    text = values.get("token")
    pieces = [] if text is None else [_token(tokenizer, token) for token in tokenizer.encode(text, add_special=False)]
    if as_json:
        return _as_json(model.describe().as_dict(), rows, pieces, text, output)
    if not span and text is None:
        description = model.describe()
        output.line(output.canvas.plain(str(description)))
        special = sorted(tokenizer.special_ids)
        output.line(_named("special", output, [tokenizer.token_label(token) for token in special], len(special)))
        middle = range(tokenizer.n_vocab // 2, min(tokenizer.n_vocab, tokenizer.n_vocab // 2 + PEEK))
        output.line(_named("vocabulary", output, [tokenizer.token_label(token) for token in middle], tokenizer.n_vocab))
        output.line()
        output.line(stack_table(description, output.canvas))
        return 0
    if text is not None:
        output.line(
            f"{len(pieces)} token{'s' if len(pieces) != 1 else ''}, {len(text)} characters, {len(text.encode())} bytes"
        )
        _table(pieces, output)
    if span:
        if text is not None:
            output.line()
        _table(rows, output)
    return 0


def _load(values: dict[str, Any], output: Output) -> Model | Encoder:
    """The model, or the encoder that it is."""
    from fanlight.errors import CheckpointError
    from fanlight.loading import holds_encoder
    from fanlight.sources import find_model

    if not holds_encoder(find_model(values.get("model"))):
        return load_model(values, output)
    from fanlight.encoding import load_encoder

    if refused := [name for name in ("quantize", "backend", "device", "n_ctx") if name in values]:
        raise CheckpointError(f"{values['model']}: an encoder; --{refused[0].replace('_', '-')} is for decoders")
    return load_encoder(values.get("model"), threads=values.get("threads"), kernels=values.get("kernels"))


def _check_picture(values: dict[str, Any]) -> None:
    if "picture" in values and not values["picture"].lower().endswith(PICTURES):
        raise OptionError(f"--picture takes a file that ends in {', '.join(PICTURES)}: got {values['picture']!r:.100}")
    if "dark" in values and "picture" not in values:
        raise OptionError("--dark is for --picture FILE")


def _draw(description: Description, path: str, dark: bool) -> None:
    from fanlight.views.figures import save
    from fanlight.views.stack import stack_figure

    save(stack_figure(description, dark=dark), path)


def _named(name: str, output: Output, labels: list[str], n: int) -> str:
    more = f" ... ({n:,} in all)" if n > PEEK else ""
    return f"{name:<14} {output.canvas.plain('  '.join(labels[:PEEK]))}{more}"


def _span(text: str | None) -> tuple[int, int | None] | None:
    if text is None:
        return None
    start, colon, end = text.partition(":")
    try:
        low = int(start or 0)
        high = (int(end) if end else None) if colon else low + 1
        if low >= 0 and (high is None or high > low):
            return low, high
    except ValueError:
        pass
    raise OptionError(f"--vocab takes START:END, ids from 0, the end not included, or one id: got {text!r}")


def _clip(span: tuple[int, int | None] | None, n_vocab: int) -> tuple[int, int]:
    start, end = span or (0, 0)
    if start >= n_vocab:
        raise OptionError(f"--vocab begins at {start}, but the vocabulary has ids 0 to {n_vocab - 1}")
    return start, n_vocab if end is None else min(end, n_vocab)


def _token(tokenizer: AnyTokenizer, token: int) -> dict[str, Any]:
    return {
        "id": token,
        "token": tokenizer.token_text(token),
        "label": tokenizer.token_label(token),
        "bytes": tokenizer.token_bytes(token).hex(" "),
        "special": token in tokenizer.special_ids,
    }


def _table(rows: list[dict[str, Any]], output: Output) -> None:
    from fanlight.views.terminal import left

    canvas = output.canvas
    output.line(canvas.paint(f"{'id':>7}  {'token':<24}  bytes", "dim"))
    for row in rows:
        label = left(canvas.label(row["label"], 24), 24)
        hexadecimal = row["bytes"] if len(row["bytes"]) <= 44 else row["bytes"][:41] + "..."
        special = canvas.paint("  special", "final") if row["special"] else ""
        output.line(f"{row['id']:>7}  {label}  {canvas.paint(hexadecimal, 'dim')}{special}".rstrip())


def _as_json(
    description: dict[str, Any],
    rows: list[dict[str, Any]],
    pieces: list[dict[str, Any]],
    text: str | None,
    output: Output,
) -> int:
    from fanlight.cli.as_json import dumps

    found: dict[str, Any] = {**description, "notes": output.notes}
    if rows:
        found["vocabulary"] = rows
    if text is not None:
        found["tokenized"] = {"text": text, "tokens": pieces}
    output.line(dumps(found))
    return 0


COMMAND = Command(
    usage=USAGE,
    about="""\
Show what a model is made of: the stack of blocks with shapes, parameters and types, the head, memory, special tokens,
the model's own settings, and what of the file was converted or not read. Encoders too.""",
    groups=(
        (
            "what to show",
            (
                Option("vocab", "tokens of the vocabulary by id; END is not included", metavar="START:END"),
                Option("token", "how a text is cut into tokens", metavar="TEXT"),
                Option("picture", "draw the stack of blocks, one of them opened: .png, .svg or .pdf", metavar="FILE"),
                Option("dark", "light on dark ground", kind="flag"),
                Option("json", "one JSON object, with every array of the file", kind="flag"),
                COLOR,
            ),
        ),
        ("model", MODEL_OPTIONS),
    ),
    run=run,
)
