"""Keys and values of a text's beginning, on disk: computed once, gone on from in any process. Knows no tokenizer and no text.

A safetensors file: "ids" (n,), "keys" and "values" (n_layer, n_kv_head, n, head_dim) in the cache's type, for int8 with
"key_scales" and "value_scales" (n_layer, n_kv_head, n). Its header says what computed them; another model refuses them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fanlight.decoding.config import GenerationConfig
from fanlight.errors import CheckpointError, ContextOverflow, OptionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fanlight.engine.identity import Identity
    from fanlight.engine.loop import Engine

KIND, VERSION = "fanlight.prefix", "1"
_TYPES = {"F16": "<f2", "F32": "<f4", "I8": "<i1", "I32": "<i4"}


_WORDS = {
    "model": "another model's file",
    "kernels": "other kernels, whose last bits differ",
    "conversions": "weights of other types",
    "rotation": "another rotation of positions",
    "cache_type": "another cache_type",
}


def save_prefix(engine: Engine, ids: Sequence[int], path: str | os.PathLike[str], identity: Identity) -> int:
    """Compute what is not known of `ids`, and write the file; its size in bytes.

    Errors: ContextOverflow, OptionError if the engine may keep no beginning of this length, CheckpointError where the file
    cannot be written.
    """
    import numpy as np

    from fanlight.checkpoints.writing import Entry, write_safetensors

    cache, pool = engine.cache, engine.cache.pool
    if len(ids) > engine.n_ctx:
        raise ContextOverflow(f"the prefix has {len(ids)} tokens, the context window holds {engine.n_ctx}; shorten it")
    n_pages = -(-len(ids) // cache.page_tokens)
    limit = cache.prefixes.max_pages if cache.prefixes is not None else 0
    if cache.prefixes is None or n_pages > limit:
        raise OptionError(
            f"a prefix of {len(ids)} tokens takes {n_pages * pool.page_bytes} bytes, prefix_bytes allows "
            f"{limit * pool.page_bytes}: load the model with more"
        )
    if cache.prefixes.find(ids, len(ids)).length < len(ids):
        request = engine.submit(ids, GenerationConfig(max_new_tokens=1, candidates=0, ignore_eos=True))
        with engine.stream(request) as events:
            for _ in events:
                pass
    match = cache.prefixes.find(ids, len(ids))
    assert match.length == len(ids), "what was just computed is not known"
    parts: list[dict[str, NDArray[Any]]] = []
    for i, page in enumerate(match.pages):
        parts.append(pool.read(page, min(cache.page_tokens, len(ids) - i * cache.page_tokens)))
    arrays = {name: np.concatenate([part[name] for part in parts], axis=2) for name in parts[0]}
    arrays["ids"] = np.asarray(ids, np.int32)
    entries = []
    for name, array in arrays.items():
        data = np.ascontiguousarray(array)
        kind = next(kind for kind, dtype in _TYPES.items() if data.dtype == np.dtype(dtype))
        entries.append(Entry(name, kind, data.shape, data.tobytes))
    return write_safetensors(path, entries, {"format": KIND, "version": VERSION, **identity._asdict()})


def load_prefix(engine: Engine, path: str | os.PathLike[str], identity: Identity) -> tuple[int, ...]:
    """Read a file of `save_prefix` into the engine's cache: its ids, which requests go on from until others need the room.

    Errors: CheckpointError for a file that is damaged, or of another model; OptionError and ContextOverflow as for saving.
    """
    import numpy as np

    from fanlight.checkpoints.safetensors import open_safetensors

    name = os.fspath(path)
    file = open_safetensors(name)
    _check_origin(name, file.metadata, identity)
    arrays: dict[str, NDArray[Any]] = {}
    for key, array in file.arrays.items():
        if array.dtype not in _TYPES:
            raise CheckpointError(
                f"{name}: array {key!r} is of type {array.dtype}, expected one of {', '.join(_TYPES)}"
            )
        arrays[key] = np.frombuffer(array.data, np.dtype(_TYPES[array.dtype])).reshape(array.shape).copy()
    file.check_unchanged()
    ids = _checked_ids(name, arrays.pop("ids", None), engine.decoder.config.n_vocab)
    cache, pool = engine.cache, engine.cache.pool
    if len(ids) > engine.n_ctx:
        raise ContextOverflow(f"{name}: the prefix has {len(ids)} tokens, the context window holds {engine.n_ctx}")
    _check_arrays(name, arrays, len(ids), engine)
    n_pages = -(-len(ids) // cache.page_tokens)
    limit = cache.prefixes.max_pages if cache.prefixes is not None else 0
    slot = cache.open()
    try:
        if n_pages > limit or not cache.reserve(slot, len(ids)):
            raise OptionError(
                f"{name}: its {len(ids)} tokens take {n_pages * pool.page_bytes} bytes, prefix_bytes allows "
                f"{limit * pool.page_bytes}: load the model with more"
            )
        for i, page in enumerate(slot.pages):
            span = slice(i * cache.page_tokens, min((i + 1) * cache.page_tokens, len(ids)))
            pool.write(page, {key: np.ascontiguousarray(array[:, :, span]) for key, array in arrays.items()})
        cache.batch([(slot, len(ids))])
        cache.remember(slot, ids)
    finally:
        cache.release(slot)
    return ids


def _check_origin(name: str, metadata: Mapping[str, Any], identity: Identity) -> None:
    if metadata.get("format") != KIND:
        raise CheckpointError(
            f"{name}: this is no prefix that Fanlight saved ('format' is {metadata.get('format')!r:.40})"
        )
    if metadata.get("version") != VERSION:
        raise CheckpointError(
            f"{name}: a prefix of version {metadata.get('version')!r:.20}, this Fanlight reads version {VERSION}; save it again"
        )
    for field, mine in identity._asdict().items():
        found = metadata.get(field)
        if found != mine:
            raise CheckpointError(
                f"{name}: it was computed with {_WORDS[field]} ({found!r:.80}, not {mine!r:.80}); save it again with this one"
            )


def _checked_ids(name: str, ids: NDArray[Any] | None, n_vocab: int) -> tuple[int, ...]:
    if ids is None or ids.ndim != 1 or ids.dtype.kind != "i" or not len(ids):
        raise CheckpointError(f"{name}: 'ids' is missing, or not a row of numbers; the file is damaged: save it again")
    if int(ids.min()) < 0 or int(ids.max()) >= n_vocab:
        raise CheckpointError(
            f"{name}: 'ids' holds numbers outside of 0 to {n_vocab - 1}; the file is damaged: save it again"
        )
    return tuple(map(int, ids))


def _check_arrays(name: str, arrays: Mapping[str, NDArray[Any]], n: int, engine: Engine) -> None:
    """Names, types and shapes as this engine's cache has them, and numbers in them."""
    import numpy as np

    sizes, kind = engine.decoder.config, engine.cache.pool.dtype
    heads = (sizes.n_layer, sizes.n_kv_head, n)
    numbers: tuple[str, tuple[int, ...]] = (kind, (*heads, sizes.head_dim))
    scales: tuple[str, tuple[int, ...]] = ("F32", heads)
    expected = {"keys": numbers, "values": numbers}
    if kind == "I8":
        expected |= {"key_scales": scales, "value_scales": scales}
    if set(arrays) != set(expected):
        raise CheckpointError(
            f"{name}: it holds {', '.join(sorted(arrays)) or 'no arrays'}, expected {', '.join(sorted(expected))}; save it again"
        )
    for key, (dtype, shape) in expected.items():
        array = arrays[key]
        if array.shape != shape or array.dtype != np.dtype(_TYPES[dtype]):
            raise CheckpointError(
                f"{name}: {key!r} is {array.dtype} {array.shape}, expected {np.dtype(_TYPES[dtype])} {shape}; save it again"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise CheckpointError(
                f"{name}: {key!r} holds numbers that are NaN or infinite; the file is damaged: save it again"
            )
