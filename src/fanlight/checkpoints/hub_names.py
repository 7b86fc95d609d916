"""Hub names and file listings -> what is meant by a name, and which files of a repository Fanlight reads.

"gpt2-medium", "org/name", "org/name@revision", "org/name:FILE.gguf", "org/name:Q4_K_M". Pure text: knows no disk and no network.

Source: the rules for repository names, as huggingface_hub's validate_repo_id states them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from fanlight.checkpoints.files import shown
from fanlight.checkpoints.safetensors import INDEX, ONE_FILE
from fanlight.errors import CheckpointError, ModelNotFound, OptionError

MAIN = "main"
CONFIG = "config.json"
SMALL_FILES = (
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
OTHER_WEIGHTS = (".h5", ".msgpack", ".onnx", ".tflite", ".mlmodel", ".safetensors")
NO_MODELS = ("mmproj", "imatrix")  # GGUF files beside a model: an image encoder, statistics

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?P<repo>{_PART}(?:/{_PART})?)(?:@(?P<revision>[^:@\s]+))?(?::(?P<file>[^:]+))?")
_SPLIT = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")
MAX_REPO_LENGTH = 96


class HubName(NamedTuple):
    """A model on the hub."""

    repo: str
    revision: str = MAIN
    file: str = ""
    """A GGUF file's name, or the name of its quantisation; "" takes what is there."""

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision != MAIN else ""
        return f"{self.repo}{revision}{f':{self.file}' if self.file else ''}"


def parse_name(text: str) -> HubName | None:
    """The hub name that a text is; None if it is none, or looks like a path."""
    if text.startswith((".", "/", "~")) or "\\" in text:
        return None
    found = _NAME.fullmatch(text)
    if found is None:
        return None
    repo, revision, file = found["repo"], found["revision"] or MAIN, found["file"] or ""
    if len(repo) > MAX_REPO_LENGTH or "--" in repo or ".." in repo:
        return None
    if repo.endswith((".git", ".gguf", ".safetensors")) or not is_safe(revision) or (file and not is_safe(file)):
        return None
    return HubName(repo, revision, file)


def is_safe(name: str) -> bool:
    """Whether a name of a file or revision from elsewhere stays inside the folder that it is joined to."""
    parts = name.split("/")
    return not any(part in ("", ".", "..") for part in parts) and not any(c in "\\:\0" or c < " " for c in name)


# -- files of a repository ---------------------------------------------------------------------------------------------


class Choice(NamedTuple):
    """What of a repository is read. Weights come last, so that a folder that has them has all."""

    files: tuple[str, ...]
    is_sharded: bool = False
    """The last file is the index, which names the weights."""


def choose_files(names: Iterable[str], wanted: HubName) -> Choice:
    """Which files to fetch of those that a repository has: safetensors if there are, else its GGUF file.

    Errors: CheckpointError for names that lead elsewhere, or where there is nothing that Fanlight reads; ModelNotFound for a
    file that is not there; OptionError where several GGUF files are, and none is named.
    """
    listing = sorted(set(names))
    for name in listing:
        if not is_safe(name):
            raise CheckpointError(
                f"{wanted.repo}: the hub lists a file {shown(name)}, expected names inside the repository; "
                "check what HF_ENDPOINT points to"
            )
    small = tuple(name for name in SMALL_FILES if name in listing)
    if wanted.file:
        return Choice((pick_gguf(listing, wanted),))
    if CONFIG in listing and ONE_FILE in listing:
        return Choice((*small, ONE_FILE))
    if CONFIG in listing and INDEX in listing:
        return Choice((*small, INDEX), is_sharded=True)
    if gguf_files(listing):
        return Choice((pick_gguf(listing, wanted),))
    raise CheckpointError(f"{wanted}: {_nothing_to_read(listing)}")


def gguf_files(names: Iterable[str]) -> list[str]:
    """The GGUF files that are models."""
    return sorted(
        name
        for name in names
        if name.lower().endswith(".gguf") and not name.rpartition("/")[2].lower().startswith(NO_MODELS)
    )


def pick_gguf(names: Iterable[str], wanted: HubName) -> str:
    """The one GGUF file that a name means. Errors: ModelNotFound if there is none, OptionError if there are several."""
    files = gguf_files(names)
    found = matching(files, wanted.file)
    if len(found) == 1:
        _refuse_split(found[0], wanted)
        return found[0]
    what = ", ".join(found or files)
    if not files:
        raise ModelNotFound(f"{wanted}: there is no GGUF file in this repository; leave out {':' + wanted.file!r}")
    if not found:
        raise ModelNotFound(f"{wanted}: no GGUF file matches {shown(wanted.file)}; there are {what}")
    raise OptionError(
        f"{wanted}: {len(found)} GGUF files {'match' if wanted.file else 'are there'}, name one of them as in "
        f"{wanted._replace(file=found[0])}; there are {what}"
    )


def matching(files: Iterable[str], wanted: str) -> list[str]:
    """The files of this name (with or without folder and .gguf), else those of this quantisation; "": all of them."""
    if not wanted:
        return list(files)
    asked = wanted.lower().removesuffix(".gguf")
    stems = {file: file.lower().removesuffix(".gguf") for file in files}
    exact = [f for f, stem in stems.items() if asked == stem]
    exact = exact or [f for f, stem in stems.items() if asked == stem.rpartition("/")[2]]
    if exact or wanted.lower().endswith(".gguf"):
        return exact
    tag = re.compile(rf"(?<![a-z0-9]){re.escape(asked)}(?![a-z0-9_])")
    return [f for f, stem in stems.items() if tag.search(stem)]


def _refuse_split(file: str, wanted: HubName) -> None:
    split = _SPLIT.search(file)
    if split and int(split[1]) > 1:
        raise CheckpointError(
            f"{wanted}: {file} is one of {int(split[1])} parts, expected a whole model; choose another file, or join the "
            "parts with llama.cpp's 'llama-gguf-split --merge' and pass the path of the result"
        )


def _nothing_to_read(names: list[str]) -> str:
    """Why a repository cannot be used, and what to do."""
    weights = [name for name in names if name.endswith((*PICKLED, *OTHER_WEIGHTS))]
    if ONE_FILE in names or INDEX in names:
        return (
            f"the repository has weights but no {CONFIG}, expected both; it is not a model that can be read by itself"
        )
    if any(name.endswith("adapter_model.safetensors") for name in names):
        return (
            "the repository holds an adapter without its model; merge both with PEFT, and pass the folder of the result"
        )
    if any(name.endswith(PICKLED) for name in weights):
        return (
            f"its weights are there as pickles only ({_some(weights)}), which can run any program when they are opened, "
            "so Fanlight does not read them; look for the same model in safetensors or GGUF, or convert it where you trust "
            "it: AutoModelForCausalLM.from_pretrained(...).save_pretrained(FOLDER), then pass FOLDER"
        )
    found = f"found {_some(weights or names)}" if names else "found an empty repository"
    return f"expected {ONE_FILE}, {INDEX} or a .gguf file, {found}; choose another model"


def _some(names: list[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(shown(name) for name in names[:limit]) + more
