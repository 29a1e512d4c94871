// Products in which both sides are whole numbers of 8 bits, whose sums are exact.
//
// They have instructions of their own, VNNI and AMX, on machines that differ in nothing else. So the kernel is chosen
// apart from the table of the others; and since sums are exact, every kernel gives the same.
#pragma once

#include <cstdint>

namespace antiphon {

constexpr int kGroup = 4;           // inputs whose weights lie side by side, as VNNI and AMX read them
constexpr int64_t kInt8Depth = 64;  // inputs of an AMX tile; rows and panels are filled up to a multiple
constexpr int64_t kInt8Rows = 16;   // rows of an AMX tile; a chunk of rows has room for a multiple

// sums[m][n] = the sum over k of x[m][k] * w[n][k], for a chunk of rows and a panel of kPanel features.
struct Int8Product {
  const void* x;        // (rows, depth) in int8, row stride in bytes; or see Int8Kernel
  int64_t stride;       // from row to row, in bytes
  const uint8_t* w;     // (depth / kGroup, kPanel, kGroup)
  const uint8_t* next;  // the panel that this thread reads next, to be fetched meanwhile; or null
  int64_t rows, depth;  // depth is a multiple of kInt8Depth
  int32_t* sums;        // (rows, kPanel), with room for a multiple of kInt8Rows
};

struct Int8Kernel {
  const char* name;
  // x comes as int16, each group of four as its first, third, second and fourth number: what is multiplied where there
  // are no products of bytes.
  bool takes_int16;
  void (*sums)(const Int8Product&);
};

// The kernel of an instruction set by name ("amx", "vnni", "avx512", "avx2", "plain"), or null if this machine cannot
// run it; "" is the best one.
const Int8Kernel* int8_kernel(const char* isa);

#if defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define ANTIPHON_HAS_AMX 1
#else
#define ANTIPHON_HAS_AMX 0
#endif

namespace plain {
extern const Int8Kernel int8;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Int8Kernel int8;
}
namespace avx512 {
extern const Int8Kernel int8;
}
namespace vnni {
extern const Int8Kernel int8;
}
#if ANTIPHON_HAS_AMX
namespace amx {
extern const Int8Kernel int8;
}
#endif
#endif

}  // namespace antiphon
