"""Several settings on one prompt, in one batched run -> a Comparison. In: a Writer (a Model is one), a prompt, settings.

All settings get the same seed. Sample i is drawn with the seed that `num_return_sequences` would give text i, so that any text
can be made again alone. Noise is a function of (seed, position, token): two settings differ where they would choose differently
from the same luck, and nowhere else. Knows no terminal.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from fanlight.comparing.records import Alternative, Comparison, Text, Token, Variant, divergences
from fanlight.comparing.settings import (
    MOST_SAMPLES,
    AnySettings,
    Base,
    Setting,
    checked_count,
    differing,
    read_specs,
    resolve,
)
from fanlight.decoding.config import GenerationConfig
from fanlight.engine.request import Request, seed_of
from fanlight.errors import OptionError
from fanlight.jobs import Job

if TYPE_CHECKING:
    from os import PathLike

    from fanlight.decoding.defaults import ModelDefaults
    from fanlight.generation import Generation, Step
    from fanlight.jobs import Outcome
    from fanlight.text.tokenizer import AnyTokenizer

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]
MOST_AT_ONCE = 32
"""Texts in one pass, unless a caller says how many."""
MOST_ALTERNATIVES = 20
"""Kept of each token, however many are recorded."""


class Writer(Protocol):
    """What writes the texts: `fanlight.Model`."""

    @property
    def name(self) -> str:
        """The model's."""

    @property
    def tokenizer(self) -> AnyTokenizer:
        """Ids to text."""

    @property
    def defaults(self) -> ModelDefaults:
        """The model's own settings."""

    def generate_each(self, jobs: Iterable[Job], *, max_batch: int = ...) -> Iterator[Outcome]:
        """Outcomes in the order in which the jobs end."""


class Key(NamedTuple):
    """Which text a job is for."""

    variant: int
    sample: int


def compare(
    model: Writer,
    prompt: Prompt,
    settings: AnySettings,
    *,
    samples: int = 1,
    seed: int | None = None,
    max_batch: int | None = None,
    preset: str | None = None,
    file: str | PathLike[str] | None = None,
    **options: Any,
) -> Comparison:
    """What a model writes under several settings, in one batched run with the same noise; the first setting is the baseline.

    prompt: a text, ids, or the messages of a chat. settings: texts as `fanlight compare --with` takes them ("greedy",
    "temperature=0.7,top_p=0.92", "preset:creative", "file:my.toml", "name@..."), mappings of options, or GenerationConfigs; in a
    list, or in a mapping by their labels. samples: texts of each setting that draws. seed: None draws one. max_batch: texts in
    one pass. preset, file, options: what all settings share; each setting goes before them.

    A setting that cannot be carried out with this model has its error in its texts; if none can, it is raised. Errors:
    OptionError, and those of `Model.generate`.
    """
    check_prompt(prompt)
    checked_count("samples", samples, MOST_SAMPLES)
    base = Base(preset=preset, file=file, options=options)
    resolved = resolve(read_specs(settings), base, model.defaults)
    return compare_settings(model, prompt, resolved, samples=samples, seed=seed, max_batch=max_batch)


def compare_settings(
    model: Writer,
    prompt: Prompt,
    settings: Sequence[Setting],
    *,
    samples: int,
    seed: int | None = None,
    max_batch: int | None = None,
) -> Comparison:
    """The same, with settings that are ready."""
    seed = seed_of(GenerationConfig(seed=seed))
    jobs = [
        Job(Key(i, sample), prompt, seeded(setting.config, seed, sample))
        for i, setting in enumerate(settings)
        for sample in range(samples if setting.draws else 1)
    ]
    at_once = checked_count("max_batch", max_batch, 512) if max_batch is not None else min(len(jobs), MOST_AT_ONCE)
    found: dict[Key, Text] = {}
    errors: list[Exception] = []
    prompt_ids: tuple[int, ...] = ()
    first_tokens: list[float] = []
    started = time.perf_counter()
    seeds = {job.key: seed_of(job.config) for job in jobs}
    for key, generation, error in model.generate_each(jobs, max_batch=at_once):
        assert isinstance(key, Key)
        if generation is None:
            assert error is not None
            errors.append(error)
            found[key] = Text(sample=key.sample, seed=seeds[key], error=str(error))
            continue
        prompt_ids = generation.prompt_ids
        first_tokens.append(generation.prefill_seconds)
        found[key] = text_of(generation, model.tokenizer, key.sample, seeds[key])
    seconds = time.perf_counter() - started
    if errors and len(errors) == len(found):
        raise errors[0]
    variants = tuple(
        Variant(
            label=setting.label,
            options=options,
            config=setting.config,
            draws=setting.draws,
            n_samples=samples,
            texts=tuple(found[Key(i, sample)] for sample in range(samples if setting.draws else 1)),
        )
        for i, (setting, options) in enumerate(zip(settings, differing(settings), strict=True))
    )
    return Comparison(
        model=model.name,
        prompt=prompt if isinstance(prompt, str) else model.tokenizer.decode(prompt_ids),
        prompt_ids=prompt_ids,
        seed=seed,
        samples=samples,
        variants=variants,
        divergences=divergences(variants, samples),
        seconds=seconds,
        first_token_seconds=min(first_tokens, default=None),
        notes=(*_notes(settings, samples), *(note for setting in settings for note in setting.notes)),
    )


