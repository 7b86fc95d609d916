"""One step's way through all processors, and one token's. In: a StepRecord, a label. Out: a matplotlib Figure. Knows no model.

A stage is the row after so many processors; stage 0 is raw. Probabilities of the candidates stand beside each other as bars; where
a processor removed one, a cross, and at the right the rule in words.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp, inf, isinf
from typing import TYPE_CHECKING, NamedTuple

from fanlight.errors import OptionError
from fanlight.views import axes as shared
from fanlight.views.axes import BODY, MARGIN, SMALL, count, drawable, mixed, page, percent, quiet, width_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fanlight.trace.records import StepRecord
    from fanlight.views.axes import Page

Label = Callable[[int], str]
ROW, GAP, HEAD = 0.235, 0.16, 0.98  # inches: a token, between stages, above the bars
STAGE, NARROW = 1.55, 1.22  # inches: a stage, and with many of them
MOST_STAGES = 11
LEDGE = 2.75  # inches: the height of a token's way
CROSS = 5.2  # points


class Stage(NamedTuple):
    """The row after a processor."""

    label: str
    """The processor's; "raw" for the first."""
    n_kept: int
    entropy: float
    logits: tuple[float, ...]
    """Of the candidates."""
    logsumexp: float

    def prob(self, at: int) -> float:
        """Of a candidate; 0 if it was removed."""
        return exp(self.logits[at] - self.logsumexp)

    def logprob(self, at: int) -> float:
        """Of a candidate; -inf if it was removed."""
        return self.logits[at] - self.logsumexp


def waterfall_figure(
    record: StepRecord, label: Label, *, token: int | None = None, n: int = 12, context: str = "", dark: bool = False
) -> Figure:
    """The candidates' probabilities after each processor; with a token, its logprob after each of them below.

    token: an id among the candidates. n: how many candidates to show; the chosen one and `token` always are. context: the end of
    the text before, for the title. Errors: MissingExtra; OptionError for a token that the step did not record.
    """
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= 60:
        raise OptionError(f"n is how many candidates to show, from 1 to 60: got {n!r:.80}")
    if token is not None and token not in record.candidate_ids:
        raise OptionError(
            f"token {token!r:.40} is not among the {len(record.candidate_ids)} candidates that this step recorded; "
            "record more with candidates="
        )
    stages, skipped = _stages(record)
    rows = _rows(record, n, token)
    names = [label(record.candidate_ids[at]) for at in rows]
    rules = _rules(record, rows)
    left = MARGIN + max(width_of(shared.token(name, 16), BODY, mono=True) for name in names) + 0.12
    stage = STAGE if len(stages) <= 6 else NARROW
    right = max((width_of(rule, SMALL) for rule in rules), default=0.0) + 0.1
    wide = max(left + len(stages) * (stage + GAP) + right + MARGIN, 6.4)
    tall, below = ROW * (len(rows) + 1), LEDGE + 1.2 if token is not None else 0.0
    made = page(wide, HEAD + tall + 0.3 + below, _title(record, label, context), [_facts(record, skipped)], dark=dark)
    place = (left, 0.3 + below, stage, tall)
    _draw_stages(made, record, stages, rows, names, place, token)
    _draw_rules(made, rules, (left + len(stages) * (stage + GAP), 0.3 + below + tall))
    if token is not None:
        _draw_way(made, record, stages, label, token)
    return made.figure


# -- numbers ---------------------------------------------------------------------------------------------------------------


def stages_of(record: StepRecord) -> list[Stage]:
    """The raw row, then that after each processor."""
    raw = record.raw
    found = [Stage("raw", raw.n_kept, raw.entropy, record.raw_logits, raw.logsumexp)]
    for effect in record.effects:
        after = effect.after
        found.append(Stage(effect.label, after.n_kept, after.entropy, effect.logits, after.logsumexp))
    return found


def _stages(record: StepRecord) -> tuple[list[Stage], list[str]]:
    """Those to show; where there are many, processors that changed nothing that can be seen are left out, and named."""
    found = stages_of(record)
    if len(found) <= MOST_STAGES:
        return found, []
    kept, skipped = found[:1], []
    for stage in found[1:]:
        before = kept[-1]
        same = stage.n_kept == before.n_kept and abs(stage.entropy - before.entropy) < 1e-6
        if same and all(abs(stage.prob(i) - before.prob(i)) < 1e-9 for i in range(len(stage.logits))):
            skipped.append(stage.label)
        else:
            kept.append(stage)
    return kept, skipped


