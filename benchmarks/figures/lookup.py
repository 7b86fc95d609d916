"""Guessing from repeats in the text (prompt lookup) where an answer copies: a paragraph to be written again with one change.

A chat with the default model, which copies this paragraph nearly word for word (a note says how nearly) and is too small to make
the change. Both ways give the same tokens, which every round checks; the rate is of the whole answer after its first token. A
task that copies nothing is measured beside it: there, guesses should cost little.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import SequenceMatcher

from benchmarks.figures.beside import Measured, plain, seen
from benchmarks.harness import Goal, Outcome, race, ratio
from benchmarks.lineup import TEXT, Lineup

FIGURE = "lookup"
TOKENS, GUESSES = 256, 16
PLAIN, GUESSED = "plain", "with prompt lookup"
ACCEPTED, PER_PASS = "share of guesses that were right", "tokens a pass"
COPY = "Rewrite this paragraph with one change: write Rome instead of Paris.\n\n{}"
PARAGRAPH = 2
FREE = "Write a short story about a lighthouse keeper and a storm. Begin with the number {}."


def run(lineup: Lineup, tokens: int = TOKENS) -> Outcome:
    """Tokens per second."""
    paragraph = TEXT.read_text(encoding="utf-8").split("\n\n")[PARAGRAPH]
    prompts: dict[str, Callable[[int], str]] = {
        "copy": lambda turn: COPY.format(paragraph),
        "free": lambda turn: FREE.format(turn + 1),
    }
    texts: dict[tuple[str, int], tuple[int, ...]] = {}
    model = lineup.model

    def rate(task: str, lookup: int | None) -> Callable[[int], float]:
        def measure(turn: int) -> float:
            found = model.chat(
                [{"role": "user", "content": prompts[task](turn)}],
                do_sample=False,
                candidates=0,
                max_new_tokens=tokens,
                prompt_lookup_num_tokens=lookup,
            )
            if texts.setdefault((task, turn), found.ids) != found.ids:
                raise RuntimeError(f"lookup: guessing changed the text of {task!r}, round {turn}")
            guesses = found.speculation
            right, per_pass = (guesses.share, guesses.tokens_per_pass) if guesses else (0.0, 1.0)
            return Measured((len(found.ids) - 1) / found.decode_seconds, {ACCEPTED: right, PER_PASS: per_pass})

        return measure

    contenders: dict[str, Callable[[int], float]] = {}
    for task in prompts:
        contenders[f"{task}: {PLAIN}"] = rate(task, None)
        contenders[f"{task}: {GUESSED}"] = rate(task, GUESSES)
    raced = race(contenders, lineup.rounds)
    samples = {name: plain(values) for name, values in raced.items()}
    for task in prompts:
        for what in (ACCEPTED, PER_PASS):
            samples[f"{task}: {what}"] = seen(raced[f"{task}: {GUESSED}"], what)
    goals: list[Goal] = [
        ratio("times plain, copying", samples, f"copy: {GUESSED}", f"copy: {PLAIN}", low=1.8),
        ratio("times plain, writing freely", samples, f"free: {GUESSED}", f"free: {PLAIN}"),
    ]
    answer = model.tokenizer.decode(texts["copy", 0])
    copied = SequenceMatcher(None, paragraph.split(), answer.split(), autojunk=False).ratio()
    notes: dict[str, str | float] = {
        "tokens of the copy": len(texts["copy", 0]),
        "likeness of the copy to the paragraph, in words": copied,
    }
    return Outcome(figure=FIGURE, unit=f"tokens/s, up to {tokens} tokens", samples=samples, goals=goals, notes=notes)
