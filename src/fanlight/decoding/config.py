"""Decoding settings. In: names and values from a caller. Out: a checked, frozen GenerationConfig. Knows no model.

Names and meanings follow Hugging Face's GenerationConfig where it has them (source: transformers 5.23), llama.cpp's and
text-generation-webui's otherwise. `notes.py` says which settings have no effect, `explaining.py` where each came from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field, fields, replace
from typing import TYPE_CHECKING, Any

from fanlight.decoding import rules
from fanlight.decoding.rules import Option, number, of_options, option, whole
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


@of_options
class GenerationConfig:
    """How to choose tokens and when to end. Raises OptionError, which names the option, its range and the value.

    What each option does stands in its `help`; `fanlight generate --help` shows all. 1, 0 or None switch most of them off.
    """

    # -- length and stopping
    max_new_tokens: int | None = option(rules.optional(whole(0)), LENGTH, "N", default=DEFAULT_MAX_NEW_TOKENS)
    max_length: int | None = option(whole(1), LENGTH, "N", default=None)
    min_length: int = option(whole(0), LENGTH, "N", default=0)
    min_new_tokens: int | None = option(whole(0), LENGTH, "N", default=None)
    max_time: float | None = option(
        number(0, INFINITE, "a number of seconds above 0", open_low=True), LENGTH, "SECONDS", default=None
    )
    stop_strings: tuple[str, ...] = option(rules.strings(), LENGTH, "TEXT", default=())
    include_stop_string: bool = option(rules.boolean(), LENGTH, default=False)
    eos_token_id: tuple[int, ...] | None = option(rules.token_ids(), LENGTH, "N", default=None)
    bos_token_id: int | None = option(whole(0), LENGTH, "N", default=None)
    pad_token_id: int | None = option(whole(0), LENGTH, "N", default=None)
    ignore_eos: bool = option(rules.boolean(), LENGTH, default=False)
    loop_repeats: int = option(whole(0, "0 (off), or at least 2"), LENGTH, "N", default=0)
    loop_min_tokens: int = option(whole(1), LENGTH, "N", default=1)
    stopping_criteria: tuple[Callable[..., Any], ...] = option(
        rules.callables("a function of (ids, text), or several"), LENGTH, default=()
    )

    # -- choosing
    do_sample: bool = option(rules.boolean(), CHOICE, default=False)
    seed: int | None = option(whole(), CHOICE, "N", default=None, sampling=True)
    temperature: float = option(
        number(SMALLEST, LARGEST, f"0 (greedy), or {_SCALE}", also=0.0), CHOICE, "T", default=1.0, sampling=True
    )
    dynatemp_range: float = option(_FROM_ZERO, CHOICE, "R", default=0.0, sampling=True)
    dynatemp_exponent: float = option(
        number(0, LARGEST, f"above 0, up to {LARGEST:g}", open_low=True), CHOICE, "X", default=1.0, sampling=True
    )
    smoothing_factor: float = option(_FROM_ZERO, CHOICE, "X", default=0.0, sampling=True)
    smoothing_curve: float = option(
        number(1, LARGEST, f"between 1 and {LARGEST:g}"), CHOICE, "X", default=1.0, sampling=True
    )
    mirostat: int = option(whole(0, "0 (off), 1 or 2", high=2), CHOICE, "V", default=0, sampling=True)
    mirostat_tau: float = option(
        number(0, LARGEST, f"above 0, up to {LARGEST:g}", open_low=True), CHOICE, "X", default=5.0, sampling=True
    )
    mirostat_eta: float = option(_PROB, CHOICE, "X", default=0.1, sampling=True)
    adaptive_target: float | None = option(_PROB, CHOICE, "P", default=None, sampling=True)
    adaptive_decay: float = option(number(0, 0.99, "between 0 and 0.99"), CHOICE, "X", default=0.9, sampling=True)
    guidance_scale: float = option(
        number(0, LARGEST, f"above 0, up to {LARGEST:g}", open_low=True), CHOICE, "X", default=1.0
    )
    negative_prompt: str | None = option(rules.text("a text that is not empty"), CHOICE, "TEXT", default=None)
    negative_prompt_ids: tuple[int, ...] | None = option(rules.token_ids(), CHOICE, "N", default=None)
    watermarking_config: Any = option(
        rules.Rule("a mapping of watermark settings", lambda value: _watermark(value), "json"),
        CHOICE,
        "JSON",
        default=None,
    )
    processors: tuple[Any, ...] | None = option(
        rules.names_or_callables("processor names and functions, in order"), CHOICE, "NAME,...", default=None
    )

    # -- filters
    min_tokens_to_keep: int = option(whole(1), FILTERS, "N", default=1, sampling=True)
    top_k: int | None = option(
        rules.optional(whole(0, "an integer of at least 0 (0: off)")), FILTERS, "K", default=50, sampling=True
    )
    top_p: float = option(_SHARE, FILTERS, "P", default=1.0, sampling=True)
    min_p: float | None = option(_PROB, FILTERS, "P", default=None, sampling=True)
    top_h: float | None = option(_SHARE, FILTERS, "H", default=None, sampling=True)
    typical_p: float = option(_SHARE, FILTERS, "P", default=1.0, sampling=True)
    epsilon_cutoff: float = option(_CUTOFF, FILTERS, "P", default=0.0, sampling=True)
    eta_cutoff: float = option(_CUTOFF, FILTERS, "P", default=0.0, sampling=True)
    top_n_sigma: float = option(_FROM_ZERO, FILTERS, "N", default=0.0, sampling=True)
    tfs: float = option(_SHARE, FILTERS, "Z", default=1.0, sampling=True)
    top_a: float = option(_PROB, FILTERS, "A", default=0.0, sampling=True)
    xtc_probability: float = option(_PROB, FILTERS, "P", default=0.0, sampling=True)
    xtc_threshold: float = option(_PROB, FILTERS, "P", default=0.1, sampling=True)

    # -- penalties and biases
    repetition_penalty: float = option(_PENALTY, PENALTIES, "R", default=1.0)
    repetition_penalty_range: int = option(whole(0, "an integer of at least 0 (0: all)"), PENALTIES, "N", default=0)
    penalize_prompt: bool | None = option(rules.boolean(), PENALTIES, default=None)
    encoder_repetition_penalty: float = option(_PENALTY, PENALTIES, "R", default=1.0)
    frequency_penalty: float = option(_SIGNED, PENALTIES, "X", default=0.0)
    presence_penalty: float = option(_SIGNED, PENALTIES, "X", default=0.0)
    no_repeat_ngram_size: int = option(whole(0), PENALTIES, "N", default=0)
    dry_multiplier: float = option(_FROM_ZERO, PENALTIES, "M", default=0.0)
    dry_base: float = option(number(1, LARGEST, f"between 1 and {LARGEST:g}"), PENALTIES, "X", default=1.75)
    dry_allowed_length: int = option(whole(1), PENALTIES, "N", default=2)
    dry_penalty_last_n: int = option(whole(0, "an integer of at least 0 (0: all)"), PENALTIES, "N", default=0)
    dry_sequence_breakers: tuple[str, ...] = option(rules.strings(), PENALTIES, "TEXT", default=("\n", ":", '"', "*"))
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = option(
        rules.sequence_biases(), PENALTIES, "JSON", default=()
    )
    logit_bias: tuple[tuple[int, float], ...] = option(rules.id_biases(), PENALTIES, "JSON", default=())
    bad_words_ids: tuple[tuple[int, ...], ...] = option(
        rules.token_lists("lists of token ids, none of them empty"), PENALTIES, "JSON", default=()
    )
    suppress_tokens: tuple[int, ...] = option(rules.token_ids(), PENALTIES, "N", default=())
    begin_suppress_tokens: tuple[int, ...] = option(rules.token_ids(), PENALTIES, "N", default=())
    forced_bos_token_id: int | None = option(whole(0), PENALTIES, "N", default=None)
    forced_eos_token_id: tuple[int, ...] | None = option(rules.token_ids(), PENALTIES, "N", default=None)
    exponential_decay_length_penalty: tuple[int, float] | None = option(rules.decay(), PENALTIES, "JSON", default=None)
    remove_invalid_values: bool = option(rules.boolean(), PENALTIES, default=False)
    renormalize_logits: bool = option(rules.boolean(), PENALTIES, default=False)

    # -- searches
    num_beams: int = option(whole(1, high=512), SEARCH, "N", default=1)
    num_beam_groups: int = option(whole(1, high=512), SEARCH, "N", default=1)
    diversity_penalty: float = option(_FROM_ZERO, SEARCH, "X", default=0.0)
    length_penalty: float = option(number(-20, 20, "between -20 and 20"), SEARCH, "X", default=1.0)
    early_stopping: bool | str = option(rules.one_of(False, True, "never"), SEARCH, default=False)
    num_return_sequences: int = option(whole(1, high=512), SEARCH, "N", default=1)
    best_of: int = option(whole(1, high=512), SEARCH, "N", default=1, sampling=True)
    vote_pattern: str | None = option(rules.pattern(), SEARCH, "REGEX", default=None, sampling=True)
    penalty_alpha: float = option(_PROB, SEARCH, "A", default=0.0)
    dola_layers: Any = option(rules.layers(), SEARCH, "LAYERS", default=None)
    contrastive_alpha: float = option(_SHARE, SEARCH, "A", default=0.1)
    contrastive_beta: float = option(_FROM_ZERO, SEARCH, "B", default=0.5)
    force_words_ids: tuple[tuple[tuple[int, ...], ...], ...] = option(rules.forced_words(), SEARCH, "JSON", default=())
    constraints: tuple[tuple[tuple[int, ...], ...], ...] = option(rules.forced_words(), SEARCH, "JSON", default=())

    # -- speculation
    use_cache: bool = option(rules.boolean(), SPEED, default=True)
    prompt_lookup_num_tokens: int | None = option(whole(1), SPEED, "N", default=None)
    max_matching_ngram_size: int | None = option(whole(1), SPEED, "N", default=None)
    num_assistant_tokens: int = option(whole(1), SPEED, "N", default=20)
    num_assistant_tokens_schedule: str = option(
        rules.one_of("constant", "heuristic", "heuristic_transient"), SPEED, default="constant"
    )
    assistant_confidence_threshold: float = option(_PROB, SPEED, "P", default=0.4)
    assistant_early_exit: int | None = option(whole(1), SPEED, "N", default=None)

    # -- constraints
    regex: str | None = option(rules.text("a regular expression"), FORMS, "REGEX", default=None)
    choice: tuple[str, ...] = option(rules.strings(), FORMS, "TEXT", default=())
    json_schema: str | None = option(rules.json_value("a JSON schema"), FORMS, "JSON", default=None)
    grammar: str | None = option(rules.text("a grammar"), FORMS, "LARK", default=None)
    token_healing: bool = option(rules.boolean(), FORMS, default=False)

    # -- records
    candidates: int = option(
        whole(-1, "an integer of at least 0 (0: no records), or -1 (the whole vocabulary)"), RECORDS, "N", default=20
    )
    output_scores: bool = option(rules.boolean(), RECORDS, default=False)
    output_logits: bool = option(rules.boolean(), RECORDS, default=False)
    output_attentions: bool = option(rules.boolean(), RECORDS, default=False)
    output_hidden_states: bool = option(rules.boolean(), RECORDS, default=False)

    origins: tuple[tuple[str, str], ...] = field(default=())
    """Where each option that is not at its default came from: "call", "preset creative", a file's name."""

    if not TYPE_CHECKING:  # a checker knows one parameter for each field

        def __init__(self, **options: Any) -> None:
            """Settings by their names. Errors: OptionError."""
            self._set(options, options.pop("origins", None))

    def __repr__(self) -> str:
        asked = {name: value for name, value in self.values().items() if value != DEFAULTS[name]}
        return f"GenerationConfig({', '.join(f'{name}={value!r}' for name, value in asked.items())})"

    def __eq__(self, other: object) -> bool:
        """Whether all options are the same; where they came from does not count."""
        return self.values() == other.values() if isinstance(other, GenerationConfig) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self.values().values()))

    def _set(self, options: Mapping[str, Any], origins: tuple[tuple[str, str], ...] | None) -> None:
        """origins None: all options are the caller's; otherwise those that differ from their defaults."""
        check_names(options)
        put = object.__setattr__
        known = dict(origins or ())
        for name, default in DEFAULTS.items():
            value = options.get(name, default)
            if value is not default:
                value = OPTIONS[name].rule(name, value)
            if (origins is None and name in options) or value != default:
                known.setdefault(name, CALL)
            put(self, name, value)
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
