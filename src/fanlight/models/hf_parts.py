"""Where attention ends inside each block of a transformers model, found by one small pass. Knows no architecture.

In: a model. Out: its residual stream inside the blocks, and the seconds of its parts. transformers promises nothing of either, so
every module's inputs and outputs of a small pass are compared. With x and y the input and the output of a block, and c a factor
(1, or as Granite's), of whatever kind the block may be, one of these holds:

    x + c * (a + f) = y     a and f the outputs of two modules: one after the other or side by side, each with norms of its own
    x + c * m = y           one part alone, as in Mamba
    u = x + c * a           u the input of a norm: what follows is more than one module, or the norm's output is the new stream
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from time import perf_counter
from typing import Any

from fanlight.errors import OptionError

N_TRIED = 5
MAX_ERROR = 1e-3
"""Of what a block adds, as a part of it, beyond what the model's own type rounds off."""
MAX_ROUNDED = 0.25
"""Where what a block adds is lost in rounding, nothing can be told."""
ATTENTION_WORDS = ("attn", "attention", "mixer", "mamba", "recurrent", "conv")
FEED_FORWARD_WORDS = ("mlp", "ffn", "feed_forward", "feedforward", "moe", "expert", "fc2")


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call of a module in the small pass."""

    name: str
    given: Any
    """Its first tensor; None: it has none."""
    result: Any


def small_pass(torch: Any, model: Any, **options: Any) -> tuple[list[Call], Any]:
    """A few ids through the model: the calls of its modules in the order of their ends, and what it returns."""
    n_ids = model.get_input_embeddings().weight.shape[0]
    ids = torch.tensor([[(7 * i + 3) % n_ids for i in range(N_TRIED)]], device=model.device)
    calls: list[Call] = []
    given: list[Any] = []  # of the calls that have not ended; copies: some models add in place

    def begin(_: Any, args: Any, named: Any) -> None:
        given.append(_copy(given_tensor(torch, args, named)))

    def end(name: str) -> Callable[..., None]:
        return lambda _, args, result: calls.append(Call(name, given.pop(), _copy(first_tensor(torch, (result,)))))

    hooks = []
    for name, module in model.named_modules():
        hooks += [module.register_forward_pre_hook(begin, with_kwargs=True), module.register_forward_hook(end(name))]
    try:
        with torch.inference_mode():
            result = model(input_ids=ids, return_dict=True, **options)
    finally:
        for hook in hooks:
            hook.remove()
    return calls, result


def find_blocks(torch: Any, calls: Sequence[Call], states: Sequence[Any], n_layer: int) -> tuple[list[str], bool]:
    """The names of the blocks, in order, and whether the states handed out are what they return, not what they are given.

    No names: there is no numbered list of modules that these states go through.
    """

    def equal(a: Any, b: Any) -> bool:
        return a is not None and b is not None and a.shape == b.shape and bool(torch.equal(a, b))

    by_name = {call.name: call for call in calls}
    for last in by_name:
        parent, _, number = last.rpartition(".")
        names = [f"{parent}.{i}" for i in range(n_layer)]
        if number != str(n_layer - 1) or any(name not in by_name for name in names):
            continue
        given = [by_name[name].given for name in names]
        if all(equal(x, state) for x, state in zip(given, states, strict=False)):
            return names, False
        if equal(by_name[last].result, states[n_layer - 1]) and all(
            equal(x, state) for x, state in zip(given[1:], states, strict=False)
        ):
            return names, True
    return [], False


def first_tensor(torch: Any, values: Sequence[Any]) -> Any:
    """A tensor, or one that is first in a tuple."""
    for value in values:
        first = value[0] if isinstance(value, tuple | list) and value else value
        if isinstance(first, torch.Tensor):
            return first
    return None


def given_tensor(torch: Any, args: Sequence[Any], named: Mapping[str, Any]) -> Any:
    """What a module works on: its first tensor, unless one has the name that transformers uses for it."""
    return first_tensor(torch, (*args, named.get("hidden_states"), *named.values()))


def _copy(tensor: Any) -> Any:
    return None if tensor is None else tensor.detach().clone()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Middle:
    """How to see the residual stream between the attention and the feed-forward network of a block."""

    block: Any
    """The module."""
    module: Any
    """Whose numbers are needed; None: the block has no attention, nor anything in its place."""
    takes: str = "added"
    """"added": its output, times `factor`, is what attention adds; "given", "made": its input, or its output, is the stream."""
    factor: float = 1.0
    before: Any = None
    """The module of the feed-forward network, where that is computed first."""


class Parts:
    """The insides of a model's blocks. Errors: OptionError where they cannot be told."""

    def __init__(self, torch: Any, model: Any, blocks: Sequence[str]) -> None:
        """Runs the model on a few ids. blocks: the names of its blocks; none: they could not be told."""
        self._torch, self._model = torch, model
        self._name = f"transformers' {type(model).__name__}"
        if not blocks:
            raise OptionError(
                f"{self._name} has no list of blocks that read the hidden states which it hands out, so that it cannot be looked "
                "into; choose options that need neither the parts of blocks nor their times"
            )
        self._modules = dict(model.named_modules())
        calls, _ = small_pass(torch, model)
        times = Counter(call.name for call in calls)
        self.middles = [
            self._find_middle(
                i, name, [call for call in calls if f"{call.name}.".startswith(f"{name}.") and times[call.name] == 1]
            )
            for i, name in enumerate(blocks)
        ]

    # -- finding ------------------------------------------------------------------------------------------------------

    def _find_middle(self, i: int, name: str, calls: Sequence[Call]) -> Middle:
        block = self._modules[name]
        whole = next((call for call in calls if call.name == name), None)
        if whole is None:
            raise self._refusal(i, name, ())
        x, y = self._wide(whole.given), self._wide(whole.result)
        inside = [call for call in calls if call.name != name]
        added = self._outputs(inside, x)
        single: dict[tuple[str, ...], Any] = {(m,): value for m, value in added.items()}
        pairs: dict[tuple[str, ...], Any] = {(a, f): added[a] + added[f] for a, f in combinations(added, 2)}
        noise = float(self._torch.finfo(whole.given.dtype).eps)
        limit = min(MAX_ROUNDED, MAX_ERROR + 4 * noise * _ratio(y, y - x))
        for factor in (1.0, self._factor(), None):
            one, one_factor, one_error = self._best(single, y - x, factor)
            two, two_factor, two_error = self._best(pairs, y - x, factor)
            if one_error <= limit and one_error <= 2 * two_error:
                return self._of_single(block, name, one[0], one_factor)
            if two_error <= limit:
                return self._of_pair(block, name, two, two_factor)
            middle = self._of_given(block, inside, added, x, factor, limit)
            if middle is not None:
                return middle
        raise self._refusal(i, name, [n.removeprefix(name + ".") for n in added])

    def _outputs(self, calls: Sequence[Call], x: Any) -> dict[str, Any]:
        """What modules return, if it may be something that is added to x; of equal ones, the last: a clamp may come between."""
        found: dict[str, Any] = {}
        for call in calls:
            value = self._alike(call.result, x)
            if value is not None and bool(value.any()) and not bool(self._torch.equal(value, x)):
                found = {name: other for name, other in found.items() if not bool(self._torch.equal(other, value))}
                found[call.name] = value
        return found

    def _of_single(self, block: Any, name: str, m: str, factor: float) -> Middle:
        """The one part is attention's, or what stands in its place, unless the names say otherwise."""
        module = self._modules[m]
        kind = type(module).__name__.lower()
        feeds_forward = _has(m.removeprefix(name).lower() + kind, FEED_FORWARD_WORDS) and not _has(
            kind, ("attn", "attention")
        )
        return Middle(block=block, module=None if feeds_forward else module, factor=factor)

    def _of_pair(self, block: Any, name: str, pair: tuple[str, ...], factor: float) -> Middle:
        """What comes first is attention's, unless the names say otherwise, as they may where both read the same."""
        first, second = (n.removeprefix(name).lower() for n in pair)
        a, f = (self._modules[n] for n in pair)
        swapped = (
            _has(first, FEED_FORWARD_WORDS)
            and not _has(first, ATTENTION_WORDS)
            and _has(second, ATTENTION_WORDS)
            and not _has(second, FEED_FORWARD_WORDS)
        )
        return (
            Middle(block=block, module=f, factor=factor, before=a)
            if swapped
            else Middle(block=block, module=a, factor=factor)
        )

    def _of_given(
        self, block: Any, inside: Sequence[Call], added: dict[str, Any], x: Any, factor: float | None, limit: float
    ) -> Middle | None:
        """A module that reads x + c * a; where its output goes on with something added, that is the stream."""
        for call in inside:
            u = self._alike(call.given, x)
            if u is None or bool(self._torch.equal(u, x)):
                continue
            _, _, error = self._best({(a,): v for a, v in added.items()}, u - x, factor)
            if error > limit:
                continue
            made = self._alike(call.result, x)
            goes_on = False
            for other in inside if made is not None else ():
                v = self._alike(other.given, x)
                if other is not call and v is not None and not bool(self._torch.equal(v, made)):
                    _, _, error = self._best({(f,): w for f, w in added.items()}, v - made, factor)
                    goes_on = goes_on or error <= limit
            return Middle(block=block, module=self._modules[call.name], takes="made" if goes_on else "given")
        return None

    def _best(
        self, sums: dict[tuple[str, ...], Any], delta: Any, factor: float | None
    ) -> tuple[tuple[str, ...], float, float]:
        """The modules whose sum, times the factor (None: the one that fits best), comes nearest; the factor, and the error."""
        best: tuple[tuple[str, ...], float, float] = ((), 1.0, float("inf"))
        for names, value in sums.items():
            c = factor if factor is not None else float((delta * value).sum() / (value * value).sum())
            error = _ratio(delta - c * value, delta)
            if error < best[2]:
                best = names, c, error
        return best

    def _factor(self) -> float:
        return float(getattr(self._model.config.get_text_config(decoder=True), "residual_multiplier", None) or 1.0)

    def _wide(self, x: Any) -> Any:
        return x.reshape(-1, x.shape[-1]).double().cpu() if self._torch.is_floating_point(x) else None

    def _alike(self, value: Any, x: Any) -> Any:
        """As numbers of x's shape; None: it has another."""
        if value is None or not value.dim() or value.shape[-1] != x.shape[-1] or value.numel() != x.numel():
            return None
        return self._wide(value)

    def _refusal(self, i: int, name: str, tried: Sequence[str]) -> OptionError:
        of = f", of {len(tried)}: {', '.join(tried[:12])}" if tried else ""
        return OptionError(
            f"block {i} of {self._name} ({name}) cannot be told apart into attention and feed-forward network: no two of its "
            f"modules{of}, add up to what it adds, and none reads what one of them has added to; choose options that need neither"
        )

    # -- looking ------------------------------------------------------------------------------------------------------

    @contextmanager
    def caught(self, rows: Sequence[int], into: dict[int, Any]) -> Iterator[None]:
        """While the model runs once, on one sequence: what `inner` needs of these rows."""

        def keep(i: int, value: Any) -> None:
            first = first_tensor(self._torch, (value,))
            into[i] = first.reshape(-1, first.shape[-1])[list(rows)].float()

        def after(i: int) -> Callable[..., None]:
            return lambda _, args, result: keep(i, result)

        def before(i: int) -> Callable[..., None]:
            return lambda _, args, named: keep(i, given_tensor(self._torch, args, named))

        hooks = [
            middle.module.register_forward_pre_hook(before(i), with_kwargs=True)
            if middle.takes == "given"
            else middle.module.register_forward_hook(after(i))
            for i, middle in enumerate(self.middles)
            if middle.module is not None
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def inner(self, i: int, x: Any, kept: dict[int, Any]) -> Any:
        """The residual stream inside block i, of rows whose stream before it is x; float32."""
        middle = self.middles[i]
        if middle.module is None:
            return x.float()
        return x.float() + middle.factor * kept[i] if middle.takes == "added" else kept[i]

    @contextmanager
    def timed(self, seconds: dict[tuple[str, int], float], synchronize: Callable[[], None]) -> Iterator[None]:
        """While the model runs once: adds the seconds of its parts, which must be in there. A norm counts for what reads it."""
        last = 0.0

        def mark(part: str, i: int) -> Callable[..., None]:
            """What has passed since the last mark was this part's."""

            def passed(*_: Any) -> None:
                nonlocal last
                synchronize()
                now = perf_counter()
                seconds[part, i] += now - last
                last = now

            return passed

        hooks = [self.middles[0].block.register_forward_pre_hook(mark("embedding", 0))]
        for i, middle in enumerate(self.middles):
            end = "feed_forward"
            if middle.before is not None:
                hooks.append(middle.before.register_forward_hook(mark("feed_forward", i)))
                end = "attention"
            elif middle.module is not None and middle.takes == "added":
                hooks.append(middle.module.register_forward_hook(mark("attention", i)))
            elif middle.module is not None:
                hooks.append(middle.module.register_forward_pre_hook(mark("attention", i)))
            hooks.append(middle.block.register_forward_hook(mark(end, i)))
        try:
            synchronize()
            last = perf_counter()
            yield
            mark("head", 0)()
        finally:
            for hook in hooks:
                hook.remove()


def _has(text: str, words: Sequence[str]) -> bool:
    return any(word in text for word in words)


def _ratio(a: Any, b: Any) -> float:
    """The lengths of a's rows by those of b's: the median, since the first token of a text is often out of proportion."""
    return float((a.norm(dim=-1) / b.norm(dim=-1).clamp_min(1e-300)).median())
