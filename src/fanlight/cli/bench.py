"""`fanlight bench`: how fast this installation runs a model on this machine, and how near that is to reading its weights."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from fanlight.cli.options import Command, Option
from fanlight.cli.output import Output
from fanlight.cli.settings import COLOR, MODEL_OPTIONS, load_model
from fanlight.errors import OptionError

if TYPE_CHECKING:
    from fanlight.api import Model

USAGE = "fanlight bench [OPTIONS]"
PREFILL, DECODE, ROUNDS = 512, 128, 5


def run(values: dict[str, Any], words: list[str], output: Output) -> int:
    """See COMMAND."""
    n_prefill, n_decode, rounds = (
        _positive(values, name, default)
        for name, default in (("prefill", PREFILL), ("decode", DECODE), ("rounds", ROUNDS))
    )
    as_json = values.get("json", False)
    if as_json:
        output.notes = []
    started = time.perf_counter()
    model = load_model(values, output)
    load_seconds = time.perf_counter() - started
    n_ctx = model.decoder.config.n_ctx
    if n_prefill + n_decode > n_ctx:
        raise OptionError(
            f"--prefill {n_prefill} and --decode {n_decode} exceed the context window of {n_ctx}; lower them"
        )
    found = measure(model, n_prefill, n_decode, rounds)
    head = {
        "model": model.name,
        "kernels": model.decoder.ops.name,
        "threads": model.decoder.ops.get_threads(),
        "load_seconds": load_seconds,
        "rounds": rounds,
        "n_prefill": n_prefill,
        "n_decode": n_decode,
    }
    if as_json:
        from fanlight.cli.as_json import dumps

        output.line(dumps({**head, **found, "notes": output.notes}))
    else:
        _print(head, found, output)
    return 0


def _positive(values: dict[str, Any], name: str, default: int) -> int:
    value: int = values.get(name, default)
    if value < 1:
        raise OptionError(f"--{name} must be a whole number of at least 1: got {value}")
    return value


def measure(model: Model, n_prefill: int, n_decode: int, rounds: int) -> dict[str, Any]:
    """Rates of every round (tokens a second), the bytes a token reads, and the rate of only reading those (bytes a second)."""
    ids = _prompt(n_prefill, model.tokenizer.n_vocab)
    weights = _Weights(model)
    _generate(model, ids[: min(32, n_prefill)], 2)  # touches the weights and wakes the threads
    prefill, decode, reading = [], [], []
    for _ in range(rounds):
        prefill_seconds, decode_seconds = _generate(model, ids, n_decode + 1)
        prefill.append(n_prefill / prefill_seconds)
        decode.append(n_decode / decode_seconds)
        if weights.can_be_read:
            reading.append(weights.read())
    found: dict[str, Any] = {"prefill": prefill, "decode": decode}
    if reading:
        share = weights.n_bytes * median(decode) / median(reading)
        found |= {"bytes_per_token": weights.n_bytes, "pure_read": reading, "share_of_pure_read": share}
    return found


def _prompt(n: int, n_vocab: int) -> list[int]:
    """Ids from all over the vocabulary; what they mean makes no difference to the speed."""
    return [(i * 2654435761) % n_vocab for i in range(1, n + 1)]


def _generate(model: Model, ids: Sequence[int], n: int) -> tuple[float, float]:
    result = model.generate(ids, max_new_tokens=n, candidates=0, ignore_eos=True)
    return result.prefill_seconds, result.decode_seconds


class _Weights:
    """The packed matrices that every decode step reads once."""

    def __init__(self, model: Model) -> None:
        decoder: Any = model.decoder  # the protocol does not ask for linears(); the native architectures have it
        self.can_be_read = hasattr(decoder, "linears") and decoder.ops.name.startswith("native")
        self._linears: list[Any] = list(decoder.linears()) if self.can_be_read else []
        self.n_bytes: int = sum(linear.nbytes for linear in self._linears)

    def read(self, times: int = 8) -> float:
        """Bytes a second when they are read and nothing else is done."""
        from fanlight.kernels import _native

        started = time.perf_counter()
        for _ in range(times):
            _native.read_all(self._linears)
        return times * self.n_bytes / (time.perf_counter() - started)


def _print(head: dict[str, Any], found: dict[str, Any], output: Output) -> None:
    plain = output.canvas.plain
    threads, rounds = _count(head["threads"], "thread"), _count(head["rounds"], "round")
    output.line(plain(f"{head['model']} · {head['kernels']} · {threads} · medians of {rounds}"))
    output.line()
    rows = [
        (f"prefill, {head['n_prefill']} tokens", found["prefill"], 1.0, "tok/s"),
        (f"decode, {head['n_decode']} tokens", found["decode"], 1.0, "tok/s"),
    ]
    if "pure_read" in found:
        rows.append(("pure read of the weights", found["pure_read"], 1e-9, "GB/s"))
    for name, samples, scale, unit in rows:
        low, middle, high = (scale * f(samples) for f in (min, median, max))
        output.line(f"{name:<26}{middle:>9,.1f} {unit}   ({low:,.1f} to {high:,.1f})")
    if "pure_read" in found:
        megabytes, rate = found["bytes_per_token"] / 1e6, found["bytes_per_token"] * median(found["decode"]) / 1e9
        output.line(f"{'decode reads':<26}{rate:>9,.1f} GB/s   ({megabytes:,.1f} MB a token)")
        output.line(f"{'that is':<26}{100 * found['share_of_pure_read']:>9,.1f} %      of the pure read")
    output.line(f"{'load':<26}{head['load_seconds']:>9,.2f} s")


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' if n != 1 else ''}"


COMMAND = Command(
    usage=USAGE,
    about="""\
Measure this installation on this machine: prefill and decode rates, and how much of the time a decode step needs
just to read the weights. Close other programs first. (`make bench` in the source tree races against other engines.)""",
    groups=(
        (
            "measuring",
            (
                Option("prefill", "prompt tokens", kind="int", metavar="N", default=str(PREFILL)),
                Option("decode", "new tokens", kind="int", metavar="N", default=str(DECODE)),
                Option("rounds", "how many times", kind="int", metavar="N", default=str(ROUNDS)),
                Option("json", "one JSON object with every round", kind="flag"),
                COLOR,
            ),
        ),
        ("model", MODEL_OPTIONS),
    ),
    run=run,
    max_words=0,
)
