"""`fanlight trace ACTION ...`: look at kept runs, ask a folder of them, replay, branch. In: words. Out: text, files."""

from __future__ import annotations

from collections.abc import Callable
from math import exp
from typing import TYPE_CHECKING, Any, NamedTuple

from fanlight.cli.kept import BY, groups_of_settings, opened, short
from fanlight.cli.looks import LOOKS
from fanlight.cli.options import Command, Option
from fanlight.cli.output import Output
from fanlight.cli.settings import COLOR, HELPERS, MODEL_OPTIONS
from fanlight.cli.trace_again import DIFFERS, branch, replay, track, what_if
from fanlight.cli.trace_list import list_traces
from fanlight.errors import OptionError

if TYPE_CHECKING:
    from fanlight.tracing.trace import Trace

USAGE = "fanlight trace ACTION FILE [OPTIONS]"
FEW = 20


def run(values: dict[str, Any], words: list[str], output: Output) -> int:
    """See COMMAND."""
    if not words or words[0] not in ACTIONS:
        from difflib import get_close_matches

        near = get_close_matches(words[0], ACTIONS, n=1) if words else []
        hint = f"did you mean {near[0]!r}?" if near else f"there is {', '.join(ACTIONS)}"
        raise OptionError(
            f"{f'no action {words[0]!r:.80}' if words else 'an action is missing'}; {hint}; usage: {USAGE}"
        )
    name, *files = words
    action = ACTIONS[name]
    COMMAND.check_part(name, values)
    if len(files) != action.n_files:
        expected = "one file" if action.n_files == 1 else f"{action.n_files} files"
        expected = "one folder" if "FOLDER" in action.usage else expected
        raise OptionError(
            f"{name} takes {expected}, found {len(files) or 'nothing'}; usage: fanlight trace {action.usage}"
        )
    return action.run(values, files, output)


# -- looking -----------------------------------------------------------------------------------------------------------


def _show(values: dict[str, Any], files: list[str], output: Output) -> int:
    trace, canvas = opened(files[0]), output.canvas
    if "step" in values:
        return _show_step(trace, values, output)
    if "rows" in values:
        raise OptionError("--rows is of a step: give --step N with it")
    from fanlight.views.terminal_ribbon import ribbon_text

    ribbon = ribbon_text(trace, canvas, by=values.get("by", "surprise"), alternatives=values.get("alternatives", 0))
    for line in facts(trace, files[0]):
        output.line(canvas.plain(line))
    output.line(f"\n{ribbon}")
    return 0


def _show_step(trace: Trace, values: dict[str, Any], output: Output) -> int:
    from fanlight.views.terminal_steps import heading, step_window

    for name in ("by", "alternatives"):
        if name in values:
            raise OptionError(f"--{name} is of the text: leave --step out, or --{name}")
    step, canvas = trace.at(values["step"]), output.canvas
    rows = values.get("rows", FEW)
    if rows < 1:
        raise OptionError(f"--rows must be at least 1: got {rows}")
    record = trace.steps[step]
    n = trace.n_steps
    output.line(
        f"step {step} of {n} ({'the only one' if n == 1 else f'0 to {n - 1}'}), after {canvas.plain(short(trace.context(step)))!r}"
    )
    output.line(heading(canvas, two_sided=bool(record.effects)))
    window = step_window(record, trace.token_label, canvas, index=step - 1, rows=rows)  # as --step counts: from 0
    output.line(window)
    return 0


def facts(trace: Trace, file: str) -> list[str]:
    """What a trace is, a line each; first, whether something is missing."""
    header, origin, n = trace.header, trace.header.origin, trace.n_steps
    written = ", ".join(f"{k}={v}" for k, v in header.settings.items() if k != "seed") or "the defaults"
    found = [] if header.complete else [f"INCOMPLETE: {header.problem or 'the run was cut off'}", ""]
    found += [
        f"trace     {trace.id}, {header.created}, by Fanlight {origin.fanlight}",
        f"model     {origin.model} ({origin.architecture}, {origin.n_layer} layers; {origin.kernels})",
        f"prompt    {short(header.prompt or '')!r} ({_tokens(len(trace.prompt_ids))})",
        f"text      {_tokens(n)}; {'given, not written by the model' if header.is_given else header.stop}",
        f"settings  {written}" + (f"; seed {header.seed}" if header.settings.get("do_sample") else ""),
    ]
    if header.unkept:
        found.append(f"          and {', '.join(header.unkept)}, which are code and not kept: it cannot be replayed")
    if header.helpers:
        found.append(f"with      {', '.join(header.helpers)}")
    if n:
        found += _surprise(trace)
    if header.decode_seconds and not header.is_given:
        speed = f", {(n - 1) / header.decode_seconds:.0f} tok/s" if n > 1 else ""
        found.append(f"time      prefill {header.prefill_seconds:.3f} s, decode {header.decode_seconds:.3f} s{speed}")
    for name in trace.has:
        view = {"search": "beams", "lens": "lens", "attention": "attention", "contributions": "contributions"}.get(name)
        found.append(f"holds     {name}" + (f": fanlight show {view} --trace {file}" if view else ""))
    found += [f"missing   {name}: {why}" for name, why in header.missing.items()]
    if header.parent is not None:
        found.append(f"branch    of {header.parent.id} at step {header.parent.step}: {header.parent.change}")
    return found + [f"note      {note}" for note in header.notes]


