"""What the harness's options mean here. In: names and values as it parses them. Out: checked ones. Knows no harness, no model.

`Arguments` are those of `--model_args`, `options_of` those of `generation_kwargs` and `--gen_kwargs`. Nothing is dropped in
silence: a name that is not known, or that means something of which Fanlight has no like, is an OptionError that says what to do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from fanlight.decoding.config import DEFAULTS, OPTIONS, check_names
from fanlight.errors import OptionError

DEFAULT_BATCH = 16
HARNESS_DEVICE = "cuda:0"
"""What the harness's command says where its user says nothing."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "dtype": ("auto",),
    "logits_cache": (True, False),
    "parallelize": (False,),
    "revision": ("main",),
    "subfolder": ("",),
    "truncation": (False,),
    "trust_remote_code": (True, False),  # no code of a repository is ever run
    "use_fast_tokenizer": (True,),
}
"""Arguments of the harness's `hf` model that ask for nothing, with these values or None."""

INSTEAD: Mapping[str, str] = {
    "autogptq": "weights are packed with quantize=q8_0 or q4_1",
    "delta": "add it to the weights first",
    "dtype": "weights keep the types they are stored in; quantize=q8_0 or q4_1 packs float ones",
    "gguf_file": "write pretrained=FOLDER/FILE.gguf, or pretrained=ORG/NAME:FILE.gguf",
    "gptqmodel": "weights are packed with quantize=q8_0 or q4_1",
    "load_in_4bit": "write quantize=q4_1",
    "load_in_8bit": "write quantize=q8_0",
    "logits_cache": "it is always on",
    "parallelize": "one process computes, with threads=N threads",
    "peft": "merge the adapter into the weights first",
    "revision": "write pretrained=ORG/NAME@REVISION",
    "subfolder": "write pretrained=FOLDER/SUBFOLDER",
    "tokenizer": "a model is read with its own tokenizer; leave it out",
    "tp_plan": "one process computes, with threads=N threads",
    "truncation": "contexts that are too long lose their beginning; leave it out",
    "use_fast_tokenizer": "there is one tokenizer; leave it out",
}
"""Other arguments of the `hf` model -> what to do."""

