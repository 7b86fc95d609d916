"""Full traces from transformers: output_attentions, output_hidden_states, output_scores.

With eager attention, the only kind that gives weights. What the library leaves to its user (lens, accounts) is in `torch_readings`.

Its `generate` gives attention weights as a tuple of steps of layers; they are left like that, which costs it nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from benchmarks.peers.seen import N_CANDIDATES, Seen
from benchmarks.peers.torch_readings import accounts, lens

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


class TransformersTrace:
    """A causal LM from a folder, of an architecture whose parts are named as Llama's are (model.norm, lm_head)."""

    def __init__(self, folder: Path, *, name: str, threads: int, dtype: str = "float32") -> None:
        """Load the model."""
        self.name = name
        torch.set_num_threads(threads)
        load = transformers.AutoModelForCausalLM.from_pretrained
        self._model = load(folder, dtype=getattr(torch, dtype), attn_implementation="eager").eval()
        for option in ("eos_token_id", "pad_token_id"):  # it would end a text, and warn
            setattr(self._model.generation_config, option, None)

    @torch.inference_mode()
    def write(self, prompt: Sequence[int], n_new: int) -> Seen:
        """As `TracePeer.write`: one call of `generate` that gives everything."""
        out = self._generate(
            prompt,
            n_new,
            output_attentions=True,
            output_hidden_states=True,
            output_scores=True,
            return_dict_in_generate=True,
        )
        tokens = out.sequences[0, len(prompt) :]
        logits = torch.cat(out.scores)  # (n, n_vocab)
        # the last position of each step's pass; the last layer is normed already, and is what the scores come from
        states = [
            torch.cat([step[layer][0, -1:] for step in out.hidden_states])
            for layer in range(len(out.hidden_states[0]) - 1)
        ]
        return self._seen(
            tokens, logits, states, lambda: joined([[layer[0] for layer in step] for step in out.attentions])
        )

    @torch.inference_mode()
    def write_then_read(self, prompt: Sequence[int], n_new: int) -> Seen:
        """The same in two calls: the text alone, then one pass over all of it. Sooner, where a user thinks of it."""
        ids = self._generate(prompt, n_new)[0].tolist()
        found: Seen = self.read(prompt, ids[len(prompt) :])
        return found

    @torch.inference_mode()
    def read(self, prompt: Sequence[int], new: Sequence[int]) -> Seen:
        """As `TracePeer.read`."""
        ids = torch.tensor([[*prompt, *new][:-1]])
        out = self._model(
            ids, output_attentions=True, output_hidden_states=True, use_cache=False, logits_to_keep=len(new)
        )
        first = len(prompt) - 1
        states = [layer[0, first:] for layer in out.hidden_states[:-1]]
        return self._seen(
            torch.tensor(list(new)), out.logits[0], states, lambda: joined([[layer[0] for layer in out.attentions]])
        )

    def _generate(self, prompt: Sequence[int], n_new: int, **options: bool) -> Any:
        ids = torch.tensor([list(prompt)])
        return self._model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=n_new, do_sample=False, **options
        )

    def _seen(self, tokens: torch.Tensor, logits: torch.Tensor, states: Sequence[torch.Tensor], attention: Any) -> Seen:
        return Seen(
            ids=tuple(tokens.tolist()),
            steps=accounts(logits, tokens, N_CANDIDATES),
            lens=lens(states, logits, tokens, self._model.model.norm, self._model.lm_head),
            attention=attention,
        )


def joined(passes: Sequence[Sequence[torch.Tensor]]) -> NDArray[np.float32]:
    """Weights (n_head, queries, positions) of each layer of each pass, over all positions so far -> (n_layer, n_head, T, T)."""
    n_layer, (n_head, _, n_seen) = len(passes[0]), passes[-1][0].shape
    found = np.zeros((n_layer, n_head, n_seen, n_seen), np.float32)
    for layers in passes:
        for layer, weights in enumerate(layers):
            n_queries, n_positions = weights.shape[1:]
            found[layer, :, n_positions - n_queries : n_positions, :n_positions] = weights.float().numpy()
    return found
