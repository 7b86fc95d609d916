"""Name of a pre-tokenizer, as GGUF files state it -> how text is cut before byte-pair merges. Knows no vocabulary.

A vocabulary's merges were learned on text cut by one certain rule, so the rule belongs to the model; a GGUF file only
names it (`tokenizer.ggml.pre`). The rules are those of the models' own releases. A stage cuts every piece that the
stage before left: at each match, and between matches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fanlight.errors import TokenizerError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenizers import pre_tokenizers


@dataclass(frozen=True, slots=True, kw_only=True)
class PreTokenizer:
    """How one family of models cuts text.

    stages: regular expressions (Oniguruma), applied in order; or one of the two names below, which `tokenizers` has
    built in and runs faster. ignore_merges: a piece that is itself a token is taken whole. add_bos, add_sep: whether a file
    that does not say so wants the bos token first, and the separator between two texts.
    """

    stages: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False
    add_sep: bool = False


GPT2_WORDS = "gpt2 words"  # contractions, letters, digits, other signs, each with one space before; white-space
EACH_DIGIT = "each digit"

_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS_AND_SPACE = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SIGNS_AND_SPACE_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED_1, _CASED_2 = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"

_GPT2 = PreTokenizer(stages=(GPT2_WORDS,))
_DIGITS_GPT2 = PreTokenizer(stages=(EACH_DIGIT, GPT2_WORDS))
_DBRX = PreTokenizer(stages=(rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}{{1,3}}|{_SIGNS_AND_SPACE}",))
_LLAMA3 = replace(_DBRX, ignore_merges=True, add_bos=True)
_QWEN2 = PreTokenizer(stages=(rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}|{_SIGNS_AND_SPACE}",))
_TEKKEN = PreTokenizer(
    stages=(rf"{_CASED_1}|{_CASED_2}|\p{{N}}|{_SIGNS_AND_SPACE_SLASH}",), ignore_merges=True, add_bos=True
)
_GPT4O = PreTokenizer(
    stages=(rf"{_CASED_1}{_CONTRACTIONS}?|{_CASED_2}{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_SIGNS_AND_SPACE_SLASH}",)
)
_MARKED = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
_QWEN35 = PreTokenizer(
    stages=(rf"{_CONTRACTIONS}|{_MARKED}|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",)
)
_RUNS_OF_SPACE = "|".join(rf"\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4, "1,2"))
_JAIS2 = PreTokenizer(
    stages=(
        rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|{_RUNS_OF_SPACE}|\s{{1}}",
    )
)
_CJK_RUN = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_DEEPSEEK3 = PreTokenizer(
    stages=(
        r"\p{N}{1,3}",
        _CJK_RUN,
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    )
)
_DEEPSEEK_CODER = PreTokenizer(
    stages=(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", r"\p{N}")
)
_BLOOM = PreTokenizer(stages=(" ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+",))
_VIKING = PreTokenizer(stages=(*_BLOOM.stages, r"\p{N}"))
_SEED_CODER = PreTokenizer(
    stages=(rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",)
)
_BAILING = PreTokenizer(
    stages=(rf"'(?i:[sdmt]|ll|ve|re)|{_LETTERS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",)
)
_MINICPM5 = PreTokenizer(
    stages=(r"\p{N}{1,3}", rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}+|{_SIGNS_AND_SPACE}"), ignore_merges=True
)
_DEFAULT = PreTokenizer(
    stages=(
        r"[\p{P}\$\+<=>\^~\|]+",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
        r"\p{N}+",
        r"[0-9][0-9][0-9]",
    )
)
_FALCON = PreTokenizer(
    stages=(
        r"[\p{P}\$\+<=>\^~\|`]+",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
        r"[0-9][0-9][0-9]",
    )
)

_NAMES: tuple[tuple[PreTokenizer, str], ...] = (
    (_DEFAULT, "default"),
    (
        _GPT2,
        "gpt-2 phi-2 mpt olmo jais gigachat exaone4 jina-es jina-de jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert",
    ),
    (_GPT2, "trillion granite-docling"),
    (replace(_GPT2, add_sep=True), "jina-v1-en jina-v2-code roberta-bpe"),
    (_DIGITS_GPT2, "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2"),
    (_LLAMA3, "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano"),
    (_DBRX, "dbrx smaug-bpe glm4 chatglm-bpe"),
    (_QWEN2, "qwen2 stablelm2 deepseek-r1-qwen megrez hunyuan solar-open grok-2 kormo f2llmv2"),
    (_QWEN35, "qwen35"),
    (_FALCON, "falcon"),
    (_TEKKEN, "tekken"),
    (_GPT4O, "gpt-4o llama4 kanana2 talkie minimax-m2"),
    (_JAIS2, "jais-2"),
    (_DEEPSEEK3, "deepseek-v3 hunyuan-dense joyai-llm"),
    (_DEEPSEEK_CODER, "deepseek-coder"),
    (_BLOOM, "bloom poro-chat gpt3-finnish"),
    (_VIKING, "viking"),
    (_SEED_CODER, "seed-coder"),
    (_BAILING, "bailingmoe bailingmoe2 llada-moe"),
    (_MINICPM5, "minicpm5"),
)
PRE_TOKENIZERS: Mapping[str, PreTokenizer] = MappingProxyType(
    {name: rule for rule, names in _NAMES for name in names.split()}
)


def find_pre_tokenizer(name: str) -> PreTokenizer:
    """The entry of the table, or a TokenizerError that lists the names there are."""
    found = PRE_TOKENIZERS.get(name)
    if found is None:
        raise TokenizerError(
            f"tokenizer.ggml.pre: expected one of {', '.join(sorted(PRE_TOKENIZERS))}, found {name!r}; "
            "how this model cuts text is not known here, so its ids would be wrong: use another file of the model"
        )
    return found


def build_pre_tokenizer(rule: PreTokenizer) -> pre_tokenizers.PreTokenizer:
    """The rule as an object of `tokenizers`; its pieces are in the byte-level alphabet."""
    from tokenizers import Regex, pre_tokenizers

    stages: list[Any] = []
    for stage in rule.stages:
        if stage == EACH_DIGIT:
            stages.append(pre_tokenizers.Digits(individual_digits=True))
        elif stage == GPT2_WORDS:
            break  # ByteLevel cuts so itself
        else:
            stages.append(pre_tokenizers.Split(Regex(stage), "isolated"))
    stages.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=rule.stages[-1] == GPT2_WORDS))
    return pre_tokenizers.Sequence(stages)
