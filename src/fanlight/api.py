"""The Python API: a Model that generates, and what it hands back. In: text or ids. Out: text with the account of every step.

model = fanlight.load()
out = model.generate("The future of artificial intelligence is", max_new_tokens=20)
out.text; out.stop; out.steps[3].candidates
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fanlight.cache.paged import PagedCache
from fanlight.decoding.config import GenerationConfig
from fanlight.decoding.step import Decision, StepSettings, decide
from fanlight.decoding.stopping import CANCELLED
from fanlight.engine.loop import Engine
from fanlight.engine.request import checked_ids, seed_of
from fanlight.errors import ContextOverflow, FanlightError, NumericError, OptionError
from fanlight.kernels import load_ops, slow_notice
from fanlight.kernels.ops import Tensor
from fanlight.loading import Loaded, LoadOptions, checked_threads, find_damage, load_parts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fanlight.decoding.defaults import ModelDefaults
    from fanlight.description import Description
    from fanlight.models.base import Decoder
    from fanlight.text.tokenizer import AnyTokenizer
    from fanlight.trace.records import StepRecord
    from fanlight.trace.stop import Stop

Prompt = str | Sequence[int]
PREFILL_CHUNK = 512


@dataclass(frozen=True, slots=True)
class TokenCandidate:
    """One token that could have come next, and how likely it was before (raw) and after (final) the processors."""

    id: int
    text: str
    raw_logit: float
    raw_prob: float
    final_prob: float
    """0 if a processor removed it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One chosen token."""

    index: int
    """0 for the first new token."""
    id: int
    text: str
    """What this step added to the text: maybe nothing yet (a part of a character), maybe more than this token."""
    stop: Stop | None
    """Why the text ended here, on the last step."""
    decision: Decision
    _tokenizer: AnyTokenizer = field(repr=False, compare=False)

    @property
    def record(self) -> StepRecord:
        """What the step saw. FanlightError if the request asked for no record (candidates=0)."""
        if self.decision.record is None:
            raise FanlightError("this step was not recorded: generate with candidates above 0")
        return self.decision.record

    @property
    def token(self) -> str:
        """The chosen token for display."""
        return self._tokenizer.token_text(self.id)

    @property
    def candidates(self) -> tuple[TokenCandidate, ...]:
        """The most probable tokens of the raw logits, descending; the chosen one last if it was not among them."""
        text = self._tokenizer.token_text
        return tuple(
            TokenCandidate(c.id, text(c.id), c.raw_logit, c.raw_prob, c.final_prob) for c in self.record.candidates
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A finished text."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    """New ids, the end-of-sequence token included if there was one."""
    text: str
    """The new text: without the prompt, the end-of-sequence token, and the stop string with all that follows it."""
    stop: Stop
    steps: tuple[Step, ...]
    config: GenerationConfig
    seed: int
    """What the noise was drawn with: the request's own seed, or the one made for it."""
    notes: tuple[str, ...]
    """Settings that had no effect, and other things worth knowing, a sentence each."""
    prefill_seconds: float
    """Until the first token was chosen. Time spent by the caller between steps does not count, here and below."""
    decode_seconds: float
    """From the first token to the last."""

    def __str__(self) -> str:
        return self.text


