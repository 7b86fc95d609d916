"""One decoder with its cache and its queue, and the forward passes through it. Knows no strategy and no text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fanlight.cache.paged import CACHE_TYPES, PagedCache
from fanlight.decoding.strategies.base import MAIN
from fanlight.engine.scheduler import Scheduler, Work
from fanlight.errors import OptionError
from fanlight.models.base import FINAL, Watch

if TYPE_CHECKING:
    from fanlight.decoding.strategies.base import Want
    from fanlight.engine.sequence import Sequence
    from fanlight.models.base import Decoder

Kind = tuple[tuple[int, ...], bool, int | None]
PLAIN: Kind = ((), False, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much an engine does at once, and keeps. See Engine. Raises OptionError."""

    prefill_chunk: int
    prefill_beside: int
    max_batch: int
    max_cache_bytes: int | None
    prefix_bytes: int
    cache_type: str | None

    def __post_init__(self) -> None:
        if self.cache_type is not None and self.cache_type not in CACHE_TYPES:
            raise OptionError(f"cache_type is {self.cache_type!r:.80}; it can be {', '.join(CACHE_TYPES)}, or None")
        least = {"prefill_chunk": 1, "prefill_beside": 1, "max_batch": 1, "max_cache_bytes": 0, "prefix_bytes": 0}
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise OptionError(f"{name} must be a whole number: got {value!r:.80}")
            if value is not None and value < smallest:
                raise OptionError(f"{name} must be at least {smallest}: got {value}")


class Lane:
    """What belongs to one model."""

    def __init__(self, decoder: Decoder, sizes: Sizes) -> None:
        self.decoder = decoder
        self.n_sequences = 0
        """In the last pass."""
        pool = decoder.new_pool() if sizes.cache_type is None else decoder.new_pool(CACHE_TYPES[sizes.cache_type])
        self.cache = PagedCache(pool, decoder.config.n_ctx, sizes.max_cache_bytes, sizes.prefix_bytes)
        self.scheduler = Scheduler(
            self.cache,
            prefill_chunk=sizes.prefill_chunk,
            prefill_beside=sizes.prefill_beside,
            max_batch=sizes.max_batch,
        )

    def compute(self, work: Iterable[Work]) -> list[Sequence]:
        """Run the planned passes, one for all that want the same of the model; the sequences that have their answer now."""
        groups: dict[Kind, list[Work]] = {}
        for item in work:
            if not item.sequence.closed and item.sequence.slot.pages:  # not evicted since it was planned
                assert item.sequence.want is not None
                groups.setdefault(_kind(item.sequence.want), []).append(item)
        self.n_sequences = sum(map(len, groups.values()))
        done: list[Sequence] = []
        for kind, items in groups.items():
            self._pass(kind, items)
            done += [item.sequence for item in items if item.sequence.slot.length == len(item.sequence.ids)]
        return done

    def _pass(self, kind: Kind, items: list[Work]) -> None:
        ids: list[int] = []
        logit_rows: list[int] = []
        spans: list[tuple[Sequence, int, int, int]] = []  # sequence, first row, its rows, its logit rows
        for sequence, n_new in items:
            want = sequence.want
            assert want is not None
            begin, start = len(ids), sequence.slot.length
            ids += sequence.ids[start : start + n_new]
            n_logits = max(0, start + n_new - max(start, len(sequence.ids) - want.n_rows))
            logit_rows += range(len(ids) - n_logits, len(ids))
            spans.append((sequence, begin, n_new, n_logits))
        batch = self.cache.batch([(sequence.slot, n_new) for sequence, n_new in items])
        if kind == PLAIN:
            logits = self.decoder.forward(ids, batch, logit_rows)  # (len(logit_rows), n_vocab)
            watch = None
        else:
            layers, final, n_layer = kind
            watch = Watch(layers=layers, final=final, n_layer=n_layer, rows=range(len(ids)) if final else None)
            logits = self.decoder.forward(ids, batch, logit_rows, watch)
        row = self.decoder.ops.row
        at = 0
        for sequence, begin, n_new, n_logits in spans:
            answer = sequence.answer
            assert answer is not None
            if n_logits == 1:
                answer.logits.append(row(logits, at))
            else:
                answer.logits += [row(logits, at + i) for i in range(n_logits)]
            if watch is not None:
                self._keep(sequence, watch, (begin, n_new), (at, n_logits))
            at += n_logits
            run = sequence.run
            run.n_computed += n_new
            if run.pace is not None:
                guesses = kind[2] is not None or sequence.lane is not run.lanes[MAIN]
                if guesses or not sequence.is_prompt:
                    run.pace.computes(n_new, guesses=guesses)
            sequence.computed()

    def _keep(self, sequence: Sequence, watch: Watch, rows: tuple[int, int], logit_rows: tuple[int, int]) -> None:
        take, answer = self.decoder.ops.take_rows, sequence.answer
        assert answer is not None
        first, n = rows if watch.final else logit_rows
        if not n:
            return
        for layer in watch.layers:
            answer.states.setdefault(layer, []).append(take(watch.states[layer], range(first, first + n)))
        if watch.final:
            answer.final.append(take(watch.states[FINAL], range(first, first + n)))


def _kind(want: Want) -> Kind:
    if not want.layers and not want.final and want.n_layer is None:
        return PLAIN
    return tuple(dict.fromkeys(want.layers)), want.final, want.n_layer
