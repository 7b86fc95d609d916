"""A pass that is looked into: transformers' states, the same bits as without looking, and early exits."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fanlight
from fanlight.cache.paged import PagedCache
from fanlight.errors import KernelError, OptionError
from fanlight.models.base import FINAL, Watch
from models import tiny
from models.hidden import cut_after, states_of
from models.passes import WHOLE, forward
from models.zoo import ZOO

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from fanlight.models.base import Decoder

TOLERANCE = 2e-5  # of the range
RANDOM = np.random.default_rng(17)
PROMPTS = [RANDOM.integers(0, tiny.N_VOCAB, n).tolist() for n in (67, 1, 19)]  # a page holds 64
BLOCKS = {"hidden_size": 96, "intermediate_size": 160, "head_dim": 16, "num_hidden_layers": 3}  # rows of 32 n


@pytest.fixture(scope="module", params=ZOO)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder, and transformers' model."""
    model = ZOO[request.param]()
    return tiny.write_folder(tmp_path_factory.mktemp("checkpoint"), model), model


@pytest.fixture
def llama(tmp_path: Path) -> Decoder:
    """Of three layers, in blocks of 8 bits."""
    return fanlight.load(tiny.write_gguf(tmp_path / "tiny.gguf", tiny.llama(**BLOCKS), "Q8_0")).decoder


class Text:
    """One sequence in a cache of its own."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.cache = PagedCache(decoder.new_pool(), decoder.config.n_ctx)
        self.slot = self.cache.open()

    def feed(self, ids: Sequence[int], logit_rows: Sequence[int], watch: Watch | None = None) -> NDArray[np.float32]:
        self.cache.reserve(self.slot, len(ids))
        batch = self.cache.batch([(self.slot, len(ids))])
        return self.decoder.forward(ids, batch, logit_rows, watch).numpy()


class Recorder:
    """A decoder whose passes are all watched."""

    def __init__(self, decoder: Decoder, make: Callable[[], Watch]) -> None:
        self.config, self.ops = decoder.config, decoder.ops
        self.new_pool, self.read_out = decoder.new_pool, decoder.read_out
        self._decoder, self._make = decoder, make
        self.watches: list[Watch] = []

    def forward(self, ids: Any, batch: Any, logit_rows: Any, watch: Watch | None = None) -> Any:
        assert watch is None
        self.watches.append(self._make())
        return self._decoder.forward(ids, batch, logit_rows, self.watches[-1])


def everything(decoder: Decoder) -> Watch:
    return Watch(layers=tuple(range(decoder.config.n_layer + 1)), final=True)


def states_by_prompt(
    watches: list[Watch], prompts: list[list[int]], n_at_once: int
) -> dict[int | str, list[NDArray[np.float32]]]:
    """What watched passes of `passes.forward` kept, put together."""
    found: dict[int | str, list[NDArray[np.float32]]] = {}
    for name in watches[0].states:
        parts: list[list[NDArray[np.float32]]] = [[] for _ in prompts]
        for i, watch in enumerate(watches):
            kept, done = watch.states[name].numpy(), i * n_at_once
            for part, ids in zip(parts, prompts, strict=True):
                n = max(0, min(len(ids) - done, n_at_once))
                part.append(kept[:n])
                kept = kept[n:]
            assert len(kept) == 0
        found[name] = [np.concatenate(part) for part in parts]
    return found


def assert_close(found: NDArray[np.float32], expected: NDArray[np.float32], what: str) -> None:
    worst = float(np.abs(found - expected).max()) / float(np.ptp(expected))
    assert worst <= TOLERANCE, f"{what}: {worst:.2g} of the range"


def assert_states_are_transformers(folder: Path, model: Any, kernels: str, n_at_once: int) -> None:
    """States as transformers has them; the logits as without a watch, and as the states' own, bit for bit."""
    decoder = fanlight.load(folder, kernels=kernels).decoder
    n_layer = decoder.config.n_layer
    recorder = Recorder(decoder, lambda: everything(decoder))
    logits, plain = forward(recorder, PROMPTS, n_at_once), forward(decoder, PROMPTS, n_at_once)
    found = states_by_prompt(recorder.watches, PROMPTS, n_at_once)
    assert set(found) == {*range(n_layer + 1), FINAL}
    for i, ids in enumerate(PROMPTS):
        np.testing.assert_array_equal(logits[i], plain[i])
        states, final = states_of(model, ids)
        for layer, expected in enumerate(states):
            assert_close(found[layer][i], expected, f"layer {layer}, {len(ids)} ids")
        assert_close(found[FINAL][i], final, f"the final states of {len(ids)} ids")
        for name, norm in ((n_layer, True), (FINAL, False)):
            states_again = decoder.ops.tensor(found[name][i].tobytes(), decoder.config.n_embd)
            np.testing.assert_array_equal(decoder.read_out(states_again, norm=norm).numpy(), logits[i])


@pytest.mark.parametrize("n_at_once", [WHOLE, 5], ids=["prefilled", "in chunks"])
def test_states_equal_those_of_transformers(case: tuple[Path, Any], n_at_once: int) -> None:
    assert_states_are_transformers(*case, "native", n_at_once)


