"""Sources of grammars -> what llguidance compiles. In: a regex, choices, a JSON schema or a Lark grammar. Knows no tokens' meaning.

A source is checked before anything is compiled: its type, its size, how deep it nests. What may still take a long time, or
more stack than there is, is compiled in a process of its own first (`try_apart`), which can be ended. Errors are OptionError;
they name the option, the place and what is wrong there.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from fanlight.errors import MissingExtra, OptionError

KINDS = ("regex", "choice", "json_schema", "grammar")
MAX_SOURCE_BYTES = 256 * 1024
MAX_NESTING = 100  # brackets of a regex, levels of a schema's JSON; llguidance's own parsers end at 128 and above
MAX_CHOICES = 10_000
TRIAL_SECONDS = 2.0

# What llguidance may spend. "Fuel" is its count of steps: 14 to 50 of them take a microsecond.
PARSER_LIMITS: dict[str, int] = {
    "max_items_in_row": 1_000,  # an ambiguous grammar's time grows with their square
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_lexer_states": 20_000,  # 1 to 2 kB each
    "max_grammar_size": 500_000,
}

# From these numbers on a source is tried apart. Compiling follows references by recursion (8 MB of stack last for about 2,000),
# and the time for optional properties, and for patterns that must all match, grows faster than their number.
TRIED_BYTES = 16 * 1024
TRIED_NAMES = 500
TRIED_PATTERNS = 8

# Whitespace that JSON may hold between its parts: one line break with an indentation at most, so that a model cannot go on with
# blank lines for ever. A schema's own "x-guidance" comes before it.
JSON_WHITESPACE = r"[ \t]{1,8}|\r?\n[ \t]{0,64}"

# Forced bytes would be cut into tokens by the model's tokenizer, and the mask reduced to its token. Here a mask is exact.
OPTIONS = '%llguidance {"no_forcing": true}\n'

_VERBOSE = re.compile(r"\(\?[a-zA-Z]*x")
_NO_EFFECT = re.compile(r"^[ \t]*[?!]?[\w-]+[ \t]*\[[^\]:\n]*\b(temperature|stop)\s*=", re.MULTILINE)
_PLACE = re.compile(r"(?:at )?(\d+)\((\d+)\): (.*)", re.DOTALL)
_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("anyOf", "allOf", "oneOf", "prefixItems")
_ONES = ("items", "additionalProperties", "additionalItems", "contains", "not", "if", "then", "else")


class Source(NamedTuple):
    """A source that passed the checks."""

    kind: str
    text: str
    """As the user wrote it; for a schema, compact JSON."""
    grammar: str
    """For llguidance."""
    is_risky: bool
    """Whether it should be tried apart first."""


def library() -> Any:
    """llguidance. Errors: MissingExtra."""
    try:
        import llguidance
    except ImportError:
        raise MissingExtra("constraints need llguidance: pip install 'fanlight[constraints]'") from None
    return llguidance


def limits() -> Any:
    """PARSER_LIMITS as llguidance takes them; its messages without the parser's state."""
    return library().LLParserLimits(**PARSER_LIMITS, verbose_errors=False)


def prepare(kind: str, source: object) -> Source:
    """The source, checked and written as llguidance takes it. Errors: OptionError, MissingExtra."""
    if kind not in KINDS:
        raise OptionError(f"unknown kind of constraint {kind!r}: expected one of {', '.join(KINDS)}")
    if kind == "regex":
        return _regex(_text(kind, source))
    if kind == "choice":
        return _choice(source)
    if kind == "json_schema":
        return _schema(source)
    return _lark(_text(kind, source))


