"""Decoding settings. In: names and values from a caller. Out: a checked, frozen GenerationConfig. Knows no model.

Names and meanings follow Hugging Face's GenerationConfig where it has them (source: transformers 5.23), llama.cpp's and
text-generation-webui's otherwise. `notes.py` says which settings have no effect, `explaining.py` where each came from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from fanlight.decoding import rules
from fanlight.decoding.rules import Option, number, option, whole
from fanlight.errors import OptionError

if TYPE_CHECKING:
    from os import PathLike

    from fanlight.decoding.explaining import Explanation

SMALLEST, LARGEST = 1e-6, 1e6  # a divisor of logits: beyond these, float32 logits overflow or all become equal
DEFAULT_MAX_NEW_TOKENS = 128
INFINITE = float("inf")

LENGTH, CHOICE, FILTERS, PENALTIES = "length and stopping", "choosing", "filters", "penalties and biases"
SEARCH, SPEED, FORMS, RECORDS = "searches", "speculation", "constraints", "records"
GROUPS = (LENGTH, CHOICE, FILTERS, PENALTIES, SEARCH, SPEED, FORMS, RECORDS)

_SCALE = f"between {SMALLEST:g} and {LARGEST:g}"
_PENALTY = number(SMALLEST, LARGEST, _SCALE)
_SHARE = number(0, 1, "above 0 and at most 1", open_low=True)
_PROB = number(0, 1, "between 0 and 1")
_CUTOFF = number(0, 1, "at least 0 and below 1 (0: off)", open_high=True)
_FROM_ZERO = number(0, LARGEST, f"between 0 and {LARGEST:g}")
_SIGNED = number(-LARGEST, LARGEST, f"between {-LARGEST:g} and {LARGEST:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """How to choose tokens and when to end. Raises OptionError, which names the option, its range and the value.

    What each option does stands in its `help`; `fanlight generate --help` shows all. 1, 0 or None switch most of them off.
    """

    # -- length and stopping
    max_new_tokens: int | None = option(DEFAULT_MAX_NEW_TOKENS, rules.optional(whole(0)), LENGTH, "N")
    max_length: int | None = option(None, whole(1), LENGTH, "N")
    min_length: int = option(0, whole(0), LENGTH, "N")
    min_new_tokens: int | None = option(None, whole(0), LENGTH, "N")
    max_time: float | None = option(
        None, number(0, INFINITE, "a number of seconds above 0", open_low=True), LENGTH, "SECONDS"
    )
    stop_strings: tuple[str, ...] = option((), rules.strings(), LENGTH, "TEXT")
    include_stop_string: bool = option(False, rules.boolean(), LENGTH)
    eos_token_id: tuple[int, ...] | None = option(None, rules.token_ids(), LENGTH, "N")
    bos_token_id: int | None = option(None, whole(0), LENGTH, "N")
    pad_token_id: int | None = option(None, whole(0), LENGTH, "N")
    ignore_eos: bool = option(False, rules.boolean(), LENGTH)
    loop_repeats: int = option(0, whole(0, "0 (off), or at least 2"), LENGTH, "N")
    loop_min_tokens: int = option(1, whole(1), LENGTH, "N")
    stopping_criteria: tuple[Callable[..., Any], ...] = option(
        (), rules.callables("a function of (ids, text), or several"), LENGTH
    )

    # -- choosing
    do_sample: bool = option(False, rules.boolean(), CHOICE)
    seed: int | None = option(None, whole(), CHOICE, "N", sampling=True)
    temperature: float = option(
        1.0, number(SMALLEST, LARGEST, f"0 (greedy), or {_SCALE}", also=0.0), CHOICE, "T", sampling=True
    )
    dynatemp_range: float = option(0.0, _FROM_ZERO, CHOICE, "R", sampling=True)
    dynatemp_exponent: float = option(1.0, number(0, LARGEST, "above 0", open_low=True), CHOICE, "X", sampling=True)
    smoothing_factor: float = option(0.0, _FROM_ZERO, CHOICE, "X", sampling=True)
    smoothing_curve: float = option(1.0, number(1, LARGEST, "at least 1"), CHOICE, "X", sampling=True)
    mirostat: int = option(0, whole(0, "0 (off), 1 or 2", high=2), CHOICE, "V", sampling=True)
    mirostat_tau: float = option(5.0, number(0, LARGEST, "above 0", open_low=True), CHOICE, "X", sampling=True)
    mirostat_eta: float = option(0.1, _PROB, CHOICE, "X", sampling=True)
    adaptive_target: float | None = option(None, _PROB, CHOICE, "P", sampling=True)
    adaptive_decay: float = option(0.9, number(0, 0.99, "between 0 and 0.99"), CHOICE, "X", sampling=True)
    guidance_scale: float = option(1.0, number(0, LARGEST, "above 0", open_low=True), CHOICE, "X")
    negative_prompt: str | None = option(None, rules.text("a text that is not empty"), CHOICE, "TEXT")
    negative_prompt_ids: tuple[int, ...] | None = option(None, rules.token_ids(), CHOICE, "N")
    watermarking_config: Any = option(
        None, rules.Rule("a mapping of watermark settings", lambda value: _watermark(value), "json"), CHOICE, "JSON"
    )
    processors: tuple[Any, ...] | None = option(
        None, rules.names_or_callables("processor names and functions, in order"), CHOICE, "NAME,..."
    )

    # -- filters
    min_tokens_to_keep: int = option(1, whole(1), FILTERS, "N", sampling=True)
    top_k: int | None = option(
        50, rules.optional(whole(0, "an integer of at least 0 (0 or None: off)")), FILTERS, "K", sampling=True
    )
    top_p: float = option(1.0, _SHARE, FILTERS, "P", sampling=True)
    min_p: float | None = option(None, _PROB, FILTERS, "P", sampling=True)
    top_h: float | None = option(None, _SHARE, FILTERS, "H", sampling=True)
    typical_p: float = option(1.0, _SHARE, FILTERS, "P", sampling=True)
    epsilon_cutoff: float = option(0.0, _CUTOFF, FILTERS, "P", sampling=True)
    eta_cutoff: float = option(0.0, _CUTOFF, FILTERS, "P", sampling=True)
    top_n_sigma: float = option(0.0, _FROM_ZERO, FILTERS, "N", sampling=True)
    tfs: float = option(1.0, _SHARE, FILTERS, "Z", sampling=True)
    top_a: float = option(0.0, _PROB, FILTERS, "A", sampling=True)
    xtc_probability: float = option(0.0, _PROB, FILTERS, "P", sampling=True)
    xtc_threshold: float = option(0.1, _PROB, FILTERS, "P", sampling=True)

    # -- penalties and biases
    repetition_penalty: float = option(1.0, _PENALTY, PENALTIES, "R")
    repetition_penalty_range: int = option(0, whole(0, "an integer of at least 0 (0: all)"), PENALTIES, "N")
    penalize_prompt: bool | None = option(None, rules.boolean(), PENALTIES)
    encoder_repetition_penalty: float = option(1.0, _PENALTY, PENALTIES, "R")
    frequency_penalty: float = option(0.0, _SIGNED, PENALTIES, "X")
    presence_penalty: float = option(0.0, _SIGNED, PENALTIES, "X")
    no_repeat_ngram_size: int = option(0, whole(0), PENALTIES, "N")
    dry_multiplier: float = option(0.0, _FROM_ZERO, PENALTIES, "M")
    dry_base: float = option(1.75, number(1, LARGEST, "at least 1"), PENALTIES, "X")
    dry_allowed_length: int = option(2, whole(1), PENALTIES, "N")
    dry_penalty_last_n: int = option(0, whole(0, "an integer of at least 0 (0: all)"), PENALTIES, "N")
    dry_sequence_breakers: tuple[str, ...] = option(("\n", ":", '"', "*"), rules.strings(), PENALTIES, "TEXT")
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = option((), rules.sequence_biases(), PENALTIES, "JSON")
    logit_bias: tuple[tuple[int, float], ...] = option((), rules.id_biases(), PENALTIES, "JSON")
    bad_words_ids: tuple[tuple[int, ...], ...] = option(
        (), rules.token_lists("lists of token ids, none of them empty"), PENALTIES, "JSON"
    )
    suppress_tokens: tuple[int, ...] = option((), rules.token_ids(), PENALTIES, "N")
    begin_suppress_tokens: tuple[int, ...] = option((), rules.token_ids(), PENALTIES, "N")
    forced_bos_token_id: int | None = option(None, whole(0), PENALTIES, "N")
    forced_eos_token_id: tuple[int, ...] | None = option(None, rules.token_ids(), PENALTIES, "N")
    exponential_decay_length_penalty: tuple[int, float] | None = option(None, rules.decay(), PENALTIES, "JSON")
    remove_invalid_values: bool = option(False, rules.boolean(), PENALTIES)
    renormalize_logits: bool = option(False, rules.boolean(), PENALTIES)

    # -- searches
    num_beams: int = option(1, whole(1, high=512), SEARCH, "N")
    num_beam_groups: int = option(1, whole(1, high=512), SEARCH, "N")
    diversity_penalty: float = option(0.0, _FROM_ZERO, SEARCH, "X")
    length_penalty: float = option(1.0, _SIGNED, SEARCH, "X")
    early_stopping: bool | str = option(False, rules.one_of(False, True, "never"), SEARCH)
    num_return_sequences: int = option(1, whole(1, high=512), SEARCH, "N")
    best_of: int = option(1, whole(1, high=512), SEARCH, "N", sampling=True)
    vote_pattern: str | None = option(None, rules.text("a regular expression"), SEARCH, "REGEX", sampling=True)
    penalty_alpha: float = option(0.0, _PROB, SEARCH, "A")
    dola_layers: Any = option(None, rules.layers(), SEARCH, "LAYERS")
    contrastive_alpha: float = option(0.1, _SHARE, SEARCH, "A")
    contrastive_beta: float = option(0.5, _FROM_ZERO, SEARCH, "B")
    force_words_ids: tuple[tuple[tuple[int, ...], ...], ...] = option((), rules.forced_words(), SEARCH, "JSON")
    constraints: tuple[tuple[tuple[int, ...], ...], ...] = option((), rules.forced_words(), SEARCH, "JSON")

    # -- speculation
    use_cache: bool = option(True, rules.boolean(), SPEED)
    prompt_lookup_num_tokens: int | None = option(None, whole(1), SPEED, "N")
    max_matching_ngram_size: int | None = option(None, whole(1), SPEED, "N")
    num_assistant_tokens: int = option(20, whole(1), SPEED, "N")
    num_assistant_tokens_schedule: str = option(
        "constant", rules.one_of("constant", "heuristic", "heuristic_transient"), SPEED
    )
    assistant_confidence_threshold: float = option(0.4, _PROB, SPEED, "P")
    assistant_early_exit: int | None = option(None, whole(1), SPEED, "N")

    # -- constraints
    regex: str | None = option(None, rules.text("a regular expression"), FORMS, "REGEX")
    choice: tuple[str, ...] = option((), rules.strings(), FORMS, "TEXT")
    json_schema: str | None = option(None, rules.json_value("a JSON schema"), FORMS, "JSON")
    grammar: str | None = option(None, rules.text("a grammar"), FORMS, "LARK")
    token_healing: bool = option(False, rules.boolean(), FORMS)

    # -- records
    candidates: int = option(
        20, whole(-1, "an integer of at least 0 (0: no records), or -1 (the whole vocabulary)"), RECORDS, "N"
    )
    output_scores: bool = option(False, rules.boolean(), RECORDS)
    output_logits: bool = option(False, rules.boolean(), RECORDS)
    output_attentions: bool = option(False, rules.boolean(), RECORDS)
    output_hidden_states: bool = option(False, rules.boolean(), RECORDS)

    origins: tuple[tuple[str, str], ...] = field(default=(), compare=False, repr=False)
    """Where each option that is not at its default came from: "call", "preset creative", a file's name."""

    def __post_init__(self) -> None:
        put = object.__setattr__
        known = dict(self.origins)
        for name, default in DEFAULTS.items():
            value = getattr(self, name)
            if value is not default:
                put(self, name, OPTIONS[name].rule(name, value))
                if getattr(self, name) != default:
                    known.setdefault(name, CALL)
        if self.loop_repeats == 1:
            raise OptionError("loop_repeats must be 0 (off), or at least 2: got 1")
        put(self, "origins", tuple(known.items()))

    @classmethod
    def from_options(cls, options: Mapping[str, Any], origin: str = "call") -> GenerationConfig:
        """Settings from names and values. An unknown name is an OptionError that suggests the nearest known one."""
        return cls.from_layers([(origin, options)])

    @classmethod
    def from_layers(cls, layers: list[tuple[str, Mapping[str, Any]]]) -> GenerationConfig:
        """Settings from several origins, the later over the earlier: [("preset creative", {...}), ("call", {...})]."""
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        for origin, options in layers:
            try:
                check_names(options)
                if origin != CALL:
                    cls(**options)  # a fault is that origin's
            except OptionError as error:
                raise OptionError(f"{origin}: {error}") if origin != CALL else error from None
            values.update(options)
            origins.update(dict.fromkeys(options, origin))
        return cls(**values, origins=tuple(origins.items()))

    @classmethod
    def preset(cls, name: str, **options: Any) -> GenerationConfig:
        """The settings of a preset ("greedy", "precise", "balanced", "creative", "hf", "llama.cpp"), and options over them."""
        from fanlight.decoding.presets import preset

        return cls.from_layers([(f"preset {name}", preset(name)), (CALL, options)])

    @classmethod
    def from_file(cls, path: str | PathLike[str], **options: Any) -> GenerationConfig:
        """The settings in a JSON or TOML file, and options over them. Errors: OptionError."""
        from fanlight.decoding.presets import options_from_file

        return cls.from_layers([(str(path), options_from_file(path)), (CALL, options)])

    def replace(self, **options: Any) -> GenerationConfig:
        """A copy with these options changed."""
        check_names(options)
        origins = dict(self.origins) | dict.fromkeys(options, CALL)
        return replace(self, **options, origins=tuple(origins.items()))

    def values(self) -> dict[str, Any]:
        """Every option by its name."""
        return {name: getattr(self, name) for name in DEFAULTS}

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn at random: do_sample, and a temperature above 0."""
        return self.do_sample and self.temperature > 0

    @property
    def new_tokens(self) -> int | None:
        """max_new_tokens in force: None if max_length alone is given."""
        return None if self.max_length is not None and not self.was_asked("max_new_tokens") else self.max_new_tokens

    def was_asked(self, name: str) -> bool:
        """Whether somebody set this option, be it to its default."""
        return dict(self.origins).get(name, COMMAND) != COMMAND

    def notes(self) -> tuple[str, ...]:
        """What was set away from its default and yet has no effect, a sentence each."""
        from fanlight.decoding.notes import notes

        return notes(self)

    def explain(self) -> Explanation:
        """Every option with its value, where it came from, and whether it has an effect; printed, a table."""
        from fanlight.decoding.explaining import explain

        return explain(self)


CALL, COMMAND = "call", "command"
"""Origins: the caller; a command that has a default of its own."""
OPTIONS: Mapping[str, Option] = {f.name: f.metadata["option"] for f in fields(GenerationConfig) if f.name != "origins"}
"""Every option with its rule."""
DEFAULTS: Mapping[str, Any] = {f.name: f.default for f in fields(GenerationConfig) if f.name != "origins"}
"""Every option and its default."""
OTHER_NAMES: Mapping[str, str] = {  # what other programs call it
    "temp": "temperature",
    "n_predict": "max_new_tokens",
    "predict": "max_new_tokens",
    "num_predict": "max_new_tokens",
    "max_tokens": "max_new_tokens",
    "repeat_penalty": "repetition_penalty",
    "penalty_repeat": "repetition_penalty",
    "repeat_last_n": "repetition_penalty_range",
    "penalty_last_n": "repetition_penalty_range",
    "penalty_freq": "frequency_penalty",
    "penalty_present": "presence_penalty",
    "stop": "stop_strings",
    "typical": "typical_p",
    "typ_p": "typical_p",
    "tfs_z": "tfs",
    "top_nsigma": "top_n_sigma",
    "nsigma": "top_n_sigma",
    "dynamic_temperature": "dynatemp_range",
    "mirostat_mode": "mirostat",
    "mirostat_ent": "mirostat_tau",
    "mirostat_lr": "mirostat_eta",
    "top_logprobs": "candidates",
    "order": "processors",
    "samplers": "processors",
    "sampler_priority": "processors",
    "banned_tokens": "bad_words_ids",
    "n": "num_return_sequences",
    "random_seed": "seed",
    "guided_regex": "regex",
    "guided_json": "json_schema",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}


def check_names(options: Mapping[str, Any]) -> None:
    """Errors: OptionError for the first name that is no option, with the nearest that is."""
    for name in options:
        if name not in DEFAULTS:
            raise OptionError(f"unknown option {name!r}; {suggestion(str(name))}")


def suggestion(name: str) -> str:
    """What an unknown name may have meant."""
    from difflib import get_close_matches  # lazily: only a typo needs it

    near = [OTHER_NAMES[name]] if name in OTHER_NAMES else get_close_matches(name, DEFAULTS, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known options: {', '.join(DEFAULTS)}"


def _watermark(value: object) -> Any:
    from fanlight.decoding.watermarks import watermark_of

    return watermark_of(value)
