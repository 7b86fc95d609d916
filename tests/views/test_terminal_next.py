"""The table of one next token under several settings."""

from __future__ import annotations

import re

from fanlight.views.terminal import Canvas, columns
from fanlight.views.terminal_next import Column, next_table
from views.records import label, record

PROBS = [0.5, 0.3, 0.1, 0.06, 0.04]
SHARP = Column("0.5", record(PROBS, effects=[("temperature(0.5)", False, [0.7, 0.25, 0.03, 0.01, 0.01])]), 2)
PLAIN = Column("1", record(PROBS), 3)
CUT = Column("0.5", record(PROBS, effects=[("top_k(2)", True, [0.6, 0.4, 0, 0, 0])]))


def test_rows_are_tokens_and_columns_are_settings() -> None:
    lines = next_table([SHARP, PLAIN], label, Canvas(), option="temperature", rows=3).split("\n")
    assert re.fullmatch(r" +temperature +0\.5 +1", lines[0])
    assert re.fullmatch(r"  1 ␣tok0 +70\.0% █+ +50\.0% █+[▏▎▍▌▋▊▉]?", lines[1])
    assert re.fullmatch(r" +2 others +2\.0% +10\.0%", lines[4])
    assert re.fullmatch(r" +entropy, nats +0\.79 +1\.24", lines[6])
    assert re.fullmatch(r" +tokens for 90% +2 +3", lines[7])
    assert len(lines) == 8


def test_bars_share_one_scale() -> None:
    lines = next_table([SHARP, PLAIN], label, Canvas(), option="temperature", rows=3).split("\n")
    first, second = re.findall("█+", lines[1])
    assert len(first) > len(second)


def test_a_removed_token_is_cut_and_the_tokens_left_are_counted() -> None:
    table = next_table([CUT, PLAIN], label, Canvas(), option="temperature", rows=3)
    assert re.search(r"␣tok2 +cut +10\.0%", table)
    assert re.search(r"2 others +cut +10\.0%", table)
    assert re.search(r"tokens left +2 +5", table)
    assert "tokens for 90%" not in table


def test_settings_that_do_not_fit_follow_below() -> None:
    many = [Column(f"{i / 10:g}", PLAIN.record) for i in range(1, 14)]
    table = next_table(many, label, Canvas(width=60), option="temperature", rows=3)
    assert len(table.split("\n\n    temperature")) == 5
    assert all(column.title in table for column in many)
    assert max(map(columns, table.split("\n"))) <= 60
