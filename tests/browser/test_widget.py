"""The widget's module in Chromium, with what stands for a notebook's model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from browser.browser import Browser
from fakes.traces import a_trace
from fanlight.views import widget

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOTEBOOK = """<!doctype html><meta charset="utf-8">
<style>* { color: red !important; } table, td { border: 9px solid red; } .t, .panel, .ribbon { display: none }</style>
<div id="cell"></div>
<script type="application/json" id="state">STATE</script>
<script type="module">
const state = JSON.parse(document.getElementById("state").textContent), heard = {};
window.saved = [];
window.model = {
  get: (name) => state[name],
  set: (name, value) => { state[name] = value; for (const f of heard["change:" + name] || []) f(); },
  on: (name, f) => (heard[name] ||= []).push(f),
  save_changes: () => window.saved.push([state.step, state.by]),
};
const module = await import(URL.createObjectURL(new Blob([MODULE], { type: "text/javascript" })));
window.clean = module.default.render({ model, el: document.getElementById("cell") });
window.shadow = document.getElementById("cell").shadowRoot;
</script>"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = Browser()
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def shown(browser: Browser, tmp_path: Path) -> Browser:
    made = widget.TraceWidget(a_trace(n_steps=17, n_prompt=4), step=3)
    state = {name: getattr(made, name) for name in ("_data", "step", "by")}
    page = NOTEBOOK.replace("STATE", json.dumps(state).replace("<", "\\u003c"))
    page = page.replace(
        "MODULE", json.dumps(made._esm if isinstance(made._esm, str) else str(made._esm)).replace("<", "\\u003c")
    )
    (tmp_path / "notebook.html").write_text(page, encoding="utf-8")
    browser.open(tmp_path / "notebook.html")
    browser.run(
        "new Promise((done) => { const look = () => (window.shadow ? done() : setTimeout(look, 10)); look(); })"
    )
    return browser


def test_it_opens_at_its_step_and_a_click_sets_the_trait(shown: Browser) -> None:
    assert shown.troubles == []
    assert shown.run("shadow.querySelector('.panel h2 small').textContent").startswith("step 3 of 17")
    shown.run("shadow.querySelectorAll('.t')[10].click()")
    assert shown.run("[model.get('step'), saved.at(-1)[0]]") == [6, 6]
    shown.run("shadow.querySelector('[data-by=rank]').click()")
    assert shown.run("model.get('by')") == "rank"
    shown.run("shadow.querySelectorAll('.t')[10].click()")
    assert shown.run("model.get('step')") is None


def test_the_trait_moves_the_widget_and_does_not_take_the_focus(shown: Browser) -> None:
    shown.run("model.set('step', 12)")
    assert shown.run("shadow.querySelector('.panel h2 small').textContent").startswith("step 12 of 17")
    assert shown.run("shadow.activeElement") is None
    shown.run("model.set('step', null)")
    assert shown.run("shadow.querySelector('.panel').hidden")


@pytest.mark.parametrize("width", [600, 1200])
def test_the_step_that_a_trait_names_can_be_seen_and_the_notebook_does_not_scroll(shown: Browser, width: int) -> None:
    shown.resize(width, 900)
    shown.run("document.body.style.paddingTop = '700px'")
    for step in (16, 0):
        shown.run(f"model.set('step', {step})")
        shown.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        span, panel, root = (
            shown.run(
                f"(() => {{ const r = shadow.querySelector('{name}').getBoundingClientRect(); return [r.top, r.bottom]; }})()"
            )
            for name in (".t.at", ".panel", ".fanlight")
        )
        assert root[0] <= span[0]
        assert span[1] <= (panel[0] if width == 600 else root[1])
    assert shown.run("scrollY") == 0


def test_styles_of_the_notebook_stay_out(shown: Browser) -> None:
    style = "getComputedStyle(shadow.querySelector('{}')).{}"
    assert shown.run(style.format(".t", "display")) == "inline"
    assert shown.run(style.format(".choices td", "borderTopWidth")) == "0px"
    assert shown.run(style.format(".t.prompt", "color")) == "rgb(91, 101, 112)"


def test_keys_move_only_where_the_focus_is_and_stay_inside(shown: Browser) -> None:
    shown.run("window.heard = 0; document.addEventListener('keydown', () => window.heard++)")
    shown.press("ArrowRight")
    assert shown.run("[model.get('step'), heard]") == [3, 1]
    shown.run("shadow.querySelector('.t.at').focus()")
    shown.press("ArrowRight")
    assert shown.run("[model.get('step'), heard]") == [4, 1]


def test_it_cleans_up_after_itself(shown: Browser) -> None:
    shown.run("clean()")
    assert shown.run("shadow.querySelectorAll('.t').length") == 0
    assert shown.troubles == []
