"""Processors: (ids, logits) -> logits. In: the ids so far and one row (1, n_vocab). Knows no model and no text.

A processor never writes to its input. A filter is a processor that removes tokens, by a logit of -inf, and changes no
other. Here: what a processor is, in which order they stand, and how settings become processors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from fanlight.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanlight.decoding.config import GenerationConfig
    from fanlight.kernels.ops import Ops, Tensor


class Processor(Protocol):
    """One step between the model's logits and the choice. Immutable: a request's beams and drafts share it."""

    @property
    def name(self) -> str:
        """The option that switches it on."""

    @property
    def label(self) -> str:
        """The name with its setting: "top_p(0.9)"."""

    @property
    def value(self) -> float:
        """The setting, where it is a number."""

    @property
    def removes(self) -> bool:
        """Whether it is a filter."""

    @property
    def remembers(self) -> bool:
        """Whether `after` may be another."""

    @property
    def beside(self) -> str | None:
        """Which other row of the same step it reads ("negative", "amateur", "layers"); None: none."""

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """(1, n_vocab) -> (1, n_vocab)."""

    def between(self, ids: Sequence[int], logits: Tensor, others: Tensor) -> Tensor:
        """The same with the rows that `beside` names: (n, n_vocab)."""

    def after(self, token: int, before: Tensor, result: Tensor) -> Processor:
        """What it is at the next step, now that `token` was chosen: itself, unless it remembers."""


class OnOps:
    """What most processors share: a setting, and the ops they run on."""

    __slots__ = ("label", "ops", "value")
    name = ""
    removes = False
    beside: str | None = None
    remembers = False

    def __init__(self, value: float, ops: Ops) -> None:
        self.value = value
        self.ops = ops
        self.label = f"{self.name}({value:g})"

    def __call__(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """See Processor."""
        raise OptionError(f"{self.name} needs another row beside the logits, and this strategy has none")

    def between(self, ids: Sequence[int], logits: Tensor, others: Tensor) -> Tensor:
        """See Processor."""
        return self(ids, logits)

    def after(self, token: int, before: Tensor, result: Tensor) -> Processor:
        """See Processor."""
        return self

    def __repr__(self) -> str:
        return self.label


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What processors need to know of a request besides its settings."""

    ops: Ops
    n_vocab: int
    prompt_ids: tuple[int, ...] = ()
    seed: int = 0
    eos_ids: tuple[int, ...] = ()
    max_length: int | None = None
    """Of prompt and text, if one is set."""
    n_layer: int = 1
    tied_head: bool = False
    others: frozenset[str] = frozenset()
    """Which other rows the strategy can lay beside the logits, for the caller asked for it: "amateur"."""
    token_text: Callable[[int], str] | None = None
    """For settings that speak of texts: dry_sequence_breakers."""
    given: tuple[Processor, ...] = ()
    """Made by the caller: a compiled constraint, token healing."""

    @property
    def n_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.prompt_ids)


Maker = Callable[["GenerationConfig", Surroundings], "Processor | None"]
"""None: these settings leave it off."""


def makers() -> Mapping[str, tuple[Maker, bool]]:
    """Name -> (maker, whether only sampling uses it), in the order in which processors stand by default.

    That is transformers' order, with what it does not have where its authors put it: penalties together, before the
    temperature; filters after it.
    """
    from fanlight.decoding import bans, contrasts, filters, penalties, remembering, shapes, watermarks

    return {
        "guidance_scale": (contrasts.guidance, False),
        "contrastive_decoding": (contrasts.amateur, False),
        "dola_layers": (contrasts.dola, False),
        "sequence_bias": (penalties.sequence_bias, False),
        "logit_bias": (penalties.logit_bias, False),
        "encoder_repetition_penalty": (penalties.encoder_repetition, False),
        "repetition_penalty": (penalties.repetition, False),
        "frequency_penalty": (penalties.frequency, False),
        "presence_penalty": (penalties.presence, False),
        "dry": (penalties.dry, False),
        "no_repeat_ngram_size": (bans.no_repeat_ngram, False),
        "bad_words_ids": (bans.bad_words, False),
        "min_length": (bans.min_length, False),
        "min_new_tokens": (bans.min_new_tokens, False),
        "forced_bos_token_id": (bans.forced_bos, False),
        "forced_eos_token_id": (bans.forced_eos, False),
        "remove_invalid_values": (shapes.invalid_values, False),
        "exponential_decay_length_penalty": (bans.decay, False),
        "suppress_tokens": (bans.suppress, False),
        "begin_suppress_tokens": (bans.begin_suppress, False),
        "constraint": (_given("regex", "choice", "json_schema", "grammar"), False),
        "token_healing": (_given("token_healing"), False),
        "temperature": (shapes.temperature, True),
        "smoothing_factor": (shapes.smoothing, True),
        "top_h": (filters.top_h, True),
        "top_k": (filters.top_k, True),
        "top_n_sigma": (filters.top_n_sigma, True),
        "top_p": (filters.top_p, True),
        "min_p": (filters.min_p, True),
        "typical_p": (filters.typical_p, True),
        "epsilon_cutoff": (filters.epsilon_cutoff, True),
        "eta_cutoff": (filters.eta_cutoff, True),
        "tfs": (filters.tail_free, True),
        "top_a": (filters.top_a, True),
        "xtc": (filters.xtc, True),
        "mirostat": (remembering.mirostat, True),
        "adaptive_p": (remembering.adaptive_p, True),
        "watermarking_config": (watermarks.watermark, False),
        "renormalize_logits": (shapes.renormalize, False),
    }


