"""Constraints: masks are exact, depend on the text alone, and every text that is walked under them fits its grammar."""

from __future__ import annotations

import ast
import json
import random
import re
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanlight.decoding import grammar_limits
from fanlight.decoding.constraints import MAX_FORCED, MAX_MASKS, MAX_STATES, Constraint, Grammar, Vocabulary
from fanlight.errors import ConstraintError
from fanlight.kernels import reference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from fanlight import Model
    from fanlight.kernels.ops import Ops

OPS = cast("Ops", reference)
BOS, EOS = 256, 257
BYTES = Vocabulary((*(bytes([i]) for i in range(256)), b"<bos>", b"<eos>"), frozenset({BOS, EOS}), (EOS,))
# Some tokens twice, two without text, two that end: as real vocabularies have them.
PIECES = Vocabulary(
    (b"a", b"b", b"ab", b"", b"ba", b"<s>", b"a", b"aab", b"bb", b"</s>", b"<end>", b"", b"c"),
    frozenset({5, 9}),
    (9, 10),
)
PROMPT = (7, 3)


@pytest.fixture(scope="module")
def words(smollm: Model) -> Vocabulary:
    tokenizer = smollm.tokenizer
    tokens = tuple(tokenizer.token_bytes(i) for i in range(tokenizer.n_vocab))
    return Vocabulary(tokens, tokenizer.special_ids, tokenizer.eos_ids)


def constrained(kind: str, source: object, vocabulary: Vocabulary = BYTES) -> Constraint:
    return Constraint(Grammar.compile(kind, source, vocabulary), len(PROMPT), OPS)


def flags(constraint: Constraint, text: Sequence[int], n_vocab: int | None = None) -> NDArray[np.bool_]:
    """Which ids stay; those that do keep their logits."""
    width = len(constraint.grammar.vocabulary.tokens) if n_vocab is None else n_vocab
    row = np.linspace(-3, 4, width, dtype=np.float32)
    kept = constraint((*PROMPT, *text), OPS.tensor(row.tobytes(), width)).numpy()[0]
    stays: NDArray[np.bool_] = kept > -np.inf
    assert (kept[stays] == row[stays]).all()
    return stays


def allowed(constraint: Constraint, text: Sequence[int], n_vocab: int | None = None) -> list[int]:
    """The ids that stay."""
    found: list[int] = np.flatnonzero(flags(constraint, text, n_vocab)).tolist()
    return found


def walk(constraint: Constraint, rng: random.Random, most: int = 2000) -> str | None:
    """A text of tokens picked at random, up to the end token; None: it had not ended after `most`."""
    vocabulary = constraint.grammar.vocabulary
    text: list[int] = []
    while len(text) < most:
        stays = flags(constraint, text)
        may_end = stays[[*vocabulary.eos_ids]].all()
        stays[[*vocabulary.eos_ids]] = False
        tokens = np.flatnonzero(stays)
        if may_end and (not len(tokens) or rng.random() < 0.3):
            return b"".join(vocabulary.tokens[token] for token in text).decode("utf-8")
        text.append(int(rng.choice(tokens)))
    return None


# -- masks are exact ------------------------------------------------------------------------------------------------

SMALL = [
    r"(ab|ba)*",
    r"a{2,3}b?",
    r"(a|ab)(ba|b)a",
    r"b(aa)*b",
    r"[ab]{0,4}",
    r"aab|aabb|b",
    r"(?:a|bb)+",
    r"^ab$|^ba$",
]


def continuations(pattern: str, alphabet: Sequence[str], longest: int) -> set[str]:
    """All texts over the alphabet up to this length that match."""
    found, level = set(), [""]
    for _ in range(longest + 1):
        found.update(text for text in level if re.fullmatch(pattern, text))
        level = [text + character for text in level for character in alphabet]
    return found


