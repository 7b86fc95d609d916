"""Which strategy a request's settings ask for. In: a Host. Out: its generator. Knows no model.

What cannot work together is an OptionError here, before anything is computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanlight.decoding.contrasts import LAYERS, NEGATIVE, Dola
from fanlight.decoding.strategies.base import AMATEUR, Host, Line, Steps
from fanlight.decoding.strategies.drafts import DEFAULT_NGRAM, EarlyExit, Forced, ModelDraft, PromptLookup
from fanlight.decoding.strategies.sampling import Beside, Drafter, sample_many
from fanlight.errors import ContextOverflow, OptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fanlight.decoding.config import GenerationConfig
    from fanlight.decoding.step import StepSettings

ROWS = 128
"""Of a given beginning, how many tokens are computed in one pass."""
SAMPLING, BEAMS, CONTRASTIVE_SEARCH = "sampling", "beam search", "contrastive search"


def strategy_of(config: GenerationConfig, *, has_assistant: bool = False, has_amateur: bool = False) -> str:
    """The strategy's name. Errors: OptionError for settings that contradict each other."""
    drafts = [
        name for name in ("prompt_lookup_num_tokens", "assistant_early_exit") if getattr(config, name) is not None
    ]
    drafts += ["assistant"] if has_assistant else []
    if len(drafts) > 1:
        raise OptionError(f"{drafts[0]} and {drafts[1]} both guess ahead: choose one")
    named = ["an assistant"] if has_assistant else drafts
    if config.num_beams > 1:
        _refuse(config, "num_beams", _clashes_with_beams(config, has_amateur) + named)
        _check_beams(config)
        return BEAMS
    if config.num_beam_groups > 1:
        raise OptionError(f"num_beam_groups={config.num_beam_groups} needs num_beams above 1: got {config.num_beams}")
    if config.diversity_penalty:
        raise OptionError("diversity_penalty needs num_beam_groups above 1")
    if config.force_words_ids or config.constraints:
        raise OptionError("force_words_ids and constraints need beam search: set num_beams above 1")
    if config.penalty_alpha > 0:
        if config.samples:
            raise OptionError("penalty_alpha asks for contrastive search, which draws nothing: set do_sample to false")
        if not config.top_k or config.top_k < 2:
            raise OptionError(
                f"penalty_alpha asks for contrastive search among top_k tokens, at least 2: got {config.top_k}"
            )
        clashes = {
            "guidance_scale": config.guidance_scale != 1,
            "dola_layers": config.dola_layers is not None,
            "an amateur": has_amateur,
            "num_return_sequences": config.num_return_sequences > 1,
            "best_of": config.best_of > 1,
        }
        _refuse(config, "penalty_alpha", [name for name, is_set in clashes.items() if is_set] + named)
        return CONTRASTIVE_SEARCH
    several = max(config.num_return_sequences, config.best_of)
    if several > 1 and not config.samples:
        which = "num_return_sequences" if config.num_return_sequences > 1 else "best_of"
        raise OptionError(f"{which}={several} needs do_sample or num_beams: greedy decoding gives one text only")
    if config.best_of > 1 and config.num_return_sequences > config.best_of:
        raise OptionError(f"num_return_sequences={config.num_return_sequences} is more than best_of={config.best_of}")
    return SAMPLING


def _refuse(config: GenerationConfig, what: str, clashes: list[str]) -> None:
    if clashes:
        raise OptionError(
            f"{clashes[0]} cannot be combined with {what}={getattr(config, what)!r}; leave one of them out"
        )


def _clashes_with_beams(config: GenerationConfig, has_amateur: bool) -> list[str]:
    clashes = {
        "penalty_alpha": config.penalty_alpha > 0,
        "guidance_scale": config.guidance_scale != 1,
        "dola_layers": config.dola_layers is not None,
        "an amateur": has_amateur,
        "best_of": config.best_of > 1,
        "mirostat": config.samples and config.mirostat > 0,
        "adaptive_target": config.samples and config.adaptive_target is not None,
        "stopping_criteria": bool(config.stopping_criteria),
        "loop_repeats": config.loop_repeats > 0,
    }
    return [name for name, is_set in clashes.items() if is_set]


def _check_beams(config: GenerationConfig) -> None:
    if config.num_return_sequences > config.num_beams:
        raise OptionError(
            f"num_return_sequences={config.num_return_sequences} is more than num_beams={config.num_beams} can return"
        )
    if config.num_beam_groups > 1:
        if config.num_beams % config.num_beam_groups:
            raise OptionError(
                f"num_beams={config.num_beams} must be a multiple of num_beam_groups={config.num_beam_groups}"
            )
        if config.samples:
            raise OptionError("num_beam_groups draws nothing: set do_sample to false")
        if config.force_words_ids or config.constraints:
            raise OptionError("force_words_ids cannot be combined with num_beam_groups; leave one of them out")
    elif config.diversity_penalty:
        raise OptionError("diversity_penalty needs num_beam_groups above 1")
    if (config.force_words_ids or config.constraints) and config.samples:
        raise OptionError("force_words_ids draws nothing: set do_sample to false")


