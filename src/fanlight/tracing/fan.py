"""The tree of likely continuations of a prompt. In: a model, a prompt. Out: a Fan, plain data. Knows no picture.

fan(model, "The cat sat on the", width=3, depth=4).nodes[1].label

A level is computed at once, one pass for all its nodes; what their texts begin with is shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp
from typing import TYPE_CHECKING, Any

from fanlight.errors import OptionError

if TYPE_CHECKING:
    from fanlight.decoding.config import GenerationConfig
    from fanlight.model import Model
    from fanlight.trace.records import StepRecord

PROMPT = -1
"""The parent of the first tokens."""
WITHOUT = (
    *("stop_strings", "include_stop_string", "stopping_criteria", "loop_repeats", "max_time", "num_return_sequences"),
    *("best_of", "vote_pattern", "prompt_lookup_num_tokens", "max_matching_ngram_size", "assistant_early_exit"),
    *("output_scores", "output_logits", "output_attentions", "output_hidden_states"),
)
"""Settings that say nothing of what comes next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FanNode:
    """One token after a text."""

    parent: int
    """Its number in `Fan.nodes`; -1: the prompt."""
    id: int
    label: str
    """The token on one line: spaces and line ends are visible."""
    prob: float
    """Of the token, after the text before it."""
    cumulative: float
    """Of all tokens from the prompt to it, one after the other."""
    depth: int
    """1: it follows the prompt."""
    is_end: bool = False
    """It ends the text."""
    rest: float = 1.0
    """Probability of all that comes next and is no node; 0 after the end of a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fan:
    """Likely continuations, parents before their children, and the more probable child first."""

    prompt_ids: tuple[int, ...]
    prompt: str
    nodes: tuple[FanNode, ...]
    rest: float
    """Probability of all that follows the prompt and is no node."""
    width: int
    max_depth: int
    min_prob: float
    is_final: bool
    """Whether the probabilities are those after all processors; else the model's own."""
    labels: tuple[str, ...] = ()
    """Of the processors, with is_final: "top_p(0.9)"."""

    def children(self, node: int = PROMPT) -> tuple[int, ...]:
        """Numbers of the nodes after one, or after the prompt."""
        return tuple(i for i, each in enumerate(self.nodes) if each.parent == node)

    def path(self, node: int) -> tuple[int, ...]:
        """The ids from the prompt to a node, with it."""
        found: list[int] = []
        while node > PROMPT:
            found.append(self.nodes[node].id)
            node = self.nodes[node].parent
        return tuple(reversed(found))

    def text(self, node: int) -> str:
        """The labels from the prompt to a node, joined."""
        found: list[str] = []
        while node > PROMPT:
            found.append(self.nodes[node].label)
            node = self.nodes[node].parent
        return "".join(reversed(found))

    @property
    def leaves(self) -> tuple[int, ...]:
        """Numbers of the nodes without children, the most probable text first."""
        parents = {node.parent for node in self.nodes}
        ends = [i for i in range(len(self.nodes)) if i not in parents]
        return tuple(sorted(ends, key=lambda i: (-self.nodes[i].cumulative, i)))

    @property
    def depth(self) -> int:
        """Of the deepest node; 0: there is none."""
        return max((node.depth for node in self.nodes), default=0)

    def __str__(self) -> str:
        lines = [f"{self.prompt[-60:]!r}, and {'after all processors' if self.is_final else 'by the model alone'}:"]
        self._list(PROMPT, "", lines)
        return "\n".join(lines)

    def _list(self, node: int, indent: str, lines: list[str]) -> None:
        for child in self.children(node):
            each = self.nodes[child]
            lines.append(
                f"{indent}{each.label}  {each.prob:.1%}{' (end)' if each.is_end else ''}  [{each.cumulative:.2%}]"
            )
            self._list(child, indent + "    ", lines)


