"""A target -> atheris, or a replay of its corpus without atheris. In: a function of bytes that raises where Fanlight is wrong.

python fuzz/fuzz_gguf.py [libFuzzer's options]       look for new inputs (needs: pip install atheris)
python fuzz/fuzz_gguf.py --replay [FILE ...]         run the corpus, or these files, once
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

FOLDER = Path(__file__).parent
MAX_SECONDS = 10.0  # a single input; far more than any needs


def corpus(name: str) -> list[Path]:
    """The kept inputs of a target, in a fixed order."""
    return sorted((FOLDER / "corpus" / name).iterdir())


def replay(target: Callable[[bytes], None], files: list[Path]) -> int:
    """Run a target on files. An exception gets a note that names the file."""
    for file in files:
        started = time.process_time()
        try:
            target(file.read_bytes())
            seconds = time.process_time() - started
            assert seconds < MAX_SECONDS, f"took {seconds:.1f} s, expected less than {MAX_SECONDS:g}"
        except BaseException as error:
            error.add_note(f"input: {file}")
            raise
    return len(files)


def main(name: str, target: Callable[[bytes], None]) -> None:
    """The command line of a target."""
    if "--replay" in sys.argv:
        given = [Path(word) for word in sys.argv[1:] if word != "--replay"]
        print(f"{name}: {replay(target, given or corpus(name))} inputs passed")
        return
    import atheris  # type: ignore[import-not-found,unused-ignore]

    found = FOLDER.parent / "build" / "fuzz" / name
    found.mkdir(parents=True, exist_ok=True)
    defaults = [f"-timeout={MAX_SECONDS:g}", "-rss_limit_mb=2048", f"-artifact_prefix={found}/crash-"]
    words = FOLDER / f"{name}.dict"
    if words.exists():
        defaults.append(f"-dict={words}")
    folders = [str(found), str(FOLDER / "corpus" / name)]  # new inputs go into the first
    atheris.Setup([sys.argv[0], *defaults, *sys.argv[1:], *folders], target)
    atheris.Fuzz()
