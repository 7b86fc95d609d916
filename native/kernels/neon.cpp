// The kernels for neon. Compiled with its own flags, so nothing of the standard library's templates may be instantiated here.
#include "kernels/table.h"
#include "simd/neon.h"
// clang-format off
#include "kernels/math.h"
#include "kernels/tiles.h"
#include "kernels/norms.h"
#include "kernels/rounding.h"
#include "kernels/cache_float.h"
#include "kernels/cache_int8.h"
#include "kernels/attention.h"
#include "kernels/attention_weights.h"
#include "kernels/rows.h"
#include "kernels/row_changes.h"
#include "kernels/export.h"
// clang-format on

namespace fanlight {
const Kernels* neon_kernels() { return neon::table(); }
}  // namespace fanlight
