"""llama.cpp's logits of every GGUF twin against transformers'. Run: PYTHONPATH=tests python -m models.llama_cpp_twins [NAME]

By hand, with llama-cpp-python installed, after a change of a name map or a key: a table of errors as parts of the range. Its own
GELU, a table of half precision and always the tanh form, costs GPT-2 and GPT-NeoX up to 5e-4; all others are below 1e-5.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from llama_cpp import Llama

from models import tiny
from models.gguf_twin import twin
from models.test_gguf_twins import TWINS
from models.zoo import ZOO
from models.zoo_others import longrope, phi3

IDS = np.random.default_rng(9).integers(0, tiny.N_VOCAB, 100).tolist()
F32 = 0  # of its cache
N_CTX = 256  # the smallest that it opens
DIFFERENT = {
    "phi3 tied, with a window": "it ignores Phi-3's window",
    "gpt_neox one after the other, tied": "it wants the head, too",
}
CASES = {name: ZOO[name] for name in TWINS} | {"phi3 with the long factors": partial(phi3, **longrope(70, 700))}


def error(name: str) -> float:
    """The largest, as a part of the range."""
    with TemporaryDirectory() as folder:
        theirs = CASES[name]()
        path = twin(Path(folder) / "tiny.gguf", tiny.write_folder(Path(folder) / "tiny", theirs))
        model = Llama(str(path), n_ctx=N_CTX, logits_all=True, type_k=F32, type_v=F32, verbose=False, n_threads=1)
        model.eval(IDS)
        found, expected = model.scores[: len(IDS)].copy(), tiny.logits_of(theirs, [IDS])[0]
        model.close()
    return float(np.abs(found - expected).max() / np.ptp(expected))


if __name__ == "__main__":
    for case in CASES:
        if "".join(sys.argv[1:]) in case:
            print(f"{case:60} {DIFFERENT[case] if case in DIFFERENT else f'{error(case):.1e}'}")
