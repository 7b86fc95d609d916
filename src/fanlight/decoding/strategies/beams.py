"""Beam search: several texts side by side, the best by the sum of their log-probabilities. Knows no model and no text.

With groups that must differ (Vijayakumar et al. 2016), with phrases that must come (Post and Vilar 2018), with draws instead of
the best (sampling without replacement by Gumbel noise: Kool et al. 2019). What is kept, finished and compared follows
transformers 5 (`_beam_search`): processors see log-probabilities, a text's score is divided by its length^length_penalty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from fanlight.decoding.processors import OnOps, Processor
from fanlight.decoding.shapes import Renormalize
from fanlight.decoding.step import Decision, StepSettings, process, settle
from fanlight.decoding.strategies.base import Answer, Host, Line, Steps, Want
from fanlight.decoding.strategies.forced import Progress, allocate
from fanlight.decoding.strategies.tree import FINISHED, KEPT, PRUNED, Tree
from fanlight.errors import ConstraintError, NumericError
from fanlight.trace.stop import Stop, StopReason

if TYPE_CHECKING:
    from fanlight.kernels.ops import Ops, Tensor


class LogSoftmax(Renormalize):
    """Logits become log-probabilities, so that those of several steps can be added."""

    __slots__ = ()
    name = "log_softmax"

    def __init__(self, ops: Ops) -> None:
        super().__init__(1.0, ops)
        self.label = self.name


class Diversity(OnOps):
    """Tokens that earlier groups chose at this step lose the penalty for each time. Source: Vijayakumar et al. 2016."""

    __slots__ = ("counts",)
    name = "diversity_penalty"

    def __init__(self, value: float, counts: Counter[int], ops: Ops) -> None:
        super().__init__(value, ops)
        self.counts = counts

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """See Processor."""
        return self.ops.bias(logits, list(self.counts), [-self.value * n for n in self.counts.values()])


@dataclass(slots=True)
class Beam:
    """One text that is followed."""

    ids: list[int]
    score: float
    """Sum of log-probabilities."""
    line: Line | None
    progress: Progress
    node: int = -1
    """In the tree."""
    history: tuple[Decision, Beam] | None = field(default=None, repr=False)
    """How its last token was chosen, and what it was before."""

    def decisions(self) -> list[Decision]:
        """Of all its tokens."""
        found, beam = [], self
        while beam.history is not None:
            decision, beam = beam.history
            found.append(decision)
        return found[::-1]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A beam with one more token."""

    parent: int
    token: int
    score: float
    """Of the text."""
    logprob: float
    """Of the token."""
    key: float
    """What candidates are ordered by: the score, or the score with noise."""


@dataclass(slots=True)
class Group:
    """Beams that are compared with each other."""

    size: int
    running: list[Beam]
    finished: list[tuple[float, Beam]] = field(default_factory=list)
    """(score over length^penalty, text), the best first; at most `size`."""
    hopeful: bool = True
    """Whether a running text may still beat the worst finished one."""
    exhausted: bool = False
    """Every text has ended."""

    def is_done(self, early_stopping: bool | str) -> bool:
        """Whether the search within this group is over."""
        full = len(self.finished) == self.size and early_stopping is True
        return not self.hopeful or full or self.exhausted


