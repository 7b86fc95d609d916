"""One tiny random model by transformers for every architecture, and for every switch that it has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.zoo_gemmas import GEMMAS
from models.zoo_llamas import LLAMAS
from models.zoo_others import OTHERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel

ZOO: dict[str, Callable[[], PreTrainedModel]] = {**LLAMAS, **GEMMAS, **OTHERS}
