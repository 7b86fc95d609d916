#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/check.h"
#include "ops/attention.h"

namespace fanlight {

Rope::Rope(const Tensor& inv_freq, float scale)
    : n_rows_(inv_freq.n_rows()), half_(static_cast<size_t>(inv_freq.n_columns())), scale_(scale) {
  check(n_rows_ > 0, "rope: inv_freq is empty");
  for (int r = 0; r < n_rows_; r++) inv_freq_.insert(inv_freq_.end(), inv_freq.row(r), inv_freq.row(r) + half_);
  chunks_.resize(kMaxPositions / kChunk);
}

void Rope::reserve(int n_positions) {
  if (n_positions <= n_ready_.load(std::memory_order_acquire)) return;
  check(n_positions <= kMaxPositions, "rope: position ", n_positions - 1, " is beyond ", kMaxPositions - 1);
  std::lock_guard lock(mutex_);
  const size_t half = half_;
  for (int start = n_ready_.load(); start < n_positions; start += kChunk) {
    auto chunk = std::make_unique<float[]>(kChunk * half * 2);
    for (int p = 0; p < kChunk; p++) {
      const float* inv_freq = inv_freq_.data() + static_cast<size_t>(std::min(start + p, n_rows_ - 1)) * half;
      float* row = chunk.get() + static_cast<size_t>(p) * half * 2;
      for (size_t i = 0; i < half; i++) {
        const float angle = static_cast<float>(start + p) * inv_freq[i];  // float32, as transformers has it
        row[i] = static_cast<float>(std::cos(static_cast<double>(angle))) * scale_;
        row[half + i] = static_cast<float>(std::sin(static_cast<double>(angle))) * scale_;
      }
    }
    chunks_[static_cast<size_t>(start / kChunk)] = std::move(chunk);
    n_ready_.store(start + kChunk, std::memory_order_release);
  }
}

const float* Rope::cos(int position) const {
  return chunks_[static_cast<size_t>(position / kChunk)].get() + static_cast<size_t>(position % kChunk) * half_ * 2;
}

KVPool::KVPool(int n_layer, int n_kv_head, int head_dim, const std::string& dtype)
    : n_layer_(n_layer), n_kv_head_(n_kv_head), head_dim_(head_dim) {
  check(n_layer > 0 && n_kv_head > 0 && head_dim > 0, "kv_pool: sizes are ", n_layer, ", ", n_kv_head, ", ", head_dim,
        "; all must be positive");
  check(dtype == "F16" || dtype == "F32" || dtype == "I8", "kv_pool: dtype is '", dtype, "'; it can be F16, F32 or I8");
  type_ = dtype == "F16" ? KVType::kF16 : dtype == "F32" ? KVType::kF32 : KVType::kI8;
  const bool is_i8 = type_ == KVType::kI8;
  const size_t hd = static_cast<size_t>(head_dim), scales = is_i8 ? kPageTokens * sizeof(float) : 0;
  key_bytes_ = (is_i8 ? (hd + 1) / 2 * 2 : hd) * kPageTokens * number_bytes() + scales;  // see kernels/attention.h
  value_bytes_ = (hd + 15) / 16 * 16 * kPageTokens * number_bytes() + scales;
  page_bytes_ = (key_bytes_ + value_bytes_) * static_cast<size_t>(n_layer) * static_cast<size_t>(n_kv_head);
  pages_per_block_ = static_cast<int>(std::max<size_t>(1, (size_t{8} << 20) / page_bytes_));
}

const char* KVPool::dtype() const { return type_ == KVType::kF16 ? "F16" : type_ == KVType::kF32 ? "F32" : "I8"; }
size_t KVPool::number_bytes() const { return type_ == KVType::kF16 ? 2 : type_ == KVType::kF32 ? 4 : 1; }

size_t KVPool::key_offset(int layer, int head) const {
  return (key_bytes_ + value_bytes_) * static_cast<size_t>(layer * n_kv_head_ + head);
}
size_t KVPool::value_offset(int layer, int head) const { return key_offset(layer, head) + key_bytes_; }

int KVPool::allocate() {
  std::lock_guard lock(mutex_);
  if (free_.empty()) {
    blocks_.push_back(std::make_unique<Block>(page_bytes_ * static_cast<size_t>(pages_per_block_)));
    const int first = static_cast<int>(pages_.size());
    for (int i = 0; i < pages_per_block_; i++) {
      pages_.push_back(blocks_.back()->data() + page_bytes_ * static_cast<size_t>(i));
      in_use_.push_back(false);
    }
    for (int i = pages_per_block_; i-- > 0;) free_.push_back(first + i);  // lowest first
  }
  const int id = free_.back();
  free_.pop_back();
  in_use_[static_cast<size_t>(id)] = true;
  return id;
}

void KVPool::release(int id) {
  std::lock_guard lock(mutex_);
  check(id >= 0 && id < static_cast<int>(pages_.size()) && in_use_[static_cast<size_t>(id)], "kv_pool: page ", id, " is not in use");
  in_use_[static_cast<size_t>(id)] = false;
  free_.push_back(id);
}

uint8_t* KVPool::page(int id) const {
  std::lock_guard lock(mutex_);
  check(id >= 0 && id < static_cast<int>(pages_.size()) && in_use_[static_cast<size_t>(id)], "kv_pool: page ", id, " is not in use");
  return pages_[static_cast<size_t>(id)];
}

void KVPool::copy(int source, int target) {
  uint8_t *to = page(target), *from = page(source);
  if (to != from) std::memcpy(to, from, page_bytes_);
}

// move(number in the page, number in the span) for all of them, scales too
template <class T, class Move>
void KVPool::for_numbers(int id, int n, const Span& span, const Move& move) const {
  uint8_t* page = this->page(id);
  check(n >= 0 && n <= kPageTokens, "kv_pool: ", n, " positions of page ", id, ", expected 0 to ", kPageTokens);
  const size_t hd = static_cast<size_t>(head_dim_), v_stride = (hd + 15) / 16 * 16, pairs = (hd + 1) / 2;
  constexpr bool is_i8 = sizeof(T) == 1;
  T *out_keys = reinterpret_cast<T*>(span.keys), *out_values = reinterpret_cast<T*>(span.values);
  float *out_key_scale = span.key_scales, *out_value_scale = span.value_scales;
  for (int layer = 0; layer < n_layer_; layer++)
    for (int head = 0; head < n_kv_head_; head++) {
      T *keys = reinterpret_cast<T*>(page + key_offset(layer, head)), *values = reinterpret_cast<T*>(page + value_offset(layer, head));
      for (size_t slot = 0; slot < static_cast<size_t>(n); slot++) {
        for (size_t d = 0; d < hd; d++) {  // see kernels/cache_float.h and cache_int8.h
          move(keys[is_i8 ? slot / 16 * 32 * pairs + d / 2 * 32 + slot % 16 * 2 + d % 2 : (slot / 16 * hd + d) * 16 + slot % 16], *out_keys++);
          move(values[d / 16 * 16 * kPageTokens + (is_i8 ? slot / 2 * 32 + d % 16 * 2 + slot % 2 : slot * 16 + d % 16)], *out_values++);
        }
        if (!is_i8) continue;
        move(reinterpret_cast<float*>(keys + kPageTokens * 2 * pairs)[slot], *out_key_scale++);
        move(reinterpret_cast<float*>(values + kPageTokens * v_stride)[slot], *out_value_scale++);
      }
    }
}
template <class Move>
void KVPool::for_numbers(int id, int n, const Span& span, const Move& move) const {
  if (type_ == KVType::kF16) for_numbers<uint16_t>(id, n, span, move);
  else if (type_ == KVType::kF32) for_numbers<uint32_t>(id, n, span, move);  // bits, whatever they mean
  else for_numbers<uint8_t>(id, n, span, move);
}
void KVPool::read(int id, int n, const Span& to) const {
  for_numbers(id, n, to, [](const auto& in_page, auto& outside) { outside = in_page; });
}
void KVPool::write(int id, int n, const Span& from) {
  for_numbers(id, n, from, [](auto& in_page, const auto& outside) { in_page = outside; });
}

int KVPool::n_pages() const {
  std::lock_guard lock(mutex_);
  return static_cast<int>(pages_.size() - free_.size());
}

KVBatch::KVBatch(std::shared_ptr<KVPool> pool, const std::vector<std::vector<int>>& tables, const std::vector<int>& starts,
                 const std::vector<int>& counts)
    : pool_(std::move(pool)) {
  check(tables.size() == starts.size() && tables.size() == counts.size(), "kv_batch: ", tables.size(), " tables, ", starts.size(),
        " starts and ", counts.size(), " counts; they must be as many");
  for (size_t s = 0; s < tables.size(); s++) {
    check(starts[s] >= 0 && counts[s] >= 0 && starts[s] <= Rope::kMaxPositions - counts[s], "kv_batch: sequence ", s, " starts at ",
          starts[s], " with ", counts[s], " rows");
    const size_t end = static_cast<size_t>(starts[s]) + static_cast<size_t>(counts[s]);
    check(tables[s].size() * KVPool::kPageTokens >= end, "kv_batch: the ", tables[s].size(), " pages of sequence ", s, " hold ",
          tables[s].size() * KVPool::kPageTokens, " positions, ", end, " are needed");
    first_page_.push_back(pages_.size());
    for (int id : tables[s]) pages_.push_back(pool_->page(id));
    for (int i = 0; i < counts[s]; i++) rows_.push_back({static_cast<int>(s), starts[s] + i});
    lengths_.push_back(static_cast<int>(end));
    if (counts[s]) max_position_ = std::max(max_position_, static_cast<int>(end) - 1);
  }
}

KVBatch KVBatch::take(const std::vector<int>& rows) const {
  KVBatch taken = *this;
  taken.rows_.clear();
  for (int r : rows) {
    check(r >= 0 && r < n_rows(), "kv_batch: row ", r, " is outside 0 to ", n_rows() - 1);
    taken.rows_.push_back(rows_[static_cast<size_t>(r)]);
  }
  return taken;
}

uint8_t* KVBatch::page_of(const Row& r) const {
  return pages_[first_page_[static_cast<size_t>(r.sequence)] + static_cast<size_t>(r.position / KVPool::kPageTokens)];
}

}  // namespace fanlight
