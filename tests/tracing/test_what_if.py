"""What-if: a decided step is never wrong, whatever was not stored; and what it says is what the model writes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding.settings_of_all_kinds import N_VOCAB, PENALTIES, SHAPES_AND_FILTERS, rows, text_of
from fanlight.decoding.config import GenerationConfig
from fanlight.decoding.processors import Surroundings
from fanlight.decoding.step import StepSettings, decide
from fanlight.errors import OptionError
from fanlight.kernels import load_ops
from fanlight.trace.header import Header, Origin
from fanlight.trace.stop import Stop, StopReason
from fanlight.tracing.files import open_trace, save_trace
from fanlight.tracing.redeciding import Redecider
from fanlight.tracing.trace import Trace
from fanlight.tracing.what_if import what_if

if TYPE_CHECKING:
    from pathlib import Path

    from decoding.rows import Row
    from fanlight import Model

OPS = load_ops()
EOS = (0, 5)
PROMPT = "The future of artificial intelligence is"


def of_row(row: Row, own: dict[str, Any], ids: list[int], seed: int, candidates: int) -> tuple[Trace, Any]:
    """A trace of one step over a row that is known whole."""
    n_prompt = len(ids)
    config = GenerationConfig.from_options(own)
    around = around_of(ids, seed)
    ready = replace(StepSettings.of(config, around), candidates=candidates)
    record = decide(ids, OPS.tensor(row, len(row)), ready).record
    assert record is not None
    header = Header(
        id="0" * 16,
        origin=Origin(model="fake", fingerprint="", architecture="fake", kernels="", n_vocab=len(row), n_ctx=99),
        prompt=None,
        text="",
        stop=Stop(StopReason.MAX_NEW_TOKENS, "cut off"),
        seed=seed,
        request_seed=seed,
        settings=own,
        setting_origins=dict(config.origins),
    )
    vocabulary = {token: text_of(token).encode() for token in range(len(row))}
    trace = Trace(
        header,
        prompt_ids=ids[:n_prompt],
        ids=[record.id],
        pieces=[text_of(record.id)],
        vocabulary=vocabulary,
        steps=lambda: [record],
        looks={},
    )
    return trace, record


def around_of(ids: list[int], seed: int) -> Surroundings:
    return Surroundings(
        ops=OPS, n_vocab=N_VOCAB, prompt_ids=tuple(ids), seed=seed, eos_ids=EOS, max_length=12, token_text=text_of
    )


def decided_again(
    trace: Trace, record: Any, own: dict[str, Any], new: dict[str, Any], ids: list[int], seed: int
) -> Any:
    mine, other = GenerationConfig.from_options(own), GenerationConfig.from_options(new)
    redecider = Redecider(
        trace,
        other,
        own=mine,
        around=around_of(ids, seed),
        own_around=around_of(ids, trace.header.seed),
        own_choice=True,
    )
    return redecider.step(record, ids)


FEW = {
    name: SHAPES_AND_FILTERS[name] for name in ("temperature", "top_k", "top_p", "min_p", "typical_p", "top_n_sigma")
}
UNLIMITED = {name: FEW[name] for name in FEW if name != "top_k"}
OPTIONAL = st.one_of(
    st.fixed_dictionaries({"do_sample": st.just(True)}, optional=FEW),
    st.fixed_dictionaries({"do_sample": st.just(True), "top_k": st.just(None)}, optional=UNLIMITED),
    st.fixed_dictionaries({"do_sample": st.just(True)}, optional=PENALTIES | SHAPES_AND_FILTERS),
    st.fixed_dictionaries({}, optional=PENALTIES),
)
IDS = st.lists(st.integers(0, 12), min_size=1, max_size=11)


@settings(max_examples=250, deadline=None)
@given(
    OPTIONAL, OPTIONAL, IDS, rows(), st.integers(0, 99), st.sampled_from([0, 0, 0, 1]), st.sampled_from([1, 3, 8, 20])
)
def test_a_decided_step_is_never_wrong(
    own: dict[str, Any], change: dict[str, Any], ids: list[int], row: Row, seed: int, other: int, candidates: int
) -> None:
    check_decided(own, change, ids, row, seed, other, candidates)


@settings(max_examples=250, deadline=None)
@given(OPTIONAL, OPTIONAL, IDS, rows(), st.integers(0, 99), st.sampled_from([1, 3, 8, 20]))
def test_a_decided_step_that_changes_a_few_settings_is_never_wrong(
    own: dict[str, Any], change: dict[str, Any], ids: list[int], row: Row, seed: int, candidates: int
) -> None:
    check_decided(own, own | change, ids, row, seed, 0, candidates)


def check_decided(
    own: dict[str, Any], new: dict[str, Any], ids: list[int], row: Row, seed: int, other: int, candidates: int
) -> None:
    trace, record = of_row(row, own, ids, seed, candidates)
    found = decided_again(trace, record, own, new, ids, seed + other)
    ready = replace(StepSettings.of(GenerationConfig.from_options(new), around_of(ids, seed + other)), keep_final=True)
    truth = decide(ids, OPS.tensor(row, len(row)), replace(ready, candidates=0))
    if found.id is None:
        assert found.why
        return
    assert found.id == truth.choice.id
    assert truth.final is not None
    total = OPS.stats(truth.final).logsumexp
    was, now = np.exp(np.array(OPS.gather(truth.final, (record.id, found.id))) - total)
    assert found.original.low - 1e-5 <= was <= found.original.high + 1e-5
    assert found.new.low - 1e-5 <= now <= found.new.high + 1e-5


@settings(max_examples=100, deadline=None)
@given(OPTIONAL, OPTIONAL, IDS, rows(), st.integers(0, 99))
def test_with_the_whole_vocabulary_every_step_is_decided(
    own: dict[str, Any], change: dict[str, Any], ids: list[int], row: Row, seed: int
) -> None:
    trace, record = of_row(row, own, ids, seed, -1)
    found = decided_again(trace, record, own, change, ids, seed)
    ready = replace(StepSettings.of(GenerationConfig.from_options(change), around_of(ids, seed)), candidates=20)
    truth = decide(ids, OPS.tensor(row, len(row)), ready)
    assert found.id == truth.choice.id
    assert found.record == truth.record


def test_settings_that_remove_everything_leave_the_step_open_and_say_why() -> None:
    row = np.arange(N_VOCAB, dtype=np.float32)
    trace, record = of_row(row, {}, [3], 1, -1)
    found = decided_again(trace, record, {}, {"suppress_tokens": list(range(N_VOCAB))}, [3], 1)
    assert found.id is None
    assert "no token is left after suppress_tokens" in found.why


def test_what_was_not_stored_weighs_more_than_the_most_probable_token() -> None:
    random = np.random.default_rng(0)
    row = random.normal(0, 0.1, N_VOCAB).astype(np.float32)
    row[random.integers(15, N_VOCAB, 6)] = random.normal(0, 1, 6)
    own = {"do_sample": True, "top_k": None, "min_p": 0.213}
    for seed in range(20):
        check_decided(own, own | {"typical_p": 0.137}, [0], row, seed, 0, 1)


def test_a_forced_token_that_was_not_stored_is_not_known_afterwards() -> None:
    own = {"do_sample": True, "forced_eos_token_id": [5, 6], "top_h": 0.713, "xtc_probability": 0.5}
    row = np.linspace(3, -3, N_VOCAB).astype(np.float32)
    for seed in range(20):
        check_decided(own, own, [1] * 11, row, seed, 1, 1)


def test_a_trace_from_a_file_says_the_same(tmp_path: Path, smollm: Model) -> None:
    trace = smollm.generate(PROMPT, trace=True, do_sample=True, seed=5, max_new_tokens=7).trace
    assert trace is not None
    again = open_trace(save_trace(trace, tmp_path / "run.safetensors"))
    for change in ({}, {"top_p": 0.8}, {"temperature": 1.2}):
        assert what_if(again, **change).steps == what_if(trace, **change).steps


# -- on the default model --------------------------------------------------------------------------------------------------

KINDS: list[dict[str, Any]] = [
    {},
    {"do_sample": True, "seed": 3},
    {"do_sample": True, "seed": 4, "temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.1},
    {"do_sample": True, "seed": 5, "top_k": 0, "min_p": 0.05, "temperature": 1.3},
    {"do_sample": True, "seed": 6, "mirostat": 2},
    {"do_sample": True, "seed": 7, "top_k": 0, "typical_p": 0.9, "no_repeat_ngram_size": 2},
    {"do_sample": True, "seed": 8, "dry_multiplier": 0.8, "xtc_probability": 0.5, "top_n_sigma": 1.5},
    {"frequency_penalty": 0.5, "min_new_tokens": 5, "eos_token_id": [2]},
    {"do_sample": True, "seed": 9, "adaptive_target": 0.4, "watermarking_config": {"bias": 2.0}},
]


@pytest.mark.parametrize("own", KINDS, ids=lambda own: ",".join(own) or "greedy")
@pytest.mark.parametrize("candidates", [20, -1])
def test_the_settings_of_a_trace_choose_what_it_has(smollm: Model, own: dict[str, Any], candidates: int) -> None:
    trace = smollm.generate(
        PROMPT, trace=True, max_new_tokens=13 if candidates > 0 else 5, candidates=candidates, **own
    ).trace
    assert trace is not None
    found = what_if(trace)
    assert [step.new_id for step in found.steps] == list(trace.ids)
    assert found.same_text
    assert found.changed == {}
    if candidates == -1:
        for step, record in zip(found.steps, trace.steps, strict=True):
            assert step.record is not None
            assert step.record.final_logprob == record.final_logprob
            assert abs(np.log(step.new_prob.low) - record.final_logprob) < 1e-9  # type: ignore[union-attr]


CHANGES: list[dict[str, Any]] = [
    {"top_p": 0.8},
    {"temperature": 1.2, "top_p": 0.7},
    {"temperature": 0.5},
    {"do_sample": False},
    {"min_p": 0.1, "top_k": 0},
    {"seed": 12},
    {"repetition_penalty": 1.3},
    {"suppress_tokens": [28, 284]},
    {"mirostat": 2, "mirostat_tau": 2.0},
    {"max_new_tokens": 5},
    {"stop_strings": ["."]},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: ",".join(change))
@pytest.mark.parametrize("candidates", [20, -1])
def test_up_to_the_first_divergence_it_is_what_the_model_writes(
    smollm: Model, change: dict[str, Any], candidates: int
) -> None:
    n = 16 if candidates > 0 else 7
    own: dict[str, Any] = {"do_sample": True, "seed": 11, "max_new_tokens": n}
    trace = smollm.generate(PROMPT, trace=True, candidates=candidates, **own).trace
    assert trace is not None
    written = smollm.generate(PROMPT, **own | change).ids
    found = what_if(trace, **change)
    shared = next((i for i, (a, b) in enumerate(zip(trace.ids, written, strict=False)) if a != b), min(n, len(written)))
    for step in found.steps[: shared + 1]:
        if step.decided and step.step < len(written):
            assert step.new_id == written[step.step]
    if found.is_certain:
        assert found.first_divergence == (None if written == trace.ids else shared)
    if candidates == -1:
        assert found.is_certain
        assert (
            not found.n_open or "mirostat" in change
        )  # which follows what was chosen, and the text goes on with another


def test_most_steps_are_decided_from_a_trace_as_it_is_by_default(smollm: Model) -> None:
    trace = smollm.generate(PROMPT, trace=True, do_sample=True, seed=5, max_new_tokens=24).trace
    assert trace is not None
    for change in ({"top_p": 0.8}, {"temperature": 0.7}, {"min_p": 0.1}, {"do_sample": False}):
        assert what_if(trace, **change).n_open == 0


def test_an_end_is_a_divergence(smollm: Model) -> None:
    trace = smollm.generate(PROMPT, trace=True, max_new_tokens=9).trace
    assert trace is not None
    shorter = what_if(trace, max_new_tokens=4)
    assert (shorter.end_step, shorter.first_divergence, shorter.n_same) == (3, 4, 9)
    assert "would end after step 3: cut off by max_new_tokens=4" in str(shorter)
    longer = what_if(trace, max_new_tokens=40)
    assert (longer.end, longer.first_divergence) == (None, 9)
    assert "would go on after its last step, 8" in str(longer)
    ended = what_if(trace, eos_token_id=[trace.ids[6]])
    first = trace.ids.index(trace.ids[6])
    assert ended.end_step == first
    assert ended.end is not None
    assert ended.end.reason is StopReason.EOS
    assert what_if(trace, loop_repeats=3).end_step == 8


def test_the_text_of_a_result_says_what_parts_the_texts(smollm: Model) -> None:
    trace = smollm.generate(PROMPT, trace=True, do_sample=True, seed=5, max_new_tokens=12).trace
    assert trace is not None
    found = what_if(trace, do_sample=False)
    at = found.first_divergence
    assert at is not None
    new = found.steps[at].new_id
    assert new is not None
    said = str(found)
    assert "do_sample True -> False" in said
    assert (
        f"the texts part at step {at}: {trace.token_label(new)!r} instead of {trace.token_label(trace.ids[at])!r}"
        in said
    )
    assert found.n_same + found.n_other + found.n_open == 12


def test_a_given_text_is_compared_with_what_the_model_would_choose(smollm: Model) -> None:
    trace = smollm.score("The cat sat on the mat.")
    found = what_if(trace)
    greedy = [record.candidate_ids[0] for record in trace.steps]
    assert [step.new_id for step in found.steps] == greedy


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_beams": 3}, "num_beams=3 cannot be decided from a trace: a search"),
        ({"guidance_scale": 2.0}, "guidance_scale=2.0 .* second row"),
        ({"regex": "a+"}, "regex='a\\+' .* texts of all tokens"),
        ({"penalty_alpha": 0.6}, "penalty_alpha"),
        ({"temprature": 0.6}, "did you mean 'temperature'"),
        ({"min_new_tokens": 3}, "which tokens end a text"),
    ],
)
def test_what_needs_the_model_is_refused(options: dict[str, Any], match: str) -> None:
    trace, _ = of_row(np.arange(N_VOCAB, dtype=np.float32), {}, [3], 1, 5)
    with pytest.raises(OptionError, match=match):
        what_if(trace, **options)


def test_code_runs_where_the_whole_vocabulary_is_stored_and_is_open_elsewhere() -> None:
    def halved(ids: tuple[int, ...], logits: Any) -> Any:
        return logits * 0.5

    row = np.arange(N_VOCAB, dtype=np.float32)
    for candidates, is_decided in ((-1, True), (5, False)):
        trace, _ = of_row(row, {}, [3], 1, candidates)
        (step,) = what_if(trace, processors=(halved,)).steps
        assert step.decided is is_decided


def test_settings_that_were_code_must_be_given_again() -> None:
    trace, _ = of_row(np.arange(N_VOCAB, dtype=np.float32), {}, [3], 1, -1)
    trace.header = replace(trace.header, unkept=("processors",))
    with pytest.raises(OptionError, match="give processors again, or a whole config"):
        what_if(trace, top_p=0.8)
    assert what_if(trace, GenerationConfig(max_new_tokens=1)).steps[0].decided