def _regex(text: str) -> Source:
    depth = in_class = 0
    escaped = False
    for position, character in enumerate(text):
        if escaped or character == "\\":
            escaped = not escaped
        elif character == "[":
            in_class += 1
        elif character == "]":
            in_class = max(in_class - 1, 0)
        elif not in_class:
            depth += (character == "(") - (character == ")")
        if depth + in_class > MAX_NESTING:
            raise OptionError(f"regex: position {position}: brackets nest deeper than {MAX_NESTING}; simplify it")
    if escaped:
        raise OptionError(
            f"regex: position {len(text) - 1}: a backslash ends the pattern; write '\\\\' for one of its own"
        )
    if "\n" in text and _VERBOSE.search(text):
        at = text.index("\n")
        raise OptionError(f"regex: position {at}: (?x) is supported within one line only; found a line break")
    rule = f"start: /{library().regex_to_lark(text)}/\n"
    return Source("regex", text, _grammars({"lark_grammar": rule + OPTIONS}), False)


def _choice(source: object) -> Source:
    if isinstance(source, str | bytes | Mapping) or not isinstance(source, Iterable):
        raise OptionError(f"choice: expected a list of texts, found {type(source).__name__}")
    choices = list(source)
    if not choices:
        raise OptionError("choice: expected at least one text, found an empty list")
    if len(choices) > MAX_CHOICES:
        raise OptionError(f"choice: expected at most {MAX_CHOICES} texts, found {len(choices)}")
    seen: dict[str, int] = {}
    n_bytes = 0
    for i, text in enumerate(choices):
        if not isinstance(text, str) or not text:
            raise OptionError(f"choice[{i}]: expected a text of at least one character, found {text!r}")
        if text in seen:
            raise OptionError(f"choice[{i}]: {_short(text)!r} stands at {seen[text]} already; leave one out")
        seen[text] = i
        n_bytes += len(_encoded(f"choice[{i}]", text))
    _check_size("choice", n_bytes)
    rule = f"start: CHOICE\nCHOICE: {' | '.join(map(json.dumps, choices))}\n"
    return Source("choice", "|".join(choices), _grammars({"lark_grammar": rule + OPTIONS}), False)


