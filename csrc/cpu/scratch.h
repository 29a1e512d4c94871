// Memory for a kernel's intermediate results.
//
// In the namespace of the instruction set: otherwise the linker would keep one copy of the template for all sets.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

namespace antiphon {
namespace ANTIPHON_ISA {

// `count` uninitialised numbers, freed at the end of the scope. Throws std::bad_alloc, which Python sees as
// MemoryError, if there is too little memory, even for a `count` that no memory could hold.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count) : Scratch(count, std::nothrow) {
    if (!begin_) throw std::bad_alloc();
  }
  // Null if there is too little memory: for helper threads, see ShortMemory.
  Scratch(int64_t count, std::nothrow_t) {
    const bool fits = count >= 0 && count <= INT64_MAX / static_cast<int64_t>(sizeof(T));
    begin_ = fits ? static_cast<T*>(std::malloc(sizeof(T) * static_cast<size_t>(count > 0 ? count : 1))) : nullptr;
  }
  ~Scratch() { std::free(begin_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  explicit operator bool() const { return begin_; }
  T* get() const { return begin_; }
  T& operator[](int64_t i) const { return begin_[i]; }

 private:
  T* begin_;
};

// Set by any thread whose chunk has too little memory, and thrown by the caller. A helper could throw, but a thread's
// first exception takes memory from the C library, which ends the process if none is left.
class ShortMemory {
 public:
  void set() { __atomic_store_n(&is_set_, true, __ATOMIC_RELAXED); }
  void rethrow() const {
    if (__atomic_load_n(&is_set_, __ATOMIC_RELAXED)) throw std::bad_alloc();
  }

 private:
  bool is_set_ = false;
};

}  // namespace ANTIPHON_ISA
}  // namespace antiphon
