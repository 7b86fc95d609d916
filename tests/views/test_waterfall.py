"""The picture of a step's way through all processors: bars are its probabilities, crosses its removals, with their rules."""

from __future__ import annotations

from math import inf, isinf
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from decoding.rows import REFERENCE
from fanlight.decoding.config import GenerationConfig
from fanlight.decoding.processors import Surroundings
from fanlight.decoding.step import StepSettings, decide
from fanlight.errors import OptionError
from fanlight.views.axes import percent
from fanlight.views.waterfall import MOST_STAGES, stages_of, waterfall_figure
from views.drawn import check, said
from views.test_next_tokens import label, row_of

if TYPE_CHECKING:
    from fanlight.trace.records import StepRecord

SEVERAL: dict[str, Any] = {"repetition_penalty": 1.4, "temperature": 0.7, "top_k": 9, "top_p": 0.85, "min_p": 0.08}
ALL: dict[str, Any] = SEVERAL | {
    "frequency_penalty": 0.3,
    "presence_penalty": 0.2,
    "no_repeat_ngram_size": 3,
    "suppress_tokens": [2, 3],
    "top_n_sigma": 3.0,
    "typical_p": 0.95,
    "epsilon_cutoff": 1e-4,
    "eta_cutoff": 1e-4,
    "tfs": 0.999,
    "top_a": 1e-4,
}


def step(row: Any, options: dict[str, Any], ids: tuple[int, ...] = (0, 1, 4, 0)) -> StepRecord:
    """What decoding records of one row."""
    around = Surroundings(ops=REFERENCE, n_vocab=len(row), prompt_ids=ids, seed=5, eos_ids=(1,))
    settings = StepSettings.of(GenerationConfig.from_options({"do_sample": True, "top_k": 0} | options), around)
    record = decide(ids, REFERENCE.tensor(np.asarray(row, np.float32), len(row)), settings).record
    assert record is not None
    return record


def bars(axes: Any) -> dict[int, float]:
    """Row -> width of its filled bar."""
    filled = [patch for patch in axes.patches if patch.get_facecolor()[3] == 1 and patch.get_height() < 0.7]
    return {round(patch.get_y() + patch.get_height() / 2): patch.get_width() for patch in filled}


def crosses(axes: Any) -> set[int]:
    return {int(y) for line in axes.lines if line.get_marker() == "x" for y in line.get_ydata()}


@pytest.mark.parametrize(
    ("options", "n_vocab", "n", "dark"), [({}, 7, 12, False), (SEVERAL, 33, 12, True), (SEVERAL, 900, 5, False)]
)
def test_each_column_holds_the_probabilities_after_a_processor(
    options: dict[str, Any], n_vocab: int, n: int, dark: bool
) -> None:
    record = step(row_of(n_vocab), options)
    figure = waterfall_figure(record, lambda token: f"t{token}", n=n, context="the $end_", dark=dark)
    ids = [int(text.get_text()[1:]) for text in figure.axes[0].get_yticklabels()]
    shown = [record.candidate_ids.index(token) for token in ids]
    assert record.id in ids
    assert len(set(ids)) == min(n, len(record.candidate_ids))
    assert shown == sorted(shown, key=lambda at: (-record.raw_logits[at], record.candidate_ids[at]))
    stages = stages_of(record)
    assert len(figure.axes) == len(stages) == len(record.effects) + 1
    most = max(stage.prob(at) for stage in stages for at in shown)
    for k, (axes, stage) in enumerate(zip(figure.axes, stages, strict=True)):
        assert bars(axes) == pytest.approx({y: stage.prob(at) / most for y, at in enumerate(shown) if stage.prob(at)})
        before = stages[k - 1] if k else stage
        gone = {y for y, at in enumerate(shown) if isinf(stage.logits[at]) and not isinf(before.logits[at])}
        assert crosses(axes) == gone
        assert f"{stage.n_kept:,} left" in said(figure)
        assert f"{abs(stage.entropy):.2f} nats" in said(figure)
    check(figure)


def test_a_removed_token_has_its_rule_beside_it() -> None:
    record = step(row_of(33), SEVERAL)
    words = said(waterfall_figure(record, label))
    removals = record.removals()
    top = sorted(record.candidate_ids, key=lambda token: -record.raw_logits[record.candidate_ids.index(token)])[:10]
    rules = [removals[token].rule for token in top if token in removals]
    assert len(rules) >= 3
    for rule in rules:
        assert rule in words


