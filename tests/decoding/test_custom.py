"""Processors from elsewhere: functions of the caller, plugins of installed packages."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from decoding.rows import BOTH, INF, built, run, survivors
from fanlight.errors import FanlightError, OptionError

if TYPE_CHECKING:
    from collections.abc import Callable

ROW = np.linspace(-2, 2, 33, dtype=np.float32)


def ban_last(ids: tuple[int, ...], logits: Any) -> Any:
    """Writes into the array that it was given, which is its own."""
    logits[ids[-1]] = -INF
    return logits


def test_a_function_is_a_processor() -> None:
    for ops in BOTH:
        (processor,) = built({"processors": [ban_last]}, ops)
        tensor = ops.tensor(ROW, 33)
        result = processor([4, 9], tensor)
        assert survivors(result.numpy()[0]) == set(range(33)) - {9}
        np.testing.assert_array_equal(tensor.numpy()[0], ROW)  # the step's own row is untouched
        assert (processor.name, processor.label) == ("ban_last", "ban_last")


def test_a_function_stands_where_it_is_named_and_may_stand_twice() -> None:
    seen: list[float] = []

    def look(ids: tuple[int, ...], logits: Any) -> Any:
        seen.append(float(logits[32]))
        return logits

    for ops in BOTH:
        order = [look, "temperature", look]
        run(built({"processors": order, "do_sample": True, "temperature": 0.5}, ops), ROW, [1])
    assert seen == [2.0, 4.0, 2.0, 4.0]


def test_a_function_sees_the_ids_as_a_tuple_and_one_row() -> None:
    def check(ids: Any, logits: Any) -> Any:
        assert (ids, logits.shape, logits.dtype) == ((4, 9), (33,), np.float32)
        return logits

    for ops in BOTH:
        run(built({"processors": [check]}, ops), ROW, [4, 9])


@pytest.mark.parametrize(
    "function",
    [
        lambda ids, logits: (logits * 2).tolist(),
        lambda ids, logits: logits.astype(np.float64) * 2,
        lambda ids, logits: torch.tensor(logits) * 2,
        lambda ids, logits: np.repeat(logits * 2, 2)[::2],
    ],
    ids=["list", "float64", "torch", "strided"],
)
def test_any_array_of_the_right_shape_will_do(function: Callable[..., Any]) -> None:
    for ops in BOTH:
        np.testing.assert_array_equal(run(built({"processors": [function]}, ops), ROW, [1]), ROW * 2)


def hot(ids: tuple[int, ...], logits: Any) -> Any:
    return {
        1: None,
        2: logits[:-1],
        3: logits[None],
        4: "logits",
        5: 3.5,
        6: torch.tensor(logits, requires_grad=True),
    }[ids[-1]]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (1, "^processor hot: expected an array of 33 numbers back: got None$"),
        (2, r"^processor hot: expected 33 logits back: got the shape \(32,\)$"),
        (3, r"^processor hot: expected 33 logits back: got the shape \(1, 33\)$"),
        (4, "^processor hot: expected an array of 33 numbers back: got 'logits'$"),
        (5, r"^processor hot: expected 33 logits back: got the shape \(\)$"),
        (6, "^processor hot: expected an array of 33 numbers back: got tensor"),
    ],
)
def test_what_is_no_row_is_refused_by_the_functions_name(case: int, message: str) -> None:
    for ops in BOTH:
        with pytest.raises(OptionError, match=message):
            run(built({"processors": [hot]}, ops), ROW, [case])


def test_a_vocabulary_of_one_token_takes_no_bare_number() -> None:
    with pytest.raises(OptionError, match=r"got the shape \(\)$"):
        run(built({"processors": [lambda ids, logits: 3.5]}, n_vocab=1), ROW[:1], [0])


def test_an_error_of_a_function_is_not_hidden() -> None:
    def broken(ids: Any, logits: Any) -> Any:
        raise ZeroDivisionError("mine")

    with pytest.raises(FanlightError, match=r"processor broken raised ZeroDivisionError\('mine'\)") as caught:
        run(built({"processors": [broken]}), ROW, [0])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


class Doubler:
    """A processor that is an object with a call."""

    def __call__(self, ids: Any, logits: Any) -> Any:
        return logits * 2


def test_an_object_with_a_call_is_named_after_its_class() -> None:
    (processor,) = built({"processors": [Doubler()]})
    assert processor.label == "Doubler"


# -- plugins -------------------------------------------------------------------------------------------------------------


class Point:
    """An entry point, as importlib.metadata gives it."""

    def __init__(self, name: str, thing: Any) -> None:
        self.name, self.thing, self.value = name, thing, f"package.module:{name}"

    def load(self) -> Any:
        return self.thing


@pytest.fixture
def _plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [Point("shout", Doubler()), Point("broken", 3)]

    def entry_points(*, group: str) -> list[Point]:
        return points if group == "fanlight.processors" else []

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


@pytest.mark.usefixtures("_plugins")
def test_a_plugin_is_found_by_its_name() -> None:
    for ops in BOTH:
        options = {"do_sample": True, "temperature": 0.5, "processors": "shout, temperature"}
        processors = built(options, ops)
        assert [processor.label for processor in processors] == ["shout", "temperature(0.5)"]
        np.testing.assert_array_equal(run(processors, ROW, [1]), ROW * 4)


@pytest.mark.usefixtures("_plugins")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shuot", r"^processors: unknown processor 'shuot'; did you mean 'shout'\?$"),
        ("temprature", r"^processors: unknown processor 'temprature'; did you mean 'temperature'\?$"),
        ("zz", "^processors: unknown processor 'zz'; there are guidance_scale, .*, shout, broken$"),
        ("broken", r"^processors: the plugin 'broken' \(package.module:broken\) is no function of \(ids, logits\)$"),
    ],
)
def test_a_name_that_is_no_plugin_is_refused_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        built({"processors": [name]})
