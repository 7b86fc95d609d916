// A float32 matrix, as ops take and return it. Rows are padded with zeros to a multiple of 32 columns.
#pragma once
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "core/memory.h"
#include "kernels/table.h"

namespace fanlight {

inline int padded(int n) { return (n + kGroup - 1) / kGroup * kGroup; }

class Tensor {
 public:
  Tensor(int n_rows, int n_columns);  // content undefined
  int n_rows() const { return n_rows_; }
  int n_columns() const { return n_columns_; }
  int stride() const { return stride_; }
  float* row(int i) { return data_ + static_cast<size_t>(i) * static_cast<size_t>(stride_); }
  const float* row(int i) const { return ids_ ? spread() : data_ + static_cast<size_t>(i) * static_cast<size_t>(stride_); }

  // One row of which few columns are above -inf may hold these alone: `stored` numbers, of the columns `ids` (ascending). To all who do
  // not ask it is the whole row, made when they read it.
  using Ids = std::shared_ptr<const std::vector<int32_t>>;
  static Tensor of_few(int n_columns, Ids ids);  // numbers undefined
  const Ids& ids() const { return ids_; }        // null: all columns
  int n_stored() const { return ids_ ? static_cast<int>(ids_->size()) : n_columns_; }
  float* stored() { return data_; }
  const float* stored() const { return data_; }
  Tensor view(int row) const;  // that row, sharing memory: for reading, not for int8s()
  bool is_view() const { return is_view_; }

  // What tiles read. The int8 panels are made at the first call that wants them, and kept with the values.
  Activations floats() const { return {data_, static_cast<size_t>(stride_), nullptr}; }
  Activations int8s() const;

  // What the first row sums up to: looked up, once somebody has asked, in every tensor that shares this memory.
  RowStats row_stats() const;
  double row_deviation() const;  // of a row with finite numbers above -inf

 private:
  struct RowSums {
    std::optional<RowStats> stats;
    std::optional<double> deviation;
  };
  struct Storage {
    Storage(size_t bytes, int n_rows) : values(bytes), n_rows(n_rows) {}
    Buffer values;
    const int n_rows;
    std::mutex mutex;
    std::unique_ptr<Buffer> panels;
    std::unique_ptr<RowSums[]> sums;  // one a row
    std::unique_ptr<Buffer> spread;   // the whole row, of one that stores few columns
  };
  template <class Sum, class Make>
  Sum remembered(std::optional<Sum> RowSums::*which, const Make& make) const;
  const float* spread() const;
  int n_rows_, n_columns_, stride_;
  bool is_view_ = false;
  Ids ids_;
  std::shared_ptr<Storage> storage_;
  float* data_;
};

}  // namespace fanlight
