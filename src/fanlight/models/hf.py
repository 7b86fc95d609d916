"""Any causal language model of the transformers library, on any torch device, as a Decoder. In: ids and a batch. Out: logits.

Knows no architecture. The library's own cache object, whatever its class, is kept as a memo of the ids that it stands for
(`hf_pool`); so pages that are copied, cut off, given back or shared are right for attention and for state-space models alike.

A sequence goes through the model by itself, as a batch of one, in pieces that depend on nothing but its ids and on where
logits were wanted: its numbers are the same alone or beside others, after a lost memo, and however a prompt was cut into
passes. What is not promised: bits that are the same for other shapes. torch rounds differently for one row and for many, so
a text prefilled at once and the same text decoded token by token differ in the last digits, as they do after a sequence was
put off because the cache was full and is computed again; other devices and other versions of torch differ likewise.
"""

from __future__ import annotations

import copy
import inspect
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from fanlight.errors import CheckpointError, KernelError, MissingExtra, OptionError
from fanlight.kernels.ops import KVBatch, KVPool, Ops, Readings, Tensor
from fanlight.models.base import Watch
from fanlight.models.hf_files import DTYPES, account, check_kind, config_of, one_line, read_folder
from fanlight.models.hf_look import Look, Looker
from fanlight.models.hf_pool import History, IdBatch, IdPool, Memo
from fanlight.models.weights import LoadReport

PIECE = 512
"""Ids that go through an attention model at once, at most."""
MAX_CROPS = 3
"""Caches that are copied to be cropped, at most, before a sequence is computed again."""
CACHE_NAMES = ("past_key_values", "cache_params", "state")  # what transformers calls a model's cache, in and out
MAX_DIFFERENCE = 0.3  # of logits that should be equal, in standard deviations: far above the rounding of any type


def installed() -> bool:
    """Whether the extra `hf` is there, without importing it."""
    return find_spec("torch") is not None and find_spec("transformers") is not None


def load_hf(
    path: str | os.PathLike[str], ops: Ops, device: str | None = None, dtype: str | None = None
) -> tuple[HFDecoder, LoadReport]:
    """Read a Hugging Face folder with transformers. See `HFDecoder`."""
    decoder = HFDecoder(path, ops=ops, device=device, dtype=dtype)
    return decoder, decoder.report


