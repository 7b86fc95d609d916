"""WordPiece, as BERT has it (Devlin et al. 2018): pieces and a few settings -> an object of `tokenizers`. Knows no file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanlight.text.library import guarded

if TYPE_CHECKING:
    from collections.abc import Mapping

    import tokenizers


def wordpiece(
    vocab: Mapping[str, int],
    *,
    unk_token: str,
    lowercase: bool = True,
    strip_accents: bool | None = None,
    split_chinese: bool = True,
    where: str = "tokenizer.ggml.tokens",
) -> tokenizers.Tokenizer:
    """strip_accents: None is as `lowercase` is. TokenizerError: a vocabulary that `tokenizers` does not take."""

    def build() -> tokenizers.Tokenizer:
        from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

        backend = Tokenizer(models.WordPiece(dict(vocab), unk_token=unk_token))
        backend.normalizer = normalizers.BertNormalizer(
            clean_text=True, handle_chinese_chars=split_chinese, strip_accents=strip_accents, lowercase=lowercase
        )
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece(prefix="##")
        return backend

    return guarded(f"{where}: expected the pieces of WordPiece: ", build)