GENERATION_INSTEAD: Mapping[str, str] = {
    "include_stop_string": "the harness takes texts without the string that ended them; leave it out",
    "num_return_sequences": "a request has one answer; a task says how many it wants with repeats",
    "stop": "the harness's name for it is until",
    "stop_strings": "the harness's name for it is until",
}
"""Generation options that a request may not have -> what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """What `--model_args` may say beside `pretrained`. Raises OptionError, which names the argument and what it can be."""

    batch_size: int | str = "auto"
    """How many requests are computed together; "auto": DEFAULT_BATCH. Results do not depend on it."""
    max_batch_size: int | None = None
    """A limit for "auto"."""
    device: str | None = None
    """Where backend hf computes. Native kernels use the CPU."""
    backend: str = "auto"
    """As in `fanlight.load`, and so are the next four."""
    threads: int | None = None
    kernels: str | None = None
    quantize: str | None = None
    n_ctx: int | None = None
    max_length: int | None = None
    """The window that requests are cut to; None: the model's."""
    max_gen_toks: int = 256
    """New tokens of a text whose task does not say."""
    add_bos_token: bool | None = None
    """Whether texts begin with the beginning-of-sequence token; None: as the model wants it."""
    prefix_token_id: int | None = None
    """What stands before a text that has nothing before it; None: the token that begins a text, else the one that ends it."""
    seed: int | None = None
    """Of texts that are drawn; None: one made from the harness's --seed."""
    think_end_token: int | str | None = None
    """A text counts from behind the last of these."""
    enable_thinking: bool | None = None
    """For the chat template."""
    chat_template_args: Mapping[str, Any] | None = None
    """More variables for the chat template."""

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "max_length", "max_gen_toks"):
            self._check_whole(name, 1)
        for name in ("prefix_token_id", "seed"):
            self._check_whole(name, 0)
        for name in ("add_bos_token", "enable_thinking"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, bool):
                raise OptionError(f"{name} must be true or false: got {value!r:.80}")
        if self.chat_template_args is not None and not isinstance(self.chat_template_args, Mapping):
            raise OptionError(f"chat_template_args must be a JSON object: got {self.chat_template_args!r:.80}")
        token = self.think_end_token
        if token is not None and (isinstance(token, bool) or not isinstance(token, int | str) or token == ""):
            raise OptionError(f"think_end_token must be a token's text or id: got {token!r:.80}")
        if self.enable_thinking and token is None:
            raise OptionError("enable_thinking needs think_end_token, which tells where an answer begins: </think>")
        if self.backend != "hf" and self.device not in (None, "cpu", HARNESS_DEVICE):
            raise OptionError(
                f"device is {self.device!r:.80}, and backend {self.backend}: native kernels use the CPU; add backend=hf"
            )
        _ = self.max_batch

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Arguments:
        """From names and values. Errors: OptionError for the first that is not known or cannot be had."""
        known = {field.name for field in fields(cls)}
        for name, value in given.items():
            if name in known or value is None or value in NEUTRAL.get(name, ()):
                continue
            if name in INSTEAD:
                raise OptionError(f"model_args: {name}={value!r:.80} cannot be had here: {INSTEAD[name]}")
            near = get_close_matches(name, ("pretrained", *sorted(known)), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known ones: pretrained, {', '.join(sorted(known))}"
            raise OptionError(f"model_args: unknown argument {name!r:.80}; {hint}")
        return cls(**{name: value for name, value in given.items() if name in known and value is not None})

    @property
    def of_loading(self) -> tuple[str, ...]:
        """The arguments that were given and say how to load a model."""
        names = ("backend", "kernels", "n_ctx", "quantize", "threads")
        return tuple(name for name in names if getattr(self, name) not in (None, "auto"))

    @property
    def max_batch(self) -> int:
        """How many requests are computed together, at most."""
        size = self.batch_size
        if isinstance(size, str) and size.partition(":")[0] == "auto":  # "auto:4": hf would measure four times
            return min(DEFAULT_BATCH, self.max_batch_size or DEFAULT_BATCH)
        digits = str(size)
        if isinstance(size, bool) or not digits.isdecimal() or not 1 <= int(digits) <= 512:
            raise OptionError(f"batch_size must be an integer from 1 to 512, or auto: got {size!r:.80}")
        return int(digits)

    @property
    def template_variables(self) -> dict[str, Any]:
        """What the chat template is told beside the messages."""
        thinking = {} if self.enable_thinking is None else {"enable_thinking": self.enable_thinking}
        return {**(self.chat_template_args or {}), **thinking}

    def _check_whole(self, name: str, low: int) -> None:
        value = getattr(self, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < low):
            raise OptionError(f"{name} must be an integer of at least {low}: got {value!r:.80}")


def options_of(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Options of GenerationConfig, from what the harness's `normalize_gen_kwargs` leaves of a request, without `until`.

    max_gen_toks becomes max_new_tokens, unless a max_length is given, which counts the context. A temperature without
    sampling is left out: the harness puts one in. Errors: OptionError.
    """
    options = dict(kwargs)
    for name, what in GENERATION_INSTEAD.items():
        if name in options:
            raise OptionError(f"generation_kwargs: {name} cannot be had: {what}")
    n_new = options.pop("max_gen_toks")
    if "max_length" not in options:
        options["max_new_tokens"] = n_new
    if not options.get("do_sample"):
        options.pop("temperature", None)
    try:
        check_names(options)
        for name, value in options.items():
            if value is not DEFAULTS[name]:
                OPTIONS[name].rule(name, value)
    except OptionError as error:
        raise OptionError(f"generation_kwargs: {error}") from None
    return {"candidates": 0, **options}


def seed_for(base: int, text: str, nth: int) -> int:
    """The seed of the nth answer to the same request: it depends on no other request, so that a part of a task gives the same."""
    digest = hashlib.blake2b(json.dumps([base, text, nth]).encode(), digest_size=6).digest()
    return int.from_bytes(digest, "little")
