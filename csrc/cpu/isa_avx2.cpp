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
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif

#define ANTIPHON_ISA avx2
#define ANTIPHON_NAME "avx2"
#define ANTIPHON_VL 8
#include "isa_table.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
