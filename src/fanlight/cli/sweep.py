"""`fanlight sweep PROMPTS --grid "temperature=0.5,0.8"`: a grid of settings over many prompts, measured, resumable."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from fanlight.cli.batch import SOME_FAILED
from fanlight.cli.compare import PICTURES, base_of, check_file, wide_canvas
from fanlight.cli.options import Command, Option
from fanlight.cli.output import Output
from fanlight.cli.settings import COLOR, MODEL_OPTIONS, check_early, load_model, say_defaults, setting_groups
from fanlight.errors import OptionError

if TYPE_CHECKING:
    from fanlight.comparing.sweep_records import Sweep

USAGE = "fanlight sweep PROMPTS.jsonl|.txt --grid OPTION=VALUE,VALUE [--grid ...] -o FILE.jsonl [OPTIONS]"
DIVERSITIES = ("self-bleu", "distinct-1", "distinct-2", "distinct-3")
REDRAW_SECONDS, LINE_SECONDS = 0.2, 30.0
INTERRUPTED = 130


def run(values: dict[str, Any], words: list[str], output: Output) -> int:
    """See COMMAND."""
    from fanlight.comparing.prompts import read_prompts
    from fanlight.comparing.settings import MOST_SAMPLES, checked_count, resolve
    from fanlight.comparing.sweep import MAX_BATCH, points_of, read_grid, sweep

    if values.get("json"):
        output.notes = []
    if len(words) != 1:
        found = f"{len(words)} words" if words else "none"
        raise OptionError(f"one file of prompts is expected, found {found}; usage: {USAGE}")
    if "grid" not in values:
        raise OptionError(f"the grid is missing: --grid temperature=0.5,0.8; usage: {USAGE}")
    samples = checked_count("--samples", values.get("samples", 1), MOST_SAMPLES)
    diversity = values["diversity"].replace("-", "_") if "diversity" in values else None
    if diversity == "self_bleu" and samples < 2:
        raise OptionError("--diversity self-bleu needs --samples of at least 2: it says how much samples are alike")
    check_file("picture", values, PICTURES)
    if "dark" in values and "picture" not in values:
        raise OptionError("--dark is for --picture FILE")
    out = _out(values)
    grid, base = read_grid(values["grid"]), base_of(values)
    for setting in resolve(points_of(grid), base):  # a mistake shows before the model is read
        check_early(values, setting.config)
    prompts = read_prompts(words[0])
    model = load_model(values, output)
    say_defaults(values, model, resolve(points_of(grid), base, model.defaults)[0].config, output)
    if values.get("overwrite"):
        out.unlink(missing_ok=True)
    with ProgressLine(sys.stderr) as progress:
        try:
            result = sweep(
                model,
                prompts,
                grid,
                samples=samples,
                seed=values.get("seed"),
                out=out,
                resume=values.get("resume", False),
                max_batch=values.get("max_batch", MAX_BATCH),
                progress=progress,
                preset=base.preset,
                file=base.file,
                **base.options,
            )
        except KeyboardInterrupt:
            progress.clear()
            output.note(f"interrupted; {out} has what was made: the same command with --resume goes on")
            return INTERRUPTED
    for note in result.notes:
        output.note(note)
    _show(result, values, diversity, output)
    return SOME_FAILED if result.n_failed else 0


def _out(values: dict[str, Any]) -> Path:
    if "out" not in values:
        raise OptionError("-o FILE.jsonl is missing: where the texts go, and what --resume goes on from")
    if values.get("resume") and values.get("overwrite"):
        raise OptionError("--resume and --overwrite exclude each other")
    out = Path(values["out"])
    if out.exists() and not (values.get("resume") or values.get("overwrite")):
        raise OptionError(f"{out}: is there already; --resume goes on with it, --overwrite begins anew")
    if not out.parent.is_dir():
        raise OptionError(f"{out}: there is no folder {str(out.parent)!r}; make it first")
    return out


def _show(found: Sweep, values: dict[str, Any], diversity: str | None, output: Output) -> None:
    from fanlight.views.sweep_table import sweep_table

    if "picture" in values:
        from fanlight.views.figures import save
        from fanlight.views.frontier import frontier

        save(frontier(found, diversity=diversity, dark=values.get("dark", False)), values["picture"])
    if values.get("json"):
        from fanlight.cli.as_json import dumps

        output.line(dumps({**found.as_dict(diversity), "notes": output.notes}))
        return
    output.line(sweep_table(found, wide_canvas(output), diversity=diversity))
    if "picture" in values:
        output.summary(f"[{values['picture']} written]")
    there = f", {found.n_texts - found.n_new} were there" if found.n_new < found.n_texts else ""
    rate = f" at {found.n_new_tokens / found.seconds:.0f} tok/s" if found.n_new and found.seconds > 0 else ""
    output.summary(
        f"[{found.n_new} texts in {found.seconds:.1f} s{rate}{there} | seed {found.seed} | all texts in {found.path}]"
    )


class ProgressLine:
    """Texts made so far, drawn again in its place on a terminal; elsewhere a line now and then. Cleared at the end."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._is_terminal = stream is not None and stream.isatty()
        self._started = self._drawn = time.monotonic()
        self._first = -1
        self._shown = False

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *error: object) -> None:
        self.clear()

    def __call__(self, done: int, total: int, tokens: int) -> None:
        now = time.monotonic()
        if self._first < 0:
            self._first, self._started, self._drawn = done, now, now
        if now - self._drawn < (REDRAW_SECONDS if self._is_terminal else LINE_SECONDS):
            return
        self._drawn = now
        text = progress_text(done, total, tokens, done - self._first, now - self._started)
        self._say(f"\r{text[: self._columns() - 1]}\x1b[K" if self._is_terminal else f"{text}\n")
        self._shown = True

    def clear(self) -> None:
        """Wipe it out."""
        if self._shown and self._is_terminal:
            self._say("\r\x1b[K")
        self._shown = False

    def _columns(self) -> int:
        try:
            return max(20, os.get_terminal_size(self._stream.fileno() if self._stream else 2).columns)
        except (OSError, ValueError):
            return 80

    def _say(self, text: str) -> None:
        try:
            if self._stream is not None:
                self._stream.write(text)
                self._stream.flush()
        except (OSError, ValueError):
            self._stream = None  # nobody looks any more; the sweep goes on


