"""From a text that is being written to its trace. In: steps and generations. Out: a Trace, kept in a file where one is asked for.

A file is there from early on, marked incomplete, and is written anew as the text grows; so a run that is cut off, or a disk that
is full at its end, leaves what came before. Knows no file format and no terminal.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, is_dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from itertools import pairwise
from math import atanh, inf, isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fanlight.decoding.config import DEFAULTS, GenerationConfig
from fanlight.engine.identity import Identity, fingerprint_of
from fanlight.errors import OptionError, TraceError
from fanlight.trace.header import Header, Origin, Parent
from fanlight.trace.stop import StopReason
from fanlight.tracing.looking import check, look
from fanlight.tracing.trace import Trace

if TYPE_CHECKING:
    from fanlight.engine.loop import Engine
    from fanlight.generation import Generation, Step
    from fanlight.loading import Loaded
    from fanlight.trace.options import TraceOptions
    from fanlight.trace.records import StepRecord

FIRST_SNAPSHOT = 256
"""Steps until a growing text is written for the first time; from there on, whenever it has doubled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The model that writes."""

    parts: Loaded
    engine: Callable[[], Any]
    """A context manager that lends an engine of this model."""


def kept_settings(config: GenerationConfig) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The settings that are not the default's, as JSON holds them, and the names of those that are code."""
    kept, unkept = {}, []
    for name, value in config.values().items():
        if value == DEFAULTS[name]:
            continue
        plain = _plain(value)
        if plain is _CODE:
            unkept.append(name)
        else:
            kept[name] = plain
    return kept, tuple(unkept)


_CODE = object()


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if isfinite(value) else "-inf" if value == -inf else _CODE  # a bias that removes a token
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        pairs = {str(key): _plain(item) for key, item in value.items()}
        return _CODE if any(item is _CODE for item in pairs.values()) else pairs
    if isinstance(value, Sequence | frozenset | set) and not isinstance(value, bytes):
        items = [_plain(item) for item in value]
        return _CODE if any(item is _CODE for item in items) else items
    return _CODE


def config_of(header: Header, **options: Any) -> GenerationConfig:
    """The settings of a trace, these options over them. Errors: OptionError if they were code, which no trace keeps."""
    if header.unkept:
        names = ", ".join(header.unkept)
        raise OptionError(f"the trace was made with {names} of its caller's own code, which no trace keeps")
    config = kept_config(header)
    return config.replace(**options) if options else config


def kept_config(header: Header) -> GenerationConfig:
    """The settings of a trace as far as they are kept, each with where it came from."""
    settings = {name: value for name, value in header.settings.items() if name in DEFAULTS}
    origins = tuple((name, origin) for name, origin in header.setting_origins.items() if name in DEFAULTS)
    return GenerationConfig(**settings, origins=origins)