def _surprise(trace: Trace) -> list[str]:
    steps = trace.steps
    ranks = ", ".join(f"{name}: {n}" for name, n in trace.rank_histogram().items() if n)
    rare = min(range(len(steps)), key=lambda i: steps[i].raw_logprob)
    wide = max(range(len(steps)), key=lambda i: steps[i].raw_entropy)
    prob = exp(steps[rare].raw_logprob)
    return [
        f"surprise  perplexity {trace.perplexity:.2f}; ranks {ranks}",
        f"          least expected: {trace.token_label(steps[rare].id)} at step {rare} ({prob:.3%}); "
        f"widest choice: step {wide} ({steps[wide].raw_entropy:.2f} nats)",
    ]


def _tokens(n: int) -> str:
    return f"{n} token{'s' if n != 1 else ''}"


def _export(values: dict[str, Any], files: list[str], output: Output) -> int:
    trace = opened(files[0])
    trace.export(files[1], values.get("kind"))
    output.summary(f"[{files[1]} written: {trace.n_steps} step{'s' if trace.n_steps != 1 else ''}]")
    return 0


def _diff(values: dict[str, Any], files: list[str], output: Output) -> int:
    from fanlight.tracing.diff import diff

    found = diff(opened(files[0]), opened(files[1]))
    output.line(str(found))
    return 0 if found.same_request and found.same_text and found.bit_equal and not found.origins else DIFFERS


# -- the command -------------------------------------------------------------------------------------------------------


class Action(NamedTuple):
    """What one word after `fanlight trace` does."""

    run: Callable[[dict[str, Any], list[str], Output], int]
    usage: str
    what: str
    about: str
    options: tuple[Option, ...] = ()
    groups: tuple[tuple[str, tuple[Option, ...]], ...] = ()
    n_files: int = 1


STEP = Option("step", "which step, from 0; negative: from the end", kind="int", metavar="N")
TOKEN = Option("token", "a text: the other token of a branch, or what is tracked", metavar="TEXT")
SETTINGS = groups_of_settings(max_new_tokens="as the trace", candidates="as the trace")
MODEL = (("model", MODEL_OPTIONS),)
WITH_AMATEUR = (("model", (*MODEL_OPTIONS, *(option for option in HELPERS if option.name == "amateur"))),)

