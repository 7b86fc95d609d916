"""A text that is not chosen but given: the account of every token, as if it had been chosen. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fanlight.decoding.step import process, settle
from fanlight.decoding.stopping import stop_given
from fanlight.decoding.strategies.base import Steps, Want

if TYPE_CHECKING:
    from fanlight.decoding.strategies.base import Host

ROWS = 128
"""Logits that are held at once."""


def take_account(host: Host, given: Sequence[int]) -> Steps:
    """Emit each token of `given` with its decision. Nothing is drawn: a record holds no noise."""
    output, settings = host.outputs[0], host.settings
    line = host.open(host.prompt_ids)
    for start in range(0, len(given), ROWS):
        part = given[start : start + ROWS]
        line.ids.extend(part[:-1])
        (answer,) = yield [Want(line, len(part))]
        for token, row in zip(part, answer.logits, strict=True):
            rows = process(output.ids, row, settings.processors)
            decision = settle(token, output.ids, rows, settings, drawn=False)
            if decision.processors is not None:
                settings = replace(settings, processors=decision.processors)
            output.emit(token, decision, may_end=False)
        line.ids.append(part[-1])
    output.end(stop_given(len(given)))
    host.close(line, keep=True)