@pytest.mark.parametrize("pattern", SMALL)
def test_a_mask_equals_brute_force(pattern: str) -> None:
    fits = continuations(pattern, "ab", 11)
    constraint = constrained("regex", pattern, PIECES)
    rng = random.Random(pattern)
    n_checked = 0
    for _ in range(20):
        text: list[int] = []
        while len(so_far := b"".join(PIECES.tokens[token] for token in text)) <= 5:
            expected = [
                token
                for token, raw in enumerate(PIECES.tokens)
                if token not in PIECES.no_text and raw and any(w.startswith((so_far + raw).decode()) for w in fits)
            ]
            ends = [*PIECES.eos_ids] if so_far.decode() in fits else []
            assert allowed(constraint, text) == sorted([*expected, *ends])
            n_checked += 1
            if not expected:
                break
            text.append(rng.choice(expected))
    assert n_checked >= 40


@pytest.mark.parametrize("pattern", ["é|ê|e", "日本?語", "[ж-й]{2}", "🎉+"])
def test_tokens_that_are_parts_of_characters_are_masked_byte_by_byte(pattern: str) -> None:
    fits = [text.encode() for text in continuations(pattern, "eéê日本語жзий🎉", 3)]
    constraint = constrained("regex", pattern)
    for whole in fits[:40]:
        for n in range(len(whole)):
            stays = allowed(constraint, whole[:n])
            expected = {fit[n] for fit in fits if fit.startswith(whole[:n]) and len(fit) > n}
            assert set(stays) - {EOS} == expected
            assert (EOS in stays) == (whole[:n] in fits)


def test_special_tokens_are_no_text() -> None:
    anything = constrained("regex", "(?s).*")
    assert BOS not in allowed(anything, b"")
    assert allowed(anything, b"<bo")[-1] == EOS
    assert allowed(constrained("regex", "<bos>"), b"") == [ord("<")]
    assert allowed(constrained("grammar", 'start: "a" <bos> "b"'), b"a") == [BOS]
    assert allowed(constrained("grammar", 'start: "a" <bos> "b"'), [97, BOS]) == [98]


def test_a_token_that_begins_with_the_byte_255_is_neither_text_nor_special() -> None:
    odd = Vocabulary((b"a", b"\xff", b"\xffbos", b"<e>"), frozenset(), (3,))
    assert allowed(constrained("regex", "(?s).*", odd), []) == [0, 3]


def test_all_end_tokens_stay_where_the_text_may_end_and_alone_where_it_is_complete() -> None:
    constraint = constrained("regex", "ab?", PIECES)
    assert allowed(constraint, [0]) == [1, 9, 10]
    assert allowed(constraint, [2]) == [9, 10]
    assert allowed(constraint, [2, 10]) == allowed(constraint, [0, 9, 9]) == [9, 10]


def test_ids_above_the_tokenizers_are_removed() -> None:
    constraint = constrained("regex", "(a|b|c)+", PIECES)
    assert allowed(constraint, [1], n_vocab=71) == allowed(constraint, [1]) == [0, 1, 2, 4, 6, 7, 8, 9, 10, 12]
    assert allowed(constraint, [1], n_vocab=7) == [0, 1, 2, 4, 6]
    with pytest.raises(ConstraintError, match="ids above the model's last, 6"):
        allowed(constrained("regex", "c", PIECES), [], n_vocab=7)


def test_masks_of_both_kernels_are_equal(words: Vocabulary) -> None:
    from fanlight.kernels import native

    grammar = Grammar.compile("regex", r"[ a-z]{3,31}\.", words)
    row = np.random.default_rng(3).normal(size=len(words.tokens)).astype(np.float32)
    both = [cast("Ops", ops) for ops in (reference, native)]
    ours, theirs = (Constraint(grammar, 1, ops)([5], ops.tensor(row.tobytes(), len(row))).numpy() for ops in both)
    assert (ours == theirs).all()


