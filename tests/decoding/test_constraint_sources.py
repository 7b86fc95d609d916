"""Sources of constraints: what is wrong is said before anything is generated, and nothing hangs."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from fanlight.decoding import grammar_limits
from fanlight.decoding.constraints import Grammar, Vocabulary
from fanlight.errors import MissingExtra, OptionError

if TYPE_CHECKING:
    from fanlight import Model

BOS, EOS = 256, 257
BYTES = Vocabulary((*(bytes([i]) for i in range(256)), b"<bos>", b"<eos>"), frozenset({BOS, EOS}), (EOS,))
SECONDS = 10.0  # what is asked is two; other work on the machine must not fail a test


def compiled(kind: str, source: object) -> Grammar:
    return Grammar.compile(kind, source, BYTES)


def nested(levels: int, inner: Any) -> Any:
    for _ in range(levels):
        inner = {"items": inner}
    return inner


FAULTS: list[tuple[str, Any, str]] = [
    ("regexp", "a", "unknown kind of constraint 'regexp': expected one of regex, choice, json_schema, grammar"),
    ("regex", "", "regex: expected a text that is not empty, found ''"),
    ("regex", 31, "regex: expected a text that is not empty, found 31"),
    ("regex", "é+(", "regex: position 2: unclosed group"),
    ("regex", "a/b(?=c)", "regex: position 3: look-around, .* is not supported"),
    ("regex", r"(a)\1", "regex: position 3: backreferences are not supported"),
    ("regex", "a{3", "regex: position 1: unclosed counted repetition"),
    ("regex", r"a\b", r"regex: \^ and \$ are supported at the ends of a whole pattern only"),
    ("regex", "a^b", r"regex: \^ and \$ are supported at the ends of a whole pattern only"),
    ("regex", "ab\\", "regex: position 2: a backslash ends the pattern"),
    ("regex", "(?x) a # b\n c", r"regex: position 10: \(\?x\) is supported within one line only"),
    ("regex", r"[^\s\S]", "regex: no token of this model can begin a text that fits"),
    ("regex", "a\ud800", "regex: position 1: expected Unicode text, found a lone surrogate"),
    ("choice", [], "choice: expected at least one text, found an empty list"),
    ("choice", "yes", "choice: expected a list of texts, found str"),
    ("choice", 7, "choice: expected a list of texts, found int"),
    ("choice", ["a", ""], r"choice\[1\]: expected a text of at least one character, found ''"),
    ("choice", ["a", "b", "a"], r"choice\[2\]: 'a' stands at 0 already"),
    ("choice", ["a", None], r"choice\[1\]: expected a text of at least one character, found None"),
    ("choice", ["\udfff"], r"choice\[0\]: position 0: expected Unicode text"),
    ("json_schema", 3, "json_schema: expected an object, true or false, found 3"),
    ("json_schema", None, "json_schema: expected an object, true or false, found null"),
    ("json_schema", '["a"]', r'json_schema: expected an object, true or false, found \["a"\]'),
    ("json_schema", False, "json_schema: at the top: Unsatisfiable schema: schema is false"),
    ("json_schema", '{"type":\n "x",}', "json_schema: line 2, column .*: no JSON"),
    ("json_schema", '{"a": 1, "b": 2, "a": 3}', "json_schema: the key 'a' stands twice"),
    ("json_schema", '{"minimum": NaN}', "json_schema: NaN is not JSON"),
    ("json_schema", {"const": {1, 2}}, "json_schema: expected what JSON can hold: Object of type set"),
    ("json_schema", {"type": "foo"}, "json_schema: at the top: Invalid type: foo"),
    ("json_schema", {"properties": {"a": {"items": {"type": "int"}}}}, "at /properties/a/items: Invalid type: int"),
    ("json_schema", {"properties": {"a": {"pattern": "a("}}}, "at /properties/a: invalid regex: unclosed group"),
    ("json_schema", {"allOf": [{"type": "string"}, {"type": "null"}]}, "at the top: Unsatisfiable schema"),
    ("json_schema", {"type": "string", "minLength": 5, "maxLength": 3}, "minLength .5. is greater than maxLength .3."),
    ("json_schema", {"properties": {"z": {"not": {}}}}, 'at /properties/z: Unimplemented keys: ."not".'),
    ("json_schema", {"$ref": "#/$defs/none"}, "json_schema: at the top: Pointer '/\\$defs/none' does not exist"),
    ("json_schema", {"$ref": "#"}, "json_schema: at the top: no token of this model can begin a text that fits"),
    ("grammar", " \n", "grammar: expected a text that is not empty"),
    ("grammar", 'begin: "a"', "grammar: found no rule named 'start'"),
    ("grammar", 'root ::= "a"', "grammar: line 1, column 7: .* '::=' is GBNF"),
    ("grammar", "start: x\nx: y", 'grammar: line 2, column 4: unknown name: "y"'),
    ("grammar", 'start: "a" (\n', r"grammar: line 1, column 13: Expected token '\)'"),
    ("grammar", "start: /a(/", "grammar: line 1, column 8: invalid regex: unclosed group"),
    ("grammar", 'start: "a" <none>', "grammar: line 1, column 8: unknown special token"),
    ("grammar", 'start: start "a"', "grammar: no token of this model can begin a text that fits"),
    ("grammar", 'start: a\na[temperature=0.5]: "x"', "grammar: line 2: temperature= has no effect here"),
    ("grammar", 'start: a "x"\n\na[stop="x"]: /x*/', "grammar: line 3: stop= has no effect here"),
    ("grammar", 'start: %json {"type": "foo"}', "grammar: line 1, column 8: .* Invalid type: foo"),
]


@pytest.mark.parametrize(("kind", "source", "message"), FAULTS)
def test_a_faulty_source_is_refused_with_its_place(kind: str, source: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        compiled(kind, source)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 450


TOO_LARGE: list[tuple[str, Any, str]] = [
    ("regex", "a" * (grammar_limits.MAX_SOURCE_BYTES + 1), "at most 262144 bytes, found 262145"),
    ("regex", "(" * 101 + ")" * 101, "position 100: brackets nest deeper than 100"),
    ("regex", "[" * 30_000, "position 100: brackets nest deeper than 100"),
    ("choice", [str(i) for i in range(10_001)], "at most 10000 texts, found 10001"),
    ("choice", ["é" * 70_000, "è" * 70_000], "at most 262144 bytes, found 280000"),
    ("json_schema", nested(101, {}), "102 levels of JSON, at most 100"),
    ("json_schema", "[" * 100_000, "not read as JSON"),
    ("json_schema", nested(20_000, {}), "json_schema: expected what JSON can hold"),
    ("json_schema", {"description": "x" * 300_000}, "at most 262144 bytes"),
    ("json_schema", {"minLength": 10**5000}, "json_schema: expected what JSON can hold"),
    ("grammar", "start: " + "(" * 5000 + '"a"' + ")" * 5000, "lark grammar too deeply nested"),
]


@pytest.mark.parametrize(("kind", "source", "message"), TOO_LARGE, ids=range(len(TOO_LARGE)))
def test_a_source_beyond_a_limit_is_refused_at_once(kind: str, source: Any, message: str) -> None:
    began = time.perf_counter()
    with pytest.raises(OptionError, match=message):
        compiled(kind, source)
    assert time.perf_counter() - began < SECONDS


def chain(n: int) -> dict[str, Any]:
    links = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(n)}
    return {"$defs": {**links, f"d{n}": {"type": "null"}}, "$ref": "#/$defs/d0"}


def rules(n: int, end: str = '"a"') -> str:
    return "start: r0\n" + "\n".join(f"r{i}: r{i + 1}" for i in range(n)) + f"\nr{n}: {end}"


AMBIGUOUS = r"(a|b)*a(a|b){25}"
HOSTILE: dict[str, tuple[str, Any, str | None]] = {
    "repeats of repeats": ("regex", "(a{1,1000}){1,1000}", None),
    "three levels of repeats": ("regex", "((a{1,100}){1,100}){1,100}", None),
    "a hundred quantifiers": ("regex", "a" + "{1,2}" * 100, None),
    "a large repeat": ("regex", "a{1,100000000}", None),
    "an alternation of 30,000": ("regex", "|".join(f"x{i * 7919 % 100_003}" for i in range(30_000)), None),
    "two to the 25 states": ("regex", AMBIGUOUS, None),
    "nested to the limit": ("regex", "(" * 100 + "a" + ")*" * 90 + ")" * 10, None),
    "10,000 choices": ("choice", [f"v{i}" for i in range(10_000)], None),
    "a reference to itself": ("json_schema", {"properties": {"a": {"$ref": "#"}}}, None),
    "references in a circle": ("json_schema", {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#"}}}, "no token"),
    "400 references": ("json_schema", chain(400), None),
    "4,000 references": ("json_schema", chain(4000), "references go too deep"),
    "10,000 properties": ("json_schema", {"properties": {f"p{i}": {} for i in range(10_000)}}, "not compiled after 2"),
    "700 properties": ("json_schema", {"properties": {f"p{i}": {"type": "null"} for i in range(700)}}, None),
    "minLength": ("json_schema", {"type": "string", "minLength": 10**9}, None),
    "minItems": ("json_schema", {"type": "array", "minItems": 10**9}, None),
    "multipleOf": ("json_schema", {"type": "integer", "multipleOf": 10**9 + 7}, "fuel exhausted"),
    "a pattern with a length": ("json_schema", {"pattern": f"^{AMBIGUOUS}$", "minLength": 40}, "Unable to determine"),
    "30 patterns": ("json_schema", {"allOf": [{"pattern": f".*a{i}.*"} for i in range(30)]}, "not compiled after 2"),
    "30 terminals": ("grammar", f"start: A\nA: {' & '.join(f'/.*a{i}.*/' for i in range(30))}", "not compiled after 2"),
    "400 rules": ("grammar", rules(400), None),
    "4,000 rules": ("grammar", rules(4000), "references go too deep"),
    "4,000 rules and a special token": ("grammar", rules(4000, "<bos>"), "references go too deep"),
    "an ambiguous grammar": ("grammar", 'start: start start | "a" | ""', None),
    "many repeats": ("grammar", 'start: x{1000}\nx: y{1000}\ny: "a" | "b"', None),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_source_ends_soon(name: str) -> None:
    kind, source, message = HOSTILE[name]
    began = time.perf_counter()
    if message is None:
        assert compiled(kind, source).kind == kind
    else:
        with pytest.raises(OptionError, match=message):
            compiled(kind, source)
    assert time.perf_counter() - began < SECONDS


def test_a_process_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(OptionError, match="json_schema: large, and no process could be started to try it in"):
        compiled("json_schema", chain(400))


def test_a_process_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_limits, "limits", None)
    monkeypatch.setattr(sys, "path", ["/nowhere"])
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    with pytest.raises(OptionError, match="large, and the process that should try it failed: "):
        compiled("json_schema", chain(400))


def test_a_faulty_source_that_is_tried_apart_is_refused_as_any_other() -> None:
    schema = {"properties": {f"p{i}": {"type": "null"} for i in range(600)} | {"last": {"type": "foo"}}}
    with pytest.raises(OptionError, match="json_schema: at the top: Invalid type: foo"):
        compiled("json_schema", json.dumps(schema))


def test_without_llguidance_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingExtra, match=r"constraints need llguidance: pip install 'fanlight\[constraints\]'"):
        compiled("regex", "a+")


def test_a_vocabulary_is_built_once_and_fast(smollm: Model) -> None:
    tokenizer = smollm.tokenizer
    tokens = tuple(tokenizer.token_bytes(i) for i in range(tokenizer.n_vocab))
    vocabulary = Vocabulary(tokens, tokenizer.special_ids, tokenizer.eos_ids)
    began = time.perf_counter()
    made = vocabulary.tokenizer()
    assert time.perf_counter() - began < 3  # 0.2 seconds on a machine with nothing else to do
    assert vocabulary.tokenizer() is made
    assert vocabulary == Vocabulary(tokens, tokenizer.special_ids, tokenizer.eos_ids)


def test_a_vocabulary_with_ids_that_it_has_not_is_refused() -> None:
    with pytest.raises(OptionError, match=r"vocabulary: special id 2 is outside 0\.\.1"):
        Vocabulary((b"a", b"b"), frozenset(), (2,))


@pytest.mark.parametrize(
    ("kind", "source", "label"),
    [
        ("regex", r"\d+", r"regex(\d+)"),
        ("regex", "a\tb" * 31, "regex(a\\tba\\tba\\tba\\tba\\tba\\t…)"),
        ("choice", ["yes", "no"], "choice(yes|no)"),
        ("json_schema", {"type": "object", "required": ["a"]}, 'json_schema({"type":"object","requi…)'),
        ("grammar", 'start:   "a"\n', 'grammar(start: "a")'),
    ],
)
def test_a_label_is_the_kind_and_the_beginning_of_the_source(kind: str, source: Any, label: str) -> None:
    grammar = compiled(kind, source)
    assert len(grammar.label) <= 40
    assert repr(grammar) == grammar.label == label
