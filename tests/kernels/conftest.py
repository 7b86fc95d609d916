"""The ops under test: every instruction set that this machine can run, each forced in turn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fanlight.errors import KernelError
from fanlight.kernels import _native
from fanlight.kernels import native as native_ops

BEST = _native.isa()


def runnable() -> list[str]:
    names = []
    for name in ("avx512", "avx2", "neon", "generic"):
        try:
            _native.use_isa(name)
            names.append(name)
        except KernelError:
            pass
    _native.use_isa(BEST)
    return names


@pytest.fixture(params=runnable())
def native(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The native ops with one instruction set forced."""
    _native.use_isa(request.param)
    yield native_ops
    _native.use_isa(BEST)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = native_ops.get_threads()
    native_ops.set_threads(2)
    yield
    native_ops.set_threads(before)
