"""A Comparison in a terminal: measures as a table, texts side by side, where they part. In: records, a Canvas. Knows no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from fanlight.decoding.config import DEFAULTS
from fanlight.decoding.explaining import shown
from fanlight.decoding.notes import no_effect
from fanlight.views.flow import Piece, beside, flow
from fanlight.views.terminal import Canvas, columns, left, percent, right

if TYPE_CHECKING:
    from fanlight.comparing.records import Choice, Comparison, Divergence, Text, Token, Variant

NAME = 28  # columns of a setting's label in the table
NARROWEST, WIDEST = 26, 72  # columns of a text
GAP, RULE = 2, 3
MARK = "▸"


class Measure(NamedTuple):
    """A column of the table: what it is called, its unit, its value."""

    name: str
    unit: str
    value: Callable[[Comparison, int], str]


def comparison_table(found: Comparison, canvas: Canvas) -> str:
    """A row for each setting; columns that do not fit beside each other follow in a further table."""
    rows = range(len(found.variants))
    cells = [[measure.value(found, i) for i in rows] for measure in MEASURES]
    widths = [
        max(map(len, (measure.name, measure.unit, *column))) for measure, column in zip(MEASURES, cells, strict=True)
    ]
    tables = []
    for chosen in _packed(widths, canvas.width - NAME):
        picked = [(MEASURES[i], cells[i], widths[i]) for i in chosen]
        lines = [
            canvas.paint(_row("setting", [(m.name, w) for m, _, w in picked], canvas), "bold"),
            canvas.paint(_row("", [(m.unit, w) for m, _, w in picked], canvas), "dim"),
        ]
        lines += [_row(found.variants[i].label, [(column[i], w) for _, column, w in picked], canvas) for i in rows]
        tables.append("\n".join(line.rstrip() for line in lines))
    return "\n\n".join(tables)


def settings_lines(found: Comparison, canvas: Canvas) -> str:
    """What each setting is: the options with an effect in which they differ."""
    lines = []
    for variant in found.variants:
        text = settings_in_words(variant)
        lines += [
            line.rstrip() for line in flow([Piece(variant.label, "bold"), Piece(f"  {text}")], canvas.width, canvas)
        ]
    return "\n".join(lines)


def settings_in_words(variant: Variant) -> str:
    """Of the options in which the variants differ, those that are away from their defaults and have an effect."""
    idle = no_effect(variant.config)
    said = [
        f"{len(value)} processors in an order of its own" if name == "processors" else f"{name} {shown(value)}"
        for name, value in variant.options.items()
        if name not in idle and value != DEFAULTS[name] and name != "do_sample"
    ]
    return ", ".join(said) or ("drawn as the model says" if variant.draws else "the most probable token, always")


def texts_beside(found: Comparison, canvas: Canvas) -> str:
    """Sample by sample, the texts as columns. What a text shares with the baseline's is dim, the token at which it parts marked."""
    blocks = []
    for sample in range(found.samples):
        shown = [i for i, variant in enumerate(found.variants) if sample < len(variant.texts)]
        if not shown:
            break
        most = max(1, min(len(shown), (canvas.width + RULE) // (NARROWEST + RULE)))
        fit = -(-len(shown) // -(-len(shown) // most))  # columns of one width, in as few groups as there must be
        width = min(WIDEST, (canvas.width - RULE * (fit - 1)) // fit)
        title = f"sample {sample + 1} of {found.samples}" if found.samples > 1 else "the texts"
        lines = [canvas.paint(title, "dim")]
        for start in range(0, len(shown), fit):
            group = shown[start : start + fit]
            bodies = [_body(found, i, sample, width, canvas) for i in group]
            height = max(map(len, bodies))
            filled = [
                [*body, *[" " * width] * (height - len(body)), *_foot(found, i, sample, width, canvas)]
                for i, body in zip(group, bodies, strict=True)
            ]
            lines += [*beside(filled, [width] * len(group), canvas), ""]
        blocks.append("\n".join(lines).rstrip("\n"))
    return "\n\n".join(blocks)


def closing_line(found: Comparison) -> str:
    """How much, how fast. The texts were written together: no one of them has a time of its own."""
    n = sum(len(variant.texts) for variant in found.variants)
    rate = f" at {found.tokens_per_second:.0f} tok/s" if found.tokens_per_second else ""
    first = f", first token after {found.first_token_seconds:.2f} s" if found.first_token_seconds is not None else ""
    reused = f" | {found.n_reused} of {n * len(found.prompt_ids)} prompt tokens shared" if found.n_reused else ""
    return (
        f"[{n} text{'s' if n != 1 else ''} in one batch: {found.n_tokens} tokens in {found.seconds:.1f} s{rate}{first}"
        f"{reused} | seed {found.seed}]"
    )


# -- the table -----------------------------------------------------------------------------------------------------------


def number(value: float | None, digits: int = 2) -> str:
    """A measure; "-" where there is none."""
    if value is None:
        return "-"
    return f"{value:,.{digits if value < 1000 else 0}f}"


def parts_at(found: Comparison, variant: int) -> str:
    """At which token, the median over the samples: "7"; "same" if none parts; "-" for the baseline."""
    of = [d.index for d in found.divergences if d.variant == variant]
    if not of:
        return "-"
    parted = sorted(index + 1 for index in of if index is not None)
    if not parted:
        return "same"
    middle = f"{median(parted):g}"
    return middle if len(parted) == len(of) else f"{middle} ({len(of) - len(parted)} same)"


def stops_in_words(variant: Variant) -> str:
    """Why its texts ended: "3 max_new_tokens, 1 eos"."""
    return ", ".join(f"{n} {reason}" for reason, n in variant.stops.items())


MEASURES: tuple[Measure, ...] = (
    Measure("tokens", "a text", lambda c, i: number(c.variants[i].mean_tokens, 0 if c.samples == 1 else 1)),
    Measure("perplexity", "model's", lambda c, i: number(c.variants[i].perplexity)),
    Measure("entropy", "nats", lambda c, i: number(c.variants[i].entropy)),
    Measure("distinct-1", "of tokens", lambda c, i: number(c.variants[i].across[0])),
    Measure("distinct-2", "of pairs", lambda c, i: number(c.variants[i].across[1])),
    Measure("distinct-3", "of triples", lambda c, i: number(c.variants[i].across[2])),
    Measure(
        "repeated",
        "4-grams",
        lambda c, i: "-" if (rep := c.variants[i].repetition) is None else percent(rep),
    ),
    Measure("loop", "tokens", lambda c, i: str(loop.n_tokens) if (loop := c.variants[i].loop) else "0"),
    Measure("Self-BLEU", "0 to 1", lambda c, i: number(c.variants[i].self_bleu)),
    Measure("parts at", "token", parts_at),
    Measure("ended by", "texts", lambda c, i: stops_in_words(c.variants[i])),
)


def _packed(widths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Columns that fit beside each other, in their order."""
    chosen: list[int] = []
    used = 0
    for i, width in enumerate(widths):
        if chosen and used + GAP + width > room:
            yield chosen
            chosen, used = [], 0
        chosen.append(i)
        used += GAP + width
    yield chosen


def _row(name: str, cells: Sequence[tuple[str, int]], canvas: Canvas) -> str:
    return left(canvas.label(name, NAME), NAME) + "".join(" " * GAP + right(text, width) for text, width in cells)


# -- a column ------------------------------------------------------------------------------------------------------------


def _body(found: Comparison, variant: int, sample: int, width: int, canvas: Canvas) -> list[str]:
    """The label and the text."""
    text, parted = found.variants[variant].texts[sample], found.divergence(variant, sample)
    label = canvas.label(found.variants[variant].label, width)
    head = canvas.paint(label, "bold") + " " * (width - columns(label))
    pieces = _pieces(text, parted) if text.error is None else [Piece("failed: ", "cut"), Piece(text.error)]
    return [head, *flow(pieces, width, canvas), " " * width]


def _foot(found: Comparison, variant: int, sample: int, width: int, canvas: Canvas) -> list[str]:
    """What there is to know of the text."""
    text, parted = found.variants[variant].texts[sample], found.divergence(variant, sample)
    if text.error is not None:
        return []
    plural = "" if text.n_tokens == 1 else "s"
    facts = f"{text.n_tokens} token{plural}, perplexity {number(text.perplexity)}\n{text.stop_detail}"
    lines = flow([Piece(facts, "dim")], width, canvas)
    return lines if parted is None else [*lines, *flow([Piece(part_in_words(parted), "final")], width, canvas)]


def _pieces(text: Text, parted: Divergence | None) -> list[Piece]:
    if not text.tokens:
        return [Piece("(no token)", "dim")]
    if parted is None or parted.index is None:
        return [Piece(token.text, "" if parted is None else "dim") for token in text.tokens]
    pieces, marked = [], False
    for i, token in enumerate(text.tokens):
        if i < parted.index:
            pieces.append(Piece(token.text, "dim"))
        elif not marked and token.text:  # the first of a character's tokens has no text yet
            blank = len(token.text) - len(token.text.lstrip())
            pieces += [Piece(token.text[:blank]), Piece(MARK, "final"), Piece(token.text[blank:], "chosen")]
            marked = True
        else:
            pieces.append(Piece(token.text))
    return pieces if marked else [*pieces, Piece(MARK, "final")]


def part_in_words(parted: Divergence) -> str:
    """Where a text leaves the baseline's, and why: "parts at token 7: ␣for 12.0%; baseline ␣to, here 31.0%"."""
    if parted.index is None:
        return "the same text as the baseline's"
    here, there = parted.here, parted.baseline
    assert here is not None
    assert there is not None
    if here.token is None:
        return (
            f"ends before token {parted.index + 1}, where the baseline has {there.token.label if there.token else ''}"
        )
    mine = f"parts at token {parted.index + 1}: {here.token.label} ({_probs(here.token)})"
    if there.token is None:
        return f"{mine}; the baseline has ended"
    return f"{mine}; baseline {there.token.label} ({_probs(there.token)}){_known(here)}"


def _probs(token: Token) -> str:
    """The model's own probability, and that after the settings where it is another."""
    raw, final = percent(token.raw_prob), percent(token.final_prob)
    return raw if raw == final else f"{raw} → {final}"


def _known(here: Choice) -> str:
    other = here.other
    if other is None:
        return ""
    if other.final_prob == 0:
        return f", removed here by {other.removed}" if other.removed else ", removed here"
    return f", here {percent(other.final_prob)}"
