"""What a test reads off a text for a terminal: whether it fits, and what it says. Knows no view."""

from __future__ import annotations

import re
from itertools import product

from hypothesis import settings
from hypothesis import strategies as st

from fanlight.views.terminal import Canvas, columns

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
CANVASES = [
    Canvas(width=width, color=color, unicode=unicode)
    for width, color, unicode in product((60, 80, 120), (False, True), (False, True))
]
LABELS = st.text(
    st.one_of(
        st.sampled_from("a\u2423\u6f22\U0001f408\u0301\u200d\u202e\n\t\x1b\x07\u2028\ud800,$\u00e9"), st.characters()
    ),
    max_size=30,
)
"""Tokens as they may come: wide and combining signs, emoji, signs that terminals obey, none at all."""
SIZES = st.builds(Canvas, width=st.sampled_from((20, 37, 60, 80, 120)), color=st.booleans(), unicode=st.booleans())


def said(text: str) -> str:
    """Without colours."""
    return ESCAPES.sub("", text)


def lines(text: str) -> list[str]:
    return said(text).split("\n")


def unbroken(text: str) -> str:
    """Without colours, on one line, single blanks."""
    return " ".join(said(text).split())


def check(text: str, canvas: Canvas) -> str:
    """No line is too wide, none ends in blanks, no sign does more than be seen, colours end with their line; without colours."""
    plain = said(text)
    for line, whole in zip(plain.split("\n"), text.split("\n"), strict=True):
        assert columns(line) <= canvas.width, (columns(line), line)
        assert not whole.endswith(" "), line
        assert ("\x1b" not in whole) or whole.rindex("\x1b[0m") == whole.rindex("\x1b"), whole
    assert canvas.color or plain == text
    assert canvas.unicode or plain.isascii()
    assert not set(plain) & set("\x1b\x07\r\t\u2028\u202e\u200d\x85")
    return plain


anything = settings(deadline=None, max_examples=40)
"""For tests of what comes in: a busy machine is no fault."""
