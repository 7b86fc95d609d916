// A page's keys and values as NumPy arrays, and back. Knows nothing of the layout in a page.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "core/check.h"
#include "ops/attention.h"

namespace fanlight {

namespace nb = nanobind;

// One of the arrays: "keys" and "values" of shape (n_layer, n_kv_head, n, head_dim), with int8 also their scales, without the last axis.
struct PageArray {
  const char* name;
  bool is_scale;
  size_t item_bytes;
  char format;       // as the buffer protocol has it
  const char* type;  // in words
};
inline std::vector<PageArray> page_arrays(const KVPool& pool) {
  const KVType type = pool.type();
  const char format = type == KVType::kF16 ? 'e' : type == KVType::kF32 ? 'f' : 'b';
  const char* words = type == KVType::kF16 ? "float16" : type == KVType::kF32 ? "float32" : "int8";
  std::vector<PageArray> arrays{{"keys", false, pool.number_bytes(), format, words}, {"values", false, pool.number_bytes(), format, words}};
  if (type == KVType::kI8) arrays.push_back({"key_scales", true, 4, 'f', "float32"}), arrays.push_back({"value_scales", true, 4, 'f', "float32"});
  return arrays;
}
inline std::vector<size_t> page_shape(const KVPool& pool, const PageArray& array, size_t n) {
  std::vector<size_t> shape{static_cast<size_t>(pool.n_layer()), static_cast<size_t>(pool.n_kv_head()), n};
  if (!array.is_scale) shape.push_back(static_cast<size_t>(pool.head_dim()));
  return shape;
}
inline KVPool::Span span_of(const std::vector<uint8_t*>& data) {
  const auto scales = [&](size_t i) { return i < data.size() ? reinterpret_cast<float*>(data[i]) : nullptr; };
  return {data[0], data[1], scales(2), scales(3)};
}

template <class Timed>
nb::dict read_page(const KVPool& pool, int page, int n, const Timed& timed) {
  pool.page(page);  // refuses one that is not in use
  check(n >= 0 && n <= KVPool::kPageTokens, "kv_pool: ", n, " positions of page ", page, ", expected 0 to ", KVPool::kPageTokens);
  nb::dict found;
  std::vector<uint8_t*> data;
  for (const PageArray& array : page_arrays(pool)) {
    const std::vector<size_t> shape = page_shape(pool, array, static_cast<size_t>(n));
    size_t bytes = array.item_bytes;
    for (size_t axis : shape) bytes *= axis;
    data.push_back(new uint8_t[bytes + 1]);
    nb::capsule owner(data.back(), [](void* p) noexcept { delete[] static_cast<uint8_t*>(p); });
    const auto code = static_cast<uint8_t>(array.format == 'b' ? nb::dlpack::dtype_code::Int : nb::dlpack::dtype_code::Float);
    const nb::dlpack::dtype dtype{code, static_cast<uint8_t>(8 * array.item_bytes), 1};
    found[array.name] = nb::ndarray<nb::numpy>(data.back(), shape.size(), shape.data(), owner, nullptr, dtype);
  }
  timed([&] { pool.read(page, n, span_of(data)); });
  return found;
}

// The numbers of any array with the buffer protocol, whatever its strides, one after another.
class Packed {
 public:
  Packed(const KVPool& pool, int page, const PageArray& array, nb::handle object) {
    Py_buffer view;
    if (PyObject_GetBuffer(object.ptr(), &view, PyBUF_RECORDS_RO) != 0) {
      PyErr_Clear();
      fail("kv_pool: ", array.name, " of page ", page, " is ", nb::cast<std::string>(nb::str(object.type())), ", expected an array of ", array.type);
    }
    const std::string format = view.format ? view.format : "";
    shape_.assign(view.shape, view.shape + view.ndim);
    std::vector<size_t> wanted = page_shape(pool, array, shape_.size() > 2 ? shape_[2] : 0);
    const bool fits = !format.empty() && format.back() == array.format && format.size() <= 2 && format.find_first_of(">!") == std::string::npos &&
                      static_cast<size_t>(view.itemsize) == array.item_bytes && shape_ == wanted && shape_[2] <= KVPool::kPageTokens;
    if (fits) bytes_.reserve(static_cast<size_t>(view.len) + 1);
    if (fits && view.len) copy(static_cast<const uint8_t*>(view.buf), view, 0);
    bytes_.push_back(0);  // never without an address
    PyBuffer_Release(&view);
    if (fits) return;
    std::ostringstream found;
    for (size_t i = 0; i < shape_.size(); i++) found << (i ? ", " : "") << shape_[i];
    fail("kv_pool: ", array.name, " of page ", page, " has the shape (", found.str(), ") and the format '", format, "', expected (", pool.n_layer(), ", ",
         pool.n_kv_head(), ", n", array.is_scale ? "" : ", ", array.is_scale ? "" : std::to_string(pool.head_dim()), ") of ", array.type, " with n up to ",
         KVPool::kPageTokens);
  }
  size_t n() const { return shape_[2]; }
  uint8_t* data() { return bytes_.data(); }

 private:
  void copy(const uint8_t* from, const Py_buffer& view, int axis) {
    const bool is_run = axis == view.ndim - 1 && view.strides[axis] == view.itemsize;
    if (axis == view.ndim || is_run) {
      bytes_.insert(bytes_.end(), from, from + view.itemsize * (is_run ? view.shape[axis] : 1));
      return;
    }
    for (Py_ssize_t i = 0; i < view.shape[axis]; i++) copy(from + i * view.strides[axis], view, axis + 1);
  }
  std::vector<size_t> shape_;
  std::vector<uint8_t> bytes_;
};

template <class Timed>
void write_page(KVPool& pool, int page, const nb::dict& arrays, const Timed& timed) {
  pool.page(page);  // refuses one that is not in use
  const std::vector<PageArray> wanted = page_arrays(pool);
  std::vector<Packed> packed;
  std::vector<uint8_t*> data;
  for (const PageArray& array : wanted) {
    check(arrays.contains(array.name), "kv_pool: ", array.name, " of page ", page, " are missing; a page of ", pool.dtype(), " has them");
    packed.emplace_back(pool, page, array, arrays[array.name]);
  }
  check(arrays.size() == wanted.size(), "kv_pool: ", arrays.size(), " arrays for page ", page, ", expected ", wanted.size(), " for ", pool.dtype());
  const size_t n = packed.front().n();
  for (size_t i = 0; i < packed.size(); i++) {
    check(packed[i].n() == n, "kv_pool: ", wanted[i].name, " of page ", page, " have ", packed[i].n(), " positions, keys have ", n);
    data.push_back(packed[i].data());
    if (!wanted[i].is_scale) continue;
    const size_t n_scales = n * static_cast<size_t>(pool.n_layer()) * static_cast<size_t>(pool.n_kv_head());
    for (size_t j = 0; j < n_scales; j++) {
      float scale;
      std::memcpy(&scale, data.back() + j * sizeof(float), sizeof(float));
      check(std::isfinite(scale) && scale >= 0, "kv_pool: ", wanted[i].name, " of page ", page, " hold ", scale, ", expected finite numbers from 0");
    }
  }
  timed([&] { pool.write(page, static_cast<int>(n), span_of(data)); });
}

}  // namespace fanlight
