"""A decoder with its tokenizer: a Model that generates. In: text or ids. Out: text with the account of every step."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

from fanlight.decoding.config import GenerationConfig
from fanlight.decoding.notes import without_helpers
from fanlight.decoding.step import decide
from fanlight.engine.loop import Engine
from fanlight.engine.preparing import Preparer
from fanlight.engine.request import Helpers
from fanlight.engine.spare import Spare
from fanlight.errors import NumericError, OptionError
from fanlight.generation import Generation, Step, Stream
from fanlight.jobs import Job, Outcome, run_jobs
from fanlight.loading import Loaded
from fanlight.model_base import ModelBase, Prompt
from fanlight.trace.options import TraceOptions

if TYPE_CHECKING:
    from fanlight.decoding.constraints import Vocabulary
    from fanlight.engine.request import Request
    from fanlight.models.base import Decoder
    from fanlight.served import ModelService
    from fanlight.text.tokenizer import AnyTokenizer
    from fanlight.trace.header import Parent
    from fanlight.trace.records import StepRecord
    from fanlight.tracing.recording import Recorder
    from fanlight.tracing.trace import Trace

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


def _helper(what: str, model: Model | None, mine: AnyTokenizer) -> Decoder | None:
    """The decoder of a model that helps one with the vocabulary `mine`. Errors: OptionError."""
    if model is None:
        return None
    if not isinstance(model, Model):
        raise OptionError(f"{what} must be a model, as load() gives it: got {model!r:.80}")
    theirs = model.tokenizer
    tokens = range(0, mine.n_vocab, max(1, mine.n_vocab // 1000))
    if mine.n_vocab != theirs.n_vocab or any(mine.token_bytes(t) != theirs.token_bytes(t) for t in tokens):
        raise OptionError(f"{what}: {model.name} has another vocabulary than this model; it must be the same")
    return model.decoder


class Model(ModelBase):
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
        super().__init__(parts)
        sizes = {"prefill_chunk": prefill_chunk, "prefix_bytes": prefix_bytes, "cache_type": cache_type}
        self._new_engine = partial(
            _engine, parts, self._vocabulary, **sizes
        )  # without self, so that a dropped model goes
        self._spare = Spare(partial(self._new_engine, max_batch=MAX_BATCH))

    # -- generating ---------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompt: Prompt,
        config: GenerationConfig | None = None,
        *,
        assistant: Model | None = None,
        amateur: Model | None = None,
        trace: Any = None,
        **options: Any,
    ) -> Generation:
        """Continue a text (or ids). Options are those of GenerationConfig and of `settings`, over the model's own defaults.

        A config counts as it stands, without the model's defaults; options given with it change it. assistant: a smaller model
        that guesses ahead; the text stays the same. amateur: a smaller model for contrastive decoding. trace: True, a file's
        name or TraceOptions: the result has a `trace`; the text stays the same.

        Errors: OptionError, ContextOverflow (the prompt is longer than the window), NumericError, ConstraintError; TraceError
        if the trace's file could not be written from the start.
        """
        return self.stream(prompt, config, assistant=assistant, amateur=amateur, trace=trace, **options).result()

    def stream(
        self,
        prompt: Prompt,
        config: GenerationConfig | None = None,
        *,
        assistant: Model | None = None,
        amateur: Model | None = None,
        trace: Any = None,
        **options: Any,
    ) -> Stream:
        """The steps of `generate`, each as soon as it is chosen. Closing the stream ends the request."""
        settings = self._config(config, options)
        ids = self.prompt_ids(prompt, settings.bos_token_id)
        text = prompt if isinstance(prompt, str) else None
        return self._stream(ids, settings, assistant, amateur, trace=trace, prompt=text)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        config: GenerationConfig | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        trace: Any = None,
        **options: Any,
    ) -> Generation:
        """The assistant's answer to messages like {"role": "user", "content": "..."}. tools, variables: as in `chat_ids`.

        Errors: as `generate`; OptionError if the model has no chat template, TokenizerError if the messages are malformed.
        """
        return self.stream_chat(messages, config, tools=tools, variables=variables, trace=trace, **options).result()

    def stream_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        config: GenerationConfig | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        assistant: Model | None = None,
        amateur: Model | None = None,
        trace: Any = None,
        **options: Any,
    ) -> Stream:
        """The steps of `chat`, each as soon as it is chosen. Closing the stream ends the request."""
        ids = self.chat_ids(messages, tools=tools, variables=variables)
        return self._stream(ids, self._config(config, options), assistant, amateur, trace=trace)

    def score(
        self,
        text: Prompt,
        config: GenerationConfig | None = None,
        *,
        prompt: Prompt | None = None,
        trace: Any = True,
        **options: Any,
    ) -> Trace:
        """The account of a text that the model did not write, as if it had: how likely each token was, and what else could come.

        prompt: what stands before it; without one, its first token has nothing before it and is no step, unless the model's
        texts begin with a token of their own. trace: what else to look at. Errors: as `generate`; ContextOverflow if the text
        is longer than the window.
        """
        ids = self.prompt_ids(text)
        if prompt is not None:
            before = self.prompt_ids(prompt)
            ids = tuple(self.tokenizer.encode(text, add_special=False)) if isinstance(text, str) else ids
        else:
            before, ids = ids[:1], ids[1:]
        settings = self._config(config, options)
        said = prompt if isinstance(prompt, str) else None
        result = self._stream(before, settings, None, None, trace=trace or True, prompt=said, given=ids).result()
        assert result.trace is not None
        return result.trace

    def generate_many(
        self,
        prompts: Iterable[Prompt | Sequence[Mapping[str, Any]]],
        config: GenerationConfig | None = None,
        *,
        max_batch: int = 16,
        trace: Any = None,
        **options: Any,
    ) -> list[Generation]:
        """`generate` for many prompts at once (texts, ids, or the messages of chats), in their order; the same texts, sooner.

        max_batch: how many are computed in one pass. trace: as for `generate`; a path must be a folder's, "runs/".
        Errors: those of `generate`, the first one.
        """
        settings, prompts = self._config(config, options), list(prompts)
        self._check_places(trace, len(prompts))
        found: dict[Any, Generation] = {}
        jobs = (Job(i, prompt, settings, trace=trace) for i, prompt in enumerate(prompts))
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
            recorders: dict[int, Recorder] = {}

            def submit(job: Job) -> Request:
                config, helpers = self._config(job.config, {}), self._helpers(job.assistant, job.amateur)
                ids, options, recorder = self._ids_of(job.prompt, config), TraceOptions.of(job.trace), None
                if options is not None:  # a mistake in them shows before the text is written
                    prompt = job.prompt if isinstance(job.prompt, str) else None
                    names = [model.name for model in (job.assistant, job.amateur) if model is not None]
                    more = {"helpers": names, "is_given": job.given is not None, "asked": ids}
                    recorder = self._recorder(options, config, prompt, **more)
                request = engine.submit(ids, config, helpers, priority=job.priority, given=job.given)
                if recorder is not None:
                    recorders[request.id] = recorder
                return request

            yield from run_jobs(
                engine,
                jobs,
                submit,
                self.tokenizer,
                n_begun=2 * max_batch,
                notes=lambda job: self._notes(job.config, job.assistant, job.amateur),
                recorder_of=lambda request: recorders.pop(request.id, None),
                explain=self.explain,
            )

    def next_token(self, prompt: Prompt, configs: Sequence[GenerationConfig]) -> list[Step]:
        """What would come next under each of several settings: one forward pass, one decision for each."""
        ids, tokenizer = self.prompt_ids(prompt), self.tokenizer
        preparer = Preparer(
            self.decoder, eos_ids=tokenizer.eos_ids, token_text=tokenizer.token_text, vocabulary=self.vocabulary
        )
        row = self.decoder.ops.row(self._forward(ids, [len(ids) - 1]), 0)
        try:
            decisions = [decide(ids, row, preparer.one_choice(config, ids)) for config in configs]
        except NumericError as error:
            raise self.explain(error) from error
        chosen = [(decision.choice.id, decision) for decision in decisions]
        return [Step(0, token, tokenizer.token_text(token), None, each, tokenizer) for token, each in chosen]

    def engine(self, *, max_batch: int = MAX_BATCH, **sizes: Any) -> Engine:
        """A loop for many requests at once over this model. sizes: as for Engine, such as max_cache_bytes."""
        return self._new_engine(max_batch=max_batch, **sizes)

    def lent_engine(self) -> AbstractContextManager[Engine]:
        """The engine that the next call would have, with what it knows, for as long as the `with` block runs."""
        return self._spare.taken(MAX_BATCH)

    def save_prefix(self, path: str | os.PathLike[str], prompt: Prompt | Sequence[Mapping[str, Any]]) -> int:
        """Keep the keys and values of a beginning (a text, ids, messages) in a file; its size in bytes.

        Errors: ContextOverflow, OptionError (longer than prefix_bytes, or backend hf), CheckpointError (cannot be written).
        """
        from fanlight.engine.identity import Identity
        from fanlight.prefix_files import save_prefix

        ids = self._ids_of(prompt, GenerationConfig())
        with self.lent_engine() as engine:
            return save_prefix(engine, ids, path, Identity.of(self._parts.report, engine))

    def load_prefix(self, path: str | os.PathLike[str]) -> tuple[int, ...]:
        """Have texts that begin so go on from a file of `save_prefix`; the ids it holds.

        Errors: CheckpointError (damaged, or of another model), OptionError, ContextOverflow.
        """
        from fanlight.engine.identity import Identity
        from fanlight.prefix_files import load_prefix

        with self.lent_engine() as engine:
            return load_prefix(engine, path, Identity.of(self._parts.report, engine))

    # -- inside -------------------------------------------------------------------------------------------------------

    def _stream(
        self,
        ids: tuple[int, ...],
        config: GenerationConfig,
        assistant: Model | None,
        amateur: Model | None,
        *,
        trace: Any = None,
        prompt: str | None = None,
        given: Sequence[int] | None = None,
        begin: Sequence[int] = (),
        parent: Parent | None = None,
        known: Sequence[StepRecord] = (),
    ) -> Stream:
        """prompt: the text, if it was one. given: a text to take account of. begin: what the text begins with. parent: where
        it leaves another trace, whose records `known` it shares.
        """
        helpers = self._helpers(assistant, amateur)
        recorder = None
        if trace is not None and trace is not False:
            recorder = self._recorder(
                TraceOptions.of(trace) or TraceOptions(),
                config,
                prompt,
                helpers=[model.name for model in (assistant, amateur) if model is not None],
                is_given=given is not None,
                parent=parent,
                known=known,
                asked=ids,
            )
        n = max(config.num_beams, config.num_return_sequences, config.best_of)
        engine = self._spare.take(max(MAX_BATCH, 2 * n))
        return Stream(
            engine,
            lambda engine: engine.submit(ids, config, helpers, given=given, begin=begin),
            self.tokenizer,
            notes=self._notes(config, assistant, amateur),
            explain=self.explain,
            closed=lambda: self._spare.leave(engine),
            recorder=recorder,
        )

    def _check_places(self, trace: Any, n_texts: int) -> None:
        """Errors: OptionError for several texts that would go into one file."""
        options = TraceOptions.of(trace)
        if options is None or options.path is None or n_texts < 2:
            return
        from fanlight.tracing.recording import is_folder

        if not is_folder(options.path):
            raise OptionError(
                f"trace: {os.fspath(options.path)!r:.200} is one file, and there are {n_texts} texts: give a folder, whose name "
                "ends with /"
            )

    def _recorder(self, options: TraceOptions, config: GenerationConfig, prompt: str | None, **more: Any) -> Recorder:
        from fanlight.tracing.recording import Recorder, Source

        return Recorder(Source(parts=self._parts, engine=self.lent_engine), options, config, prompt, **more)

    def _notes(self, config: GenerationConfig, assistant: Model | None, amateur: Model | None) -> tuple[str, ...]:
        return (*without_helpers(config, assistant=assistant is not None, amateur=amateur is not None), *self.notes)

    def _helpers(self, assistant: Model | None, amateur: Model | None) -> Helpers:
        decoder, vocabulary = _helper, self.tokenizer
        return Helpers(
            assistant=decoder("assistant", assistant, vocabulary), amateur=decoder("amateur", amateur, vocabulary)
        )
