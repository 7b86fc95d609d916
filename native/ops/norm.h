// Row-wise ops on tensors: norms, sums, selection of rows.
#pragma once
#include <vector>

#include "core/tensor.h"

namespace fanlight {

Tensor rms_norm(const Tensor& x, const Tensor& weight, float eps);
// Each span of columns normalised alone; the columns after the last as they are.
Tensor span_norm(const Tensor& x, const Tensor& weight, const std::vector<int>& widths, float eps);
Tensor scale(const Tensor& x, float by);
Tensor softcap(const Tensor& x, float cap);  // cap * tanh(x / cap)
Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps);
Tensor add(const Tensor& a, const Tensor& b);
Tensor take_rows(const Tensor& x, const std::vector<int>& rows);

}  // namespace fanlight
