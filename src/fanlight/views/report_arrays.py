"""Numbers as a page holds them: {"t": the type, "d": little-endian bytes in base64}. In: arrays. Out: what JSON can hold.

"lp16" is -2048 * logprob in 16 bits, which is off by at most 0.03 % of a probability (65535: -inf; 65534: 32 nats and less);
"sq16" is the square root of a share in 16 bits. `page/trace_data.js` reads all of them.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

LP16_STEPS, LP16_NONE = 2048, 65535
SQ16_MAX = 65535
KINDS = {"u8": "<u1", "u16": "<u2", "u32": "<u4", "i32": "<i4", "f32": "<f4", "lp16": "<u2", "sq16": "<u2"}


def array(values: Any, kind: str) -> dict[str, Any]:
    """For JSON. kind: one of KINDS; of "lp16" values are logprobs, of "sq16" shares."""
    import numpy as np

    found = np.asarray(values, np.float64 if kind in ("lp16", "sq16") else None)
    if kind == "lp16":
        with np.errstate(invalid="ignore"):
            scaled = np.round(-LP16_STEPS * found)
        found = np.where(np.isfinite(found), np.clip(scaled, 0, LP16_NONE - 1), LP16_NONE)
    elif kind == "sq16":
        found = np.round(np.sqrt(np.clip(np.nan_to_num(found), 0, 1)) * SQ16_MAX)
    raw = np.ascontiguousarray(found.astype(KINDS[kind]))
    return {"t": kind, "d": b64encode(raw.tobytes()).decode("ascii")}


def whole(values: Any) -> dict[str, Any]:
    """Whole numbers from 0 on, in the smallest type that holds them."""
    import numpy as np

    found = np.asarray(values, np.int64)
    top = int(found.max()) if found.size else 0
    return array(found, "u8" if top < 1 << 8 else "u16" if top < 1 << 16 else "u32")
