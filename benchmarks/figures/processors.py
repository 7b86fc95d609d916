"""What every filter together costs: decoding with all of them and a draw against greedy, and one decision in a hot loop."""

from __future__ import annotations

import statistics
import time

from benchmarks.figures.rates import decode_rate
from benchmarks.harness import Outcome, race, ratio
from benchmarks.lineup import Lineup

FIGURE = "processors"
TOKENS = 128
GREEDY, ALL = "greedy", "all filters and a draw"
FILTERS = {
    "top_h": 0.9,
    "top_k": 200,
    "top_n_sigma": 3.0,
    "top_p": 0.98,
    "min_p": 0.001,
    "typical_p": 0.98,
    "epsilon_cutoff": 1e-5,
    "eta_cutoff": 1e-5,
    "tfs": 0.99,
    "top_a": 0.001,
    "xtc_probability": 0.5,
    "xtc_threshold": 0.1,
}
SETTINGS = {"do_sample": True, "temperature": 0.8, "seed": 1, **FILTERS}


def run(lineup: Lineup) -> Outcome:
    """Tokens per second."""
    peers = [lineup.fanlight.with_settings(GREEDY), lineup.fanlight.with_settings(ALL, **SETTINGS)]
    samples = race(
        {peer.name: decode_rate(peer, lineup.window, prompt=14, tokens=TOKENS) for peer in peers}, lineup.rounds
    )
    goals = [ratio("time with all filters / greedy", samples, GREEDY, ALL, high=1.05)]
    notes = {"microseconds of one decision, in cache": _hot(lineup)}
    return Outcome(figure=FIGURE, unit=f"tokens/s, {TOKENS} tokens", samples=samples, goals=goals, notes=notes)


def _hot(lineup: Lineup) -> float:
    from fanlight.decoding.config import GenerationConfig
    from fanlight.decoding.processors import Surroundings
    from fanlight.decoding.step import StepSettings, decide

    model = lineup.fanlight.model
    ids = list(lineup.window(0, 14))
    n_vocab = model.decoder.config.n_vocab
    raw = model.logits(ids)[-1:]
    settings = StepSettings.of(
        GenerationConfig(candidates=0, **SETTINGS),  # type: ignore[arg-type]
        Surroundings(ops=model.decoder.ops, n_vocab=n_vocab, prompt_ids=tuple(ids), seed=1),
    )
    took = []
    for turn in range(200):
        row = model.decoder.ops.tensor(raw.tobytes(), n_vocab)  # a new one: sums are remembered with a row
        start = time.perf_counter()
        decide([*ids, turn], row, settings)
        took.append(1e6 * (time.perf_counter() - start))
    return statistics.median(took)
