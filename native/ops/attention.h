// Keys and values in pages, rotary positions, and attention over them.
#pragma once
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/memory.h"
#include "core/tensor.h"

namespace fanlight {

// scale * cos and sin of position * inv_freq, made in chunks as positions are met. Chunks never move, so readers need no lock.
// Row p of inv_freq is for position p, the last row for all from there on.
class Rope {
 public:
  Rope(const Tensor& inv_freq, float scale);
  int n_rotated() const { return static_cast<int>(half_) * 2; }
  void reserve(int n_positions);
  const float* cos(int position) const;  // n_rotated / 2 values; the sines follow
  static constexpr int kMaxPositions = 1 << 22;

 private:
  static constexpr int kChunk = 256;
  int n_rows_;
  size_t half_;
  float scale_;
  std::vector<float> inv_freq_;
  std::vector<std::unique_ptr<float[]>> chunks_;
  std::atomic<int> n_ready_{0};
  std::mutex mutex_;
};

enum class KVType { kF16, kF32, kI8 };

class KVPool {
 public:
  KVPool(int n_layer, int n_kv_head, int head_dim, const std::string& dtype);
  static constexpr int kPageTokens = fanlight::kPageTokens;

  int allocate();
  void release(int page);
  void copy(int source, int target);
  int n_pages() const;
  size_t page_bytes() const { return page_bytes_; }

  uint8_t* page(int id) const;  // throws if it is not in use
  int n_layer() const { return n_layer_; }
  int n_kv_head() const { return n_kv_head_; }
  int head_dim() const { return head_dim_; }
  KVType type() const { return type_; }
  const char* dtype() const;       // F16, F32 or I8
  size_t number_bytes() const;     // of one stored number: a half, a float or a code
  size_t key_offset(int layer, int head) const;
  size_t value_offset(int layer, int head) const;
  size_t value_bytes() const { return value_bytes_; }  // of one layer and head

  // The first `n` positions of a page, in the same order whatever the layout inside: numbers as [layer][head][n][head_dim], scales, which
  // only int8 has, as [layer][head][n]. What a page holds beyond is kept by `write`.
  struct Span {
    uint8_t *keys, *values;
    float *key_scales, *value_scales;
  };
  void read(int page, int n, const Span& to) const;
  void write(int page, int n, const Span& from);

 private:
  template <class T, class Move>
  void for_numbers(int page, int n, const Span& span, const Move& move) const;
  template <class Move>
  void for_numbers(int page, int n, const Span& span, const Move& move) const;

  int n_layer_, n_kv_head_, head_dim_;
  KVType type_;
  size_t key_bytes_, value_bytes_, page_bytes_;
  int pages_per_block_;
  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::vector<uint8_t*> pages_;
  std::vector<bool> in_use_;
  std::vector<int> free_;
};

// Rows of one forward pass: which sequence, which position.
class KVBatch {
 public:
  KVBatch(std::shared_ptr<KVPool> pool, const std::vector<std::vector<int>>& tables, const std::vector<int>& starts,
          const std::vector<int>& counts);
  int n_rows() const { return static_cast<int>(rows_.size()); }
  KVBatch take(const std::vector<int>& rows) const;  // these rows, of the same sequences

  struct Row {
    int sequence, position;
  };
  const std::vector<Row>& rows() const { return rows_; }
  const KVPool& pool() const { return *pool_; }
  const uint8_t* const* pages(int sequence) const { return pages_.data() + first_page_[static_cast<size_t>(sequence)]; }
  uint8_t* page_of(const Row& r) const;
  int max_position() const { return max_position_; }
  int length(int sequence) const { return lengths_[static_cast<size_t>(sequence)]; }

 private:
  std::shared_ptr<KVPool> pool_;
  std::vector<Row> rows_;
  std::vector<uint8_t*> pages_;  // of all sequences, one after another
  std::vector<size_t> first_page_;
  std::vector<int> lengths_;  // of each sequence, with the rows of this batch
  int max_position_ = 0;
};

Tensor store_kv(const Tensor& qkv, const KVBatch& batch, int layer, Rope* rope);

struct AttentionRule {
  float scale;
  int window = 0;        // > 0: so many positions are seen, the own one included
  float softcap = 0.f;   // > 0: scores become softcap * tanh(score / softcap)
  bool causal = true;    // false: every position of the sequence is seen
};
// Positions [first_key, n_keys) are seen by a row.
inline int first_key(const KVBatch::Row& r, const AttentionRule& rule) {
  return rule.window && r.position >= rule.window ? r.position + 1 - rule.window : 0;
}
inline int n_keys(const KVBatch& batch, const KVBatch::Row& r, const AttentionRule& rule) {
  return rule.causal ? r.position + 1 : batch.length(r.sequence);
}
// Of an op named `op`: that queries, batch and rule fit.
void check_attention(const char* op, const Tensor& q, const KVBatch& batch, int layer, const AttentionRule& rule);
Tensor attention(const Tensor& q, const KVBatch& batch, int layer, const AttentionRule& rule);

}  // namespace fanlight
