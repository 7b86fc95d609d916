"""`fanlight batch FILE -o FILE`: every prompt of a file through the model, the results into another file."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from fanlight.cli.options import Command, Option
from fanlight.cli.output import Output
from fanlight.cli.settings import (
    COLOR,
    LOADING,
    MODEL_OPTIONS,
    check_early,
    explained,
    load_model,
    make_config,
    say_defaults,
    setting_groups,
)
from fanlight.decoding.config import DEFAULTS
from fanlight.errors import OptionError

if TYPE_CHECKING:
    from fanlight.batch import Failure, Progress, Summary
    from fanlight.batch.job import Run, Start
    from fanlight.decoding.config import GenerationConfig
    from fanlight.generation import Step

USAGE = "fanlight batch FILE -o FILE [OPTIONS]"
SOME_FAILED, INTERRUPTED = 3, 130
SPEED_ONLY = frozenset(("threads", "prefix_bytes"))
"""Of the ways to load a model, those that no text depends on."""


def run(values: dict[str, Any], words: list[str], output: Output) -> int:
    """See COMMAND."""
    has_steps = values.get("steps", False)
    defaults: dict[str, Any] = {} if has_steps else {"candidates": 0}
    early = make_config(values, **defaults)  # a mistake shows before anything is read
    check_early(values, early)
    if values.get("explain_settings"):
        explained(values, make_config(values, load_model(values, output), **defaults), output)
        return 0
    source, target = _files(words, values)
    _check_ray(values)
    from fanlight.batch import JobOptions, run_rows
    from fanlight.batch.rows import check_arrays
    from fanlight.batch.worker import checked_batch
    from fanlight.cli.batch_progress import ProgressView

    check_arrays(lambda name: getattr(early, name))
    max_batch = checked_batch(values.get("max_batch"))
    options = JobOptions(
        in_order=not values.get("as_they_come", False),
        resume=values.get("resume", False),
        overwrite=values.get("overwrite", False),
        limit=values.get("limit"),
        echo=values.get("echo", False),
        usage=values.get("usage", False),
        has_steps=has_steps,
    )
    err = sys.stderr if sys.stderr is not None and sys.stderr.isatty() else None
    quiet = values.get("quiet", False)
    with ProgressView(err, output.summary, quiet=quiet) as view, ExitStack() as stack:

        def note(text: str) -> None:
            view.wipe()
            output.note(text)

        try:
            summary = run_rows(
                _start(values, max_batch, defaults, output, stack, note),
                source,
                target,
                _settings(values),
                model=_model_facts(values),
                options=options,
                on_progress=view,
                on_note=note,
            )
        except KeyboardInterrupt:
            if view.last is None:  # nothing has begun
                raise
            view.wipe()
            output.summary(f"[stopped by Ctrl-C: {_kept(view.last)}]")
            return INTERRUPTED
        except BaseException:
            view.wipe()
            if view.last is not None and view.last.n_done:
                output.note(_kept(view.last))
            raise
    return _end(summary, early, output, quiet=quiet)


def _files(words: list[str], values: Mapping[str, Any]) -> tuple[str, str]:
    """(input, output). Errors: OptionError."""
    if not words:
        raise OptionError(
            f"the file of rows is missing: a .jsonl, .jsonl.gz or .parquet file, or - for standard input; usage: {USAGE}"
        )
    if len(words) > 1:
        raise OptionError(
            f"one file of rows is expected, {len(words)} were given, the second being {words[1]!r}; usage: {USAGE}"
        )
    if "output" not in values:
        raise OptionError(f"-o is missing: where results go, as in: fanlight batch {words[0]} -o results.jsonl")
    return words[0], values["output"]


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """What `model.settings` takes, a file of settings read."""
    from fanlight.decoding.presets import options_from_file

    found: dict[str, Any] = {"preset": values["preset"]} if "preset" in values else {}
    if "settings" in values:
        found |= options_from_file(values["settings"])
    found |= {name: values[name] for name in DEFAULTS if name in values}
    return found | ({"processors": values["order"]} if "order" in values else {})


def _model_facts(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a job can only be gone on with by the same."""
    name = values.get("model") or os.environ.get("FANLIGHT_MODEL") or "the default model"
    how = {option: values[option] for option in LOADING if option in values and option not in SPEED_ONLY}
    return {"model": os.path.realpath(name) if os.path.exists(name) else name, **how}


def _start(
    values: Mapping[str, Any],
    max_batch: int,
    defaults: Mapping[str, Any],
    output: Output,
    stack: ExitStack,
    note: Callable[[str], None],
) -> Start:
    """What makes the runner of rows: here, or on Ray, which the stack ends."""
    steps = step_of if values.get("steps") else None
    if "ray" in values:
        from functools import partial

        from fanlight.api import load
        from fanlight.batch.ray_job import RayOptions, RayRows

        how = {name: values[name] for name in LOADING if name in values and name != "threads"}
        ray_rows = RayRows(
            values["ray"],
            partial(load, values.get("model"), **how),
            max_batch=max_batch,
            steps=steps,
            options=RayOptions(actors=values.get("ray_actors"), cpus=values.get("ray_cpus")),
            on_note=note,
        )
        return stack.enter_context(ray_rows).start

    def start(base: Mapping[str, Any]) -> Run:
        from fanlight.batch import Worker

        model = load_model(values, output)
        config = make_config(values, model, **defaults)
        say_defaults(values, model, config, output)
        _say_notes(config, note)
        return Worker(model, base, max_batch, steps=steps).run

    return start


