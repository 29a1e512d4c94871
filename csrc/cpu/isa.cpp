// Picks the kernel table for the machine this runs on.
#include <cstring>

#include "kernels.h"

namespace antiphon {

const char* best_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
    return "avx512";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) return "avx2";
#endif
  return "plain";
}

const KernelTable* kernels(const char* isa) {
  const char* best = best_isa();
  if (!*isa) isa = best;
  if (!std::strcmp(isa, "plain")) return &plain::table;
#if defined(__x86_64__)
  if (!std::strcmp(isa, "avx2") && std::strcmp(best, "plain")) return &avx2::table;
  if (!std::strcmp(isa, "avx512") && !std::strcmp(best, "avx512")) return &avx512::table;
#endif
  return nullptr;
}

}  // namespace antiphon
