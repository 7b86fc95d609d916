"""A decoder with its tokenizer: a Model that generates. In: text or ids. Out: text with the account of every step."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from fanlight.cache.paged import PagedCache
from fanlight.decoding.config import COMMAND, GenerationConfig
from fanlight.decoding.layers import layered
from fanlight.decoding.notes import without_helpers
from fanlight.decoding.step import decide
from fanlight.engine.loop import Engine
from fanlight.engine.preparing import Preparer
from fanlight.engine.request import Helpers, checked_ids
from fanlight.engine.spare import Spare
from fanlight.errors import ContextOverflow, NumericError, OptionError
from fanlight.generation import Generation, Step, Stream
from fanlight.jobs import Job, Outcome, run_jobs
from fanlight.kernels import slow_notice
from fanlight.kernels.ops import Tensor
from fanlight.loading import Loaded, VocabularyOf, find_damage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fanlight.decoding.constraints import Vocabulary
    from fanlight.decoding.defaults import ModelDefaults
    from fanlight.decoding.synthid import SynthIDDetection
    from fanlight.decoding.watermark import Detection
    from fanlight.description import Description
    from fanlight.engine.request import Request
    from fanlight.models.base import Decoder
    from fanlight.served import ModelService
    from fanlight.text.tokenizer import AnyTokenizer

Prompt = str | Sequence[int]
PREFILL_CHUNK = 512
PREFIX_BYTES = 512 << 20
"""Of keys and values that a model keeps between calls, for texts that begin alike."""
MAX_BATCH = 64


def _engine(parts: Loaded, vocabulary: Callable[[], Vocabulary], **sizes: Any) -> Engine:
    tokenizer = parts.tokenizer
    return Engine(
        parts.decoder,
        eos_ids=tokenizer.eos_ids,
        detokenizer_factory=tokenizer.detokenizer,
        token_label=tokenizer.token_label,
        token_text=tokenizer.token_text,
        vocabulary=vocabulary,
        **sizes,
    )


class Model:
    """A decoder with its tokenizer. Threads may share it: a call has an engine to itself, and leaves it to the next one with
    what it has computed, so that texts that begin alike pay for it once.
    """

    def __init__(
        self,
        parts: Loaded,
        *,
        prefill_chunk: int = PREFILL_CHUNK,
        prefix_bytes: int = PREFIX_BYTES,
        cache_type: str | None = None,
    ) -> None:
        """Usually made by `fanlight.load`."""
        self._parts, self._vocabulary = parts, VocabularyOf(parts.tokenizer)
        sizes = {"prefill_chunk": prefill_chunk, "prefix_bytes": prefix_bytes, "cache_type": cache_type}
        self._new_engine = partial(
            _engine, parts, self._vocabulary, **sizes
        )  # without self, so that a dropped model goes
        self._spare = Spare(partial(self._new_engine, max_batch=MAX_BATCH))

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

    def settings(
        self, *, preset: str | None = None, file: str | os.PathLike[str] | None = None, **options: Any
    ) -> GenerationConfig:
        """A GenerationConfig: the model's own defaults, over them a preset, a file of settings, these options. Errors: OptionError.

        A preset replaces the model's defaults. Each setting knows where it came from: `config.explain()`.
        """
        return layered(self.defaults if preset is None else None, preset=preset, file=file, options=options)

    # -- generating ---------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompt: Prompt,
        config: GenerationConfig | None = None,
        *,
        assistant: Model | None = None,
        amateur: Model | None = None,
        **options: Any,
    ) -> Generation:
        """Continue a text (or ids). Options are those of GenerationConfig and of `settings`, over the model's own defaults.

        A config counts as it stands, without the model's defaults; options given with it change it. assistant: a smaller model
        that guesses ahead; the text stays the same. amateur: a smaller model for contrastive decoding.

        Errors: OptionError, ContextOverflow (the prompt is longer than the window), NumericError, ConstraintError.
        """
        return self.stream(prompt, config, assistant=assistant, amateur=amateur, **options).result()

    def stream(
        self,
        prompt: Prompt,
        config: GenerationConfig | None = None,
        *,
        assistant: Model | None = None,
        amateur: Model | None = None,
        **options: Any,
    ) -> Stream:
        """The steps of `generate`, each as soon as it is chosen. Closing the stream ends the request."""
        settings = self._config(config, options)
        return self._stream(self.prompt_ids(prompt, settings.bos_token_id), settings, assistant, amateur)

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
        return self.stream_chat(messages, config, tools=tools, variables=variables, **options).result()

    def stream_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        config: GenerationConfig | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        assistant: Model | None = None,
        amateur: Model | None = None,
        **options: Any,
    ) -> Stream:
        """The steps of `chat`, each as soon as it is chosen. Closing the stream ends the request."""
        ids = self.chat_ids(messages, tools=tools, variables=variables)
        return self._stream(ids, self._config(config, options), assistant, amateur)

    def generate_many(
        self,
        prompts: Iterable[Prompt | Sequence[Mapping[str, Any]]],
        config: GenerationConfig | None = None,
        *,
        max_batch: int = 16,
        **options: Any,
    ) -> list[Generation]:
        """`generate` for many prompts at once (texts, ids, or the messages of chats), in their order; the same texts, sooner.

        max_batch: how many are computed in one pass. Errors: those of `generate`, the first one.
        """
        settings, prompts = self._config(config, options), list(prompts)
        found: dict[Any, Generation] = {}
        jobs = (Job(i, prompt, settings) for i, prompt in enumerate(prompts))
        for outcome in self.generate_each(jobs, max_batch=max_batch):
            if outcome.generation is None:
                assert outcome.error is not None
                raise outcome.error
            found[outcome.key] = outcome.generation
        return [found[i] for i in range(len(prompts))]

    def generate_each(self, jobs: Iterable[Job], *, max_batch: int = 16) -> Iterator[Outcome]:
        """Many jobs, each with its own settings, in one loop. Outcomes come in the order in which jobs end.

        Jobs are taken as there is room: at most 2 max_batch are on their way, max_batch in one pass. What goes wrong with one
        is its outcome. Times are those of a text among the others. Dropping the iterator ends what is on its way.
        """
        if isinstance(max_batch, bool) or not isinstance(max_batch, int) or max_batch < 1:
            raise OptionError(f"max_batch must be a whole number from 1: got {max_batch!r:.80}")
        return self._run_jobs(jobs, max_batch)

    def service(self, *, max_batch: int = 16, max_waiting: int | None = 256, **sizes: Any) -> ModelService:
        """This model for many threads and coroutines at once, in a loop and a thread of its own.

        max_batch: texts that grow in one pass. max_waiting: how many may wait before QueueFull is raised. sizes: as for Engine.
        """
        from fanlight.engine.service import Service
        from fanlight.served import ModelService

        def prepare(prompt: Any, config: Any, options: Mapping[str, Any]) -> Any:
            others = {name: options[name] for name in ("assistant", "amateur") if name in options}
            assistant, amateur = others.get("assistant"), others.get("amateur")
            settings = self._config(config, {name: options[name] for name in options if name not in others})
            helpers = self._helpers(assistant, amateur)
            return self._ids_of(prompt, settings), settings, helpers, self._notes(settings, assistant, amateur)

        engine = self.engine(max_batch=max_batch, **sizes)
        return ModelService(Service(engine, max_waiting=max_waiting), prepare, self.tokenizer, self.explain)

    def _run_jobs(self, jobs: Iterable[Job], max_batch: int) -> Iterator[Outcome]:
        with self._spare.taken(max_batch) as engine:

            def submit(job: Job) -> Request:
                config, helpers = self._config(job.config, {}), self._helpers(job.assistant, job.amateur)
                ids = self._ids_of(job.prompt, config)
                return engine.submit(ids, config, helpers, priority=job.priority, given=job.given)

            yield from run_jobs(
                engine,
                jobs,
                submit,
                self.tokenizer,
                n_begun=2 * max_batch,
                notes=lambda job: self._notes(job.config, job.assistant, job.amateur),
                explain=self.explain,
            )

    def next_token(self, prompt: Prompt, configs: Sequence[GenerationConfig]) -> list[Step]:
        """What would come next under each of several settings: one forward pass, one decision for each."""
        ids = self.prompt_ids(prompt)
        logits = self._forward(ids, [len(ids) - 1])
        ops, steps = self.decoder.ops, []
        tokenizer = self.tokenizer
        preparer = Preparer(
            self.decoder, eos_ids=tokenizer.eos_ids, token_text=tokenizer.token_text, vocabulary=self.vocabulary
        )
        for config in configs:
            settings = preparer.one_choice(config, ids)
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

    def engine(self, *, max_batch: int = MAX_BATCH, **sizes: Any) -> Engine:
        """A loop for many requests at once over this model. sizes: as for Engine, such as max_cache_bytes."""
        return self._new_engine(max_batch=max_batch, **sizes)

    def save_prefix(self, path: str | os.PathLike[str], prompt: Prompt | Sequence[Mapping[str, Any]]) -> int:
        """Keep the keys and values of a beginning (a text, ids, messages) in a file; its size in bytes.

        Errors: ContextOverflow, OptionError (longer than prefix_bytes, or backend hf), CheckpointError (cannot be written).
        """
        from fanlight.prefix_files import Identity, save_prefix

        ids = self._ids_of(prompt, GenerationConfig())
        with self._spare.taken(MAX_BATCH) as engine:
            return save_prefix(engine, ids, path, Identity.of(self._parts.report, engine))

    def load_prefix(self, path: str | os.PathLike[str]) -> tuple[int, ...]:
        """Have texts that begin so go on from a file of `save_prefix`; the ids it holds.

        Errors: CheckpointError (damaged, or of another model), OptionError, ContextOverflow.
        """
        from fanlight.prefix_files import Identity, load_prefix

        with self._spare.taken(MAX_BATCH) as engine:
            return load_prefix(engine, path, Identity.of(self._parts.report, engine))

    def detect_watermark(
        self, text: Prompt, watermarking_config: Any, *, z_threshold: float = 3.0
    ) -> Detection | SynthIDDetection:
        """How much a text (or ids), without its prompt, looks as if it were made with this watermark. Errors: OptionError."""
        from fanlight.decoding.watermarks import Source, detect

        tokenizer = self.tokenizer
        ids = tokenizer.encode(text, add_special=False) if isinstance(text, str) else self._checked("the text", text)
        sizes, ops, eos_ids, bos_id = self.decoder.config, self.decoder.ops, tokenizer.eos_ids, tokenizer.bos_id
        how = Source(sizes.n_vocab, ops, eos_ids, bos_id)
        return detect(ids, watermarking_config, how, z_threshold=z_threshold)

    # -- prompts ------------------------------------------------------------------------------------------------------

    def prompt_ids(self, prompt: Prompt, bos_token_id: int | None = None) -> tuple[int, ...]:
        """The ids of a text; ids are returned as they are. An empty prompt is the BOS token: this one, or the model's own."""
        if isinstance(prompt, bytes):
            raise OptionError("the prompt is bytes; decode it to text first")
        ids = tuple(self.tokenizer.encode(prompt)) if isinstance(prompt, str) else self._checked("the prompt", prompt)
        if ids:
            return ids
        if bos_token_id is not None:
            return self._checked("bos_token_id", (bos_token_id,))
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

    def vocabulary(self) -> Vocabulary:
        """The bytes of all tokens, as a grammar needs them; made once."""
        return self._vocabulary()

    def _stream(
        self, ids: tuple[int, ...], config: GenerationConfig, assistant: Model | None, amateur: Model | None
    ) -> Stream:
        helpers = self._helpers(assistant, amateur)
        n = max(config.num_beams, config.num_return_sequences, config.best_of)
        engine = self._spare.take(max(MAX_BATCH, 2 * n))
        return Stream(
            engine,
            lambda engine: engine.submit(ids, config, helpers),
            self.tokenizer,
            notes=self._notes(config, assistant, amateur),
            explain=self.explain,
            closed=lambda: self._spare.leave(engine),
        )

    def _ids_of(self, prompt: Any, config: GenerationConfig) -> tuple[int, ...]:
        if isinstance(prompt, Mapping) or not isinstance(prompt, (str, bytes, Iterable)):
            raise OptionError(f"the prompt must be a text, ids, or the messages of a chat: got {prompt!r:.80}")
        prompt = prompt if isinstance(prompt, (str, bytes)) else list(prompt)
        is_chat = not isinstance(prompt, (str, bytes)) and any(isinstance(message, Mapping) for message in prompt)
        return self.chat_ids(prompt) if is_chat else self.prompt_ids(prompt, config.bos_token_id)

    def _notes(self, config: GenerationConfig, assistant: Model | None, amateur: Model | None) -> tuple[str, ...]:
        return (*without_helpers(config, assistant=assistant is not None, amateur=amateur is not None), *self.notes)

    def _helpers(self, assistant: Model | None, amateur: Model | None) -> Helpers:
        return Helpers(assistant=self._helper("assistant", assistant), amateur=self._helper("amateur", amateur))

    def _helper(self, what: str, model: Model | None) -> Decoder | None:
        if model is None:
            return None
        if not isinstance(model, Model):
            raise OptionError(f"{what} must be a model, as load() gives it: got {model!r:.80}")
        mine, theirs = self.tokenizer, model.tokenizer
        tokens = range(0, mine.n_vocab, max(1, mine.n_vocab // 1000))
        if mine.n_vocab != theirs.n_vocab or any(mine.token_bytes(t) != theirs.token_bytes(t) for t in tokens):
            raise OptionError(f"{what}: {model.name} has another vocabulary than {self.name}; it must be the same")
        return model.decoder

    def _config(self, config: GenerationConfig | None, options: Mapping[str, Any]) -> GenerationConfig:
        if config is None:
            settings = self.settings(**options)
        elif not isinstance(config, GenerationConfig):
            raise OptionError(f"config must be a GenerationConfig, or options by name: got {config!r:.80}")
        else:
            settings = config.replace(**options) if options else config
        if settings.negative_prompt is not None and settings.negative_prompt_ids is None:
            ids = self.prompt_ids(settings.negative_prompt)
            origins = (*settings.origins, ("negative_prompt_ids", COMMAND))
            settings = replace(settings, negative_prompt_ids=ids, origins=origins)
        return settings

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
