#include "core/tensor.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/pool.h"

namespace fanlight {

Tensor::Tensor(int n_rows, int n_columns) : n_rows_(n_rows), n_columns_(n_columns), stride_(padded(n_columns)) {
  storage_ = std::make_shared<Storage>(static_cast<size_t>(n_rows) * static_cast<size_t>(stride_) * sizeof(float), n_rows);
  data_ = reinterpret_cast<float*>(storage_->values.data());
}

Tensor Tensor::of_few(int n_columns, Ids ids) {
  Tensor t(1, std::max(1, static_cast<int>(ids->size())));
  t.n_columns_ = n_columns;
  t.stride_ = padded(n_columns);
  t.is_view_ = true;  // for reading, not for int8s()
  t.ids_ = std::move(ids);
  return t;
}

const float* Tensor::spread() const {
  std::lock_guard lock(storage_->mutex);
  if (!storage_->spread) {
    auto whole = std::make_unique<Buffer>(static_cast<size_t>(stride_) * sizeof(float));
    float* y = reinterpret_cast<float*>(whole->data());
    std::fill(y, y + n_columns_, -std::numeric_limits<float>::infinity());
    std::fill(y + n_columns_, y + stride_, 0.f);
    for (size_t i = 0; i < ids_->size(); i++) y[(*ids_)[i]] = data_[i];
    storage_->spread = std::move(whole);
  }
  return reinterpret_cast<const float*>(storage_->spread->data());
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

// Made outside of the lock: two threads at worst make the same sum twice.
template <class Sum, class Make>
Sum Tensor::remembered(std::optional<Sum> RowSums::*which, const Make& make) const {
  const auto offset = static_cast<size_t>(data_ - reinterpret_cast<const float*>(storage_->values.data()));
  const size_t row = offset / static_cast<size_t>(stride_);
  {
    std::lock_guard lock(storage_->mutex);
    if (storage_->sums && storage_->sums[row].*which) return *(storage_->sums[row].*which);
  }
  const Sum sum = make();
  std::lock_guard lock(storage_->mutex);
  if (!storage_->sums) storage_->sums = std::make_unique<RowSums[]>(static_cast<size_t>(storage_->n_rows));
  storage_->sums[row].*which = sum;
  return sum;
}

RowStats Tensor::row_stats() const {
  return remembered(&RowSums::stats, [&] { return kernels().row_stats(data_, n_stored()); });
}

double Tensor::row_deviation() const {
  return remembered(&RowSums::deviation, [&] {
    const RowMoments from_top = kernels().row_moments(data_, n_stored(), row_stats().max);
    const double mean = row_stats().max + from_top.sum / from_top.count;
    const RowMoments r = kernels().row_moments(data_, n_stored(), static_cast<float>(mean));
    const double off = r.sum / r.count, squares = r.sum_of_squares / r.count - off * off;
    if (std::isfinite(squares)) return std::sqrt(std::max(0.0, squares));
    double sum = 0, total = 0;  // numbers whose squares leave float32
    for (int i = 0; i < n_stored(); i++)
      if (std::isfinite(data_[i])) sum += data_[i];
    const double center = sum / from_top.count;
    for (int i = 0; i < n_stored(); i++)
      if (std::isfinite(data_[i])) total += (data_[i] - center) * (data_[i] - center);
    return std::sqrt(total / from_top.count);
  });
}

}  // namespace fanlight
