// Picks the kernel table for the machine this runs on.
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "kernels.h"

namespace antiphon {

#if ANTIPHON_HAS_AMX
// By number, since older compilers do not know AMX by name.
static bool has_amx() {
  constexpr unsigned tile = 1u << 24, int8 = 1u << 25;
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & tile) == 0 || (d & int8) == 0) return false;
  // The system gives tiles to processes that ask for them.
  constexpr int request = 0x1023, tile_data = 18;
  static const bool is_granted = syscall(SYS_arch_prctl, request, tile_data) == 0;
  return is_granted;
}
#endif

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
  if (!std::strcmp(isa, "amx") || !std::strcmp(isa, "vnni")) return int8_kernel(isa) ? &avx512::table : nullptr;
  if (!std::strcmp(isa, "avx2") && std::strcmp(best, "plain")) return &avx2::table;
  if (!std::strcmp(isa, "avx512") && !std::strcmp(best, "avx512")) return &avx512::table;
#endif
  return nullptr;
}

const Int8Kernel* int8_kernel(const char* isa) {
  const auto may_be = [isa](const char* name) { return !*isa || !std::strcmp(isa, name); };
#if defined(__x86_64__)
  const char* best = best_isa();
  const bool has_avx512 = !std::strcmp(best, "avx512");
  if (has_avx512 && __builtin_cpu_supports("avx512vnni")) {
#if ANTIPHON_HAS_AMX
    if (may_be("amx") && has_amx()) return &amx::int8;
#endif
    if (may_be("vnni")) return &vnni::int8;
  }
  if (has_avx512 && may_be("avx512")) return &avx512::int8;
  if (std::strcmp(best, "plain") && may_be("avx2")) return &avx2::int8;
#endif
  return may_be("plain") ? &plain::int8 : nullptr;
}

}  // namespace antiphon
