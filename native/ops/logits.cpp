// Changes of a row: fanlight/kernels/reference_logits.py defines them.
#include <algorithm>
#include <cmath>
#include <utility>

#include "ops/row_parts.h"
#include "ops/rows.h"

namespace fanlight {
namespace {

void check_bits(const char* op, size_t n_bytes, int n) {
  const size_t wanted = (static_cast<size_t>(n) + 31) / 32 * 4;
  check(n_bytes >= wanted, op, ": ", n, " tokens take ", wanted, " bytes of bits, got ", n_bytes);
}
bool has(const uint8_t* bits, int id) { return bits[id / 8] >> (id % 8) & 1; }
void check_amount(const char* op, float amount) { check(amount < kInfinity, op, ": an amount is ", amount, ", must be finite or -inf"); }

}  // namespace

Tensor temperature(const Tensor& row, float t) {
  const Numbers r = numbers(row, "temperature");
  check(t > 0 && std::isfinite(t), "temperature: is ", t, ", must be above 0");
  Tensor y = like(row);
  kernels().row_divide(r.x, r.n, t, y.stored());
  return y;
}

Tensor repetition_penalty(const Tensor& row, const std::vector<int>& ids, float penalty) {
  const Numbers r = numbers(row, "repetition_penalty");
  check(penalty > 0 && std::isfinite(penalty), "repetition_penalty: is ", penalty, ", must be above 0");
  Tensor y = copy_of(row);
  for (int id : ids) {  // from the input, so that an id met twice is penalised once
    check_id("repetition_penalty", id, row.n_columns());
    if (const int i = r.place(id); i >= 0) y.stored()[i] = r.x[i] > 0 ? r.x[i] / penalty : r.x[i] * penalty;
  }
  return y;
}

Tensor bias(const Tensor& row, const std::vector<int>& ids, const std::vector<float>& amounts) {
  const Numbers r = numbers(row, "bias");
  check(ids.size() == amounts.size(), "bias: ", ids.size(), " ids have ", amounts.size(), " amounts");
  Tensor y = copy_of(row);
  for (size_t i = 0; i < ids.size(); i++) {
    check_id("bias", ids[i], row.n_columns());
    check_amount("bias", amounts[i]);
    if (const int place = r.place(ids[i]); place >= 0) y.stored()[place] += amounts[i];
  }
  return y;
}

Tensor mask(const Tensor& row, const uint8_t* bits, size_t n_bytes) {
  const Numbers r = numbers(row, "mask");
  check_bits("mask", n_bytes, row.n_columns());
  Tensor y = like(row);
  if (r.ids) {
    for (int i = 0; i < r.n; i++) y.stored()[i] = has(bits, r.ids[i]) ? r.x[i] : kRemoved;
    return y;
  }
  kernels().row_mask(r.x, r.n, bits, y.row(0));
  return few(std::move(y));
}

Tensor bias_mask(const Tensor& row, const uint8_t* bits, size_t n_bytes, float amount) {
  const Numbers r = numbers(row, "bias_mask");
  check_bits("bias_mask", n_bytes, row.n_columns());
  check_amount("bias_mask", amount);
  Tensor y = like(row);
  if (r.ids)
    for (int i = 0; i < r.n; i++) y.stored()[i] = has(bits, r.ids[i]) ? r.x[i] + amount : r.x[i];
  else kernels().row_bias_mask(r.x, r.n, bits, amount, y.row(0));
  return y;
}

Tensor finite(const Tensor& row) {
  const Numbers r = numbers(row, "finite");
  Tensor y = like(row);
  kernels().row_finite(r.x, r.n, y.stored());
  return y;
}

Tensor log_softmax(const Tensor& row) {
  const RowStats s = checked_stats(row, "log_softmax");
  Tensor y = like(row);
  kernels().row_subtract(row.stored(), row.n_stored(), static_cast<double>(s.max) + std::log(s.sum_exp), y.stored());
  return y;
}

Tensor blend(const Tensor& a, const Tensor& b, float weight_a, float weight_b) {
  const float *x = values(a, "blend"), *z = values(b, "blend");
  check(a.n_columns() == b.n_columns(), "blend: rows of ", a.n_columns(), " and ", b.n_columns(), " logits");
  check(std::isfinite(weight_a) && std::isfinite(weight_b), "blend: the weights are ", weight_a, " and ", weight_b, ", must be finite");
  Tensor y(1, a.n_columns());
  std::fill(y.row(0) + y.n_columns(), y.row(0) + y.stride(), 0.f);
  kernels().row_blend(x, z, a.n_columns(), weight_a, weight_b, y.row(0));
  return few(std::move(y));
}

Tensor smooth(const Tensor& row, double factor, double curve) {
  const Numbers r = numbers(row, "smooth");
  for (double number : {factor, curve})
    check(static_cast<float>(number) > 0 && std::isfinite(static_cast<float>(number)), "smooth: factor and curve are ", factor, " and ", curve,
          ", must be above 0");
  const float square = static_cast<float>(factor * (3 - curve) / 2), cube = static_cast<float>(factor * (curve - 1) / 2);
  check(std::isfinite(square) && std::isfinite(cube), "smooth: factor ", factor, " times curve ", curve, " leaves float32");
  bool has_nan = false;
  const float largest = r.x[kernels().row_argmax(r.x, r.n, &has_nan)];
  if (has_nan || std::isinf(largest)) return copy_of(row);
  Tensor y = like(row);
  kernels().row_smooth(r.x, r.n, largest, square, cube, y.stored());
  return y;
}

Tensor near_target(const Tensor& row, float target) {
  check(std::isfinite(target), "near_target: the target is ", target, ", must be finite");
  const RowStats s = checked_stats(row, "near_target");
  Tensor y = like(row);
  kernels().row_near_target(row.stored(), row.n_stored(), static_cast<float>(s.max + std::log(s.sum_exp)), target, y.stored());
  return y;
}

}  // namespace fanlight