def _rows(record: StepRecord, n: int, token: int | None) -> list[int]:
    """Which candidates, by their place: the most probable raw ones, the most probable final ones, the chosen one, the token."""
    places = range(len(record.candidate_ids))
    final = sorted(places, key=lambda at: -record.final_logits[at])
    raw = sorted(places, key=lambda at: -record.raw_logits[at])
    asked = [
        record.candidate_ids.index(one) for one in dict.fromkeys((record.id, record.id if token is None else token))
    ]
    leading = [
        at
        for pair in zip(raw, final, strict=True)
        for at in pair
        if not isinf(record.final_logits[at]) or at in raw[:n]
    ]
    shown = list(dict.fromkeys((*asked, *leading)))[: max(n, len(asked))]
    return sorted(shown, key=lambda at: (-record.raw_logits[at], record.candidate_ids[at]))


def _rules(record: StepRecord, rows: Sequence[int]) -> list[str]:
    """Why each was removed; "" for what was left."""
    removals = record.removals()
    found = []
    for at in rows:
        removal = removals.get(record.candidate_ids[at])
        found.append("" if removal is None else drawable(removal.rule))
    return found


def _title(record: StepRecord, label: Label, context: str) -> str:
    after = f"after {shared.context(context)}: " if context else ""
    chosen = shared.token(label(record.id), 24)
    was, now = percent(exp(record.raw_logprob)), percent(exp(record.final_logprob))
    if not record.effects:
        return f"{after}{chosen} was chosen at {was}; no processor ran"
    return f"{after}{chosen} was chosen: {was} raw, {now} after {count(len(record.effects), 'processor')}"


def _facts(record: StepRecord, skipped: Sequence[str]) -> str:
    said = f"{record.raw.n_kept:,} tokens before, {record.n_kept:,} after; cross: removed here"
    return f"{said}; without effect: {drawable(', '.join(skipped))}" if skipped else said


# -- the step --------------------------------------------------------------------------------------------------------------


def _draw_stages(
    made: Page,
    record: StepRecord,
    stages: Sequence[Stage],
    rows: Sequence[int],
    names: Sequence[str],
    place: tuple[float, float, float, float],
    marked: int | None,
) -> None:
    left, bottom, width, height = place
    palette = made.palette
    chosen = record.candidate_ids.index(record.id)
    mark = record.candidate_ids.index(marked) if marked is not None else None
    most = max(stage.prob(at) for stage in stages for at in rows) or 1.0  # one scale for all stages
    inks = [palette.feed_forward if at == chosen else palette.ink for at in rows]
    for k, stage in enumerate(stages):
        axes = made.axes(left + k * (width + GAP), bottom, width, height)
        shared.dress(axes, palette, ("left",))
        axes.set_xlim(0, 1.5)  # room for the percents
        axes.set_ylim(len(rows) + 0.5, -0.5)
        axes.set_xticks([])
        if mark is not None:
            axes.axhspan(
                rows.index(mark) - 0.5, rows.index(mark) + 0.5, color=palette.faint, alpha=0.16, lw=0, zorder=0
            )
        _draw_bars(axes, made, stages[k - 1] if k else None, stage, rows, chosen, most)
        others = stage.n_kept - sum(not isinf(stage.logits[at]) for at in rows)
        rest = max(0.0, 1 - sum(stage.prob(at) for at in rows)) if others > 0 else 0.0
        said = f"{count(others, 'other')}: {percent(rest)}" if others > 0 else "no others"
        axes.text(
            0.05, len(rows), said, va="center", size=SMALL - 0.5, color=quiet(palette), family=list(shared.fonts())
        )
        if k == 0:
            shared.token_ticks(axes, "y", names, size=BODY, colours=inks)
        else:
            axes.set_yticks([])
        axes.tick_params(axis="y", length=0)
        x, top = left + k * (width + GAP), bottom + height
        for line, (down, words) in enumerate(zip((0.72, 0.54, 0.3, 0.12), _heads(stage, width), strict=True)):
            bold = line < 2
            made.text(
                x, top + down, words, SMALL, weight="bold" if bold else "normal",
                color=palette.ink if bold else quiet(palette),
            )  # fmt: skip


def _heads(stage: Stage, width: float) -> tuple[str, str, str, str]:
    """The processor's name and setting, what is left, the entropy: four lines."""
    name, _, setting = stage.label.partition("(")
    lines = [_fitting(drawable(part), width) for part in (name, setting.removesuffix(")"))]
    return lines[0], lines[1], _fitting(f"{stage.n_kept:,} left", width), f"{abs(stage.entropy):.2f} nats"


def _fitting(said: str, width: float) -> str:
    """The beginning of a text that fits."""
    if width_of(said, SMALL, bold=True) <= width:
        return said
    while said and width_of(said + shared.HIDDEN, SMALL, bold=True) > width:
        said = said[:-1]
    return said + shared.HIDDEN


