"""Which type of the default model llama.cpp decodes several sequences fastest with. In: a Lineup. Out: the types, in speed.

What is fast depends on the processor: llama.cpp repacks some types into layouts of its own for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.harness import seconds

if TYPE_CHECKING:
    from benchmarks.lineup import Lineup
    from benchmarks.peers.base import BatchPeer

KINDS = ("Q4_1", "Q4_0", "IQ4_NL", "Q8_0", "F16")
SEQUENCES, PROMPT, TOKENS, TRIES = 8, 14, 24, 3


@dataclass(frozen=True, slots=True)
class BestType:
    """What was found."""

    kind: str
    unified: bool
    """Whether one buffer for the keys and values of all sequences was faster than one for each."""
    rates: Mapping[str, float]
    """Tokens per second, the best of some tries, by type and layout."""

    def notes(self) -> dict[str, str | float]:
        """For an Outcome."""
        return {f"heat of {name}, tokens/s of {SEQUENCES} sequences": rate for name, rate in self.rates.items()}


def find_best(lineup: Lineup) -> BestType:
    """Try each type in both layouts. The minimum of the tries counts: this is a choice in llama.cpp's favour, not a result."""
    rates: dict[str, float] = {}
    found: dict[str, tuple[str, bool]] = {}
    prompts = lineup.windows(0, [PROMPT] * SEQUENCES)
    for kind in KINDS:
        for unified in (False, True):
            name = f"{kind}, {'one buffer' if unified else 'a buffer each'}"
            with closing(lineup.llama_slots(kind, n_slots=SEQUENCES, n_ctx=128, unified=unified)) as peer:
                took = [_seconds(peer, prompts) for _ in range(TRIES)]
            rates[name] = SEQUENCES * TOKENS / min(took)
            found[name] = (kind, unified)
    return BestType(*found[max(rates, key=lambda name: rates[name])], rates)


def _seconds(peer: BatchPeer, prompts: Sequence[Sequence[int]]) -> float:
    peer.begin(prompts)
    return seconds(lambda: peer.advance(TOKENS))