class Model:
    """A decoder with its tokenizer. Immutable, so that threads may share it; every call runs in an engine of its own."""

    def __init__(self, parts: Loaded, *, prefill_chunk: int = PREFILL_CHUNK) -> None:
        """Usually made by `load`."""
        self._parts = parts
        self._prefill_chunk = prefill_chunk

    @property
    def name(self) -> str:
        """The file's or folder's name."""
        return self._parts.name

    @property
    def decoder(self) -> Decoder:
        """Ids to logits."""
        return self._parts.decoder

    @property
    def tokenizer(self) -> AnyTokenizer:
        """Text to ids and back."""
        return self._parts.tokenizer

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth knowing of every text that this model writes, a sentence each."""
        notice, unread = slow_notice(self.decoder.ops), self._parts.report.unread
        more = f" and {len(unread) - 5} more" if len(unread) > 5 else ""
        notes = [notice] if notice else []
        if unread:
            notes.append(f"the file has tensors that this architecture does not use: {', '.join(unread[:5])}{more}")
        return tuple(notes) + self.defaults.notes()

    @property
    def defaults(self) -> ModelDefaults:
        """The settings that the model comes with (generation_config.json), which count where a caller says nothing."""
        return self._parts.defaults

    def settings(self, **options: Any) -> GenerationConfig:
        """A GenerationConfig with the model's own defaults, and these options over them. Errors: OptionError."""
        return GenerationConfig.from_options({**self.defaults.values, **options})

    # -- generating ---------------------------------------------------------------------------------------------------

    def generate(self, prompt: Prompt, config: GenerationConfig | None = None, **options: Any) -> Generation:
        """Continue a text (or ids). Options are those of GenerationConfig, over the model's own defaults.

        A config counts as it stands, without the model's defaults; options given with it change it.

        Errors: OptionError, ContextOverflow (the prompt is longer than the window), NumericError.
        """
        stream = self.stream(prompt, config, **options)
        return stream.result(tuple(stream))

    def stream(self, prompt: Prompt, config: GenerationConfig | None = None, **options: Any) -> Stream:
        """The steps of `generate`, each as soon as it is chosen. Closing the stream ends the request."""
        return Stream(self, self.prompt_ids(prompt), self._config(config, options))

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        config: GenerationConfig | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Generation:
        """The assistant's answer to messages like {"role": "user", "content": "..."}. tools, variables: as in `chat_ids`.

        Errors: as `generate`; OptionError if the model has no chat template, TokenizerError if the messages are malformed.
        """
        stream = self.stream_chat(messages, config, tools=tools, variables=variables, **options)
        return stream.result(tuple(stream))

    def stream_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        config: GenerationConfig | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Stream:
        """The steps of `chat`, each as soon as it is chosen. Closing the stream ends the request."""
        ids = self.chat_ids(messages, tools=tools, variables=variables)
        return Stream(self, ids, self._config(config, options))

    def next_token(self, prompt: Prompt, configs: Sequence[GenerationConfig]) -> list[Step]:
        """What would come next under each of several settings: one forward pass, one decision for each."""
        ids = self.prompt_ids(prompt)
        logits = self._forward(ids, [len(ids) - 1])
        ops, steps = self.decoder.ops, []
        for config in configs:
            ends = config.eos_token_id
            eos_ids = self.tokenizer.eos_ids if ends is None else self._checked("eos_token_id", ends)
            settings = StepSettings.of(config, seed=seed_of(config), eos_ids=eos_ids, ops=ops)
            try:
                decision = decide(ids, ops.row(logits, 0), settings)
            except NumericError as error:
                raise self.explain(error) from error
            token = decision.choice.id
            steps.append(Step(0, token, self.tokenizer.token_text(token), None, decision, self.tokenizer))
        return steps

    def logits(self, prompt: Prompt) -> NDArray[np.float32]:
        """Raw logits after every token of the prompt: (n_tokens, n_vocab)."""
        ids = self.prompt_ids(prompt)
        return self._forward(ids, range(len(ids))).numpy()

    def engine(self, *, max_batch: int = 64) -> Engine:
        """A loop for many requests at once over this model."""
        tokenizer = self.tokenizer
        return Engine(
            self.decoder,
            eos_ids=tokenizer.eos_ids,
            detokenizer_factory=tokenizer.detokenizer,
            prefill_chunk=self._prefill_chunk,
            max_batch=max_batch,
        )

    # -- prompts ------------------------------------------------------------------------------------------------------

    def prompt_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """The ids of a text; ids are returned as they are. An empty prompt is the model's BOS token, if it has one."""
        if isinstance(prompt, bytes):
            raise OptionError("the prompt is bytes; decode it to text first")
        ids = tuple(self.tokenizer.encode(prompt)) if isinstance(prompt, str) else self._checked("the prompt", prompt)
        if ids:
            return ids
        if self.tokenizer.bos_id is None:
            raise OptionError(
                "the prompt is empty, and this model has no beginning-of-sequence token to start from; give it some text"
            )
        return (self.tokenizer.bos_id,)

    def chat_ids(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> tuple[int, ...]:
        """The ids of a chat in this model's template, up to where the assistant's answer begins.

        tools: JSON schemas of what the model may call. variables: what else the template knows, as in {"enable_thinking": False}.
        """
        from fanlight.text.chat import encode_chat, template_of

        template = template_of(self.tokenizer)
        if template is None:
            raise OptionError(f"{self.name} has no chat template; use generate with a prompt of your own making")
        return tuple(encode_chat(self.tokenizer, template, messages, tools=tools, **(variables or {})))

    # -- looking ------------------------------------------------------------------------------------------------------

    def describe(self) -> Description:
        """Sizes, types, memory, special tokens, settings, and every array."""
        from fanlight.description import describe

        parts, pool = self._parts, self.decoder.new_pool()
        cache = pool.page_bytes // pool.page_tokens
        sizes, ops = self.decoder.config, self.decoder.ops
        return describe(
            parts.name, sizes, parts.tokenizer, parts.report, ops, defaults=parts.defaults, cache_bytes_per_token=cache
        )

    def __repr__(self) -> str:
        c = self.decoder.config
        return f"Model({self.name!r}, {c.model_type}, n_layer={c.n_layer}, n_embd={c.n_embd}, n_vocab={c.n_vocab})"

    def explain(self, error: NumericError) -> NumericError:
        """The same error, with the first weight of the file that is NaN or infinite, if there is one."""
        found = find_damage(self._parts.report)
        return NumericError(f"{error}: {found}") if found else error

    # -- inside -------------------------------------------------------------------------------------------------------

    def _config(self, config: GenerationConfig | None, options: Mapping[str, Any]) -> GenerationConfig:
        if config is None:
            return self.settings(**options)
        if not isinstance(config, GenerationConfig):
            raise OptionError(f"config must be a GenerationConfig, or options by name: got {config!r:.80}")
        return config.replace(**options) if options else config

    def _checked(self, what: str, ids: Iterable[int]) -> tuple[int, ...]:
        return checked_ids(what, ids, self.decoder.config.n_vocab)

    def _forward(self, ids: Sequence[int], rows: Sequence[int]) -> Tensor:
        n_ctx = self.decoder.config.n_ctx
        if len(ids) > n_ctx:
            raise ContextOverflow(
                f"the prompt has {len(ids)} tokens, the context window holds {n_ctx}; shorten the prompt"
            )
        cache = PagedCache(self.decoder.new_pool(), n_ctx)
        slot = cache.open()
        cache.reserve(slot, len(ids))
        try:
            return self.decoder.forward(ids, cache.batch([(slot, len(ids))]), rows)
        finally:
            cache.release(slot)


class Stream(Iterator[Step]):
    """One request on its way: its steps, each as soon as it is chosen.

    Closing it, leaving its `with` block or dropping it ends the request.
    """

    def __init__(self, model: Model, ids: tuple[int, ...], config: GenerationConfig) -> None:
        """Made by `Model.stream`."""
        started = time.perf_counter()
        self._model, self._config = model, config
        engine = model.engine(max_batch=1)
        self._request = engine.submit(ids, config)
        self._events = engine.stream(self._request)
        self._texts: list[str] = []
        self._stop: Stop | None = None
        self._prefill_seconds = time.perf_counter() - started
        self._decode_seconds = 0.0

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """What is continued."""
        return self._request.prompt_ids

    @property
    def seed(self) -> int:
        """What the noise is drawn with."""
        return self._request.seed

    def __next__(self) -> Step:
        while True:
            started = time.perf_counter()
            try:
                event = next(self._events)
            except NumericError as error:
                raise self._model.explain(error) from error
            seconds = time.perf_counter() - started  # the engine's, not that of whoever shows the steps
            if event.index == 0:
                self._prefill_seconds += seconds
            else:
                self._decode_seconds += seconds
            self._texts.append(event.text)
            self._stop = event.stop
            if event.id is not None and event.decision is not None:
                return Step(event.index, event.id, event.text, event.stop, event.decision, self._model.tokenizer)

    def close(self) -> None:
        """End the request if it has not ended. May be called again."""
        self._events.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def result(self, steps: Sequence[Step]) -> Generation:
        """The finished text; `steps` are those that came. A stream that was closed early was cancelled."""
        return Generation(
            prompt_ids=self._request.prompt_ids,
            ids=tuple(step.id for step in steps),
            text="".join(self._texts),
            stop=self._stop or CANCELLED,
            steps=tuple(steps),
            config=self._config,
            seed=self._request.seed,
            notes=self._config.notes() + self._model.notes,
            prefill_seconds=self._prefill_seconds,
            decode_seconds=self._decode_seconds,
        )


def load(
    name: str | os.PathLike[str] | None = None,
    *,
    threads: int | None = None,
    kernels: str | None = None,
    quantize: str | None = None,
    n_ctx: int | None = None,
    backend: str = "auto",
    device: str | None = None,
) -> Model:
    """A model: a .gguf file, a Hugging Face folder, or a name on the hub. None: FANLIGHT_MODEL, else the default model.

    threads: how many the kernels use, in this process; None: FANLIGHT_THREADS, else all cores. kernels: "native" or
    "reference". quantize: the type that float matrices become on the way in, "q8_0" or "q4_1"; None: they stay. n_ctx: the
    context window, up to the model's own. backend: "native", "hf" (transformers, on any torch device), or "auto": native
    where Fanlight knows the architecture. Errors: ModelNotFound, DownloadError, CheckpointError, TokenizerError, OptionError,
    MissingExtra.
    """
    options = LoadOptions(quantize=quantize, n_ctx=n_ctx, backend=backend, device=device)
    ops = load_ops(kernels)
    if threads is not None:
        ops.set_threads(checked_threads(threads))
    return Model(load_parts(name, ops, options))
