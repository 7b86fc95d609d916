"""What a trace says of itself: which model, which settings, which text. Plain data, as it goes into JSON and comes from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fanlight.trace.stop import Stop, StopReason

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What computed a text, beside the ids and settings. The same in all of these: the same text, bit for bit."""

    model: str
    """The model's name."""
    fingerprint: str
    """Of its files."""
    architecture: str
    kernels: str
    conversions: str = ""
    """What the weights became on their way into memory."""
    rotation: str = ""
    """How positions turn queries and keys, with this window."""
    cache_type: str = ""
    fanlight: str = ""
    """The version that wrote it."""
    platform: str = ""
    n_layer: int = 0
    n_head: int = 0
    n_vocab: int = 0
    n_ctx: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """Where a branch left another trace."""

    id: str
    step: int
    """Its first step of its own; before it both are the same."""
    change: str
    """In words: "token ' not'", "top_p=0.8"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """All but the steps."""

    id: str
    """Of what was asked and what came: the same request with the same text has the same one."""
    origin: Origin
    prompt: str | None
    """As it was given; where ids were, or a chat, the text that they stand for."""
    text: str
    stop: Stop
    seed: int
    """What the noise was drawn with."""
    request_seed: int
    settings: Mapping[str, Any]
    """Those that are not the default's."""
    setting_origins: Mapping[str, str]
    """Where each came from: "call", "preset creative", a file's name."""
    eos_ids: tuple[int, ...] = ()
    """Tokens that end a text: those asked for, or the model's own."""
    unkept: tuple[str, ...] = ()
    """Settings that are code, which no file holds: it cannot be replayed with them."""
    notes: tuple[str, ...] = ()
    created: str = ""
    """UTC, as ISO 8601 has it."""
    complete: bool = True
    """False: more was to come; `problem` says why it did not."""
    problem: str = ""
    is_given: bool = False
    """The text was not chosen by the model, but given to it."""
    helpers: tuple[str, ...] = ()
    """Other models that had a part in the choice."""
    parent: Parent | None = None
    taken_back: tuple[int, ...] = ()
    """Ids of the prompt's end that token_healing took back: the text begins with what they stood for."""
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    n_reused: int = 0
    n_computed: int = 0
    score: float | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    """What was asked for and cannot be had of this model, and why."""

    def json(self) -> dict[str, Any]:
        """Plain values."""
        found = asdict(self)
        found["stop"]["reason"] = self.stop.reason.value
        return found

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> Header:
        """What `json` gave. Errors: KeyError, TypeError, ValueError for anything else; names that it does not know are left out."""
        values = {name: value for name, value in found.items() if name in cls.__dataclass_fields__}
        values["stop"] = Stop(**{**found["stop"], "reason": StopReason(found["stop"]["reason"])})
        known = Origin.__dataclass_fields__
        values["origin"] = Origin(**{name: value for name, value in found["origin"].items() if name in known})
        values["parent"] = Parent(**found["parent"]) if found.get("parent") else None
        for name in ("eos_ids", "unkept", "notes", "helpers", "taken_back"):
            values[name] = tuple(found.get(name, ()))
        return cls(**values)
