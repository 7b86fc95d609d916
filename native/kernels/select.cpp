// Which instruction set to use: asked of the processor once, or forced by name.
#include <cstring>

#include "kernels/table.h"
#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace fanlight {
namespace {

const Kernels* best_of(const char* name) {
  auto wanted = [&](const char* isa) { return !*name || !std::strcmp(name, isa); };
#if defined(FANLIGHT_X86)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
  if (avx512 && wanted("avx512")) return avx512_kernels();
  if (avx2 && wanted("avx2")) return avx2_kernels();
#endif
#if defined(FANLIGHT_NEON)
#if defined(__linux__)
  const bool dot = getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#else
  const bool dot = true;  // every Apple processor with this architecture has it
#endif
  if (dot && wanted("neon")) return neon_kernels();
#endif
  return wanted("generic") ? generic_kernels() : nullptr;
}

const Kernels* current = nullptr;

}  // namespace

const Kernels& kernels() {
  if (!current) current = best_of("");
  return *current;
}

const char* use_kernels(const char* name) {
  const Kernels* found = best_of(name);
  if (!found) return nullptr;
  current = found;
  return found->name;
}

}  // namespace fanlight
