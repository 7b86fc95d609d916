"""What nobody holds any more is gone at once: keys and values, weights. No garbage collector has to come by."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

from fakes.decoder import FakeDecoder
from fakes.runs import config_of, engine_of

if TYPE_CHECKING:
    from fanlight import Model


def test_an_engine_that_is_dropped_gives_its_pool_back() -> None:
    gc.collect()
    gc.disable()
    try:
        one = engine_of(FakeDecoder(n_ctx=60, page_tokens=4), prefix_bytes=1000)
        one.submit([1, 2, 3], config_of({"max_new_tokens": 3}))
        one.run()
        gone = weakref.ref(one), weakref.ref(one.cache)
        del one
        assert [each() for each in gone] == [None, None]
    finally:
        gc.enable()


def test_a_model_that_is_dropped_gives_its_engine_back(smollm: Model) -> None:
    from fanlight.model import Model as AnyModel

    model = AnyModel(smollm._parts)
    model.generate("Hello", max_new_tokens=2)
    gc.collect()
    gc.disable()
    try:
        gone = weakref.ref(model), weakref.ref(model._spare.idle.cache)  # type: ignore[union-attr]
        del model
        assert [each() for each in gone] == [None, None]
    finally:
        gc.enable()
