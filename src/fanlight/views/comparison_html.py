"""A Comparison as one HTML page that works from disk: no network, no library, light and dark. In: records. Knows no model.

The page's style and script are `page/comparison.css` and `page/comparison.js`. Without scripts it still shows the table, the texts
and where they part from the first setting's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

from fanlight.views.comparison import number, part_in_words, parts_at, settings_in_words, stops_in_words
from fanlight.views.figures import written_whole
from fanlight.views.terminal import percent, visible

if TYPE_CHECKING:
    from fanlight.comparing.records import Comparison, Divergence, Text, Token, Variant

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)
PROBABILITIES = (0.5, 0.2, 0.05, 0.01)
"""At least the first: no colour; below the last: the strongest."""
ENTROPIES = (1.0, 2.0, 3.0, 4.0)
"""Nats. Below the first: no colour; at least the last: the strongest."""


WHOLE = ' class="whole"'
"""A word that a line does not break."""


class Cell(NamedTuple):
    """A column of the table: its name, its unit, what it means, its value in words, and as a bar if it is one."""

    name: str
    unit: str
    meaning: str
    words: Callable[[Comparison, int], str]
    value: Callable[[Variant], float | None] | None = None


CELLS = (
    Cell(
        "length",
        "tokens a text",
        "The mean over the texts, an end-of-sequence token counted.",
        lambda c, i: number(c.variants[i].mean_tokens, 1),
        lambda v: v.mean_tokens,
    ),
    Cell(
        "perplexity",
        "under the model",
        "exp of minus the mean log-probability that the model itself, without the settings, gives the tokens written. "
        "Low is what the model expects, not what a reader prefers.",
        lambda c, i: number(c.variants[i].perplexity),
        lambda v: v.perplexity,
    ),
    Cell(
        "entropy",
        "nats",
        "Of the model's own distribution, the mean over the tokens: how open the choices were that it met.",
        lambda c, i: number(c.variants[i].entropy),
        lambda v: v.entropy,
    ),
    Cell(
        "after settings",
        "nats",
        "The entropy of what the tokens were chosen from, after the settings.",
        lambda c, i: number(c.variants[i].final_entropy),
        lambda v: v.final_entropy,
    ),
    *(
        Cell(
            f"distinct-{n}",
            "of all samples",
            f"Different {name} over all {name} of the samples together (Li et al. 2016). 1: none comes twice.",
            lambda c, i, n=n: number(c.variants[i].across[n - 1]),  # type: ignore[misc]
            lambda v, n=n: v.across[n - 1],  # type: ignore[misc]
        )
        for n, name in ((1, "tokens"), (2, "pairs of tokens"), (3, "triples of tokens"))
    ),
    Cell(
        "repeated",
        "4-grams of a text",
        "The share of runs of four tokens that came before in the same text (seq-rep-4, Welleck et al. 2020).",
        lambda c, i: "-" if (rep := c.variants[i].repetition) is None else percent(rep),
        lambda v: v.repetition,
    ),
    Cell(
        "longest loop",
        "tokens",
        "The longest run in which a part of a text follows itself at least once.",
        lambda c, i: str(loop.n_tokens) if (loop := c.variants[i].loop) else "0",
    ),
    Cell(
        "Self-BLEU",
        "0 to 1",
        "How much the samples are like each other: the mean BLEU-4 of each against the others (Zhu et al. 2018). 1: all the same.",
        lambda c, i: number(c.variants[i].self_bleu),
        lambda v: v.self_bleu,
    ),
    Cell("parts at", "token", "Where a text leaves the first setting's, the median over the samples.", parts_at),
    Cell("ended by", "texts", "Why the texts ended.", lambda c, i: stops_in_words(c.variants[i])),
)


def comparison_page(found: Comparison) -> str:
    """The page."""
    page = files("fanlight.views").joinpath("page")
    style, script = (page.joinpath(f"comparison.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    data = {"texts": [[_token_data(token) for token in text.tokens] for text in _texts(found)]}
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{_safe(found.prompt[:60])} - settings compared</title>",
            f"<style>\n{style}</style>\n</head>\n<body data-heat=none>",
            _header(found),
            "<main>",
            _table(found),
            _controls(found),
            *_samples(found),
            "</main>",
            _footer(),
            '<div id="tip" role="tooltip" hidden></div>',
            f'<script type="application/json" id="data">{_json(data)}</script>',
            f"<script>\n{script}</script>\n</body>\n</html>\n",
        )
    )


def save_page(page: str, path: str | os.PathLike[str]) -> None:
    """Write it; the file is there whole or not at all. Errors: OptionError."""
    with written_whole(path) as part:
        part.write_text(page, encoding="utf-8", errors="replace")


def _safe(text: str) -> str:
    """For HTML, control characters written out."""
    return escape(visible(text))


def _label(variant: Variant) -> str:
    """For HTML; a line may break after a comma."""
    return _safe(variant.label).replace(",", ",<wbr>")


def _json(data: Any) -> str:
    """JSON that cannot end the element it stands in."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _texts(found: Comparison) -> list[Text]:
    return [text for variant in found.variants for text in variant.texts]