class Recorder:
    """The trace of one request, while it comes."""

    def __init__(
        self,
        source: Source,
        options: TraceOptions,
        config: GenerationConfig,
        prompt: str | None,
        *,
        helpers: Sequence[str] = (),
        parent: Parent | None = None,
        known: Sequence[StepRecord] = (),
        is_given: bool = False,
        asked: Sequence[int] = (),
    ) -> None:
        """prompt: the text, if it was one. known: the first steps' records, of the parent. asked: the prompt's ids, before
        token_healing took any back.

        Errors: OptionError for layers that are not there, TraceError for a path that cannot be written, CheckpointError if the
        model's files cannot be read any more: all before the text is written. Reads those files, once for a model.
        """
        if not config.candidates:
            raise OptionError("a trace needs the account of the steps: candidates must be above 0")
        check(options, source.parts.decoder.config)
        self._source, self._options, self._prompt = source, options, prompt
        self._helpers, self._parent, self._is_given = tuple(helpers), parent, is_given
        self._known, self._asked = tuple(known), tuple(asked)
        self._next_snapshot, self._failed = FIRST_SNAPSHOT, False
        self._snapshot: str | None = None
        self._begun = (0.0, 0.0)
        self._clocks: dict[int, list[tuple[float, float]]] = {}
        self._origin: Origin | None = None
        fingerprint_of(source.parts.report)
        if options.path is not None:
            from fanlight.tracing.files import check_target

            check_target(options.path)

    def step(self, step: Step, engine: Engine, so_far: Callable[[], Generation]) -> None:
        """A step has come. so_far: the text until here."""
        if self._options.timings:
            self._clocks.setdefault(step.sequence, []).append((engine.forward_seconds, engine.deciding_seconds))
        if self._options.path is not None and step.index + 1 == self._next_snapshot and step.stop is None:
            self._next_snapshot *= 2
            text = so_far()
            if len(text.all) == 1:  # which of several is the first is known at the end
                with suppress(TraceError):  # a full disk ends no text; the end says so
                    trace = self._trace(text, {}, {}, problem="the text was still being written")
                    self._snapshot = self._save(trace).path

    def begin(self, engine: Engine) -> None:
        """The request is about to be computed."""
        if self._options.timings:
            self._begun = (engine.forward_seconds, engine.deciding_seconds)

    def fail(self, so_far: Generation, error: BaseException) -> None:
        """The request ended with an error: what came before stays, marked incomplete, where a path was given."""
        self._failed = True
        self._keep_part(so_far, f"ended by {type(error).__name__}: {error}".removesuffix(": "))

    def leave(self, so_far: Generation, error: BaseException | None) -> None:
        """Nobody waits for the end of the text: what came stays, as for `fail`. error: why it is left, if it is an error."""
        if not self._failed:
            why = "the rest was not waited for" if error is None else f"left with {type(error).__name__}: {error}"
            self._keep_part(so_far, why.removesuffix(": "))

    def _keep_part(self, so_far: Generation, problem: str) -> None:
        if self._options.path is None or not so_far.ids:
            return
        with suppress(TraceError):  # the error itself is on its way to the caller
            self._save(self._trace(so_far, {}, {}, problem=problem))

    def finish(self, generation: Generation) -> Generation:
        """The text with its trace, and each of the others with its own; written where a path was given."""
        others = tuple(self._finished(other, i + 2) for i, other in enumerate(generation.others))
        return replace(self._finished(generation, 1), others=others)

    def _finished(self, generation: Generation, number: int) -> Generation:
        cancelled = generation.stop.reason is StopReason.CANCELLED
        problem = generation.stop.detail if cancelled else ""
        try:
            looks, missing = self._looks(generation)
        except BaseException as error:  # Ctrl-C, positions that are not there: the account of the steps stays
            if self._options.path is not None:
                problem = f"looking inside was ended by {type(error).__name__}: {error}".removesuffix(": ")
                with suppress(TraceError):
                    self._save(self._trace(generation, {}, {}, problem=problem), number)
            raise
        trace = self._trace(generation, looks, missing, problem=problem)
        notes = tuple(f"the trace has no {name}: {why}" for name, why in missing.items())
        if self._options.path is not None:
            trace, note = self._kept(trace, looks, number)
            notes += (note,) if note else ()
        return replace(generation, trace=trace, notes=generation.notes + notes)

    def _looks(self, generation: Generation) -> tuple[dict[str, Any], dict[str, str]]:
        if not self._options.looks_inside or not generation.ids:
            return {}, {}
        ids = generation.prompt_ids + generation.ids
        with self._source.engine() as engine:
            looks, missing = look(
                self._source.parts.decoder,
                engine.cache,
                ids,
                len(generation.prompt_ids),
                self._options,
                self._passes(generation),
            )
        if "contributions" in looks:
            cap = self._source.parts.decoder.config.logit_softcap
            logits = [_uncapped(chosen_logit(step.record), cap) for step in generation.steps]
            looks["contributions"].logits[:] = logits
        return looks, missing

    def _passes(self, generation: Generation) -> dict[str, list[float]]:
        """Seconds of each step of this text; NaN where nobody took the time."""
        if not self._clocks:
            return dict.fromkeys(("forward", "deciding"), [nan] * len(generation.steps))
        clock = [self._begun, *(self._clocks[step.sequence][step.index] for step in generation.steps)]
        return {
            name: [after[i] - before[i] for before, after in pairwise(clock)]
            for i, name in enumerate(("forward", "deciding"))
        }

    def _trace(
        self, generation: Generation, looks: Mapping[str, Any], missing: Mapping[str, str], *, problem: str = ""
    ) -> Trace:
        if self._origin is None:
            with self._source.engine() as engine:
                self._origin = origin_of(self._source.parts, engine)
        settings, unkept = kept_settings(generation.config)
        prompt = self._prompt
        tokenizer = self._source.parts.tokenizer
        header = Header(
            id=trace_id(self._origin, generation, settings, is_given=self._is_given, parent=self._parent),
            origin=self._origin,
            prompt=prompt if prompt is not None else tokenizer.decode(generation.prompt_ids),
            text=generation.text,
            stop=generation.stop,
            seed=generation.seed,
            request_seed=generation.request_seed,
            settings=settings,
            setting_origins=dict(generation.config.origins),
            eos_ids=tokenizer.eos_ids if generation.config.eos_token_id is None else generation.config.eos_token_id,
            unkept=unkept,
            notes=generation.notes,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            complete=not problem,
            problem=problem,
            is_given=self._is_given,
            helpers=self._helpers,
            parent=self._parent,
            taken_back=self._asked[len(generation.prompt_ids) :],
            prefill_seconds=generation.prefill_seconds,
            decode_seconds=generation.decode_seconds,
            n_reused=generation.usage.n_reused,
            n_computed=generation.usage.n_computed,
            score=generation.score,
            missing=dict(missing),
        )
        records = [*self._known, *(step.record for step in generation.steps[len(self._known) :])]
        known = {*generation.prompt_ids, *generation.ids, *_seen(records), *tokenizer.eos_ids}
        if "lens" in looks:
            known.update(map(int, {*looks["lens"].ids.ravel().tolist()}))
        search = generation.search
        if search is not None:
            known.update(node.id for node in search.nodes)
        return Trace(
            header,
            prompt_ids=generation.prompt_ids,
            ids=generation.ids,
            pieces=[step.text for step in generation.steps],
            vocabulary={token: tokenizer.token_bytes(token) for token in sorted(known)},
            steps=lambda: records,
            looks={name: _constant(value) for name, value in looks.items()},
            search=_constant(search) if search is not None else None,
        )

    # -- files --------------------------------------------------------------------------------------------------------

    def _kept(self, trace: Trace, looks: Mapping[str, Any], number: int) -> tuple[Trace, str]:
        """The trace as it lies in its file, or as it is with a note that says why it does not."""
        try:
            return self._save(trace, number), ""
        except TraceError as error:
            why = str(error)
        marked = trace.marked(f"it could not be written whole: {why}")
        if looks:  # without what takes most of the room
            try:
                self._save(marked.without_looks(why), number)
                return marked, f"the trace was kept without {', '.join(looks)}: {why}"
            except TraceError:
                pass
        return marked, f"the trace was not kept: {why}"

    def _save(self, trace: Trace, number: int = 1) -> Trace:
        from fanlight.tracing.files import save_trace

        assert self._options.path is not None
        saved = trace.at_path(save_trace(trace, numbered(self._options.path, number)))
        if self._snapshot not in (None, saved.path):  # in a folder, a text that has grown has another name
            with suppress(OSError):
                Path(str(self._snapshot)).unlink()
            self._snapshot = None
        return saved


