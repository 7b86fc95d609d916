"""The model `fanlight` of lm-evaluation-harness. In: its requests. Out: log-likelihoods and texts, in its order.

What a request means is what it means to the harness's own `hf` model (lm_eval 0.4.13, models/huggingface.py): the same ids, the
same part left out of a context that is too long, the same windows of a long text, the same place where a text ends. So the
numbers are the same on the same weights. Importing this module imports lm_eval and enters the name `fanlight` there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import fanlight
from fanlight.api import Model
from fanlight.errors import MissingExtra, OptionError, TokenizerError
from fanlight.evaluating.arguments import HARNESS_DEVICE, Arguments, options_of, seed_for
from fanlight.evaluating.scoring import Score, fitted, score
from fanlight.jobs import Job

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import model_registry
    from lm_eval.models.utils import (
        handle_stop_sequences,
        has_bos_prefix,
        normalize_gen_kwargs,
        postprocess_generated_text,
    )
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
    from tqdm import tqdm
except ImportError as error:
    raise MissingExtra(f"lm_eval is not installed ({error}): pip install 'fanlight[eval]'") from error

if TYPE_CHECKING:
    from fanlight.decoding.config import GenerationConfig
    from fanlight.generation import Generation
    from fanlight.text.chat import ChatTemplate

logger = logging.getLogger("lm_eval.models.fanlight")  # below the harness's, whose handler then shows it
MARK = "fanlight-answer-goes-on-here"  # no template has reason to change it


class FanlightLM(TemplateLM):  # type: ignore[misc]  # lm_eval has no types
    """A Fanlight model that the harness can ask."""

    def __init__(self, pretrained: str | os.PathLike[str] | Model | None = None, **arguments: Any) -> None:
        """pretrained: what `fanlight.load` takes, or a model that it gave. arguments: those of `Arguments`.

        Errors: OptionError, and those of `fanlight.load`.
        """
        super().__init__()
        self.arguments = wanted = Arguments.of(arguments)
        if isinstance(pretrained, Model) and wanted.of_loading:
            raise OptionError(f"{', '.join(wanted.of_loading)}: the model is loaded already; say it to fanlight.load")
        self.model = pretrained if isinstance(pretrained, Model) else _loaded(pretrained, wanted)
        tokenizer, n_ctx = self.model.tokenizer, self.model.decoder.config.n_ctx
        if wanted.max_length is not None and wanted.max_length > n_ctx:
            raise OptionError(f"max_length is {wanted.max_length}, the window of {self.model.name} holds {n_ctx}")
        if wanted.add_bos_token and tokenizer.bos_id is None:
            raise OptionError(f"add_bos_token: {self.model.name} has no beginning-of-sequence token; leave it out")
        self.max_length: int = wanted.max_length or n_ctx
        self.max_gen_toks: int = wanted.max_gen_toks
        self.batch_size: int = wanted.max_batch
        ends = (wanted.prefix_token_id, tokenizer.bos_id, *tokenizer.eos_ids)
        prefix = next((token for token in ends if token is not None), None)
        if prefix is None:
            raise OptionError(f"{self.model.name} has no token that begins or ends a text; give prefix_token_id")
        self._prefix_id, self._prefix_text = prefix, tokenizer.token_text(prefix)
        state = random.Random()
        state.setstate(random.getstate())  # the harness has seeded it; nothing is taken from it
        self._seed: int = state.getrandbits(32) if wanted.seed is None else wanted.seed
        self._template_made: ChatTemplate | None = None
        self._said: set[str] = set()

    # -- what the harness asks about ----------------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text; without one, what stands before a text."""
        ends = self.model.tokenizer.eos_ids
        return ends[0] if ends else self._prefix_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has nothing before it."""
        return self._prefix_id

    @property
    def tokenizer_name(self) -> str:
        """Names tokenizer and chat template: the harness keeps prompts under it. Another template has another name."""
        tokenizer = self.model.tokenizer
        told = json.dumps([tokenizer.chat_template, self.arguments.template_variables], default=str)
        known = hashlib.sha256(told.encode("utf-8", errors="replace")).hexdigest()[:12]
        return f"{self.model.name}-{tokenizer.n_vocab}-{known}".replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What stands in the harness's results of this model."""
        found = self.model.describe()
        return {
            "model_num_parameters": found.n_parameters,
            "model_dtype": ", ".join(found.stored_bytes),
            "model_type": found.model_type,
            "model_source": found.path,
            "max_length": self.max_length,
            "fanlight_version": fanlight.__version__,
        }

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """The ids of a text in which special tokens may be spelled.

        add_special_tokens: whether what the model wants stands around it; None: as add_bos_token says, and never twice.
        """
        if kwargs:
            raise OptionError(f"tok_encode: unknown option {next(iter(kwargs))!r}; it takes add_special_tokens alone")
        if add_special_tokens is None and has_bos_prefix(string, self._prefix_text):
            add_special_tokens = False
        return self._encoded(string, add_special_tokens)

    def tok_decode(self, tokens: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of ids."""
        return self.model.tokenizer.decode(tokens, skip_special=skip_special_tokens)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The Jinja source in use; None for False. Errors: OptionError for a model without one, or another name than its."""
        if chat_template is False or chat_template is None:
            return None
        if isinstance(chat_template, str) and chat_template != "default":
            raise OptionError(f"apply_chat_template: {chat_template!r:.80} is not a template's name here; say true")
        return self._template().source

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt of a chat. Without add_generation_prompt it ends where its last message does, which is to be continued.

        A template that refuses a system's message is asked again without. Errors: OptionError, TokenizerError.
        """
        try:
            return self._rendered(chat_history, add_generation_prompt)
        except TokenizerError as error:
            rest = [message for message in chat_history if message["role"] != "system"]
            if len(rest) == len(chat_history):
                raise
            logger.warning("%s; the system message is left out", error)
            return self._rendered(rest, add_generation_prompt)

    # -- likelihoods --------------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-probability of the continuation, whether greedy decoding writes it) for each (context, continuation)."""
        if self.arguments.enable_thinking:
            raise OptionError("enable_thinking makes no sense with likelihoods: leave it out, or choose other tasks")
        for request in requests:
            if request.args[1] == "":
                raise OptionError(f"loglikelihood: nothing is to come after {request.args[0][-40:]!r}; mend the task")
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return found

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each whole text, in windows where it is longer than one."""
        windows: list[tuple[None, list[int], list[int]]] = []
        n_windows: list[int] = []
        for request in requests:
            ids = self.tok_encode(request.args[0])
            of_text = get_rolling_token_windows(
                token_list=ids, prefix_token=self.prefix_token_id, max_seq_len=self.max_length, context_len=1
            )
            parts = [(None, *make_disjoint_window(window)) for window in of_text]
            windows += parts
            n_windows.append(len(parts))
        scores = iter(self._loglikelihood_tokens(windows, disable_tqdm=disable_tqdm))
        sums = [sum(next(scores)[0] for _ in range(n)) for n in n_windows]
        for request, logprob in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, logprob)
        return sums

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        pairs = [fitted(before, given, self.max_length) for _, before, given in requests]
        n_cut = sum(len(pair[0]) < len(request[1]) for pair, request in zip(pairs, requests, strict=True))
        if n_cut:
            logger.warning("%d of %d contexts lost their beginning: %d tokens fit", n_cut, len(pairs), self.max_length)
        with tqdm(total=len(pairs), disable=disable_tqdm, desc="Running loglikelihood requests") as bar:

            def done(index: int, found: Score) -> None:
                bar.update()
                if requests[index][0] is not None:  # windows of a text are not what was asked
                    self.cache_hook.add_partial("loglikelihood", requests[index][0], tuple(found))

            scores, work = score(self.model, pairs, max_batch=self.batch_size, done=done)
        logger.info(
            "%d likelihoods from %d texts: %d tokens of contexts computed, %d shared",
            *(len(pairs), work.n_jobs, work.n_computed, work.n_reused),
        )
        return [(found.logprob, found.is_greedy) for found in scores]

    # -- texts --------------------------------------------------------------------------------------------------------

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """The text after each (context, generation_kwargs), up to where one of `until` begins."""
        asked = [self._asked(*request.args) for request in requests]
        nth = Counter[str]()
        jobs: list[Job] = []
        for index, (request, (ids, _, config)) in enumerate(zip(requests, asked, strict=True)):
            if config.samples:
                told = json.dumps(request.args, default=str)
                base = self._seed if config.seed is None else config.seed
                config = config.replace(seed=seed_for(base, told, nth[told]))
                nth[told] += 1
            jobs.append(Job(index, ids, config))
        jobs.sort(key=lambda job: (job.prompt, job.key))  # what begins alike is asked for together
        texts: dict[int, str] = {}
        with tqdm(total=len(jobs), disable=disable_tqdm, desc="Running generate_until requests") as bar:
            for outcome in self.model.generate_each(jobs, max_batch=self.batch_size):
                if outcome.error is not None:
                    raise outcome.error
                key = outcome.key
                assert isinstance(key, int)
                assert outcome.generation is not None
                _, until, config = asked[key]
                texts[key] = self._text(outcome.generation, until)
                if not config.samples:
                    self.cache_hook.add_partial("generate_until", requests[key].args, texts[key])
                bar.update()
        return [texts[index] for index in range(len(requests))]

    def _asked(self, context: str, kwargs: Mapping[str, Any]) -> tuple[tuple[int, ...], list[str], GenerationConfig]:
        """What a request is here: ids, texts that end it, settings."""
        wanted = normalize_gen_kwargs(dict(kwargs), self.max_gen_toks)
        until = [end for end in handle_stop_sequences(wanted.pop("until"), eos=self._eos_text()) if end]
        config = self.model.settings(stop_strings=until, **options_of(wanted))
        room = self.max_length - wanted["max_gen_toks"]
        if room < 1:
            raise OptionError(
                f"max_gen_toks is {wanted['max_gen_toks']}, the window holds {self.max_length}, context included: ask for less, "
                "in generation_kwargs or, where a task does not say, in model_args"
            )
        for note in config.notes():
            self._say_once(note)
        ids = self._encoded(context, False if self._begins(context) else None)
        if len(ids) > room:
            self._say_once(f"contexts above {room} tokens lose their beginning: {self.max_length} fit, answer included")
        return tuple(ids[-room:]), until, config

    def _text(self, generation: Generation, until: list[str]) -> str:
        """The answer in what was written: the text of the new ids alone, behind the thoughts, before the first of `until`."""
        ids, end = list(generation.ids), self.arguments.think_end_token
        if isinstance(end, int) and end in ids:
            text = self.tok_decode(ids[len(ids) - ids[::-1].index(end) :]).lstrip()
        else:
            text = self.tok_decode(ids)
        return str(postprocess_generated_text(text, until, end if isinstance(end, str) else None))

    # -- inside -------------------------------------------------------------------------------------------------------

    def _encoded(self, text: str, add_special: bool | None) -> list[int]:
        tokenizer = self.model.tokenizer
        wanted = self.arguments.add_bos_token if add_special is None else add_special
        ids = tokenizer.encode(text, add_special=wanted is not False, parse_special=True)
        if add_special is None and wanted and tokenizer.bos_id is not None and ids[:1] != [tokenizer.bos_id]:
            return [tokenizer.bos_id, *ids]  # add_bos_token, of a model that wants none by itself
        return ids

    def _begins(self, text: str) -> bool:
        """Whether a text spells the beginning-of-sequence token."""
        bos = self.model.tokenizer.bos_id
        return bos is not None and has_bos_prefix(text, self.model.tokenizer.token_text(bos))

    def _eos_text(self) -> str:
        return self.model.tokenizer.token_text(self.eot_token_id)

    def _template(self) -> ChatTemplate:
        from fanlight.text.chat import template_of

        if self._template_made is None:
            self._template_made = template_of(self.model.tokenizer)
        if self._template_made is None:
            raise OptionError(f"{self.model.name} has no chat template; leave --apply_chat_template out")
        return self._template_made

    def _rendered(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        template, variables = self._template(), self.arguments.template_variables
        if add_generation_prompt:
            return template.render(messages, add_generation_prompt=True, **variables)
        *earlier, last = messages
        marked = {**last, "content": f"{last['content']}{MARK} "}
        text = template.render([*earlier, marked], add_generation_prompt=False, **variables)
        before, mark, after = text.rpartition(MARK)
        if not mark:
            raise TokenizerError(
                "chat template: the last message, which is to be continued, does not appear in the prompt"
            )
        return (
            before if after.startswith(" ") else before.rstrip()
        )  # a template that takes spaces off takes these off too

    def _say_once(self, what: str) -> None:
        if what not in self._said:
            self._said.add(what)
            logger.warning("%s", what)


def _loaded(name: str | os.PathLike[str] | None, wanted: Arguments) -> Model:
    device = wanted.device if wanted.backend == "hf" else None
    if wanted.device == HARNESS_DEVICE and (device is None or not _has_cuda()):
        device = None
        logger.info("device %s is what the harness says by itself: this model computes on the CPU", HARNESS_DEVICE)
    return fanlight.load(
        None if name is None else os.fspath(name),
        threads=wanted.threads,
        kernels=wanted.kernels,
        quantize=wanted.quantize,
        n_ctx=wanted.n_ctx,
        backend=wanted.backend,
        device=device,
    )


def _has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


if "fanlight" not in model_registry:  # a harness that reads entry points has it already
    model_registry.register("fanlight", target=FanlightLM)
