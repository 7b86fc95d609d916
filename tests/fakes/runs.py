"""An engine over fakes and what its requests give. In: prompts and options. Out: Outcomes that can be compared with ==."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from fakes.decoder import FakeDecoder, hashed_logits
from fanlight.decoding.config import GenerationConfig
from fanlight.decoding.constraints import Vocabulary
from fanlight.engine.loop import Engine
from fanlight.text.stream import Detokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from fakes.decoder import LogitsOf
    from fanlight.api import Model
    from fanlight.engine.request import Helpers, StepEvent
    from fanlight.trace.records import Guess, StepRecord
    from fanlight.trace.search import SearchRecord

BOS, EOS = 256, 257
BYTES = Vocabulary((*(bytes([i]) for i in range(256)), b"<bos>", b"<eos>"), frozenset({BOS, EOS}), (EOS,))


class Outcome(NamedTuple):
    """One text of a request."""

    ids: list[int | None]
    text: str
    stop: str
    score: float | None
    records: list[StepRecord | None]
    """Without the guesses, which are all that speculation may change."""


def engine_of(
    decoder: FakeDecoder, *, vocabulary: Vocabulary = BYTES, eos_ids: Sequence[int] | None = None, **options: Any
) -> Engine:
    """With text: the bytes of `vocabulary`."""
    tokens = vocabulary.tokens
    return Engine(
        decoder,
        eos_ids=vocabulary.eos_ids if eos_ids is None else eos_ids,
        detokenizer_factory=lambda _: Detokenizer(tokens.__getitem__, skip=vocabulary.special_ids),
        vocabulary=lambda: vocabulary,
        **options,
    )


def small_vocabulary(n: int, *eos_ids: int) -> Vocabulary:
    """n letters, of which some end the text."""
    return Vocabulary(tuple(bytes([97 + i]) for i in range(n)), frozenset(eos_ids), eos_ids)


def repeating(order: int, n_vocab: int, seed: int = 0, spread: float = 2.0) -> LogitsOf:
    """Logits that know the last ids alone, so that a text comes round again."""

    def logits_of(history: Sequence[int]) -> NDArray[np.float32]:
        return hashed_logits([seed, *history[-order:]], n_vocab, spread)

    return logits_of


def nearly(logits_of: LogitsOf, n_vocab: int, spread: float) -> LogitsOf:
    """Another model that mostly says the same: an assistant."""

    def near(history: Sequence[int]) -> NDArray[np.float32]:
        return logits_of(history) + hashed_logits([3, *history[-3:]], n_vocab, spread)

    return near


def config_of(options: dict[str, Any]) -> GenerationConfig:
    return GenerationConfig.from_options({"max_new_tokens": 12, "candidates": 5, **options})


def outcomes(events: list[StepEvent]) -> list[Outcome]:
    """Of one request that ended well: its texts in order."""
    assert events
    assert all(event.error is None for event in events), [event.error for event in events]
    assert [event.ends_request for event in events] == [False] * (len(events) - 1) + [True]
    found = []
    for output in sorted({event.output for event in events}):
        mine = [event for event in events if event.output == output]
        assert [event.index for event in mine] == list(range(len(mine)))
        assert [event.stop is not None for event in mine] == [False] * (len(mine) - 1) + [True]
        records = [event.decision.record if event.decision else None for event in mine]
        assert all(record is None or record.stop == event.stop for record, event in zip(records, mine, strict=True))
        found.append(
            Outcome(
                [event.id for event in mine],
                "".join(event.text for event in mine),
                str(mine[-1].stop),
                mine[-1].score,
                [record and replace(record, guess=None) for record in records],
            )
        )
    return found


def run(
    engine: Engine, prompt: Sequence[int], options: dict[str, Any], helpers: Helpers | None = None
) -> list[StepEvent]:
    """One request's events; nothing is left of it afterwards."""
    events = list(engine.stream(engine.submit(prompt, config_of(options), helpers)))
    assert not engine.has_work
    assert_all_free(engine)
    return events


def generate(
    engine: Engine, prompt: Sequence[int], options: dict[str, Any], helpers: Helpers | None = None
) -> list[Outcome]:
    return outcomes(run(engine, prompt, options, helpers))


def assert_all_free(engine: Engine) -> None:
    """Nothing is held but by the beginnings that are kept, and these know what they hold."""
    for lane in engine._lanes.values():
        if lane.cache.prefixes is not None:
            assert lane.cache.pool.n_pages == lane.cache.prefixes.n_pages
            lane.cache.prefixes.clear()
        assert lane.cache.pool.n_pages == 0
        assert not lane.cache._shared
        assert not lane.scheduler.running
        assert not lane.scheduler.waiting


def search_of(events: list[StepEvent]) -> SearchRecord:
    assert all(event.search is None for event in events[:-1])
    search = events[-1].search
    assert search is not None
    return search


def guesses(events: list[StepEvent]) -> list[Guess]:
    return [event.decision.guess for event in events if event.decision and event.decision.guess]


def decoder_of(logits_of: Callable[[Sequence[int]], NDArray[np.float32]], n_vocab: int, **sizes: Any) -> FakeDecoder:
    return FakeDecoder(logits_of=logits_of, n_vocab=n_vocab, **sizes)


def n_lent(model: Model) -> int:
    """Pages that texts on their way hold: all that are in use without those that are kept for the next call."""
    assert model._spare.idle is not None, "a call has not given its engine back"
    return model._spare.idle.cache.pool.n_pages - model._spare.idle.cache.n_kept
