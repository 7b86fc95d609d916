// The weights with which attention.h sums values, written out: the same scores, and a softmax over the whole row.
// A row's sum runs over its own blocks of 16 positions in order, so that its bits depend on nothing but the row.

namespace fanlight::FANLIGHT_ISA {

// Scores of the keys [first, end) of one stretch to the rows' own places; what lies beyond a row's positions is mended by `weigh`.
template <class Cache, int R>
FL_FN void score_stretch(const AttentionJob& job, const Queries<Cache, R>& queries, int first, int end, const uint8_t* after) {
  const int start = first / kStretch * kStretch, n_padded = (end - start + 15) / 16 * 16;
  alignas(64) float scores[R * kStretch];
  score_keys<Cache, R>(job, queries, start, first - start, n_padded, after, scores);
  for (int r = 0; r < R; r++)
    for (int i = first - start; i < n_padded; i += 16) {
      const F32 s = load(scores + r * kStretch + i);
      store(job.out[r] + start + i, job.softcap > 0 ? softcap_of(s, splat(job.softcap), splat(1.f / job.softcap)) : s);
    }
}

template <class Cache>
FL_FN void weigh(const AttentionJob& job, int n_padded) {
  with_rows<kMaxAttnRows>(job.n_rows, [&]<int R>() {
    const auto queries = Queries<Cache, R>::of(job);
    int first = job.first_key[0], end = job.n_keys[0];
    for (int r = 1; r < R; r++) {
      first = first < job.first_key[r] ? first : job.first_key[r];
      end = end > job.n_keys[r] ? end : job.n_keys[r];
    }
    for (int at = first / 16 * 16, next; at < end; at = next) {
      next = (at / kStretch + 1) * kStretch;
      const bool is_last = next >= end;
      score_stretch<Cache, R>(job, queries, at, is_last ? end : next, is_last ? job.ahead : job.pages[next / kPageTokens] + job.k_offset);
    }
    for (int r = 0; r < R; r++) {
      float* row = job.out[r];
      const int start = job.first_key[r] / 16 * 16, n_keys = job.n_keys[r];
      for (int i = 0; i < start; i += 16) store(row + i, zero());
      const F32 total = splat(softmax_weights<R>(row, start, job.first_key[r], n_keys, n_padded, nullptr, 0).sum);
      for (int i = start; i < n_keys; i += 16) store(row + i, div(load(row + i), total));
    }
  });
}

static void attention_weights_f16(const AttentionJob& job, int n_padded) { weigh<CacheF16>(job, n_padded); }
static void attention_weights_f32(const AttentionJob& job, int n_padded) { weigh<CacheF32>(job, n_padded); }
static void attention_weights_i8(const AttentionJob& job, int n_padded) { weigh<CacheI8>(job, n_padded); }

}  // namespace fanlight::FANLIGHT_ISA