def _draw_bars(
    axes: Axes, made: Page, before: Stage | None, stage: Stage, rows: Sequence[int], chosen: int, most: float
) -> None:
    palette = made.palette
    for y, at in enumerate(rows):
        prob = stage.prob(at)
        colour = palette.feed_forward if at == chosen else palette.attention
        if isinf(stage.logits[at]):
            now = before is not None and not isinf(before.logits[at])
            if now:
                was = before.prob(at) if before is not None else 0.0
                axes.barh(
                    y, min(1.0, was / most), height=0.66, color="none", ec=palette.faint, lw=0.8, ls=(0, (2, 1.5))
                )
                axes.plot([0.06], [y], "x", ms=CROSS, mew=1.6, color=palette.ink)
            continue
        axes.barh(y, prob / most, height=0.66, color=colour)
        axes.annotate(
            percent(prob), (prob / most, y), (3, 0), textcoords="offset points", va="center", size=SMALL - 0.5,
            color=palette.ink, family=list(shared.fonts()),
        )  # fmt: skip


def _draw_rules(made: Page, rules: Sequence[str], place: tuple[float, float]) -> None:
    x, top = place
    for i, rule in enumerate(rules):
        if rule:
            made.text(x, top - (i + 0.5) * ROW, rule, SMALL, color=quiet(made.palette))


# -- one token -------------------------------------------------------------------------------------------------------------


def _draw_way(made: Page, record: StepRecord, stages: Sequence[Stage], label: Label, token: int) -> None:
    """The token's logprob: raw, up or down at each processor, final."""
    palette = made.palette
    at = record.candidate_ids.index(token)
    values = [stage.logprob(at) for stage in stages]
    finite = [value for value in values if value > -inf]
    floor = min(finite) - max(0.6, 0.35 * (max(finite) - min(finite)))  # where a removed token falls to
    width = min(made.width - MARGIN - 0.85, 1.25 * len(stages) + 1.2)
    axes = made.axes(0.85, 0.85, width, LEDGE)
    shared.dress(axes, palette, ("left",))
    top = max(0.0, max(finite)) if max(finite) > -2 else max(finite) + 0.5
    axes.set_ylim(floor - 0.02, top + (top - floor) * 0.14)
    axes.set_xlim(-0.6, len(stages) + 0.6)
    shared.grid(axes, palette, "y")
    shared.name(axes, palette, "y", "logprob, nats")
    _bar(axes, made, 0, floor, values[0], palette.attention, f"{values[0] + 0:.2f}")
    for k in range(1, len(stages)):
        was, now = values[k - 1], values[k]
        if isinf(was) and isinf(now):
            continue
        low, high = max(min(was, now), floor), max(was, now)
        up = now > was
        colour = palette.table if up else palette.feed_forward
        removed, back = isinf(now), isinf(was)
        said = "removed" if removed else f"back: {now:.2f}" if back else f"{round(now - was, 2) + 0:+.2f}"
        axes.plot([k - 0.64, k + 0.36], [max(was, floor)] * 2, color=palette.faint, lw=0.8)
        _bar(axes, made, k, low, high, colour, said)
    last = values[-1]
    _bar(
        axes,
        made,
        len(stages),
        floor,
        max(last, floor),
        palette.attention,
        f"{round(last, 2) + 0:.2f}" if last > -inf else "none left",
    )
    labels = [*(stage.label for stage in stages), "final"]
    _names(axes, made, labels, [*(stage.prob(at) for stage in stages), stages[-1].prob(at)])
    name = shared.token(label(token), 24)
    removal = record.removal(token)
    said = f"{name}: {percent(stages[0].prob(at))} raw, {percent(stages[-1].prob(at))} at the end"
    said += f"; removed by {drawable(removal.rule)}" if removal is not None else ""
    shared.subtitle(axes, palette, said, weight="bold", pad=8.0)


def _bar(axes: Axes, made: Page, x: int, low: float, high: float, colour: str, said: str) -> None:
    axes.bar(x, high - low, bottom=low, width=0.72, color=mixed(colour, made.palette.ground, 0.88))
    axes.annotate(
        said, (x, high), (0, 3), textcoords="offset points", ha="center", va="bottom", size=SMALL, color=made.palette.ink,
        family=list(shared.fonts()),
    )  # fmt: skip


def _names(axes: Axes, made: Page, labels: Sequence[str], probs: Sequence[float]) -> None:
    """Below each bar: the processor in one or two lines, and the probability after it."""
    room = axes.get_position().width * made.figure.get_size_inches()[0] / (len(labels) + 0.2) - 0.05
    lines = []
    for label, prob in zip(labels, probs, strict=True):
        name, _, setting = label.partition("(")
        parts = [_fitting(drawable(part), room) for part in (name, setting.removesuffix(")"))]
        lines.append("\n".join((*parts, percent(prob))))
    axes.set_xticks(range(len(labels)), lines)
    for text in axes.get_xticklabels():
        text.set_fontfamily(list(shared.fonts()))
        text.set_color(made.palette.ink)
    axes.tick_params(axis="x", length=0)
