"""Traces without a model, all parts included, of unequal sizes. In: sizes, settings, a seed. Out: a Trace, always the same one.

The steps are real: `decide` chose from pseudo-random logits. What was seen inside "the model" is pseudo-random, in the right
shapes and ranges: rows of attention sum to 1, the last layer of the lens says what the step saw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fanlight.decoding.config import GenerationConfig
from fanlight.decoding.processors import Surroundings
from fanlight.decoding.step import StepSettings, decide
from fanlight.kernels import reference_rows
from fanlight.kernels.reference_tensor import Tensor
from fanlight.text.stream import Detokenizer
from fanlight.trace.header import Header, Origin, Parent
from fanlight.trace.looks import Attention, Contributions, Lens, Norms, Timings
from fanlight.trace.records import Guess, StepRecord
from fanlight.trace.search import Node, SearchRecord
from fanlight.trace.stop import Stop, StopReason
from fanlight.tracing.trace import Trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fanlight.kernels.ops import Ops

OPS = cast("Ops", reference_rows)
EOS = 0
SAID = "the cat sat on mat. not \n\n is a An \t “quoted” comma, <b> x=1&2 é 漢字 \U0001f408 -- dog ran far away, then ; ' ?"
WORDS = ("<eos>", *SAID.split(" "))
"""Of a small vocabulary; two more tokens are the halves of a character."""
HALVES = ("ü".encode()[:1], "ü".encode()[1:])
SETTINGS: dict[str, Any] = {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "top_k": 0}


def words(n_vocab: int) -> list[bytes]:
    """The bytes of every token."""
    found = [(f" {word}" if word[:1].isalpha() else word).encode() for word in WORDS]
    found[1:1] = HALVES
    return (found + [f" w{i}".encode() for i in range(n_vocab)])[:n_vocab]


def logits_of(seed: int, step: int, n_vocab: int) -> NDArray[np.float32]:
    """The row (1, n_vocab) of a step: some steps are sure, some are not."""
    random = np.random.default_rng([seed, step, n_vocab])
    return random.normal(0, (0.5, 2.0, 6.0)[step % 3], (1, n_vocab)).astype(np.float32)


def some_records(
    n_steps: int,
    *,
    n_prompt: int = 5,
    n_vocab: int = 33,
    candidates: int = 5,
    seed: int = 3,
    settings: dict[str, Any] | None = None,
    guesses: bool = False,
    logits: Callable[[int, int, int], NDArray[np.float32]] = logits_of,
) -> list[StepRecord]:
    """What `decide` saw over that many steps; every third token guessed, with guesses."""
    settings = SETTINGS if settings is None else settings
    config = GenerationConfig.from_options({**settings, "seed": seed, "candidates": candidates})
    prompt = tuple(_prompt_ids(n_prompt, n_vocab, seed))
    ids, found = list(prompt), []
    around = Surroundings(ops=OPS, n_vocab=n_vocab, seed=seed, eos_ids=(EOS,), prompt_ids=prompt)
    made = StepSettings.of(config, around)
    for step in range(n_steps):
        decision = decide(ids, Tensor(logits(seed, step, n_vocab)), made)
        assert decision.record is not None
        record = decision.record
        if guesses and step % 3 == 1:
            right = step % 2 == 1
            record = replace(
                record, guess=Guess("prompt_lookup", record.id if right else (record.id + 1) % n_vocab, right)
            )
        made = made if decision.processors is None else replace(made, processors=decision.processors)
        ids.append(record.id)
        found.append(record)
    if found:
        found[-1] = replace(found[-1], stop=_stop(n_steps))
    return found


def _prompt_ids(n_prompt: int, n_vocab: int, seed: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(1, n_vocab, n_prompt)]


def _stop(n_steps: int) -> Stop:
    return Stop(StopReason.MAX_NEW_TOKENS, f"cut off by max_new_tokens={n_steps}")


def a_trace(
    *,
    n_steps: int = 7,
    n_prompt: int = 5,
    n_vocab: int = 33,
    n_layer: int = 3,
    n_head: int = 2,
    candidates: int = 5,
    lens: bool | int = True,
    attention: bool | Sequence[int] = True,
    contributions: bool = True,
    norms: bool = True,
    timings: bool = True,
    search: bool = False,
    guesses: bool = False,
    seed: int = 3,
    settings: dict[str, Any] | None = None,
    logits: Callable[[int, int, int], NDArray[np.float32]] = logits_of,
    records: Sequence[StepRecord] | None = None,
    vocabulary: Sequence[bytes] | None = None,
    **header: Any,
) -> Trace:
    """A trace with everything, where nothing is switched off.

    lens: so many tokens of each layer; True: 4. attention: True, or the layers. settings: SETTINGS, if not given. logits:
    (seed, step, n_vocab) -> (1, n_vocab). records: steps made elsewhere. vocabulary: the bytes of every id. header: other
    values for the Header.
    """
    settings = SETTINGS if settings is None else settings
    prompt_ids = _prompt_ids(n_prompt, n_vocab, seed)
    if records is None:
        made = {"settings": settings, "guesses": guesses, "logits": logits, "candidates": candidates}
        records = some_records(n_steps, n_prompt=n_prompt, n_vocab=n_vocab, seed=seed, **made)
    steps = tuple(records)
    n_steps, ids = len(steps), [record.id for record in steps]
    tokens = words(n_vocab) if vocabulary is None else list(vocabulary)
    text = Detokenizer(tokens.__getitem__, skip=(EOS,))
    pieces = [text.feed(token) for token in ids]
    if pieces:
        pieces[-1] += text.flush()
    random = np.random.default_rng([seed, 77])
    looks: dict[str, Any] = {}
    if lens:
        looks["lens"] = _lens(steps, n_layer, 4 if lens is True else lens, n_vocab, random)
    if attention is not False:
        layers = tuple(range(n_layer)) if attention is True else tuple(layer % n_layer for layer in attention)
        looks["attention"] = _attention(layers, n_head, n_prompt, n_steps, random)
    if contributions:
        looks["contributions"] = _contributions(steps, n_layer, random)
    if norms:
        rows = [np.float32(random.lognormal(1, 1, (n_steps, n))) for n in (n_layer + 1, n_layer, n_layer)]
        looks["norms"] = Norms(residual=rows[0], attention=rows[1], feed_forward=rows[2])
    if timings:
        forward, deciding = (np.float32(random.lognormal(mean, 0.2, n_steps)) for mean in (-4, -7))
        layers_seconds = np.float32(random.lognormal(-8, 0.3, (n_layer, 2)))
        looks["timings"] = Timings(
            forward=forward, deciding=deciding, layers=layers_seconds, head=0.002, embedding=1e-5
        )
    seen = {*ids, *prompt_ids, EOS} | {token for record in steps for token in record.candidate_ids}
    if search:
        seen |= {max(0, token - 1) for token in ids}
    if lens:
        seen |= {int(token) for token in looks["lens"].ids.ravel()}
    prompt = b"".join(tokens[token] for token in prompt_ids).decode("utf-8", "replace")
    about: dict[str, Any] = {
        "id": hashlib.sha256(repr((seed, n_vocab, prompt_ids, ids, settings)).encode()).hexdigest()[:16],
        "origin": Origin(
            model="tiny-fake",
            fingerprint="f" * 16,
            architecture="fake",
            kernels="reference",
            conversions="none",
            fanlight="0.1.0",
            platform="test",
            n_layer=n_layer,
            n_head=n_head,
            n_vocab=n_vocab,
            n_ctx=512,
        ),
        "prompt": prompt,
        "text": "".join(pieces),
        "stop": steps[-1].stop or _stop(n_steps) if steps else _stop(0),
        "seed": seed,
        "request_seed": seed,
        "settings": dict(settings),
        "setting_origins": dict.fromkeys(settings, "call"),
        "created": "2025-03-01T12:00:00Z",
        "prefill_seconds": 0.025,
        "decode_seconds": 0.125,
        "n_computed": n_prompt + n_steps,
    }
    return Trace(
        Header(**{**about, **header}),
        prompt_ids=prompt_ids,
        ids=ids,
        pieces=pieces,
        vocabulary={token: tokens[token] for token in sorted(seen)},
        steps=lambda: steps,
        looks={name: (lambda look=look: look) for name, look in looks.items()},
        search=(lambda: a_search(ids)) if search else None,
    )


def a_branch(trace: Trace, step: int, *, seed: int = 4, n_steps: int = 6) -> Trace:
    """A trace that is the other one up to a step, and goes another way there."""
    shared = [replace(record, stop=None) for record in trace.steps[:step]]
    n_prompt, n_vocab = len(trace.prompt_ids), trace.header.origin.n_vocab
    own = some_records(n_steps, n_prompt=n_prompt + step, n_vocab=n_vocab, seed=seed)
    other = {"id": f"{trace.id[:12]}-{step}-{seed}", "parent": Parent(id=trace.id, step=step, change="token ' not'")}
    return replace_header(
        a_trace(records=[*shared, *own], n_prompt=n_prompt, n_vocab=n_vocab, seed=trace.header.seed), **other
    )


def replace_header(trace: Trace, **values: Any) -> Trace:
    """The same trace with other words about it."""
    return Trace(
        replace(trace.header, **values),
        prompt_ids=trace.prompt_ids,
        ids=trace.ids,
        pieces=trace.pieces,
        vocabulary=trace.vocabulary,
        steps=lambda: trace.steps,
        looks={name: (lambda name=name: getattr(trace, name)) for name in trace.has if name != "search"},
        search=(lambda: trace.search) if "search" in trace.has else None,
    )


def _lens(steps: Sequence[StepRecord], n_layer: int, k: int, n_vocab: int, random: np.random.Generator) -> Lens:
    rows = random.normal(0, 2, (len(steps), n_layer + 1, n_vocab))
    for i, record in enumerate(steps):  # deeper layers are surer of what the step saw
        for token, logit in zip(record.candidate_ids, record.raw_logits, strict=True):
            rows[i, :, token] += np.linspace(0, 1, n_layer + 1) * max(logit, -20)
    logprobs = (
        rows - np.log(np.exp(rows - rows.max(-1, keepdims=True)).sum(-1, keepdims=True)) - rows.max(-1, keepdims=True)
    )
    order = np.argsort(-logprobs, axis=-1, kind="stable")
    chosen = np.array([record.id for record in steps], int).reshape(-1, 1, 1)
    own = np.take_along_axis(logprobs, np.broadcast_to(chosen, (*logprobs.shape[:2], 1)), -1)
    return Lens(
        ids=order[..., :k].astype(np.int32),
        logprobs=np.take_along_axis(logprobs, order[..., :k], -1).astype(np.float32),
        chosen_logprobs=own[..., 0].astype(np.float32),
        chosen_ranks=(logprobs > own).sum(-1).astype(np.int32),
        entropies=-(np.exp(logprobs) * logprobs).sum(-1).astype(np.float32),
    )


def _attention(
    layers: tuple[int, ...], n_head: int, n_prompt: int, n_steps: int, random: np.random.Generator
) -> Attention:
    n = max(0, n_prompt + n_steps - 1)
    queries = tuple(range(n_prompt - 1, n)) if n_steps else ()
    scores = random.normal(0, 2, (len(layers), n_head, len(queries), n))
    scores[..., np.arange(n)[None, :] > np.array(queries, int)[:, None]] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True, initial=-1e9))
    weights /= weights.sum(-1, keepdims=True)
    return Attention(
        layers=layers,
        heads=tuple(range(n_head)),
        queries=queries,
        weights=weights.astype(np.float16),
        windows=(0,) * len(layers),
    )


def _contributions(steps: Sequence[StepRecord], n_layer: int, random: np.random.Generator) -> Contributions:
    logits = np.array([record.raw_logits[record.candidate_ids.index(record.id)] for record in steps], np.float32)
    attention, feed_forward = (np.float32(random.normal(0, 1, (len(steps), n_layer))) for _ in range(2))
    constant = np.full(len(steps), 0.125, np.float32)
    rest = np.float32(logits - attention.sum(1) - feed_forward.sum(1) - constant)
    return Contributions(
        embedding=rest, attention=attention, feed_forward=feed_forward, constant=constant, logits=logits
    )


def a_search(ids: Sequence[int]) -> SearchRecord:
    """A beam search of two beams: one text came out, the other was given up at every second token."""
    nodes: list[Node] = []
    last, score = -1, 0.0
    for depth, token in enumerate(ids, 1):
        nodes.append(
            Node(last, token, depth, -0.1 * depth, score - 0.1 * depth, "returned" if depth == len(ids) else "kept")
        )
        if depth % 2:
            nodes.append(Node(last, max(0, token - 1), depth, -2.5, score - 2.5, "pruned", group=1))
        last = next(i for i in reversed(range(len(nodes))) if nodes[i].fate != "pruned")
        score = nodes[last].score
    return SearchRecord("beam search", tuple(nodes), (last,) if nodes else ())
