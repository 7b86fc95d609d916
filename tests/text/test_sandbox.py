"""Templates that want too much: each ends soon, with an error, and without the memory it asked for."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from fanlight.errors import TokenizerError
from fanlight.text.chat import ChatTemplate

CHAT = [{"role": "user", "content": "hello"}]
DOUBLING = "{%% set ns = namespace(x='ab', l=[1]) %%}{%% for i in range(50) %%}%s{%% endfor %%}"

GREEDY = {
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "loops over one list": "{% set l = range(3000) | list %}{% for i in l %}{% for j in l %}{% endfor %}{% endfor %}",
    "loops over a filter": "{% for i in range(999) %}{% for j in range(99999) | map('int') %}{% endfor %}{% endfor %}",
    "long range": "{{ range(10 ** 9) | list }}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "product of numbers": DOUBLING.replace("x='ab'", "x=99") % "{% set ns.x = ns.x * ns.x %}",
    "product": "{{ 'a' * 10 ** 9 }}",
    "product, constant": "{{ 'a' * 1000000000 }}",
    "product of a list": "{{ 1000000000 * [1] }}",
    "doubling ~": DOUBLING % "{% set ns.x = ns.x ~ ns.x %}",
    "doubling ~ inside": DOUBLING % "{% set ns.x = (ns.x ~ ns.x) | trim %}",
    "doubling +": DOUBLING % "{% set ns.x = ns.x + ns.x %}",
    "doubling a list": DOUBLING % "{% set ns.l = ns.l + ns.l %}",
    "doubling %": DOUBLING % "{%% set ns.x = '%%s%%s' %% (ns.x, ns.x) %%}".replace("%%", "%"),
    "doubling format filter": DOUBLING % "{% set ns.x = '%s%s' | format(ns.x, ns.x) %}",
    "doubling format method": DOUBLING % "{% set ns.x = '{}{}'.format(ns.x, ns.x) %}",
    "doubling replace filter": DOUBLING % "{% set ns.x = ns.x | replace('a', ns.x) %}",
    "doubling replace method": DOUBLING % "{% set ns.x = ns.x.replace('a', ns.x) %}",
    "doubling join filter": DOUBLING % "{% set ns.x = [ns.x, ns.x] | join(ns.x) %}",
    "doubling join method": DOUBLING % "{% set ns.x = ns.x.join([ns.x, ns.x]) %}",
    "doubling set block": DOUBLING % "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}",
    "doubling json": DOUBLING % "{% set ns.x = [ns.x, ns.x] | tojson %}",
    "width of a method": "{{ 'a'.center(10 ** 9) }}{{ 'a'.zfill(10 ** 9) }}",
    "width of a filter": "{{ 'a' | center(1000000000) }}",
    "width of %": "{{ '%1000000000d' % 1 }}",
    "width of % from an argument": "{{ '%*d' % (1000000000, 1) }}",
    "width of format": "{{ '{:>1000000000}'.format(1) }}",
    "width of format from an argument": "{{ '{:>{}}'.format(1, 1000000000) }}",
    "tabs": "{{ '\t'.expandtabs(10 ** 9) }}",
    "indent": "{{ 'a\n' | indent(10 ** 9) }}",
    "indent of json": "{{ messages | tojson(indent=1000000000) }}",
    "batch": "{{ [1] | batch(1000000000, 2) | list }}",
    "wordwrap": "{{ ('a ' * 400000) | wordwrap(1, true, 'b' * 900000) }}",
    "endless macro": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "recursive loop": "{% for i in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
    "long output": "{% for i in range(99999) %}{{ 'x' * 999 }}{% endfor %}",
}


@pytest.mark.parametrize("name", GREEDY)
def test_a_greedy_template_ends_with_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fanlight.text.budget.MAX_STEPS", 100_000)  # measuring memory is slow
    template = ChatTemplate(GREEDY[name])
    tracemalloc.start()
    started = time.monotonic()
    try:
        with pytest.raises(TokenizerError, match=r"^chat template"):
            template.render(CHAT)
        assert time.monotonic() - started < 30
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_time_is_bounded_where_steps_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fanlight.text.budget.MAX_SECONDS", 0.2)
    slow = ChatTemplate("{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}")
    with pytest.raises(TokenizerError, match=r"more than 0\.2 seconds"):
        slow.render(CHAT)


def test_the_budget_grows_with_the_input() -> None:
    long = [{"role": "user", "content": "word " * 300_000}] * 3
    doubled = ChatTemplate("{% for m in messages %}{{ m.content ~ m.content }}{{ m.content | trim }}{% endfor %}")
    assert len(doubled.render(long)) == 3 * (3 * 1_500_000 - 1)


def test_each_rendering_has_its_own_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fanlight.text.budget.MAX_STEPS", 10_000)
    template = ChatTemplate("{% for i in range(600) %}{% for j in range(10) %}{% endfor %}{% endfor %}ok")
    assert [template.render(CHAT) for _ in range(3)] == ["ok"] * 3  # 6,600 turns each
