#if defined(__x86_64__)
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")
#endif

#define ANTIPHON_ISA vnni
#define ANTIPHON_VL 16
#define ANTIPHON_VNNI 1
#include "int8_sums.h"

namespace antiphon {
namespace vnni {
const Int8Kernel int8 = {.name = "vnni", .takes_int16 = false, .sums = int8_sums};
}
}  // namespace antiphon

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
