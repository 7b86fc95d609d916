#include "ops/norm.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "core/pool.h"

namespace fanlight {
namespace {

constexpr int kRowsPerStep = 8;  // below that, one thread is done before another has begun

void check_vector(const char* op, const char* what, const Tensor& v, int n) {
  check(v.n_rows() == 1 && v.n_columns() == n, op, ": ", what, " is ", v.n_rows(), " x ", v.n_columns(), ", expected 1 x ", n);
}

}  // namespace

Tensor rms_norm(const Tensor& x, const Tensor& weight, float eps) {
  check_vector("rms_norm", "the weight", weight, x.n_columns());
  Tensor y(x.n_rows(), x.n_columns());
  pool()->run(x.n_rows(), kRowsPerStep, [&](int begin, int end) {
    for (int r = begin; r < end; r++) kernels().rms_norm(x.row(r), weight.row(0), eps, x.n_columns(), x.stride(), y.row(r));
  });
  return y;
}

Tensor span_norm(const Tensor& x, const Tensor& weight, const std::vector<int>& widths, float eps) {
  int covered = 0;
  for (int width : widths) {
    check(width > 0 && width <= x.n_columns() - covered, "span_norm: ", width, " columns after ", covered, ", x has ", x.n_columns());
    covered += width;
  }
  check_vector("span_norm", "the weight", weight, covered);
  Tensor y(x.n_rows(), x.n_columns());
  pool()->run(x.n_rows(), kRowsPerStep, [&](int begin, int end) {
    for (int r = begin; r < end; r++) {
      int column = 0;
      for (int width : widths) {
        kernels().span_norm(x.row(r) + column, weight.row(0) + column, eps, width, y.row(r) + column);
        column += width;
      }
      std::copy(x.row(r) + column, x.row(r) + x.stride(), y.row(r) + column);
    }
  });
  return y;
}

Tensor scale(const Tensor& x, float by) {
  Tensor y(x.n_rows(), x.n_columns());
  for (int r = 0; r < x.n_rows(); r++) kernels().scale(x.row(r), by, y.row(r), x.stride());
  return y;
}

Tensor softcap(const Tensor& x, float cap) {
  check(cap > 0, "softcap: the cap is ", cap, ", expected a positive number");
  Tensor y(x.n_rows(), x.n_columns());
  pool()->run(x.n_rows(), 1, [&](int begin, int end) {
    for (int r = begin; r < end; r++) kernels().softcap(x.row(r), cap, y.row(r), x.stride());
  });
  return y;
}

Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps) {
  check_vector("layer_norm", "the weight", weight, x.n_columns());
  check_vector("layer_norm", "the bias", bias, x.n_columns());
  Tensor y(x.n_rows(), x.n_columns());
  pool()->run(x.n_rows(), kRowsPerStep, [&](int begin, int end) {
    for (int r = begin; r < end; r++)
      kernels().layer_norm(x.row(r), weight.row(0), bias.row(0), eps, x.n_columns(), x.stride(), y.row(r));
  });
  return y;
}

Tensor add(const Tensor& a, const Tensor& b) {
  check(a.n_rows() == b.n_rows() && a.n_columns() == b.n_columns(), "add: ", a.n_rows(), " x ", a.n_columns(), " and ", b.n_rows(),
        " x ", b.n_columns(), " differ");
  Tensor y(a.n_rows(), a.n_columns());
  for (int r = 0; r < a.n_rows(); r++) kernels().add(a.row(r), b.row(r), y.row(r), a.stride());
  return y;
}

Tensor take_rows(const Tensor& x, const std::vector<int>& rows) {
  Tensor y(static_cast<int>(rows.size()), x.n_columns());
  for (size_t i = 0; i < rows.size(); i++) {
    check(rows[i] >= 0 && rows[i] < x.n_rows(), "take_rows: row ", rows[i], " is outside 0 to ", x.n_rows() - 1);
    std::memcpy(y.row(static_cast<int>(i)), x.row(rows[i]), static_cast<size_t>(x.stride()) * sizeof(float));
  }
  return y;
}

}  // namespace fanlight
