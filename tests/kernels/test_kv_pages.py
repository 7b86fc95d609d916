"""Int8 caches round as the reference does; pages are read and written in one form, whatever the layout inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fanlight.errors import KernelError
from fanlight.kernels import reference
from fanlight.kernels.ops import CACHE_DTYPES

TYPES = {"F16": np.float16, "F32": np.float32, "I8": np.int8}
SIZES = [(1, 1, 1), (2, 3, 7), (1, 2, 16), (3, 1, 33), (1, 1, 530)]  # layers, heads, head_dim


def stored(ops: Any, sizes: tuple[int, int, int], dtype: str, n: int, spread: float = 1.0) -> tuple[Any, int]:
    """A pool with one page, in which n positions of every layer are written."""
    n_layer, n_kv, head_dim = sizes
    pool = ops.kv_pool(n_layer, n_kv, head_dim, dtype)
    page = pool.allocate()
    batch = pool.batch([[page]], [0], [n])
    for layer in range(n_layer):
        x = np.random.default_rng([layer, n]).standard_normal((n, 3 * n_kv * head_dim)) * spread
        ops.store_kv(ops.tensor(x.astype(np.float32).tobytes(), x.shape[1]), batch, layer, None)
    return pool, page


def attended(ops: Any, pool: Any, page: int, n_columns: int, n: int, layer: int) -> np.ndarray:
    """What a row at position n - 1 sees."""
    q = np.random.default_rng(3).standard_normal((1, n_columns)).astype(np.float32)
    batch = pool.batch([[page]], [n - 1], [1])
    result: np.ndarray = ops.attention(ops.tensor(q.tobytes(), n_columns), batch, layer, 0.3).numpy()
    return result


def equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    """Whether all arrays have the same types, shapes and bits."""
    return list(a) == list(b) and all(
        (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())
        for x, y in zip(a.values(), b.values(), strict=True)
    )


# -- rounding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("n", [1, 31, 64])
def test_int8_codes_and_scales_equal_those_of_the_reference(native: Any, sizes: tuple[int, int, int], n: int) -> None:
    (pool, page), (twin, other) = (stored(ops, sizes, "I8", n) for ops in (native, reference))
    assert equal(pool.read(page, n), twin.read(other, n))


def test_a_code_times_its_scale_is_the_number_to_half_a_step(native: Any) -> None:
    sizes, n = (1, 2, 24), 40
    exact_pool, exact_page = stored(native, sizes, "F32", n)
    pool, page = stored(native, sizes, "I8", n)
    exact, found = exact_pool.read(exact_page, n), pool.read(page, n)
    for what in ("key", "value"):
        numbers, codes, scales = exact[what + "s"], found[what + "s"], found[what + "_scales"]
        np.testing.assert_array_equal(scales, np.abs(numbers).max(axis=-1) / np.float32(127))
        assert np.abs(codes).max(axis=-1).min() == 127
        assert (np.abs(codes * scales[..., None] - numbers) <= 0.5001 * scales[..., None]).all()


@pytest.mark.parametrize("ties", [[127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5], [254, 1, 3, 5, -1, -3, -5]], ids=str)
def test_ties_go_to_even_codes(native: Any, ties: list[float]) -> None:
    for ops in (native, reference):
        pool = ops.kv_pool(1, 1, 7, "I8")
        page = pool.allocate()
        x = np.array([[0.0] * 7 + ties + ties[::-1]], np.float32)
        ops.store_kv(ops.tensor(x.tobytes(), 21), pool.batch([[page]], [0], [1]), 0, None)
        found = pool.read(page, 1)
        assert found["keys"].ravel().tolist() == [127, 0, 2, 2, 0, -2, -2]
        assert found["values"].ravel().tolist() == [-2, -2, 0, 2, 2, 0, 127]


@pytest.mark.parametrize(
    "row", [[0.0, 0.0], [1e-38, -1e-37], [1e-45, 0.0], [1e30, -2e30], [np.inf, 1.0], [-np.inf, -1.0]], ids=str
)
def test_zeros_tiny_and_infinite_numbers_are_stored_alike(native: Any, row: list[float]) -> None:
    found = []
    for ops in (native, reference):
        pool = ops.kv_pool(1, 1, 2, "I8")
        page = pool.allocate()
        x = np.array([[1.0, 1.0, *row, *row]], np.float32)
        q = ops.store_kv(ops.tensor(x.tobytes(), 6), pool.batch([[page]], [0], [1]), 0, None)
        found.append(pool.read(page, 1))
        assert np.isfinite(ops.attention(q, pool.batch([[page]], [0], [1]), 0, 1e-30).numpy()).all()
    assert equal(*found)


def test_int8_attention_is_that_of_the_numbers_that_its_codes_stand_for(native: Any) -> None:
    n, sizes = 61, (1, 2, 48)
    pool, page = stored(native, sizes, "I8", n)
    codes = pool.read(page, n)
    wide = native.kv_pool(*sizes, "F32")
    other = wide.allocate()
    wide.write(other, {what + "s": codes[what + "s"] * codes[what + "_scales"][..., None] for what in ("key", "value")})
    got, want = attended(native, pool, page, 96, n, 0), attended(native, wide, other, 96, n, 0)
    np.testing.assert_allclose(got, want, atol=1e-4, rtol=0)


# -- reading and writing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
@pytest.mark.parametrize("sizes", SIZES)
def test_a_page_read_has_the_declared_shapes_and_types(native: Any, dtype: str, sizes: tuple[int, int, int]) -> None:
    n_layer, n_kv, head_dim = sizes
    for ops in (native, reference):
        pool, page = stored(ops, sizes, dtype, 33)
        assert pool.dtype == dtype
        for n in (0, 1, 31, 33):
            found = pool.read(page, n)
            for name in ("keys", "values"):
                assert (found[name].shape, found[name].dtype) == ((n_layer, n_kv, n, head_dim), TYPES[dtype])
            scales = {name for name in found if name.endswith("scales")}
            assert scales == ({"key_scales", "value_scales"} if dtype == "I8" else set())
            assert all((found[name].shape, found[name].dtype) == ((n_layer, n_kv, n), np.float32) for name in scales)


@pytest.mark.parametrize("sizes", SIZES)
def test_a_page_read_holds_what_was_stored(native: Any, sizes: tuple[int, int, int]) -> None:
    n_layer, n_kv, head_dim = sizes
    n = 37
    pool, page = stored(native, sizes, "F32", n)
    found = pool.read(page, n)
    for layer in range(n_layer):
        x = np.random.default_rng([layer, n]).standard_normal((n, 3 * n_kv * head_dim)).astype(np.float32)
        rows = x.reshape(n, 3, n_kv, head_dim).transpose(1, 2, 0, 3)
        np.testing.assert_array_equal(found["keys"][layer], rows[1])
        np.testing.assert_array_equal(found["values"][layer], rows[2])


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("n", [1, 17, 64])
def test_a_page_written_reads_and_attends_as_the_original(
    native: Any, dtype: str, sizes: tuple[int, int, int], n: int
) -> None:
    n_layer, n_kv, head_dim = sizes
    for ops in (native, reference):
        pool, page = stored(ops, sizes, dtype, n)
        arrays = pool.read(page, n)
        target = pool.allocate()
        pool.write(target, arrays)
        assert equal(pool.read(target, n), arrays)
        for layer in range(n_layer):
            columns = 3 * n_kv * head_dim
            np.testing.assert_array_equal(
                attended(ops, pool, target, columns, n, layer), attended(ops, pool, page, columns, n, layer)
            )


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
def test_pages_move_between_the_reference_and_the_kernels(native: Any, dtype: str) -> None:
    n, sizes = 43, (2, 2, 10)
    pool, page = stored(native, sizes, dtype, n)
    arrays = pool.read(page, n)
    twin = reference.kv_pool(*sizes, dtype)
    other = twin.allocate()
    twin.write(other, arrays)
    assert equal(twin.read(other, n), arrays)
    back = pool.allocate()
    pool.write(back, twin.read(other, n))
    assert equal(pool.read(back, n), arrays)


@pytest.mark.parametrize("dtype", ["F16", "F32"])
def test_every_bit_pattern_survives(native: Any, dtype: str) -> None:
    kind = TYPES[dtype]
    bits = np.random.default_rng(9).integers(0, 256, 2 * 3 * 64 * 5 * np.dtype(kind).itemsize, np.uint8)
    keys = bits.view(kind).reshape(2, 3, 64, 5)  # NaN, infinities and subnormals among them
    arrays = {"keys": keys, "values": keys[::-1].copy()}
    pool = native.kv_pool(2, 3, 5, dtype)
    page = pool.allocate()
    pool.write(page, arrays)
    assert equal(pool.read(page, 64), arrays)


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
def test_writing_keeps_the_positions_after_it(native: Any, dtype: str) -> None:
    for ops in (native, reference):
        pool, page = stored(ops, (1, 2, 9), dtype, 50)
        before = pool.read(page, 50)
        other, source = stored(ops, (1, 2, 9), dtype, 21, spread=3.0)
        pool.write(page, other.read(source, 21))
        after = pool.read(page, 50)
        for name, array in after.items():
            np.testing.assert_array_equal(array[:, :, :21], other.read(source, 21)[name])
            np.testing.assert_array_equal(array[:, :, 21:], before[name][:, :, 21:])


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
def test_slices_and_frozen_arrays_can_be_written(native: Any, dtype: str) -> None:
    pool, page = stored(native, (2, 3, 8), dtype, 64)
    whole = pool.read(page, 64)
    for array in whole.values():
        array.flags.writeable = False
    for part in (slice(5, 36), slice(0, 64, 2), slice(63, None, -3)):
        arrays = {name: array[:, :, part] for name, array in whole.items()}
        target = pool.allocate()
        pool.write(target, arrays)
        assert equal(pool.read(target, arrays["keys"].shape[2]), {name: array.copy() for name, array in arrays.items()})


def changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[Any], None]:
    def call(ops: Any) -> None:
        pool, page = stored(ops, (1, 2, 6), "I8", 9)
        arrays = pool.read(page, 9)
        change(arrays)
        pool.write(page, arrays)

    return call


def read_from(n: int, page: int | None = None) -> Callable[[Any], Any]:
    def call(ops: Any) -> Any:
        pool, own = stored(ops, (1, 2, 6), "F16", 9)
        return pool.read(own if page is None else page, n)

    return call


def narrowed(arrays: dict[str, Any], name: str) -> None:
    arrays[name] = arrays[name][:, :, :8]


REFUSALS = {
    "too many positions are read": (read_from(65), "65 positions"),
    "fewer than none are read": (read_from(-1), "-1 positions"),
    "a page that is not in use is read": (read_from(1, 77), "77 is not in use"),
    "an array is missing": (changed(lambda a: a.pop("value_scales")), "value_scales of page 0 are missing"),
    "there is one more": (changed(lambda a: a.update(more=a["keys"])), "5 arrays for page 0, expected 4"),
    "an array is of another type": (changed(lambda a: a.update(keys=a["keys"].astype(np.int16))), "keys of page 0"),
    "an array is unsigned": (changed(lambda a: a.update(values=a["values"].view(np.uint8))), "values of page 0"),
    "a scale is float64": (changed(lambda a: a.update(key_scales=a["key_scales"].astype("f8"))), "key_scales of page"),
    "bytes stand the other way round": (
        changed(lambda a: a.update(key_scales=a["key_scales"].astype(">f4"))),
        "key_scales of page",
    ),
    "an array has another head_dim": (changed(lambda a: a.update(keys=a["keys"][..., :5])), "keys of page 0"),
    "an array lacks an axis": (changed(lambda a: a.update(keys=a["keys"][0])), "keys of page 0"),
    "lengths differ": (changed(lambda a: narrowed(a, "values")), "values of page 0"),
    "a scale is negative": (changed(lambda a: a["key_scales"].fill(-1)), "key_scales of page 0"),
    "a scale is no number": (changed(lambda a: a["value_scales"].fill(np.nan)), "value_scales of page 0"),
    "it is no array": (changed(lambda a: a.update(keys=3)), "keys of page 0"),
}


@pytest.mark.parametrize(("call", "words"), REFUSALS.values(), ids=REFUSALS)
def test_what_does_not_fit_is_refused_by_both(native: Any, call: Callable[[Any], Any], words: str) -> None:
    for ops in (native, reference):
        with pytest.raises(KernelError, match=words):
            call(ops)


def test_a_refused_page_is_left_as_it_was(native: Any) -> None:
    for ops in (native, reference):
        pool, page = stored(ops, (1, 2, 6), "I8", 9)
        before = pool.read(page, 9)
        wrong = {name: array[:, :, :4] * 0 for name, array in before.items()}
        wrong["value_scales"] = wrong["value_scales"] - 1
        with pytest.raises(KernelError):
            pool.write(page, wrong)
        assert equal(pool.read(page, 9), before)


def test_an_int8_page_takes_little_more_than_half_of_a_half_precision_one(native: Any) -> None:
    half, bytes_ = (native.kv_pool(30, 3, 64, dtype).page_bytes for dtype in ("F16", "I8"))
    assert bytes_ == half * 17 // 32  # a float32 scale for 64 codes
    assert reference.kv_pool(30, 3, 64, "I8").page_bytes == bytes_
