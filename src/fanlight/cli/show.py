"""`fanlight show VIEW [PROMPT | --trace FILE] [-o FILE]`: pictures. In: words. Out: a file, or text."""

from __future__ import annotations

from typing import Any

from fanlight.cli.compare import PAGES, PICTURES, check_file, wide_canvas
from fanlight.cli.kept import groups_of_settings
from fanlight.cli.options import Command, Option
from fanlight.cli.output import Output, read_prompt
from fanlight.cli.pictures import FILTERS as FILTERS_OF_A_ROW
from fanlight.cli.settings import COLOR, MODEL_OPTIONS, setting_options
from fanlight.cli.showing import TRACE, VIEWS, View
from fanlight.cli.sight import FEW_TOKENS, Sight
from fanlight.errors import OptionError

USAGE = "fanlight show VIEW [PROMPT | --trace FILE] [-o FILE] [OPTIONS]"


def run(values: dict[str, Any], words: list[str], output: Output) -> int:
    """See COMMAND."""
    name, prompt = _asked(words, output)
    view, target = VIEWS[name], values.get("output")
    COMMAND.check_part(name, values)
    check_file("output", values, (*PICTURES, *PAGES) if name == "ribbon" else PICTURES)
    is_page = target is not None and target.lower().endswith(PAGES)
    if "dark" in values and (target is None or is_page):
        raise OptionError(
            "--dark is for a picture: give -o FILE.png with it" + (" (a page has both)" if is_page else "")
        )
    if prompt is not None and "trace" in values:
        raise OptionError("give a PROMPT or --trace FILE, not both")
    if prompt is not None and "PROMPT" not in view.takes:
        raise OptionError(f"{name} takes no PROMPT, found {prompt!r:.60}; usage: {view.usage(name)}")
    sight = Sight(values, prompt, output)
    sight.check(FILTERS_OF_A_ROW if name in ("next", "filters") else ())
    if target is not None and is_page:
        _page(sight, target)
    else:
        picture = view.make(sight)
        if target is None:
            output.line(picture.text(wide_canvas(output)))
        else:
            from fanlight.views.figures import save

            save(picture.figure(), target)
    if "model" in values and not sight.has_model:
        output.note("--model had no effect: this picture needs the trace alone")
    if target is not None:
        output.summary(f"[{target} written]")
    return 0


def _asked(words: list[str], output: Output) -> tuple[str, str | None]:
    """The view, and the prompt. Errors: OptionError."""
    if not words or words[0] not in VIEWS:
        from difflib import get_close_matches

        close = get_close_matches(words[0], VIEWS, 1) if words else []
        hint = f"did you mean {close[0]!r}?" if close else f"there is {', '.join(VIEWS)}"
        raise OptionError(f"{f'no view {words[0]!r:.40}' if words else 'a view is missing'}; {hint}")
    name, *rest = words
    return name, read_prompt(rest, output, VIEWS[name].usage(name)) if rest else None


def _page(sight: Sight, target: str) -> None:
    """The ribbon as a page."""
    from fanlight.views.figures import written_whole
    from fanlight.views.ribbon_html import ribbon_html

    trace = sight.trace(n=3 * FEW_TOKENS)
    if sight.values.get("alternatives"):
        raise OptionError("a page shows other tokens when one is pointed at: leave --alternatives out")
    page = ribbon_html(trace, by=sight.values.get("by", "surprise"))
    with written_whole(target) as part:
        part.write_text(page, encoding="utf-8")


# -- the command -------------------------------------------------------------------------------------------------------


OUTPUT = (
    Option("output", "a picture: .png, .svg or .pdf; of ribbon a page too: .html", metavar="FILE", short="o"),
    Option("dark", "light on dark ground, in a picture", kind="flag"),
    COLOR,
)
SETTINGS = groups_of_settings(candidates="20", max_new_tokens="1 to 72, by the picture")
FILTERS = (("filters to show", tuple(option for option in setting_options() if option.name in FILTERS_OF_A_ROW)),)
MODEL = (("model", MODEL_OPTIONS),)


def _part(name: str, view: View) -> Command:
    own = (*view.options, *((TRACE,) if "--trace" in view.takes else ()))
    settings = {"all": SETTINGS, "filters": FILTERS}.get(view.settings, ())
    model = () if name == "branches" else MODEL
    groups = (("output", OUTPUT), *(((name, own),) if own else ()), *settings, *model)
    return Command(usage=view.usage(name), about=view.about, groups=groups, run=run, max_words=2)


COMMAND = Command(
    usage=USAGE,
    about="Pictures of a prompt, or of a run that `fanlight generate PROMPT --trace FILE` kept; without -o, as text.\n\n"
    + "\n".join(f"  {name:<14} {view.what}" for name, view in VIEWS.items())
    + "\n\n`fanlight show VIEW --help` tells more of one of them, with examples.",
    groups=(
        ("output", OUTPUT),
        (
            "what to show",
            (
                TRACE,
                *{o.name: o for view in reversed(VIEWS.values()) for o in view.options}.values(),
            ),
        ),
        *SETTINGS,
        *MODEL,
    ),
    run=run,
    max_words=2,
    parts={name: _part(name, view) for name, view in VIEWS.items()},
)
