"""`fanlight compare PROMPT --with SETTING --with SETTING`: what several settings write, side by side, from one batched run."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fanlight.cli.options import Command, Option
from fanlight.cli.output import Output, read_prompt
from fanlight.cli.settings import COLOR, MODEL_OPTIONS, check_early, load_model, say_defaults, setting_groups
from fanlight.decoding.config import DEFAULTS
from fanlight.errors import OptionError

if TYPE_CHECKING:
    from fanlight.comparing.records import Comparison
    from fanlight.comparing.settings import Base, Setting
    from fanlight.views.terminal import Canvas

USAGE = "fanlight compare PROMPT --with SETTING [--with SETTING ...] [OPTIONS]"
PICTURES, PAGES = (".png", ".svg", ".pdf"), (".html", ".htm")
WIDEST = 240  # columns


def run(values: dict[str, Any], words: list[str], output: Output) -> int:
    """See COMMAND."""
    from fanlight.comparing.run import compare_settings
    from fanlight.comparing.settings import MOST_SAMPLES, checked_count, read_specs, resolve

    if values.get("json"):
        output.notes = []
    if "with" not in values:
        raise OptionError(f"a setting is missing: --with greedy --with temperature=0.7,top_p=0.92; usage: {USAGE}")
    samples = checked_count("--samples", values.get("samples", 1), MOST_SAMPLES)
    check_file("picture", values, PICTURES)
    check_file("html", values, PAGES)
    if "dark" in values and "picture" not in values:
        raise OptionError("--dark is for --picture FILE; a page of --html has both")
    specs, base = read_specs(values["with"]), base_of(values)
    for setting in resolve(specs, base):  # a mistake shows before the model is read
        check_early(values, setting.config)
    if values.get("explain_settings"):
        _explain(resolve(specs, base, load_model(values, output).defaults), output)
        return 0
    text = read_prompt(words, output, USAGE)
    model = load_model(values, output)
    settings = resolve(specs, base, model.defaults)
    say_defaults(values, model, settings[0].config, output)
    prompt: Any = [{"role": "user", "content": text}] if values.get("chat") else text
    found = compare_settings(
        model, prompt, settings, samples=samples, seed=values.get("seed"), max_batch=values.get("max_batch")
    )
    if values.get("chat"):
        found = replace(found, prompt=text)
    for note in found.notes:
        output.note(note)
    _show(found, values, output)
    return 0


def base_of(values: dict[str, Any]) -> Base:
    """What the flags say, which all settings share. Errors: OptionError."""
    from fanlight.comparing.settings import Base

    given = {name: values[name] for name in DEFAULTS if name in values and name != "seed"}
    if "order" in values and "processors" in values:
        raise OptionError("--order and --processors are the same: give one of them")
    if "order" in values:
        given["processors"] = values["order"]
    return Base(preset=values.get("preset"), file=values.get("settings"), options=given)


def check_file(name: str, values: dict[str, Any], kinds: tuple[str, ...]) -> None:
    """Errors: OptionError if the file that is to be written has another ending, before anything is computed."""
    if name in values and not values[name].lower().endswith(kinds):
        raise OptionError(f"--{name} takes a file that ends in {', '.join(kinds)}: got {values[name]!r:.100}")


def wide_canvas(output: Output) -> Canvas:
    """As wide as the terminal is: columns of text need room."""
    canvas = output.canvas
    columns = shutil.get_terminal_size((canvas.width, 24)).columns if output.is_terminal else canvas.width
    return replace(canvas, width=max(canvas.width, min(WIDEST, columns)))


def _explain(settings: tuple[Setting, ...], output: Output) -> None:
    for i, setting in enumerate(settings):
        output.line(f"{'' if i == 0 else chr(10)}--- {setting.label}\n{setting.config.explain()}")


def _show(found: Comparison, values: dict[str, Any], output: Output) -> None:
    from fanlight.views.comparison import closing_line, comparison_table, settings_lines, texts_beside

    if "html" in values:
        from fanlight.views.comparison_html import comparison_page, save_page

        save_page(comparison_page(found), values["html"])
    if "picture" in values:
        from fanlight.views.comparison_figure import comparison_figure
        from fanlight.views.figures import save

        save(comparison_figure(found, dark=values.get("dark", False)), values["picture"])
    if values.get("json"):
        from fanlight.cli.as_json import config_json, dumps

        data = found.as_dict()
        for row, variant in zip(data["variants"], found.variants, strict=True):
            row["config"] = config_json(variant.config)
        output.line(dumps({**data, "notes": output.notes}))
        return
    canvas = wide_canvas(output)
    for block in (texts_beside(found, canvas), comparison_table(found, canvas), settings_lines(found, canvas)):
        output.line(block + "\n")
    for name in ("html", "picture"):
        if name in values:
            output.summary(f"[{values[name]} written]")
    output.summary(closing_line(found))


COMMAND = Command(
    usage=USAGE,
    about="""\
Continue PROMPT under several settings in one batched run, with the same noise: texts side by side with the token at
which each leaves the first one's marked, and their measures. - reads the prompt from standard input.

A SETTING is a list of parts with commas between: a preset's name (or preset:NAME), file:PATH, option=value, a switch.
    --with greedy --with temperature=0.7,top_p=0.92 --with preset:creative,top_k=30 --with mild@file:my.toml
LABEL@ before it names it. Commas inside quotes or brackets belong to a value: stop_strings=["a","b,c"]. `base` is the
common options alone. All other flags are common to all settings; a setting goes before them. Where a setting has an
option that counts for draws alone, such as temperature, tokens are drawn.""",
    groups=(
        (
            "comparing",
            (
                Option("with", "a setting; the first is the baseline", metavar="SETTING", many=True),
                Option("samples", "how many texts of each setting that draws", kind="int", metavar="N", default="1"),
                Option("chat", "PROMPT is a message, and the texts are answers to it", kind="flag"),
                Option("max_batch", "texts in one pass", kind="int", metavar="N", default="all, up to 32"),
            ),
        ),
        (
            "output",
            (
                Option("html", "a page that works from disk, with every token's probabilities", metavar="FILE"),
                Option(
                    "picture", "the texts as strips of tokens, with the measures: .png, .svg or .pdf", metavar="FILE"
                ),
                Option("dark", "light on dark ground, in the picture", kind="flag"),
                Option("json", "one JSON object with everything", kind="flag"),
                COLOR,
            ),
        ),
        *setting_groups(candidates="5"),
        ("model", MODEL_OPTIONS),
    ),
    run=run,
)