ACTIONS: dict[str, Action] = {
    "show": Action(
        _show,
        "show FILE [--step N] [OPTIONS]",
        "what it is, and the text coloured by surprise; or one step with its candidates",
        """\
What a kept run is: its model, prompt, settings, how it ended, and its text, coloured by surprise. With --step, that
step: its candidates, and what every processor did.

  fanlight trace show run.safetensors
  fanlight trace show run.safetensors --by entropy --alternatives 3
  fanlight trace show run.safetensors --step 5""",
        (
            STEP,
            Option("rows", "candidates of a step", kind="int", metavar="N", default="20"),
            BY,
            Option("alternatives", "other tokens beneath each of the text's", kind="int", metavar="N", default="0"),
        ),
    ),
    "list": Action(
        list_traces,
        "list FOLDER [--where EXPRESSION | --traces EXPRESSION | --sql SELECT] [OPTIONS]",
        "the runs of a folder, branches beneath what they left; or the steps that a question picks",
        """\
The kept runs of a folder, branches beneath the run that they left. With --where, steps; with --traces, some of the
runs. Expressions are SQL that may only read. An index in the folder (.fanlight-index.sqlite) is kept up to date.

  fanlight trace list runs/
  fanlight trace list runs/ --where "entropy > 4 and rank > 0"
  fanlight trace list runs/ --where "token = ' not'" --order-by "surprise DESC" --limit 50
  fanlight trace list runs/ --traces "n_steps > 20 and settings ->> 'top_p' < 0.9"
  fanlight trace list runs/ --sql "SELECT stop, avg(perplexity) FROM traces GROUP BY stop"

of a step: trace, file, step, token, token_id, position, raw_prob, final_prob, surprise, rank (0: the model's first),
  final_rank, entropy, final_entropy, margin, n_kept, eos_prob, tail_prob, drafter, guess_right; and all of its run's
of a run: id, file, model, fingerprint, created, prompt, text, stop, n_prompt, n_steps, seed, complete, is_given,
  parent, parent_step, settings, mean_surprise, perplexity, mean_entropy, first_share, prefill_seconds, decode_seconds,
  looks""",
        (
            Option("where", "which steps, as SQL: entropy > 4 and rank > 0", metavar="EXPRESSION"),
            Option("steps", "steps, all of them", kind="flag"),
            Option("traces", "which runs, as SQL: n_steps > 20", metavar="EXPRESSION"),
            Option("sql", "a whole SELECT over the tables `traces` and `steps`", metavar="SELECT"),
            Option("order_by", "by what, as SQL: entropy DESC", metavar="COLUMN"),
            Option("limit", "rows at most", kind="int", metavar="N", default="20 steps, all runs"),
            Option("json", "a JSON list of objects, with every column", kind="flag"),
        ),
    ),
    "export": Action(
        _export,
        "export FILE TO [--kind KIND]",
        "as .json, .csv or .parquet",
        """\
Write a kept run as a file that other programs read: JSON holds everything, CSV a row a step, Parquet a row a step
with its candidates as lists.

  fanlight trace export run.safetensors run.json
  fanlight trace export run.safetensors run.parquet""",
        (Option("kind", "the format", choices=("json", "csv", "parquet"), default="as TO ends"),),
        n_files=2,
    ),
    "diff": Action(
        _diff,
        "diff FILE FILE",
        "what differs; exit code 1 if something does",
        """\
Compare two kept runs: what was asked, what computed it, where the texts part, and how far apart the distributions
were until there. The exit code is 0 if nothing differs, and 1 if something does.

  fanlight trace diff run.safetensors run.branch-1.safetensors""",
        n_files=2,
    ),
    "replay": Action(
        replay,
        "replay FILE [--any-model] [OPTIONS]",
        "write it again, and compare token for token; exit code 1 if it differs",
        """\
Write the text again, with the same model, settings and noise, and compare token for token and number for number. The
exit code is 0 if all tokens are the same, and 1 if one is not. A model whose files are others is refused without
--any-model.

  fanlight trace replay run.safetensors
  fanlight trace replay run.safetensors --any-model --model other.gguf""",
        (Option("any_model", "with another model than wrote it, of the same vocabulary", kind="flag"),),
        WITH_AMATEUR,
    ),
    "what-if": Action(
        what_if,
        "what-if FILE SETTINGS",
        "what other settings would have chosen at each step, without the model",
        """\
Decide every step of a kept run again under other settings, with the same noise, from what the run recorded: no model
is needed. The first step where the texts part is marked; steps that the record cannot decide are called open.

  fanlight trace what-if run.safetensors --top-p 0.8
  fanlight trace what-if run.safetensors --do-sample --temperature 1.2 --seed 7""",
        (),
        SETTINGS,
    ),
    "branch": Action(
        branch,
        "branch FILE --step N [--token TEXT] [SETTINGS] [-o FILE]",
        "go on from a step with another token, or with other settings",
        """\
Go on from a step of a kept run with another token, other settings, or both. What stands before the step is shared;
the branch is a run of its own that knows its parent: `fanlight trace list` and `fanlight show branches` draw the
tree.

  fanlight trace branch run.safetensors --step 5 --token " not"
  fanlight trace branch run.safetensors --step 5 --top-p 0.8 --seed 7 -o other.safetensors""",
        (
            STEP,
            TOKEN,
            Option("output", "where the branch is kept", metavar="FILE", short="o", default="beside the trace"),
            *LOOKS,
        ),
        (*SETTINGS, *WITH_AMATEUR),
    ),
    "track": Action(
        track,
        "track FILE --token TEXT [--exact]",
        "the probability of a token over the text",
        """\
How likely a token, or a text, was at each step. A kept run holds the most probable tokens of each step; of others it
knows the most that they can have had. With --exact, the model computes all of them.

  fanlight trace track run.safetensors --token " not"
  fanlight trace track run.safetensors --token " the cat" --exact""",
        (TOKEN, Option("exact", "compute with the model what the trace does not hold", kind="flag")),
        MODEL,
    ),
}


def _part(name: str, action: Action) -> Command:
    groups = ((name, (*action.options, COLOR)), *action.groups)
    return Command(usage=f"fanlight trace {action.usage}", about=action.about, groups=groups, run=run)


def _own(*names: str) -> tuple[Option, ...]:
    """The options of some actions, each once."""
    return tuple(dict.fromkeys(option for name in names for option in ACTIONS[name].options))


COMMAND = Command(
    usage=USAGE,
    about="Runs that `fanlight generate PROMPT --trace FILE` kept.\n\n"
    + "\n".join(f"  {name:<9} {action.what}" for name, action in ACTIONS.items())
    + "\n\n`fanlight trace ACTION --help` tells more of one of them, with examples. Files: docs/traces_format.md.",
    groups=(
        ("show", (*_own("show"), COLOR)),
        ("list", _own("list")),
        ("export, replay, branch, track", tuple(o for o in _own("export", "replay", "branch", "track") if o != STEP)),
        *SETTINGS,
        *WITH_AMATEUR,
    ),
    run=run,
    parts={name: _part(name, action) for name, action in ACTIONS.items()},
)