def progress_text(done: int, total: int, tokens: int, new: int, seconds: float) -> str:
    """ "36 of 144 texts (25%), 82 tok/s, 1:09 left"."""
    text = f"{done:,} of {total:,} texts ({done / total:.0%})"
    if new and seconds > 0:
        minutes, rest = divmod(round((total - done) * seconds / new), 60)
        hours, minutes = divmod(minutes, 60)
        left = f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
        text += f", {tokens / seconds:.0f} tok/s, {left} left"
    return text


COMMAND = Command(
    usage=USAGE,
    about="""\
Every setting of a grid on every prompt: perplexity, distinct-n, Self-BLEU, repetition, length and stop reasons of each
setting, and which settings no other betters in both quality and diversity.

PROMPTS is a .txt file with a prompt a line, or .jsonl with texts, {"id": ..., "prompt": ...} or {"messages": [...]}.
Every text goes to the file of -o as soon as it is made. After a kill, the same command with --resume goes on; nothing
is lost and nothing made twice. Where some texts fail, the measures are of the others, and the exit code is 3. Other
flags are common to all settings.""",
    groups=(
        (
            "sweep",
            (
                Option("grid", "an axis: an option (or preset) and its values", metavar="OPTION=V,V", many=True),
                Option(
                    "samples", "texts of each prompt at each point that draws", kind="int", metavar="N", default="1"
                ),
                Option("out", "the file that gets every text, a JSON line each", metavar="FILE", short="o"),
                Option("resume", "go on with that file", kind="flag"),
                Option("overwrite", "begin that file anew", kind="flag"),
                Option("max_batch", "texts in one pass", kind="int", metavar="N", default="16"),
            ),
        ),
        (
            "output",
            (
                Option(
                    "picture", "perplexity against diversity, the frontier marked: .png, .svg, .pdf", metavar="FILE"
                ),
                Option(
                    "diversity",
                    "what the frontier is of",
                    choices=DIVERSITIES,
                    default="self-bleu from 2 samples, else distinct-2",
                ),
                Option("dark", "light on dark ground, in the picture", kind="flag"),
                Option("json", "one JSON object with all measures and their errors", kind="flag"),
                COLOR,
            ),
        ),
        *setting_groups(candidates="1"),
        ("model", MODEL_OPTIONS),
    ),
    run=run,
)