def _token_data(token: Token) -> list[Any]:
    """Numbers in the words that a terminal has, so that the script rounds nothing a second time."""
    others = [[a.label, a.id, percent(a.raw_prob), percent(a.final_prob), a.removed] for a in token.alternatives]
    probs = (percent(token.raw_prob), percent(token.final_prob))
    return [token.label, token.id, *probs, token.raw_rank, number(token.entropy), others]


# -- parts of the page ---------------------------------------------------------------------------------------------------


def _header(found: Comparison) -> str:
    n = len(_texts(found))
    rate = f", <b>{found.tokens_per_second:.0f}</b> tokens/s" if found.tokens_per_second else ""
    notes = "".join(f"<li>{_safe(note)}</li>" for note in found.notes)
    return (
        f'<header>\n<h1>{len(found.variants)} settings, one prompt</h1>\n<p class="prompt" dir="auto">{_safe(found.prompt)}</p>\n'
        f'<p class="facts">{_safe(found.model)} &middot; <b>{n}</b> texts in one batch: <b>{found.n_tokens:,}</b> tokens in '
        f"<b>{found.seconds:.1f}</b> s{rate} &middot; seed <b>{found.seed}</b></p>\n"
        + (f'<ul class="notes">{notes}</ul>\n' if notes else "")
        + "</header>"
    )


def _table(found: Comparison) -> str:
    heads = "".join(map(_column_head, CELLS))
    scales = [_scale(cell, found) for cell in CELLS]
    rows = []
    for i, variant in enumerate(found.variants):
        values = "".join(_cell(cell, scale, found, i) for cell, scale in zip(CELLS, scales, strict=True))
        words = f'<div class="options">{_safe(settings_in_words(variant))}</div>'
        rows.append(f'<tr><td class="words"><b>{_label(variant)}</b>{words}</td>{values}</tr>')
    body = "\n".join(rows)
    head = f'<tr class="heads"><th scope="col">setting</th>{heads}</tr>'
    return f'<h2>Measures</h2>\n<div class="wide"><table class="measures">\n{head}\n{body}\n</table></div>'


def _column_head(cell: Cell) -> str:
    kind = WHOLE if cell.name.startswith("distinct") else ""
    name = f'<abbr{kind} title="{escape(cell.meaning)}">{cell.name}</abbr>'
    return f'<th scope="col">{name}<small>{cell.unit}</small></th>'


def _scale(cell: Cell, found: Comparison) -> float:
    if cell.value is None:
        return 0.0
    return max((value for variant in found.variants if (value := cell.value(variant)) is not None), default=0.0)


def _cell(cell: Cell, scale: float, found: Comparison, i: int) -> str:
    words = escape(cell.words(found, i)).replace("_", "_<wbr>")
    words = f'<span class="key">{cell.name} <small>{cell.unit}</small></span><span>{words}</span>'
    value = cell.value(found.variants[i]) if cell.value is not None else None
    if value is None or scale <= 0:
        return f"<td>{words}</td>"
    return f'<td class="bar" style="--share:{value / scale:.1%}">{words}</td>'