def _schema(source: object) -> Source:
    if isinstance(source, str):
        _check_size("json_schema", len(_encoded("json_schema", source)))
        schema = _parsed(source)
    else:
        try:
            schema = json.loads(json.dumps(source, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise OptionError(f"json_schema: expected what JSON can hold: {_line(str(error))}") from None
    if not isinstance(schema, dict | bool):
        raise OptionError(f"json_schema: expected an object, true or false, found {_short(json.dumps(schema))}")
    text = json.dumps(schema, separators=(",", ":"), ensure_ascii=False)
    _check_size("json_schema", len(text.encode("utf-8", errors="replace")))
    if (depth := _depth(schema)) > MAX_NESTING:
        raise OptionError(
            f"json_schema: {depth} levels of JSON, at most {MAX_NESTING} are taken; use $ref, or flatten it"
        )
    n_patterns = sum(text.count(f'"{key}') for key in ("pattern", "format", "multipleOf"))
    is_risky = len(text) > TRIED_BYTES or text.count(":") > TRIED_NAMES or n_patterns > TRIED_PATTERNS
    return Source("json_schema", text, _schema_grammar(schema), is_risky)


def _schema_grammar(schema: Any) -> str:
    if schema is True:
        schema = {}
    if isinstance(schema, dict):
        given = schema.get("x-guidance", {})
        if isinstance(given, dict) and not {"whitespace_pattern", "whitespace_flexible"} & set(given):
            schema = {**schema, "x-guidance": {"whitespace_pattern": JSON_WHITESPACE, **given}}
    return _grammars({"lark_grammar": OPTIONS + "start: @schema\n"}, {"name": "schema", "json_schema": schema})


def _lark(text: str) -> Source:
    if found := _NO_EFFECT.search(text):
        line = text.count("\n", 0, found.start(1)) + 1
        name = found[1]
        instead = "set the option temperature" if name == "temperature" else "write suffix= or lazy"
        raise OptionError(f"grammar: line {line}: {name}= has no effect here; {instead}")
    is_risky = len(text) > TRIED_BYTES or "%json" in text or text.count(":") > TRIED_NAMES
    is_risky = is_risky or text.count("&") > TRIED_PATTERNS
    return Source("grammar", text, _grammars({"lark_grammar": f"{text}\n{OPTIONS}"}), is_risky)


# -- what is wrong --------------------------------------------------------------------------------------------------


def refusal(source: Source, message: str) -> OptionError:
    """llguidance's message about a source, as an error that names the place."""
    message = message.replace("\n<non-verbose/>", "").strip()
    if message.startswith("NoExtension"):
        message = "no token of this model can begin a text that fits"
    if source.kind == "regex":
        return OptionError(f"regex: {_regex_fault(source.text, message)}")
    if source.kind == "json_schema":
        path = "" if source.is_risky else _faulty(json.loads(source.text), message)
        return OptionError(f"json_schema: at {path or 'the top'}: {_regex_fault(None, message)}")
    hint = "; '::=' is GBNF: write Lark, 'start: ...'" if source.kind == "grammar" and "::=" in source.text else ""
    if found := _PLACE.match(message):
        what = _regex_fault(None, found[3])
        return OptionError(f"{source.kind}: line {found[1]}, column {found[2]}: {what}{hint}")
    if message == "no start rule found":
        message = "found no rule named 'start', with which a text begins"
    return OptionError(f"{source.kind}: {_line(message)}{hint}")


def _regex_fault(text: str | None, message: str) -> str:
    """What is wrong with a regex, and where in `text`, from the lines with which the regex crate points at it."""
    head, is_parse_error, shown = message.partition("regex parse error:\n")
    if not is_parse_error:
        if "lookarounds not supported" in head:
            return "^ and $ are supported at the ends of a whole pattern only, \\b and the like not at all"
        return _line(head.split("(in regex): ")[-1])
    lines = shown.split("\n")
    what = next((line[len("error: ") :] for line in lines if line.startswith("error: ")), "invalid regex")
    caret = next((i for i, line in enumerate(lines) if line.strip() and set(line) <= {" ", "^"}), None)
    if text is None or not caret:
        return f"invalid regex: {what}"
    before = lines[caret - 1][4 : lines[caret].index("^")].replace("\\/", "/")
    return f"position {len(before)}: {what}" if text.replace("\\/", "/").startswith(before) else what


def _faulty(schema: Any, message: str, tries: int = 100) -> str:
    """The pointer of the innermost part that is refused with the same message: "/properties/a"; "" for the whole."""
    validate, bounds = library().LLMatcher.validate_grammar, limits()
    shared = {key: schema[key] for key in ("$defs", "definitions") if isinstance(schema, dict) and key in schema}
    path, node, is_deeper = "", schema, True
    while is_deeper:
        is_deeper = False
        for step, part in _parts(node):
            tries -= 1
            if tries < 0:
                return path
            whole = {**shared, **part} if isinstance(part, dict) and not step.startswith(("/$defs", "/def")) else part
            if _same(validate(_schema_grammar(whole), limits=bounds), message):
                path, node, is_deeper = path + step, part, True
                break
    return path


def _same(one: str, other: str) -> bool:
    return one.replace("\n<non-verbose/>", "").strip() == other


def _parts(node: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if key in _MAPS and isinstance(value, dict):
            yield from ((f"/{key}/{name}", part) for name, part in value.items())
        elif key in _LISTS and isinstance(value, list):
            yield from ((f"/{key}/{i}", part) for i, part in enumerate(value))
        elif key in _ONES:
            yield f"/{key}", value


# -- in a process of its own ----------------------------------------------------------------------------------------


def try_apart(source: Source, n_tokens: int, special: Mapping[int, bytes]) -> None:
    """Compile it in a process that can be ended. Errors: OptionError where that takes too long, or is the process's end.

    special: the tokens that a Lark grammar may name. What is wrong with the source itself is not said here.
    """
    job = {"grammar": source.grammar, "n": n_tokens, "special": {i: raw.hex() for i, raw in special.items()}}
    program = "from fanlight.decoding.grammar_limits import trial; trial()"
    paths = os.pathsep.join(path for path in sys.path if path)
    try:
        done = subprocess.run(
            (sys.executable, "-P", "-c", program),
            input=json.dumps(job),
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=False,
            timeout=TRIAL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise OptionError(
            f"{source.kind}: not compiled after {TRIAL_SECONDS:g} seconds: too complex; use fewer patterns and properties"
        ) from None
    except OSError as error:
        raise OptionError(f"{source.kind}: large, and no process could be started to try it in: {error}") from None
    if done.returncode == 1:
        why = _line(done.stderr.strip().rpartition("\n")[2])
        raise OptionError(f"{source.kind}: large, and the process that should try it failed: {why}")
    if done.returncode:
        raise OptionError(f"{source.kind}: its references go too deep to be compiled; use shorter chains of them")


def trial() -> None:
    """What runs in that process: compile the grammar of the job on stdin, over bytes and the special tokens."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, OSError, ValueError):  # no such thing on this system: then a crash may leave a core file
        pass
    job = json.load(sys.stdin)
    special = {int(i): bytes.fromhex(raw) for i, raw in job["special"].items()}
    free = [i for i in range(job["n"]) if i not in special]
    tokens = dict.fromkeys(free, b"") | special | {i: bytes([byte]) for byte, i in enumerate(free[:256])}
    matcher = new_matcher(new_tokenizer([tokens[i] for i in range(job["n"])], sorted(special), None), job["grammar"])
    matcher.compute_bitmask()
    matcher.deep_copy().compute_bitmask()


class _Tokens:
    """What llguidance asks of a tokenizer object: its tokens as bytes."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokens: list[bytes], special: list[int], eos: int | None) -> None:
        self.tokens, self.special_token_ids, self.eos_token_id = tokens, special, eos

    def __call__(self, text: str) -> list[int]:
        """Ids of a text, which only a grammar with forced tokens asks for: see OPTIONS."""
        raise AssertionError("a grammar asked for the tokens of a text")


def new_tokenizer(tokens: list[bytes], special: list[int], eos_ids: list[int] | None) -> Any:
    """llguidance's LLTokenizer. special: those that are no text, the end tokens among them."""
    # llguidance marks special tokens by a first byte of 255, which no text in UTF-8 holds.
    marked = [b"" if raw[:1] == b"\xff" else raw for raw in tokens]
    return library().LLTokenizer(_Tokens(marked, special, eos_ids[0] if eos_ids else None), eos_token=eos_ids or None)


def new_matcher(tokenizer: Any, grammar: str) -> Any:
    """llguidance's LLMatcher, which may hold an error (get_error)."""
    return library().LLMatcher(tokenizer, grammar, log_level=0, limits=limits())


# -- small things ---------------------------------------------------------------------------------------------------


def _grammars(*grammars: Mapping[str, Any]) -> str:
    return json.dumps({"grammars": grammars})


def _text(kind: str, source: object) -> str:
    if not isinstance(source, str) or not source.strip():
        raise OptionError(f"{kind}: expected a text that is not empty, found {_short(repr(source))}")
    _check_size(kind, len(_encoded(kind, source)))
    return source


def _encoded(where: str, text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise OptionError(f"{where}: position {error.start}: expected Unicode text, found a lone surrogate") from None


def _check_size(kind: str, n_bytes: int) -> None:
    if n_bytes > MAX_SOURCE_BYTES:
        raise OptionError(f"{kind}: expected at most {MAX_SOURCE_BYTES} bytes, found {n_bytes}; shorten it")


def _parsed(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise OptionError(f"json_schema: the key {_short(twice)!r} stands twice in one object; leave one out")
        return made

    def constant(name: str) -> Any:
        raise OptionError(f"json_schema: {name} is not JSON")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise OptionError(f"json_schema: line {error.lineno}, column {error.colno}: no JSON: {error.msg}") from None
    except OptionError:
        raise
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of brackets
        raise OptionError(f"json_schema: not read as JSON: {_line(str(error))}") from None


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        children = (
            item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)
        )
        level = [child for group in children for child in group]
    return depth


def _line(text: str) -> str:
    return _short(text.strip().partition("\n")[0], 300)


def _short(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
