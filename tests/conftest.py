"""What all tests may share: the default model, loaded once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from fanlight import Model


@pytest.fixture(scope="session")
def smollm() -> Model:
    """The default model, on the native kernels."""
    import fanlight

    return fanlight.load(kernels="native")
