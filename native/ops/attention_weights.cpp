#include "ops/attention_weights.h"

#include <algorithm>
#include <cstdint>

#include "core/check.h"
#include "core/pool.h"

namespace fanlight {
namespace {

// Rows [first, first + count) of one sequence, with the heads asked for of one key/value head.
struct Task {
  int first, count, kv_head;
};

// A head that was asked for, and its place among those.
struct Asked {
  int head, place;
};

// By key/value head: those asked for of its `share` query heads.
std::vector<std::vector<Asked>> by_kv_head(const std::vector<int>& heads, int n_kv, int share) {
  std::vector<std::vector<Asked>> asked(static_cast<size_t>(n_kv));
  for (size_t i = 0; i < heads.size(); i++) {
    check(heads[i] >= 0 && heads[i] < n_kv * share, "attention_weights: head ", heads[i], " is outside 0 to ", n_kv * share - 1);
    asked[static_cast<size_t>(heads[i] / share)].push_back({heads[i], static_cast<int>(i)});
  }
  return asked;
}

}  // namespace

Tensor attention_weights(const Tensor& q, const KVBatch& batch, int layer, const AttentionRule& rule, const std::optional<std::vector<int>>& heads) {
  check_attention("attention_weights", q, batch, layer, rule);
  const KVPool& kv = batch.pool();
  const int head_dim = kv.head_dim(), n_kv = kv.n_kv_head(), share = q.n_columns() / head_dim / n_kv;
  std::vector<int> every;
  if (!heads)
    for (int h = 0; h < n_kv * share; h++) every.push_back(h);
  const std::vector<int>& wanted = heads ? *heads : every;
  const auto asked = by_kv_head(wanted, n_kv, share);
  const auto& rows = batch.rows();
  const auto n_wanted = static_cast<int64_t>(wanted.size());
  check(q.n_rows() * n_wanted < (1 << 30), "attention_weights: ", q.n_rows(), " rows of ", n_wanted, " heads are too many; take fewer rows");

  const Kernels& k = kernels();
  const auto weigh = kv.type() == KVType::kF16 ? k.attention_weights_f16 : kv.type() == KVType::kF32 ? k.attention_weights_f32 : k.attention_weights_i8;
  std::vector<Task> tasks;
  int n = 0;
  int64_t work = 0;  // multiply-adds
  for (int r = 0, count; r < q.n_rows(); r += count) {
    const int sequence = rows[static_cast<size_t>(r)].sequence;
    for (count = 0; count < k.max_attn_rows && r + count < q.n_rows() && rows[static_cast<size_t>(r + count)].sequence == sequence; count++) {
      const KVBatch::Row& row = rows[static_cast<size_t>(r + count)];
      n = std::max(n, n_keys(batch, row, rule));
      work += n_wanted * head_dim * (n_keys(batch, row, rule) - first_key(row, rule));
    }
    for (int h = 0; h < n_kv; h++)
      if (!asked[static_cast<size_t>(h)].empty()) tasks.push_back({r, count, h});
  }
  std::reverse(tasks.begin(), tasks.end());  // the longest of a prompt first

  Tensor y(static_cast<int>(q.n_rows() * n_wanted), n);
  const auto body = [&](int begin, int end) {
    static thread_local std::vector<int16_t> q_codes;
    q_codes.resize(static_cast<size_t>(AttentionJob::kMaxRows * (head_dim + 16)));
    for (int i = begin; i < end; i++) {
      const Task& task = tasks[static_cast<size_t>(i)];
      AttentionJob job{};
      job.pages = batch.pages(rows[static_cast<size_t>(task.first)].sequence);
      job.k_offset = kv.key_offset(layer, task.kv_head), job.v_offset = kv.value_offset(layer, task.kv_head);
      job.ahead = job.pages[0] + job.k_offset;  // of these rows' next heads, or of the next rows
      job.head_dim = head_dim, job.scale = rule.scale, job.softcap = rule.softcap;
      job.q_codes = q_codes.data();
      for (int r = task.first; r < task.first + task.count; r++)
        for (const Asked& one : asked[static_cast<size_t>(task.kv_head)]) {
          const KVBatch::Row& row = rows[static_cast<size_t>(r)];
          job.q[job.n_rows] = q.row(r) + one.head * head_dim;
          job.out[job.n_rows] = y.row(static_cast<int>(r * n_wanted) + one.place);
          job.first_key[job.n_rows] = first_key(row, rule), job.n_keys[job.n_rows] = n_keys(batch, row, rule);
          if (++job.n_rows == k.max_attn_rows) weigh(job, y.stride()), job.n_rows = 0;
        }
      if (job.n_rows) weigh(job, y.stride());
    }
  };
  const int n_tasks = static_cast<int>(tasks.size());
  if (work < 12000) body(0, n_tasks);  // shorter than waking a thread
  else pool()->run(n_tasks, q.n_rows() > 16 ? 2 : 1, body);
  return y;
}

}  // namespace fanlight
