"""Phrases that must come: how far a text has got with them. In: ids. Out: a state. Knows no search and no model.

A phrase is a list of alternatives, each a sequence of ids; one of them must stand in the text. Source: Post and Vilar 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Alternatives = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """What of the phrases a text holds."""

    phrases: tuple[Alternatives, ...]
    done: frozenset[int] = frozenset()
    """Phrases that are there."""
    doing: tuple[tuple[int, int, int], ...] = ()
    """(phrase, alternative, ids of it that end the text) of those that have begun."""

    @property
    def is_complete(self) -> bool:
        """Whether all phrases are there."""
        return len(self.done) == len(self.phrases)

    @property
    def n_met(self) -> int:
        """Tokens that are there of all that phrases need: the bank of dynamic beam allocation."""
        return sum(min(map(len, phrase)) for phrase in self.phrases) - self.n_missing

    @property
    def n_missing(self) -> int:
        """Tokens that bring all phrases, one phrase after the other; 0 if they are there. Where they overlap, fewer may do."""
        shortest = {i: min(map(len, phrase)) for i, phrase in enumerate(self.phrases) if i not in self.done}
        saved = max((shortest[i] - len(self.phrases[i][a]) + n for i, a, n in self.doing), default=0)
        return sum(shortest.values()) - max(saved, 0)

    def wanted(self) -> list[int]:
        """The tokens that would bring a phrase further."""
        found = [self.phrases[i][a][n] for i, a, n in self.doing]
        for i, phrase in enumerate(self.phrases):
            if i not in self.done:
                found += [alternative[0] for alternative in phrase]
        return list(dict.fromkeys(found))

    def after(self, token: int) -> Progress:
        """With one more token. A phrase that breaks off begins anew."""
        begun = list(self.doing)
        begun += [(i, a, 0) for i, phrase in enumerate(self.phrases) if i not in self.done for a in range(len(phrase))]
        done, doing = set(self.done), []
        for i, a, n in begun:
            if self.phrases[i][a][n] != token:
                continue
            if n + 1 == len(self.phrases[i][a]):
                done.add(i)
            else:
                doing.append((i, a, n + 1))
        going_on = tuple(dict.fromkeys(item for item in doing if item[0] not in done))
        return Progress(self.phrases, frozenset(done), going_on)


def allocate(banks: Sequence[int], n: int) -> list[int]:
    """Which n of the candidates stay: as many of each bank as of any other, as far as there are; numbers of candidates, in order.

    banks: each candidate's bank, the candidates in the order of their scores.
    """
    by_bank: dict[int, list[int]] = {}
    for i, bank in enumerate(banks):
        by_bank.setdefault(bank, []).append(i)
    order = sorted(by_bank, reverse=True)  # the furthest first: what does not divide evenly is theirs
    chosen: list[int] = []
    while len(chosen) < n and any(by_bank.values()):
        for bank in order:
            if by_bank[bank] and len(chosen) < n:
                chosen.append(by_bank[bank].pop(0))
    return sorted(chosen)
