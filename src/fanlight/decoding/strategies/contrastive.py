"""Contrastive search: of the most probable tokens, the one least like the text so far. Knows no model. Source: Su et al. 2022.

score = (1 - alpha) * probability - alpha * largest cosine similarity of the token's state with any state before it.
"""

from __future__ import annotations

from math import exp
from typing import TYPE_CHECKING

from fanlight.decoding.step import process, settle
from fanlight.decoding.strategies.base import Answer, Host, Steps, Want
from fanlight.decoding.strategies.tree import KEPT, PRUNED, Tree

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def contrastive_search(host: Host) -> Steps:
    """Write one text. Every candidate is computed to see its state, all of one step in one pass."""
    import numpy as np

    config, settings, ops = host.config, host.settings, host.ops
    alpha, output = config.penalty_alpha, host.outputs[0]
    tree = Tree("contrastive search", on=config.candidates != 0)
    line, node = host.open(host.prompt_ids), -1
    (answer,) = yield [Want(line, final=True)]
    states = _states(answer)  # (n, n_embd), of length 1
    row = answer.logits[0]
    while True:
        rows = process(output.ids, row, settings.processors)
        tokens, logits = ops.top(rows[-1], config.top_k or 1)
        total = ops.stats(rows[-1]).logsumexp
        probs = [exp(logit - total) for logit in logits]
        if len(line.ids) < host.n_ctx:
            lines = [line, *(host.fork(line) for _ in tokens[1:])]
            for each, token in zip(lines, tokens, strict=True):
                each.ids.append(token)
            answers = yield [Want(each, final=True) for each in lines]
            # a line that was computed again has the states of all its ids
            own = np.concatenate([_states(answer)[-1:] for answer in answers])  # (k, n_embd)
            likeness = (own @ states.T).max(-1)  # (k,)
            scores = [(1 - alpha) * prob - alpha * float(like) for prob, like in zip(probs, likeness, strict=True)]
            best = max(range(len(tokens)), key=lambda i: (scores[i], -i))
        else:  # no place is left in the window to see a candidate's state
            lines, answers, scores, best, own = [line], [], probs, 0, states[:0]
        depth = output_length(host) + 1
        nodes = [
            tree.add(node, token, depth, logit - total, score, KEPT if i == best else PRUNED)
            for i, (token, logit, score) in enumerate(zip(tokens, logits, scores, strict=True))
        ]
        node = nodes[best]
        decision = settle(tokens[best], output.ids, rows, settings, drawn=False)
        stop = output.emit(tokens[best], decision)
        for each in lines:
            if each is not lines[best] or stop is not None:
                host.close(each)
        if stop is not None:
            host.search = tree.record([node])
            return
        assert answers, "a text that fills the window has ended"
        line, row = lines[best], answers[best].logits[0]
        if not config.use_cache:
            host.recompute(line)
        states = np.concatenate([states, own[best : best + 1]])


def output_length(host: Host) -> int:
    """New tokens so far."""
    return len(host.outputs[0].ids) - len(host.prompt_ids)


def _states(answer: Answer) -> NDArray[np.float32]:
    import numpy as np

    states = np.concatenate([part.numpy() for part in answer.final])
    found: NDArray[np.float32] = states / np.maximum(np.linalg.norm(states, axis=-1, keepdims=True), 1e-12)
    return found
