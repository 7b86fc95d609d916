"""The pass that looks inside a model: over a text that is there, for what lens, attention, contributions, norms, timings ask.

In: ids, a decoder and its cache. Out: the arrays of `trace.looks`. A row's bits depend on the row alone, so that this pass, after
the text is written, sees what the passes saw that wrote it; and writing is never changed by looking. (Of a model that
transformers runs, it sees the same up to rounding.) Knows no text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

from fanlight.cache.paged import CacheSlot, PagedCache
from fanlight.errors import FanlightError, OptionError
from fanlight.models.base import Watch
from fanlight.trace.looks import Attention, Contributions, Lens, Norms, Timings
from fanlight.trace.options import ALL, NEW

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fanlight.kernels.ops import Tensor
    from fanlight.models.base import Decoder, DecoderConfig
    from fanlight.trace.options import TraceOptions

CHUNK = 128
"""Rows of one pass: what is kept of a pass, and its logits, stay small."""
LOUD = 1e3
"""The root mean square at which a vector goes through a norm when it is its direction that counts: far above every epsilon."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to look at in a text: checked against the model."""

    steps: range
    """The positions that the steps were chosen at."""
    queries: tuple[int, ...]
    """Positions whose attention is looked at."""
    layers: tuple[int, ...]
    heads: tuple[int, ...]

    @property
    def rows(self) -> range:
        """All positions that are looked at, and those between them."""
        first = min((*self.queries[:1], *self.steps[:1]), default=0)
        last = max((*self.queries[-1:], *self.steps[-1:]), default=-1)
        return range(first, last + 1)


def plan(options: TraceOptions, config: DecoderConfig, n_prompt: int, n_new: int) -> Plan:
    """Errors: OptionError for layers, heads and positions that are not there."""
    steps = range(n_prompt - 1, n_prompt - 1 + n_new)
    check(options, config)
    if not options.has_attention:
        return Plan(steps, (), (), ())
    n_seen = n_prompt - 1 + n_new  # the last token is seen by none
    if options.queries == NEW:
        queries: Sequence[int] = steps
    elif options.queries == ALL:
        queries = range(n_seen)
    else:
        queries = sorted({_within("queries", "position", at, n_seen) for at in options.queries})  # type: ignore[arg-type]
    layers = options.attention if not isinstance(options.attention, bool) else range(config.n_layer)
    heads = options.heads if options.heads is not None else range(config.n_head)
    return Plan(
        steps,
        tuple(queries),
        tuple(dict.fromkeys(_within("attention", "layer", layer, config.n_layer) for layer in layers)),
        tuple(dict.fromkeys(_within("heads", "head", head, config.n_head) for head in heads)),
    )


def check(options: TraceOptions, config: DecoderConfig) -> None:
    """What can be told before there is a text. Errors: OptionError for layers and heads that are not there."""
    for layer in options.attention if not isinstance(options.attention, bool) else ():
        _within("attention", "layer", layer, config.n_layer)
    for head in options.heads or ():
        _within("heads", "head", head, config.n_head)


def _within(option: str, what: str, number: int, n: int) -> int:
    if not -n <= number < n:
        raise OptionError(f"{option}: there is no {what} {number}; there are {n}, from 0 to {n - 1}")
    return number % n


