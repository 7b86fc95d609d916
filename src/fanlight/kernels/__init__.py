"""Which kernels to use: the native ones where they were built, else the NumPy reference. Knows no op by itself."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

from fanlight.errors import OptionError

if TYPE_CHECKING:
    from fanlight.kernels.ops import Ops

KINDS = ("native", "reference")


# The casts below: an op takes what ops of the same module made, which the interface, one for both, cannot say.


def load_ops(kind: str | None = None) -> Ops:
    """The ops named "native" or "reference"; None: FANLIGHT_KERNELS, else native if this installation has it.

    Errors: OptionError for another name, or if native is asked for and missing.
    """
    wanted = kind or os.environ.get("FANLIGHT_KERNELS", "")
    if wanted and wanted not in KINDS:
        where = "kernels" if kind else "FANLIGHT_KERNELS"
        raise OptionError(f"{where} is {wanted!r}; it can be {' or '.join(KINDS)}")
    if wanted != "reference":
        try:
            from fanlight.kernels import native

            return cast("Ops", native)
        except ImportError as error:
            if wanted == "native":
                raise OptionError(
                    f"the native kernels are not in this installation ({error}); install a C++ compiler, then fanlight again"
                ) from error
    from fanlight.kernels import reference

    return cast("Ops", reference)


def slow_notice(ops: Ops) -> str | None:
    """What to tell a user whose ops are the reference ones; None if they are native."""
    if ops.name != "reference":
        return None
    if find_spec("fanlight.kernels._native") is not None:
        by = "FANLIGHT_KERNELS asks" if os.environ.get("FANLIGHT_KERNELS") == "reference" else "was asked for"
        return f"using the NumPy reference kernels, as {by}: correct, and far slower than the native ones"
    return (
        "using the NumPy reference kernels, far slower than the native ones: this installation has none, for lack of a "
        "C++ compiler; install one, then fanlight again"
    )