# -- what is not accepted -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ([1], r"regex\(a\+\): after 0 tokens of the text: token 1 \(b'b'\) does not fit"),
        ([0, 0, 4], r"after 2 tokens of the text: token 4 \(b'ba'\) does not fit"),
        ([0, 5], r"after 1 tokens of the text: token 5 .* does not fit"),
        ([0, 99], r"after 1 tokens of the text: token 99 \(b''\) does not fit"),
        ([10], r"after 0 tokens of the text: the end token 10 comes where the text is not complete"),
        ([0, 9, 0], r"after 2 tokens of the text: token 0 comes after the end of the text"),
    ],
)
def test_ids_that_do_not_fit_are_an_error_that_says_where(text: list[int], message: str) -> None:
    constraint = constrained("regex", "a+", PIECES)
    for _ in range(2):
        with pytest.raises(ConstraintError, match=message):
            allowed(constraint, text)
        assert allowed(constraint, [0, 6]) == [0, 6, 9, 10]


def test_a_dead_end_is_an_error() -> None:
    without_x = Vocabulary((b"a", b"b", b"<e>"), frozenset(), (2,))
    constraint = constrained("regex", "ab|axa", without_x)
    assert allowed(constraint, [0]) == [1]
    constraint = constrained("regex", "aax|b", without_x)
    with pytest.raises(ConstraintError, match=r"after 2 tokens of the text: no token can follow"):
        allowed(constraint, [0, 0])
    assert allowed(constraint, [1]) == [2]


def test_a_complete_text_without_an_end_token_is_an_error() -> None:
    constraint = constrained("regex", "ab?", Vocabulary((b"a", b"b"), frozenset(), ()))
    assert allowed(constraint, [0]) == [1]
    with pytest.raises(ConstraintError, match="the text is complete, and the model has no token that ends it"):
        allowed(constraint, [0, 1])


@pytest.mark.parametrize(("kind", "source"), [("regex", "a" + "{1,2}" * 100), ("grammar", 'start: start start | "a"')])
def test_a_grammar_that_becomes_too_complex_is_an_error(
    kind: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_limits, "PARSER_LIMITS", grammar_limits.PARSER_LIMITS | {"max_items_in_row": 200})
    constraint = constrained(kind, source)
    with pytest.raises(ConstraintError, match=r"llguidance gave up: .* simplify it"):
        [allowed(constraint, b"a" * n) for n in range(0, 2000, 31)]
    assert allowed(constraint, b"") == [97]


# -- the same text, the same mask -----------------------------------------------------------------------------------

GRAMMARS: list[tuple[str, Any]] = [
    ("regex", r"(a|ab)*(ba|b){1,3}a?"),
    ("choice", ["ab", "aab", "aabb", "bab", "babba"]),
    ("grammar", 'start: "a" start "b" | "ab" | x\nx: /b+a/'),
    ("grammar", 'start: x "a"\nx[max_tokens=3]: /b+/'),
]


@pytest.mark.parametrize(("kind", "source"), GRAMMARS)
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.lists(st.sampled_from([0, 1, 2, 4, 6, 7, 8, 9]), max_size=7), min_size=1, max_size=31))
def test_a_mask_does_not_depend_on_what_was_asked_before(kind: str, source: Any, texts: list[list[int]]) -> None:
    def result(constraint: Constraint, text: list[int]) -> object:
        try:
            return allowed(constraint, text), constraint.likely((*PROMPT, *text))
        except ConstraintError as error:
            return str(error)

    grammar = Grammar.compile(kind, source, PIECES)
    used = Constraint(grammar, len(PROMPT), OPS)
    shorter = [text[:n] for text in texts for n in range(len(text), -1, -2)]
    for text in texts + shorter:
        assert result(used, text) == result(Constraint(grammar, len(PROMPT), OPS), text)


def test_many_beams_keep_a_bounded_memo() -> None:
    constraint = constrained("regex", "[a-z]*")
    for step in range(7):
        for beam in range(26):
            assert len(allowed(constraint, bytes([97 + beam]) + b"z" * step)) == 27
    assert len(constraint._states) <= MAX_STATES
    assert len(constraint._masks) <= MAX_MASKS


def test_guessed_ids_that_are_taken_back_leave_no_trace() -> None:
    constraint = constrained("json_schema", {"type": "array", "items": {"type": "integer"}})
    before = [allowed(constraint, b"[12"[:n]) for n in range(4)]
    for guess in (b"[12,3", b"[12, 345]", b"[12]", b"[1", b"[12,-0]"):
        for n in range(len(guess) + 1):
            allowed(constraint, guess[:n])
    assert [allowed(constraint, b"[12"[:n]) for n in range(4)] == before