def check_given(
    config: GenerationConfig,
    strategy: str,
    given: Sequence[int],
    n_prompt: int,
    n_ctx: int,
    *,
    has_assistant: bool = False,
    has_amateur: bool = False,
) -> None:
    """Whether account can be taken of a given text with these settings. Errors: OptionError, ContextOverflow."""
    clashes = {
        strategy: strategy != SAMPLING,
        "an assistant": has_assistant,
        "an amateur": has_amateur,
        "guidance_scale": config.guidance_scale != 1,
        "dola_layers": config.dola_layers is not None,
        "num_return_sequences": config.num_return_sequences > 1,
        "best_of": config.best_of > 1,
        "token_healing": config.token_healing,
        "stop_strings": bool(config.stop_strings),
        "stopping_criteria": bool(config.stopping_criteria),
        "loop_repeats": config.loop_repeats > 0,
        "prompt_lookup_num_tokens": config.prompt_lookup_num_tokens is not None,
        "assistant_early_exit": config.assistant_early_exit is not None,
        "output_hidden_states": config.output_hidden_states,
        "max_time": config.max_time is not None,
    }
    for name, is_set in clashes.items():
        if is_set:
            raise OptionError(
                f"{name} cannot be combined with a given text, of which every token is known; leave it out"
            )
    n = n_prompt + max(0, len(given) - 1)
    if n > n_ctx:
        raise ContextOverflow(
            f"the prompt has {n_prompt} tokens and the given text {len(given)}, the context window holds {n_ctx}; "
            "shorten one of them"
        )


def check_begin(config: GenerationConfig, strategy: str, begin: Sequence[int], n_prompt: int, n_ctx: int) -> None:
    """Whether a text of these settings can begin with given tokens. Errors: OptionError, ContextOverflow."""
    if strategy != SAMPLING:
        raise OptionError(f"a text of {strategy} cannot begin with given tokens; choose settings without a search")
    if config.token_healing:
        raise OptionError("token_healing cannot be combined with a given beginning; leave it out")
    new_tokens = config.new_tokens
    if new_tokens is not None and len(begin) > new_tokens:
        raise OptionError(
            f"the text begins with {len(begin)} tokens, max_new_tokens={new_tokens} allows fewer; raise it"
        )
    if new_tokens is None and config.max_length is not None and n_prompt + len(begin) > config.max_length:
        raise OptionError(
            f"the prompt has {n_prompt} tokens and the given beginning {len(begin)}, max_length={config.max_length} "
            "allows fewer; raise it"
        )
    if n_prompt + len(begin) - 1 > n_ctx:  # nothing comes after the last, if it fills the window
        raise ContextOverflow(
            f"the prompt has {n_prompt} tokens and the given beginning {len(begin)}, the context window holds {n_ctx}; "
            "shorten one of them"
        )


def start(
    host: Host,
    settings: Sequence[StepSettings],
    *,
    given: Sequence[int] | None = None,
    forced: Callable[[Sequence[int]], list[int]] | None = None,
    begin: Sequence[int] = (),
    has_assistant: bool = False,
    has_amateur: bool = False,
) -> Steps:
    """The generator for this request. settings: one for each text. given: a text to take account of. forced: a grammar's
    tokens without a choice. begin: what every text begins with.
    """
    config, n_prompt = host.config, len(host.prompt_ids)
    if given is not None:
        from fanlight.decoding.strategies.given import take_account

        return take_account(host, given)
    kind = strategy_of(config, has_assistant=has_assistant, has_amateur=has_amateur)
    if kind == BEAMS:
        from fanlight.decoding.strategies.beams import search

        return search(host)
    if kind == CONTRASTIVE_SEARCH:
        from fanlight.decoding.strategies.contrastive import contrastive_search

        return contrastive_search(host)

    def drafter_for(line: Line) -> Drafter | None:
        drafter: Drafter | None = None
        if config.prompt_lookup_num_tokens is not None:
            n_gram = config.max_matching_ngram_size or DEFAULT_NGRAM
            drafter = PromptLookup(config.prompt_lookup_num_tokens, n_gram, host.pass_cost)
        elif config.assistant_early_exit is not None:
            drafter = EarlyExit(host, line, config.assistant_early_exit)
        elif has_assistant:
            drafter = ModelDraft(host)
        drafter = drafter if forced is None else Forced(forced, drafter)
        return drafter if not begin else Forced(lambda ids: list(begin[len(ids) - n_prompt :][:ROWS]), drafter)

    beside = []
    reads = settings[0].besides
    if NEGATIVE in reads:
        beside.append(Beside(NEGATIVE, host.open(config.negative_prompt_ids or host.prompt_ids[-1:])))
    if AMATEUR in reads:
        beside.append(Beside(AMATEUR, host.open(host.prompt_ids, AMATEUR)))
    layers: tuple[int, ...] = ()
    if LAYERS in reads:
        layers = next(p.layers for p in settings[0].processors if isinstance(p, Dola))
    return sample_many(host, settings, beside=beside, layers=layers, drafter_for=drafter_for)
