"""A second architecture at another size: the shape of GPT-2 medium with random weights, in float32 and bfloat16."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures.rates import decode_rate
from benchmarks.harness import Goal, Outcome, Samples, race, ratio, seconds
from benchmarks.lineup import Lineup

FIGURE = "gpt2-medium"
SHAPE = {"n_layer": 24, "n_head": 16, "n_embd": 1024, "n_positions": 1024, "vocab_size": 50257}
GOALS = {"float32": 2.0, "bfloat16": 3.0}
PROMPT, TOKENS = 14, 48


def run(lineup: Lineup) -> Outcome:
    """Tokens per second."""
    samples: dict[str, Sequence[float]] = {}
    goals: list[Goal] = []
    for dtype, low in GOALS.items():
        found = race_dtype(lineup, dtype)
        ours, theirs, read = found
        goals.append(ratio(f"{dtype}: times transformers", found, ours, theirs, low=low))
        goals.append(ratio(f"{dtype}: of a pure read", found, ours, read, low=0.85))
        samples.update(found)
    return Outcome(figure=FIGURE, unit=f"tokens/s, {TOKENS} tokens after {PROMPT}", samples=samples, goals=goals)


def race_dtype(lineup: Lineup, dtype: str) -> Samples:
    """Fanlight, transformers and a pure read, in this order, on one checkpoint of this type."""
    from benchmarks.peers.fanlight import Fanlight
    from benchmarks.peers.transformers import Transformers

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_random(folder, dtype)
        ours = Fanlight(folder, name=f"fanlight {dtype}", threads=lineup.threads)
        theirs = Transformers(folder, name=f"transformers {dtype}", threads=lineup.threads, dtype=dtype)

        def read(turn: int) -> float:
            return TOKENS / seconds(lambda: ours.read_weights(TOKENS))

        return race(
            {
                ours.name: decode_rate(ours, window, prompt=PROMPT, tokens=TOKENS),
                theirs.name: decode_rate(theirs, window, prompt=PROMPT, tokens=TOKENS),
                f"pure read {dtype}": read,
            },
            lineup.rounds,
        )


def window(turn: int, n: int) -> Sequence[int]:
    """n ids of a vocabulary without words, others in every round."""
    return [(turn * 101 + i * 7919) % SHAPE["vocab_size"] for i in range(n)]


def write_random(folder: Path, dtype: str, **options: str) -> None:
    """A GPT-2 checkpoint as transformers writes it, with a tokenizer of single bytes, which is not what is measured.

    options: of save_pretrained.
    """
    import torch
    import transformers

    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**SHAPE))
    model.to(getattr(torch, dtype)).save_pretrained(folder, **options)
    write_byte_tokenizer(folder)


def write_byte_tokenizer(folder: Path) -> None:
    """tokenizer.json with the 256 byte symbols of GPT-2 and no merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
