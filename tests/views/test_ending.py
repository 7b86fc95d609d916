"""The picture of a text's end: its line is the recorded probability of ending, its words say why the text ended."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fanlight.errors import OptionError
from fanlight.trace.header import Header, Origin
from fanlight.trace.stop import Stop, StopReason
from fanlight.tracing.trace import Trace
from fanlight.views.axes import percent
from fanlight.views.ending import ending_figure
from views.drawn import check, said
from views.records import record

CUT = Stop(StopReason.MAX_NEW_TOKENS, "cut off by max_new_tokens=7")
EOS = Stop(StopReason.EOS, "stopped by end-of-sequence token <|$end|>", token=2)
PIECES = [b" the", b"$x$", b"a_b", b"\n", "猫".encode(), b"\xe7\x8c", b" longer than that, and more", b"%"]


def trace(probs: Any, finals: Any = None, stop: Stop = CUT, **header: Any) -> Trace:
    """A run whose steps ended with these probabilities."""
    steps = [
        replace(
            record([0.6, 0.3, 0.1]),
            id=i % len(PIECES),
            candidate_ids=(i % len(PIECES), 90, 91),
            eos_prob=p,
            final_eos_prob=f,
        )
        for i, (p, f) in enumerate(zip(probs, probs if finals is None else finals, strict=True))
    ]
    origin = Origin(model="m", fingerprint="f", architecture="a", kernels="k")
    plain: dict[str, Any] = {
        "prompt": "p",
        "text": "",
        "stop": stop,
        "seed": 0,
        "request_seed": 0,
        "setting_origins": {},
    }
    plain |= {"settings": {"max_new_tokens": len(steps)}} | header
    return Trace(
        Header(id="x", origin=origin, **plain), prompt_ids=[1], ids=[one.id for one in steps], pieces=[""] * len(steps),
        vocabulary=dict(enumerate(PIECES)), steps=lambda: steps, looks={},
    )  # fmt: skip


def lines(figure: Any) -> dict[str, Any]:
    return {line.get_label(): np.asarray(line.get_ydata(), float) for line in figure.axes[0].lines}


def limits(figure: Any) -> list[float]:
    """Where upright lines stand."""
    return [float(line.get_xdata()[0]) for line in figure.axes[0].lines if list(line.get_ydata()) == [0, 1]]


def probabilities(n: int) -> Any:
    return 10 ** np.random.default_rng(n).uniform(-9, -0.1, n)


@pytest.mark.parametrize(("n", "dark"), [(1, False), (2, True), (31, False), (500, True)])
@pytest.mark.parametrize("stop", [CUT, EOS])
def test_the_line_is_the_recorded_probability(n: int, dark: bool, stop: Stop) -> None:
    probs = probabilities(n)
    figure = ending_figure(trace(probs, stop=stop), dark=dark)
    assert lines(figure)["raw"] == pytest.approx(probs)
    assert "after all processors" not in lines(figure)
    assert figure.axes[0].get_yscale() == "log"
    low, high = figure.axes[0].get_ylim()
    assert low < probs.min() <= probs.max() <= high
    check(figure)


def test_what_processors_made_of_it_is_a_second_line() -> None:
    probs, finals = probabilities(20), probabilities(21)[:20]
    finals[[3, 7, 8]] = 0
    finals[[6, 9]] = 0
    figure = ending_figure(trace(probs, finals))
    found = lines(figure)["after all processors"]
    assert found[finals > 0] == pytest.approx(finals[finals > 0])
    assert np.isnan(found[finals == 0]).all()
    triangles = [line for line in figure.axes[0].lines if line.get_marker() == "v"]
    assert [list(line.get_xdata()) for line in triangles] == [[3, 6, 7, 8, 9]]
    assert "triangles: processors made ending impossible, 5 steps" in said(figure)
    check(figure)


def test_a_step_between_impossible_ones_is_still_to_be_seen() -> None:
    finals = np.zeros(200)
    finals[50] = 0.01
    figure = ending_figure(trace(probabilities(200), finals))
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o" and list(line.get_xdata()) == [50]]
    assert [float(line.get_ydata()[0]) for line in dots] == [0.01]


def test_the_end_is_marked_by_what_it_was() -> None:
    probs = probabilities(12)
    cut = ending_figure(trace(probs))
    assert "max_new_tokens=12 cut it here" in said(cut)
    assert limits(cut) == [11.3]
    ended = ending_figure(trace(probs, stop=EOS))
    assert f"ended here, at {percent(float(probs[-1]))}" in said(ended)
    assert "stopped by end-of-sequence token <|$end|>" in said(ended)
    assert limits(ended) == []
    string = ending_figure(trace(probs, stop=Stop(StopReason.STOP_STRING, "stopped by '$$'", string="$$")))
    assert "stop string '$$'" in said(string)
    for figure in (cut, ended, string):
        check(figure)


@pytest.mark.parametrize("reason", StopReason)
def test_every_reason_to_stop_has_its_words(reason: StopReason) -> None:
    figure = ending_figure(trace(probabilities(9), stop=Stop(reason, f"because of {reason.value}")))
    assert ("because of" in said(figure)) == (reason is not StopReason.GIVEN)
    check(figure)


def test_a_given_text_did_not_end() -> None:
    figure = ending_figure(trace(probabilities(9), is_given=True))
    assert said(figure).count("the text was given") == 1
    assert "cut it here" not in said(figure)


def test_the_title_says_where_the_end_was_likeliest() -> None:
    probs = np.full(30, 0.001)
    probs[17] = 0.4
    assert "the end was likeliest at step 17 of 30: 40.0%" in said(ending_figure(trace(probs)))


def test_probabilities_at_the_edge_of_what_there_can_be() -> None:
    for probs in ([0.0] * 5, [1.0] * 5, [1e-300, 0.0, 1.0, 1e-30], [1e-30] * 3):
        check(ending_figure(trace(np.array(probs))))


def test_a_trace_without_steps_is_an_error() -> None:
    with pytest.raises(OptionError, match="no steps"):
        ending_figure(trace([]))


def test_long_texts_have_thinned_labels_and_say_so() -> None:
    assert "each 10th shown" in said(ending_figure(trace(probabilities(500))))
    assert "shown" not in said(ending_figure(trace(probabilities(20))))
