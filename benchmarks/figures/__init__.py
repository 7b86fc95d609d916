"""One figure a file: `FIGURE` names it, `run(lineup)` measures it. The order here is the order of a full run."""

from __future__ import annotations

from benchmarks.figures import (
    accounting,
    arrivals,
    batched,
    comparing,
    context,
    decode,
    full_trace,
    gpt2_medium,
    growth,
    loading,
    long_context,
    looking,
    lookup,
    many,
    memory,
    prefill,
    processors,
    python_share,
    quality,
    recording,
    report,
    reuse,
    sampling,
    scheduler,
    startup,
    trace_index,
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
        batched,
        arrivals,
        scheduler,
        comparing,
        long_context,
        growth,
        lookup,
        reuse,
        recording,
        looking,
        full_trace,
        trace_index,
        report,
        many,
        gpt2_medium,
    )
}