def test_states_with_the_reference_kernels_too(case: tuple[Path, Any]) -> None:
    assert_states_are_transformers(*case, "reference", 29)


def test_an_early_exit_equals_transformers_with_fewer_layers(case: tuple[Path, Any]) -> None:
    folder, model = case
    decoder = fanlight.load(folder, kernels="native").decoder
    for n_layer in range(1, decoder.config.n_layer):
        expected = tiny.logits_of(cut_after(model, n_layer), PROMPTS)
        recorder = Recorder(decoder, partial(Watch, n_layer=n_layer))
        for found, theirs in zip(forward(recorder, PROMPTS, 13), expected, strict=True):
            assert_close(found, theirs, f"left after {n_layer} layers")


def test_leaving_after_the_last_layer_is_no_exit(llama: Decoder) -> None:
    recorder = Recorder(llama, lambda: Watch(n_layer=3))
    for found, expected in zip(forward(recorder, PROMPTS, 7), forward(llama, PROMPTS, 7), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_an_early_exit_reads_out_its_own_last_state(llama: Decoder) -> None:
    """With fewer rows of logits than of states, in another order."""
    watch = Watch(n_layer=2, layers=(2, 0), final=True, rows=(5, 3, 3, 17))
    logits = Text(llama).feed(PROMPTS[2], [3, 18], watch)
    assert {name: x.shape for name, x in watch.states.items()} == dict.fromkeys((0, 2, FINAL), (4, 96))
    np.testing.assert_array_equal(llama.read_out(watch.states[2]).numpy()[[1, 2]], logits[[0, 0]])
    np.testing.assert_array_equal(llama.read_out(watch.states[FINAL], norm=False).numpy()[1], logits[0])
    np.testing.assert_array_equal(logits, Text(llama).feed(PROMPTS[2], [3, 18], Watch(n_layer=2)))


def test_positions_left_early_are_cut_off_and_computed_again(llama: Decoder) -> None:
    """As self-speculation does: the draft's keys and values leave no trace."""
    prompt, expected = PROMPTS[0][:62], forward(llama, [PROMPTS[0]])[0]
    text = Text(llama)
    text.feed(prompt, [])
    for token in PROMPTS[0][62:66]:  # over the end of a page
        text.feed([token], [0], Watch(n_layer=1))
    text.cache.truncate(text.slot, 62)
    np.testing.assert_array_equal(text.feed(PROMPTS[0][62:], range(5)), expected[62:])


@pytest.mark.parametrize("kernels", ["native", "reference"])
@pytest.mark.parametrize("logit_rows", [[], [18], [4, 0, 4]])
@pytest.mark.parametrize("rows", [None, [], [18], [7, 18, 7, 2], range(19)], ids=str)
def test_what_is_kept_changes_no_bit(
    tmp_path: Path, kernels: str, logit_rows: list[int], rows: Sequence[int] | None
) -> None:
    decoder = fanlight.load(tiny.write_folder(tmp_path, tiny.gpt2(n_layer=3)), kernels=kernels).decoder
    whole = everything(decoder)
    every_logit = Text(decoder).feed(PROMPTS[2], range(19), whole)
    for layers, final in (((1, 3), False), ((0, 2), False), ((), True), ((), False), ((3, 1), True)):
        watch = Watch(layers=layers, final=final, rows=rows)
        logits = Text(decoder).feed(PROMPTS[2], logit_rows, watch)
        np.testing.assert_array_equal(logits, every_logit[logit_rows])
        assert set(watch.states) == {*layers, *([FINAL] if final else [])}
        for name, kept in watch.states.items():
            wanted = logit_rows if rows is None else list(rows)
            np.testing.assert_array_equal(kept.numpy(), whole.states[name].numpy()[wanted])


def test_a_watch_can_be_used_again(llama: Decoder) -> None:
    watch, text = Watch(layers=(1,)), Text(llama)
    text.feed(PROMPTS[2], [0, 1], watch)
    first, watch.layers = watch.states, (2,)
    text.feed([5], [0], watch)
    assert list(first) == [1]
    assert {name: x.shape for name, x in watch.states.items()} == {2: (1, 96)}


@pytest.mark.parametrize(
    ("watch", "what"),
    [
        (Watch(layers=(4,)), r"layer 4 in a pass of 3 layers; give numbers from 0 \(the embedding\) to 3"),
        (Watch(layers=(1, -1)), "layer -1"),
        (Watch(layers=(3,), n_layer=2), "layer 3 in a pass of 2 layers"),
        (Watch(n_layer=0), "left after 0 layers; this model has 3: give a number from 1 to 3"),
        (Watch(n_layer=4), "left after 4 layers"),
    ],
)
def test_layers_that_are_not_there_are_refused(llama: Decoder, watch: Watch, what: str) -> None:
    with pytest.raises(OptionError, match=what):
        Text(llama).feed(PROMPTS[2], [0], watch)


@pytest.mark.parametrize("watch", [Watch(layers=(1,), rows=[19]), Watch(final=True, rows=[-1])])
def test_rows_that_are_not_there_are_refused(llama: Decoder, watch: Watch) -> None:
    with pytest.raises(KernelError):
        Text(llama).feed(PROMPTS[2], [0], watch)
