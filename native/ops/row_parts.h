// What the ops on one row share: checks, the order of tokens, the first k in it.
#pragma once
#include <cmath>
#include <limits>
#include <vector>

#include "core/check.h"
#include "core/tensor.h"

namespace fanlight {

constexpr float kRemoved = -std::numeric_limits<float>::infinity();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

inline float next_above(float x) { return std::nextafter(x, kInfinity); }
inline float next_below(float x) { return std::nextafter(x, kRemoved); }
float at_least(double limit);  // the smallest float that is not below
float at_most(double limit);   // the largest float that is not above

// The numbers of a row: all of them, or those that it stores; tokens are their places among these, in the order of their ids.
struct Numbers {
  const float* x;
  int n;
  const int32_t* ids;  // null: a place is an id
  int id(int place) const { return ids ? ids[place] : place; }
  int place(int id) const;  // -1: not stored, and so removed
};
Numbers numbers(const Tensor& row, const char* op);      // of a tensor that has to be one row
const float* values(const Tensor& row, const char* op);  // all of them
Tensor like(const Tensor& row);                          // a new row that stores the same columns, content undefined
Tensor few(Tensor row);                                  // the same; if little is left of it, stored so
Tensor copy_of(const Tensor& row);
void check_id(const char* op, int id, int n);
void check_min_keep(const char* op, int min_keep);
bool is_sound(const RowStats& stats);  // not damaged: no NaN, no +inf, something left

// What cannot be chosen from: the same three cases as reference_checks.py.
void check_largest(const char* op, float largest, bool has_nan);
RowStats checked_stats(const Tensor& row, const char* op);
int checked_argmax(const Tensor& row, const char* op);

struct Scored {
  float logit;
  int id;
};
inline bool before(const Scored& a, const Scored& b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); }

// The k first in the order of `before` (fewer if fewer are left), unsorted. Valid until the next call in this thread.
std::vector<Scored>& select(const float* x, int n, int k);
// Ids of the logits in a ring. Valid until the next call in this thread.
std::vector<int32_t>& collect(const float* x, int n, const RowRing& ring, int count);

// y: the first k of the row, where x[i] >= limit holds for these and for none of smaller logits.
void keep_first(const float* x, int n, int k, float limit, float* y);
void keep_first(const float* x, int n, int k, float* y);

}  // namespace fanlight
