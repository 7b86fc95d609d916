"""Token healing: the prompt's last token is chosen again, among all that begin with its text. Knows no model.

A prompt that ends within a word, or before a space, was cut into tokens at a place where the model would not have; the text
that follows suffers. Source: Lundberg, guidance 2023; transformers has it as `token_healing`.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from fanlight.decoding.processors import OnOps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanlight.decoding.constraints import Vocabulary
    from fanlight.kernels.ops import Ops, Tensor


class Healing(OnOps):
    """A filter: until the bytes that were taken off the prompt are there again, only tokens stay that go on with them."""

    __slots__ = ("n_prompt", "order", "prefix", "tokens")
    name = "token_healing"
    removes = True

    def __init__(self, prefix: bytes, n_prompt: int, vocabulary: Vocabulary, ops: Ops) -> None:
        super().__init__(float(len(prefix)), ops)
        self.prefix, self.n_prompt, self.tokens = prefix, n_prompt, vocabulary.tokens
        self.order = vocabulary.in_order()
        self.label = f"token_healing({prefix.decode('utf-8', errors='replace')!r})"

    def allowed(self, ids: Sequence[int]) -> list[int] | None:
        """The tokens that stay; None: all, for the prompt is whole again."""
        rest = self.prefix
        for token in ids[self.n_prompt :]:
            rest = rest[len(self.tokens[token]) :]
            if not rest:
                return None
        found: list[int] = []
        for n in range(1, len(rest)):  # tokens that are a part of it
            at = bisect_left(self.order, (rest[:n], -1))
            while at < len(self.order) and self.order[at][0] == rest[:n]:
                found.append(self.order[at][1])
                at += 1
        at = bisect_left(self.order, (rest, -1))
        while at < len(self.order) and self.order[at][0].startswith(rest):
            found.append(self.order[at][1])
            at += 1
        return found

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """See Processor."""
        found = self.allowed(ids)
        return logits if found is None else self.ops.keep(logits, found)


def heal(prompt_ids: tuple[int, ...], vocabulary: Vocabulary, ops: Ops) -> tuple[tuple[int, ...], str, Healing | None]:
    """(the prompt without its last token, that token's text, the filter that brings it back).

    The prompt as it is, "" and None where there is nothing to heal: it is one token, ends with a special token or within a
    character, or no other token begins like its last.
    """
    last = prompt_ids[-1]
    prefix = vocabulary.tokens[last] if last < len(vocabulary.tokens) else b""
    try:
        text = prefix.decode("utf-8")
    except UnicodeDecodeError:
        return prompt_ids, "", None
    if len(prompt_ids) < 2 or not text or last in vocabulary.special_ids:
        return prompt_ids, "", None
    healing = Healing(prefix, len(prompt_ids) - 1, vocabulary, ops)
    allowed = healing.allowed(prompt_ids[:-1])
    if allowed is None or not any(len(vocabulary.tokens[token]) > len(prefix) for token in allowed):
        return prompt_ids, "", None
    return prompt_ids[:-1], text, healing