def step_of(step: Step) -> dict[str, Any]:
    """What a result tells of a step: all but what was guessed of it, which depends on what ran beside it."""
    from fanlight.cli.as_json import step_json

    return {name: value for name, value in step_json(step).items() if name != "guess"}


def _check_ray(values: Mapping[str, Any]) -> None:
    """Errors: OptionError for what does not go together."""
    if "ray" not in values:
        for name in ("ray_actors", "ray_cpus"):
            if name in values:
                raise OptionError(f"--{name.replace('_', '-')} needs --ray ADDRESS or --ray local")
    elif "threads" in values:
        raise OptionError("--threads is of this machine alone; with --ray, --ray-cpus says how many each worker has")


def _say_notes(config: GenerationConfig, note: Callable[[str], None]) -> None:
    """What was set and has no effect, as far as rows leave it so. The seed has one: rows get theirs from it."""
    from fanlight.decoding.notes import without_helpers

    for text in (*config.replace(seed=None).notes(), *without_helpers(config, assistant=False, amateur=False)):
        hint = " (add --do-sample)" if text.endswith("do_sample is false") else ""
        note(f"{text}{hint}, unless a row changes that")


# -- what is said ------------------------------------------------------------------------------------------------------


def _kept(progress: Progress) -> str:
    done = f"{progress.n_done:,} of {progress.n_rows:,} rows are done and kept"
    return f"{done}; the same command with --resume goes on with the rest"


def _end(summary: Summary, config: GenerationConfig, output: Output, *, quiet: bool) -> int:
    """Say how it went; the exit code."""
    progress = summary.progress
    if progress.n_failed and summary.failures:
        first = "; ".join(map(_failure, summary.failures))
        where = "its error is in its result" if progress.n_failed == 1 else "their errors are in their results"
        output.note(f"{_rows(progress.n_failed)} failed, {where}; {first}")
    if not quiet:
        output.summary(_closing(summary, config))
    return SOME_FAILED if progress.n_failed else 0


def _closing(summary: Summary, config: GenerationConfig) -> str:
    progress = summary.progress
    parts = [f"{_rows(progress.n_done)} in {summary.path}"]
    if progress.n_failed:
        parts[0] += f", {progress.n_failed:,} of them failed"
    if progress.n_done == progress.n_before:
        parts.append("nothing was left to do")
        return "[" + " | ".join(parts) + "]"
    if progress.n_before:
        parts.append(f"{progress.n_before:,} were there before")
    rate = f" at {progress.n_new_tokens / progress.seconds:,.0f} tok/s" if progress.seconds > 0 else ""
    parts.append(f"{progress.n_new_tokens:,} tokens{rate}")
    if progress.n_reused:
        n_all = progress.n_reused + progress.n_computed
        parts.append(f"{progress.n_reused / n_all:.0%} of {n_all:,} positions taken from the prefix cache")
    parts.append(f"{progress.seconds:.1f} s")
    if config.samples:
        parts.append(f"seed {summary.seed}")
    return "[" + " | ".join(parts) + "]"


def _failure(failure: Failure) -> str:
    where = f"line {failure.index + 1}"
    own = f" ({failure.id!r:.60})" if failure.id not in (None, str(failure.index)) else ""
    return f"{where}{own}: {failure.message.removeprefix(f'{where}: ')}"


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"


COMMAND = Command(
    usage=USAGE,
    about="""\
Run every row of FILE through the model: JSON lines (.jsonl), the same gzipped, or Parquet; - reads standard input.

  {"prompt": "Once upon a time"}
  {"id": "b", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0.7, "metadata": {"any": 1}}

A row has a prompt or messages, and may have an id, settings of its own (at the top or under "settings"; a "preset"
too), which go before the flags, and metadata, which its result repeats. Results go to the file of -o, whose ending says
its form: .jsonl, .jsonl.gz, .parquet. Every row has exactly one: a text, or the error that it met. A row's seed comes
from --seed and its id, so a text does not depend on order, batch size or interruptions.

Killed or stopped at any moment, the same command with --resume goes on where it ended. Exit code: 0; 3 if rows failed;
2 for a mistake in the command, its files or settings; 130 after Ctrl-C.""",
    groups=(
        (
            "files",
            (
                Option("output", "where results go: .jsonl, .jsonl.gz or .parquet", metavar="FILE", short="o"),
                Option("resume", "go on with the output if it is there", kind="flag"),
                Option("overwrite", "replace the output if it is there", kind="flag"),
                Option("limit", "the first N rows only; later, --resume can go on from there", kind="int", metavar="N"),
            ),
        ),
        (
            "results",
            (
                Option("as_they_come", "write results as they end, rather than in the order of the rows", kind="flag"),
                Option("echo", "repeat the prompt or the messages in each result", kind="flag"),
                Option("steps", "the account of every step in each result, as in generate --json", kind="flag"),
                Option(
                    "usage", "tokens computed and reused in each result; they depend on what ran beside it", kind="flag"
                ),
            ),
        ),
        (
            "running",
            (
                Option("max_batch", "how many rows are computed in one pass", kind="int", metavar="N", default="16"),
                Option("ray", "run on a Ray cluster: its address, auto, or local", metavar="ADDRESS"),
                Option("ray_actors", "how many models run at once (default: as many as fit)", kind="int", metavar="N"),
                Option("ray_cpus", "how many CPUs each has (default: all of a node)", kind="int", metavar="N"),
                Option("quiet", "no progress and no summary", kind="flag", short="q"),
                COLOR,
            ),
        ),
        *setting_groups(candidates="0; 20 with --steps"),
        ("model", MODEL_OPTIONS),
    ),
    run=run,
)
