"""What each picture of `fanlight show` is made of. In: a Sight. Out: a figure, or text. Knows no file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fanlight.cli.kept import follow, opened, tracked_text
from fanlight.cli.sight import FEW_TOKENS, Picture, Sight, chosen, labels
from fanlight.errors import OptionError
from fanlight.trace.options import TraceOptions

if TYPE_CHECKING:
    from fanlight.trace.looks import Attention
    from fanlight.tracing.trace import Trace

FILTERS = (
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "top_n_sigma",
    "epsilon_cutoff",
    "eta_cutoff",
    "top_a",
    "tfs",
    "top_h",
)
"""Settings that remove tokens of a row, which pictures of rows can show."""
BEAMS = 4


def mask(sight: Sight) -> Picture:
    """Of a prompt's tokens, or of so many positions."""
    from fanlight.views.mask import mask_figure
    from fanlight.views.terminal_mask import mask_text

    found: dict[str, Any] = {"window": sight.values.get("window", 3)}
    if sight.prompt is None and sight.kept is None:
        found["n"] = sight.values.get("size", 8)
    elif "size" in sight.values:
        raise OptionError("--size is of a mask without a text: leave it or the PROMPT out")
    elif sight.kept is not None:
        found["labels"] = labels(sight.kept)
    else:
        model = sight.model
        found["labels"] = [model.tokenizer.token_label(token) for token in model.prompt_ids(sight.text)]
    return Picture(lambda: mask_figure(**found, dark=sight.dark), lambda canvas: mask_text(**found, canvas=canvas))


def attention(sight: Sight) -> Picture:
    """One head, a layer, or all of them; or beside an encoder."""
    if sight.values.get("encoder"):
        return _beside_encoder(sight)
    from fanlight.views.attention import attention_figure
    from fanlight.views.terminal_attention import attention_text

    if "token" in sight.values or "encoder_model" in sight.values:
        raise OptionError("--token and --encoder-model are of a decoder beside an encoder: give --encoder with them")
    layer, head = sight.values.get("layer"), sight.values.get("head")
    trace = sight.trace(n=1, looks=_all_positions(layer, head), needs="attention")
    assert trace.attention is not None
    if head is not None and layer is None and len(trace.attention.layers) > 1:
        raise OptionError(f"--head {head} is of one layer: give --layer N with it")
    names = labels(trace)[: trace.attention.weights.shape[-1]]
    where = {"layer": layer, "head": head}
    return Picture(
        lambda: attention_figure(trace.attention, names, **where, dark=sight.dark),  # type: ignore[arg-type]
        lambda canvas: attention_text(trace.attention, names, **where, canvas=canvas),  # type: ignore[arg-type]
    )


def _all_positions(layer: int | None, head: int | None) -> TraceOptions:
    layers: Any = True if layer is None else [layer]
    return TraceOptions(attention=layers, heads=None if head is None else [head], queries="all")