def search(host: Host) -> Steps:
    """The whole search; the texts come out at its end, and of a single one the settled beginning as soon as it is settled."""
    config = host.config
    n_groups = config.num_beam_groups
    forced = (*config.force_words_ids, *config.constraints)
    kind = "constrained beam search" if forced else "diverse beam search" if n_groups > 1 else "beam search"
    tree = Tree("beam sampling" if config.samples else kind, on=config.candidates != 0)
    progress = Progress(forced)
    if progress.n_missing > host.max_length - len(host.prompt_ids):
        raise ConstraintError(
            f"force_words_ids needs {progress.n_missing} tokens, the length allows "
            f"{host.max_length - len(host.prompt_ids)}; raise max_new_tokens"
        )
    first = Beam(list(host.prompt_ids), 0.0, host.open(host.prompt_ids), progress)
    groups = [Group(config.num_beams // n_groups, [first]) for _ in range(n_groups)]
    n_emitted = 0
    while True:
        lines = _lines(groups)
        answers = yield [Want(line) for line in lines]
        at = {id(line): answer for line, answer in zip(lines, answers, strict=True)}
        chosen: Counter[int] = Counter()
        for number, group in enumerate(groups):
            if not group.is_done(config.early_stopping):
                _advance(host, groups, number, at, chosen, tree)
        _tidy(host, groups, lines)
        if all(group.is_done(config.early_stopping) for group in groups):
            break
        if len(host.outputs) == 1:
            n_emitted = _emit_settled(host, groups, n_emitted)
    best = sorted((item for group in groups for item in group.finished), key=lambda item: -item[0])
    if forced:
        best = [item for item in best if item[1].progress.is_complete]
        if not best:
            raise ConstraintError("force_words_ids: no text holds them all; raise num_beams or max_new_tokens")
    host.search = tree.record([beam.node for _, beam in best[: len(host.outputs)]])
    for number, (output, (score, beam)) in enumerate(zip(host.outputs, best, strict=False)):
        output.score = score
        _emit(host, number, beam, n_emitted if number == 0 else 0, to_end=True)
    for output in host.outputs[len(best) :]:
        output.end(Stop(StopReason.CANCELLED, f"the search found {len(best)} texts only"))


def _lines(groups: Sequence[Group]) -> list[Line]:
    lines = {id(beam.line): beam.line for group in groups for beam in group.running if beam.line is not None}
    return list(lines.values())


def _advance(
    host: Host, groups: list[Group], number: int, answers: dict[int, Answer], chosen: Counter[int], tree: Tree
) -> None:
    """One more token for the beams of a group."""
    config, group = host.config, groups[number]
    settings = host.settings
    first: tuple[Processor, ...] = (LogSoftmax(host.ops),)
    if len(groups) > 1 and config.diversity_penalty:
        first = (*first, Diversity(config.diversity_penalty, Counter(chosen), host.ops))
    settings = replace(settings, processors=(*first, *settings.processors))
    rows = _rows(group, answers, settings)
    n_keep = max(2, 1 + len(settings.eos_ids)) * group.size
    candidates = _candidates(group, rows, settings, n_keep, number)
    if group.running[0].progress.phrases:
        candidates = _with_forced(host, group, rows, candidates, n_keep)
    phrases = bool(group.running[0].progress.phrases)
    n_new = len(group.running[0].ids) + 1 - len(host.prompt_ids)
    expired = host.expired()
    ends = [
        expired
        or host.ends(c.token)
        or len(group.running[c.parent].ids) + 1 >= host.max_length
        or host.completes(group.running[c.parent].ids, c.token)
        for c in candidates
    ]
    order = [i for i in range(len(candidates)) if not ends[i]]
    if not phrases:  # with phrases, the banks have said who goes first
        order.sort(key=lambda i: -candidates[i].score)
    kept = set(order[: group.size])
    full = len(group.finished) == group.size and config.early_stopping is True
    beams: dict[int, Beam] = {}
    for i, candidate in enumerate(candidates):
        finishes = ends[i] and i < group.size and not full
        fate = KEPT if i in kept else FINISHED if finishes else PRUNED
        parent = group.running[candidate.parent]
        node = tree.add(parent.node, candidate.token, n_new, candidate.logprob, candidate.score, fate, number)
        if fate == PRUNED:
            continue
        seen = rows[candidate.parent]
        assert seen is not None
        own = replace(settings, seed=_seed(settings, group, number, candidate.parent))
        decision = settle(candidate.token, parent.ids, seen, own)
        beam = Beam(
            [*parent.ids, candidate.token],
            candidate.score,
            parent.line if fate == KEPT else None,
            parent.progress.after(candidate.token),
            node,
            (decision, parent),
        )
        if fate == KEPT:
            beams[i] = beam
        else:
            group.finished.append((candidate.score / n_new**config.length_penalty, beam))
    group.finished.sort(key=lambda item: -item[0])
    del group.finished[group.size :]
    group.running = [beams[i] for i in order if i in beams]
    for beam in group.running:
        chosen[beam.ids[-1]] += 1
    group.exhausted = all(ends)
    group.hopeful = group.hopeful and bool(group.running) and _may_improve(host, group, n_new)


def _rows(group: Group, answers: dict[int, Answer], settings: StepSettings) -> list[list[Tensor] | None]:
    """Each beam's row after each processor; None of a beam that a constraint has led into a dead end."""
    rows: list[list[Tensor] | None] = []
    dead: ConstraintError | None = None
    for beam in group.running:
        try:
            rows.append(process(beam.ids, answers[id(beam.line)].logits[0], settings.processors))
        except ConstraintError as error:
            rows.append(None)
            dead = error
    if dead is not None and all(row is None for row in rows):
        raise dead
    return rows


def _candidates(
    group: Group, rows: Sequence[list[Tensor] | None], settings: StepSettings, n_keep: int, number: int
) -> list[Candidate]:
    """The n_keep best continuations of all beams, in order; or as many drawn, in the order they were drawn."""
    found: list[Candidate] = []
    ops = settings.ops
    for i, (beam, beam_rows) in enumerate(zip(group.running, rows, strict=True)):
        if beam_rows is None:
            continue
        row = beam_rows[-1]
        if not ops.top(ops.finite(row), 1)[0]:  # a beam that ends here, where others may go on
            continue
        ops.stats(row)  # a row that is damaged is an error, looked at or not
        if settings.sample:
            tokens, keys = ops.gumbel_top(row, _seed(settings, group, number, i), len(beam.ids), n_keep)
            logprobs = ops.gather(row, tokens)
        else:
            tokens, logprobs = ops.top(row, n_keep)
            keys = logprobs
        found += [
            Candidate(i, token, beam.score + logprob, logprob, beam.score + key)
            for token, logprob, key in zip(tokens, logprobs, keys, strict=True)
        ]
    if not found:
        raise NumericError("no beam can go on: no token is left; loosen the filters")
    found.sort(key=lambda c: (-c.key, c.parent, c.token))
    return found[:n_keep]


def _seed(settings: StepSettings, group: Group, number: int, beam: int) -> int:
    """What a beam's noise is drawn with: each has its own."""
    return (settings.seed + (number * group.size + beam) * 0x9E3779B97F4A7C15) % 2**64


def _with_forced(
    host: Host, group: Group, rows: Sequence[list[Tensor] | None], best: list[Candidate], n_keep: int
) -> list[Candidate]:
    """The candidates of dynamic beam allocation: the best, and what brings a phrase further, spread over the banks.

    No text ends before its phrases are there, and none goes on that has no room left for them.
    """
    ops = host.ops
    pool = {(c.parent, c.token): c for c in best}
    for i, (beam, beam_rows) in enumerate(zip(group.running, rows, strict=True)):
        if beam_rows is None:
            continue
        wanted = beam.progress.wanted()
        logprobs = ops.gather(beam_rows[-1], wanted)
        for token, logprob in zip(wanted, logprobs, strict=True):
            if logprob > -float("inf"):
                pool.setdefault((i, token), Candidate(i, token, beam.score + logprob, logprob, beam.score + logprob))
    allowed: list[tuple[Candidate, int]] = []
    for candidate in sorted(pool.values(), key=lambda c: (-c.key, c.parent, c.token)):
        beam = group.running[candidate.parent]
        after = beam.progress.after(candidate.token)
        room = host.max_length - len(beam.ids) - 1
        if (host.ends(candidate.token) and not after.is_complete) or after.n_missing > room:
            continue
        allowed.append((candidate, after.n_met))
    if not allowed:
        raise ConstraintError(
            "force_words_ids: no beam has room left for all of them; raise num_beams or max_new_tokens"
        )
    first = allocate([bank for _, bank in allowed], group.size)
    rest = [i for i in range(len(allowed)) if i not in set(first)]
    return [allowed[i][0] for i in (*first, *rest)][:n_keep]


def _may_improve(host: Host, group: Group, n_new: int) -> bool:
    """Whether the best running text may still beat the worst finished one, as transformers reckons it."""
    config = host.config
    if len(group.finished) < group.size:
        return True
    longest = host.max_length - len(host.prompt_ids)
    length = longest if config.early_stopping == "never" and config.length_penalty > 0 else n_new
    best = max(beam.score for beam in group.running) / length**config.length_penalty
    return bool(best > group.finished[-1][0])


def _tidy(host: Host, groups: Sequence[Group], lines: Sequence[Line]) -> None:
    """Every running beam gets a line of its own, that ends with its token; lines that none goes on with are given back."""
    heirs: dict[int, list[Beam]] = {id(line): [] for line in lines}
    for group in groups:
        if group.is_done(host.config.early_stopping):
            group.running = []
        for beam in group.running:
            heirs[id(beam.line)].append(beam)
    for line in lines:
        mine = heirs[id(line)]
        for beam in mine[1:]:
            beam.line = host.fork(line)
        for beam in mine:
            assert beam.line is not None
            beam.line.ids.append(beam.ids[-1])
            if not host.config.use_cache:
                host.recompute(beam.line)
        if not mine:
            host.close(line)


def _emit_settled(host: Host, groups: Sequence[Group], n_emitted: int) -> int:
    """Hand out what all texts that may still win have in common; how many tokens that is."""
    beams = [beam for group in groups for beam in (*group.running, *(text for _, text in group.finished))]
    start = len(host.prompt_ids)
    n = n_emitted
    shortest = min(len(beam.ids) for beam in beams) - start - 1  # a last token may end the text: not yet
    while n < shortest and len({beam.ids[start + n] for beam in beams}) == 1:
        n += 1
    if n > n_emitted:
        _emit(host, 0, beams[0], n_emitted, to_end=False, end=n)
    return n


def _emit(host: Host, number: int, beam: Beam, begin: int, *, to_end: bool, end: int | None = None) -> None:
    decisions = beam.decisions()
    start = len(host.prompt_ids)
    end = len(decisions) if end is None else end
    for i in range(begin, end):
        is_last = to_end and i == end - 1
        host.outputs[number].emit(beam.ids[start + i], decisions[i], may_end=is_last)
