"""Settings that cannot work together are refused before anything is computed, with names and values."""

from __future__ import annotations

from typing import Any

import pytest

from fakes.decoder import FakeDecoder
from fakes.runs import BOS, config_of, engine_of
from fanlight.decoding.config import GenerationConfig
from fanlight.decoding.strategies.choose import BEAMS, CONTRASTIVE_SEARCH, SAMPLING, strategy_of
from fanlight.engine.request import Helpers
from fanlight.errors import OptionError

BEAM = {"num_beams": 4}
CONTRASTIVE = {"penalty_alpha": 0.6, "top_k": 4}
DRAWN = {"do_sample": True}


@pytest.mark.parametrize(
    ("options", "strategy"),
    [
        ({}, SAMPLING),
        (DRAWN, SAMPLING),
        ({**DRAWN, "num_return_sequences": 3, "best_of": 5}, SAMPLING),
        (BEAM, BEAMS),
        ({**BEAM, **DRAWN}, BEAMS),
        ({**BEAM, "num_beam_groups": 2, "diversity_penalty": 0.5}, BEAMS),
        ({**BEAM, "mirostat": 2}, BEAMS),  # which only sampling uses
        (CONTRASTIVE, CONTRASTIVE_SEARCH),
        ({**CONTRASTIVE, **DRAWN, "temperature": 0}, CONTRASTIVE_SEARCH),
    ],
    ids=str,
)
def test_settings_name_their_strategy(options: dict[str, Any], strategy: str) -> None:
    assert strategy_of(GenerationConfig(**options)) == strategy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({**BEAM, "penalty_alpha": 0.5}, "penalty_alpha cannot be combined with num_beams=4; leave one of them out"),
        ({**BEAM, "guidance_scale": 2.0}, "guidance_scale cannot be combined with num_beams=4"),
        ({**BEAM, "dola_layers": "low"}, "dola_layers cannot be combined with num_beams=4"),
        ({**BEAM, "best_of": 2}, "best_of cannot be combined with num_beams=4"),
        ({**BEAM, **DRAWN, "mirostat": 2}, "mirostat cannot be combined with num_beams=4"),
        ({**BEAM, **DRAWN, "adaptive_target": 0.3}, "adaptive_target cannot be combined with num_beams=4"),
        ({**BEAM, "loop_repeats": 3}, "loop_repeats cannot be combined with num_beams=4"),
        (
            {**BEAM, "stopping_criteria": lambda ids, text: False},
            "stopping_criteria cannot be combined with num_beams=4",
        ),
        ({**BEAM, "prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens cannot be combined with num_beams=4"),
        ({**BEAM, "assistant_early_exit": 1}, "assistant_early_exit cannot be combined with num_beams=4"),
        ({**BEAM, "num_return_sequences": 5}, "num_return_sequences=5 is more than num_beams=4 can return"),
        ({**BEAM, "num_beam_groups": 3}, "num_beams=4 must be a multiple of num_beam_groups=3"),
        ({**BEAM, "num_beam_groups": 2, **DRAWN}, "num_beam_groups draws nothing: set do_sample to false"),
        (
            {**BEAM, "num_beam_groups": 2, "force_words_ids": [[1]]},
            "force_words_ids cannot be combined with num_beam_groups",
        ),
        ({**BEAM, "diversity_penalty": 1.0}, "diversity_penalty needs num_beam_groups above 1"),
        ({**BEAM, **DRAWN, "force_words_ids": [[1]]}, "force_words_ids draws nothing: set do_sample to false"),
        ({"num_beam_groups": 2}, "num_beam_groups=2 needs num_beams above 1: got 1"),
        ({"diversity_penalty": 1.0}, "diversity_penalty needs num_beam_groups above 1"),
        ({"force_words_ids": [[1]]}, "force_words_ids and constraints need beam search: set num_beams above 1"),
        ({"constraints": [[1]]}, "need beam search: set num_beams above 1"),
        ({**CONTRASTIVE, **DRAWN}, "contrastive search, which draws nothing: set do_sample to false"),
        ({"penalty_alpha": 0.6, "top_k": 1}, "among top_k tokens, at least 2: got 1"),
        ({"penalty_alpha": 0.6, "top_k": None}, "among top_k tokens, at least 2: got None"),
        ({**CONTRASTIVE, "guidance_scale": 2.0}, "guidance_scale cannot be combined with penalty_alpha=0.6"),
        ({**CONTRASTIVE, "dola_layers": "high"}, "dola_layers cannot be combined with penalty_alpha=0.6"),
        ({**CONTRASTIVE, "num_return_sequences": 2}, "num_return_sequences cannot be combined with penalty_alpha=0.6"),
        ({**CONTRASTIVE, "best_of": 2}, "best_of cannot be combined with penalty_alpha=0.6"),
        (
            {**CONTRASTIVE, "prompt_lookup_num_tokens": 2},
            "prompt_lookup_num_tokens cannot be combined with penalty_alpha",
        ),
        ({"num_return_sequences": 2}, "num_return_sequences=2 needs do_sample or num_beams: greedy decoding gives one"),
        ({"best_of": 3}, "best_of=3 needs do_sample"),
        ({**DRAWN, "best_of": 3, "num_return_sequences": 4}, "num_return_sequences=4 is more than best_of=3"),
        (
            {"prompt_lookup_num_tokens": 2, "assistant_early_exit": 1},
            "prompt_lookup_num_tokens and assistant_early_exit both guess ahead: choose one",
        ),
        ({"assistant_early_exit": 3}, "assistant_early_exit must be from 1 to 2, before the last layer: got 3"),
        ({"dola_layers": [1, 3]}, "dola_layers: layer 3 is not before the last: the model allows 0 to 2"),
        ({"regex": "a", "choice": ["b"]}, "regex and choice both say what the text may be: choose one"),
        ({"max_length": 2}, "the prompt has 2 tokens, max_length=2 leaves room for none; raise it"),
        (
            {"negative_prompt_ids": [999], "guidance_scale": 2.0},
            "negative_prompt_ids: id 999 is not in the model's vocabulary",
        ),
    ],
    ids=str,
)
def test_settings_that_contradict_each_other_are_refused(options: dict[str, Any], message: str) -> None:
    engine = engine_of(FakeDecoder())
    with pytest.raises(OptionError) as refused:
        engine.submit([BOS, 1], GenerationConfig(**options))
    assert message in str(refused.value)
    assert not engine.has_work
    assert engine._live == {}


