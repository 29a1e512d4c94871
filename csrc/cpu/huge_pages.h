// Huge pages for memory that is read in every step.
#pragma once

#include <sys/mman.h>

#include <cstdint>

namespace antiphon {

// Asks for whole huge pages within `size` bytes of memory that has not been written to. Nothing changes at the two
// edges, or if the system has no huge pages to give.
inline void advise_huge_pages(void* begin, int64_t size) {
#if defined(MADV_HUGEPAGE)
  constexpr std::uintptr_t huge = 2 << 20;
  const auto address = reinterpret_cast<std::uintptr_t>(begin);
  const std::uintptr_t first = (address + huge - 1) / huge * huge;
  const std::uintptr_t last = (address + static_cast<std::uintptr_t>(size)) / huge * huge;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

}  // namespace antiphon