def _notes(settings: Sequence[Setting], samples: int) -> list[str]:
    said = []
    still = [setting.label for setting in settings if not setting.draws]
    if still and samples > 1:
        said.append(f"one text each of {', '.join(still)}: nothing is drawn there, {samples} samples would be the same")
    said += drawn_notes(settings)
    own = [setting.label for setting in settings if setting.draws and setting.config.seed is not None]
    if own and len(own) < len(settings):
        said.append(f"{', '.join(own)}: a seed of its own, so that its noise is not that of the others")
    return said


def drawn_notes(settings: Sequence[Setting]) -> list[str]:
    """Which settings draw although nobody said so, and why."""
    said = []
    for name in dict.fromkeys(setting.implied_by for setting in settings if setting.implied_by):
        drawn = [setting.label for setting in settings if setting.implied_by == name]
        which = f": {'; '.join(drawn)}" if len(drawn) < len(settings) else ""
        said.append(f"tokens are drawn (do_sample), because {name} is set{which}")
    return said


def seeded(config: GenerationConfig, seed: int, sample: int) -> GenerationConfig:
    """The config with the seed of one sample: derived from its own seed, or else from this one, as for texts of one request."""
    own = config.seed if config.seed is not None else seed
    request = Request(id=0, prompt_ids=(), config=config, seed=own)
    return config.replace(seed=request.seed_of(sample))


def text_of(generation: Generation, tokenizer: AnyTokenizer, sample: int, seed: int) -> Text:
    """A finished text with what is kept of its account."""
    tokens = [_token(step, tokenizer) for step in generation.steps]
    shown = "".join(token.text for token in tokens)
    if tokens and generation.text != shown and generation.text.startswith(shown):  # what came without a token
        tokens[-1] = replace(tokens[-1], text=tokens[-1].text + generation.text[len(shown) :])
    stop = generation.stop
    return Text(
        sample=sample,
        seed=seed,
        text=generation.text,
        tokens=tuple(tokens),
        stop_reason=stop.reason.value,
        stop_detail=stop.detail,
        ended_by_token=stop.token is not None and bool(tokens) and tokens[-1].id == stop.token,
        n_reused=generation.usage.n_reused,
        n_computed=generation.usage.n_computed,
    )


def _token(step: Step, tokenizer: AnyTokenizer) -> Token:
    record = step.record
    candidates = record.candidates
    chosen = candidates[record.candidate_ids.index(record.id)]
    kept = [c for c in candidates[:MOST_ALTERNATIVES] if c.id != record.id]
    removed = record.removals() if any(c.final_prob == 0 for c in kept) else {}
    return Token(
        id=step.id,
        label=tokenizer.token_label(step.id),
        text=step.text,
        raw_prob=chosen.raw_prob,
        final_prob=chosen.final_prob,
        raw_logprob=record.raw_logprob,
        raw_rank=record.raw_rank,
        entropy=record.raw_entropy,
        final_entropy=record.final_entropy,
        alternatives=tuple(
            Alternative(
                c.id,
                tokenizer.token_label(c.id),
                c.raw_prob,
                c.final_prob,
                str(removed[c.id]) if c.id in removed else None,
            )
            for c in sorted((chosen, *kept), key=lambda c: -c.raw_prob)
        ),
    )


def check_prompt(prompt: Any) -> None:
    """Errors: OptionError for what is no prompt."""
    if isinstance(prompt, (str, Sequence)) and not isinstance(prompt, (bytes, bytearray)):
        return
    raise OptionError(f"the prompt must be a text, token ids or the messages of a chat: got {prompt!r:.80}")