@pytest.mark.parametrize(
    ("options", "role", "message"),
    [
        (
            {"prompt_lookup_num_tokens": 2},
            "assistant",
            "prompt_lookup_num_tokens and assistant both guess ahead: choose one",
        ),
        (BEAM, "assistant", "an assistant cannot be combined with num_beams=4"),
        (BEAM, "amateur", "an amateur cannot be combined with num_beams=4"),
        (CONTRASTIVE, "assistant", "an assistant cannot be combined with penalty_alpha=0.6"),
        (CONTRASTIVE, "amateur", "an amateur cannot be combined with penalty_alpha=0.6"),
    ],
    ids=str,
)
def test_helpers_that_a_strategy_has_no_use_for_are_refused(options: dict[str, Any], role: str, message: str) -> None:
    engine = engine_of(FakeDecoder())
    with pytest.raises(OptionError, match=message):
        engine.submit([BOS, 1], config_of(options), Helpers(**{role: FakeDecoder()}))
    assert engine._live == {}


@pytest.mark.parametrize("role", ["assistant", "amateur"])
def test_a_helper_with_another_vocabulary_is_refused(role: str) -> None:
    engine = engine_of(FakeDecoder())
    message = f"{role}: its vocabulary has 31 tokens, the model's 258; it must be the same vocabulary"
    with pytest.raises(OptionError, match=message):
        engine.submit([BOS, 1], None, Helpers(**{role: FakeDecoder(n_vocab=31)}))
    assert not engine.has_work
    assert engine._live == {}
