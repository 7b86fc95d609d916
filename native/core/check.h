// Errors of ops: what the binding turns into fanlight.errors.KernelError.
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>

namespace fanlight {

struct KernelError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct NumericError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class... Words>
[[noreturn]] void fail(const Words&... words) {
  std::ostringstream text;
  (text << ... << words);
  throw KernelError(text.str());
}
template <class... Words>
void check(bool ok, const Words&... words) {
  if (!ok) fail(words...);
}

}  // namespace fanlight
