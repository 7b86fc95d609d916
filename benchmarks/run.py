"""`python -m benchmarks.run [FIGURE ...]`: measure figures, print them, append them to benchmarks/results/*.jsonl."""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path

from benchmarks.figures import FIGURES
from benchmarks.harness import save, show
from benchmarks.lineup import Lineup
from benchmarks.machine import ROOT, describe_machine
from benchmarks.quiet import MAX_SHARE, Others


def main() -> int:
    """0 if every goal was met, 1 if one was missed."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"any of: {', '.join(FIGURES)} (default: all)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds a figure (default: 7)")
    parser.add_argument("--threads", type=int, default=2, help="threads of every engine (default: 2)")
    parser.add_argument("--output", type=Path, help="a file of JSON lines to append to (default: results/<date>.jsonl)")
    options = parser.parse_args()
    unknown = [name for name in options.figures if name not in FIGURES]
    if unknown:
        parser.error(f"no figure {unknown[0]!r}; there are: {', '.join(FIGURES)}")
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    output = options.output or ROOT / "benchmarks" / "results" / f"{today}.jsonl"
    machine = describe_machine()
    print(f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_average']}")
    print(f"{options.threads} threads for each engine, {options.rounds} rounds")
    print("median of the rounds, then the smallest and the largest")
    lineup = Lineup(threads=options.threads, rounds=options.rounds)
    missed = []
    for name in options.figures or FIGURES:
        others = Others()
        outcome = FIGURES[name](lineup)
        taken = others.share()
        show(outcome)
        if taken is not None and taken > MAX_SHARE:
            print(f"  note: other programs kept {taken:.1f} cores busy meanwhile; disturbed runs were made again")
        save(outcome, output, others=taken)
        missed += [f"{name}: {goal.what}" for goal in outcome.goals if not goal.met]
    print(f"\nresults appended to {output}")
    for line in missed:
        print(f"missed: {line}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