class HFDecoder:
    """A decoder that transformers runs. Immutable."""

    def __init__(self, model_or_path: Any, *, ops: Ops, device: str | None = None, dtype: str | None = None) -> None:
        """A folder with config.json and safetensors, or a model of transformers, which is put into evaluation mode.

        device: as torch names it; None: the model's own, of a folder the CPU. dtype: F32, F16, BF16 or torch's names; None:
        the model's own, of a folder the stored type, but F32 on the CPU. ops: for the logits and what decoding does to them.
        Errors: MissingExtra, OptionError (device, dtype), CheckpointError (what transformers, or this class, cannot run).
        """
        self._torch, self._transformers = _libraries()
        self.ops = ops
        kind = _checked_dtype(self._torch, dtype)
        with quiet(self._transformers):
            if isinstance(model_or_path, str | os.PathLike):
                where, place = os.fspath(model_or_path), _checked_device(self._torch, device or "cpu")
                stored_or_wide = kind or (self._torch.float32 if place.type == "cpu" else "auto")
                model, self.report = read_folder(self._transformers, Path(where), stored_or_wide)
                _move(self._torch, model, device=place)
            else:
                where, model = type(model_or_path).__name__, model_or_path
                check_kind(where, model.config)
                self.report = LoadReport(path=where, format="transformers")
                if device or kind:
                    _move(self._torch, model, device=device and _checked_device(self._torch, device), dtype=kind)
            self.model = model.eval()
            self.device = self.model.device
            self._accepts = inspect.signature(self.model.forward).parameters
            self._cache_name = next((name for name in CACHE_NAMES if name in self._accepts), None)
            self._lock = threading.Lock()  # some models keep rotary angles that grow with the sequence
            n_vocab = self._probe(where)
        self.config = config_of(self.model, n_vocab)
        self._looker = Looker(self._torch, self.model, self.config, ops, partial(quiet, self._transformers))
        account(self.report, self.model, self.config.model_type)

    def new_pool(self, dtype: str | None = None) -> KVPool:
        """An empty pool of ids. A page counts the bytes that this model's cache takes for as many tokens.

        Errors: OptionError for a type of the cache, which is transformers' business.
        """
        if dtype is not None:
            raise OptionError(
                f"the KV cache's type {dtype!r} has no effect with backend hf: transformers keeps keys and values in the model's "
                "own type; leave it out, or use the native backend"
            )
        return IdPool(*self._cache_bytes)

    def forward(
        self, ids: Sequence[int], batch: KVBatch, logit_rows: Sequence[int], watch: Watch | None = None
    ) -> Tensor:
        """See `models.base.Decoder`. A prompt may be computed as late as its logits, or what a watch keeps, are wanted.

        Looking changes no bit: attention weights come of a pass beside this one (`hf_attention`). Seconds are those of all ids
        that are computed in this pass. Errors: OptionError for a pass that is to be left early, and for what this model
        does not show.
        """
        rows = cast("IdBatch", batch)
        if len(ids) != rows.n_rows:
            raise KernelError(f"forward: {len(ids)} ids for a batch of {rows.n_rows} rows")
        names: Sequence[int | str] = ()
        kept: Sequence[int] = ()
        if watch is not None:
            with self._lock:
                names = self._looker.begin(watch)
            kept = watch.kept_rows(logit_rows) if names or watch.middles or watch.attention else ()
        for row in (*logit_rows, *kept):
            if not 0 <= row < rows.n_rows:
                raise KernelError(f"forward: row {row} is outside 0 to {rows.n_rows - 1}")
        found: dict[int, Any] = {}
        seen: dict[tuple[str, int | str], dict[int, Any]] = {}
        for table, start, first, end in rows.sequences():
            wanted, watched = (
                sorted(start + row - first for row in set(some) if first <= row < end) for some in (logit_rows, kept)
            )
            look = Look(watch=watch, names=names, positions=watched) if watch is not None else None
            logits = self._advance(rows.pool, table, start, ids[first:end], wanted, look)
            found.update((first + position - start, row) for position, row in logits.items())
            for key, of_positions in look.seen.items() if look else ():
                seen.setdefault(key, {}).update((first + at - start, value) for at, value in of_positions.items())
        if watch is not None:
            self._looker.hand_over(watch, names, kept, seen)
        return self._tensor(found, logit_rows, self.config.n_vocab)

    @property
    def runs_in(self) -> str:
        """What computes, in words."""
        versions = f"transformers {self._transformers.__version__}, torch {self._torch.__version__}"
        return f"{versions} ({self.device})"

    def read_out(self, x: Tensor, *, norm: bool = True) -> Tensor:
        """See `models.base.Decoder`. Errors: OptionError where the model's final norm or its head cannot be told."""
        with self._lock:
            return self._of_torch(self._looker.anatomy.read_out(self._torch.from_numpy(x.numpy()), norm))

    def readings(self, x: Tensor, tokens: Sequence[int], k: int) -> Readings:
        """See `models.base.Decoder`; computed on the model's device. Errors: as for `read_out`."""
        with self._lock:
            return self._looker.anatomy.readings(self._torch.from_numpy(x.numpy()), tokens, k)

    def final(self, x: Tensor) -> Tensor:
        """See `models.base.Decoder`. Errors: as for `read_out`."""
        with self._lock:
            return self._of_torch(self._looker.anatomy.final(self._torch.from_numpy(x.numpy())))

    def head_rows(self, tokens: Sequence[int]) -> Tensor:
        """See `models.base.Decoder`: the head's weights, without its bias, nor a factor or a cap that logits pass through.

        Errors: as for `read_out`, and where the head's weights are no plain numbers.
        """
        with self._lock:
            return self._of_torch(self._looker.anatomy.head_rows(tokens))

    def _tensor(self, found: dict[int, Any], rows: Sequence[int], n_columns: int) -> Tensor:
        import numpy as np

        values = np.empty((len(rows), n_columns), np.float32)
        for i, row in enumerate(rows):
            values[i] = found[row]
        return self.ops.tensor(values.tobytes(), n_columns)

    def _of_torch(self, x: Any) -> Tensor:
        return self.ops.tensor(x.cpu().numpy().tobytes(), x.shape[-1])

    # -- one sequence -------------------------------------------------------------------------------------------------

    def _advance(
        self,
        pool: IdPool,
        table: Sequence[int],
        start: int,
        ids: Sequence[int],
        wanted: Sequence[int],
        look: Look | None = None,
    ) -> dict[int, Any]:
        """Append ids to a sequence; logits of the positions wanted, and into `look` the states that it wants."""
        history = pool.history(table, start)
        history.append(ids)
        needed = sorted((*wanted, *(look.positions if look else ())))
        new_cuts = self._new_cuts(history.last_cut(start), len(history), bool(needed))
        for end in new_cuts:
            history.cut(end)
        pool.keep(table, history, start)
        if not needed and not new_cuts:
            return {}
        if not self._has_cache:
            return self._call(history, 0, len(history), None, wanted, look)[0]
        ready = history.last_cut(needed[0] if needed else len(history))  # the state to begin with
        state, at = self._state_near(pool, history, ready)
        logits: dict[int, Any] = {}
        for end in history.cuts(at):
            of_piece = [position for position in wanted if at <= position < end]
            new, state = self._call(history, at, end, state, of_piece, look)
            logits.update(new)
            at = end
        if at:
            pool.memos.add(history, at, state, self._nbytes(state), pool.max_memo_bytes)
        return logits

    def _new_cuts(self, done: int, end: int, wanted: bool) -> list[int]:
        """How to compute positions done to end - 1: where the pieces end. Ids after the last one wait."""
        if not self._has_cache:
            return []
        if self._one_by_one:  # a whole prompt at once, then single tokens
            return list(range(done + 1, end + 1)) if done else [end] if wanted else []
        whole = list(range((done // PIECE + 1) * PIECE, end + 1, PIECE))
        return [*whole, end] if wanted and end not in whole else whole

    def _state_near(self, pool: IdPool, history: History, limit: int) -> tuple[Any, int]:
        """A state of as many first positions of `history` as there is a memo for, up to limit; the caller may write to it."""
        crops = MAX_CROPS
        for n, memo in pool.memos.near(history, limit):
            if n < len(memo):
                crops -= 1
                if crops < 0:
                    continue
            state = self._state_at(pool, memo, n)
            if state is not None:
                return state, n
        return None, 0

    def _state_at(self, pool: IdPool, memo: Memo, n: int) -> Any:
        """The memo's state after its first n positions; None if it cannot be had."""
        if n == len(memo) and not (self._keeps_prompts and memo.ends_with_piece()):
            pool.memos.remove(memo)
            return memo.state
        if n < len(memo) and self._one_by_one:  # such a state cannot be cropped
            return None
        with self._torch.inference_mode():  # a copy: another sequence may go on from what is in the memo
            state = copy.deepcopy(memo.state)
            try:
                if n < len(memo):
                    state.crop(n - len(memo))
            except RuntimeError:  # beyond a sliding window the older keys are gone
                return None
        return state

    def _call(
        self, history: History, start: int, end: int, state: Any, wanted: Sequence[int], look: Look | None = None
    ) -> tuple[dict[int, Any], Any]:
        """Positions start to end - 1 through the model: logits of those wanted, and the state after them."""
        if look and look.watch.attention:
            self._look_at_attention(history, start, end, state, look)
        options, n_kept = self._options(state), end - start
        if "logits_to_keep" in self._accepts:
            n_kept = options["logits_to_keep"] = end - wanted[0] if wanted else 1
        with self._lock, self._torch.inference_mode():
            ids = self._torch.tensor([history.ids(start, end)], device=self.device)
            with self._looker.of_pass(look, start, end, options) if look else nullcontext() as take:
                result = self.model(input_ids=ids, return_dict=True, **options)
            if take:
                take(result)
            rows = result["logits"][0, [position - end + n_kept for position in wanted]].float().cpu().numpy()
        return dict(zip(wanted, rows, strict=True)), result.get(self._cache_name) if self._cache_name else None

    def _options(self, state: Any) -> dict[str, Any]:
        options: dict[str, Any] = {self._cache_name: state} if self._cache_name else {}
        if "use_cache" in self._accepts:
            options["use_cache"] = True
        return options

    def _look_at_attention(self, history: History, start: int, end: int, state: Any, look: Look) -> None:
        """In a pass of its own, from a copy of the state, which is then forgotten."""
        at_once = end - start if self._one_by_one or not self._has_cache else None  # None: it may be cut anywhere
        with self._lock, self._torch.inference_mode():
            state = copy.deepcopy(state)

            def run(first: int, last: int) -> Any:
                nonlocal state
                ids = self._torch.tensor([history.ids(first, last)], device=self.device)
                options = self._options(state)
                if "logits_to_keep" in self._accepts:
                    options["logits_to_keep"] = 1
                result = self.model(input_ids=ids, return_dict=True, output_attentions=True, **options)
                state = result.get(self._cache_name) if self._cache_name else None
                return result

            self._looker.attention(look, run, start, end, at_once)

    # -- what kind of model this is -----------------------------------------------------------------------------------

    def _probe(self, where: str) -> int:
        """Learn from a few tokens how the model's cache behaves and what it takes; the size of the vocabulary."""
        n_ids = self.model.get_input_embeddings().weight.shape[0]
        history = History()
        history.append([n_ids // 3, n_ids // 2])
        try:
            one, state = self._call(history, 0, 1, None, [0])
            first_bytes = self._nbytes(state)
            self._has_cache = state is not None
            self._one_by_one = bool(
                getattr(self.model, "_is_stateful", False) or not getattr(state, "is_croppable", False)
            )
            # what cannot be cropped is kept as it was after the prompt: there may be more than one answer to it
            self._keeps_prompts = self._one_by_one or any(getattr(state, "is_sliding", ()))
            both, _ = self._call(history, 0, 2, None, [0, 1])
            if self._has_cache:
                two, state = self._call(history, 1, 2, state, [1])
                self._has_cache = _same(two[1], both[1])  # if not, every pass computes all: slow and right
        except (MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise CheckpointError(
                f"{where}: transformers cannot run this model on ids alone ({one_line(error)}); get a causal language model"
            ) from error
        if not _same(one[0], both[0]):
            raise CheckpointError(
                f"{where}: the logits of a token change with the token after it; expected a causal language model, found one "
                "that reads in both directions or keeps a state of its own: it cannot write text from left to right"
            )
        if not self._has_cache and getattr(self.model, "_is_stateful", False):
            raise CheckpointError(
                f"{where}: a model of type {self.model.config.model_type} keeps its state inside itself, where sequences would "
                "mix; expected one that hands its cache out: get a model of another architecture"
            )
        growth = max(0, self._nbytes(state) - first_bytes)
        self._cache_bytes = (growth, max(0, first_bytes - growth)) if self._has_cache else (0, 0)
        return int(both[0].shape[0])

    def _nbytes(self, state: Any) -> int:
        """Bytes that a cache holds, tensor by tensor, whatever its class."""
        storages: dict[int, int] = {}
        seen: set[int] = set()
        waiting = [state]
        while waiting:
            item = waiting.pop()
            if id(item) in seen:
                continue
            seen.add(id(item))
            if isinstance(item, self._torch.Tensor):
                storage = item.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
            elif isinstance(item, dict):
                waiting.extend(item.values())
            elif isinstance(item, list | tuple):
                waiting.extend(item)
            elif hasattr(item, "__dict__") and not isinstance(item, self._transformers.PreTrainedConfig | type):
                waiting.extend(vars(item).values())
        return sum(storages.values())


# -- options ----------------------------------------------------------------------------------------------------------


def _libraries() -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingExtra(f"PyTorch and transformers are not there ({error}): pip install 'fanlight[hf]'") from error
    return torch, transformers


def _checked_device(torch: Any, device: str) -> Any:
    """The device, after a trial of it."""
    try:
        place = torch.device(device)
        torch.ones(1, device=place).cpu()
    # all that PyTorch raises for a device that is none, is not there, or lacks the operation
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        kinds = {"cuda": torch.cuda, "mps": torch.backends.mps, "xpu": getattr(torch, "xpu", None)}
        there = ["cpu", *(name for name, kind in kinds.items() if kind is not None and kind.is_available())]
        raise OptionError(
            f"device is {device!r}, which torch does not have here ({one_line(error)}); there is {', '.join(there)}"
        ) from None
    return place


def _move(torch: Any, model: Any, **to: Any) -> None:
    try:
        model.to(**to)
    except torch.OutOfMemoryError as error:
        raise OptionError(
            f"device {str(to['device'])!r} has no room for the model ({one_line(error)}); use the CPU, or a smaller dtype"
        ) from None


def _checked_dtype(torch: Any, dtype: str | None) -> Any:
    """torch's name for it."""
    name = DTYPES.get(str(dtype), str(dtype).removeprefix("torch."))
    if dtype is not None and name not in DTYPES.values():
        raise OptionError(f"dtype is {dtype!r}; it can be {', '.join(DTYPES)}, or None for the model's own")
    return None if dtype is None else getattr(torch, name)


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """No progress bars, no advice; then all as it was."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _same(a: Any, b: Any) -> bool:
    """Whether two logits rows differ by no more than rounding. NaN passes: decoding names it."""
    difference = float(abs(a - b).mean())
    return not difference > MAX_DIFFERENCE * float(b.std()) + 1e-6
