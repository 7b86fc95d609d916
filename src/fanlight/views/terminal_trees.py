"""Trees in a terminal: likely continuations, what a search went through, runs and their branches. In: plain data, a Canvas.

Out: text, a line for each token or text, with lines to its parent. Where a tree is deeper than there is room, its inner part is
counted instead of drawn. Knows no model and no search.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import sqrt
from typing import TYPE_CHECKING, NamedTuple

from fanlight.errors import OptionError
from fanlight.views.beams import FATES, MEANING, MOST_TEXTS, fates_of
from fanlight.views.branches import SHORT, tree
from fanlight.views.terminal import Canvas, Label, columns, left, right
from fanlight.views.terminal_sheet import (
    count,
    cut,
    ending_of,
    name_of,
    one_line,
    percent_of,
    sheet,
    wrapped,
)

if TYPE_CHECKING:
    from fanlight.trace.search import SearchRecord
    from fanlight.tracing.fan import Fan
    from fanlight.tracing.trace import Trace
    from fanlight.views.branches import Branch

BRANCH, LAST, DOWN, NOTHING = "├─ ", "└─ ", "│  ", "   "
ASCII = {BRANCH: "|- ", LAST: "`- ", DOWN: "|  "}
NAME, PERCENT, SCORE = 18, 6, 8  # columns
FATE_STYLES = {"returned": "model", "finished": "sure", "kept": "", "pruned": "cut"}
FATE_MARKS = {"returned": ("●", "@"), "finished": ("■", "#"), "kept": ("○", "o"), "pruned": ("\u00d7", "x")}
MOST_LINES = 3
"""Of the text of a run or a branch."""


def _drawn(piece: str, canvas: Canvas) -> str:
    return piece if canvas.unicode else ASCII.get(piece, piece)


# -- likely continuations --------------------------------------------------------------------------------------------------


def fan_text(fan: Fan, canvas: Canvas) -> str:
    """Each token with its probability after the text before it, and that of the whole text. Errors: OptionError for no token."""
    if not fan.nodes:
        raise OptionError("there is nothing to show: no token is as probable as min_prob; give a smaller one")
    best = fan.leaves[0]
    way, at = set[int](), best
    while at >= 0:
        way.add(at)
        at = fan.nodes[at].parent
    said = one_line(fan.text(best).replace("␣", " "), canvas)
    shown = sum(fan.nodes[leaf].cumulative for leaf in fan.leaves)
    n = count(len(fan.leaves), "text")
    likeliest = f"the likeliest of {n} goes on" if len(fan.leaves) > 1 else "it goes on"
    prompt = ending_of(fan.prompt, min(44, max(12, canvas.width - 10)), canvas)
    title = f"After {prompt} {likeliest} '{said}' ({percent_of(fan.nodes[best].cumulative)})"
    by = f"after {', '.join(fan.labels)}" if fan.is_final and fan.labels else "the model's own"
    facts = [
        f"prob: of a token after the text so far, {one_line(by, canvas)}; whole: of the text up to it, which the bar shows (its "
        f"square root). All {n} together: {percent_of(shown)}; {canvas.plain('▸')}: the likeliest."
    ]
    children: dict[int, list[int]] = {}
    for i, node in enumerate(fan.nodes):
        children.setdefault(node.parent, []).append(i)
    rows = list(_fan_rows(fan, children, -1, "", max(3, canvas.width // 2 - 8), canvas))
    widest = min(max(columns(name) for _, name, *_ in rows), max(8, canvas.width - 2 * PERCENT - 4))
    room = canvas.width - widest - 2 * PERCENT - 4
    high = max(node.cumulative for node in fan.nodes)
    lines = [canvas.paint(f"{left('', widest)}  {'prob':>{PERCENT}} {'whole':>{PERCENT}}", "dim")]
    for i, name, prob, whole in rows:
        style = "dim" if i < 0 else "bold" if i in way else ""
        word = left(cut(name, widest, canvas), widest)
        mark = canvas.paint(canvas.plain("▸"), "final") if i in way else " "
        numbers = f"{right(percent_of(prob), PERCENT)} {right(percent_of(whole), PERCENT)}"
        bar_style = "others" if i < 0 else "final" if i in way else "model"
        bar = " " + canvas.bar(min(1.0, sqrt(whole / high)), room - 1, bar_style) if room >= 4 and i >= 0 else ""
        if style:
            word, numbers = canvas.paint(word, style), canvas.paint(numbers, style)
        lines.append(f"{word} {mark}{numbers}{bar}")
    return sheet(canvas, title, facts, lines)


def _fan_rows(
    fan: Fan, children: dict[int, list[int]], node: int, lead: str, deepest: int, canvas: Canvas
) -> Iterator[tuple[int, str, float, float]]:
    """(node or -1 for others, its line, prob, cumulative)."""
    family = children.get(node, [])
    rest = fan.rest if node < 0 else fan.nodes[node].rest
    whole = 1.0 if node < 0 else fan.nodes[node].cumulative
    if not family:
        return
    if len(lead) > deepest:
        said = f"{canvas.plain('…')} {count(_below(children, node), 'token')}"
        yield -1, f"{lead}{_drawn(LAST, canvas)}{said}", 1 - rest, whole * (1 - rest)
        return
    has_rest = rest > 1e-9
    for i, at in enumerate(family):
        is_last = i + 1 == len(family) and not has_rest
        each = fan.nodes[at]
        said = name_of(each.label, NAME, canvas) + (" (end)" if each.is_end else "")
        yield at, f"{lead}{_drawn(LAST if is_last else BRANCH, canvas)}{said}", each.prob, each.cumulative
        yield from _fan_rows(fan, children, at, lead + _drawn(NOTHING if is_last else DOWN, canvas), deepest, canvas)
    if has_rest:
        yield -1, f"{lead}{_drawn(LAST, canvas)}others", rest, whole * rest


def _below(children: dict[int, list[int]], node: int) -> int:
    """Nodes below one."""
    found, waiting = 0, list(children.get(node, []))
    while waiting:
        found += 1
        waiting += children.get(waiting.pop(), [])
    return found


# -- a search --------------------------------------------------------------------------------------------------------------


class _Twig(NamedTuple):
    """Tokens that follow each other without a fork; or, with `are_beside`, tokens that were given up at one fork."""

    nodes: tuple[int, ...]
    lead: str
    are_beside: bool = False


def beams_text(search: SearchRecord, label: Label, canvas: Canvas, *, max_depth: int | None = None) -> str:
    """Texts as twigs, what became of each, its score; the best text goes straight down. Below: the texts that came out.

    max_depth: how many tokens of the texts to show; None: all. Errors: OptionError.
    """
    if max_depth is not None and (isinstance(max_depth, bool) or not isinstance(max_depth, int) or max_depth < 1):
        raise OptionError(f"max_depth must be 1 or more, or None: got {max_depth!r:.80}")
    if not search.nodes:
        raise OptionError("there is nothing to show: the search has no node")
    deepest = max(node.depth for node in search.nodes)
    depth = min(deepest, max_depth or deepest)
    fates = [fate if fate in FATES else "kept" for fate in fates_of(search)]
    children: dict[int, list[int]] = {}
    for at, node in enumerate(search.nodes):
        if node.depth <= depth:
            children.setdefault(node.parent, []).append(at)
    _in_order(search, children)
    lines: list[str] = []
    for twig in _twigs(children, fates, max(3, canvas.width // 2), canvas):
        lines += [""] if not twig.lead and lines and search.nodes[twig.nodes[0]].parent < 0 else []
        lines.append(_twig_line(search, twig, fates, label, canvas))
    given_up = sum(node.fate == "pruned" for node in search.nodes)
    title = f"{search.kind[:1].upper()}{search.kind[1:]}: {count(len(search.nodes), 'node')}, {given_up:,} given up"
    if search.returned:
        best = search.nodes[search.returned[0]].score
        title += f"; {count(len(search.returned), 'text')} came out, best score {best:.3f}"
    facts = ["straight down a text goes on; numbers: the score of the text up to there"]
    facts[0] += f"; shown: the first {depth} of {deepest} tokens" if depth < deepest else ""
    facts.append("; ".join(f"{_mark(fate, canvas)} {MEANING[fate]}" for fate in FATES))
    return sheet(canvas, title, facts, [*lines, *_returned(search, label, canvas)])


def _twig_line(search: SearchRecord, twig: _Twig, fates: Sequence[str], label: Label, canvas: Canvas) -> str:
    lead = canvas.paint(twig.lead, "dim")
    if not twig.nodes:
        return lead
    fate = fates[twig.nodes[-1]]
    names = [name_of(label(search.nodes[at].id), NAME, canvas) for at in twig.nodes]
    room = max(4, canvas.width - columns(twig.lead) - 2)
    if twig.are_beside:
        words = [f"{name} {search.nodes[at].score:.2f}" for name, at in zip(names, twig.nodes, strict=True)]
        return lead + canvas.paint(f"{_mark(fate, canvas)} {_as_many(words, room, canvas)}", FATE_STYLES["pruned"])
    space = max(4, room - SCORE - 1)
    said = f"{_mark(fate, canvas)} {left(cut(' '.join(names), space, canvas), space)}"
    style = FATE_STYLES[fate]
    return f"{lead}{canvas.paint(said, style) if style else said} {search.nodes[twig.nodes[-1]].score:>{SCORE}.3f}"


def _as_many(words: Sequence[str], room: int, canvas: Canvas) -> str:
    """As many words as fit, and how many do not."""
    whole = "  ".join(words)
    if columns(whole) <= room:
        return whole
    for n in range(len(words) - 1, 0, -1):
        said = "  ".join([*words[:n], f"{canvas.plain('…')} {len(words) - n} more"])
        if columns(said) <= room:
            return said
    return cut(whole, room, canvas)


def _mark(fate: str, canvas: Canvas) -> str:
    return FATE_MARKS[fate][0 if canvas.unicode else 1]


def _in_order(search: SearchRecord, children: dict[int, list[int]]) -> None:
    """Of each family, the one that goes straight down comes last: on the way to the best text, else with the most below it."""
    best: dict[int, int] = {}
    for i, last in reversed(list(enumerate(search.returned))):
        at = last
        while at >= 0:
            best[at] = i
            at = search.nodes[at].parent
    size = [1] * len(search.nodes)
    for at in reversed(range(len(search.nodes))):
        if search.nodes[at].parent >= 0:
            size[search.nodes[at].parent] += size[at]
    for family in children.values():
        family.sort(key=lambda at: (-best.get(at, len(search.returned)), size[at], search.nodes[at].score, -at))


def _twigs(children: dict[int, list[int]], fates: Sequence[str], widest: int, canvas: Canvas) -> Iterator[_Twig]:
    """All twigs, top to bottom. The last child of a fork goes on at its parent's place, the others to the right of it.

    Those that were given up at once stand on one line.
    """

    def family_of(node: int) -> tuple[list[int], tuple[int, ...]]:
        family = children.get(node, [])
        gone = [at for at in family if fates[at] == "pruned" and at not in children]
        return [at for at in family if at not in gone], tuple(reversed(gone))

    waiting: list[tuple[_Twig, str]] = []
    roots, gone = family_of(-1)
    waiting += [(_Twig(gone, "", are_beside=True), "")] if gone else []
    waiting += [(_Twig((at,), ""), "") for at in roots]
    while waiting:
        twig, below = waiting.pop()
        if twig.are_beside:
            yield twig
            continue
        nodes = list(twig.nodes)
        if len(twig.lead) > widest:
            yield _Twig((), f"{twig.lead}{canvas.plain('…')} {count(1 + _below(children, nodes[0]), 'node')}")
            continue
        while len(children.get(nodes[-1], [])) == 1:
            nodes += children[nodes[-1]]
        yield _Twig(tuple(nodes), twig.lead)
        followed, gone = family_of(nodes[-1])
        branch, down = below + _drawn(BRANCH, canvas), below + _drawn(DOWN, canvas)
        if followed:
            waiting.append((_Twig((followed[-1],), below), below))
        if gone:
            waiting.append((_Twig(gone, branch if followed else below + _drawn(LAST, canvas), are_beside=True), below))
        waiting += [(_Twig((child,), branch), down) for child in followed[:-1]]


def _returned(search: SearchRecord, label: Label, canvas: Canvas) -> list[str]:
    if not search.returned:
        return []
    lines = ["", canvas.paint("what came out", "bold")]
    for i, last in enumerate(search.returned[:MOST_TEXTS]):
        text = one_line("".join(label(token) for token in search.path(last)).replace("␣", " "), canvas)
        node = search.nodes[last]
        head = f"{i + 1}.  {node.score:.3f}  {count(node.depth, 'token')}: "
        lines += _lines(f"{head}{text.strip()}", canvas.width, MOST_LINES, canvas)
    more = len(search.returned) - MOST_TEXTS
    return [*lines, f"and {more} more"] if more > 0 else lines


def _lines(text: str, width: int, most: int, canvas: Canvas) -> list[str]:
    """A text on lines that fit; of more than `most` the rest is left out, which "…" shows."""
    width = max(4, width)
    found = list(wrapped(text, width))
    if len(found) <= most:
        return found
    dots = canvas.plain("…")
    last = found[most - 1]
    return [
        *found[: most - 1],
        (last if columns(last) + len(dots) <= width else cut(last, width - len(dots), canvas)) + dots,
    ]


# -- runs and branches -----------------------------------------------------------------------------------------------------


def branches_text(traces: Sequence[Trace], canvas: Canvas) -> str:
    """Each run, and below it what left it: at which step, by which change, and the text from there on. Errors: OptionError."""
    rows = tree(traces)
    n = sum(row.parent >= 0 for row in rows)
    where = sorted({row.start for row in rows if row.parent >= 0})
    title = f"{count(len(rows) - n, 'run')} and {n} branch{'es' if n != 1 else ''}"
    title += f", left at step{'s' if len(where) > 1 else ''} {', '.join(map(str, where[:6]))}" if where else ""
    title += canvas.plain("…") if len(where) > 6 else ""
    prompt = next((row.trace.header.prompt for row in rows if row.trace.header.prompt), None)
    said = f"After {ending_of(prompt, 60, canvas)}. " if prompt else ""
    lines: list[str] = []
    for i, row in enumerate(rows):
        lead, below = _leads(rows, i, canvas)
        head, *rest = _block(row, canvas.width - columns(lead), canvas)
        lines.append(f"{canvas.paint(lead, 'dim')}{canvas.paint(head, 'bold')}")
        lines += [f"{canvas.paint(below, 'dim')}{line}" for line in rest]
        lines.append(canvas.paint(below.rstrip(), "dim"))
    return sheet(
        canvas, title, [f"{said}What runs share is shown once: a branch has its text from its step on."], lines
    )


def _leads(rows: Sequence[Branch], i: int, canvas: Canvas) -> tuple[str, str]:
    """What stands before a row's first line, and before the others; of one that is too deep, its level."""
    row = rows[i]
    has_children = any(other.parent == i for other in rows[i + 1 :])
    own = _drawn(DOWN if has_children else NOTHING, canvas)
    pieces, at = list[str](), i
    while rows[at].parent >= 0:
        has_next = any(other.parent == rows[at].parent for other in rows[at + 1 :])
        pieces.append(_drawn((BRANCH if has_next else LAST) if at == i else (DOWN if has_next else NOTHING), canvas))
        at = rows[at].parent
    if not pieces:
        return "", own
    before = "".join(reversed(pieces[1:]))
    before = before if len(before) <= canvas.width // 3 else f"({row.level - 1}) "
    has_next = any(other.parent == row.parent for other in rows[i + 1 :])
    return before + pieces[0], before + _drawn(DOWN if has_next else NOTHING, canvas) + own


def _block(row: Branch, width: int, canvas: Canvas) -> list[str]:
    """What changed, the text from the branch on, how it ended."""
    trace, header = row.trace, row.trace.header
    name = one_line(trace.id[:SHORT], canvas)
    if row.parent >= 0 and header.parent is not None:
        head = f"step {row.start}: {one_line(header.parent.change, canvas)}"
    elif header.parent is not None:
        left_one, change = one_line(header.parent.id[:SHORT], canvas), one_line(header.parent.change, canvas)
        head = f"{name}, a branch of {left_one}, which is not here: {change}"
    else:
        head = name
    text = "".join(trace.token_label(token) for token in trace.ids[row.start :]).replace("␣", " ").strip()
    room = width - 6
    state = "" if header.complete else ", incomplete"
    ended = f"{count(trace.n_steps, 'token')}{state}; {one_line(str(header.stop), canvas)}"
    body = _lines(one_line(text, canvas), room, MOST_LINES, canvas) if text else ["(no token)"]
    return [cut(head, max(4, width), canvas), *body, canvas.paint(cut(ended, max(4, room), canvas), "dim")]
