"""The page of a trace of 300 tokens with lens: how large it is, how long it takes to write, and to open in a headless Chromium.

Opened means: from the start of the navigation until the load event has ended, when the scripts have drawn the text, or until the
first contents are painted, whichever is later; all tokens must be there. The browser's processes are no children of this one, so
that its own work would count as a disturbance: opening is measured in plain rounds.
"""

from __future__ import annotations

import statistics
import tempfile
from importlib import import_module
from pathlib import Path

from benchmarks.harness import Goal, Outcome, progress, race, seconds
from benchmarks.lineup import Lineup

FIGURE = "report"
PROMPT, TOKENS = 14, 300
WRITE, OPEN = "seconds to write the page", "seconds to open it"
SIZE, SIZE_ALL = "MB with lens", "MB with everything"
MAX_MB, MAX_SECONDS = 3.0, 1.0
LOADED = """
(() => {
  const loaded = performance.getEntriesByType("navigation")[0].loadEventEnd;
  const painted = performance.getEntriesByType("paint").map((entry) => entry.startTime);
  return Math.max(loaded, ...painted) / 1000;
})()
"""


def run(lineup: Lineup, tokens: int = TOKENS) -> Outcome:
    """Seconds and megabytes."""
    from fanlight.trace.options import TraceOptions
    from fanlight.views.report import write_report

    prompt = list(lineup.window(0, PROMPT))
    everything = TraceOptions(lens=True, attention=True, contributions=True, norms=True, timings=True)
    with tempfile.TemporaryDirectory() as scratch:
        pages = {name: Path(scratch) / f"{name}.html" for name in ("lens", "all")}
        for name, looks in (("lens", TraceOptions(lens=True)), ("all", everything)):
            found = lineup.model.generate(prompt, do_sample=False, ignore_eos=True, max_new_tokens=tokens, trace=looks)
            trace = found.trace
            assert trace is not None
            write_report(trace, pages[name])
            if name == "lens":
                kept = trace
        samples = dict(race({WRITE: lambda turn: seconds(lambda: write_report(kept, pages["lens"]))}, lineup.rounds))
        samples[OPEN] = opened(pages["lens"], PROMPT + tokens, lineup.rounds)
        for what, name in ((SIZE, "lens"), (SIZE_ALL, "all")):
            samples[what] = [pages[name].stat().st_size / 1e6]
    goals = [
        Goal(what=SIZE, found=samples[SIZE][0], high=MAX_MB),
        Goal(what=OPEN, found=statistics.median(samples[OPEN]), high=MAX_SECONDS),
    ]
    return Outcome(figure=FIGURE, unit=f"{tokens} tokens after {PROMPT}", samples=samples, goals=goals)


def opened(page: Path, n_tokens: int, rounds: int) -> list[float]:
    """Seconds, a value a round; the first time, when the browser itself is new, is dropped."""
    browser = import_module("tests.browser.browser").Browser()
    found = []
    try:
        for turn in range(rounds + 1):
            browser.open(page)
            found.append(float(browser.run(LOADED)))
            n = browser.run("document.querySelectorAll('.t').length")
            if n != n_tokens or browser.troubles:
                raise RuntimeError(f"report: {n} tokens on the page, expected {n_tokens}; {browser.troubles}")
            progress(f"round {turn}/{rounds}")
    finally:
        browser.close()
        progress("")
    return found[1:]
