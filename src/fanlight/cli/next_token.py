"""`fanlight next PROMPT`: what could come next, under several temperatures, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fanlight.cli.options import Command, Option
from fanlight.cli.output import Output, read_prompt
from fanlight.cli.settings import COLOR, MODEL_OPTIONS, ORDER, load_model, make_config, setting_options
from fanlight.decoding.config import FILTERS as FILTER_GROUP
from fanlight.decoding.config import OPTIONS, PENALTIES
from fanlight.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanlight.api import Step
    from fanlight.decoding.config import GenerationConfig

USAGE = "fanlight next PROMPT [OPTIONS]"
TEMPERATURES = (0.5, 0.7, 1.0, 1.5)
TOP = 10
SHARE = 0.9
"""The table counts how few tokens hold this much of the probability."""
FILTERS = (
    *(name for name, option in OPTIONS.items() if option.group in (FILTER_GROUP, PENALTIES)),
    *("dynatemp_range", "dynatemp_exponent", "smoothing_factor", "smoothing_curve", "processors"),
)


def run(values: dict[str, Any], words: list[str], output: Output) -> int:
    """See COMMAND."""
    as_json = values.get("json", False)
    if as_json:
        output.notes = []
    temperatures = values.get("temperatures", TEMPERATURES)
    if 0 in temperatures:
        raise OptionError("--temperatures must be above 0: at 0 there is no distribution, only the most probable token")
    top = values.get("top", TOP)
    if top < 1:
        raise OptionError(f"--top must be a whole number of at least 1: got {top}")
    given = {name: value for name, value in values.items() if name in (*FILTERS, ORDER.name)}
    common = {"do_sample": True, "top_k": 0, "candidates": top, **given}
    configs = [make_config({**common, "temperature": temperature}) for temperature in temperatures]
    prompt = read_prompt(words, output, USAGE)
    model = load_model(values, output)
    if not prompt:
        output.note(f"the prompt is empty: starting from {model.tokenizer.token_label(model.prompt_ids(prompt)[0])}")
    counting = (
        [] if any(config.top_p < 1 for config in configs) else [config.replace(top_p=SHARE) for config in configs]
    )
    steps = model.next_token(prompt, [*configs, *counting])  # one forward pass for all
    steps, counts = steps[: len(configs)], [step.record.n_kept for step in steps[len(configs) :]]
    if as_json:
        return _as_json(configs, steps, counts, output, model.name, prompt, list(model.prompt_ids(prompt)))
    from fanlight.views.terminal_next import Column, next_table

    per_step: Sequence[int | None] = counts or [None] * len(steps)
    columns = [Column(f"{t:g}", step.record, n) for t, step, n in zip(temperatures, steps, per_step, strict=True)]
    output.write_text(_shown(prompt) + "\n\n", "dim")
    output.line(next_table(columns, model.tokenizer.token_label, output.canvas, option="temperature", rows=top))
    return 0


def _shown(prompt: str) -> str:
    """The end of the prompt, on one line."""
    line = " ".join(prompt.split("\n"))
    return line if len(line) <= 76 else "... " + line[-72:]


def _as_json(
    configs: Sequence[GenerationConfig],
    steps: Sequence[Step],
    counts: Sequence[int],
    output: Output,
    name: str,
    prompt: str,
    prompt_ids: list[int],
) -> int:
    from fanlight.cli.as_json import config_json, dumps, record_json

    found = []
    for i, (config, step) in enumerate(zip(configs, steps, strict=True)):
        record = record_json(step.record, [candidate.text for candidate in step.candidates])
        counted = {"n_for_90_percent": counts[i]} if counts else {}
        found.append({"temperature": config.temperature, "config": config_json(config), **counted, **record})
    head = {"model": name, "prompt": prompt, "prompt_ids": prompt_ids, "notes": output.notes}
    output.line(dumps({**head, "temperatures": found}))
    return 0


COMMAND = Command(
    usage=USAGE,
    about="""\
Show the most probable next tokens after PROMPT under several temperatures, from one forward pass; - reads the
prompt from standard input. All bars are to one scale. Below: the entropy, and how few tokens hold 90 % of the
probability. With filters, the tokens they remove are marked as cut.""",
    groups=(
        (
            "table",
            (
                Option(
                    "temperatures", "the columns", kind="float", metavar="T,T,...", many=True, default="0.5,0.7,1.0,1.5"
                ),
                Option("top", "how many rows", kind="int", metavar="N", default=str(TOP)),
                Option("json", "one JSON object with everything", kind="flag"),
                COLOR,
            ),
        ),
        (
            "settings for all columns",
            (*(option for option in setting_options(top_k="0") if option.name in FILTERS), ORDER),
        ),
        ("model", MODEL_OPTIONS),
    ),
    run=run,
)