def _controls(found: Comparison) -> str:
    options = "".join(f'<option value="{i}">{_safe(v.label)}</option>' for i, v in enumerate(found.variants))
    samples = ""
    if found.samples > 1:
        names = [("all", "all"), *((str(i), str(i + 1)) for i in range(found.samples))]
        samples = "<span>samples " + "".join(
            f'<button data-sample="{key}" aria-pressed="{str(key == "all").lower()}">{name}</button> '
            for key, name in names
        )
        samples += "</span>"
    heats = (("none", "nothing"), ("prob", "probability"), ("entropy", "entropy"))
    colours = "".join(
        f'<button data-heat="{key}" aria-pressed="{str(key == "none").lower()}">{name}</button> ' for key, name in heats
    )
    low, high = PROBABILITIES, ENTROPIES
    probs = "".join(f'<i class="h{i}">below {p:.0%}</i>' for i, p in enumerate(low, 1))
    entropies = "".join(f'<i class="e{i}">{e:g} nats and more</i>' for i, e in enumerate(high, 1))
    return (
        '<h2>Texts</h2>\n<div class="controls" hidden>\n'
        f'<label>compared with <select id="baseline">{options}</select></label>\n{samples}\n<span>colour {colours}</span>\n'
        '<button id="theme">light / dark</button>\n</div>\n'
        '<p class="legend"><span data-of="none">Grey is shared with the baseline; the marked token is where a text parts. '
        "Point at a token for its probability, click to hold it, arrows go on.</span>"
        f'<span data-of="prob" hidden>the model\'s own probability {probs}</span>'
        f'<span data-of="entropy" hidden>entropy of the model\'s choice {entropies}</span></p>'
    )


def _samples(found: Comparison) -> Iterator[str]:
    numbers = {id(text): i for i, text in enumerate(_texts(found))}
    for sample in range(found.samples):
        columns = [_column(found, i, sample, numbers) for i in range(len(found.variants))]
        title = f"<h3>sample {sample + 1} of {found.samples}</h3>" if found.samples > 1 else ""
        yield f'<section class="sample" data-sample="{sample}">{title}<div class="columns">'
        yield from columns
        yield "</div></section>"


def _column(found: Comparison, i: int, sample: int, numbers: dict[int, int]) -> str:
    variant = found.variants[i]
    text = variant.texts[sample if variant.draws else 0]
    kind = ' class="baseline"' if i == 0 else ""
    head = f"<article{kind}><h4>{_label(variant)}</h4>"
    if text.error is not None:
        return f'{head}<p class="failed">failed: {_safe(text.error)}</p></article>'
    parted = found.divergence(i, sample)
    spans = "".join(_spans(text, parted, is_baseline=i == 0)) or '<span class="empty">no token</span>'
    again = " The same for every sample: nothing is drawn." if not variant.draws and found.samples > 1 else ""
    where = _safe(part_in_words(parted)) if parted is not None else ""
    plural = "" if text.n_tokens == 1 else "s"
    foot = f"{text.n_tokens} token{plural}, perplexity {number(text.perplexity)}, {_safe(text.stop_detail)}.{again}"
    place = f'data-text="{numbers[id(text)]}" data-variant="{i}" data-sample="{sample}"'
    return (
        f'{head}<p class="text" dir="auto" {place}>{spans}</p>'
        f'<p class="foot"><span class="where">{where}</span>{foot} Seed {text.seed}.</p></article>'
    )


def _spans(text: Text, parted: Divergence | None, *, is_baseline: bool) -> Iterator[str]:
    index = parted.index if parted is not None else None
    mark = index
    while mark is not None and mark < text.n_tokens - 1 and not text.tokens[mark].text:
        mark += 1
    for i, token in enumerate(text.tokens):
        kinds = ["t", *_heat(token)]
        if not is_baseline and parted is not None and (index is None or i < index):
            kinds.append("same")
        if i == mark:
            kinds.append("parts")
        yield f'<span class="{" ".join(kinds)}">{_safe(token.text)}</span>'


def _heat(token: Token) -> Iterator[str]:
    below = sum(token.raw_prob < p for p in PROBABILITIES)
    above = sum(token.entropy >= e for e in ENTROPIES)
    if below:
        yield f"h{below}"
    if above:
        yield f"e{above}"


def _footer() -> str:
    terms = "".join(f"<dt>{cell.name}</dt><dd>{escape(cell.meaning)}</dd>" for cell in CELLS)
    return f"<footer><dl>{terms}</dl>A setting that draws nothing counts as so many equal samples as the others have.</footer>"
