"""How objects show themselves in a notebook: `html_of` for their `_repr_html_`. In: an object of ours. Out: HTML. Knows no model.

No script, no style sheet: what is coloured has `style` attributes that suit light and dark ground, and where a viewer takes these
out, the words, tables and line breaks stay. It never raises: what cannot be shown so is shown as its repr.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from fanlight.views.report_facts import count, facts, notes, number, title, trouble, words
from fanlight.views.ribbon_colors import measure
from fanlight.views.ribbon_html import TROUBLE, Label, legend, safe, spans, text
from fanlight.views.terminal import percent

if TYPE_CHECKING:
    from fanlight.comparing.records import Comparison
    from fanlight.description import Description
    from fanlight.generation import Generation, Step
    from fanlight.trace.distribution import Distribution
    from fanlight.trace.records import Candidate, StepRecord
    from fanlight.trace.search import SearchRecord
    from fanlight.tracing.trace import Trace

MOST_TOKENS = 2000
"""That are coloured; the rest of a longer text follows plain."""
MOST_CANDIDATES = 12
MOST_TOKENS_OF_DISTRIBUTION = 20
LONGEST_TEXT, LONGEST_PROMPT = 400, 1500
"""Signs: of each text in a comparison, and of a prompt before a text."""
MODEL, FINAL = "61,143,196", "213,118,46"
BLOCK = '<div style="font-size: 15px; line-height: 1.8; overflow-wrap: anywhere; max-width: 84ch" dir="auto">'
FAINT = '<span style="opacity: .65">'


def html_of(thing: Any, *, by: str = "surprise") -> str:
    """For `_repr_html_`. by: what colours a text."""
    try:
        for kind in type(thing).__mro__:
            show = SHOWN.get(kind.__name__) if kind.__module__.startswith("fanlight.") else None
            if show is not None:
                return show(thing, by)
        return _plain(thing)
    except Exception:
        return _plain(thing)


def _plain(thing: Any) -> str:
    for words_of in (str, repr):
        try:
            return f'<pre style="white-space: pre-wrap">{safe(words_of(thing))}</pre>'
        except Exception:
            continue
    return f"<pre>{escape(type(thing).__name__)}</pre>"


# -- texts -----------------------------------------------------------------------------------------------------------------


def _trace(trace: Trace, by: str) -> str:
    records = list(trace.steps)
    prompt = trace.header.prompt or "".join(trace.token_text(token) for token in trace.prompt_ids)
    if len(prompt) > LONGEST_PROMPT:
        prompt = "…" + prompt[-LONGEST_PROMPT:]
    bad = trouble(trace.header)
    return (
        f"<b>{safe(title(trace))}</b><br>\n{_facts(facts(trace, records))}"
        + (f'<p style="{TROUBLE}">&#9888; {safe(bad)}</p>' if bad else "")
        + f"{BLOCK}{FAINT}{text(prompt)}</span>{_ribbon(trace.pieces, records, trace.token_label, by)}</div>"
        + (f"{FAINT}{legend(measure(by))}</span>" if records else "")
        + _notes(notes(trace.header))
    )


def _generation(generation: Generation, by: str) -> str:
    from fanlight.decoding.config import DEFAULTS

    made = [step for step in generation.steps if step.decision.record is not None]
    records = [step.record for step in made]
    is_whole = bool(made) and len(made) == len(generation.steps)
    given = {name: value for name, value in generation.config.values().items() if value != DEFAULTS[name]}
    settings = [(name, words(value)) for name, value in given.items() if name != "seed"]  # the head has it
    head = [("ended", str(generation.stop)), ("tokens", f"{len(generation.ids):,}"), ("seed", str(generation.seed))]
    if generation.others:
        head.append(("texts", f"the best of {len(generation.all)}"))
    if generation.answer is not None:
        head.append(("answer", f"{generation.answer} ({count(generation.votes or 0, 'vote')})"))
    body = text(generation.text)
    if is_whole:
        label = made[0]._tokenizer.token_label
        body = _ribbon([step.text for step in made], records, label, by)
    return (
        f"{BLOCK}{body}</div>\n{_facts([*head, *settings])}"
        + (f"<br>{FAINT}{legend(measure(by))}</span>" if is_whole else "")
        + _notes(generation.notes)
    )


def _ribbon(pieces: Sequence[str], records: Sequence[StepRecord], label: Label, by: str) -> str:
    found = spans(pieces[:MOST_TOKENS], records[:MOST_TOKENS], label, by)
    if len(pieces) > MOST_TOKENS:
        found += text("".join(pieces[MOST_TOKENS:])) + f" {FAINT}[from token {MOST_TOKENS:,} on without colour]</span>"
    return found


def _facts(pairs: Iterable[tuple[str, str]]) -> str:
    return "<small>" + " &middot; ".join(f"{safe(name)} <b>{safe(value)}</b>" for name, value in pairs) + "</small>\n"


def _notes(said: Iterable[str]) -> str:
    items = "".join(f"<li>{safe(note)}</li>" for note in said)
    return f"<ul><small>{items}</small></ul>" if items else ""


# -- one step --------------------------------------------------------------------------------------------------------------


def _step(step: Step, by: str) -> str:
    label = step._tokenizer.token_label
    head = f"step {step.index}: <b><code>{safe(label(step.id))}</code></b>"
    if step.decision.record is None:
        return f"{head} {FAINT}(not recorded: generate with candidates above 0)</span>"
    return f"{head}<br>\n{_record_table(step.record, label)}"


def _record(record: StepRecord, by: str) -> str:
    def label(token: int) -> str:
        return f"#{token}"

    return f"position {record.position}: token <b>{label(record.id)}</b><br>\n{_record_table(record, label)}"


def _record_table(record: StepRecord, label: Label) -> str:
    by_raw = sorted(record.candidates, key=lambda c: (-c.raw_prob, c.id))
    shown = by_raw[:MOST_CANDIDATES]
    shown += [c for c in by_raw[MOST_CANDIDATES:] if c.id == record.id]
    removed = record.removals()

    def final(c: Candidate) -> str:
        gone = removed.get(c.id)
        return f"removed: {safe(gone.rule)}" if gone is not None else _bar(c.final_prob, FINAL)

    rows = []
    for c in shown:
        name = f"<code>{safe(label(c.id))}</code>"
        name = f"<b>&#9656; {name}</b>" if c.id == record.id else f"<s>{name}</s>" if c.id in removed else name
        rows.append([name, _bar(c.raw_prob, MODEL), *([final(c)] if record.effects else [])])
    n = record.raw.n_kept - len(shown)
    if n > 0:
        raw, left = (max(0.0, 1 - sum(getattr(c, f"{kind}_prob") for c in shown)) for kind in ("raw", "final"))
        kept = record.n_kept - sum(c.id not in removed for c in shown)
        after = f"{percent(left)}, {kept:,} left" if kept > 0 else "all removed"
        rows.append([f"<i>{count(n, 'other')}</i>", _bar(raw, "140,148,156"), *([after] if record.effects else [])])
    pairs = [
        ("surprise", f"{-record.raw_logprob:.2f} nats"),
        ("rank", str(record.raw_rank)),
        ("entropy", f"{record.raw_entropy:.2f} nats"),
        *((effect.label, f"{effect.n_kept:,} left") for effect in record.effects),
    ]
    if record.stop is not None:
        pairs.append(("ends here", record.stop.detail))
    return _table(["token", "model", *(["chosen from"] if record.effects else [])], rows) + _facts(pairs)


def _distribution(found: Distribution, by: str) -> str:
    n = min(len(found.ids), MOST_TOKENS_OF_DISTRIBUTION)
    probs = found.probs
    rows = [
        [f"<code>{safe(found.label(int(token)))}</code>", _bar(float(prob), MODEL)]
        for token, prob in zip(found.ids[:n], probs[:n], strict=True)
    ]
    if found.n_vocab > n:
        rest = max(0.0, 1 - float(probs[:n].sum()))
        rows.append([f"<i>{count(found.n_vocab - n, 'other')}</i>", _bar(rest, "140,148,156")])
    head = f"after <code>{safe(found.context)}</code>: " if found.context else ""
    return f"{head}entropy <b>{found.entropy:.2f}</b> nats\n{_table(['next token', 'probability'], rows)}"


# -- tables ----------------------------------------------------------------------------------------------------------------


def _comparison(found: Comparison, by: str) -> str:
    from fanlight.views.comparison import part_in_words, stops_in_words

    rows = []
    for i, variant in enumerate(found.variants):
        first = variant.texts[0] if variant.texts else None
        said = "" if first is None else first.text if first.error is None else f"failed: {first.error}"
        said = said if len(said) <= LONGEST_TEXT else said[:LONGEST_TEXT] + "…"
        parted = found.divergence(i, 0)
        where = f"<br>{FAINT}<small>{safe(part_in_words(parted))}</small></span>" if parted is not None else ""
        measures = (variant.mean_tokens, variant.perplexity, variant.entropy, variant.across[1])
        numbers = ["-" if value is None else number(value) for value in measures]
        rows.append([f"<b>{safe(variant.label)}</b>", text(said) + where, *numbers, safe(stops_in_words(variant))])
    heads = ["setting", "first text", "tokens", "perplexity", "entropy (nats)", "distinct-2", "ended by"]
    about = [("model", found.model), ("texts", f"{found.samples} for each setting"), ("seed", str(found.seed))]
    return f"{BLOCK}<b>{text(found.prompt)}</b></div>{_table(heads, rows)}{_facts(about)}{_notes(found.notes)}"


def _description(found: Description, by: str) -> str:
    return _table([], [[f"<b>{safe(name)}</b>", safe(value)] for name, value in found.facts.items()])


def _search(found: SearchRecord, by: str) -> str:
    fates: dict[str, int] = {}
    for node in found.nodes:
        fates[node.fate] = fates.get(node.fate, 0) + 1
    pairs = [("nodes", f"{len(found.nodes):,}"), *((fate, f"{n:,}") for fate, n in fates.items())]
    texts = [("returned", ", ".join(f"{found.nodes[i].score:.3f}" for i in found.returned) or "nothing")]
    return f"<b>{safe(found.kind)}</b><br>{_facts([*pairs, *texts])}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    align = ' style="text-align: left; vertical-align: top"'
    head = "<thead><tr>" + "".join(f"<th{align}>{name}</th>" for name in heads) + "</tr></thead>" if heads else ""
    body = "".join("<tr>" + "".join(f"<td{align}>{value}</td>" for value in row) + "</tr>\n" for row in rows)
    return f"<table>{head}<tbody>\n{body}</tbody></table>\n"


def _bar(prob: float, rgb: str) -> str:
    width = f"{max(1.0, prob * 100):.0f}px"
    style = f"background-color: rgb({rgb}); width: {width}; height: 5px; border-radius: 2px"
    return f'{percent(prob)}<div style="{style}"></div>'


SHOWN: dict[str, Callable[[Any, str], str]] = {
    "Trace": _trace,
    "Generation": _generation,
    "Step": _step,
    "StepRecord": _record,
    "Distribution": _distribution,
    "Comparison": _comparison,
    "Description": _description,
    "SearchRecord": _search,
}
"""By the class's name; of all others the words of `str`."""
