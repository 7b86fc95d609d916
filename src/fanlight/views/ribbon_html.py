"""The generated text with each token on a coloured ground, as HTML. In: a Trace or records. Out: HTML. Knows no model.

Colours stand in `style` attributes and let the ground shine through, so that the same HTML is right on light and on dark ground;
where styles are taken out, the text and its breaks stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING

from fanlight.views.figures import LIGHT
from fanlight.views.report_facts import facts, notes, title, trouble
from fanlight.views.ribbon_colors import Measure, measure
from fanlight.views.terminal import percent, visible

if TYPE_CHECKING:
    from fanlight.trace.records import StepRecord
    from fanlight.tracing.trace import Trace

HEAT = "213,94,0"  # Okabe and Ito's vermilion
MOST_HEAT = 0.62
"""The strongest ground lets so much less of the page through; text in the page's own ink stays readable on it."""
FAINTEST = 0.02
MARKS = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029\ufeff"
_HIDDEN = {ord(c): f"\\u{ord(c):04x}" for c in MARKS}
ALTERNATIVES = 5
"""Candidates that a token's tooltip names."""

Label = Callable[[int], str]


def spans(pieces: Sequence[str], records: Sequence[StepRecord], label: Label, by: str) -> str:
    """Tokens as spans with tooltips. Errors: OptionError."""
    found = measure(by)
    return "".join(_span(*each, label, found) for each in enumerate(zip(pieces, records, strict=False)))


def ribbon_html(trace: Trace, *, by: str = "surprise") -> str:
    """A whole page: the prompt, the text as a ribbon, a legend. It needs no script. Errors: OptionError."""
    records = list(trace.steps)
    found = measure(by)
    prompt = trace.header.prompt or "".join(trace.token_text(token) for token in trace.prompt_ids)
    heads = "".join(f"<b>{safe(name)}</b> {safe(value)} &nbsp; " for name, value in facts(trace, records))
    bad = trouble(trace.header)
    said = "".join(f"<li>{safe(note)}</li>" for note in notes(trace.header))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
        f"<title>{safe(title(trace))}</title>\n</head>\n"
        '<body style="margin: 32px auto; max-width: 80ch; padding: 0 20px; font: 15px/1.5 system-ui, sans-serif">\n'
        f'<h1 style="font-size: 18px">{safe(title(trace))}</h1>\n'
        + (f'<p role="alert" style="{TROUBLE}">&#9888; {safe(bad)}</p>\n' if bad else "")
        + f"<p>{heads}</p>\n"
        + (f"<ul>{said}</ul>\n" if said else "")
        + f"<p>{legend(found)}</p>\n"
        f'<p dir="auto" style="font-size: 18px; line-height: 1.9; overflow-wrap: anywhere">'
        f'<span style="opacity: .6">{text(prompt)}</span>{spans(trace.pieces, records, trace.token_label, by)}</p>\n'
        "</body>\n</html>\n"
    )


TROUBLE = f"border: 2px solid {LIGHT.feed_forward}; border-radius: 6px; padding: 8px 12px; font-weight: 600"


def legend(found: Measure) -> str:
    """What the grounds mean."""
    ticks = "".join(
        f'<span style="{_ground(found.share(tick))}; padding: 0 7px">{tick:g}</span> ' for tick in found.ticks
    )
    return f"<small>{found.name}: {escape(found.meaning)}; {found.unit} {ticks}</small>"


def safe(said: str) -> str:
    """For HTML and its attributes: control characters are written out, halves of characters replaced."""
    return escape(visible(said).encode("utf-8", "replace").decode("utf-8"))


def text(piece: str) -> str:
    """For HTML without styles: line ends are breaks, blanks in a row stay, what moves other signs is written out."""
    found = safe(piece.translate(_HIDDEN)).replace("\t", "&nbsp;&nbsp;&nbsp; ").replace("  ", "&nbsp; ")
    return found.replace("\n", "<br>\n")


def tooltip(index: int, record: StepRecord, label: Label) -> str:
    """A token's account in a few lines."""
    head = f"step {index}: {label(record.id)}  surprise {-record.raw_logprob:.2f} nats, rank {record.raw_rank}"
    lines = [f"{head}, entropy {record.raw_entropy:.2f} nats"]
    removed = record.removals()
    top = sorted(record.candidates, key=lambda c: -c.raw_prob)[:ALTERNATIVES]
    for c in top:
        after = "" if not record.effects else f" \u2192 {percent(c.final_prob)}"
        why = removed.get(c.id)
        lines.append(f"{label(c.id)}  {percent(c.raw_prob)}" + (f" \u2192 removed: {why.rule}" if why else after))
    return safe("\n".join(lines).translate(_HIDDEN))


def _span(index: int, token: tuple[str, StepRecord], label: Label, found: Measure) -> str:
    piece, record = token
    share = found.share(found.value(record))
    style = _ground(share)
    inner = text(piece) if piece else f"<small>{text(_of_nothing(label(record.id)))}</small>"
    return (
        f'<span title="{tooltip(index, record, label)}"' + (f' style="{style}"' if style else "") + f">{inner}</span>"
    )


def _of_nothing(label: str) -> str:
    """What stands for a token that adds no text: a part of a character, or the end of the text."""
    return "\u00b7" if label.startswith("\\x") else label


def _ground(share: float) -> str:
    return f"background-color: rgba({HEAT},{share * MOST_HEAT:.2f}); border-radius: 2px" if share > FAINTEST else ""
