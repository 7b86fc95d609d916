#include "core/tensor.h"

#include <algorithm>

#include "core/pool.h"

namespace fanlight {

Tensor::Tensor(int n_rows, int n_columns) : n_rows_(n_rows), n_columns_(n_columns), stride_(padded(n_columns)) {
  storage_ = std::make_shared<Storage>(static_cast<size_t>(n_rows) * static_cast<size_t>(stride_) * sizeof(float));
  data_ = reinterpret_cast<float*>(storage_->values.data());
}

Tensor Tensor::view(int row) const {
  Tensor t = *this;
  t.n_rows_ = 1;
  t.is_view_ = true;
  t.data_ += static_cast<size_t>(row) * static_cast<size_t>(stride_);
  return t;
}

Activations Tensor::int8s() const {
  const int n_groups = stride_ / kGroup, per_panel = kernels().max_rows;
  const size_t row_bytes = static_cast<size_t>(n_groups) * kPanelBytes;
  std::lock_guard lock(storage_->mutex);
  if (!storage_->panels) {
    storage_->panels = std::make_unique<Buffer>(static_cast<size_t>(n_rows_) * row_bytes);
    uint8_t* panels = storage_->panels->data();
    pool()->run((n_rows_ + per_panel - 1) / per_panel, 1, [&](int begin, int end) {
      for (int r = begin * per_panel; r < std::min(end * per_panel, n_rows_); r += per_panel)
        kernels().quantize(row(r), static_cast<size_t>(stride_), std::min(per_panel, n_rows_ - r), n_groups,
                           panels + static_cast<size_t>(r) * row_bytes);
    });
  }
  return {data_, static_cast<size_t>(stride_), storage_->panels->data()};
}

}  // namespace fanlight
