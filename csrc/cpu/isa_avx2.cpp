#if defined(__x86_64__)
#include <immintrin.h>

// Templates that other files use too come first: the linker keeps one copy of each, which must run everywhere.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

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
