"""GPT-2 at its full medium size, weights random: loads, generates, and agrees with transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import fanlight
from models import tiny

if TYPE_CHECKING:
    from pathlib import Path

MEDIUM = {"n_layer": 24, "n_head": 16, "n_embd": 1024, "n_positions": 1024, "vocab_size": 50257, "n_inner": None}
N_PARAMETERS = 354_823_168


def test_it_loads_and_generates(tmp_path: Path) -> None:
    torch.manual_seed(3)
    theirs = (
        GPT2LMHeadModel(GPT2Config(**MEDIUM, bos_token_id=tiny.EOS, eos_token_id=tiny.EOS)).to(torch.bfloat16).eval()
    )
    folder = tiny.write_folder(tmp_path / "medium", theirs, "BF16", max_shard_size="200MB")
    ours = fanlight.load(folder)
    about = ours.describe()
    assert (about.n_parameters, about.n_layer, about.n_ctx, about.tied_head) == (N_PARAMETERS, 24, 1024, True)
    ids = np.random.default_rng(5).integers(0, 50257, 30).tolist()
    (expected,) = tiny.logits_of(theirs.float(), [ids])
    found = ours.logits(ids)
    assert np.abs(found - expected).max() <= 2e-5 * float(expected.max() - expected.min())
    out = ours.generate(ids, max_new_tokens=4, ignore_eos=True)
    with torch.no_grad():
        wanted = theirs.generate(torch.tensor([ids]), max_new_tokens=4, min_new_tokens=4, do_sample=False)[0, 30:]
    assert list(out.ids) == wanted.tolist()
