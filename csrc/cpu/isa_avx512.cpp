#if defined(__x86_64__)
#include <immintrin.h>

// Headers whose templates other files use too come before the target: the linker keeps one copy of each template, which
// must run on every machine.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")
#endif

#define ANTIPHON_ISA avx512
#define ANTIPHON_NAME "avx512"
#define ANTIPHON_VL 16
#include "isa_table.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
