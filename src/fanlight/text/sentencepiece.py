"""SentencePiece's model file (protobuf) -> its pieces and settings; and Unigram as an object of `tokenizers`. Reads no file.

Source of the format: the project's sentencepiece_model.proto; only what cuts text is read, all else is stepped over.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fanlight.errors import TokenizerError
from fanlight.text.library import guarded
from fanlight.text.spelling import SPACE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import tokenizers
    from tokenizers.normalizers import Normalizer

UNIGRAM, BPE = 1, 2
_MODEL_TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_PIECES = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What the file says. Types are those of GGUF: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte."""

    pieces: Sequence[str]
    scores: Sequence[float]
    types: bytes
    model_type: int
    byte_fallback: bool
    unk_id: int
    bos_id: int
    eos_id: int
    pad_id: int
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool
    charsmap: bytes


def parse(data: bytes, where: str) -> Model:
    """where: begins every message. TokenizerError: truncated, damaged, or of a kind that is not read."""
    pieces: list[str] = []
    scores: list[float] = []
    types = bytearray()
    trainer: dict[int, bytes | int] = {}
    normalizer: dict[int, bytes | int] = {}
    whole = memoryview(data)
    for number, value in _fields(whole, 0, where):
        if number == 1 and isinstance(value, memoryview):
            piece, score, kind = _piece(value, len(pieces), where)
            pieces.append(piece)
            scores.append(score)
            types.append(kind)
            if len(pieces) > _MAX_PIECES:
                raise TokenizerError(f"{where}: expected at most {_MAX_PIECES} pieces, found more; the file is damaged")
        elif number in (2, 3) and isinstance(value, memoryview):
            into = trainer if number == 2 else normalizer
            for inner, part in _fields(value, 0, where):
                into[inner] = bytes(part) if isinstance(part, memoryview) else part
    if not pieces or not trainer:
        raise TokenizerError(
            f"{where}: expected a SentencePiece model, found {len(pieces)} pieces and no settings of it"
        )
    model_type = _number(trainer, 3, UNIGRAM)
    if model_type not in (UNIGRAM, BPE):
        raise TokenizerError(
            f"{where}: expected a model of type unigram or bpe, found {_MODEL_TYPES.get(model_type, model_type)}"
        )
    unk_id = _number(trainer, 40, 0)
    if not 0 <= unk_id < len(pieces):
        raise TokenizerError(f"{where}: unk_id: expected 0 to {len(pieces) - 1}, found {unk_id}; the file is damaged")
    charsmap = normalizer.get(2, b"")
    return Model(
        pieces=pieces,
        scores=scores,
        types=bytes(types),
        model_type=model_type,
        byte_fallback=bool(_number(trainer, 35, 0)),
        unk_id=unk_id,
        bos_id=_number(trainer, 41, 1),
        eos_id=_number(trainer, 42, 2),
        pad_id=_number(trainer, 43, -1),
        add_dummy_prefix=bool(_number(normalizer, 3, 1)),
        remove_extra_whitespaces=bool(_number(normalizer, 4, 1)),
        escape_whitespaces=bool(_number(normalizer, 5, 1)),
        charsmap=charsmap if isinstance(charsmap, bytes) else b"",
    )


def unigram(
    scored: Sequence[tuple[str, float]],
    *,
    unk_id: int,
    byte_fallback: bool,
    charsmap: bytes,
    space_prefix: bool,
    merge_spaces: bool,
    where: str,
) -> tokenizers.Tokenizer:
    """A Unigram (Kudo 2018) over whole texts, normalized as SentencePiece does. TokenizerError: see where."""

    def build() -> tokenizers.Tokenizer:
        from tokenizers import Tokenizer, decoders, models, normalizers

        backend = Tokenizer(models.Unigram(list(scored), unk_id, byte_fallback))
        steps = normalizing(charsmap, merge_spaces, where)
        if space_prefix:
            steps.append(normalizers.Prepend(SPACE))
        backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
        back = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        backend.decoder = decoders.Sequence([*back, *([decoders.Strip(" ", 1, 0)] if space_prefix else [])])
        return backend

    return guarded(f"{where}: expected the pieces and the normalizer of a Unigram: ", build)


def normalizing(charsmap: bytes, merge_spaces: bool, where: str) -> list[Normalizer]:
    """The steps that come before spaces are marked. TokenizerError: a damaged table."""
    from tokenizers import Regex, normalizers

    steps: list[Normalizer] = []
    if charsmap:
        checked = checked_charsmap(charsmap, where)
        steps.append(guarded(f"{where}: precompiled_charsmap: ", lambda: normalizers.Precompiled(checked)))
    if merge_spaces:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    return steps


def checked_charsmap(data: bytes, where: str) -> bytes:
    """A table of replacements whose two parts have the sizes it says. `tokenizers` would panic, or read elsewhere."""
    size = int.from_bytes(data[:4], "little")
    if len(data) < 4 or size % 4 or size < 4 or 4 + size > len(data):
        raise TokenizerError(
            f"{where}: precompiled_charsmap: expected a table of up to {max(len(data) - 4, 0)} bytes, found one of {size}; "
            "the file is damaged"
        )
    return data


# -- protobuf ---------------------------------------------------------------------------------------------------------


def _piece(data: memoryview, index: int, where: str) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, 1
    for number, value in _fields(data, index, where):
        if number == 1 and isinstance(value, memoryview):
            try:
                text = str(value, "utf-8")
            except UnicodeDecodeError as error:
                raise TokenizerError(f"{where}: piece {index}: expected UTF-8 text: {error}") from None
        elif number == 2 and isinstance(value, memoryview):
            (score,) = struct.unpack("<f", value) if len(value) == 4 else (0.0,)
        elif number == 3 and isinstance(value, int):
            kind = value
    if not abs(score) < 1e30:
        raise TokenizerError(f"{where}: piece {index}: score: expected a finite number, found {score}")
    if not 1 <= kind <= 6:
        raise TokenizerError(f"{where}: piece {index}: type: expected 1 to 6, found {kind}")
    return text, score, kind


def _fields(data: memoryview, index: int, where: str) -> Iterator[tuple[int, memoryview | int]]:
    """Number and value of each field; a fixed-size number as its bytes."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at, where)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at, where)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at, where)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise TokenizerError(
                f"{where}: expected a protobuf field, found wire type {wire}; this is no SentencePiece model"
            )
        if size > end - at:
            raise TokenizerError(
                f"{where}: field {number} after piece {index}: expected {size} bytes, found {end - at}; the file is incomplete"
            )
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int, where: str) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise TokenizerError(f"{where}: expected a number at byte {at}, found the end of the file or 10 bytes without one")


def _number(fields: dict[int, bytes | int], number: int, default: int) -> int:
    """A signed number of a settings message."""
    value = fields.get(number, default)
    if not isinstance(value, int):
        return default
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value