def fan(
    model: Model,
    prompt: str | Sequence[int],
    *,
    width: int = 3,
    depth: int = 4,
    min_prob: float = 0.01,
    final: bool = False,
    config: GenerationConfig | None = None,
    max_batch: int = 16,
    **options: Any,
) -> Fan:
    """The `width` most probable tokens after the prompt, after each of these again, `depth` levels down.

    min_prob: what a token needs, after its text, to be a node. final: probabilities after all processors of these settings (config,
    options, or the model's own), in place of the model's own. A token that ends the text has nothing after it. max_batch: nodes
    computed in one pass. Errors: OptionError; those of `Model.generate`.
    """
    _check("width", width, 1, 100)
    _check("depth", depth, 1, 100)
    if isinstance(min_prob, bool) or not isinstance(min_prob, int | float) or not 0 <= min_prob <= 1:
        raise OptionError(f"min_prob must be between 0 and 1: got {min_prob!r:.80}")
    if options and not final:
        raise OptionError(f"{next(iter(options))} changes final probabilities only: give final=True with it")
    settings = _settings(model, config, options, width)
    eos_ids = model.tokenizer.eos_ids if settings.eos_token_id is None else settings.eos_token_id
    ends = frozenset[int]() if settings.ignore_eos else frozenset(eos_ids)
    ids = model.prompt_ids(prompt, settings.bos_token_id)
    nodes: list[FanNode] = []
    paths: dict[int, tuple[int, ...]] = {PROMPT: ()}
    rest, level, labels = 1.0, [PROMPT], tuple[str, ...]()
    for at in range(depth):
        records = _records(
            model, settings, [(node, ids + paths[node]) for node in level], len(ids), max_batch, final=final
        )
        labels = labels or tuple(effect.label for record in records.values() for effect in record.effects)
        following: list[int] = []
        for node in level:
            chosen = _likely(records[node], width, min_prob, final=final)
            left = max(0.0, 1 - sum(prob for _, prob in chosen))
            before = 1.0 if node == PROMPT else nodes[node].cumulative
            if node == PROMPT:
                rest = left
            else:
                nodes[node] = replace(nodes[node], rest=left)
            for token, prob in chosen:
                is_end = token in ends
                label, cumulative = model.tokenizer.token_label(token), before * prob
                new = FanNode(
                    parent=node,
                    id=token,
                    label=label,
                    prob=prob,
                    cumulative=cumulative,
                    depth=at + 1,
                    is_end=is_end,
                    rest=0.0 if is_end else 1.0,
                )
                nodes.append(new)
                paths[len(nodes) - 1] = (*paths[node], token)
                if not is_end:
                    following.append(len(nodes) - 1)
        level = following
        if not level:
            break
    text = prompt if isinstance(prompt, str) else model.tokenizer.decode(ids)
    return Fan(
        prompt_ids=ids,
        prompt=text,
        nodes=tuple(nodes),
        rest=rest,
        width=width,
        max_depth=depth,
        min_prob=min_prob,
        is_final=final,
        labels=labels if final else (),
    )


def _settings(model: Model, config: GenerationConfig | None, options: dict[str, Any], width: int) -> GenerationConfig:
    """Those that shape probabilities; what ends a text, or guesses ahead, has no part here."""
    from fanlight.decoding.config import DEFAULTS, GenerationConfig

    if config is not None and not isinstance(config, GenerationConfig):
        raise OptionError(f"config must be a GenerationConfig, or options by name: got {config!r:.80}")
    settings = model.settings(**options) if config is None else config.replace(**options) if options else config
    return settings.replace(candidates=width, **{name: DEFAULTS[name] for name in WITHOUT})


def _records(
    model: Model,
    settings: GenerationConfig,
    texts: Sequence[tuple[int, tuple[int, ...]]],
    n_prompt: int,
    max_batch: int,
    *,
    final: bool,
) -> dict[int, StepRecord]:
    """What comes after each of several texts, by their numbers."""
    from fanlight.decoding.config import GenerationConfig
    from fanlight.jobs import Job

    plain = GenerationConfig(max_new_tokens=1, candidates=settings.candidates)
    found: dict[int, StepRecord] = {}
    jobs = [
        # processors tell the prompt from the text: so the text is given, with any token where the next one comes
        Job(node, ids[:n_prompt], settings, given=(*ids[n_prompt:], 0)) if final else Job(node, ids, plain)
        for node, ids in texts
    ]
    for outcome in model.generate_each(jobs, max_batch=max_batch):
        if outcome.generation is None:
            assert outcome.error is not None
            raise outcome.error
        found[int(str(outcome.key))] = outcome.generation.steps[-1].record
    return found


def _likely(record: StepRecord, width: int, min_prob: float, *, final: bool) -> list[tuple[int, float]]:
    """The most probable tokens, the first before the others; ties: lowest id first."""
    logits, total = (
        (record.final_logits, record.final.logsumexp) if final else (record.raw_logits, record.raw.logsumexp)
    )
    found = [(token, exp(logit - total)) for token, logit in zip(record.candidate_ids, logits, strict=True)]
    found = sorted((pair for pair in found if pair[1] > 0), key=lambda pair: (-pair[1], pair[0]))
    return [pair for pair in found[:width] if pair[1] >= min_prob]


def _check(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise OptionError(f"{name} must be a whole number from {low} to {high}: got {value!r:.80}")
