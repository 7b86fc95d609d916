r"""Constraints: the text matches a regex, is one of some choices, fits a JSON schema, or follows a Lark grammar.

In: a source and the bytes of every token. Out: a processor that removes the tokens with which no such text can go on. Knows
no model and no tokenizer. llguidance (Moskal et al. 2025) compiles the sources and computes which tokens fit.

A mask is exact: a token stays if its bytes can be continued to a text that fits, however the text so far was cut into
tokens. Where the text may end, the end tokens stay; where it is complete, only they do. Special tokens are no text: only a
Lark grammar that names one (`<|name|>`) lets it in.

Regexes are those of Rust's regex crate without lookaround and \b; they match the whole text, and \d and \w are Unicode.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fanlight.decoding import grammar_limits
from fanlight.decoding.processors import OnOps
from fanlight.errors import ConstraintError, OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanlight.kernels.ops import Ops, Tensor

MAX_STATES = 16  # matchers that a constraint keeps, each at its own text: one for each beam is enough
MAX_MASKS = 64
MAX_FORCED = 256
LABEL_CHARACTERS = 24
LONGEST_CHAIN = 24  # tokens that may all begin the same forced text


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a grammar compiler needs of a tokenizer. Make it once for each model and keep it."""

    tokens: tuple[bytes, ...]
    """The bytes of every id; b"" for ids without text."""
    special_ids: frozenset[int]
    eos_ids: tuple[int, ...]
    _made: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for token in (*self.special_ids, *self.eos_ids):
            if not 0 <= token < len(self.tokens):
                raise OptionError(f"vocabulary: special id {token} is outside 0..{len(self.tokens) - 1}")

    @property
    def no_text(self) -> frozenset[int]:
        """Special and end tokens."""
        return self.special_ids.union(self.eos_ids)

    def in_order(self) -> list[tuple[bytes, int]]:
        """The tokens that have text and are not special, with their ids, sorted by their bytes; made at the first call."""
        if "in_order" not in self._made:
            ids = (token for token in range(len(self.tokens)) if self.tokens[token] and token not in self.special_ids)
            self._made["in_order"] = sorted((self.tokens[token], token) for token in ids)
        found: list[tuple[bytes, int]] = self._made["in_order"]
        return found

    def tokenizer(self) -> Any:
        """llguidance's table of the tokens, built at the first call. Errors: MissingExtra."""
        if "tokenizer" not in self._made:
            self._made["tokenizer"] = grammar_limits.new_tokenizer(
                list(self.tokens), sorted(self.no_text), list(self.eos_ids)
            )
        return self._made["tokenizer"]


class Grammar:
    """A compiled source. Immutable: a request's beams, and requests, may share it."""

    __slots__ = ("_first", "kind", "label", "vocabulary")

    def __init__(self, source: grammar_limits.Source, vocabulary: Vocabulary, first: Any) -> None:
        """first: the matcher of the empty text. Use `compile`."""
        self.kind, self.vocabulary, self._first = source.kind, vocabulary, first
        shown = " ".join(source.text.split()) if source.kind in ("grammar", "json_schema") else source.text
        shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown[: LABEL_CHARACTERS + 1])
        cut = shown if len(shown) <= LABEL_CHARACTERS else f"{shown[: LABEL_CHARACTERS - 1]}…"
        self.label = f"{source.kind}({cut})"

    @classmethod
    def compile(cls, kind: str, source: object, vocabulary: Vocabulary) -> Grammar:
        r"""Kinds and their sources:

        - "regex": a str, r"\d{3}-\d{4}"
        - "choice": a list of str
        - "json_schema": a dict, a str of JSON, or True for any JSON
        - "grammar": a str, Lark as llguidance reads it, with a rule `start`

        Errors: OptionError, which names the option, the place and what is wrong, for a source that is invalid, that no text
        fits, or that takes too much to compile; MissingExtra.
        """
        prepared = grammar_limits.prepare(kind, source)
        tokenizer = vocabulary.tokenizer()
        if prepared.is_risky:
            special = {token: vocabulary.tokens[token] for token in vocabulary.no_text}
            grammar_limits.try_apart(prepared, len(vocabulary.tokens), special)
        matcher = grammar_limits.new_matcher(tokenizer, prepared.grammar)
        if not matcher.is_error():
            matcher.compute_bitmask()  # copies of this matcher start with what that computed
        if matcher.is_error():
            raise grammar_limits.refusal(prepared, matcher.get_error())
        return cls(prepared, vocabulary, matcher)

    def matcher(self) -> Any:
        """A new one, of the empty text."""
        return self._first.deep_copy()

    def __repr__(self) -> str:
        return self.label


class _State:
    """A matcher, and the ids that it consumed."""

    __slots__ = ("ids", "matcher")

    def __init__(self, matcher: Any, ids: tuple[int, ...]) -> None:
        self.matcher, self.ids = matcher, ids


