"""A comparison in a terminal: nothing is lost, nothing is too wide, what parts is marked; the pictures' labels do not collide."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any
from unicodedata import category

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fanlight.comparing.measures import Spread
from fanlight.comparing.records import Alternative, Comparison, Text, Token, Variant, divergences
from fanlight.comparing.sweep_records import Point, Sweep
from fanlight.decoding.config import GenerationConfig
from fanlight.errors import OptionError
from fanlight.views.comparison import (
    closing_line,
    comparison_table,
    part_in_words,
    settings_lines,
    texts_beside,
)
from fanlight.views.comparison_figure import comparison_figure
from fanlight.views.figures import save
from fanlight.views.flow import Piece, beside, flow
from fanlight.views.frontier import frontier
from fanlight.views.sweep_table import sweep_table
from fanlight.views.terminal import Canvas, columns

PAINT = re.compile(r"\x1b\[[0-9;]*m")


def token(
    text: str,
    *,
    number: int | None = None,
    prob: float = 0.25,
    final: float = 0.5,
    others: tuple[Alternative, ...] = (),
) -> Token:
    return Token(
        id=number if number is not None else sum(text.encode()),
        label=text.replace(" ", "␣") or "…",
        text=text,
        raw_prob=prob,
        final_prob=final,
        raw_logprob=-1.4,
        raw_rank=1,
        entropy=2.5,
        final_entropy=0.9,
        alternatives=others,
    )


def text_of(*pieces: str | Token, sample: int = 0, seed: int = 7, **more: Any) -> Text:
    tokens = tuple(piece if isinstance(piece, Token) else token(piece) for piece in pieces)
    given = {"stop_reason": "max_new_tokens", "stop_detail": f"cut off by max_new_tokens={len(tokens)}", **more}
    return Text(sample=sample, seed=seed, text="".join(t.text for t in tokens), tokens=tokens, **given)


def variant(label: str, *texts: Text, samples: int = 1, **options: Any) -> Variant:
    return Variant(
        label=label,
        options=options,
        config=GenerationConfig(do_sample=True, **options),
        draws=True,
        n_samples=samples,
        texts=texts,
    )


def comparison(*variants: Variant, samples: int = 1, **more: Any) -> Comparison:
    given = {
        "model": "tiny",
        "prompt": "The sea",
        "prompt_ids": (1, 2),
        "seed": 7,
        "seconds": 2.0,
        "first_token_seconds": 0.25,
    }
    return Comparison(
        **{**given, **more}, samples=samples, variants=variants, divergences=divergences(variants, samples)
    )


def three(samples: int = 2) -> Comparison:
    cut = Alternative(sum(b" cold"), "␣cold", 0.3, 0.0, "top_p=0.5: cumulative 0.7 before it")
    made = [
        variant(
            name,
            *(
                text_of(" is", last if isinstance(last, Token) else token(last), " and", " deep", sample=i, seed=7 + i)
                for i in range(samples)
            ),
            samples=samples,
            temperature=temperature,
        )
        for name, last, temperature in (
            ("first", " cold", 0.5),
            ("second", " cold", 0.7),
            ("third", token(" warm", others=(cut,)), 1.3),
        )
    ]
    return comparison(*made, samples=samples)


# -- columns -------------------------------------------------------------------------------------------------------------


def width_of(text: str) -> int:
    """Columns, with signs that have none."""
    return columns("".join(c for c in text if category(c) not in ("Mn", "Me", "Cf")))


@given(
    st.lists(st.tuples(st.text(), st.sampled_from(["", "dim", "chosen"])), max_size=9),
    st.integers(2, 33),
    st.booleans(),
    st.booleans(),
)
def test_a_column_is_exactly_as_wide_as_it_may_be(
    pieces: list[tuple[str, str]], width: int, color: bool, unicode: bool
) -> None:
    lines = flow([Piece(*piece) for piece in pieces], width, Canvas(color=color, unicode=unicode))
    for line in lines:
        bare = PAINT.sub("", line)
        assert not re.search(r"[\x00-\x1f\x7f-\x9f]", bare)
        assert width_of(bare) == width
        assert unicode or bare.isascii()


@example([" a日"], 2)
@given(st.lists(st.text(alphabet="abcdefgh日本 \n"), max_size=7), st.integers(2, 21))
def test_no_sign_of_a_text_is_lost_but_blanks_at_breaks(pieces: list[str], width: int) -> None:
    lines = flow([Piece(piece) for piece in pieces], width, Canvas())
    assert all(columns(line) == width for line in lines)
    shown = "".join(lines).replace(" ", "")
    assert shown == "".join(pieces).replace(" ", "").replace("\n", "")


def test_words_stay_whole_where_there_are_blanks() -> None:
    assert [line.rstrip() for line in flow([Piece("one two three"), Piece("four")], 9, Canvas())] == [
        "one two",
        "threefour",
    ]
    assert flow([Piece("abcdefgh")], 3, Canvas()) == ["abc", "def", "gh "]
    assert flow([Piece("日本語")], 5, Canvas()) == ["日本 ", "語   "]
    assert flow([Piece("a\n\nb")], 2, Canvas()) == ["a ", "  ", "b "]


def test_what_could_play_with_a_terminal_is_written_out() -> None:
    (line,) = flow([Piece("a\x1b[2Jb\u202ec")], 40, Canvas())
    assert line.rstrip() == "a\\x1b[2Jb\\u202ec"
    assert flow([Piece("e\u0301x")], 3, Canvas()) == ["e\u0301x "]  # an accent has no column of its own


def test_columns_of_unequal_height_stand_beside_each_other() -> None:
    assert beside([["a ", "b "], ["x"]], [2, 1], Canvas()) == ["a  │ x", "b  │"]
    assert beside([["a"], ["x"]], [1, 1], Canvas(unicode=False)) == ["a | x"]


# -- a comparison --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 79, 100, 240])
@pytest.mark.parametrize("color", [False, True])
def test_nothing_is_wider_than_the_canvas(width: int, color: bool) -> None:
    found, canvas = three(), Canvas(width=width, color=color)
    wide = replace(found, variants=tuple(replace(v, label=v.label * 30) for v in found.variants))
    for shown in (found, wide):
        for block in (comparison_table(shown, canvas), settings_lines(shown, canvas), texts_beside(shown, canvas)):
            assert max(columns(PAINT.sub("", line)) for line in block.splitlines()) <= width


def test_all_measures_and_settings_are_in_the_table_at_any_width() -> None:
    for width in (60, 100, 200):
        table = comparison_table(three(), Canvas(width=width))
        for name in ("perplexity", "distinct-2", "Self-BLEU", "repeated", "loop", "ended by", "entropy", "parts at"):
            assert table.count(name) == 1
        assert table.count("third") == table.count("first") >= 1
        assert "4.06" in table  # exp(1.4)
        assert "2 max_new_tokens" in table
        assert "same" in table


def test_without_colour_there_is_none_and_with_it_the_text_is_the_same() -> None:
    found = three()
    plain, painted = (texts_beside(found, Canvas(width=90, color=color)) for color in (False, True))
    assert "\x1b" not in plain
    assert "\x1b[1;7m" in painted
    assert PAINT.sub("", painted).split() == plain.split()


def test_the_token_at_which_a_text_parts_is_marked_and_explained() -> None:
    shown = texts_beside(three(samples=1), Canvas(width=120))
    assert "is ▸warm and deep" in shown
    assert shown.count("▸") == 1
    assert "the same text as the baseline's" in shown
    (line,) = [part_in_words(d) for d in three(samples=1).divergences if d.variant == 2]
    assert line == (
        "parts at token 2: ␣warm (25.0% → 50.0%); baseline ␣cold (25.0% → 50.0%), removed here by "
        "top_p=0.5: cumulative 0.7 before it"
    )
    assert "is >warm and deep" in texts_beside(three(samples=1), Canvas(width=120, unicode=False))


def test_a_parting_inside_a_character_is_marked_where_the_character_is() -> None:
    found = comparison(
        variant("a", text_of("x", token("", number=195), token("é", number=169))),
        variant("b", text_of("x", token("", number=196), token("ą", number=133))),
    )
    assert "x▸ą" in texts_beside(found, Canvas(width=80))


def test_a_text_that_ends_sooner_is_marked_at_its_end() -> None:
    found = comparison(variant("long", text_of("a", "b")), variant("short", text_of("a")), variant("none", text_of()))
    shown = texts_beside(found, Canvas(width=120))
    assert "a▸" in shown
    assert part_in_words(found.divergences[0]) == "ends before token 2, where the baseline has b"
    assert "(no token)" in shown
    back = comparison(variant("short", text_of("a")), variant("long", text_of("a", "b")))
    assert part_in_words(back.divergences[0]).endswith("the baseline has ended")


def test_a_failed_text_is_shown_as_one() -> None:
    bad = Text(sample=0, seed=1, error="no token is left")
    found = comparison(variant("good", text_of("a")), variant("bad", bad))
    assert "failed: no token is left" in texts_beside(found, Canvas(width=80))
    assert "1 error" in comparison_table(found, Canvas(width=200))


def test_many_settings_follow_in_further_rows() -> None:
    found = comparison(*(variant(f"s{i}", text_of("a", f"b{i}")) for i in range(8)))
    shown = texts_beside(found, Canvas(width=90))
    heads = [line for line in shown.splitlines() if re.search(r"\bs\d\b", line)]
    assert [re.findall(r"s\d", line) for line in heads] == [["s0", "s1", "s2"], ["s3", "s4", "s5"], ["s6", "s7"]]


def test_the_closing_line_is_of_the_whole_run() -> None:
    assert closing_line(three()) == (
        "[6 texts in one batch: 24 tokens in 2.0 s at 12 tok/s, first token after 0.25 s | seed 7]"
    )


# -- pictures ------------------------------------------------------------------------------------------------------------


def texts_in(figure: Any) -> list[Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    found = [text for text in (*figure.texts, *(t for axes in figure.axes for t in axes.texts)) if text.get_text()]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in found]


@pytest.mark.parametrize("dark", [False, True])
def test_the_picture_of_a_comparison_has_every_setting_and_no_text_on_another(dark: bool, tmp_path: Path) -> None:
    found = three(samples=3)
    figure = comparison_figure(replace(found, prompt="costs $5 or $6\n" * 20), dark=dark)
    boxes = texts_in(figure)
    said = " ".join(text for text, _ in boxes)
    assert all(v.label in said for v in found.variants)
    for (a, first), (b, second) in combinations(boxes, 2):
        assert not first.overlaps(second), (a, b)
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for _, box in boxes)
    n_marks = sum(line.get_marker() == "D" for axes in figure.axes for line in axes.lines)
    assert n_marks == sum(d.index is not None for d in found.divergences) == 3
    save(figure, tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_of_too_many_texts_is_refused() -> None:
    found = three(samples=80)
    with pytest.raises(OptionError, match="240 texts are too many"):
        comparison_figure(found)


def grid_point(i: int, j: int, *, perplexity: float, bleu: float | None) -> Point:
    from math import log

    return Point(
        label=f"temperature={i}, top_p={j}",
        options={"temperature": i, "top_p": j},
        draws=True,
        n_texts=4,
        n_failed=0,
        n_prompts=2,
        stops={"eos": 3, "max_new_tokens": 1},
        log_perplexity=Spread(log(perplexity), 0.1, 2),
        tokens=Spread(11.0, 1.0, 2),
        entropy=Spread(2.0, 0.1, 2),
        distinct=(Spread(0.5, 0.1, 2), Spread(0.6, 0.1, 2), None),
        repetition=Spread(0.25, 0.1, 2),
        loop=Spread(3.0, 1.0, 2),
        self_bleu=None if bleu is None else Spread(bleu, 0.01, 2),
    )


def swept(n: int, m: int, bleu: bool = True) -> Sweep:
    points = [
        grid_point(i, j, perplexity=2 + i * i + 0.3 * j, bleu=1 / (2 + i + (j % 2)) if bleu else None)
        for i in range(n)
        for j in range(m)
    ]
    axes = {"temperature": tuple(range(n)), "top_p": tuple(range(m))}
    return Sweep(
        model="tiny",
        axes=axes,
        points=tuple(points),
        n_prompts=2,
        samples=2,
        seed=1,
        seconds=1.0,
        n_new=9,
        n_new_tokens=99,
    )


@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 3), (5, 4), (7, 9)])
@pytest.mark.parametrize("dark", [False, True])
def test_the_frontier_is_drawn_and_no_two_labels_overlap(n: int, m: int, dark: bool) -> None:
    found = swept(n, m)
    figure = frontier(found, dark=dark)
    (axes,) = figure.axes
    (line,) = [line for line in axes.lines if line.get_label() == "_frontier"]
    on_it = [found.points[i] for i in found.frontier()]
    assert list(line.get_xdata()) == pytest.approx([point.perplexity for point in on_it])
    assert list(line.get_ydata()) == pytest.approx([point.diversity("self_bleu").mean for point in on_it])  # type: ignore[union-attr]
    boxes = texts_in(figure)
    for (a, first), (b, second) in combinations(boxes, 2):
        assert not first.overlaps(second), (a, b)
    labels = [text for text, _ in boxes]
    if n * m <= 9:
        assert all(f"{point.options['temperature']}, {point.options['top_p']}" in labels for point in found.points)
    assert "perplexity" in axes.get_xlabel()
    assert "Self-BLEU" in axes.get_ylabel()


def test_a_frontier_of_another_measure_and_of_none() -> None:
    assert "distinct-2" in frontier(swept(2, 2, bleu=False)).axes[0].get_ylabel()
    with pytest.raises(OptionError, match="two samples"):
        frontier(swept(2, 2, bleu=False), diversity="self_bleu")


def test_the_table_of_a_sweep_marks_the_frontier() -> None:
    found = swept(3, 3)
    lines = sweep_table(found, Canvas(width=100)).splitlines()
    rows = lines[1:10]
    assert [i for i, row in enumerate(rows) if row.startswith("▸")] == sorted(found.frontier())
    assert all("3 eos, 1 max_new_tokens" in row for row in rows)
    assert "Self-BLEU" in lines[-2]
    assert sweep_table(found, Canvas(unicode=False)).isascii()


def test_a_table_says_over_how_many_prompts_its_means_are() -> None:
    found = swept(2, 1)
    last = sweep_table(found, Canvas(width=100)).splitlines()[-1]
    assert last.startswith("means over 2 prompts;")
    one, two = found.points
    for numbers, words in (((1, 1), "1 of 2 prompts"), ((2, 0), "0 to 2 of 2 prompts")):
        points = tuple(replace(point, n_prompts=n) for point, n in zip((one, two), numbers, strict=True))
        last = sweep_table(replace(found, points=points), Canvas(width=100)).splitlines()[-1]
        assert last.startswith(f"means over {words};")


def test_a_strip_that_was_cut_off_says_so() -> None:
    words = [text.get_text() for axes in comparison_figure(three(samples=1)).axes for text in axes.texts]
    assert words.count("cut off") == 3
    assert "length" not in words
