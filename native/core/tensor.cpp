#include "core/tensor.h"

#include "core/check.h"
#include "core/pool.h"

namespace fanlight {

Tensor::Tensor(int n_rows, int n_columns) : n_rows_(n_rows), n_columns_(n_columns), stride_(padded(n_columns)) {
  storage_ = std::make_shared<Storage>(n_rows, static_cast<size_t>(n_rows) * static_cast<size_t>(stride_) * sizeof(float));
  data_ = reinterpret_cast<float*>(storage_->values.data());
}

Tensor Tensor::view(int row) const {
  Tensor t = *this;
  t.n_rows_ = 1;
  t.data_ += static_cast<size_t>(row) * static_cast<size_t>(stride_);
  return t;
}

Activations Tensor::floats() const {
  Activations a{};
  a.f = data_;
  a.f_stride = static_cast<size_t>(stride_);
  return a;
}

Activations Tensor::int8s() const {
  // Rows are independent, so all rows of the storage are done at once and views share the result.
  const size_t stride = static_cast<size_t>(stride_), groups = stride / kGroup, rows = static_cast<size_t>(storage_->n_rows);
  const float* base = reinterpret_cast<const float*>(storage_->values.data());
  const size_t first = static_cast<size_t>(data_ - base) / stride;
  const size_t q_bytes = (rows * stride + 63) & ~size_t{63};
  std::lock_guard lock(storage_->mutex);
  const bool missing = !storage_->int8s;
  if (missing) storage_->int8s = std::make_unique<Buffer>(q_bytes + rows * groups * (sizeof(float) * 2 + sizeof(int32_t)));
  int8_t* q = reinterpret_cast<int8_t*>(storage_->int8s->data());
  float* scale = reinterpret_cast<float*>(q + q_bytes);
  float* scaled_sum = scale + rows * groups;
  int32_t* sum = reinterpret_cast<int32_t*>(scaled_sum + rows * groups);
  if (missing)
    pool()->run(storage_->n_rows, 8, [&](int begin, int end) {
      for (size_t r = static_cast<size_t>(begin); r < static_cast<size_t>(end); r++)
        kernels().quantize(base + r * stride, static_cast<int>(groups), q + r * stride, scale + r * groups, scaled_sum + r * groups,
                           sum + r * groups);
    });
  const size_t g = first * groups;
  return {data_, stride, q + first * stride, stride, scale + g, scaled_sum + g, sum + g, groups};
}

}  // namespace fanlight
