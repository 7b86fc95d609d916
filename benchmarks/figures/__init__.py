"""One figure a file: `FIGURE` names it, `run(lineup)` measures it. The order here is the order of a full run."""

from __future__ import annotations

from benchmarks.figures import (
    accounting,
    context,
    decode,
    gpt2_medium,
    loading,
    memory,
    prefill,
    processors,
    python_share,
    quality,
    sampling,
    startup,
)

FIGURES = {
    module.FIGURE: module.run
    for module in (
        decode,
        prefill,
        context,
        accounting,
        sampling,
        processors,
        python_share,
        quality,
        startup,
        loading,
        memory,
        gpt2_medium,
    )
}
