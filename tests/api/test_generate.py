"""What generate, stream, next_token and logits hand back, on logits from a table: ids 0-255 are bytes, 256 bos, 257 eos."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fakes.byte_tokenizer import BOS, EOS, ByteTokenizer
from fakes.decoder import hashed_logits, scripted_logits
from fakes.runs import n_lent
from fanlight import GenerationConfig, StopReason
from fanlight.errors import ContextOverflow, FanlightError, NumericError, OptionError, TokenizerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanlight import Model


PROMPT = "Once"


def says(text: str | bytes, *then: int) -> Any:
    """Logits under which greedy decoding writes this after PROMPT."""
    raw = text.encode() if isinstance(text, str) else text
    return scripted_logits(len(PROMPT), [*raw, *then])


# -- what comes back ----------------------------------------------------------------------------------------------------


def test_a_generation_holds_the_text_and_how_it_came(fake: Callable[..., Model]) -> None:
    out = fake(says(" upon a time", EOS)).generate(PROMPT)
    assert out.text == str(out) == " upon a time"
    assert out.prompt_ids == tuple(PROMPT.encode())
    assert out.ids == (*b" upon a time", EOS)
    assert [step.id for step in out.steps] == list(out.ids)
    assert [step.index for step in out.steps] == list(range(len(out.ids)))
    assert "".join(step.text for step in out.steps) == out.text
    assert out.stop.reason is StopReason.EOS
    assert [step.stop for step in out.steps] == [None] * 12 + [out.stop]
    assert out.config == GenerationConfig()
    assert out.notes == ()
    assert out.prefill_seconds > 0
    assert out.decode_seconds > 0


def test_a_step_tells_what_else_could_have_come(fake: Callable[..., Model]) -> None:
    step = fake(says("ab")).generate(PROMPT, max_new_tokens=2, candidates=5).steps[1]
    assert step.token == "b"
    first, *others = step.candidates
    assert (first.id, first.text) == (ord("b"), "b")
    assert len(others) == 4
    assert [c.raw_logit for c in step.candidates] == sorted((c.raw_logit for c in step.candidates), reverse=True)
    logits = says("ab")([*PROMPT.encode(), ord("a")]).astype(np.float64)
    probs = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    for candidate in step.candidates:
        assert candidate.raw_prob == pytest.approx(probs[candidate.id], rel=1e-5)
        assert candidate.final_prob == pytest.approx(candidate.raw_prob, rel=1e-5)
    assert step.record.eos_prob == pytest.approx(probs[EOS], rel=1e-5)


def test_a_removed_candidate_has_no_final_probability(fake: Callable[..., Model]) -> None:
    step = fake().generate(PROMPT, max_new_tokens=1, do_sample=True, top_k=2, candidates=3, seed=5).steps[0]
    assert [c.final_prob > 0 for c in step.candidates[:3]] == [True, True, False]
    assert sum(c.final_prob for c in step.candidates) == pytest.approx(1)


def test_without_records_the_text_is_the_same_and_the_step_says_why_it_is_bare(fake: Callable[..., Model]) -> None:
    model = fake()
    options = {"max_new_tokens": 20, "do_sample": True, "seed": 3}
    bare, full = (model.generate(PROMPT, candidates=n, **options) for n in (0, 9))
    assert bare.ids == full.ids
    assert bare.text == full.text
    assert bare.steps[0].token
    with pytest.raises(FanlightError, match="candidates"):
        _ = bare.steps[0].candidates


def test_settings_without_effect_are_said(fake: Callable[..., Model]) -> None:
    assert fake().generate(PROMPT, max_new_tokens=1, top_p=0.5).notes == ("top_p has no effect: do_sample is false",)


# -- where it ends ------------------------------------------------------------------------------------------------------


def test_max_new_tokens(fake: Callable[..., Model]) -> None:
    out = fake(says("abc")).generate(PROMPT, max_new_tokens=2)
    assert out.text == "ab"
    assert out.stop.reason is StopReason.MAX_NEW_TOKENS


def test_no_new_tokens(fake: Callable[..., Model]) -> None:
    model = fake()
    out = model.generate(PROMPT, max_new_tokens=0)
    assert (out.text, out.ids, out.steps) == ("", (), ())
    assert out.stop.reason is StopReason.MAX_NEW_TOKENS
    assert model.decoder.passes == []


def test_ignore_eos(fake: Callable[..., Model]) -> None:
    out = fake(says("a", EOS)).generate(PROMPT, max_new_tokens=4, ignore_eos=True)
    assert out.text == "aa"
    assert out.ids == (97, EOS, 97, EOS)


def test_own_end_of_sequence(fake: Callable[..., Model]) -> None:
    out = fake(says("abc")).generate(PROMPT, eos_token_id=98)
    assert out.text == "a"
    assert out.ids == (97, 98)


def test_a_stop_string_and_what_follows_it_are_not_shown(fake: Callable[..., Model]) -> None:
    model = fake(says("one. two"))
    out = model.generate(PROMPT, max_new_tokens=8, stop_strings=(". ", "never"))
    assert out.text == "one"
    assert out.stop.reason is StopReason.STOP_STRING
    assert "'. '" in str(out.stop)
    assert "".join(step.text for step in model.stream(PROMPT, stop_strings=". ")) == "one"


def test_a_stop_string_that_never_comes_holds_nothing_back(fake: Callable[..., Model]) -> None:
    out = fake(says("one. two")).generate(PROMPT, max_new_tokens=8, stop_strings="two!")
    assert out.text == "one. two"
    assert out.steps[-1].text == "two"


def test_the_window_ends_a_text(fake: Callable[..., Model]) -> None:
    out = fake(n_ctx=9).generate(PROMPT, ignore_eos=True)
    assert out.stop.reason is StopReason.CONTEXT_WINDOW
    assert len(out.ids) == 6  # the last is never computed from, so it needs no room
    assert "9" in str(out.stop)


def test_a_character_is_never_split(fake: Callable[..., Model]) -> None:
    out = fake(says("né€")).generate(PROMPT, max_new_tokens=6)
    assert out.text == "né€"
    assert [step.text for step in out.steps] == ["n", "", "é", "", "", "€"]


def test_a_character_that_is_never_completed(fake: Callable[..., Model]) -> None:
    out = fake(says("né")).generate(PROMPT, max_new_tokens=2)
    assert out.text == "n\ufffd"
    assert "".join(step.text for step in out.steps) == out.text


# -- streaming ----------------------------------------------------------------------------------------------------------


def test_a_stream_computes_nothing_ahead(fake: Callable[..., Model]) -> None:
    model = fake(says("abc"))
    stream = model.stream(PROMPT)
    assert len(model.decoder.passes) == 0
    assert next(stream).text == "a"
    assert len(model.decoder.passes) == 1
    assert next(stream).text == "b"
    assert len(model.decoder.passes) == 2


@pytest.mark.parametrize("how", ["closed", "left", "dropped"])
def test_a_stream_given_up_frees_its_cache(fake: Callable[..., Model], how: str) -> None:
    model = fake()
    stream = model.stream(PROMPT)
    next(stream)
    assert model.decoder.pool.n_pages > 0
    if how == "closed":
        stream.close()
        stream.close()
    elif how == "left":
        with stream:
            next(stream)
    else:
        del stream
    assert n_lent(model) == 0
    if how != "dropped":
        assert list(stream) == []
        assert stream.result().stop.reason is StopReason.CANCELLED


def test_the_caller_s_error_ends_the_request(fake: Callable[..., Model]) -> None:
    model = fake()

    def give_up() -> None:
        with model.stream(PROMPT) as stream:
            next(stream)
            raise KeyError

    with pytest.raises(KeyError):
        give_up()
    assert n_lent(model) == 0


def test_streams_of_one_model_do_not_touch_each_other(fake: Callable[..., Model]) -> None:
    model = fake()
    alone = [model.generate(prompt, max_new_tokens=9).text for prompt in ("a", "bc")]
    pairs = zip(model.stream("a", max_new_tokens=9), model.stream("bc", max_new_tokens=9), strict=True)
    assert ["".join(step.text for step in steps) for steps in zip(*pairs, strict=True)] == alone


@pytest.mark.parametrize("damage", [math.nan, math.inf, -math.inf])
def test_damaged_logits_end_in_an_error_that_says_where(fake: Callable[..., Model], damage: float) -> None:
    def logits_of(history: Any) -> Any:
        logits = hashed_logits(history)
        if len(history) == len(PROMPT) + 2:
            logits[:] = damage
        return logits

    model = fake(logits_of)
    with pytest.raises(NumericError, match="position 6"):
        model.generate(PROMPT, ignore_eos=True)
    assert n_lent(model) == 0
    assert model.generate("fine", max_new_tokens=2).text  # the model is not


# -- seeds --------------------------------------------------------------------------------------------------------------


def test_a_seed_makes_the_text_again(fake: Callable[..., Model]) -> None:
    model = fake()
    first = model.generate(PROMPT, max_new_tokens=12, do_sample=True)
    assert model.generate(PROMPT, max_new_tokens=12, do_sample=True, seed=first.seed).ids == first.ids
    assert model.generate(PROMPT, max_new_tokens=12, do_sample=True, seed=-1).seed == -1
    assert model.stream(PROMPT, seed=9).seed == 9


def test_without_a_seed_texts_differ(fake: Callable[..., Model]) -> None:
    model = fake()
    outs = [model.generate(PROMPT, max_new_tokens=12, do_sample=True, ignore_eos=True) for _ in range(3)]
    assert len({out.seed for out in outs}) == 3
    assert len({out.ids for out in outs}) == 3


# -- prompts and options ------------------------------------------------------------------------------------------------


def test_ids_are_a_prompt_too(fake: Callable[..., Model]) -> None:
    model = fake()
    ids = list(PROMPT.encode())
    assert model.generate(ids, max_new_tokens=5).ids == model.generate(PROMPT, max_new_tokens=5).ids
    assert model.generate(np.array(ids), max_new_tokens=5).prompt_ids == tuple(ids)
    assert model.generate(iter(ids), max_new_tokens=1).prompt_ids == tuple(ids)


@pytest.mark.parametrize("prompt", ["", [], ()])
def test_an_empty_prompt_starts_from_bos(fake: Callable[..., Model], prompt: Any) -> None:
    assert fake().generate(prompt, max_new_tokens=1).prompt_ids == (BOS,)


def test_an_empty_prompt_without_bos_is_refused(fake: Callable[..., Model]) -> None:
    class NoBos(ByteTokenizer):
        bos_id = None  # type: ignore[assignment]

    model = fake(tokenizer=NoBos())
    for call in (model.generate, model.stream, model.logits, lambda prompt: model.next_token(prompt, [])):
        with pytest.raises(OptionError, match=r"empty.*text"):
            call("")


CALLS: dict[str, Callable[[Model, Any], Any]] = {
    "generate": lambda model, prompt: model.generate(prompt, max_new_tokens=1),
    "stream": lambda model, prompt: model.stream(prompt),
    "logits": lambda model, prompt: model.logits(prompt),
    "next_token": lambda model, prompt: model.next_token(prompt, [GenerationConfig()]),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("prompt", [b"bytes", 5, None, [1.5], ["a"], [[1]], [258], [-1], [10**30], "\ud800"])
def test_a_prompt_that_is_none(fake: Callable[..., Model], call: str, prompt: Any) -> None:
    with pytest.raises((OptionError, TokenizerError)) as caught:
        CALLS[call](fake(), prompt)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("call", CALLS)
def test_a_prompt_longer_than_the_window(fake: Callable[..., Model], call: str) -> None:
    with pytest.raises(ContextOverflow, match=r"10 tokens.*9"):
        CALLS[call](fake(n_ctx=9), "a" * 10)


def test_a_prompt_as_long_as_the_window(fake: Callable[..., Model]) -> None:
    out = fake(n_ctx=9).generate("a" * 9, ignore_eos=True)
    assert len(out.ids) == 1
    assert out.stop.reason is StopReason.CONTEXT_WINDOW


def test_an_unknown_option_suggests_the_nearest(fake: Callable[..., Model]) -> None:
    model = fake(chat_template="x")
    messages = [{"role": "user", "content": "a"}]
    for call in (
        lambda: model.generate(PROMPT, temprature=1),
        lambda: model.generate(PROMPT, GenerationConfig(), temprature=1),
        lambda: model.stream(PROMPT, temprature=1),
        lambda: model.chat(messages, temprature=1),
        lambda: model.stream_chat(messages, temprature=1),
    ):
        with pytest.raises(OptionError, match="did you mean 'temperature'"):
            call()


def test_options_change_a_config(fake: Callable[..., Model]) -> None:
    config = GenerationConfig(max_new_tokens=3, do_sample=True, seed=4)
    out = fake().generate(PROMPT, config, max_new_tokens=2, ignore_eos=True)
    assert out.config == GenerationConfig(max_new_tokens=2, do_sample=True, seed=4, ignore_eos=True)
    assert len(out.ids) == 2
    assert config.max_new_tokens == 3


@pytest.mark.parametrize("config", [{"seed": 1}, 20, "fast"])
def test_a_config_of_another_kind(fake: Callable[..., Model], config: Any) -> None:
    with pytest.raises(OptionError, match="GenerationConfig"):
        fake().generate(PROMPT, config)


# -- one pass -----------------------------------------------------------------------------------------------------------


def test_next_token_is_the_first_step_under_each_of_several_settings(fake: Callable[..., Model]) -> None:
    model = fake()
    configs = [
        GenerationConfig(),
        GenerationConfig(repetition_penalty=1.5),
        *(GenerationConfig(do_sample=True, temperature=t, seed=8) for t in (0.1, 1, 5)),
        GenerationConfig(do_sample=True, top_k=3, seed=8, eos_token_id=(65, 66), candidates=4),
        GenerationConfig(eos_token_id=()),
        GenerationConfig(candidates=0),
    ]
    steps = model.next_token(PROMPT, configs)
    assert len(model.decoder.passes) == 1
    assert n_lent(model) == 0
    assert len(steps) == len(configs)
    for step, config in zip(steps, configs, strict=True):
        (first,) = model.generate(PROMPT, config, max_new_tokens=1).steps
        assert step.id == first.id
        assert step.token == first.token
        if config.candidates:
            assert step.candidates == first.candidates
            assert step.record.effects == first.record.effects
            assert step.record.eos_prob == first.record.eos_prob


def test_next_token_checks_its_settings(fake: Callable[..., Model]) -> None:
    with pytest.raises(OptionError, match="eos_token_id: id 900"):
        fake().next_token(PROMPT, [GenerationConfig(eos_token_id=900)])


def test_logits_have_a_row_for_each_token(fake: Callable[..., Model]) -> None:
    model = fake()
    logits = model.logits(PROMPT)
    assert logits.shape == (4, 258)
    assert logits.dtype == np.float32
    for i in range(4):
        assert np.array_equal(logits[i], hashed_logits(PROMPT.encode()[: i + 1]))
    assert model.generate(PROMPT, max_new_tokens=1).ids == (logits[-1].argmax(),)
    assert n_lent(model) == 0


# -- chat ---------------------------------------------------------------------------------------------------------------

TEMPLATE = "{% for m in messages %}{{ bos_token }}{{ m.role }}:{{ m.content }}{{ eos_token }}{% endfor %}A:"


def test_a_chat_is_its_template_s_prompt(fake: Callable[..., Model]) -> None:
    model = fake(chat_template=TEMPLATE)
    messages = [{"role": "user", "content": "Hi <eos>"}]
    ids = (BOS, *b"user:Hi <eos>", EOS, *b"A:")  # what a user writes never controls
    assert model.chat_ids(messages) == ids
    out = model.chat(messages, max_new_tokens=6, ignore_eos=True)
    assert out.prompt_ids == ids
    assert out.ids == model.generate(ids, max_new_tokens=6, ignore_eos=True).ids
    streamed = list(model.stream_chat(messages, max_new_tokens=6, ignore_eos=True))
    assert "".join(step.text for step in streamed) == out.text


def test_a_chat_that_cannot_be(fake: Callable[..., Model]) -> None:
    with pytest.raises(OptionError, match="no chat template"):
        fake().chat([{"role": "user", "content": "a"}])
    for messages in ([], "hello", [{"role": "user"}], [5]):
        with pytest.raises(TokenizerError, match="messages"):
            fake(chat_template=TEMPLATE).chat(messages)
    with pytest.raises(ContextOverflow, match="9"):
        fake(chat_template=TEMPLATE, n_ctx=9).chat([{"role": "user", "content": "a"}])


def test_hidden_states_are_those_that_each_step_was_chosen_from(smollm: Model) -> None:
    plain = smollm.generate("The sky is", max_new_tokens=4)
    out = smollm.generate("The sky is", max_new_tokens=4, output_hidden_states=True, output_logits=True)
    states = out.hidden_states
    assert out.ids == plain.ids
    assert states.shape == (4, 31, 576)
    last = smollm.decoder.ops.tensor(np.ascontiguousarray(states[:, -1]), 576)
    np.testing.assert_array_equal(smollm.decoder.read_out(last).numpy(), out.logits)
    with pytest.raises(FanlightError, match="output_hidden_states=True"):
        _ = plain.hidden_states


def test_kept_rows_are_the_raw_and_the_final_logits(smollm: Model) -> None:
    settings = {"do_sample": True, "top_k": 5, "temperature": 0.5, "seed": 3}
    out = smollm.generate("The sky is", max_new_tokens=3, output_logits=True, output_scores=True, **settings)
    assert out.logits.shape == out.scores.shape == (3, 49152)
    np.testing.assert_array_equal(out.logits[0], smollm.logits("The sky is")[-1])
    assert ((out.scores > -np.inf).sum(-1) == 5).all()
    kept = out.scores > -np.inf
    np.testing.assert_allclose(out.scores[kept], out.logits[kept] / 0.5, rtol=1e-6)
    with pytest.raises(FanlightError, match="output_scores=True"):
        _ = smollm.generate("The sky is", max_new_tokens=1).scores