def is_folder(path: Any) -> bool:
    """Whether traces that go there have names of their own."""
    return str(path).endswith(("/", "\\")) or Path(path).is_dir()


def numbered(path: Any, number: int) -> str:
    """The file of the second, third, ... text of a request: "run.2.safetensors". A folder stays one."""
    text = str(path)
    if number == 1 or is_folder(path):
        return text
    file = Path(text)
    return str(file.with_name(f"{file.stem}.{number}{file.suffix}"))


def origin_of(parts: Loaded, engine: Engine) -> Origin:
    """What computes. Reads the model's files, once for a model."""
    from fanlight import __version__

    identity, config = Identity.of(parts.report, engine), parts.decoder.config
    return Origin(
        model=parts.name,
        fingerprint=identity.model,
        architecture=config.model_type,
        kernels=getattr(parts.decoder, "runs_in", identity.kernels),
        conversions=identity.conversions,
        rotation=identity.rotation,
        cache_type=identity.cache_type,
        fanlight=__version__,
        platform=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        n_layer=config.n_layer,
        n_head=config.n_head,
        n_vocab=config.n_vocab,
        n_ctx=config.n_ctx,
    )


def trace_id(
    origin: Origin,
    generation: Generation,
    settings: Mapping[str, Any],
    *,
    is_given: bool,
    parent: Parent | None = None,
) -> str:
    """16 hexadecimal digits of what was asked and what came; of a branch, where it left too, so that none is its own parent."""
    seed = generation.seed if generation.config.samples else None  # without draws it means nothing
    said = [origin.fingerprint, generation.prompt_ids, generation.ids, settings, seed, is_given]
    said += [parent.id, parent.step] if parent is not None else []
    return sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def chosen_logit(record: StepRecord) -> float:
    """The raw logit of the token that a step chose."""
    return record.raw_logits[record.candidate_ids.index(record.id)]


def _uncapped(logit: float, cap: float) -> float:
    """The logit before cap * tanh(logit / cap)."""
    return cap * atanh(max(-1 + 1e-7, min(1 - 1e-7, logit / cap))) if cap else logit


def _seen(records: Sequence[StepRecord]) -> set[int]:
    found: set[int] = set()
    for record in records:
        found.update(record.candidate_ids)
        found.update(token for token in (record.runner_up,) if token is not None)
        if record.guess is not None:
            found.add(record.guess.id)
    return found


def _constant(value: Any) -> Callable[[], Any]:
    return lambda: value
