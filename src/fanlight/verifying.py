"""A model's logits beside those of another implementation on the same file. In: a name, a text. Out: how near they are.

The other implementation is transformers in float32, or llama.cpp; each is imported when it is asked for.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fanlight.api import Model
from fanlight.errors import CheckpointError, MissingExtra, OptionError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PEERS = ("hf", "llama.cpp")
PROSE = Path(__file__).with_name("data") / "prose.txt"
"""An English text of about a thousand tokens."""
LEAST_TOKENS = 8
LLAMA_BATCH = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """How two implementations agree on one text."""

    against: str
    """Name and version."""
    n_tokens: int
    top_1: float
    """Share of positions with the same most probable token."""
    mean_kl: float
    """KL divergence of ours from theirs, in nats, mean over the positions."""
    max_kl: float
    perplexity: float
    """Ours, of the text's tokens from the second on."""
    their_perplexity: float
    max_error: float
    """Largest difference of two logits, as a share of the range of theirs."""


def verify(model: Model, *, against: str, text: str | None = None, max_tokens: int = 512) -> Verification:
    """Compare on a text (None: PROSE), up to so many tokens and the window.

    Errors: OptionError (unknown peer, text too short), MissingExtra (the peer is not installed), CheckpointError (it does not
    take this file).
    """
    if against not in PEERS:
        raise OptionError(f"against is {against!r:.40}; it can be {' or '.join(PEERS)}")
    ids = model.prompt_ids(PROSE.read_text(encoding="utf-8") if text is None else text)
    ids = ids[: min(max_tokens, model.decoder.config.n_ctx)]
    if len(ids) < LEAST_TOKENS:
        raise OptionError(f"the text has {len(ids)} tokens; give at least {LEAST_TOKENS}")
    path = Path(model.describe().path)
    path = path.parent if path.suffix == ".safetensors" else path
    theirs, name = (_hf if against == "hf" else _llama_cpp)(path, ids)
    return compare(model.logits(ids), theirs, ids, name)


def compare(ours: NDArray[np.float32], theirs: NDArray[np.float32], ids: Sequence[int], against: str) -> Verification:
    """The figures for logits (n_ids, n_vocab) of both."""
    import numpy as np

    n_vocab = min(ours.shape[1], theirs.shape[1])  # a head may be padded
    p, q = _log_softmax(theirs[:, :n_vocab]), _log_softmax(ours[:, :n_vocab])
    kl = np.maximum(np.sum(np.exp(p) * (p - q), axis=1), 0)
    at = np.arange(len(ids) - 1), np.asarray(ids[1:])
    return Verification(
        against=against,
        n_tokens=len(ids),
        top_1=float(np.mean(p.argmax(axis=1) == q.argmax(axis=1))),
        mean_kl=float(kl.mean()),
        max_kl=float(kl.max()),
        perplexity=float(np.exp(-q[at].mean())),
        their_perplexity=float(np.exp(-p[at].mean())),
        max_error=float(np.abs(ours[:, :n_vocab] - theirs[:, :n_vocab]).max() / (theirs.max() - theirs.min())),
    )


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    import numpy as np

    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found


Theirs = tuple["NDArray[np.float32]", str]


def _hf(path: Path, ids: Sequence[int]) -> Theirs:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingExtra(f"transformers is not installed ({error}): pip install 'fanlight[hf]'") from None
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    where: dict[str, Any] = {"pretrained_model_name_or_path": path}
    if path.is_file():
        where = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    safe = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
    peer = _refusal(
        "transformers",
        path,
        lambda: transformers.AutoModelForCausalLM.from_pretrained(**where, **safe, dtype=torch.float32),
    )
    with torch.no_grad():
        logits = peer.eval()(torch.tensor([list(ids)])).logits[0].float().numpy()
    return logits, f"transformers {transformers.__version__}, float32"


def _refusal(who: str, path: Path, load: Callable[[], Any]) -> Any:
    try:
        with redirect_stderr(StringIO()):  # progress bars
            return load()
    except Exception as error:  # whatever the other library says
        said = " ".join(str(error).split())
        raise CheckpointError(f"{path}: {who} does not take this file: {said[:300]}") from error


def _llama_cpp(path: Path, ids: Sequence[int]) -> Theirs:
    try:
        import llama_cpp
    except ImportError as error:
        raise MissingExtra(f"llama-cpp-python is not installed ({error}): pip install llama-cpp-python") from None
    if path.is_file():
        return _llama_logits(path, ids), f"llama.cpp of llama-cpp-python {llama_cpp.__version__}"
    from fanlight.exporting import export

    with tempfile.TemporaryDirectory(prefix="fanlight-verify-") as folder:
        file = Path(folder) / "model.gguf"
        export(path, file)
        return _llama_logits(file, ids), f"llama.cpp of llama-cpp-python {llama_cpp.__version__}, on the exported model"


def _llama_logits(path: Path, ids: Sequence[int]) -> NDArray[np.float32]:
    import llama_cpp
    import numpy as np

    def load() -> Any:
        return llama_cpp.Llama(
            os.fspath(path),
            n_ctx=len(ids) + 1,
            n_batch=LLAMA_BATCH,
            logits_all=True,
            verbose=False,
            n_threads=os.cpu_count(),
        )

    peer = _refusal("llama.cpp", path, load)
    try:
        peer.eval(list(ids))
        found: NDArray[np.float32] = np.array(peer.scores[: len(ids)], np.float32)
        return found
    finally:
        peer.close()
