"""Another way from a step of a trace on: another token, or other settings. In: a trace, a model. Out: a trace with a parent.

The steps before are the parent's; the model computes them in one pass, not token by token. Noise is a function of the position, so
that a branch with other settings differs from its parent by the settings alone. Knows no file format and no terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fanlight.errors import OptionError, TraceError
from fanlight.trace.header import Parent
from fanlight.tracing.replay import check_amateur, check_model, text_settings

if TYPE_CHECKING:
    from fanlight.tracing.trace import Trace


def branch(
    trace: Trace,
    model: Any,
    step: int,
    *,
    token: int | str | None = None,
    trace_options: Any = True,
    amateur: Any = None,
    **settings: Any,
) -> Trace:
    """Go on from a step with another token (an id, or a text of one token or more), other settings, or both.

    step: the first that may differ. trace_options: as `trace` of `Model.generate`: where to keep it, and what else to look at.
    settings: as for `Model.generate`; they count from this step on. Without max_new_tokens the text may be as long as its parent's
    settings allow. Errors: OptionError for a step that is not there, a token that is none, a search; TraceError for another model.
    """
    step = trace.at(step)
    check_model(trace, model)
    check_amateur(trace, amateur)
    config = text_settings(trace.header)
    config = model._config(config, settings)
    if config.num_beams == 1 and not config.samples and "num_return_sequences" not in settings:
        config = config.replace(num_return_sequences=1)  # that a search gave
    tokens = _tokens(token, model, trace.header.origin.n_vocab)
    if token is None and not settings:
        raise OptionError("a branch needs another token, or other settings: without either it is the same text")
    if tokens and len(tokens) == 1 and tokens[0] == trace.ids[step] and not settings:
        raise OptionError(
            f"step {step} chose {trace.token_label(tokens[0])!r} itself; a branch needs another token, or other settings"
        )
    begin = (*trace.ids[:step], *tokens)
    changes = [f"token {text!r}" for text in [model.tokenizer.decode(tokens)] if tokens]
    changes += [f"{name}={value}" for name, value in settings.items()]
    parent = Parent(id=trace.id, step=step, change=", ".join(changes))
    found = model._stream(
        trace.prompt_ids,
        config,
        None,
        amateur,
        trace=trace_options,
        prompt=trace.header.prompt,
        begin=begin,
        parent=parent,
        known=tuple(trace.steps[:step]),
    ).result()
    branched: Trace = found.trace
    return branched


def _tokens(token: int | str | None, model: Any, n_vocab: int) -> tuple[int, ...]:
    if token is None:
        return ()
    if isinstance(token, str):
        ids = tuple(model.tokenizer.encode(token, add_special=False))
        if not ids:
            raise OptionError("the token is an empty text")
        return ids
    if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < n_vocab:
        raise OptionError(f"a token is a text, or an id from 0 to {n_vocab - 1}: got {token!r:.80}")
    return (token,)


@dataclass(frozen=True, slots=True, eq=False)
class Twig:
    """A trace, and those that left it."""

    trace: Trace
    branches: tuple[Twig, ...]


def branch_tree(traces: Iterable[Trace]) -> tuple[Twig, ...]:
    """Runs and their branches, and theirs: a twig for each trace whose parent is not among them, in the order they came.

    Errors: TraceError if some are each other's parents.
    """
    every = {each.id: each for each in traces}
    below: dict[str, list[str]] = {}
    for each in every.values():
        parent = each.header.parent
        if parent is not None and parent.id in every and parent.id != each.id:
            below.setdefault(parent.id, []).append(each.id)
    grown: set[str] = set()

    def twig(name: str, path: Sequence[str]) -> Twig:
        if name in path:
            raise TraceError(
                f"the traces {' and '.join(dict.fromkeys(path))} are each other's parents; one file is damaged"
            )
        grown.add(name)
        found = sorted(below.get(name, ()), key=lambda each: every[each].header.parent.step)  # type: ignore[union-attr]
        return Twig(every[name], tuple(twig(each, (*path, name)) for each in found))

    children = {name for names in below.values() for name in names}
    roots = tuple(twig(name, ()) for name in every if name not in children)
    for name in every:
        if name not in grown:
            twig(name, ())  # raises
    return roots
