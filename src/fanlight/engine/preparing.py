"""From a request's settings to what its processors need: ends of text, a healed prompt, a compiled form. Knows no scheduling."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from fanlight.decoding.config import DEFAULTS, GenerationConfig
from fanlight.decoding.processors import Processor, Surroundings
from fanlight.decoding.step import StepSettings
from fanlight.decoding.strategies.choose import SAMPLING, strategy_of
from fanlight.engine.request import checked_ids, seed_of
from fanlight.errors import OptionError

if TYPE_CHECKING:
    from fanlight.decoding.constraints import Constraint, Vocabulary
    from fanlight.models.base import Decoder

FORMS = ("regex", "choice", "json_schema", "grammar")


class Prepared(NamedTuple):
    """A prompt and its settings, made ready."""

    ids: tuple[int, ...]
    """The prompt, without the token that is to be healed."""
    skip: str
    """What of the text's beginning the prompt held already."""
    eos_ids: tuple[int, ...]
    """The ends of text that are asked for, or the model's own."""
    given: tuple[Processor, ...]
    constraint: Constraint | None


class Preparer:
    """What of a model the settings of a request are checked against."""

    def __init__(
        self,
        decoder: Decoder,
        *,
        eos_ids: tuple[int, ...] = (),
        token_text: Callable[[int], str] | None = None,
        vocabulary: Callable[[], Vocabulary] | None = None,
    ) -> None:
        """As for Engine."""
        self._sizes, self._ops = decoder.config, decoder.ops
        self._eos_ids, self._token_text, self._vocabulary = eos_ids, token_text, vocabulary

    def check_ids(self, what: str, ids: Iterable[int]) -> tuple[int, ...]:
        """The ids, all in the vocabulary. Errors: OptionError."""
        return checked_ids(what, ids, self._sizes.n_vocab)

    def prepare(self, config: GenerationConfig, ids: tuple[int, ...]) -> Prepared:
        """Errors: OptionError, and what a form raises that cannot be compiled."""
        for option in ("force_words_ids", "constraints"):
            for phrase in getattr(config, option):
                for sequence in phrase:
                    self.check_ids(option, sequence)
        for option in ("bos_token_id", "pad_token_id"):
            if getattr(config, option) is not None:
                self.check_ids(option, (getattr(config, option),))
        exit_at, n_layer = config.assistant_early_exit, self._sizes.n_layer
        if exit_at is not None and exit_at >= n_layer:
            raise OptionError(
                f"assistant_early_exit must be from 1 to {n_layer - 1}, before the last layer: got {exit_at}"
            )
        asked = config.eos_token_id
        eos_ids = self._eos_ids if asked is None else self.check_ids("eos_token_id", asked)
        skip, n_prompt = "", len(ids)
        given: list[Processor] = []
        if config.token_healing:
            ids, skip, healing = self._heal(ids)
            given += [healing] if healing is not None else []
        constraint = None
        kind = form_of(config)
        if kind is not None:
            if skip:
                raise OptionError(
                    f"token_healing cannot be combined with {kind}: the text would begin within the prompt"
                )
            if config.ignore_eos or not eos_ids:
                why = "ignore_eos" if config.ignore_eos else "eos_token_id without an id"
                raise OptionError(f"{why} cannot be combined with {kind}: a text of a form ends where the form does")
            constraint = self._constraint(kind, config, n_prompt, eos_ids)
            given.append(constraint)
        return Prepared(ids, skip, eos_ids, tuple(given), constraint)

    def surroundings(
        self, prepared: Prepared, *, seed: int, max_length: int | None, others: frozenset[str] = frozenset()
    ) -> Surroundings:
        """What processors are built from. others: see Surroundings."""
        return Surroundings(
            ops=self._ops,
            n_vocab=self._sizes.n_vocab,
            prompt_ids=prepared.ids,
            seed=seed,
            eos_ids=prepared.eos_ids,
            max_length=max_length,
            n_layer=self._sizes.n_layer,
            tied_head=self._sizes.tied_head,
            token_text=self._token_text,
            given=prepared.given,
            others=others,
        )

    def one_choice(self, config: GenerationConfig, ids: tuple[int, ...]) -> StepSettings:
        """What decides the token after ids, without a text around it. Errors: OptionError, and those of `prepare`."""
        if strategy_of(config) != SAMPLING or config.token_healing:
            raise OptionError("next_token makes one choice: searches and token_healing need a text; use generate")
        limits = [config.max_length] if config.max_length is not None and config.new_tokens is None else []
        limits += [len(ids) + config.new_tokens] if config.new_tokens is not None else []
        prepared = self.prepare(config, ids)
        around = self.surroundings(prepared, seed=seed_of(config), max_length=min(limits, default=None))
        settings = StepSettings.of(config, around)
        if settings.besides:
            raise OptionError("settings that set two rows against each other need a text: use generate, not next_token")
        return settings

    def _constraint(self, kind: str, config: GenerationConfig, n_prompt: int, eos_ids: tuple[int, ...]) -> Constraint:
        from fanlight.decoding.constraints import Constraint, Grammar

        if self._vocabulary is None:
            raise OptionError(f"{kind} needs the tokens' texts: give the engine a vocabulary")
        grammar = Grammar.compile(kind, getattr(config, kind), self._vocabulary())
        return Constraint(grammar, n_prompt, self._ops, eos_ids)

    def _heal(self, ids: tuple[int, ...]) -> tuple[tuple[int, ...], str, Processor | None]:
        from fanlight.decoding.healing import heal

        if self._vocabulary is None:
            raise OptionError("token_healing needs the tokens' texts: give the engine a vocabulary")
        return heal(ids, self._vocabulary(), self._ops)


def form_of(config: GenerationConfig) -> str | None:
    """Which option says what the text may be. Errors: OptionError if two do."""
    kinds = [name for name in FORMS if getattr(config, name) != DEFAULTS[name]]
    if len(kinds) > 1:
        raise OptionError(f"{kinds[0]} and {kinds[1]} both say what the text may be: choose one")
    return kinds[0] if kinds else None