def test_the_prompt_does_not_count() -> None:
    grammar = Grammar.compile("regex", "ab", PIECES)
    row = OPS.tensor(np.ones(13, np.float32).tobytes(), 13)
    for prompt in ([], [9], [5, 9, 12, 99]):
        kept = Constraint(grammar, len(prompt), OPS)([*prompt, 0], row).numpy()[0]
        assert list(np.flatnonzero(kept > -np.inf)) == [1]


# -- texts that must follow -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "source", "text", "expected"),
    [
        ("choice", ["yes, indeed", "no"], b"", b""),
        ("choice", ["yes, indeed", "no"], b"y", b"es, indeed"),
        ("regex", "ab(c|d)e{3}", b"", b"ab"),
        ("regex", "ab(c|d)e{3}", b"abd", b"eee"),
        ("regex", "aa?", b"a", b""),  # it may end
        ("regex", "ab", b"ab", b""),  # the end token is the caller's
        ("regex", "x{1000}", b"", b"x" * MAX_FORCED),
        (
            "json_schema",
            {"type": "object", "required": ["k"], "x-guidance": {"whitespace_flexible": False}},
            b"",
            b'{"k":',
        ),
    ],
)
def test_likely_tokens_are_those_that_masks_leave_alone(kind: str, source: Any, text: bytes, expected: bytes) -> None:
    constraint = constrained(kind, source)
    found = constraint.likely((*PROMPT, *text))
    assert bytes(found) == expected
    for n, token in enumerate(found[:33]):
        assert allowed(constraint, [*text, *found[:n]]) == [token]
    if len(found) < MAX_FORCED:
        last = allowed(constraint, [*text, *found])
        assert len(last) > 1 or last == [EOS]


def test_nothing_is_likely_after_the_end_or_beyond_a_dead_end() -> None:
    assert constrained("regex", "a+").likely((*PROMPT, 97, EOS)) == []
    constraint = constrained("regex", "aax|b", Vocabulary((b"a", b"b", b"<e>"), frozenset(), (2,)))
    assert constraint.likely((*PROMPT, 0)) == [0]
    with pytest.raises(ConstraintError, match="does not fit"):
        constraint.likely((*PROMPT, 1, 1))


# -- whole texts ----------------------------------------------------------------------------------------------------

PATTERNS = [
    r"[0-9]{3}-[0-9]{4}",
    r"(Mr|Mrs|Dr)\. [A-Z][a-z]{1,9}",
    r"[ab]{2}/[^/\n]{0,3}\\",
    r"(日本|ελληνικά|été ){1,3}",
    r"#[a-f0-9]{6}|rgb\([0-9]{1,3}(, [0-9]{1,3}){2}\)",
    r"  +x",
]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("which", ["bytes", "words"])
def test_a_walk_under_a_regex_matches_it(pattern: str, which: str, words: Vocabulary) -> None:
    grammar = Grammar.compile("regex", pattern, words if which == "words" else BYTES)
    for seed in range(7):
        text = walk(Constraint(grammar, len(PROMPT), OPS), random.Random(seed))
        assert text is not None
        assert re.fullmatch(pattern, text)


@pytest.mark.parametrize("which", ["bytes", "words"])
def test_a_walk_under_choices_is_one_of_them(which: str, words: Vocabulary) -> None:
    choices = [
        "yes",
        "yes, but",
        "No",
        " no",
        'say "it"',
        "back\\slash",
        "zwei\nZeilen",
        "été",
        "🎉🎊",
        "a/b|c",
        "(x)*",
    ]
    grammar = Grammar.compile("choice", choices, words if which == "words" else BYTES)
    found = {walk(Constraint(grammar, len(PROMPT), OPS), random.Random(seed)) for seed in range(80)}
    assert found <= set(choices)
    assert len(found) >= 8


