#if defined(__x86_64__)
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#define ANTIPHON_ISA avx2
#define ANTIPHON_VL 8
#include "isa_table.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