def test_the_others_are_counted_and_add_up_to_all() -> None:
    record = step(row_of(500), {"temperature": 1.3})
    figure = waterfall_figure(record, lambda token: f"t{token}", n=6)
    ids = [int(text.get_text()[1:]) for text in figure.axes[0].get_yticklabels()]
    assert len(ids) == 6
    for logits, stats in ((record.raw_logits, record.raw), (record.final_logits, record.final)):
        shown = sum(np.exp(logits[record.candidate_ids.index(token)] - stats.logsumexp) for token in ids)
        assert f"494 others: {percent(float(1 - shown))}" in said(figure)


def test_the_chosen_token_and_the_asked_one_are_shown_whatever_their_place() -> None:
    record = step(row_of(500, 0.3), {"temperature": 2.0})
    last = record.candidate_ids[-1]
    figure = waterfall_figure(record, label, token=last, n=1)
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert len(names) == len({last, record.id})
    check(figure)


@pytest.mark.parametrize("dark", [False, True])
def test_a_tokens_way_goes_up_and_down_by_its_logprobs(dark: bool) -> None:
    record = step(row_of(33), SEVERAL)
    figure = waterfall_figure(record, label, token=record.id, dark=dark)
    axes = figure.axes[-1]
    values = record.logprobs(record.id)
    tops = {round(p.get_x() + p.get_width() / 2): (p.get_y(), p.get_y() + p.get_height()) for p in axes.patches}
    assert tops[0][1] == pytest.approx(values[0])
    assert tops[len(values)][1] == pytest.approx(values[-1])
    for k in range(1, len(values)):
        assert tops[k] == pytest.approx((min(values[k - 1 : k + 1]), max(values[k - 1 : k + 1])))
        assert f"{round(values[k] - values[k - 1], 2) + 0:+.2f}" in said(figure)
    check(figure)


def test_a_removed_token_falls_to_the_bottom() -> None:
    record = step(row_of(33), SEVERAL)
    token = next(token for token in record.candidate_ids if token in record.removals())
    figure = waterfall_figure(record, label, token=token)
    words = said(figure)
    assert f"removed by {record.removals()[token].rule}" in words
    assert "none left" in words
    assert record.logprobs(token)[-1] == -inf
    assert min(patch.get_y() for patch in figure.axes[-1].patches) == pytest.approx(
        figure.axes[-1].get_ylim()[0] + 0.02
    )
    check(figure)


def test_many_processors_leave_out_those_without_effect_and_name_them() -> None:
    record = step(row_of(40), ALL)
    assert len(record.effects) >= MOST_STAGES
    figure = waterfall_figure(record, label, token=record.id)
    words = said(figure)
    for effect in record.effects:
        assert effect.label.partition("(")[0][:9] in words
    assert "without effect:" in words
    check(figure)


def test_steps_at_the_edge_of_what_there_can_be() -> None:
    one_left = np.full(33, -inf)
    one_left[7] = -2.0
    for row in (one_left, [0.0, 1e-30, 0.0], [0.0, -69.0, -700.0], [3.0] * 30):
        record = step(row, {"temperature": 0.5, "top_p": 0.9}, ids=(0,))
        check(waterfall_figure(record, label, token=record.id))


def test_the_title_says_what_was_chosen_and_at_what_probability() -> None:
    record = step(row_of(33), SEVERAL)
    words = said(waterfall_figure(record, lambda token: f"t{token}", context="so"))
    was, now = (percent(float(np.exp(value))) for value in (record.raw_logprob, record.final_logprob))
    assert f"after 'so': t{record.id} was chosen: {was} raw, {now} after 5 processors" in words
    assert f"33 tokens before, {record.n_kept} after" in words


def test_what_cannot_be_shown_is_an_error() -> None:
    record = step(row_of(500), SEVERAL)
    with pytest.raises(OptionError, match=r"token 999 is not among the \d+ candidates"):
        waterfall_figure(record, label, token=999)
    for n in (0, 61, True, 1.5):
        with pytest.raises(OptionError, match="how many candidates"):
            waterfall_figure(record, label, n=n)  # type: ignore[arg-type]