def _is_person(value: Any) -> bool:
    name, age, tags = value["name"], value["age"], value.get("tags", [])
    known = set(value) <= {"name", "age", "tags"} and list(value)[:2] == ["name", "age"]
    return (
        known
        and 1 <= len(name) <= 7
        and type(age) is int
        and 0 <= age <= 130
        and set(tags) <= {"x", "y"}
        and len(tags) < 4
    )


def _is_tree(value: Any) -> bool:
    return set(value) <= {"left", "right"} and all(_is_tree(part) for part in value.values())


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 7},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["x", "y"]}, "maxItems": 3},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
TREE = {
    "type": "object",
    "properties": {side: {"$ref": "#"} for side in ("left", "right")},
    "additionalProperties": False,
}
SCHEMAS: dict[str, tuple[Any, Callable[[Any], bool]]] = {
    "person": (PERSON, _is_person),
    "person as text": (json.dumps(PERSON, indent=3), _is_person),
    "tree": (TREE, _is_tree),
    "integer": ({"type": "integer", "minimum": -7, "exclusiveMaximum": 31}, lambda v: type(v) is int and -7 <= v < 31),
    "number": ({"type": "number", "minimum": 0.5, "maximum": 2}, lambda v: 0.5 <= v <= 2),
    "either": ({"anyOf": [{"type": "null"}, {"const": "é\n"}]}, lambda v: v in (None, "é\n")),
    "tuple": (
        {"type": "array", "prefixItems": [{"type": "null"}, {"type": "boolean"}], "items": False, "minItems": 1},
        lambda v: v[0] is None and len(v) <= 2 and all(type(x) is bool for x in v[1:]),
    ),
    "pattern": ({"type": "string", "pattern": "^[a-c]+-[0-9]{2}$"}, lambda v: bool(re.fullmatch("[a-c]+-[0-9]{2}", v))),
    "date": ({"type": "string", "format": "date"}, lambda v: bool(re.fullmatch(r"\d{4}-\d\d-\d\d", v))),
    "map": (
        {"type": "object", "patternProperties": {"^k[0-9]$": {"type": "null"}}, "additionalProperties": False},
        lambda v: all(re.fullmatch("k[0-9]", key) and value is None for key, value in v.items()),
    ),
    "anything": (True, lambda v: True),
}


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("which", ["bytes", "words"])
def test_a_walk_under_a_schema_is_valid(name: str, which: str, words: Vocabulary) -> None:
    schema, is_valid = SCHEMAS[name]
    grammar = Grammar.compile("json_schema", schema, words if which == "words" else BYTES)
    texts = [walk(Constraint(grammar, len(PROMPT), OPS), random.Random(seed), most=300) for seed in range(7)]
    ended = [text for text in texts if text is not None]  # a string picked at random may be long
    assert len(ended) >= 3
    assert all(is_valid(json.loads(text)) for text in ended), ended


def test_a_walk_under_a_grammar_follows_it(words: Vocabulary) -> None:
    source = '%import common.INT\nstart: term ("+" term)*\nterm: INT | "(" start ")"\n'
    for vocabulary in (BYTES, words):
        grammar = Grammar.compile("grammar", source, vocabulary)
        texts = [walk(Constraint(grammar, len(PROMPT), OPS), random.Random(seed), most=100) for seed in range(11)]
        ended = [text for text in texts if text is not None]
        assert len(ended) >= 4
        for text in ended:
            assert re.fullmatch(r"[0-9+()]+", text)
            ast.parse(re.sub(r"[0-9]+", "1", text), mode="eval")  # it is a sum as Python reads it


def test_whitespace_in_json_is_bounded() -> None:
    constraint = constrained("json_schema", {"type": "array", "items": {"type": "null"}})
    assert ord("\n") in allowed(constraint, b"[")
    assert ord("\n") not in allowed(constraint, b"[\n")
    assert ord(" ") in allowed(constraint, b"[\n" + b" " * 63)
    assert allowed(constraint, b"[\n" + b" " * 64) == [ord("]"), ord("n")]
    own = {"type": "array", "x-guidance": {"whitespace_flexible": True}}
    assert ord("\n") in allowed(constrained("json_schema", own), b"[" + b"\n" * 99)