def build_processors(config: GenerationConfig, around: Surroundings) -> tuple[Processor, ...]:
    """The processors that these settings ask for, in the order of `config.processors`, or of `makers`.

    Those that would change nothing are left out. Only sampling uses those from the temperature on: they keep the order of
    the logits, or have no meaning without a draw. Errors: OptionError for an unknown name, or one that stands twice.
    """
    known = makers()
    order: Sequence[Any] = config.processors if config.processors is not None else default_order(config, around)
    built: list[Processor] = []
    seen: set[str] = set()
    for item in order:
        if callable(item):
            built.append(_custom(item, around))
            continue
        if item in seen:
            raise OptionError(f"processors names {item!r} twice")
        seen.add(item)
        if item not in known:
            built.append(_plugin(item, config, around))
            continue
        make, only_sampling = known[item]
        if only_sampling and not config.samples:
            continue
        processor = make(config, around)
        if processor is not None:
            built.append(processor)
    if config.processors is not None:  # what is a demand on the text, rather than a shape, is never left out
        built = [p for p in around.given if p.name not in {q.name for q in built}] + built
    return tuple(built)


def default_order(config: GenerationConfig, around: Surroundings) -> tuple[str, ...]:
    """That of `makers`. Where a contrast removes all but the plausible tokens, what bans tokens stands before it: of the tokens
    that are allowed, the plausible ones.
    """
    names = tuple(makers())
    if config.dola_layers is None and AMATEUR not in around.others:
        return names
    return (names[0], *BANS, *(name for name in names[1:] if name not in BANS))


def left_out(config: GenerationConfig) -> tuple[str, ...]:
    """Options that are set, whose processors `config.processors` does not name."""
    if config.processors is None:
        return ()
    from fanlight.decoding.config import DEFAULTS

    missing: list[str] = []
    for name, (_, only_sampling) in makers().items():
        if name in config.processors or (only_sampling and not config.samples):
            continue
        options = SWITCHES.get(name, (name,))
        missing += [option for option in options if option in DEFAULTS and getattr(config, option) != DEFAULTS[option]]
    return tuple(missing)


BANS = (
    *("no_repeat_ngram_size", "bad_words_ids", "min_length", "min_new_tokens", "suppress_tokens"),
    *("begin_suppress_tokens", "constraint", "token_healing"),
)
"""Processors that remove tokens whatever their logits are."""
AMATEUR = "amateur"
"""The other row that contrastive decoding reads, and the model that it is of."""
SWITCHES: Mapping[str, tuple[str, ...]] = {
    "dry": ("dry_multiplier",),
    "xtc": ("xtc_probability",),
    "adaptive_p": ("adaptive_target",),
    "temperature": ("temperature", "dynatemp_range"),
}
"""Processor -> the options that switch it on, where that is not the one of its name."""


def processor_of(option: str) -> str:
    """The processor that an option switches on, where its name is another; "" if there is none."""
    forms = dict.fromkeys(("regex", "choice", "json_schema", "grammar"), "constraint")
    others = {name: processor for processor, names in SWITCHES.items() for name in names if name != processor}
    return {**forms, **others}.get(option, "")


def _given(*names: str) -> Maker:
    def make(config: GenerationConfig, around: Surroundings) -> Processor | None:
        return next((processor for processor in around.given if processor.name in names), None)

    return make


def _custom(function: Callable[..., Any], around: Surroundings) -> Processor:
    from fanlight.decoding.custom import Custom

    return Custom(function, around.ops)


def _plugin(name: str, config: GenerationConfig, around: Surroundings) -> Processor:
    from fanlight.decoding.custom import plugin

    return plugin(name, tuple(makers()), around.ops)