class Constraint(OnOps):
    """Only tokens stay with which the text can go on to one that the grammar accepts.

    The text is ids[n_prompt:]. What is kept between calls saves time and changes no result.
    Errors, of calls: ConstraintError for ids that the grammar does not accept, and where no token can follow.
    """

    __slots__ = ("_end", "_end_mask", "_masks", "_states", "_text_mask", "grammar", "n_prompt", "name")
    removes = True

    def __init__(self, grammar: Grammar, n_prompt: int, ops: Ops, eos_ids: Sequence[int] | None = None) -> None:
        """eos_ids: the tokens that end the text; None: the vocabulary's."""
        self.name = grammar.kind
        super().__init__(0.0, ops)
        self.label = grammar.label
        self.grammar, self.n_prompt = grammar, n_prompt
        self._end = frozenset(grammar.vocabulary.eos_ids if eos_ids is None else eos_ids)
        self._end_mask = sum(1 << token for token in self._end)
        self._text_mask = ((1 << len(grammar.vocabulary.tokens)) - 1) & ~self._end_mask
        self._states: list[_State] = []  # the one used last is the last
        self._masks: OrderedDict[tuple[int, ...], int] = OrderedDict()

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """See Processor."""
        text = tuple(ids[self.n_prompt :])
        n_vocab = logits.shape[1]
        mask = self._mask(text) & ((1 << n_vocab) - 1)
        if not mask:
            raise self._error(len(text), f"the tokens that fit have ids above the model's last, {n_vocab - 1}")
        return self.ops.mask(logits, mask.to_bytes((n_vocab + 31) // 32 * 4, "little"))

    def likely(self, ids: Sequence[int]) -> list[int]:
        """The tokens that probably come next, up to MAX_FORCED, where only one text can: its longest tokens.

        The bytes are forced; how they are cut into tokens is the model's choice, which this guesses. Errors: as for a call.
        """
        tokens = self.grammar.vocabulary.tokens
        text = tuple(ids[self.n_prompt :])
        found: list[int] = []
        mask = self._mask(text)
        while mask.bit_count() <= LONGEST_CHAIN and not mask & self._end_mask and len(found) < MAX_FORCED:
            allowed = _bits(mask)
            longest = max(allowed, key=lambda token: len(tokens[token]))
            if any(not tokens[longest].startswith(tokens[token]) for token in allowed):
                break
            found.append(longest)
            try:
                mask = self._mask((*text, *found))
            except ConstraintError:
                break
        return found

    def _mask(self, text: tuple[int, ...]) -> int:
        """Bit i: token i may follow. At least one is set."""
        mask = self._masks.get(text)
        if mask is None:
            mask = self._masks[text] = self._computed(text)
            if len(self._masks) > MAX_MASKS:
                self._masks.popitem(last=False)
        else:
            self._masks.move_to_end(text)
        return mask

    def _computed(self, text: tuple[int, ...]) -> int:
        if not self._end.isdisjoint(text):
            return self._after_end(text)
        state = self._state(text)
        mask = int.from_bytes(state.matcher.compute_bitmask(), "little") & self._text_mask
        if state.matcher.is_error():
            self._states.remove(state)
            message = state.matcher.get_error()
            if not message.startswith("NoExtension"):
                raise self._too_complex(len(text), message)
            mask = 0
        elif state.matcher.is_accepting():
            if not mask and not self._end:
                raise self._error(
                    len(text), "the text is complete, and the model has no token that ends it; set a length"
                )
            mask |= self._end_mask
        if not mask:
            raise self._error(len(text), "no token can follow; the grammar leads to a dead end, change it")
        return mask

    def _after_end(self, text: tuple[int, ...]) -> int:
        n = next(i for i, token in enumerate(text) if token in self._end)
        other = next((i for i in range(n, len(text)) if text[i] not in self._end), None)
        if other is not None:
            raise self._error(other, f"token {text[other]} comes after the end of the text; expected an end token")
        if not self._mask(text[:n]) & self._end_mask:
            raise self._error(n, f"the end token {text[n]} comes where the text is not complete")
        return self._end_mask

    def _state(self, text: tuple[int, ...]) -> _State:
        """A state of exactly this text, made from the one that is nearest to it."""
        state, n = self._nearest(text)
        if state is None or n < len(state.ids):
            matcher = self.grammar.matcher() if state is None else state.matcher.deep_copy()
            if state is not None and not matcher.rollback(len(state.ids) - n):
                matcher, n = self.grammar.matcher(), 0
            state = _State(matcher, text[:n])
        else:
            self._states.remove(state)
        rest = list(text[n:])
        known = len(self.grammar.vocabulary.tokens)
        good = next((i for i, token in enumerate(rest) if not 0 <= token < known), len(rest))
        n += state.matcher.try_consume_tokens(rest[:good])
        state.ids = text[:n]
        if state.matcher.is_error():
            raise self._too_complex(n, state.matcher.get_error())
        self._states.append(state)
        if len(self._states) > MAX_STATES:
            del self._states[0]
        if n < len(text):
            raw = self.grammar.vocabulary.tokens[text[n]] if 0 <= text[n] < known else b""
            raise self._error(n, f"token {text[n]} ({raw!r}) does not fit the grammar")
        return state

    def _nearest(self, text: tuple[int, ...]) -> tuple[_State | None, int]:
        """The state that shares most ids with the text, and how many; None: no state shares any."""
        best, most = None, 0
        for state in reversed(self._states):
            n = _shared(state.ids, text)
            if n > most:
                best, most = state, n
                if n >= len(text) - 1 and n == len(state.ids):
                    break
        return best, most

    def _too_complex(self, n: int, message: str) -> ConstraintError:
        what = message.partition("\n")[0]
        return self._error(n, f"llguidance gave up: {what}; the grammar is too complex here, simplify it")

    def _error(self, n: int, what: str) -> ConstraintError:
        return ConstraintError(f"{self.label}: after {n} tokens of the text: {what}")


def _bits(mask: int) -> list[int]:
    """The positions of the bits that are set."""
    found = []
    while mask:
        lowest = mask & -mask
        found.append(lowest.bit_length() - 1)
        mask ^= lowest
    return found


def _shared(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """How many ids the two begin with in common."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while low < high - 1:  # they agree up to low, and not up to high
        middle = (low + high) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle)
    return low
