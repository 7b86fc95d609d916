// What Python hands over without a copy, or as a list: bytes, ids, amounts.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "core/check.h"

namespace fanlight {

namespace nb = nanobind;

// Anything with the buffer protocol, as bytes, while this lives. (nanobind's ndarray would go through DLPack and refuse strides of bytes.)
class Bytes {
 public:
  explicit Bytes(nb::handle object) {
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) != 0) {
      PyErr_Clear();
      fail("expected an object with contiguous bytes, got ", nb::cast<std::string>(nb::str(object.type())));
    }
  }
  ~Bytes() { PyBuffer_Release(&view_); }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;
  const uint8_t* data() const { return static_cast<const uint8_t*>(view_.buf); }
  size_t size() const { return static_cast<size_t>(view_.len); }

 private:
  Py_buffer view_{};
};

// A list of numbers, or a buffer of one axis with numbers of the formats named.
// A whole number that does not fit becomes -1.
template <class Number, class Narrow, class Wide>
std::vector<Number> numbers(nb::handle object, const char* what, const char* narrow_formats, const char* wide_formats) {
  Py_buffer view;
  if (!PyObject_CheckBuffer(object.ptr())) {
    std::vector<Number> list;
    if (nb::try_cast(object, list)) return list;
  } else if (PyObject_GetBuffer(object.ptr(), &view, PyBUF_ND | PyBUF_FORMAT) != 0) {
    PyErr_Clear();
  } else {
    const std::string format = view.ndim == 1 && view.format ? view.format : "";
    std::vector<Number> list(format.empty() ? 0 : static_cast<size_t>(view.shape[0]));
    auto take = [&](auto example, const char* formats) {
      if (format.size() != 1 || !std::strchr(formats, format[0]) || view.itemsize != sizeof(example)) return false;
      for (size_t i = 0; i < list.size(); i++) {
        std::memcpy(&example, static_cast<const char*>(view.buf) + i * sizeof(example), sizeof(example));
        list[i] = static_cast<Number>(example);
        if (std::is_integral_v<Number> && example != static_cast<decltype(example)>(list[i])) list[i] = static_cast<Number>(-1);
      }
      return true;
    };
    const bool taken = take(Narrow{}, narrow_formats) || take(Wide{}, wide_formats);
    PyBuffer_Release(&view);
    if (taken) return list;
  }
  fail(what, ": takes numbers in a list or in a buffer of one axis, got ", nb::cast<std::string>(nb::str(object.type())));
}
inline std::vector<int> id_list(nb::handle ids, const char* what) { return numbers<int, int32_t, int64_t>(ids, what, "il", "lq"); }

}  // namespace fanlight
