"""Decode speed on the default model: 128 tokens after 14, against the peers and a pure read of the same bytes."""

from __future__ import annotations

from benchmarks.figures.rates import decode_rate
from benchmarks.harness import Outcome, race, ratio, seconds
from benchmarks.lineup import OURS, Q4_0, Q4_1, TRANSFORMERS, TRANSFORMERS_BF16, Lineup

FIGURE = "decode"
PROMPT, TOKENS, TOKENS_SLOW = 14, 128, 32
READ = "pure read of the weights"


def run(lineup: Lineup) -> Outcome:
    """Tokens per second."""

    def read(turn: int) -> float:
        return TOKENS / seconds(lambda: lineup.fanlight.read_weights(TOKENS))

    samples = race(
        {
            OURS: decode_rate(lineup.fanlight, lineup.window, prompt=PROMPT, tokens=TOKENS),
            Q4_1: decode_rate(lineup.llama_q4_1, lineup.window, prompt=PROMPT, tokens=TOKENS),
            Q4_0: decode_rate(lineup.llama_q4_0, lineup.window, prompt=PROMPT, tokens=TOKENS),
            TRANSFORMERS: decode_rate(lineup.transformers, lineup.window, prompt=PROMPT, tokens=TOKENS_SLOW),
            TRANSFORMERS_BF16: decode_rate(lineup.transformers_bf16, lineup.window, prompt=PROMPT, tokens=TOKENS_SLOW),
            READ: read,
        },
        lineup.rounds,
    )
    goals = [
        ratio("times llama.cpp Q4_1", samples, OURS, Q4_1, low=2.2),
        ratio("times llama.cpp Q4_0", samples, OURS, Q4_0, low=1.4),
        ratio("times transformers", samples, OURS, TRANSFORMERS, low=12),
        ratio("times transformers in bfloat16", samples, OURS, TRANSFORMERS_BF16),
        ratio("of a pure read", samples, OURS, READ, low=0.85),
    ]
    return Outcome(figure=FIGURE, unit=f"tokens/s, {TOKENS} tokens after {PROMPT}", samples=samples, goals=goals)