def _beside_encoder(sight: Sight) -> Picture:
    from fanlight.encoding import load_encoder
    from fanlight.views.attention_pair import attention_pair_figure
    from fanlight.views.terminal_attention import attention_pair_text

    if "layer" in sight.values or "head" in sight.values:
        raise OptionError("--encoder compares the mean of all heads: leave --layer and --head out")
    encoder = load_encoder(sight.values.get("encoder_model"))
    both, names = encoder.attention(sight.text)
    trace = sight.trace(n=1, looks=_all_positions(None, None), needs="attention")
    mine: Attention | None = trace.attention
    assert mine is not None
    token = sight.values.get("token") or sight.text.split()[len(sight.text.split()) // 2]
    args = (mine, both, labels(trace)[: mine.weights.shape[-1]], list(names))
    return Picture(
        lambda: attention_pair_figure(*args, token=token, dark=sight.dark),
        lambda canvas: attention_pair_text(*args, token=token, canvas=canvas),
    )


def next_tokens(sight: Sight) -> Picture:
    """One row: what could come."""
    from fanlight.views.next_tokens import next_figure
    from fanlight.views.terminal_shapes import next_text

    row, token = sight.row()
    more: dict[str, Any] = {"n": sight.values.get("rows", 20), "chosen": token, "filters": _asked_filters(sight)}
    return Picture(lambda: next_figure(row, **more, dark=sight.dark), lambda canvas: next_text(row, canvas, **more))


def temperature(sight: Sight) -> Picture:
    """One row at several temperatures."""
    from fanlight.views.temperature import TEMPERATURES, temperature_figure
    from fanlight.views.terminal_shapes import temperature_text

    row, _ = sight.row()
    words = sight.values.get("temperatures")
    more: dict[str, Any] = {"temperatures": tuple(map(_number, words.split(","))) if words else TEMPERATURES}
    more["n"] = sight.values.get("rows", 12)
    return Picture(
        lambda: temperature_figure(row, **more, dark=sight.dark), lambda canvas: temperature_text(row, canvas, **more)
    )


def filters(sight: Sight) -> Picture:
    """The most certain and the least certain step of a text."""
    from fanlight.views.filters import filters_figure
    from fanlight.views.terminal_shapes import filters_text

    trace = sight.written(without=FILTERS)
    entropies = [record.raw_entropy for record in trace.steps]
    steps = [
        min(range(trace.n_steps), key=lambda i: entropies[i]),
        max(range(trace.n_steps), key=lambda i: entropies[i]),
    ]
    certain, uncertain = sight.rows(trace, steps)
    more: dict[str, Any] = {"filters": _asked_filters(sight), "n": sight.values.get("rows", 25)}
    return Picture(
        lambda: filters_figure(certain, uncertain, **more, dark=sight.dark),
        lambda canvas: filters_text(certain, uncertain, canvas, **more),
    )


def _asked_filters(sight: Sight) -> dict[str, Any] | None:
    """Those of the flags that remove tokens of a row; None: the picture's own."""
    return {name: sight.values[name] for name in FILTERS if name in sight.values} or None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise OptionError(f"--temperatures takes numbers with commas between: got {text!r:.40}") from None


def waterfall(sight: Sight) -> Picture:
    """One step through all processors."""
    from fanlight.views.terminal_waterfall import waterfall_text
    from fanlight.views.waterfall import waterfall_figure

    trace = sight.written()
    step = sight.step(trace)
    more: dict[str, Any] = {"n": sight.values.get("rows", 12), "context": trace.context(step)}
    record = trace.steps[step]
    if "token" in sight.values:
        more["token"] = _candidate(trace, step, sight.values["token"])
    return Picture(
        lambda: waterfall_figure(record, trace.token_label, **more, dark=sight.dark),
        lambda canvas: waterfall_text(record, trace.token_label, canvas, **more),
    )


def _candidate(trace: Trace, step: int, text: str) -> int:
    """The id of a candidate with this text."""
    ids = trace.steps[step].candidate_ids
    for token in ids:
        if text in (trace.token_text(token), trace.token_label(token)):
            return token
    some = ", ".join(repr(trace.token_text(token)) for token in ids[:5])
    raise OptionError(f"step {step} recorded no token {text!r:.40}; it has {some} and {max(0, len(ids) - 5)} more")


def ribbon(sight: Sight) -> Picture:
    """A text, coloured."""
    from fanlight.views.ribbon import ribbon_figure
    from fanlight.views.terminal_ribbon import ribbon_text

    trace = sight.trace(n=3 * FEW_TOKENS)
    more: dict[str, Any] = {
        "by": sight.values.get("by", "surprise"),
        "alternatives": sight.values.get("alternatives", 0),
    }
    return Picture(
        lambda: ribbon_figure(trace, **more, dark=sight.dark), lambda canvas: ribbon_text(trace, canvas, **more)
    )


def eos(sight: Sight) -> Picture:
    """The probability of ending."""
    from fanlight.views.ending import ending_figure
    from fanlight.views.terminal_ending import ending_text

    trace = sight.trace(n=3 * FEW_TOKENS)
    return Picture(lambda: ending_figure(trace, dark=sight.dark), lambda canvas: ending_text(trace, canvas))


def lens(sight: Sight) -> Picture:
    """What each layer would say."""
    from fanlight.views.lens import lens_figure
    from fanlight.views.terminal_lens import lens_text

    trace = sight.written(n=FEW_TOKENS // 2, looks=TraceOptions(lens=True), needs="lens")
    found, more = trace.lens, {"what": sight.values.get("what", "prob")}
    assert found is not None
    return Picture(
        lambda: lens_figure(found, chosen(trace), trace.token_label, **more, dark=sight.dark),
        lambda canvas: lens_text(found, chosen(trace), trace.token_label, canvas, **more),
    )


def contributions(sight: Sight) -> Picture:
    """What each block added."""
    from fanlight.views.contributions import contributions_figure
    from fanlight.views.terminal_contributions import contributions_text

    trace = sight.written(n=FEW_TOKENS // 2, looks=TraceOptions(contributions=True), needs="contributions")
    found, step = trace.contributions, trace.at(sight.values["step"]) if "step" in sight.values else None
    assert found is not None
    return Picture(
        lambda: contributions_figure(found, chosen(trace), step=step, dark=sight.dark),
        lambda canvas: contributions_text(found, chosen(trace), canvas, step=step),
    )


def fan(sight: Sight) -> Picture:
    """Likely continuations, by the model."""
    from fanlight.tracing.fan import fan as grow
    from fanlight.views.fan import fan_figure
    from fanlight.views.terminal_trees import fan_text

    trace = sight.kept
    if trace is None and "step" in sight.values:
        raise OptionError("--step is of a kept run: give --trace FILE with it, or a longer PROMPT")
    prompt: Any = sight.text if trace is None else trace.prompt_ids + trace.ids[: sight.step(trace)]
    sizes = {name: sight.values[name] for name in ("width", "depth", "min_prob") if name in sight.values}
    found = grow(sight.model, prompt, **sizes)
    return Picture(lambda: fan_figure(found, dark=sight.dark), lambda canvas: fan_text(found, canvas))


def beams(sight: Sight) -> Picture:
    """The tree of a search."""
    from fanlight.views.beams import beams_figure
    from fanlight.views.terminal_trees import beams_text

    if sight.kept is None:
        sight.values.setdefault("num_beams", BEAMS)
    trace = sight.trace(n=FEW_TOKENS // 2)
    search = trace.search
    if search is None:
        raise OptionError(
            f"{sight.values['trace']} was no search; give a PROMPT, or record one: fanlight generate PROMPT --num-beams 4"
            if sight.kept is not None
            else "this was no search: --num-beams must be above 1"
        )
    depth = sight.values.get("depth")
    return Picture(
        lambda: beams_figure(search, trace.token_label, max_depth=depth, dark=sight.dark),
        lambda canvas: beams_text(search, trace.token_label, canvas, max_depth=depth),
    )


def branches(sight: Sight) -> Picture:
    """Runs and what left them."""
    from pathlib import Path

    from fanlight.tracing.index import TraceIndex
    from fanlight.views.branches import branches_figure
    from fanlight.views.terminal_trees import branches_text

    if "trace" not in sight.values:
        raise OptionError("branches are of kept runs: --trace FOLDER, or --trace FILE for those beside it")
    path = Path(sight.values["trace"])
    folder, wanted = (path, None) if path.is_dir() else (path.parent, opened(str(path)).id)
    with TraceIndex(folder) as index:
        traces = _related([index.open(row) for row in index.traces()], wanted)
    return Picture(lambda: branches_figure(traces, dark=sight.dark), lambda canvas: branches_text(traces, canvas))


def _related(traces: list[Trace], wanted: str | None) -> list[Trace]:
    """Those of one tree; wanted None: those that have a parent or are one, or all if there is none."""
    parent = {trace.id: trace.header.parent.id for trace in traces if trace.header.parent is not None}

    def root(name: str) -> str:
        seen = {name}
        while name in parent and parent[name] not in seen:
            name = parent[name]
            seen.add(name)
        return name

    if wanted is not None:
        return [trace for trace in traces if root(trace.id) == root(wanted)]
    of_trees = {*parent, *parent.values()}
    return [trace for trace in traces if trace.id in of_trees] or traces


def track(sight: Sight) -> Picture:
    """A token or a text over the steps."""
    from fanlight.views.terminal_tracking import tracking_text
    from fanlight.views.tracking import tracking_figure

    what = tracked_text(sight.values)
    if sight.kept is None and "exact" in sight.values:
        raise OptionError("--exact is of a kept run: of a PROMPT, the model tells all")
    asks = sight.kept is None or sight.values.get("exact", False)
    found = follow(sight.written(), what, sight.model if asks else None)
    return Picture(
        lambda: tracking_figure(found, dark=sight.dark),
        lambda canvas: tracking_text(found, canvas),
    )


def stack(sight: Sight) -> Picture:
    """The architecture."""
    from fanlight.views.stack import stack_figure
    from fanlight.views.terminal_stack import stack_table

    described = sight.model.describe()
    return Picture(lambda: stack_figure(described, dark=sight.dark), lambda canvas: stack_table(described, canvas))
