"""What a model is, before it writes: its parts and settings, the ids of prompts, one pass. In: text or ids. Out: ids, logits."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fanlight.cache.paged import PagedCache
from fanlight.decoding.config import COMMAND, GenerationConfig
from fanlight.decoding.layers import layered
from fanlight.engine.request import checked_ids
from fanlight.errors import ContextOverflow, NumericError, OptionError
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
    from fanlight.models.base import Decoder
    from fanlight.text.tokenizer import AnyTokenizer

Prompt = str | Sequence[int]


class ModelBase:
    """A decoder with its tokenizer. Immutable."""

    def __init__(self, parts: Loaded) -> None:
        """parts: as `loading` reads them."""
        self._parts, self._vocabulary = parts, VocabularyOf(parts.tokenizer)

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

    def logits(self, prompt: Prompt) -> NDArray[np.float32]:
        """Raw logits after every token of the prompt: (n_tokens, n_vocab)."""
        ids = self.prompt_ids(prompt)
        return self._forward(ids, range(len(ids))).numpy()

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

    def _ids_of(self, prompt: Any, config: GenerationConfig) -> tuple[int, ...]:
        if isinstance(prompt, Mapping) or not isinstance(prompt, (str, bytes, Iterable)):
            raise OptionError(f"the prompt must be a text, ids, or the messages of a chat: got {prompt!r:.80}")
        prompt = prompt if isinstance(prompt, (str, bytes)) else list(prompt)
        is_chat = not isinstance(prompt, (str, bytes)) and any(isinstance(message, Mapping) for message in prompt)
        return self.chat_ids(prompt) if is_chat else self.prompt_ids(prompt, config.bos_token_id)

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
