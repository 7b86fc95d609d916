"""Full traces from TransformerLens: `run_with_cache` over a text, with the activations that a full trace needs and no others.

It looks at texts that are there; one that is not is written first, by its own `generate` with its key-value cache. What it leaves
to its user (lens, accounts) is in `torch_readings`: its own `logit_lens` gives either the most probable tokens or the chosen one,
and would read all twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformer_lens.model_bridge import TransformerBridge

from benchmarks.peers.seen import N_CANDIDATES, Seen
from benchmarks.peers.torch_readings import accounts, lens

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


class TransformerLens:
    """A causal LM from a folder, in float32, with its weights as they are."""

    def __init__(self, folder: Path, *, name: str, threads: int) -> None:
        """Load the model."""
        self.name = name
        torch.set_num_threads(threads)
        self._model = TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=torch.float32)
        self._model.eval()
        n_layer = self._model.cfg.n_layers
        self._residual = [f"blocks.{layer}.hook_resid_pre" for layer in range(n_layer)]
        self._patterns = [f"blocks.{layer}.attn.hook_pattern" for layer in range(n_layer)]

    @torch.inference_mode()
    def write(self, prompt: Sequence[int], n_new: int) -> Seen:
        """As `TracePeer.write`."""
        ids = self._model.generate(
            torch.tensor([list(prompt)]),
            max_new_tokens=n_new,
            do_sample=False,
            stop_at_eos=False,
            return_type="tokens",
            verbose=False,
        )
        found: Seen = self.read(prompt, ids[0, len(prompt) :].tolist())
        return found

    @torch.inference_mode()
    def read(self, prompt: Sequence[int], new: Sequence[int]) -> Seen:
        """As `TracePeer.read`."""
        ids, first = torch.tensor([[*prompt, *new][:-1]]), len(prompt) - 1
        logits, cache = self._model.run_with_cache(ids, names_filter=[*self._residual, *self._patterns])
        tokens, rows = torch.tensor(list(new)), logits[0, first:]
        states = [cache[name][0, first:] for name in self._residual]

        def attention() -> NDArray[np.float32]:
            return np.stack([cache[name][0].float().numpy() for name in self._patterns])

        return Seen(
            ids=tuple(tokens.tolist()),
            steps=accounts(rows, tokens, N_CANDIDATES),
            lens=lens(states, rows, tokens, self._model.ln_final, self._model.unembed),
            attention=attention,
        )