def look(
    decoder: Decoder,
    cache: PagedCache,
    ids: Sequence[int],
    n_prompt: int,
    options: TraceOptions,
    passes: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """What is asked for, by the names of `trace.looks`, and what cannot be had of this model, with the reason.

    ids: prompt and text. cache: known beginnings are not computed again. passes: "forward" and "deciding", (n_steps,) seconds, as
    they were measured while the text was written. Errors: OptionError for layers and heads that are not there.
    """
    config, n_new = decoder.config, len(ids) - n_prompt
    check(options, config)
    missing: dict[str, str] = {}
    try:
        what = plan(options, config, n_prompt, n_new)
    except OptionError as error:  # the text turned out shorter than the positions that are asked for
        missing["attention"] = str(error)
        options = replace(options, attention=False)
        what = plan(options, config, n_prompt, n_new)
    found = _Found(decoder, what, options, ids)
    found.missing.update(missing)
    rows = what.rows
    if rows:
        slot, cache = _opened(cache, decoder, ids, rows.start, rows.stop)
        try:
            found.take_all(slot, cache, rows)
        finally:
            cache.release(slot)
    return found.looks(passes or {}), found.missing


def _opened(
    cache: PagedCache, decoder: Decoder, ids: Sequence[int], first: int, end: int
) -> tuple[CacheSlot, PagedCache]:
    """A slot with what is known of ids[:first], and room up to `end`; a cache of its own where this one has no room."""
    slot = cache.open()
    if first:
        cache.adopt(slot, ids, first)
    if cache.reserve(slot, end - slot.length):
        return slot, cache
    cache.release(slot)
    cache = PagedCache(decoder.new_pool(cache.pool.dtype), decoder.config.n_ctx)
    slot = cache.open()
    cache.reserve(slot, end)
    return slot, cache


class _Found:
    """What has been seen so far."""

    def __init__(self, decoder: Decoder, what: Plan, options: TraceOptions, ids: Sequence[int]) -> None:
        self.decoder, self.what, self.options, self.ids = decoder, what, options, ids
        self.missing: dict[str, str] = {}
        self.n_layer = decoder.config.n_layer
        self.lens, self.contributes, self.norms = bool(options.lens), options.contributions, options.norms
        self.layers = what.layers
        self.times = options.timings
        self.seconds: dict[tuple[str, int], float] = {}
        self.n_rows = 0
        self._parts: dict[str, list[NDArray[Any]]] = {}
        self._weights: NDArray[np.float16] | None = None
        self._n_queries = 0
        self._linear: _Linear | None = None
        if self.contributes and not decoder.config.norm_first:
            self.contributes = False
            self.missing["contributions"] = (
                "norms stand after the sums in its blocks, so that nothing adds up to the logit"
            )

    def take_all(self, slot: CacheSlot, cache: PagedCache, rows: range) -> None:
        """Compute what is not known, and look at the rows."""
        ids = self.ids
        while slot.length < rows.start:
            n = min(CHUNK * 4, rows.start - slot.length)
            at = slot.length
            self.decoder.forward(ids[at : at + n], cache.batch([(slot, n)]), [])
        while slot.length < rows.stop:
            at, n = slot.length, min(CHUNK, rows.stop - slot.length)
            self._chunk(at, n, cache.batch([(slot, n)]))

    def _chunk(self, at: int, n: int, batch: Any) -> None:
        of_steps = range(max(at, self.what.steps.start), min(at + n, self.what.steps.stop))
        queries = [position for position in self.what.queries if at <= position < at + n]
        rows = sorted({*of_steps, *queries})
        watch = Watch(rows=[row - at for row in rows], times=self.times)
        if of_steps and (self.lens or self.contributes or self.norms):
            watch.layers = tuple(range(self.n_layer + 1))
            watch.middles = self.contributes or self.norms
        if queries:
            watch.attention = dict.fromkeys(self.layers, self.what.heads)
        wanted = [row - at for row in of_steps] if self.times else []  # so that the head is measured too
        watch = self._forward(at, n, batch, wanted, watch)
        self.n_rows += n
        for part, seconds in watch.seconds.items():
            self.seconds[part] = self.seconds.get(part, 0.0) + seconds
        if watch.weights:
            self._keep_weights(watch.weights, rows, queries)
        if of_steps and watch.states:
            self._keep_states(watch, [rows.index(row) for row in of_steps], of_steps)

    def _forward(self, at: int, n_rows: int, batch: Any, wanted: Sequence[int], watch: Watch) -> Watch:
        """A pass; what the model cannot show is left out from then on, and noted.

        What a pass cannot show it says before anything is computed: so the least is left out with which it runs.
        """
        parts = {"attention": watch.attention, "times": watch.times, "middles": watch.middles, "layers": watch.layers}
        asked = [name for name, value in parts.items() if value]
        said: dict[frozenset[str], OptionError] = {}
        for gone in (frozenset(names) for n in range(len(asked) + 1) for names in combinations(asked, n)):
            if "layers" in gone and "middles" in asked and "middles" not in gone:
                continue  # which need them
            for name, value in parts.items():
                setattr(watch, name, type(value)() if name in gone else value)
            try:
                self.decoder.forward(self.ids[at : at + n_rows], batch, wanted, watch)
            except OptionError as error:
                said[gone] = error
                continue
            for name in gone:
                self._leave_out(name, str(said.get(gone - {name}) or said[frozenset()]))
            return watch
        raise said[frozenset()]

    def _leave_out(self, part: str, why: str) -> None:
        if part == "attention":
            self.layers, names = (), ["attention"]
        elif part == "times":
            self.times, names = False, ["timings"]
        elif part == "middles":
            names = ["contributions"] * self.contributes + ["norms"] * self.norms
            self.contributes = self.norms = False
        else:
            names = ["lens"] * self.lens
            self.lens = False
        self.missing |= dict.fromkeys(names, why)

    # -- attention ----------------------------------------------------------------------------------------------------

    def _keep_weights(self, weights: Mapping[int, Tensor], rows: Sequence[int], queries: Sequence[int]) -> None:
        import numpy as np

        n_heads, n_seen = len(self.what.heads), self.what.queries[-1] + 1
        if self._weights is None:
            shape = (len(self.what.layers), n_heads, len(self.what.queries), n_seen)
            self._weights = np.zeros(shape, np.float16)
        places = [rows.index(query) for query in queries]
        first, self._n_queries = self._n_queries, self._n_queries + len(queries)
        for i, layer in enumerate(self.what.layers):
            found = weights[layer].numpy()  # (rows * heads, positions)
            found = found.reshape(len(rows), n_heads, -1)[places]  # (queries, heads, positions)
            n = min(found.shape[2], n_seen)
            self._weights[i, :, first : self._n_queries, :n] = found[:, :, :n].transpose(1, 0, 2)

    # -- states -------------------------------------------------------------------------------------------------------

    def _keep_states(self, watch: Watch, places: Sequence[int], steps: range) -> None:
        tokens = [self.ids[position + 1] for position in steps]
        states = [self._rows(watch.states[layer], places) for layer in range(self.n_layer + 1)]
        if self.lens:
            try:
                self._read(states, tokens)
            except OptionError as error:
                self.lens = False
                self.missing["lens"] = str(error)
        if not watch.inner:
            return
        import numpy as np

        x = np.stack([state.numpy() for state in states])  # (L + 1, T, E)
        inner = np.stack([self._rows(watch.inner[layer], places).numpy() for layer in range(self.n_layer)])
        attention, feed_forward = inner - x[:-1], x[1:] - inner
        if self.norms:
            for name, part in (("residual", x), ("norm_attention", attention), ("norm_feed_forward", feed_forward)):
                self._add(name, np.sqrt(np.einsum("lte,lte->tl", part, part, dtype=np.float64)))
        if self.contributes:
            self._contribute(x, attention, feed_forward, tokens)

    def _rows(self, states: Tensor, places: Sequence[int]) -> Tensor:
        return states if len(places) == states.shape[0] else self.decoder.ops.take_rows(states, places)

    def _read(self, states: Sequence[Tensor], tokens: Sequence[int]) -> None:
        """What each layer says."""
        import numpy as np

        readings = [self.decoder.readings(state, tokens, int(self.options.lens)) for state in states]
        sums = np.stack([r.logsumexp for r in readings], axis=1)  # (T, L + 1)
        self._add("lens_ids", np.stack([r.ids for r in readings], axis=1))
        self._add("lens_logprobs", np.stack([r.logits for r in readings], axis=1) - sums[..., None])
        self._add("lens_chosen", np.stack([r.token_logits for r in readings], axis=1) - sums)
        self._add("lens_ranks", np.stack([r.token_ranks for r in readings], axis=1))
        self._add("lens_entropies", np.stack([r.entropy for r in readings], axis=1))

    def _contribute(
        self,
        x: NDArray[np.float32],
        attention: NDArray[np.float32],
        feed_forward: NDArray[np.float32],
        tokens: Sequence[int],
    ) -> None:
        """The share of each part in the chosen logit, with the final norm's divisor as it is."""
        import numpy as np

        if self._linear is None:
            self._linear = _Linear(self.decoder)
        linear = self._linear
        weights = self.decoder.head_rows(tokens).numpy().astype(np.float64)  # (T, N)
        whole = linear(x[-1])  # (T, N)
        final = self.decoder.final(self._tensor(x[-1])).numpy().astype(np.float64) - linear.constant
        divisor = (final * whole).sum(axis=1) / np.maximum((whole * whole).sum(axis=1), 1e-30)  # (T,)

        def share(part: NDArray[np.float32]) -> NDArray[np.float64]:
            """(L, T, E) -> (T, L)"""
            products = np.stack([(linear(layer) * weights).sum(axis=1) for layer in part], axis=1)
            shares: NDArray[np.float64] = products * divisor[:, None]
            return shares

        self._add("embedding", share(x[:1])[:, 0])
        self._add("attention", share(attention))
        self._add("feed_forward", share(feed_forward))
        self._add("constant", weights @ linear.constant)

    def _tensor(self, x: NDArray[np.float32]) -> Tensor:
        import numpy as np

        return self.decoder.ops.tensor(np.ascontiguousarray(x, np.float32).tobytes(), x.shape[-1])

    def _add(self, name: str, values: NDArray[Any]) -> None:
        self._parts.setdefault(name, []).append(values)

    def _joined(self, name: str, dtype: Any) -> NDArray[Any]:
        import numpy as np

        return np.ascontiguousarray(np.concatenate(self._parts[name]), dtype=dtype)

    # -- the end ------------------------------------------------------------------------------------------------------

    def looks(self, passes: Mapping[str, Any]) -> dict[str, Any]:
        """All of it, by name; `logits` of the contributions are left to the caller, who has the records."""
        import numpy as np

        found: dict[str, Any] = {}
        if "lens_ids" in self._parts and self.lens:
            found["lens"] = Lens(
                ids=self._joined("lens_ids", np.int32),
                logprobs=self._joined("lens_logprobs", np.float32),
                chosen_logprobs=self._joined("lens_chosen", np.float32),
                chosen_ranks=self._joined("lens_ranks", np.int32),
                entropies=self._joined("lens_entropies", np.float32),
            )
        if self._weights is not None and "attention" not in self.missing:
            windows = tuple(self.decoder.config.window(layer) for layer in self.what.layers)
            found["attention"] = Attention(
                layers=self.what.layers,
                heads=self.what.heads,
                queries=self.what.queries,
                weights=self._weights,
                windows=windows if any(windows) else (),
            )
        if "embedding" in self._parts:
            parts = {
                name: self._joined(name, np.float32) for name in ("embedding", "attention", "feed_forward", "constant")
            }
            found["contributions"] = Contributions(**parts, logits=np.zeros(len(parts["embedding"]), np.float32))
        if "residual" in self._parts:
            found["norms"] = Norms(
                residual=self._joined("residual", np.float32),
                attention=self._joined("norm_attention", np.float32),
                feed_forward=self._joined("norm_feed_forward", np.float32),
            )
        if self.times:
            found["timings"] = self._timings(passes)
        return found

    def _timings(self, passes: Mapping[str, Any]) -> Timings:
        import numpy as np

        def of(part: str, layer: int = 0) -> float:
            return self.seconds.get((part, layer), 0.0) / max(1, self.n_rows)

        blocks = [[of("attention", layer), of("feed_forward", layer)] for layer in range(self.n_layer)]
        empty = np.zeros(len(self.what.steps), np.float32)
        return Timings(
            forward=np.asarray(passes.get("forward", empty), np.float32),
            deciding=np.asarray(passes.get("deciding", empty), np.float32),
            layers=np.asarray(blocks, np.float32),
            head=of("head"),
            embedding=of("embedding"),
        )


class _Linear:
    """The final norm without its divisor: the linear part of what stands before the head, of any architecture.

    A norm is a division by a length, and a linear map (a gain; layer norm takes the mean away too), and maybe a constant. So what
    the norm makes of a vector, times the vector's length, less the constant, is the linear map's result.
    """

    def __init__(self, decoder: Decoder) -> None:
        import numpy as np

        self._decoder = decoder
        n = decoder.config.n_embd
        probe = np.cos(np.arange(1, n + 1, dtype=np.float32) ** 2)[None]
        probes = (0 * probe, LOUD * probe, 2 * LOUD * probe, np.full((1, n), LOUD))
        zero, once, twice, flat = (self._final(np.asarray(v, np.float32)) for v in probes)
        self.constant: NDArray[np.float64] = zero[0]
        """What comes out for a vector of zeros: (N,)"""
        size = float(np.abs(once - zero).max())
        self._divides = float(np.abs(twice - once).max()) < 0.1 * size
        self._centers = self._divides and float(np.abs(flat - zero).max()) < 1e-2 * size
        if not np.isfinite(size) or not size:
            raise FanlightError("the final norm makes nothing of a vector; is the model damaged?")

    def _final(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        import numpy as np

        tensor = self._decoder.ops.tensor(np.ascontiguousarray(x, np.float32).tobytes(), x.shape[1])
        return self._decoder.final(tensor).numpy().astype(np.float64)

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """(T, E) -> (T, N)"""
        import numpy as np

        if not self._divides:
            return self._final(x) - self.constant
        x = x.astype(np.float64)
        if self._centers:
            x = x - x.mean(axis=1, keepdims=True)
        length = np.sqrt((x * x).mean(axis=1, keepdims=True))  # (T, 1)
        length = np.where(length > 1e-30, length, 1.0)
        loud = (x * (LOUD / length)).astype(np.float32)
        return (self._final(loud) - self.constant) * length
